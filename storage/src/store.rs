//! [`Store`]: the replicated state machine. `apply` is its only writer; [`StoreReader`]s and [`ReadView`]s share its
//! state without ever making it wait.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::applied::{EventBatch, Outcome, RangeResult};
use crate::command::{AlarmKind, CommandId, Range};
use crate::disk::Disk;
use crate::error::{Fault, Rejected};
use crate::event_ring::EventRing;
use crate::revision::{LogPosition, Revision};

/// What the store must know at start.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The database file.
    pub database: PathBuf,
    /// Records kept in memory beyond the database, in bytes.
    pub overlay_bytes: usize,
    /// Events kept for watchers that keep up, in bytes.
    pub event_ring_bytes: usize,
}

/// One member as the cluster knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Member id, never 0.
    pub id: u64,
    /// Empty until the member has published itself.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until published.
    pub client_urls: Vec<String>,
    /// Whether it does not count for the quorum.
    pub is_learner: bool,
}

/// Who wants to know what apply did. Called in log order, on the applying thread; must not block.
pub trait ApplySink {
    /// The outcome of one command.
    fn outcome(&mut self, id: CommandId, outcome: Outcome);
    /// A lease was granted (its full TTL starts now).
    fn lease_granted(&mut self, id: i64, ttl: i64);
    /// A lease is gone.
    fn lease_revoked(&mut self, id: i64);
}

/// Sizes of the database, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseSize {
    /// Pages allocated (etcd's `dbSize`; never 0).
    pub allocated: u64,
    /// Bytes in use inside them (etcd's `dbSizeInUse`), at most `allocated`.
    pub in_use: u64,
}

/// etcd's HashKV answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C as etcd computes it (API specification 8.4).
    pub hash: u32,
    /// -1 before the first compaction.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: u64,
    /// The store's revision.
    pub revision: u64,
}

/// Why a read gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// An answer for the client.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// This member's failure.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A stretch of history, for a watcher that is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryBite {
    /// Whole revisions, in order.
    pub batches: Vec<EventBatch>,
    /// Where to go on reading.
    pub next: u64,
}

/// The writer's half.
pub struct Store {
    _private: (),
}

impl Store {
    /// Opens the checkpoint, or makes an empty one, and rebuilds the index.
    pub fn open(_disk: Arc<dyn Disk>, _options: StoreOptions) -> Result<Self, Fault> {
        todo!()
    }
    /// Where apply stands; none before the first entry.
    pub fn applied(&self) -> Option<LogPosition> {
        todo!()
    }
    /// The membership of the newest membership entry applied, as the raft crate encoded it, and its position.
    pub fn membership(&self) -> Option<(Option<LogPosition>, Bytes)> {
        todo!()
    }
    /// Applies one committed entry that holds a batch of proposals, encoded by `codec::encode_batch`.
    pub fn apply_batch(
        &mut self,
        _at: LogPosition,
        _batch: &Bytes,
        _sink: &mut dyn ApplySink,
    ) -> Result<(), Fault> {
        todo!()
    }
    /// Applies an entry that holds nothing.
    pub fn apply_blank(&mut self, _at: LogPosition) -> Result<(), Fault> {
        todo!()
    }
    /// Applies a membership entry. `members` carry id, peer URLs and the learner flag; names and client URLs are kept.
    pub fn apply_membership(
        &mut self,
        _at: LogPosition,
        _encoded: Bytes,
        _members: Vec<MemberRecord>,
    ) -> Result<(), Fault> {
        todo!()
    }
    /// A handle for readers.
    pub fn reader(&self) -> StoreReader {
        todo!()
    }
    /// A handle for the storage thread.
    pub fn checkpointer(&self) -> Checkpointer {
        todo!()
    }
}

/// The storage thread's half: takes what apply left and writes it to the database. One thread owns it.
pub struct Checkpointer {
    _private: (),
}

/// What one write-behind step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStep {
    /// The position that is durable now, if this step made one durable.
    pub durable: Option<LogPosition>,
    /// Bytes written since the last durable step.
    pub unsynced_bytes: u64,
    /// Whether a compaction has more to delete.
    pub compaction_pending: bool,
}

impl Checkpointer {
    /// Writes all rows and the state that goes with them in one transaction, durable or not, with one bite of a
    /// pending compaction.
    pub fn step(&mut self, _durable: bool) -> Result<CheckpointStep, Fault> {
        todo!()
    }
}

/// The readers' half. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct StoreReader {
    _private: (),
}

impl StoreReader {
    /// The store as of now.
    pub fn view(&self) -> ReadView {
        todo!()
    }
    /// Current main revision; 1 for an empty store.
    pub fn revision(&self) -> u64 {
        todo!()
    }
    /// The compact revision; none before the first compaction.
    pub fn compacted(&self) -> Option<u64> {
        todo!()
    }
    /// Where apply stands.
    pub fn applied(&self) -> Option<LogPosition> {
        todo!()
    }
    /// Whether all rows that the compaction at `revision` forgets are deleted and that is durable.
    pub fn compaction_finished(&self, _revision: u64) -> bool {
        todo!()
    }
    /// Granted TTL of a lease, in seconds.
    pub fn lease_ttl(&self, _id: i64) -> Option<i64> {
        todo!()
    }
    /// Keys attached to a lease, sorted; none if there is no such lease.
    pub fn lease_keys(&self, _id: i64) -> Option<Vec<Bytes>> {
        todo!()
    }
    /// All leases with their granted TTL, by id.
    pub fn leases(&self) -> Vec<(i64, i64)> {
        todo!()
    }
    /// Active alarms, by member and kind.
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        todo!()
    }
    /// Members by id.
    pub fn members(&self) -> Vec<MemberRecord> {
        todo!()
    }
    /// `major.minor.0` that all members agreed to speak.
    pub fn cluster_version(&self) -> Option<String> {
        todo!()
    }
    /// Sizes of the database.
    pub fn size(&self) -> DatabaseSize {
        todo!()
    }
    /// The rolling hash of the live state and the position it belongs to.
    pub fn rolling_hash(&self) -> (Option<LogPosition>, u64) {
        todo!()
    }
    /// etcd's HashKV; 0 or less: at the current revision. Reads the whole history: call it off the runtime.
    pub fn hash_kv(&self, _revision: i64) -> Result<HashKv, ReadError> {
        todo!()
    }
    /// The encoded `mvccpb.KeyValue` of one record; none if compaction has removed it.
    pub fn record(&self, _revision: Revision) -> Result<Option<Bytes>, Fault> {
        todo!()
    }
    /// History from `from` (inclusive) to the present, at most about `bytes` of it and never a part of a revision.
    /// Rejected as compacted when `from` is below the compact revision.
    pub fn history(&self, _from: u64, _bytes: usize) -> Result<HistoryBite, ReadError> {
        todo!()
    }
    /// The newest events, encoded once, for watchers that keep up.
    pub fn event_ring(&self) -> Arc<EventRing> {
        todo!()
    }
}

/// The store as of one revision. Holding it delays nobody.
#[derive(Clone)]
pub struct ReadView {
    _private: (),
}

impl ReadView {
    /// The main revision it shows.
    pub fn revision(&self) -> u64 {
        todo!()
    }
    /// Answers a range read at the view's revision, or at an older one that the request names.
    pub fn range(&self, _range: &Range) -> Result<RangeResult, ReadError> {
        todo!()
    }
}
