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
pub mod quota;
pub mod request_meters;
mod turn;
pub mod watch;

pub use self::context::{Limits, ServiceContext};

/// Bytes that a client message may have beyond `max_request_bytes`. Source: etcd's `grpcOverheadBytes`.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
