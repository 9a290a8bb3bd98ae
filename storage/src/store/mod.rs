//! [`Store`]: the replicated state machine. `apply` is its only writer; [`StoreReader`]s and [`ReadView`]s share its
//! state without ever making it wait for long.
//!
//! The state lives behind one lock. Apply takes it for at most [`COMMANDS_PER_LOCK`] commands and hands it over fairly;
//! a reader takes it to copy a root pointer, or to look up records in memory. The database is never read or written
//! under it, but for records that a transaction or a `prev_kv` needs and that are no longer in memory.
//!
//! A second lock is held for the whole of each log entry, so that the [`Checkpointer`] sees the state between entries
//! only: what it writes is the state at exactly one log position. Order of locks: entry, then state, then pins.

mod apply;
mod checkpointer;
mod hash_kv;
mod index_file;
mod pins;
mod reader;
mod recovery;
mod rolling_hash;
mod sessions;
mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::applied::{EventBatch, Outcome};
use crate::codec::{DecodeError, decode_batch};
use crate::command::{CommandId, Proposal};
use crate::disk::Disk;
use crate::error::{Fault, Rejected};
use crate::event_ring::EventRing;
use crate::limits::CacheBudget;
use crate::mutant;
use crate::revision::LogPosition;
use crate::tables::Tables;

pub use checkpointer::{CheckpointStep, Checkpointer, IndexFileAge};
pub use reader::{ReadView, StoreReader};
pub use recovery::Opening;

use apply::Effect;
use pins::Pins;
use state::State;

/// Commands that apply runs before it lets readers at the state.
pub const COMMANDS_PER_LOCK: usize = 32;

/// What the store must know at start.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The database file.
    pub database: PathBuf,
    /// What is kept in memory.
    pub cache: CacheBudget,
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

/// Nobody wants to know.
impl ApplySink for () {
    fn outcome(&mut self, _id: CommandId, _outcome: Outcome) {}
    fn lease_granted(&mut self, _id: i64, _ttl: i64) {}
    fn lease_revoked(&mut self, _id: i64) {}
}

/// Sizes of the database, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseSize {
    /// Pages allocated (etcd's `dbSize`; never 0).
    pub allocated: u64,
    /// Bytes in use inside them (etcd's `dbSizeInUse`), at most `allocated`.
    pub in_use: u64,
}

/// What was done since the process started. Source: etcd's `etcd_mvcc_*_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Keys written.
    pub puts: u64,
    /// Deletions of ranges.
    pub deletes: u64,
    /// Transactions of more than one operation.
    pub txns: u64,
    /// Ranges read, inside of transactions and outside.
    pub ranges: u64,
}

impl Operations {
    fn sum(&self) -> u64 {
        self.puts + self.deletes + self.ranges
    }
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
    shared: Arc<Shared>,
    options: StoreOptions,
    log_end: u64,
    opening: Opening,
    /// The commands that come next, read before the lock is taken.
    decoded: Vec<Result<Proposal, DecodeError>>,
    /// What the commands under the lock did; told when it is released.
    effects: Vec<Effect>,
}

/// What the halves share.
struct Shared {
    /// Held while one log entry is applied.
    entry: Mutex<()>,
    state: Mutex<State>,
    /// Views that are read in pieces, over a long time.
    pins: Arc<Pins>,
    event_ring: Arc<EventRing>,
    /// Ranges read by clients.
    ranges: AtomicU64,
    disk: Arc<dyn Disk>,
    database: PathBuf,
}

impl Store {
    /// Opens the checkpoint, or makes an empty one, and rebuilds the index.
    ///
    /// # Errors
    /// Those of [`Tables::open`], and [`Fault::Damaged`] if the rows are not the state that the checkpoint is of.
    pub fn open(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<Self, Fault> {
        let tables = Tables::open(disk.clone(), &options.database, options.cache.tables)?;
        let log_end = tables.meta()?.log_end;
        let index_file = index_file::Reader::open(&*disk, &options.database);
        let (state, opening) = recovery::recover(Arc::new(tables), index_file, options.cache.overlay, 0)?;
        Ok(Self {
            shared: Arc::new(Shared {
                entry: Mutex::new(()),
                state: Mutex::new(state),
                pins: Arc::default(),
                event_ring: Arc::new(EventRing::new(options.cache.event_ring)),
                ranges: AtomicU64::new(0),
                disk,
                database: options.database.clone(),
            }),
            options,
            log_end,
            opening,
            decoded: Vec::new(),
            effects: Vec::new(),
        })
    }

    /// Replaces everything by what a received database holds. Handles of readers and the checkpointer show the new
    /// state from now on; watchers are sent back to history.
    ///
    /// # Errors
    /// As [`Store::open`]; the old state is kept then.
    pub fn replace(&mut self, tables: Tables) -> Result<(), Fault> {
        let entry = self.shared.entry.lock();
        let generation = self.shared.state.lock().generation + 1;
        index_file::remove(&*self.shared.disk, &self.shared.database)?;
        let overlay_bytes = self.options.cache.overlay;
        let (state, _) = recovery::recover(Arc::new(tables), Ok(None), overlay_bytes, generation)?;
        let old = {
            let mut current = self.shared.state.lock();
            assert!(
                state.applied >= current.applied,
                "a snapshot of the past replaces the present"
            );
            self.shared.event_ring.clear();
            let operations = current.operations;
            let old = std::mem::replace(&mut *current, state);
            current.operations = operations;
            old
        };
        drop(entry);
        drop(old);
        Ok(())
    }

    /// The rolling hash of the state at [`Store::applied`].
    pub fn rolling_hash(&self) -> u64 {
        self.shared.state.lock().hash.value()
    }

    /// How the state came into memory when the store was opened.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Where apply stands; none before the first entry.
    pub fn applied(&self) -> Option<LogPosition> {
        self.shared.state.lock().applied
    }

    /// Where the member's log ended on disk, at least, when the checkpoint that was opened was written.
    pub fn log_end(&self) -> u64 {
        self.log_end
    }

    /// The membership of the newest membership entry applied, as the raft crate encoded it, and its position.
    pub fn membership(&self) -> Option<(Option<LogPosition>, Bytes)> {
        self.shared.state.lock().membership.clone()
    }

    /// Applies one committed entry that holds a batch of proposals, encoded by `codec::encode_batch`.
    ///
    /// # Errors
    /// After an error the store is between two states: it must not be used any more.
    pub fn apply_batch(
        &mut self,
        at: LogPosition,
        batch: &Bytes,
        sink: &mut dyn ApplySink,
    ) -> Result<(), Fault> {
        let entry = self.shared.entry.lock();
        let mut proposals = decode_batch(batch);
        let mut finished = false;
        while !finished {
            self.decoded.extend(proposals.by_ref().take(COMMANDS_PER_LOCK));
            finished = self.decoded.len() < COMMANDS_PER_LOCK;
            let mut state = self.shared.state.lock();
            state.check_follows(at);
            state.warm(self.decoded.iter().flatten().map(|proposal| &proposal.command));
            for proposal in self.decoded.drain(..) {
                let proposal = proposal.map_err(|error| state.unreadable(at, &error))?;
                state.apply(proposal, at.term, &mut self.effects)?;
            }
            // M05: the entry that raises an alarm leaves the applied position behind.
            if finished && (!mutant!("M05") || state.alarms.is_empty()) {
                state.applied = Some(at);
            }
            // The ring follows the state without a gap even for a reader that sees the one before the other: both
            // are only ever asked "what is there from revision r on".
            MutexGuard::unlock_fair(state);
            for effect in self.effects.drain(..) {
                match effect {
                    Effect::Events(batch) => self.shared.event_ring.push(batch),
                    Effect::Outcome(id, outcome) => sink.outcome(id, outcome),
                    Effect::LeaseGranted { id, ttl } => sink.lease_granted(id, ttl),
                    Effect::LeaseRevoked { id } => sink.lease_revoked(id),
                }
            }
        }
        MutexGuard::unlock_fair(entry);
        Ok(())
    }

    /// Applies an entry that holds nothing.
    pub fn apply_blank(&mut self, at: LogPosition) -> Result<(), Fault> {
        let _entry = self.shared.entry.lock();
        let mut state = self.shared.state.lock();
        state.check_follows(at);
        state.applied = Some(at);
        Ok(())
    }

    /// Applies a membership entry. `members` carry id, peer URLs and the learner flag; names and client URLs are kept.
    pub fn apply_membership(
        &mut self,
        at: LogPosition,
        encoded: Bytes,
        members: Vec<MemberRecord>,
    ) -> Result<(), Fault> {
        let _entry = self.shared.entry.lock();
        let mut state = self.shared.state.lock();
        state.check_follows(at);
        state.membership = Some((Some(at), encoded));
        state.set_members(members);
        state.applied = Some(at);
        Ok(())
    }

    /// A handle for readers.
    pub fn reader(&self) -> StoreReader {
        StoreReader::new(Arc::clone(&self.shared))
    }

    /// A handle for the storage thread.
    pub fn checkpointer(&self) -> Checkpointer {
        Checkpointer::new(Arc::clone(&self.shared))
    }
}
