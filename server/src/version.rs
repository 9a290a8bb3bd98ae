//! The versions this server reports. Clients read them as etcd versions and switch features by them.

/// The etcd release whose API this server speaks, as `Status.version` and `/version` report it.
pub const SERVER_VERSION: &str = "3.7.1";

/// The version that a cluster of such servers agrees on.
pub const CLUSTER_VERSION: &str = "3.7.0";

/// The storage version reported to clients.
pub const STORAGE_VERSION: &str = "3.7.0";

/// Kelson's own version.
pub const KELSON_VERSION: &str = env!("CARGO_PKG_VERSION");
