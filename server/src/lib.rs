//! The kelson daemon, as a library so that its parts can be tested one by one.

pub mod config;
pub mod convert;
pub mod data_dir;
#[cfg(debug_assertions)]
pub mod fail_points;
pub mod http;
pub mod lease;
pub mod logging;
pub mod notify;
pub mod offline;
pub mod server;
pub mod services;
pub mod signals;
pub mod status;
pub mod tls;
pub mod version;
pub mod watch;
