//! The gRPC services: one file per service, plain async functions from request message to reply message.
//!
//! Handlers know nothing of HTTP or gRPC. [`front`] finds the handler of a path, [`gate`] holds the checks that come
//! before every handler, [`grpc`] reads and writes the messages.

pub mod auth;
pub mod cluster;
mod context;
pub mod election;
pub mod front;
mod gate;
pub mod grpc;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
mod quota;
mod turn;
pub mod watch;

use std::sync::Arc;

use tower::Service;

pub use self::context::{Limits, ServiceContext};
use self::front::Front;

/// Bytes that a client message may have beyond `max_request_bytes`. Source: etcd's `grpcOverheadBytes`.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// All services, for a server that routes requests with axum or tonic. [`Front`] is the same without the router.
pub fn routes(context: ServiceContext) -> tonic::service::Routes {
    let front = AxumFront(Front::new(Arc::new(context)));
    let router = tonic::service::Routes::default().into_axum_router();
    tonic::service::Routes::from(router.fallback_service(front))
}

/// [`Front`] with the body type that axum hands out, which the router cannot infer.
#[derive(Clone)]
struct AxumFront(Front);

impl<B> Service<http::Request<B>> for AxumFront
where
    Front: Service<http::Request<B>>,
{
    type Response = <Front as Service<http::Request<B>>>::Response;
    type Error = <Front as Service<http::Request<B>>>::Error;
    type Future = <Front as Service<http::Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request)
    }
}
