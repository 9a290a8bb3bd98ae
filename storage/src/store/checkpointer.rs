//! [`Checkpointer`]: writes behind apply. Takes what apply left between two log entries, writes it in one transaction
//! with the log position it belongs to, and deletes what compaction has forgotten, in bites.
//!
//! Which rows a compaction at `c` forgets is seen from the rows alone, in one pass in history order: every row up to
//! `c` names the row of the same key before it, and that one is dead now; and a tombstone below `c` is dead itself.
//! What is left is each key's newest row up to `c`, without tombstones but those at `c` itself. The pass rests when it has
//! found many, which are deleted in history order, too, and goes on then. It starts where the last finished compaction
//! ended, and can be repeated after a crash: deleting a row twice is nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::index_file::Writer as IndexFileWriter;
use super::{COMMANDS_PER_LOCK, Shared};
use crate::error::Fault;
use crate::fail_point;
use crate::key_value::key_of;
use crate::limits::{COMPACTION_DEFERRALS_MAX, COMPACTION_ROWS_PER_BITE};
use crate::mutant;
use crate::mvcc::index::IndexRoot;
use crate::revision::{LogPosition, Revision};
use crate::tables::{LeaseRow, Row, Rows, Tables, WriteBatch};

/// Bytes of rows that one bite of a compaction looks at. More take a core for longer than a put takes: bites of 1 MiB made the
/// slowest hundredth of puts twice as slow.
const COMPACTION_BYTES_PER_BITE: usize = 192 * 1024;

/// Rows to delete are gathered until there are so many, 4 MiB of them, and then go in history order: those that share a page
/// go together then, however far apart the rows were that replaced them, and the page is written once.
const VICTIMS_MAX: usize = 256 * 1024;

/// A key whose tombstone goes takes as much memory as so many rows to delete.
const VICTIMS_PER_DEAD_KEY: usize = 8;

/// Durable steps after the last bite of a compaction by which redb has freed the pages of what went: it keeps them for the
/// commit before, and for reads that began earlier.
const FREED_AFTER: u8 = 3;

/// Bytes of rows that one bite of a check reads.
const CHECK_BYTES_PER_BITE: usize = 128 * 1024;

/// The storage thread's half: takes what apply left and writes it to the database. One thread owns it.
pub struct Checkpointer {
    shared: Arc<Shared>,
    /// The generation of the state that everything below is about.
    generation: u64,
    /// The log position and the finished compaction that the last step wrote.
    written: Option<(Option<LogPosition>, Option<u64>)>,
    /// Whether the database holds anything that is not durable.
    unsynced: bool,
    unsynced_bytes: u64,
    /// Durable steps to come for the sake of space that can be given back.
    space_steps: u8,
    /// The newest compaction that has nothing left to delete.
    finished: Option<u64>,
    compaction: Option<Compaction>,
    /// Where the log ended on disk, as far as this half has been told.
    log_end: u64,
    /// An index file is to be begun with the next durable step.
    index_file_wanted: bool,
    index_file: Option<IndexFileWriter>,
    index_file_failure: Option<Fault>,
    /// Rows that no start has read: they are read after it.
    unchecked: Option<Rows>,
}

/// A compaction under way.
struct Compaction {
    target: u64,
    /// Where the pass over the rows stands.
    next: Revision,
    /// Bites put off for long reads.
    deferred: u32,
    /// What the pass has found.
    gathered: Victims,
    /// What goes next.
    victims: Victims,
    /// Whether the pass has come to its end.
    all_seen: bool,
}

/// Rows that a compaction forgets.
#[derive(Default)]
struct Victims {
    rows: VecDeque<Revision>,
    /// Keys whose tombstone is among `rows`, and that tombstone; in the order of `rows`.
    dead_keys: VecDeque<(Bytes, Revision)>,
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
    /// Whether there is more of an index file to write.
    pub index_file_pending: bool,
    /// Whether there are more rows to check.
    pub check_pending: bool,
    /// Whether durable steps will give back more space, even with nothing new to write. They need not be soon.
    pub space_pending: bool,
    /// How much a start would have to do beside reading the index file.
    pub index_file: IndexFileAge,
}

/// How far the state has moved on from the index file on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexFileAge {
    /// Revisions written since.
    pub behind: u64,
    /// Whether there is none, or a compaction has made it worthless.
    pub void: bool,
    /// Keys that exist.
    pub keys: u64,
    /// Rows in the database.
    pub rows: u64,
}

/// The state between two log entries, as far as the database lacks it.
struct Captured {
    tables: Arc<Tables>,
    batch: WriteBatch,
    /// What the database held before.
    written: u64,
    /// The oldest revision that a long read needs.
    pinned: Option<u64>,
    /// The index, if an index file is to be written of it.
    root: Option<IndexRoot>,
}

/// What one bite of a compaction found.
#[derive(Default)]
struct Bite {
    deletes: Vec<Revision>,
    /// Keys whose tombstone is among `deletes`, and that tombstone.
    dead_keys: Vec<(Bytes, Revision)>,
}

impl Checkpointer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let state = shared.state.lock();
        let (generation, finished) = (state.generation, state.compact_finished);
        drop(state);
        Self {
            shared,
            generation,
            written: None,
            unsynced: false,
            unsynced_bytes: 0,
            space_steps: 0,
            finished,
            compaction: None,
            log_end: 0,
            index_file_wanted: false,
            index_file: None,
            index_file_failure: None,
            unchecked: None,
        }
    }

    /// Begins an index file with the next durable step. It is written by the steps that follow, a bite by each.
    pub fn write_index_file(&mut self) {
        self.index_file_wanted = true;
    }

    /// Writes what is left of the index file under way. See [`Checkpointer::step`] for errors of the index file.
    pub fn finish_index_file(&mut self) {
        while self.index_file.is_some() {
            self.bite_of_index_file();
        }
    }

    /// Reads all rows, a bite with each step that follows. A start that read the index file instead does not know that
    /// they are whole.
    ///
    /// # Errors
    /// As [`Tables::scan`].
    pub fn check_rows(&mut self) -> Result<(), Fault> {
        let tables = Arc::clone(&self.shared.state.lock().tables);
        self.unchecked = Some(tables.newest().rows(Revision::default())?);
        Ok(())
    }

    /// The member's log is on disk up to the entry at `index`.
    pub fn log_ends(&mut self, index: u64) {
        self.log_end = index;
    }

    /// Writes all rows and the state that goes with them in one transaction, durable or not, with one bite of a
    /// pending compaction.
    ///
    /// # Errors
    /// After an error it is unknown what is on disk: the member must stop. An index file that cannot be written is no
    /// error: a start can do without.
    pub fn step(&mut self, durable: bool) -> Result<CheckpointStep, Fault> {
        let mut captured = self.capture(durable);
        let bite = self.bite(&captured)?;
        captured.batch.deletes.clone_from(&bite.deletes);
        captured.batch.meta.compact_finished = self.finished;
        captured.batch.meta.log_end = self.log_end;
        let applied = captured.batch.meta.applied;
        let stands = Some((applied, self.finished));
        let is_new = stands != self.written || !bite.deletes.is_empty();
        if is_new || (durable && (self.unsynced || self.space_steps > 0)) {
            self.commit(&captured, durable)?;
            self.written = stands;
            self.unsynced = !durable;
            self.give_back_space(&captured, durable)?;
            let rows = captured.batch.rows.iter();
            self.unsynced_bytes += rows.map(|(_, row)| row.kv.len() as u64).sum::<u64>();
        }
        if durable {
            self.unsynced_bytes = 0;
        }
        let current = self.settle(&captured, bite, durable);
        let compaction_pending = self.finished < captured.batch.meta.compact_scheduled;
        if let Some(root) = captured.root.take().filter(|_| current) {
            self.begin_index_file(root, captured.batch.meta.revision);
        } else if self.index_file.is_some() {
            self.bite_of_index_file();
        } else if !compaction_pending {
            self.bite_of_check()?;
        }
        Ok(CheckpointStep {
            durable: applied.filter(|_| durable && current),
            unsynced_bytes: self.unsynced_bytes,
            compaction_pending,
            index_file_pending: self.index_file.is_some(),
            check_pending: self.unchecked.is_some(),
            space_pending: self.space_steps > 0,
            index_file: self.index_file_age(captured.tables.contents().rows),
        })
    }

    /// Does the next bite if it leaves the database as it is, and nothing else: of a compaction that only looks for rows, of
    /// an index file, or of a check. `false`: it does not, or there is none; the next step has it.
    ///
    /// # Errors
    /// As [`Tables::read_from`] and [`Tables::scan`].
    pub fn bite_without_commit(&mut self) -> Result<bool, Fault> {
        let state = self.shared.state.lock();
        let is_current = state.generation == self.generation;
        let tables = Arc::clone(&state.tables);
        MutexGuard::unlock_fair(state);
        if !is_current {
            return Ok(false);
        }
        if let Some(compaction) = &mut self.compaction {
            if !compaction.looks_next() {
                return Ok(false);
            }
            crate::reached!("compaction_looked_without_commit");
            // The step that began it has written all rows that it is about.
            compaction.look(&tables)?;
        } else if self.index_file.is_some() {
            crate::reached!("index_file_bitten_without_commit");
            self.bite_of_index_file();
        } else if self.unchecked.is_some() {
            self.bite_of_check()?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Writes what was captured.
    fn commit(&self, captured: &Captured, durable: bool) -> Result<(), Fault> {
        let deletes = !captured.batch.deletes.is_empty();
        let finishes = self.written.is_some_and(|(_, finished)| finished < self.finished);
        fail_point!("backendBeforeCommit");
        if deletes {
            fail_point!("compactBeforeCommitBatch");
        }
        if finishes {
            fail_point!("compactBeforeSetFinishedCompact");
        }
        // M06: the log is purged below a position that is not durable.
        let synced = durable && !mutant!("M06");
        captured.tables.write(&captured.batch, synced)?;
        if finishes {
            fail_point!("compactAfterSetFinishedCompact");
        }
        if deletes {
            fail_point!("compactAfterCommitBatch");
        }
        fail_point!("backendAfterCommit");
        Ok(())
    }

    /// Gives back space that the commit just made shows to be free.
    fn give_back_space(&mut self, captured: &Captured, durable: bool) -> Result<(), Fault> {
        if !captured.batch.deletes.is_empty() {
            self.space_steps = FREED_AFTER;
        }
        if durable {
            let has_more = captured.tables.give_back_space()?;
            self.space_steps = self.space_steps.saturating_sub(1).max(has_more.into());
        }
        Ok(())
    }

    /// Takes what the database lacks. Waits for the end of the entry that is being applied.
    fn capture(&mut self, durable: bool) -> Captured {
        let entry = self.shared.entry.lock();
        let mut state = self.shared.state.lock();
        if state.generation != self.generation {
            self.generation = state.generation;
            self.finished = state.compact_finished;
            self.compaction = None;
            self.written = None;
            self.unsynced = false;
            self.unsynced_bytes = 0;
            self.space_steps = 0;
            self.index_file = None;
            self.unchecked = None;
        }
        let written = state.overlay.written();
        let rows = state.overlay.from(Revision::new(written + 1, 0));
        let mut batch = WriteBatch {
            rows: rows.map(|(revision, row)| (revision, Arc::clone(row))).collect(),
            meta: state.meta(self.finished),
            ..WriteBatch::default()
        };
        for (id, ttl) in state.leases.take_changed() {
            match ttl {
                Some(ttl) => batch.leases_put.push(LeaseRow { id, ttl }),
                None => batch.leases_removed.push(id),
            }
        }
        let tables = Arc::clone(&state.tables);
        let root = (durable && std::mem::take(&mut self.index_file_wanted)).then(|| state.index.root());
        // A read that begins after this needs nothing that a compaction up to here can delete.
        let pinned = self.shared.pins.oldest();
        MutexGuard::unlock_fair(state);
        MutexGuard::unlock_fair(entry);
        Captured {
            tables,
            batch,
            written,
            pinned,
            root,
        }
    }

    fn index_file_age(&self, rows: u64) -> IndexFileAge {
        let state = self.shared.state.lock();
        IndexFileAge {
            behind: state.revision - state.index_file.unwrap_or(0),
            void: state.index_file.is_none() || state.index_file < state.compacted,
            keys: state.index.len_live(),
            rows,
        }
    }

    fn begin_index_file(&mut self, root: IndexRoot, revision: u64) {
        // Dropped first: it would remove the file of the one that is begun now.
        self.index_file = None;
        let disk = Arc::clone(&self.shared.disk);
        match IndexFileWriter::begin(disk, &self.shared.database, root, revision) {
            Ok(writer) => self.index_file = Some(writer),
            Err(fault) => self.give_up_index_file(fault),
        }
    }

    fn give_up_index_file(&mut self, fault: Fault) {
        crate::reached!("index_file_given_up");
        self.index_file_failure = Some(fault);
    }

    /// Why the newest index file was given up, to be told.
    pub fn take_index_file_failure(&mut self) -> Option<Fault> {
        self.index_file_failure.take()
    }

    /// Writes a bite of the index file under way, and gives it up if that fails.
    fn bite_of_index_file(&mut self) {
        let Some(mut writer) = self.index_file.take() else {
            return;
        };
        let shared = &self.shared;
        let generation = self.generation;
        let mut is_current = true;
        let bitten = writer.bite(&mut |visit| {
            let state = shared.state.lock();
            is_current &= state.generation == generation;
            visit(&state.history);
            MutexGuard::unlock_fair(state);
        });
        match bitten {
            Ok(true) if is_current => {
                crate::reached!("index_file_written");
                shared.state.lock().index_file = Some(writer.revision());
            }
            Ok(false) if is_current => self.index_file = Some(writer),
            Ok(_) => {}
            Err(fault) => self.give_up_index_file(fault),
        }
    }

    /// Reads some of the rows that no start has read.
    fn bite_of_check(&mut self) -> Result<(), Fault> {
        let Some(rows) = &mut self.unchecked else {
            return Ok(());
        };
        let mut bytes = 0;
        while bytes < CHECK_BYTES_PER_BITE {
            let Some((_, row)) = rows.next()? else {
                crate::reached!("rows_checked_after_start");
                self.unchecked = None;
                break;
            };
            bytes += row.kv.len();
        }
        Ok(())
    }

    /// Looks for the next rows that the compaction under way forgets, and starts a compaction if one is due.
    fn bite(&mut self, captured: &Captured) -> Result<Bite, Fault> {
        let mut bite = Bite::default();
        let scheduled = captured.batch.meta.compact_scheduled;
        if self.compaction.is_none() && self.finished < scheduled {
            self.compaction = scheduled.map(|target| Compaction {
                target,
                next: Revision::new(self.finished.unwrap_or(0), 0),
                deferred: 0,
                gathered: Victims::default(),
                victims: Victims::default(),
                all_seen: false,
            });
        }
        let Some(compaction) = &mut self.compaction else {
            return Ok(bite);
        };
        if captured.written < compaction.target {
            return Ok(bite);
        }
        let is_pinned = captured.pinned.is_some_and(|pinned| pinned < compaction.target);
        if is_pinned && compaction.deferred < COMPACTION_DEFERRALS_MAX {
            crate::reached!("compaction_waited_for_read");
            compaction.deferred += 1;
            return Ok(bite);
        }
        if compaction.looks_next() {
            compaction.look(&captured.tables)?;
        } else {
            bite = compaction.victims.take(COMPACTION_ROWS_PER_BITE);
        }
        if compaction.all_seen && compaction.victims.rows.is_empty() {
            self.finished = Some(compaction.target);
            self.compaction = None;
        }
        Ok(bite)
    }

    /// Tells the state what the database holds now. `false` if the state was replaced meanwhile.
    fn settle(&self, captured: &Captured, bite: Bite, durable: bool) -> bool {
        let mut state = self.shared.state.lock();
        if state.generation != self.generation {
            crate::reached!("checkpoint_of_replaced_state");
            return false;
        }
        state.overlay.mark_written(captured.batch.meta.revision);
        if durable {
            state.compact_finished = self.finished;
        }
        MutexGuard::unlock_fair(state);
        for dead_keys in bite.dead_keys.chunks(COMMANDS_PER_LOCK) {
            let mut state = self.shared.state.lock();
            if state.generation != self.generation {
                return false;
            }
            for (key, tombstone) in dead_keys {
                let newest = state.index.get(key);
                if newest.is_some_and(|newest| newest.modified == *tombstone) {
                    state.index.remove(key);
                }
            }
            MutexGuard::unlock_fair(state);
        }
        true
    }
}

impl Compaction {
    /// Whether it has nothing to delete before it has seen more.
    fn looks_next(&self) -> bool {
        self.victims.rows.is_empty() && !self.all_seen
    }

    /// Looks at the next rows, and brings what they replace into order when there is enough of it.
    fn look(&mut self, tables: &Tables) -> Result<(), Fault> {
        let rows = tables.read_from(self.next, COMPACTION_BYTES_PER_BITE)?;
        self.all_seen = rows.is_empty();
        for (revision, row) in rows {
            if revision.main > self.target {
                self.all_seen = true;
                break;
            }
            self.next = Revision::new(revision.main, revision.sub + 1);
            self.gathered.add(self.target, revision, &row);
        }
        if self.all_seen || self.gathered.is_full() {
            self.victims = std::mem::take(&mut self.gathered).in_order();
        }
        Ok(())
    }
}

impl Victims {
    /// Adds what a compaction at `target` forgets because of this row.
    fn add(&mut self, target: u64, revision: Revision, row: &Row) {
        self.rows.extend(row.previous);
        if mutant!("M28") && !row.tombstone && revision.main == target {
            // The newest version of a live key goes.
            self.rows.push_back(revision);
        }
        // M27: a tombstone exactly at the compact revision goes, and watchers from there on miss it.
        let is_past = revision.main < target || mutant!("M27");
        if row.tombstone && !is_past {
            crate::reached!("compaction_of_tombstone_at_target");
        }
        if row.tombstone && is_past {
            self.rows.push_back(revision);
            let key = key_of(&row.kv);
            self.dead_keys.extend(key.map(|key| (key, revision)));
        }
    }

    fn is_full(&self) -> bool {
        self.rows.len() + VICTIMS_PER_DEAD_KEY * self.dead_keys.len() >= VICTIMS_MAX
    }

    /// In history order, in which the rows of a key go oldest first: what a crash leaves of them is found again.
    fn in_order(mut self) -> Self {
        self.rows.make_contiguous().sort_unstable();
        self
    }

    /// The first `rows` of them.
    fn take(&mut self, rows: usize) -> Bite {
        if self.rows.len() > rows {
            crate::reached!("compaction_in_bites");
        }
        let deletes: Vec<_> = self.rows.drain(..rows.min(self.rows.len())).collect();
        let last = deletes.last().copied().unwrap_or_default();
        // They were found in history order.
        let dead = self
            .dead_keys
            .partition_point(|(_, tombstone)| *tombstone <= last);
        Bite {
            deletes,
            dead_keys: self.dead_keys.drain(..dead).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, put};
    use super::*;

    /// A member installs snapshots on the thread that writes checkpoints, so that this cannot happen there; whoever moves
    /// one of them must not find a position of the old state taken for durable in the new one.
    #[test]
    fn what_was_captured_of_a_replaced_state_says_nothing_of_the_new_one() {
        let mut ahead = Fixture::new();
        for command in [put("a", "1"), put("a", "2"), put("b", "3")] {
            ahead.run(command).unwrap();
        }
        let mut behind = Fixture::new();
        behind.run(put("a", "1")).unwrap();
        let captured = behind.checkpointer.capture(true);
        behind.replace_by(&mut ahead);
        let unwritten = behind.store.reader().unwritten_bytes();
        assert!(!behind.checkpointer.settle(&captured, Bite::default(), true));
        assert_eq!(behind.store.reader().unwritten_bytes(), unwritten);
        behind.run(put("c", "4")).unwrap();
        let step = behind.checkpointer.step(true).unwrap();
        assert_eq!(step.durable, behind.store.applied());
        assert_eq!(behind.store.reader().tables().meta().unwrap().revision, 5);
    }
}
