//! The Raft log file: entries, the vote and what else a member must not forget, in append-only segments.
//!
//! One owner writes ([`Wal`]) and any number of readers read what has been flushed ([`WalReader`]). Promises:
//!
//! * What a [`Wal::flush`] with `sync` returned for is there after any crash. Of what was flushed without it or not
//!   at all, a prefix is there, in the order it was given.
//! * A byte that changed on disk is never returned: it is a [`Fault::Damaged`], at start or at the read.
//! * After an error from any method the log accepts nothing more; the process must stop. It is never retried, because
//!   the system may have dropped what it failed to write.
//!
//! The format is described in `docs/file-format.md`. [`sector`] tells lost from damaged, [`record`] is the bytes,
//! [`segment`] a file, [`active`] the file being written, [`spares`] the next ones, [`open`] and [`recovery`] the way back.

mod active;
mod open;
mod reader;
mod record;
mod recovery;
mod sector;
mod segment;
mod spares;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::error::Fault;
use crate::revision::LogPosition;
use active::Active;
use reader::{Location, Table, next_index};
use record::{Operation, State};
use segment::{Header, Segment};
use spares::{Spare, Spares};

pub use reader::WalReader;

/// Least bytes of a segment: its header, its state and some groups.
const SEGMENT_BYTES_MIN: u64 = 4096;
/// Most bytes of one entry or vote. Source: far above any batch, and lengths are stored in 32 bits.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Where a log is and whose it is.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Directory of the log; nothing else is kept there.
    pub directory: PathBuf,
    /// The cluster the log belongs to.
    pub cluster_id: u64,
    /// The member the log belongs to.
    pub member_id: u64,
    /// Bytes of a new segment, [`crate::limits::WAL_SEGMENT_BYTES`] but in tests. Rounded up to sectors, at least
    /// 4 KiB; a larger record gets a segment of its own size.
    pub segment_bytes: u64,
}

/// One entry of the log. The payload is the caller's.
#[derive(Clone, Debug, PartialEq)]
pub struct WalEntry {
    /// Where it stands.
    pub position: LogPosition,
    /// What it says, opaque here.
    pub payload: Bytes,
}

/// What was found when the log was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// The last vote saved.
    pub vote: Option<Bytes>,
    /// The last committed position saved; it may be older than the last one given, as it needs no sync.
    pub committed: Option<LogPosition>,
    /// Up to where entries have been purged.
    pub purged: Option<LogPosition>,
    /// The newest entry, or `purged` if there is none.
    pub last: Option<LogPosition>,
    /// The highest session number ever saved, 0 if none.
    pub incarnation: u64,
    /// File, offset and bytes of a write that had not fully reached the disk and is gone now. Worth a line in the log.
    pub tail_cut: Option<(PathBuf, u64, u64)>,
}

/// A segment that is full. Its entries go up to `last`.
#[derive(Debug)]
struct Closed {
    segment: Arc<Segment>,
    bytes: u64,
    last: Option<LogPosition>,
}

/// What [`Wal::flush_in_steps`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushStep {
    /// What was buffered is written; segments that this filled are durable.
    Written,
    /// All of it is durable.
    Synced,
}

/// The log, for its one writer.
///
/// Always true: every segment but the last is durable up to the end that the next one's header names; segment numbers
/// have no gaps; entries have no gaps between `purged` and the last one.
pub struct Wal {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    _lock: Arc<dyn DiskFile>,
    table: Arc<Mutex<Table>>,
    closed: VecDeque<Closed>,
    active: Active,
    spares: Spares,
    /// As of the last operation written.
    state: State,
    /// Newest position, as of the last operation written.
    last_written: Option<LogPosition>,
    /// Newest and purged position, as of the last operation buffered.
    last: Option<LogPosition>,
    purged: Option<LogPosition>,
    /// Up to where the knowledge that entries are purged is durable.
    purged_durably: Option<LogPosition>,
    pending: Vec<Operation>,
    pending_bytes: usize,
    failed: bool,
}

impl Wal {
    /// A reader of what has been flushed.
    pub fn reader(&self) -> WalReader {
        WalReader {
            table: Arc::clone(&self.table),
        }
    }

    /// Buffers one entry. Its index must follow the last one's; the first index of a new log is 0.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] when the log has failed before.
    ///
    /// # Panics
    ///
    /// When the index does not follow, or the payload is above 1 GiB.
    pub fn append(&mut self, entry: &WalEntry) -> Result<(), Fault> {
        self.check_alive()?;
        assert_eq!(
            entry.position.index,
            next_index(self.last),
            "entries are appended without gaps"
        );
        self.last = Some(entry.position);
        self.buffer(Operation::Entry(entry.clone()));
        Ok(())
    }

    /// Buffers a vote.
    ///
    /// # Panics
    ///
    /// When the vote is above 1 GiB.
    pub fn save_vote(&mut self, vote: Bytes) {
        self.buffer(Operation::Vote(vote));
    }

    /// Buffers the committed position.
    pub fn save_committed(&mut self, position: LogPosition) {
        self.buffer(Operation::Committed(position));
    }

    /// Buffers a session number. A lower one than before changes nothing.
    pub fn save_incarnation(&mut self, number: u64) {
        self.buffer(Operation::Incarnation(number));
    }

    /// Buffers that all entries after `last_kept` are void; `None` voids all. A position past the last entry changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] when the log has failed before.
    ///
    /// # Panics
    ///
    /// When entries that were purged would become void, or (at the flush) when `last_kept` names a position that is
    /// not in the log.
    pub fn truncate_after(&mut self, last_kept: Option<LogPosition>) -> Result<(), Fault> {
        self.check_alive()?;
        assert!(
            next_index(last_kept) >= next_index(self.purged),
            "what was purged had been committed and cannot become void"
        );
        if next_index(last_kept) < next_index(self.last) {
            crate::reached!("wal_truncated");
            self.last = last_kept;
            self.buffer(Operation::Truncate(last_kept));
        }
        Ok(())
    }

    /// Buffers that entries up to `upto` are forgotten, also those that are not there yet: the next entry then follows
    /// `upto`. Their segments are used again after a flush with `sync`. Forgetting less than before changes nothing.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] when the log has failed before.
    pub fn purge(&mut self, upto: LogPosition) -> Result<(), Fault> {
        self.check_alive()?;
        if next_index(Some(upto)) > next_index(self.purged) {
            self.purged = Some(upto);
            if next_index(Some(upto)) >= next_index(self.last) {
                crate::reached!("wal_purge_beyond_end");
                self.last = Some(upto);
            }
            self.buffer(Operation::Purge(upto));
        }
        Ok(())
    }

    /// Bytes that the next flush will write, about.
    pub fn buffered_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Writes what is buffered, with one write per segment, and with `sync` makes it and all that was flushed before
    /// durable. Then it can be read.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] when the disk fails or has failed before. What was buffered may be there after a restart or not.
    pub fn flush(&mut self, sync: bool) -> Result<(), Fault> {
        self.flush_in_steps(sync, |_| ())
    }

    /// As [`Self::flush`]; tells `done` of each step when it is over, for whoever has a clock.
    ///
    /// # Errors
    ///
    /// As [`Self::flush`].
    pub fn flush_in_steps(&mut self, sync: bool, mut done: impl FnMut(FlushStep)) -> Result<(), Fault> {
        self.guarded(|wal| wal.write_pending(sync, &mut done))
    }

    /// One step of work that need not be done while anyone waits: filling a spare, removing files that are too many.
    /// Bounded to about 1 MiB of zeros and one sync. Returns whether there is more to do. Flushes do the same work
    /// in proportion to what they write, so a log that is never idle needs no call.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] when the disk fails or has failed before.
    pub fn tidy(&mut self) -> Result<bool, Fault> {
        self.guarded(|wal| {
            wal.release_one()?;
            if wal.spares.wanted() {
                wal.spares.fill_step()?;
                return Ok(wal.spares.wanted() && !wal.spares.out_of_space());
            }
            if wal.front_is_free() {
                wal.remove_front()?;
            }
            Ok(wal.front_is_free())
        })
    }

    /// Notes in the log that all flushed with `sync` so far has been durable, so that damage to the newest records is
    /// told from a write that never reached the disk. For a clean shutdown; every later group says the same.
    ///
    /// # Errors
    ///
    /// [`Fault::Io`] when the disk fails or has failed before.
    pub fn seal(&mut self) -> Result<(), Fault> {
        self.guarded(|wal| {
            wal.write_pending(true, &mut |_| ())?;
            if wal.active.fits(0) {
                wal.active.open_group();
                wal.active.write()?;
                wal.active.sync()?;
            }
            Ok(())
        })
    }

    /// Zero-filled segments that wait to be used. None is left only when the disk is full or the log is very new.
    pub fn spare_segments(&self) -> usize {
        self.spares.ready()
    }

    /// Whether a spare could not be filled because the disk is full: the log lives on its reserve.
    pub fn is_out_of_space(&self) -> bool {
        self.spares.out_of_space()
    }

    fn buffer(&mut self, operation: Operation) {
        let bytes = operation.record_bytes();
        assert!(
            bytes <= PAYLOAD_BYTES_MAX,
            "a record of {bytes} bytes is above the limit"
        );
        self.pending_bytes += bytes;
        self.pending.push(operation);
    }

    fn check_alive(&self) -> Result<(), Fault> {
        if self.failed {
            let error = io::Error::other("an earlier failure ended this log");
            return Err(Fault::io("write", &self.options.directory, error));
        }
        Ok(())
    }

    /// Runs `action`; after a failure nothing else runs.
    fn guarded<T>(&mut self, action: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.check_alive()?;
        let result = action(self);
        self.failed = result.is_err();
        result
    }

    fn write_pending(&mut self, sync: bool, done: &mut dyn FnMut(FlushStep)) -> Result<(), Fault> {
        let operations = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut written = 0;
        let mut locations = Vec::with_capacity(operations.len());
        let mut new_segments = Vec::new();
        for operation in &operations {
            let bytes = operation.record_bytes();
            if !self.active.fits(bytes) {
                written += self.active.write()?;
                self.roll(bytes)?;
                new_segments.push(Arc::clone(&self.active.segment));
            }
            locations.push(self.active.push(operation));
            self.note_written(operation);
        }
        written += self.active.write()?;
        done(FlushStep::Written);
        if sync {
            self.active.sync()?;
            done(FlushStep::Synced);
            self.purged_durably = self.state.purged;
        }
        self.publish(&operations, locations, new_segments);
        self.pending = operations;
        self.pending.clear();
        if sync {
            self.release_one()?;
        }
        self.spares.pay(written)
    }

    fn note_written(&mut self, operation: &Operation) {
        self.state.apply(operation);
        match operation {
            Operation::Entry(entry) => self.last_written = Some(entry.position),
            Operation::Truncate(kept) => self.last_written = *kept,
            Operation::Purge(upto) if next_index(Some(*upto)) >= next_index(self.last_written) => {
                self.last_written = Some(*upto);
            }
            _ => {}
        }
    }

    /// Makes what was written visible to readers.
    fn publish(
        &self,
        operations: &[Operation],
        locations: Vec<Option<Location>>,
        new_segments: Vec<Arc<Segment>>,
    ) {
        let mut table = self.table.lock();
        for segment in new_segments {
            table.segments.insert(segment.number, segment);
        }
        for (operation, location) in operations.iter().zip(locations) {
            match operation {
                Operation::Truncate(kept) => table.truncate_after(*kept),
                Operation::Purge(upto) => table.purge(*upto),
                _ => {}
            }
            if let Some(location) = location {
                table.push(location);
            }
        }
        assert_eq!(
            table.last(),
            self.last_written,
            "truncations keep positions that are in the log"
        );
    }

    /// Closes the active segment and begins the next one, with room for a record of `record_bytes`.
    fn roll(&mut self, record_bytes: usize) -> Result<(), Fault> {
        self.active.sync()?;
        crate::fail_point!("walBeforeRoll");
        let sectors = Active::sectors_needed(&self.state, record_bytes);
        let spare = self.spares.take(sectors * sector::SECTOR_BYTES as u64)?;
        let (previous_end, previous_crc) = self.active.end();
        let header = Header {
            cluster_id: self.options.cluster_id,
            member_id: self.options.member_id,
            number: self.active.segment.number + 1,
            generation: self.spares.next_generation()?,
            sectors: spare.sectors(),
            previous_end,
            previous_crc,
            base: self.last_written,
        };
        let next = Active::create(&*self.disk, &self.options, spare, &header, &self.state)?;
        crate::fail_point!("walAfterRoll");
        crate::reached!("wal_segment_rolled");
        let full = std::mem::replace(&mut self.active, next);
        self.closed.push_back(Closed {
            bytes: full.bytes(),
            segment: full.segment,
            last: header.base,
        });
        Ok(())
    }

    /// Whether the oldest segment is not needed: all its entries have been purged durably and nobody reads it.
    fn front_is_free(&self) -> bool {
        let Some(front) = self.closed.front() else {
            return false;
        };
        // Entries that came later than `last` are in later segments, whatever was truncated meanwhile.
        let purged = next_index(front.last) <= next_index(self.purged_durably);
        // The lock keeps readers from finding the segment; those that have found it hold it.
        let table = self.table.lock();
        let ours = 1 + usize::from(table.segments.contains_key(&front.segment.number));
        purged && Arc::strong_count(&front.segment) == ours
    }

    /// Makes the oldest segment a spare if it is not needed and a spare is. One at a time, in order and durably, so
    /// that the segments left never have a gap.
    fn release_one(&mut self) -> Result<(), Fault> {
        if !self.spares.wanted() || !self.front_is_free() {
            return Ok(());
        }
        let Some(front) = self.take_front() else {
            return Ok(());
        };
        if front.bytes != self.options.segment_bytes {
            return self.remove_file(&front.segment.path);
        }
        let path = self.spares.new_path();
        let from = &front.segment.path;
        self.disk
            .rename(from, &path)
            .map_err(|error| Fault::io("rename", from, error))?;
        self.sync_directory()?;
        crate::reached!("wal_segment_recycled");
        self.spares.put(Spare {
            file: Arc::clone(&front.segment.file),
            path,
            bytes: front.bytes,
        });
        Ok(())
    }

    fn remove_front(&mut self) -> Result<(), Fault> {
        match self.take_front() {
            Some(front) => {
                crate::reached!("wal_segment_removed");
                self.remove_file(&front.segment.path)
            }
            None => Ok(()),
        }
    }

    fn take_front(&mut self) -> Option<Closed> {
        let front = self.closed.pop_front()?;
        self.table.lock().segments.remove(&front.segment.number);
        Some(front)
    }

    fn remove_file(&self, path: &Path) -> Result<(), Fault> {
        self.disk
            .remove(path)
            .map_err(|error| Fault::io("remove", path, error))?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), Fault> {
        let directory = &self.options.directory;
        self.disk
            .sync_directory(directory)
            .map_err(|error| Fault::io("sync", directory, error))
    }
}
