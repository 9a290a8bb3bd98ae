//! Requests as data: unary calls with their arguments, and calls whose message is made by hand.

use bytes::{Buf, BufMut, Bytes};
use kelson_proto::etcdserverpb::{self as pb, request_op::Request as Op};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::harness::Client;
use crate::txn::txn;

/// One call.
#[derive(Clone, Debug)]
pub enum Call {
    Range(pb::RangeRequest),
    Stream(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64),
    Grant {
        ttl: i64,
        id: i64,
    },
    Revoke(i64),
    TimeToLive(i64),
    /// One keepalive on a stream of its own.
    KeepAlive(i64),
    HashKv(i64),
    MoveLeader(u64),
    Alarm(pb::AlarmRequest),
    Authenticate,
    /// A message as it is, to the unary call at that path.
    Raw(&'static str, Vec<u8>),
}

impl Call {
    /// Makes the call; what a good reply says is dropped, except for an answer that is bad news.
    pub async fn send(self, client: &Client) -> Result<(), Status> {
        match self {
            Call::Range(request) => client.range(request).await.map(drop),
            Call::Stream(request) => stream(client, request).await,
            Call::Put(request) => client.put_request(request).await.map(drop),
            Call::Delete(request) => client.delete_request(request).await.map(drop),
            Call::Txn(request) => client.txn(request).await.map(drop),
            Call::Compact(revision) => client.compact(revision).await.map(drop),
            Call::Grant { ttl, id } => client.grant_request(ttl, id).await.map(drop),
            Call::Revoke(id) => client.revoke(id).await.map(drop),
            Call::TimeToLive(id) => absent(client.time_to_live(id).await?.ttl, -1),
            Call::KeepAlive(id) => keep_alive(client, id).await,
            Call::HashKv(revision) => client.hash_kv(revision).await.map(drop),
            Call::MoveLeader(target_id) => client
                .maintenance()
                .move_leader(pb::MoveLeaderRequest { target_id })
                .await
                .map(drop),
            Call::Alarm(request) => client.maintenance().alarm(request).await.map(drop),
            Call::Authenticate => {
                let request = pb::AuthenticateRequest {
                    name: "root".into(),
                    password: "x".into(),
                };
                pb::auth_client::AuthClient::new(client.channel())
                    .authenticate(request)
                    .await
                    .map(drop)
            }
            Call::Raw(path, message) => send_raw(client, path, message).await,
        }
    }

    /// The call in a form that fits a failing test's message.
    pub fn name(&self) -> String {
        format!("{self:?}").chars().take(200).collect()
    }
}

/// A lease that is not there is no error, but a life that says so.
fn absent(ttl: i64, expected: i64) -> Result<(), Status> {
    if ttl == expected {
        Ok(())
    } else {
        Err(Status::unknown(format!("a life of {ttl}, not {expected}")))
    }
}

async fn stream(client: &Client, request: pb::RangeRequest) -> Result<(), Status> {
    let mut replies = client.kv().range_stream(request).await?.into_inner();
    while replies.message().await?.is_some() {}
    Ok(())
}

/// Asks twice, to see that the stream stays.
async fn keep_alive(client: &Client, id: i64) -> Result<(), Status> {
    let ask = pb::LeaseKeepAliveRequest { id };
    let requests = tokio_stream::iter([ask, ask]);
    let mut replies = client.lease().lease_keep_alive(requests).await?.into_inner();
    for _ in 0..2 {
        let reply = replies.message().await?;
        let reply = reply.ok_or_else(|| Status::unknown("the stream has ended"))?;
        absent(reply.ttl, 0)?;
    }
    Ok(())
}

/// A transaction of one operation.
pub fn of(op: Op) -> Call {
    Call::Txn(txn(vec![], vec![op], vec![]))
}

/// A transaction inside a transaction, and so on.
pub fn nested(depth: usize) -> pb::TxnRequest {
    let mut request = txn(vec![], vec![], vec![]);
    for _ in 0..depth {
        request = txn(vec![], vec![Op::RequestTxn(request)], vec![]);
    }
    request
}

/// As [`nested`], but encoded by hand, innermost first: the generated encoder would run out of stack before the server
/// could.
pub fn nested_message(depth: usize) -> Vec<u8> {
    const SUCCESS: u32 = 2;
    const REQUEST_TXN: u32 = 4;
    let mut message = Vec::new();
    for _ in 0..depth {
        message = field(SUCCESS, field(REQUEST_TXN, message));
    }
    message
}

/// A field that holds a message.
fn field(number: u32, content: Vec<u8>) -> Vec<u8> {
    let mut message = Vec::with_capacity(content.len() + 2 * size_of::<u64>());
    encode_key(number, WireType::LengthDelimited, &mut message);
    encode_varint(content.len() as u64, &mut message);
    message.extend(content);
    message
}

/// Sends `message` as it is to the unary call at `path`.
pub async fn send_raw(client: &Client, path: &'static str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready()
        .await
        .map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(Request::new(Bytes::from(message)), path, RawCodec)
        .await
        .map(drop)
}

/// Messages as bytes, so that a test can send what no generated type would encode.
#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
