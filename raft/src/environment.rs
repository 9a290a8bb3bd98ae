//! [`Environment`]: the world a node lives in. The real one, unless a simulation brings its own.

use std::sync::Arc;
use std::time::Duration;

use kelson_storage::disk::Disk;
use kelson_storage::limits::WAL_SEGMENT_BYTES;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;

use crate::executor::Executor;
use crate::network::transport::{TcpTransport, Transport};
use crate::node::NodeConfig;

/// Everything that comes from outside of a node. The clock is tokio's, which a simulation pauses.
#[derive(Clone)]
pub struct Environment {
    /// Where the data is.
    pub disk: Arc<dyn Disk>,
    /// The way to the peers.
    pub transport: Arc<dyn Transport>,
    /// Where tasks and threads run.
    pub executor: Executor,
    /// Hears of each entry, if anybody wants to.
    pub observer: Option<Arc<dyn Observer>>,
    /// Bytes of one segment of the log. Small ones let a simulation use many of them.
    pub wal_segment_bytes: u64,
    /// When the index is written to a file, so that the next start need not read every row.
    pub index_files: IndexFilePolicy,
}

/// When index files are written. Small values let a simulation write many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexFilePolicy {
    /// Rows of the database below which a start is quick without: a row takes it 2 to 3 us.
    pub from_rows: u64,
    /// Shortest time from the start, or the last one, to the next; a sixth of it while very much is written. Longer: more rows
    /// to read at the start after a crash. Shorter: the file, some 40 bytes a key, is written more often.
    pub every: Duration,
}

impl Default for IndexFilePolicy {
    fn default() -> Self {
        Self {
            from_rows: 20_000,
            every: Duration::from_secs(60),
        }
    }
}

/// Hears what a member does, to check it from outside. Called on the applying task; must not block.
pub trait Observer: Send + Sync + 'static {
    /// The entry at `at` has been applied, and this is the store's rolling hash now.
    fn applied(&self, at: LogPosition, rolling_hash: u64);
}

impl Environment {
    /// The disk, the network and the threads of this machine.
    pub fn real(config: &NodeConfig) -> Self {
        let disk = if config.unsafe_no_fsync {
            RealDisk::without_sync()
        } else {
            RealDisk::new()
        };
        Self {
            disk: Arc::new(disk),
            transport: Arc::new(TcpTransport),
            executor: Executor::default(),
            observer: None,
            wal_segment_bytes: WAL_SEGMENT_BYTES,
            index_files: IndexFilePolicy::default(),
        }
    }
}
