//! Between members: frames over one TCP connection per purpose, so that a large snapshot or a full append pipeline
//! never delays a heartbeat.

pub(crate) mod acknowledged;
pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod incoming;
pub(crate) mod link;
pub(crate) mod server;
pub mod transport;
