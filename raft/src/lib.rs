//! openraft fitted to Kelson's storage and wire. What leaves this crate is [`node::Node`]; openraft's types do not.

mod agreement;
mod background;
mod campaign;
mod checkpoint;
mod codec;
pub mod environment;
pub mod executor;
pub mod fault;
mod heartbeat;
mod images;
mod leadership;
pub mod life;
mod log_storage;
pub mod meters;
pub mod network;
pub mod node;
pub mod offline;
mod outbox;
mod propose;
mod read_index;
mod runtime;
mod start;
mod state_machine;
mod storage_thread;
#[cfg(feature = "testing")]
pub mod testing;
mod to_leader;
mod type_config;
