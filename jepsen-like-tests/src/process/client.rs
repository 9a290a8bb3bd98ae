//! A client that is recorded: one call, one attempt, one outcome.
//!
//! It connects before it calls, so a call is only ever recorded once there was somebody to send it to. It never retries,
//! and it does not guess: whatever it cannot prove is unknown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kelson_proto::etcdserverpb as pb;
use pb::{kv_client::KvClient, lease_client::LeaseClient};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response as Reply, Status};

use super::recorder::Recorder;
use crate::history::{Blob, Compact, DeleteRange, Outcome, Put, Range, Request, Response, Txn, convert};

/// Longest that most clients wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest that patient ones do: servers give a request up before, and say so.
const PATIENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// Longest that it waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Rest after anything but success.
const REST: Duration = Duration::from_millis(30);

/// Largest reply that is taken.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// See the module.
#[derive(Debug)]
pub struct Client {
    /// Its number in the history.
    pub id: u32,
    /// Everything it decides by chance.
    pub rng: StdRng,
    recorder: Arc<Recorder>,
    endpoints: Vec<SocketAddr>,
    channels: Vec<Option<Channel>>,
    patience: Duration,
    /// The one member it talks to; none: all, in turn.
    pinned: Option<usize>,
    turn: usize,
    values: u64,
}

impl Client {
    /// A client of the members at `endpoints`; with `pinned`, of that one only.
    #[must_use]
    pub fn new(
        id: u32,
        seed: u64,
        recorder: Arc<Recorder>,
        endpoints: Vec<SocketAddr>,
        pinned: Option<usize>,
    ) -> Client {
        let channels = endpoints.iter().map(|_| None).collect();
        Client {
            id,
            rng: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(u64::from(id))),
            recorder,
            endpoints,
            channels,
            patience: ANSWER_TIMEOUT,
            pinned,
            turn: usize::try_from(id).unwrap_or(0),
            values: 0,
        }
    }

    /// The same, but waiting long enough to hear that its request was given up.
    #[must_use]
    pub fn patient(self) -> Client {
        Client {
            patience: PATIENT_ANSWER_TIMEOUT,
            ..self
        }
    }

    /// A value that nobody else writes, nor this client twice.
    pub fn value(&mut self) -> Blob {
        self.values += 1;
        format!("{}.{}", self.id, self.values).into()
    }

    /// One attempt of `request`, at the pinned member or the next one. None if that was not possible: nothing was sent.
    /// Returns the answer if there was a good one.
    pub async fn call(&mut self, request: impl Into<Request>) -> Option<Response> {
        let member = self.pinned.unwrap_or_else(|| {
            self.turn += 1;
            self.turn % self.endpoints.len()
        });
        self.call_at(member, request.into()).await
    }

    /// [`Client::call`] at a certain member.
    pub async fn call_at(&mut self, member: usize, request: Request) -> Option<Response> {
        let Some(channel) = self.channel(member).await else {
            tokio::time::sleep(REST).await;
            return None;
        };
        let id = self.recorder.call(self.id, member, request.clone());
        let outcome = match tokio::time::timeout(self.patience, send(channel, &request)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown {
                code: -1,
                text: "no answer within the client's patience".to_owned(),
            },
        };
        self.recorder.returned(id, outcome.clone());
        match outcome {
            Outcome::Ok(response) => Some(response),
            Outcome::Failed { .. } => None,
            Outcome::Unknown { .. } => {
                // Whatever the connection still carries, nobody will read it.
                self.channels[member] = None;
                tokio::time::sleep(REST).await;
                None
            }
        }
    }

    async fn channel(&mut self, member: usize) -> Option<Channel> {
        if self.channels[member].is_none() {
            self.channels[member] = connect(self.endpoints[member]).await;
        }
        self.channels[member].clone()
    }

    /// One key's pair, linearizable.
    pub async fn get(&mut self, key: &str) -> Option<crate::history::RangeResponse> {
        let range = Range {
            key: key.into(),
            ..Range::default()
        };
        self.range(range).await
    }

    /// A range.
    pub async fn range(&mut self, range: Range) -> Option<crate::history::RangeResponse> {
        match self.call(Request::Range(range)).await? {
            Response::Range(response) => Some(response),
            _ => None,
        }
    }

    /// A put.
    pub async fn put(&mut self, key: &str, value: Blob) -> Option<i64> {
        let put = Put {
            key: key.into(),
            value,
            ..Put::default()
        };
        let response = self.call(Request::Put(put)).await?;
        Some(response.header().revision)
    }

    /// A transaction.
    pub async fn txn(&mut self, txn: Txn) -> Option<crate::history::TxnResponse> {
        match self.call(Request::Txn(txn)).await? {
            Response::Txn(response) => Some(response),
            _ => None,
        }
    }

    /// A delete of one key.
    pub async fn delete(&mut self, key: &str) -> Option<i64> {
        let delete = DeleteRange {
            key: key.into(),
            prev_kv: self.rng.random_bool(0.5),
            ..DeleteRange::default()
        };
        let response = self.call(Request::DeleteRange(delete)).await?;
        Some(response.header().revision)
    }

    /// A compaction.
    pub async fn compact(&mut self, revision: i64) -> bool {
        let physical = self.rng.random_bool(0.2);
        self.call(Request::Compact(Compact { revision, physical }))
            .await
            .is_some()
    }
}

/// A connection to `endpoint`; none if nobody answers soon.
pub async fn connect(endpoint: SocketAddr) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .ok()?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect())
        .await
        .ok()?
        .ok()
}

/// Sends a request and sorts what comes back.
async fn send(channel: Channel, request: &Request) -> Outcome {
    let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX);
    let mut lease = LeaseClient::new(channel);
    match request {
        Request::Range(range) => {
            let reply = kv.range(pb::RangeRequest::from(range)).await;
            convert::outcome(plain(reply), |reply| convert::range(reply).map(Response::Range))
        }
        Request::Put(put) => {
            let reply = kv.put(pb::PutRequest::from(put)).await;
            convert::outcome(plain(reply), |reply| convert::put(reply).map(Response::Put))
        }
        Request::DeleteRange(delete) => {
            let reply = kv.delete_range(pb::DeleteRangeRequest::from(delete)).await;
            convert::outcome(plain(reply), |reply| {
                convert::delete_range(reply).map(Response::DeleteRange)
            })
        }
        Request::Txn(txn) => {
            let reply = kv.txn(pb::TxnRequest::from(txn)).await;
            convert::outcome(plain(reply), |reply| convert::txn(reply).map(Response::Txn))
        }
        Request::Compact(compact) => {
            let reply = kv.compact(pb::CompactionRequest::from(compact)).await;
            convert::outcome(plain(reply), |reply| {
                Ok(Response::Compact(convert::compact(reply)))
            })
        }
        Request::LeaseGrant(grant) => {
            let reply = lease.lease_grant(pb::LeaseGrantRequest::from(grant)).await;
            convert::outcome(plain(reply), |reply| {
                Ok(Response::LeaseGrant(convert::lease_grant(reply)))
            })
        }
        Request::LeaseRevoke(id) => {
            let reply = lease.lease_revoke(pb::LeaseRevokeRequest::from(id)).await;
            convert::outcome(plain(reply), |reply| {
                Ok(Response::LeaseRevoke(convert::lease_revoke(reply)))
            })
        }
        Request::LeaseKeepAlive(id) => {
            let reply = keep_alive(&mut lease, id.into()).await;
            convert::outcome(reply, |reply| {
                Ok(Response::LeaseKeepAlive(convert::lease_keep_alive(reply)))
            })
        }
        Request::LeaseTimeToLive(id) => {
            let reply = lease
                .lease_time_to_live(pb::LeaseTimeToLiveRequest::from(id))
                .await;
            convert::outcome(plain(reply), |reply| {
                Ok(Response::LeaseTimeToLive(convert::lease_time_to_live(reply)))
            })
        }
        Request::Admin(_) => unreachable!("clients leave administration to the nemesis"),
    }
}

fn plain<T>(reply: Result<Reply<T>, Status>) -> Result<T, Status> {
    reply.map(Reply::into_inner)
}

/// One message of a keepalive stream, and the answer to it.
async fn keep_alive(
    lease: &mut LeaseClient<Channel>,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    // A stream that ends is answered with its end: it must stay open until the answer is here.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut replies = lease.lease_keep_alive(requests).await?.into_inner();
    match replies.message().await? {
        Some(reply) => Ok(reply),
        None => Err(Status::unknown("the stream ended without an answer")),
    }
}
