//! gRPC over HTTP/2 bodies, as thin as it can be: one decode, one encode, no task and no timer per call.
//!
//! Messages come in as slices of the frames that carried them ([`inbound`]) and leave as one buffer
//! ([`outbound`]). Compression is not offered.

pub mod inbound;
pub mod meter;
pub mod outbound;

/// Bytes before each message: one flag, four of length.
const PREFIX_BYTES: usize = 5;
