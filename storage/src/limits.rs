//! Every bound of this crate, with its unit and its source.

/// Largest client request, in bytes. Source: etcd `DefaultMaxRequestBytes`.
pub const REQUEST_BYTES_DEFAULT: usize = 1536 * 1024;

/// Most bytes of commands that share one Raft entry. A single larger command gets an entry of its own.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Most commands that share one Raft entry.
pub const BATCH_COMMANDS_MAX: usize = 1024;

/// Largest lease TTL, in seconds. Source: etcd `MaxLeaseTTL`.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// Bytes of one WAL segment, zero-filled once and recycled.
pub const WAL_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Most bytes one WAL write and sync may cover before the queue is looked at again.
pub const WAL_GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of records that the database does not hold yet. Past it apply waits, as nothing of it can be dropped.
pub const UNWRITTEN_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes that a member keeps in memory so as not to read them again, if it is not told otherwise. Less: watchers that are
/// late, slow followers and reads of what was not written lately cost more. More: memory.
pub const CACHE_BYTES_DEFAULT: u64 = 96 * 1024 * 1024;

/// How a member's cache is divided, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBudget {
    /// Pages of the database.
    pub tables: usize,
    /// Newest records.
    pub overlay: usize,
    /// Newest events, for watchers that keep up; who falls further behind reads history. They share the records' bytes.
    pub event_ring: usize,
    /// Newest entries of the log, for followers that keep up.
    pub log: usize,
}

impl CacheBudget {
    /// Divides `bytes`.
    pub fn of(bytes: u64) -> Self {
        let part = |of_twelve: u64| usize::try_from(bytes / 12 * of_twelve).unwrap_or(usize::MAX);
        Self {
            tables: part(4),
            overlay: part(3),
            event_ring: part(2),
            log: part(3),
        }
    }
}

impl Default for CacheBudget {
    fn default() -> Self {
        Self::of(CACHE_BYTES_DEFAULT)
    }
}

/// Rows that one bite of a compaction deletes. Half of etcd's `--compaction-batch-limit`, so that a bite takes a core for less
/// time than a put takes.
pub const COMPACTION_ROWS_PER_BITE: usize = 500;

/// Bites of a compaction that are put off for a long read that still needs what they would delete. Bites come every 4 ms,
/// so this is a minute; a read that takes longer is told that its revision has been compacted.
pub const COMPACTION_DEFERRALS_MAX: u32 = 15_000;

/// Bytes of one frame of a snapshot image.
pub const SNAPSHOT_FRAME_BYTES: usize = 1024 * 1024;
