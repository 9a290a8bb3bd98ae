//! What the environment decides about a run.

use std::path::PathBuf;

/// Writers of every load.
pub const WRITERS: usize = 64;

/// Members of every cluster.
pub const MEMBERS: usize = 3;

/// A number from the environment.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => otherwise,
    }
}

/// The binary under test.
pub fn kelson() -> PathBuf {
    std::env::var_os("KELSON_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kelson")), PathBuf::from)
}

/// The binary to compare figures with, if there is one.
pub fn etcd() -> Option<PathBuf> {
    std::env::var_os("ETCD").map(PathBuf::from)
}

/// Where data directories are made. Not the system's temporary directory, which may be kept in memory.
pub fn scratch() -> PathBuf {
    std::env::var_os("KELSON_TEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// Whether data and logs of the members stay after the test, to look into a failure.
pub fn keeps_data() -> bool {
    std::env::var_os("KELSON_KEEP_DATA").is_some()
}
