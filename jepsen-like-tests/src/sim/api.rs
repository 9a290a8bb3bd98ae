//! What clients ask of a member: the handlers behind gRPC, called without it, and their answers as histories have them.

use std::sync::Arc;

use futures::StreamExt;
use kelson_proto::etcdserverpb as pb;
use kelson_server::services::{ServiceContext, kv, lease};
use kelson_server::status::ClientError;
use prost::DecodeError;
use tonic::{Code, Status};

use crate::history::{Outcome, Request, Response, convert};

/// Asks `context`'s services and waits for the answer.
pub async fn answer(context: &Arc<ServiceContext>, request: &Request) -> Outcome {
    match request {
        Request::Range(range) => outcome(kv::range(context, range.into()).await, |reply| {
            convert::range(reply).map(Response::Range)
        }),
        Request::Put(put) => outcome(kv::put(context, put.into()).await, |reply| {
            convert::put(reply).map(Response::Put)
        }),
        Request::DeleteRange(delete) => outcome(kv::delete_range(context, delete.into()).await, |reply| {
            convert::delete_range(reply).map(Response::DeleteRange)
        }),
        Request::Txn(txn) => outcome(kv::txn(context, txn.into()).await, |reply| {
            convert::txn(reply).map(Response::Txn)
        }),
        Request::Compact(compact) => outcome(kv::compact(context, compact.into()).await, |reply| {
            Ok(Response::Compact(convert::compact(reply)))
        }),
        Request::LeaseGrant(grant) => outcome(lease::grant(context, grant.into()).await, |reply| {
            Ok(Response::LeaseGrant(convert::lease_grant(reply)))
        }),
        Request::LeaseRevoke(id) => outcome(lease::revoke(context, id.into()).await, |reply| {
            Ok(Response::LeaseRevoke(convert::lease_revoke(reply)))
        }),
        Request::LeaseKeepAlive(id) => outcome(keep_alive(context, id.into()).await, |reply| {
            Ok(Response::LeaseKeepAlive(convert::lease_keep_alive(reply)))
        }),
        Request::LeaseTimeToLive(id) => outcome(lease::time_to_live(context, id.into()).await, |reply| {
            Ok(Response::LeaseTimeToLive(convert::lease_time_to_live(reply)))
        }),
        Request::Admin(_) => unknown("clients of the simulation administer nothing"),
    }
}

/// One message on a keepalive stream of its own.
async fn keep_alive(
    context: &Arc<ServiceContext>,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, ClientError> {
    let requests = futures::stream::iter([Ok(request)]);
    let mut replies = lease::keep_alive(context.clone(), requests);
    replies.next().await.unwrap_or(Err(ClientError::Stopped))
}

fn outcome<T>(
    result: Result<T, ClientError>,
    response: impl FnOnce(T) -> Result<Response, DecodeError>,
) -> Outcome {
    convert::outcome(result.map_err(|error| status(&error)), response)
}

/// The error as gRPC carries it.
fn status(error: &ClientError) -> Status {
    Status::new(Code::from_i32(error.code() as i32), error.text())
}

/// The outcome when nobody knows.
pub fn unknown(text: &str) -> Outcome {
    Outcome::Unknown {
        code: -1,
        text: text.to_owned(),
    }
}
