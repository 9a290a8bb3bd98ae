//! Cluster: MemberList. Membership changes are not offered yet.

use kelson_proto::etcdserverpb as pb;

use super::ServiceContext;
use crate::convert;
use crate::status::ClientError;

const NOT_OFFERED: &str = "etcdserver: membership changes are not implemented";

/// Lists the members, learners included, by id.
pub async fn member_list(
    context: &ServiceContext,
    request: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, ClientError> {
    if request.linearizable {
        context.node.read_index().await?;
    }
    Ok(pb::MemberListResponse {
        header: Some(context.header_without_revision()),
        members: convert::members(context.reader().members()),
    })
}

/// Not offered.
pub async fn member_add(
    _: &ServiceContext,
    _: pb::MemberAddRequest,
) -> Result<pb::MemberAddResponse, ClientError> {
    Err(ClientError::unimplemented(NOT_OFFERED))
}

/// Not offered.
pub async fn member_remove(
    _: &ServiceContext,
    _: pb::MemberRemoveRequest,
) -> Result<pb::MemberRemoveResponse, ClientError> {
    Err(ClientError::unimplemented(NOT_OFFERED))
}

/// Not offered.
pub async fn member_update(
    _: &ServiceContext,
    _: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, ClientError> {
    Err(ClientError::unimplemented(NOT_OFFERED))
}

/// Not offered.
pub async fn member_promote(
    _: &ServiceContext,
    _: pb::MemberPromoteRequest,
) -> Result<pb::MemberPromoteResponse, ClientError> {
    Err(ClientError::unimplemented(NOT_OFFERED))
}
