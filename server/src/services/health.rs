//! grpc.health.v1: the server as a whole (the empty name) serves from its start; nothing else is registered.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kelson_proto::health::health_check_response::ServingStatus;
use kelson_proto::health::{HealthCheckRequest, HealthCheckResponse};

use super::ServiceContext;
use crate::status::ClientError;

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

/// Whether the named service serves.
pub async fn check(
    _: &ServiceContext,
    request: HealthCheckRequest,
) -> Result<HealthCheckResponse, ClientError> {
    if request.service.is_empty() {
        Ok(reply(ServingStatus::Serving))
    } else {
        Err(ClientError::UnknownService)
    }
}

/// The same, now and on every change. There are none, so the stream says one thing and stays open.
pub async fn watch(
    _: Arc<ServiceContext>,
    request: HealthCheckRequest,
) -> Result<BoxStream<'static, Result<HealthCheckResponse, ClientError>>, ClientError> {
    let status = if request.service.is_empty() {
        ServingStatus::Serving
    } else {
        ServingStatus::ServiceUnknown
    };
    let first = stream::iter([Ok(reply(status))]);
    Ok(first.chain(stream::pending()).boxed())
}
