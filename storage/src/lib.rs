//! Kelson's replicated state and how it is kept: commands, the store, the index, the tables and the Raft log file.
//!
//! Everything here is synchronous and deterministic. It knows no runtime, no clock, no chance, no network,
//! no openraft and no protobuf service; the bytes of `mvccpb.KeyValue` are the one wire format it writes,
//! because a stored record, a reply and an event are the same bytes.

pub mod applied;
pub mod codec;
pub mod command;
pub mod crc32c;
pub mod disk;
pub mod error;
pub mod event_ring;
pub mod fail_point;
pub mod key_value;
pub mod lease;
pub mod limits;
pub mod mutant;
pub mod mvcc;
pub mod reached;
pub mod read_only_disk;
pub mod real_disk;
pub mod revision;
pub mod snapshot;
pub mod store;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod txn;
pub mod wal;
