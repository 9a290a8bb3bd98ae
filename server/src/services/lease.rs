//! Lease: LeaseGrant, LeaseRevoke, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kelson_proto::etcdserverpb as pb;
use kelson_storage::applied::Applied;
use kelson_storage::command::Command;
use kelson_storage::limits::LEASE_TTL_SECONDS_MAX;

use super::{ServiceContext, quota};
use crate::convert;
use crate::lease::minimum_ttl;
use crate::status::ClientError;

/// Keepalives of one stream that are under way at once. Replies keep the order of the requests.
const KEEP_ALIVES_IN_FLIGHT: usize = 64;

/// Creates a lease.
pub async fn grant(
    context: &ServiceContext,
    request: pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, ClientError> {
    quota::admit(context, quota::LEASE_COST_BYTES).await?;
    if request.ttl > LEASE_TTL_SECONDS_MAX {
        return Err(ClientError::LeaseTtlTooLarge);
    }
    let ttl = request.ttl.max(minimum_ttl(context.node.election_timeout()));
    if request.id != 0 {
        return grant_as(context, request.id, ttl).await;
    }
    loop {
        match grant_as(context, context.new_lease_id(), ttl).await {
            // Another member drew the same number at the same time.
            Err(ClientError::LeaseExist) => {}
            granted => return granted,
        }
    }
}

async fn grant_as(
    context: &ServiceContext,
    id: i64,
    ttl: i64,
) -> Result<pb::LeaseGrantResponse, ClientError> {
    match context.propose(Command::LeaseGrant { id, ttl }).await? {
        (header, Applied::LeaseGrant { id, ttl }) => Ok(pb::LeaseGrantResponse {
            header: Some(header),
            id,
            ttl,
            error: String::new(),
        }),
        (_, other) => Err(convert::unexpected(&other)),
    }
}

/// Ends a lease and deletes its keys.
pub async fn revoke(
    context: &ServiceContext,
    request: pb::LeaseRevokeRequest,
) -> Result<pb::LeaseRevokeResponse, ClientError> {
    let revoke = Command::LeaseRevoke {
        id: request.id,
        expiry_term: None,
    };
    match context.propose(revoke).await? {
        (header, Applied::LeaseRevoke) => Ok(pb::LeaseRevokeResponse { header: Some(header) }),
        (_, other) => Err(convert::unexpected(&other)),
    }
}

/// Renews leases: one reply per request, in order, until the client closes its side. A lease that is gone is
/// answered with TTL 0; any other failure ends the stream.
pub fn keep_alive(
    context: Arc<ServiceContext>,
    requests: impl Stream<Item = Result<pb::LeaseKeepAliveRequest, ClientError>> + Send + 'static,
) -> BoxStream<'static, Result<pb::LeaseKeepAliveResponse, ClientError>> {
    let renew = move |request: Result<pb::LeaseKeepAliveRequest, ClientError>| {
        let context = context.clone();
        async move {
            let id = request?.id;
            // Taken before the renewal, so that its revision is no later than that point.
            let header = context.header_now();
            let answer = context.leases.keep_alive(id).await?;
            Ok(pb::LeaseKeepAliveResponse {
                header: Some(header),
                id,
                ttl: answer.ttl,
            })
        }
    };
    requests.map(renew).buffered(KEEP_ALIVES_IN_FLIGHT).boxed()
}

/// Tells how long a lease has left. An unknown one has -1.
pub async fn time_to_live(
    context: &ServiceContext,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, ClientError> {
    let answer = context.leases.time_to_live(request.id, request.keys).await?;
    Ok(pb::LeaseTimeToLiveResponse {
        header: Some(context.header_now()),
        id: request.id,
        ttl: answer.ttl_left,
        granted_ttl: answer.granted_ttl,
        keys: answer.keys,
    })
}

/// Lists the leases this member knows.
pub async fn leases(
    context: &ServiceContext,
    _: pb::LeaseLeasesRequest,
) -> Result<pb::LeaseLeasesResponse, ClientError> {
    let ids = context.leases.leases_ordered();
    Ok(pb::LeaseLeasesResponse {
        header: Some(context.header_now()),
        leases: ids.into_iter().map(|id| pb::LeaseStatus { id }).collect(),
    })
}
