//! [`Front`]: from an HTTP/2 request to its handler and back.
//!
//! Put, Range and Txn, which are most of all calls, are looked for first and held inline; the rest share one boxed
//! future. A client that resets its stream drops the future of the call and all work in it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::body::Body;
use kelson_proto::etcdserverpb::{RangeRequest, TxnRequest};
use prost::Message;
use tokio::time::Instant;
use tower::Service;

use super::gate::{self, Learner};
use super::grpc::inbound::{Messages, check_encoding};
use super::grpc::outbound::{ReplyBody, encode, failure, long_reply, reply, stream_reply};
use super::kv::RangeReply;
use super::{ServiceContext, auth, cluster, election, health, kv, lease, lock, maintenance, watch};
use crate::status::ClientError;

/// A service for one connection or for all; clones share everything.
#[derive(Clone)]
pub struct Front {
    context: Arc<ServiceContext>,
}

impl Front {
    /// A front over the handlers of `context`.
    pub fn new(context: Arc<ServiceContext>) -> Self {
        Self { context }
    }
}

impl<B> Service<http::Request<B>> for Front
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Response = http::Response<ReplyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let context = self.context.clone();
        Box::pin(async move { Ok(answer(context, request).await) })
    }
}

/// One call on its way to its handler.
struct Call<B> {
    context: Arc<ServiceContext>,
    headers: HeaderMap,
    messages: Messages<B>,
}

type Answer = Result<http::Response<ReplyBody>, ClientError>;

async fn answer<B>(context: Arc<ServiceContext>, request: http::Request<B>) -> http::Response<ReplyBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !is_grpc(&parts.headers) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let meter = context.grpc.begin(parts.uri.path(), &parts.headers);
    let tally = meter.as_ref().map(|meter| meter.tally().clone());
    let call = Call {
        messages: Messages::new(body, context.receive_limit_bytes(), tally),
        context,
        headers: parts.headers,
    };
    let began = Instant::now();
    let expected = call.context.limits.warning_unary_request_duration;
    let answer = dispatch(parts.uri.path(), call).await;
    let took = began.elapsed();
    // Streams have only been opened here, whatever they do later.
    if took > expected {
        tracing::warn!(
            "time spent" = ?took,
            "expected duration" = ?expected,
            "response type" = parts.uri.path(),
            error = answer.as_ref().err().map(tracing::field::display),
            "request stats"
        );
    }
    match answer {
        Ok(response) => response.map(|body| body.metered(meter)),
        Err(error) => {
            if let Some(meter) = meter {
                meter.end(Some(error.code()));
            }
            failure(&error)
        }
    }
}

/// Unary: reads the request, asks at the gate, calls the handler, encodes the reply.
macro_rules! unary {
    ($call:ident, $handler:path) => {
        unary!($call, $handler, |_| Learner::Refuses)
    };
    ($call:ident, $handler:path, $learner:expr) => {{
        let request = $call.messages.single().await?;
        gate::admit(&$call.context, &$call.headers, learner_rule(&request, $learner))?;
        encode($handler(&$call.context, request).await?).await.map(reply)
    }};
}

/// Server stream: as unary, and the handler answers with a stream.
macro_rules! server_stream {
    ($call:ident, $handler:path) => {{
        gate::admit(&$call.context, &$call.headers, Learner::Refuses)?;
        let request = $call.messages.single().await?;
        let replies = $handler($call.context.clone(), request).await?;
        Ok(stream_reply(gate::guard_stream(
            &$call.context,
            &$call.headers,
            replies,
        )))
    }};
}

/// Both sides stream.
macro_rules! both_stream {
    ($call:ident, $handler:path) => {{
        gate::admit(&$call.context, &$call.headers, Learner::Refuses)?;
        let replies = $handler($call.context.clone(), $call.messages.decoded());
        Ok(stream_reply(gate::guard_stream(
            &$call.context,
            &$call.headers,
            replies,
        )))
    }};
}

async fn dispatch<B>(path: &str, mut call: Call<B>) -> Answer
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    check_encoding(&call.headers)?;
    match path {
        "/etcdserverpb.KV/Put" => unary!(call, kv::put),
        "/etcdserverpb.KV/Range" => {
            let request: RangeRequest = call.messages.single().await?;
            gate::admit(&call.context, &call.headers, request.serializable.into())?;
            match kv::range_call(&call.context, request).await? {
                RangeReply::Whole(response) => encode(response).await.map(reply),
                RangeReply::Long(long) => long_reply(long.length, long.pieces),
            }
        }
        "/etcdserverpb.KV/Txn" => {
            let request = read_txn(&mut call).await?;
            gate::admit(&call.context, &call.headers, Learner::Refuses)?;
            encode(kv::txn(&call.context, request).await?).await.map(reply)
        }
        _ => Box::pin(dispatch_rarer(path, call)).await,
    }
}

async fn dispatch_rarer<B>(path: &str, mut call: Call<B>) -> Answer
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    match path {
        "/etcdserverpb.KV/DeleteRange" => unary!(call, kv::delete_range),
        "/etcdserverpb.KV/Compact" => unary!(call, kv::compact),
        "/etcdserverpb.KV/RangeStream" => server_stream!(call, kv::range_stream),

        "/etcdserverpb.Watch/Watch" => both_stream!(call, watch::watch),

        "/etcdserverpb.Lease/LeaseGrant" => unary!(call, lease::grant),
        "/etcdserverpb.Lease/LeaseRevoke" => unary!(call, lease::revoke),
        "/etcdserverpb.Lease/LeaseKeepAlive" => both_stream!(call, lease::keep_alive),
        "/etcdserverpb.Lease/LeaseTimeToLive" => unary!(call, lease::time_to_live),
        "/etcdserverpb.Lease/LeaseLeases" => unary!(call, lease::leases),

        "/etcdserverpb.Cluster/MemberList" => unary!(call, cluster::member_list),
        "/etcdserverpb.Cluster/MemberAdd" => unary!(call, cluster::member_add),
        "/etcdserverpb.Cluster/MemberRemove" => unary!(call, cluster::member_remove),
        "/etcdserverpb.Cluster/MemberUpdate" => unary!(call, cluster::member_update),
        "/etcdserverpb.Cluster/MemberPromote" => unary!(call, cluster::member_promote),

        "/etcdserverpb.Maintenance/Status" => {
            unary!(call, maintenance::status, |_| Learner::Answers)
        }
        "/etcdserverpb.Maintenance/Alarm" => unary!(call, maintenance::alarm),
        "/etcdserverpb.Maintenance/Defragment" => unary!(call, maintenance::defragment),
        "/etcdserverpb.Maintenance/Hash" => unary!(call, maintenance::hash),
        "/etcdserverpb.Maintenance/HashKV" => unary!(call, maintenance::hash_kv),
        "/etcdserverpb.Maintenance/MoveLeader" => unary!(call, maintenance::move_leader),
        "/etcdserverpb.Maintenance/Snapshot" => Err(ClientError::unimplemented(
            "etcdserver: snapshots over the client API are not implemented",
        )),
        "/etcdserverpb.Maintenance/Downgrade" => unary!(call, maintenance::downgrade),

        "/etcdserverpb.Auth/AuthStatus" => unary!(call, auth::status),
        "/etcdserverpb.Auth/Authenticate" => unary!(call, auth::authenticate),

        "/v3lockpb.Lock/Lock" => unary!(call, lock::lock),
        "/v3lockpb.Lock/Unlock" => unary!(call, lock::unlock),

        "/v3electionpb.Election/Campaign" => unary!(call, election::campaign),
        "/v3electionpb.Election/Proclaim" => unary!(call, election::proclaim),
        "/v3electionpb.Election/Leader" => unary!(call, election::leader),
        "/v3electionpb.Election/Observe" => server_stream!(call, election::observe),
        "/v3electionpb.Election/Resign" => unary!(call, election::resign),

        "/grpc.health.v1.Health/Check" => unary!(call, health::check),
        "/grpc.health.v1.Health/Watch" => server_stream!(call, health::watch),

        _ => Err(unknown_path(path)),
    }
}

fn learner_rule<M>(request: &M, rule: impl FnOnce(&M) -> Learner) -> Learner {
    rule(request)
}

/// A transaction, which is the one message that may hold itself. The protobuf decoder gives up on what is nested
/// deeper than 51 transactions: that is well-formed input, so it is answered as what it is.
async fn read_txn<B>(call: &mut Call<B>) -> Result<TxnRequest, ClientError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let wire = call.messages.single_encoded().await?;
    TxnRequest::decode(wire.clone()).map_err(|_| kv::explain_undecodable_txn(&wire))
}

fn unknown_path(path: &str) -> ClientError {
    if auth::is_method(path) {
        return auth::not_offered();
    }
    let mut parts = path.trim_start_matches('/').rsplitn(2, '/');
    let (method, service) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let text = format!("unknown method {method} for service {service}");
    ClientError::other(crate::status::Code::Unimplemented, text)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// For what is no gRPC request at all.
fn plain(status: StatusCode) -> http::Response<ReplyBody> {
    let mut response = http::Response::new(ReplyBody::empty());
    *response.status_mut() = status;
    response
}
