//! Auth: not offered yet, and says so. AuthStatus and Authenticate answer as an etcd does that has it switched off,
//! because clients ask them at start.

use kelson_proto::etcdserverpb as pb;

use super::ServiceContext;
use crate::status::ClientError;

/// The auth revision of a cluster whose users and roles were never changed. Source: API specification 10.3.
const FIRST_AUTH_REVISION: u64 = 1;

/// The methods of the service that are not offered.
const NOT_OFFERED: [&str; 15] = [
    "AuthEnable",
    "AuthDisable",
    "UserAdd",
    "UserGet",
    "UserList",
    "UserDelete",
    "UserChangePassword",
    "UserGrantRole",
    "UserRevokeRole",
    "RoleAdd",
    "RoleGet",
    "RoleList",
    "RoleDelete",
    "RoleGrantPermission",
    "RoleRevokePermission",
];

/// Whether `path` is one of the service's methods that are not offered.
pub fn is_method(path: &str) -> bool {
    path.strip_prefix("/etcdserverpb.Auth/")
        .is_some_and(|method| NOT_OFFERED.contains(&method))
}

/// The answer of those.
pub fn not_offered() -> ClientError {
    ClientError::unimplemented("etcdserver: authentication is not implemented")
}

/// Says that authentication is off.
pub async fn status(
    context: &ServiceContext,
    _: pb::AuthStatusRequest,
) -> Result<pb::AuthStatusResponse, ClientError> {
    Ok(pb::AuthStatusResponse {
        header: Some(context.header_now()),
        enabled: false,
        auth_revision: FIRST_AUTH_REVISION,
    })
}

/// Refuses with the error that Go clients with a password expect from a cluster without authentication.
pub async fn authenticate(
    _: &ServiceContext,
    _: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, ClientError> {
    Err(ClientError::AuthNotEnabled)
}
