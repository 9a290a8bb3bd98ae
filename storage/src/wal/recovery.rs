//! Reading the log back at start-up, and the rule that tells a write which never reached the disk from damage.
//!
//! All segments but the last were synced before the next was begun, and the next one's header says where they end: in
//! them anything that is not a valid record is damage. In the last segment the log ends at the first record of which
//! a sector was never written in this life of the file. That is a torn tail, and cut, unless a later group says that
//! the place had been synced before. Sectors that were written and now hold something else are damage everywhere.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::active::Resume;
use super::reader::{Location, Table, next_index};
use super::record::{self, Content, Found, Operation, State};
use super::sector::{Age, SECTOR_BYTES, Sectors, file_offset, next_sector, sector_of, sector_start};
use super::segment::{self, Header, Name, Segment};
use super::{Closed, WalOptions};
use crate::disk::Disk;
use crate::error::Fault;
use crate::mutant;
use crate::revision::LogPosition;

/// The log as it was found.
pub(super) struct Replay {
    pub(super) state: State,
    pub(super) table: Table,
    pub(super) closed: VecDeque<Closed>,
    /// The last segment. Its tail has been written again and synced.
    pub(super) last: Resume,
    /// File, offset and bytes of the tail that did not reach the disk, if there is one. The last segment must then
    /// not be continued.
    pub(super) tail_cut: Option<(PathBuf, u64, u64)>,
    pub(super) generation: u32,
}

/// The numbers of the segments among `names`, ascending.
pub(super) fn segment_numbers(names: &[String]) -> Vec<u64> {
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| match Name::parse(name) {
            Some(Name::Segment(number)) => Some(number),
            _ => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Reads all segments. `numbers` is not empty.
pub(super) fn replay(disk: &dyn Disk, options: &WalOptions, numbers: &[u64]) -> Result<Replay, Fault> {
    let segments = open_all(disk, options, numbers)?;
    let mut reading = Reading::new(&segments[0].1);
    let mut closed = VecDeque::new();
    for pair in segments.windows(2) {
        let ((segment, header), (_, next)) = (&pair[0], &pair[1]);
        let loaded = load(segment, header)?;
        reading.read_closed(segment, &loaded, next)?;
        crate::reached!("wal_closed_segment_read");
        closed.push_back(Closed {
            segment: Arc::clone(segment),
            bytes: loaded.end() * SECTOR_BYTES as u64,
            last: next.base,
        });
    }
    let (segment, header) = segments.last().expect("there is at least one segment");
    let loaded = load(segment, header)?;
    let tail = reading.read_last(segment, &loaded)?;
    rewrite_tail(segment, &tail)?;
    for (segment, _) in &segments {
        reading.table.segments.insert(segment.number, Arc::clone(segment));
    }
    reading.check_complete(&segments[0].0)?;
    Ok(Replay {
        last: Resume {
            segment: Arc::clone(segment),
            sectors: loaded.end(),
            end: reading.end,
            crc: reading.crc,
        },
        state: reading.state,
        table: reading.table,
        closed,
        tail_cut: tail.cut.map(|(from, bytes)| (segment.path.clone(), from, bytes)),
        generation: segments
            .iter()
            .map(|(segment, _)| segment.identity.generation.number())
            .max()
            .unwrap_or_default(),
    })
}

/// Opens all segments and checks that none is missing between the oldest and the newest.
fn open_all(
    disk: &dyn Disk,
    options: &WalOptions,
    numbers: &[u64],
) -> Result<Vec<(Arc<Segment>, Header)>, Fault> {
    let mut segments = Vec::with_capacity(numbers.len());
    for (number, expected) in numbers.iter().zip(numbers[0]..) {
        let path = Name::segment(&options.directory, *number);
        if *number != expected {
            let missing = Name::segment(&options.directory, expected);
            return Err(Fault::damaged(&missing, 0, "this segment of the log is missing"));
        }
        let file = disk
            .open(&path, false)
            .map_err(|error| Fault::io("open", &path, error))?;
        segments.push(segment::open(file, path, *number, options)?);
    }
    Ok(segments)
}

fn load(segment: &Segment, header: &Header) -> Result<Sectors, Fault> {
    Sectors::load(&*segment.file, 0, header.sectors).map_err(|error| Fault::io("read", &segment.path, error))
}

/// Where the last segment ends.
struct Tail {
    /// Sectors from here on are not known to have been synced by the process that wrote them.
    unproven_sector: u64,
    /// The first sector after those kept.
    end_sector: u64,
    /// File offset and bytes of what did not reach the disk as a whole.
    cut: Option<(u64, u64)>,
}

/// Writes the newest sectors again, as they are, and syncs them. After a sync that failed, the system may show bytes
/// which the disk does not have and which a plain sync would not write any more.
fn rewrite_tail(segment: &Segment, tail: &Tail) -> Result<(), Fault> {
    let from = tail.unproven_sector * SECTOR_BYTES as u64;
    let to = tail.end_sector * SECTOR_BYTES as u64;
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).expect("was loaded before")];
    segment
        .file
        .read_exact_at(&mut bytes, from)
        .map_err(|error| Fault::io("read", &segment.path, error))?;
    segment
        .file
        .write_all_at(&bytes, from)
        .map_err(|error| Fault::io("write", &segment.path, error))?;
    segment
        .file
        .sync()
        .map_err(|error| Fault::io("sync", &segment.path, error))
}

/// What has been read so far.
struct Reading {
    state: State,
    table: Table,
    /// Data offset after the last record, and its checksum.
    end: u64,
    crc: u32,
    /// Whether the current segment's state has been read, and whether it is the oldest one.
    state_seen: bool,
    oldest: bool,
}

impl Reading {
    fn new(oldest: &Header) -> Self {
        Self {
            state: State::default(),
            table: Table::starting_after(oldest.base),
            end: 0,
            crc: 0,
            state_seen: false,
            oldest: true,
        }
    }

    fn begin(&mut self, segment: &Segment) -> u64 {
        self.state_seen = false;
        self.crc = segment.identity.header_crc;
        self.end = sector_start(1);
        self.end
    }

    /// Reads a segment that is followed by one whose header is `next`.
    fn read_closed(&mut self, segment: &Segment, sectors: &Sectors, next: &Header) -> Result<(), Fault> {
        let mut at = self.begin(segment);
        while at < next.previous_end {
            let what = match record::read(sectors, segment.identity, at, Some(self.crc)) {
                Found::Record {
                    content,
                    payload_bytes,
                    crc,
                    end,
                } => {
                    self.apply(segment, at, content, payload_bytes)?;
                    (self.crc, self.end, at) = (crc, end, end);
                    continue;
                }
                Found::EndOfGroup(next) => {
                    at = next;
                    continue;
                }
                Found::Lost => "a sector that had been synced is lost",
                Found::Wrong(what) => what,
            };
            return Err(Fault::damaged(&segment.path, file_offset(at), what));
        }
        if (self.end, self.crc) != (next.previous_end, next.previous_crc) {
            let what = "the segment does not end as the next one says";
            return Err(Fault::damaged(&segment.path, file_offset(at), what));
        }
        if next.base != self.table.last() {
            let what = "the next segment does not begin where this one ends";
            return Err(Fault::damaged(&segment.path, file_offset(at), what));
        }
        self.oldest = false;
        Ok(())
    }

    /// Reads the newest segment up to its last whole record.
    fn read_last(&mut self, segment: &Segment, sectors: &Sectors) -> Result<Tail, Fault> {
        let mut at = self.begin(segment);
        let mut unproven_sector = 1;
        while at < sector_start(sectors.end()) {
            match record::read(sectors, segment.identity, at, Some(self.crc)) {
                Found::Record {
                    content,
                    payload_bytes,
                    crc,
                    end,
                } => {
                    if let Content::Group { synced_sector } = content {
                        unproven_sector = unproven_sector.max(synced_sector);
                    }
                    self.apply(segment, at, content, payload_bytes)?;
                    (self.crc, self.end, at) = (crc, end, end);
                }
                Found::EndOfGroup(next) => at = next,
                Found::Lost => break,
                // M07: damage in the middle of the log passes for a torn tail.
                Found::Wrong(_) if mutant!("M07") => break,
                Found::Wrong(what) => return Err(Fault::damaged(&segment.path, file_offset(at), what)),
            }
        }
        if !self.state_seen {
            let what = "the state that the segment begins with is lost";
            return Err(Fault::damaged(&segment.path, file_offset(at), what));
        }
        Ok(Tail {
            unproven_sector,
            end_sector: next_sector(self.end),
            cut: self.torn(segment, sectors, at)?,
        })
    }

    /// File offset and bytes of what lies after `at`, where the last segment ends, and was written in this life.
    fn torn(&self, segment: &Segment, sectors: &Sectors, at: u64) -> Result<Option<(u64, u64)>, Fault> {
        let current = |sector: &u64| sectors.age(*sector, segment.identity.generation) == Age::Current;
        let Some(last) = (sector_of(at)..sectors.end()).rev().find(current) else {
            return Ok(None);
        };
        for sector in (sector_of(at) + 1..=last).filter(current) {
            // A group's first record starts at the start of a sector.
            let found = record::read(sectors, segment.identity, sector_start(sector), None);
            if let Found::Record {
                content: Content::Group { synced_sector },
                ..
            } = found
                && synced_sector > sector_of(at)
            {
                let what = "a sector that had been synced is lost";
                return Err(Fault::damaged(&segment.path, file_offset(at), what));
            }
        }
        let from = file_offset(at);
        Ok(Some((from, (last + 1) * SECTOR_BYTES as u64 - from)))
    }

    fn apply(
        &mut self,
        segment: &Segment,
        offset: u64,
        content: Content,
        payload_bytes: usize,
    ) -> Result<(), Fault> {
        let damaged = |what| Err(Fault::damaged(&segment.path, file_offset(offset), what));
        match content {
            Content::Group { .. } => {}
            Content::State(state) => {
                if self.oldest {
                    self.state = state;
                } else if self.state != state {
                    return damaged("the segment begins with another state than the one before it ends with");
                }
                self.state_seen = true;
            }
            Content::Entry(_) | Content::Operation(_) if !self.state_seen => {
                return damaged("the segment does not begin with a state");
            }
            Content::Entry(position) => {
                if position.index != next_index(self.table.last()) {
                    return damaged("an entry does not follow the one before it");
                }
                self.table.push(Location {
                    term: position.term,
                    segment: segment.number,
                    offset,
                    payload_bytes: u32::try_from(payload_bytes).expect("read from a u32"),
                });
            }
            Content::Operation(operation) => {
                match operation {
                    Operation::Truncate(kept) => self.table.truncate_after(kept),
                    Operation::Purge(upto) => self.table.purge(upto),
                    _ => {}
                }
                self.state.apply(&operation);
            }
        }
        Ok(())
    }

    /// What is below the first entry must have been purged; else segments older than the oldest one are missing.
    fn check_complete(&self, oldest: &Segment) -> Result<(), Fault> {
        let index = |position: Option<LogPosition>| position.map(|position| position.index);
        if index(self.table.before()) == index(self.state.purged) {
            return Ok(());
        }
        let what = format!(
            "the log starts after index {:?} but was purged up to {:?}: segments before this one are missing",
            index(self.table.before()),
            index(self.state.purged)
        );
        Err(Fault::damaged(&oldest.path, 0, what))
    }
}
