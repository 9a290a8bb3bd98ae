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

/// Bytes of records held in memory beyond what the database has already, as a cache for readers and watchers.
pub const OVERLAY_BYTES_DEFAULT: usize = 128 * 1024 * 1024;

/// Bytes of events held for watchers that keep up; who falls further behind reads history.
pub const EVENT_RING_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

/// Rows that one bite of a compaction deletes. Source: etcd `--compaction-batch-limit`.
pub const COMPACTION_ROWS_PER_BITE: usize = 1000;

/// Bytes of one frame of a snapshot image.
pub const SNAPSHOT_FRAME_BYTES: usize = 1024 * 1024;

/// Bytes of database pages held in memory. Less: more reads of old history go to the kernel's cache and are checked
/// again. More: memory that the overlay and the index could use.
pub const TABLES_CACHE_BYTES: usize = 128 * 1024 * 1024;
