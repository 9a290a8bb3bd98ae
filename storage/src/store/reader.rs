//! The readers' halves: [`StoreReader`] for what is true now, [`ReadView`] for what was true at one revision.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::pins::Pin;
use super::state::row_missing;
use super::{DatabaseSize, HashKv, HistoryBite, MemberRecord, Operations, ReadError, Shared, hash_kv};
use crate::applied::{Event, EventBatch, EventKind, RangeResult, TxnApplied};
use crate::command::{AlarmKind, Range, Txn};
use crate::error::{Fault, Rejected};
use crate::event_ring::EventRing;
use crate::key_value::{KeyValue, key_of};
use crate::mvcc::index::IndexRoot;
use crate::mvcc::range::{Reading, Records, Span};
use crate::revision::{LogPosition, Revision};
use crate::tables::{Row, Tables};
use crate::txn::{self, Before, Undecided};

/// Records looked up in memory before apply gets its turn again.
const ROWS_PER_LOCK: usize = 1024;

/// The readers' half. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

impl StoreReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The store as of now.
    pub fn view(&self) -> ReadView {
        let state = self.shared.state.lock();
        ReadView {
            root: state.index.root(),
            revision: state.revision,
            shared: Arc::clone(&self.shared),
            _pin: None,
        }
    }

    /// As [`StoreReader::view`], for a read of what is alive that takes long: compactions wait for it, up to
    /// [`COMPACTION_DEFERRALS_MAX`](crate::limits::COMPACTION_DEFERRALS_MAX) of their bites.
    pub fn pinned_view(&self) -> ReadView {
        let state = self.shared.state.lock();
        ReadView {
            root: state.index.root(),
            revision: state.revision,
            shared: Arc::clone(&self.shared),
            _pin: Some(Arc::new(self.shared.pins.pin(state.revision))),
        }
    }

    /// Current main revision; 1 for an empty store.
    pub fn revision(&self) -> u64 {
        self.shared.state.lock().revision
    }

    /// The compact revision; none before the first compaction.
    pub fn compacted(&self) -> Option<u64> {
        self.shared.state.lock().compacted
    }

    /// Where apply stands.
    pub fn applied(&self) -> Option<LogPosition> {
        self.shared.state.lock().applied
    }

    /// Whether all rows that the compaction at `revision` forgets are deleted and that is durable.
    pub fn compaction_finished(&self, revision: u64) -> bool {
        self.shared.state.lock().compact_finished >= Some(revision)
    }

    /// Granted TTL of a lease, in seconds.
    pub fn lease_ttl(&self, id: i64) -> Option<i64> {
        self.shared.state.lock().leases.ttl(id)
    }

    /// Keys attached to a lease, sorted; none if there is no such lease.
    pub fn lease_keys(&self, id: i64) -> Option<Vec<Bytes>> {
        let mut keys = self.shared.state.lock().leases.keys_unordered(id)?;
        keys.sort_unstable();
        Some(keys)
    }

    /// All leases with their granted TTL, by id.
    pub fn leases(&self) -> Vec<(i64, i64)> {
        self.shared.state.lock().leases.iter().collect()
    }

    /// Active alarms, by member and kind.
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        self.shared.state.lock().alarms.iter().copied().collect()
    }

    /// Members by id.
    pub fn members(&self) -> Vec<MemberRecord> {
        self.shared.state.lock().members.values().cloned().collect()
    }

    /// Ids of members that were removed and may never come back, sorted.
    pub fn removed_members(&self) -> Vec<u64> {
        self.shared.state.lock().removed_members.iter().copied().collect()
    }

    /// `major.minor.0` that all members agreed to speak.
    pub fn cluster_version(&self) -> Option<String> {
        self.shared.state.lock().cluster_version.clone()
    }

    /// Sizes of the database.
    pub fn size(&self) -> DatabaseSize {
        self.tables().size()
    }

    /// Counts a range that a client reads. Not done by the reads themselves: a long one is made of many.
    pub fn count_range(&self) {
        self.shared.ranges.fetch_add(1, Ordering::Relaxed);
    }

    /// What was done since the process started.
    pub fn operations(&self) -> Operations {
        let mut operations = self.shared.state.lock().operations;
        operations.ranges += self.shared.ranges.load(Ordering::Relaxed);
        operations
    }

    /// Bytes of records that the database does not hold yet. Whoever applies should wait while this is above the
    /// overlay's budget: such records cannot be dropped.
    pub fn unwritten_bytes(&self) -> usize {
        self.shared.state.lock().overlay.unwritten_bytes()
    }

    /// The database as the newest checkpoint left it, for making a snapshot image.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.shared.state.lock().tables)
    }

    /// The rolling hash of the live state and the position it belongs to. Waits for the end of the entry that is
    /// being applied.
    pub fn rolling_hash(&self) -> (Option<LogPosition>, u64) {
        let _entry = self.shared.entry.lock();
        let state = self.shared.state.lock();
        (state.applied, state.hash.value())
    }

    /// etcd's HashKV; 0 or less: at the current revision. Reads the whole history: call it off the runtime.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        hash_kv::hash_kv(&self.shared, revision)
    }

    /// The encoded `mvccpb.KeyValue` of one record; none if compaction has removed it.
    pub fn record(&self, revision: Revision) -> Result<Option<Bytes>, Fault> {
        let row = self.shared.rows(&[revision])?.pop().flatten();
        Ok(row.map(|row| row.kv.clone()))
    }

    /// History from `from` (inclusive) to the present, at most about `bytes` of it and never a part of a revision.
    /// Rejected as compacted when `from` is below the compact revision.
    pub fn history(&self, from: u64, bytes: usize) -> Result<HistoryBite, ReadError> {
        let present = self.revision();
        if self.compacted() > Some(from) {
            return Err(Rejected::Compacted.into());
        }
        if from > present {
            return Ok(HistoryBite {
                batches: Vec::new(),
                next: from,
            });
        }
        let mut rows = self.shared.rows_from(Revision::new(from, 0), bytes)?;
        self.complete_last_revision(&mut rows)?;
        // Only now: a compaction may have deleted rows while they were read.
        let compacted = self.compacted();
        if compacted > Some(from) {
            return Err(Rejected::Compacted.into());
        }
        let next = rows.last().map_or(present, |(revision, _)| revision.main) + 1;
        if compacted == Some(from) {
            forget_replaced(&mut rows, from);
        }
        let batches = rows.chunk_by(|(one, _), (other, _)| one.main == other.main);
        let batches = batches.map(|rows| EventBatch {
            revision: rows[0].0.main,
            events: rows
                .iter()
                .filter_map(|(revision, row)| event(*revision, row, compacted))
                .collect(),
        });
        Ok(HistoryBite {
            batches: batches.collect(),
            next,
        })
    }

    /// The newest events, encoded once, for watchers that keep up.
    pub fn event_ring(&self) -> Arc<EventRing> {
        Arc::clone(&self.shared.event_ring)
    }

    /// Makes rows end with a whole revision: drops the last one if it is cut, or completes it if it is the only one.
    fn complete_last_revision(&self, rows: &mut Vec<(Revision, Arc<Row>)>) -> Result<(), Fault> {
        while let Some((last, _)) = rows.last() {
            let last = *last;
            let rest = self.shared.rows_from(Revision::new(last.main, last.sub + 1), 0)?;
            if rest
                .first()
                .is_none_or(|(revision, _)| revision.main != last.main)
            {
                return Ok(());
            }
            if rows[0].0.main != last.main {
                rows.retain(|(revision, _)| revision.main != last.main);
                return Ok(());
            }
            rows.extend(rest);
        }
        Ok(())
    }
}

/// Drops rows at the compact revision that it forgets: those of keys that changed again in it.
fn forget_replaced(rows: &mut Vec<(Revision, Arc<Row>)>, compacted: u64) {
    let at_it = rows.iter().take_while(|(revision, _)| revision.main == compacted);
    let replaced: HashSet<_> = at_it.filter_map(|(_, row)| row.previous).collect();
    rows.retain(|(revision, _)| !replaced.contains(revision) || revision.main != compacted);
}

/// Makes the event of a row again.
fn event(revision: Revision, row: &Row, compacted: Option<u64>) -> Option<Event> {
    let created = KeyValue::decode(&row.kv)?.version == 1;
    // A created key's record before is a tombstone. At the compact revision, what was before is forgotten.
    let has_previous = !created && compacted.is_none_or(|compacted| revision.main > compacted);
    Some(Event {
        kind: if row.tombstone {
            EventKind::Delete
        } else {
            EventKind::Put
        },
        revision,
        key: key_of(&row.kv)?,
        kv: row.kv.clone(),
        previous: row.previous.filter(|_| has_previous),
    })
}

impl Shared {
    /// Rows from `from` on, in order, until there are more than `bytes`; at least one if there is one.
    pub(super) fn rows_from(&self, from: Revision, bytes: usize) -> Result<Vec<(Revision, Arc<Row>)>, Fault> {
        let tables = {
            let state = self.state.lock();
            if state.overlay.covers(from.main) {
                let mut total = 0;
                let rows = state.overlay.from(from).take_while(|(_, row)| {
                    let fits = total == 0 || total <= bytes;
                    total += row.kv.len();
                    fits
                });
                return Ok(rows.map(|(revision, row)| (revision, Arc::clone(row))).collect());
            }
            Arc::clone(&state.tables)
        };
        let rows = tables.read_from(from, bytes)?;
        if rows.is_empty() {
            // Compaction has deleted all there was before the overlay.
            let state = self.state.lock();
            let rows = state.overlay.from(from).take(1);
            return Ok(rows.map(|(revision, row)| (revision, Arc::clone(row))).collect());
        }
        Ok(rows
            .into_iter()
            .map(|(revision, row)| (revision, Arc::new(row)))
            .collect())
    }
}

impl Records for Shared {
    fn rows(&self, revisions: &[Revision]) -> Result<Vec<Option<Arc<Row>>>, Fault> {
        let mut rows = vec![None; revisions.len()];
        let mut written = Vec::new();
        let mut tables = None;
        for (chunk, revisions) in revisions.chunks(ROWS_PER_LOCK).enumerate() {
            let state = self.state.lock();
            for (place, revision) in (chunk * ROWS_PER_LOCK..).zip(revisions) {
                rows[place] = state.overlay.get(*revision).cloned();
                if rows[place].is_none() {
                    written.push((*revision, place));
                }
            }
            tables = Some(Arc::clone(&state.tables));
            MutexGuard::unlock_fair(state);
        }
        // What the overlay has dropped, the database holds, in history order: neighbours share its pages.
        written.sort_unstable();
        let (revisions, places): (Vec<_>, Vec<_>) = written.into_iter().unzip();
        if let Some(tables) = tables {
            for (place, row) in places.into_iter().zip(tables.rows(&revisions)?) {
                rows[place] = row.map(Arc::new);
            }
        }
        Ok(rows)
    }

    fn at_or_below(&self, revisions: &[Revision], main: u64) -> Vec<Option<Revision>> {
        self.state.lock().at_or_below(revisions, main)
    }

    fn count_change(&self, from: u64, to: u64, span: Span<'_>, changes_max: usize) -> Option<i64> {
        self.state.lock().count_change(from, to, span, changes_max)
    }
}

/// The store as of one revision. Holding it delays nobody.
#[derive(Clone)]
pub struct ReadView {
    shared: Arc<Shared>,
    root: IndexRoot,
    revision: u64,
    /// Keeps records of this view from being deleted.
    _pin: Option<Arc<Pin>>,
}

impl ReadView {
    /// The main revision it shows.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Bytes of the records of the keys that `range` names, whatever its limit. Costs two descents at any size.
    pub fn record_bytes(&self, range: &Range) -> u64 {
        Span::of(&range.key, &range.range_end).bytes(&self.root)
    }

    /// Calls `visit` with the bytes of each record of the keys that `range` names and that are alive in this view, in key
    /// order, until it breaks.
    pub fn for_each_size(&self, range: &Range, mut visit: impl FnMut(u32) -> ControlFlow<()>) {
        let span = Span::of(&range.key, &range.range_end);
        span.for_each(&self.root, |_, meta| {
            if meta.live {
                visit(meta.bytes)
            } else {
                ControlFlow::Continue(())
            }
        });
    }

    /// Answers a range read at the view's revision, or at an older one that the request names.
    ///
    /// Rejected as compacted when a compaction has forgotten the revision; also, rarely, for a read at the view's own
    /// revision, when the store has moved on and compacted past the view: such a read is to be repeated on a new one.
    pub fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        let named = u64::try_from(range.revision)
            .ok()
            .filter(|revision| *revision > 0);
        if named > Some(self.revision) {
            crate::reached!("read_of_future");
            return Err(Rejected::FutureRevision.into());
        }
        if named.is_some() && self.shared.state.lock().compacted > named {
            crate::reached!("read_of_compacted");
            return Err(Rejected::Compacted.into());
        }
        let at = named.unwrap_or(self.revision);
        if at < self.revision {
            crate::reached!("read_of_the_past");
        }
        let read = self.reading().range(range)?;
        let is_incomplete = read.lost.is_some() || read.gone.is_some();
        if at == self.revision && !is_incomplete {
            return Ok(read.result);
        }
        // Only now: a compaction may have cut the history while it was walked.
        let state = self.shared.state.lock();
        if state.compacted > Some(at) {
            return Err(Rejected::Compacted.into());
        }
        match read.damaged(state.compacted) {
            Some(revision) => Err(row_missing(&state.tables, revision).into()),
            None => Ok(read.result),
        }
    }

    /// Answers a transaction that only reads ([`txn::is_read_only`]), all on this view.
    pub fn txn(&self, txn: &Txn) -> Result<TxnApplied, ReadError> {
        let before = Before {
            state: self.reading(),
            compacted: self.shared.state.lock().compacted,
        };
        let decisions = before.decide(txn).map_err(|undecided| self.explain(undecided))?;
        before.check(txn, &decisions, |_| true)?;
        let succeeded = decisions.iter().next().unwrap_or_default();
        txn::run_reads(txn, succeeded, self.revision, |range| self.range(range))
    }

    fn reading(&self) -> Reading<'_, Shared> {
        Reading {
            root: &self.root,
            present: self.revision,
            records: &*self.shared,
        }
    }

    fn explain(&self, undecided: Undecided) -> ReadError {
        match undecided {
            Undecided::Rejected(rejected) => rejected.into(),
            Undecided::Fault(fault) => fault.into(),
            Undecided::Lost(revision) => {
                let state = self.shared.state.lock();
                if state.compacted > Some(self.revision) {
                    return Rejected::Compacted.into();
                }
                row_missing(&state.tables, revision).into()
            }
        }
    }
}
