//! Where each entry is, and reading entries back while the log is being written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::WalEntry;
use super::record::{Content, ENTRY_HEAD_BYTES, Found, HEADER_BYTES};
use super::sector::{Sectors, next_sector, sector_of};
use super::segment::Segment;
use crate::error::Fault;
use crate::revision::LogPosition;

/// Bytes of other records that are read along rather than split one read into two.
const GAP_BYTES_MAX: u64 = 4096;

/// Where one entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) term: u64,
    /// Number of the segment.
    pub(super) segment: u64,
    /// Data offset of the record.
    pub(super) offset: u64,
    /// Bytes of the record's payload.
    pub(super) payload_bytes: u32,
}

impl Location {
    fn end(&self) -> u64 {
        self.offset + HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// The entries that are there, without gaps, and the segments they are in.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The position just before the first entry: the newest one purged, once the log has been recovered.
    before: Option<LogPosition>,
    entries: VecDeque<Location>,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
}

impl Table {
    /// An empty table whose next entry follows `before`.
    pub(super) fn starting_after(before: Option<LogPosition>) -> Self {
        Self {
            before,
            ..Self::default()
        }
    }

    /// Index of the first entry, or of the next one if there is none.
    fn first(&self) -> u64 {
        next_index(self.before)
    }

    /// The position just before the first entry.
    pub(super) fn before(&self) -> Option<LogPosition> {
        self.before
    }

    /// Position of the newest entry, or of the one before the first if there is none.
    pub(super) fn last(&self) -> Option<LogPosition> {
        match self.entries.back() {
            Some(entry) => Some(LogPosition {
                term: entry.term,
                index: self.first() + self.entries.len() as u64 - 1,
            }),
            None => self.before,
        }
    }

    pub(super) fn entry(&self, index: u64) -> Option<&Location> {
        let place = usize::try_from(index.checked_sub(self.first())?).ok()?;
        self.entries.get(place)
    }

    pub(super) fn position_of(&self, index: u64) -> Option<LogPosition> {
        let term = self.entry(index)?.term;
        Some(LogPosition { term, index })
    }

    fn newest_beyond_files(&self, files: u64) -> Option<u64> {
        let (newest, _) = self.segments.last_key_value()?;
        let too_old = newest.checked_sub(files)?;
        let count = self.entries.partition_point(|entry| entry.segment <= too_old);
        let count = count.min(self.entries.len().saturating_sub(1)) as u64;
        count.checked_sub(1).map(|place| self.first() + place)
    }

    /// Adds the entry after the last one.
    pub(super) fn push(&mut self, location: Location) {
        self.entries.push_back(location);
    }

    /// Drops all entries after `kept`. What is below the first entry stays unknown.
    pub(super) fn truncate_after(&mut self, kept: Option<LogPosition>) {
        let next = next_index(kept);
        if next < self.first() {
            self.entries.clear();
            self.before = kept;
            return;
        }
        let keep = usize::try_from(next - self.first()).unwrap_or(usize::MAX);
        self.entries.truncate(keep);
    }

    /// Forgets all entries up to `upto`, of which some or all may not be there.
    pub(super) fn purge(&mut self, upto: LogPosition) {
        let next = next_index(Some(upto));
        if next < self.first() {
            return;
        }
        let gone = usize::try_from(next - self.first()).unwrap_or(usize::MAX);
        self.entries.drain(..gone.min(self.entries.len()));
        self.before = Some(upto);
    }
}

/// The index that follows a position.
pub(super) fn next_index(position: Option<LogPosition>) -> u64 {
    position.map_or(0, |position| position.index + 1)
}

/// Reads entries. Clones share the table; reading takes its lock only to find where entries are.
#[derive(Clone, Debug)]
pub struct WalReader {
    pub(super) table: Arc<Mutex<Table>>,
}

/// Entries that one read fetches: same segment, little between them.
struct Run {
    segment: Arc<Segment>,
    entries: Vec<(u64, Location)>,
}

impl WalReader {
    /// The entries from index `from` up to but not including `to_exclusive`, as many as are there without a gap and
    /// fit `max_bytes` of payload; at least one if the one at `from` is there. Only flushed entries are there.
    ///
    /// # Errors
    ///
    /// [`Fault::Damaged`] when the bytes on disk are not those written, [`Fault::Io`] when they cannot be read.
    pub fn read(&self, from: u64, to_exclusive: u64, max_bytes: usize) -> Result<Vec<WalEntry>, Fault> {
        let runs = self.runs(from, to_exclusive, max_bytes);
        let mut entries = Vec::with_capacity(runs.iter().map(|run| run.entries.len()).sum());
        for run in runs {
            run.read_into(&mut entries)?;
        }
        Ok(entries)
    }

    /// Index of the newest entry that may go so that entries are in no more than `files` segments; none if they are not in
    /// more. The newest entry always stays.
    pub fn newest_beyond_files(&self, files: u64) -> Option<u64> {
        self.table.lock().newest_beyond_files(files)
    }

    /// The position of the entry at `index`, if it is there.
    pub fn position_of(&self, index: u64) -> Option<LogPosition> {
        self.table.lock().position_of(index)
    }

    fn runs(&self, from: u64, to_exclusive: u64, max_bytes: usize) -> Vec<Run> {
        let table = self.table.lock();
        let mut runs: Vec<Run> = Vec::new();
        let mut bytes = 0;
        for index in from..to_exclusive {
            let Some(&location) = table.entry(index) else {
                break;
            };
            bytes += (location.payload_bytes as usize).saturating_sub(ENTRY_HEAD_BYTES);
            if bytes > max_bytes && index > from {
                break;
            }
            if let Some(run) = runs.last_mut().filter(|run| run.is_next(&location)) {
                run.entries.push((index, location));
                continue;
            }
            let segment = table.segments.get(&location.segment);
            runs.push(Run {
                segment: Arc::clone(segment.expect("an entry's segment is kept while the entry is there")),
                entries: vec![(index, location)],
            });
        }
        runs
    }
}

impl Run {
    fn is_next(&self, location: &Location) -> bool {
        self.entries.last().is_some_and(|(_, last)| {
            // A truncation can leave the next entry at a place before the last one's.
            self.segment.number == location.segment
                && location
                    .offset
                    .checked_sub(last.end())
                    .is_some_and(|gap| gap <= GAP_BYTES_MAX)
        })
    }

    fn read_into(&self, entries: &mut Vec<WalEntry>) -> Result<(), Fault> {
        let (Some((_, first)), Some((_, last))) = (self.entries.first(), self.entries.last()) else {
            return Ok(());
        };
        let Segment {
            file, path, identity, ..
        } = &*self.segment;
        let sector = sector_of(first.offset);
        let sectors = Sectors::load(&**file, sector, next_sector(last.end()) - sector)
            .map_err(|error| Fault::io("read", path, error))?;
        for (index, location) in &self.entries {
            let expected = LogPosition {
                term: location.term,
                index: *index,
            };
            let what = match super::record::read(&sectors, *identity, location.offset, None) {
                Found::Record {
                    content: Content::Entry(position),
                    payload_bytes,
                    ..
                } if position == expected && payload_bytes == location.payload_bytes as usize => continue,
                Found::Wrong(what) => what,
                Found::Record { .. } | Found::EndOfGroup(_) | Found::Lost => {
                    "an entry is not where it was written"
                }
            };
            return Err(Fault::damaged(
                path,
                super::sector::file_offset(location.offset),
                what,
            ));
        }
        let start = sectors.data_start();
        let data = Bytes::from(sectors.into_data());
        for (index, location) in &self.entries {
            let place = |offset: u64| usize::try_from(offset - start).expect("was read into memory");
            let from = place(location.offset) + HEADER_BYTES + ENTRY_HEAD_BYTES;
            entries.push(WalEntry {
                position: LogPosition {
                    term: location.term,
                    index: *index,
                },
                payload: data.slice(from..place(location.end())),
            });
        }
        Ok(())
    }
}
