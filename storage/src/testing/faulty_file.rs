//! One file of the faulty disk: what is written, what of that a sync has made durable, and what a crash can leave.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::Random;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
/// Versions of one sector remembered between two syncs; of more, the middle ones are forgotten.
const VERSIONS_MAX: usize = 8;
/// A half-written sector is new up to a multiple of this.
const TEAR_BYTES: usize = 64;

/// A sector; `None` is all zeros.
type Sector = Option<Arc<[u8; SECTOR_BYTES]>>;

/// Length and sectors.
#[derive(Clone, Debug, Default)]
struct Content {
    length: u64,
    sectors: Vec<Sector>,
}

impl Content {
    fn sector(&self, place: usize) -> Sector {
        self.sectors.get(place).cloned().flatten()
    }

    fn set_sector(&mut self, place: usize, sector: Sector) {
        if self.sectors.len() <= place {
            self.sectors.resize(place + 1, None);
        }
        self.sectors[place] = sector;
    }

    fn set_length(&mut self, length: u64) {
        self.length = length;
        let sectors = index(length.div_ceil(SECTOR_BYTES as u64));
        self.sectors.truncate(sectors);
        // Bytes past the end read as zeros if the file grows again.
        let used = index(length % SECTOR_BYTES as u64);
        if used != 0
            && let Some(Some(last)) = self.sectors.get_mut(sectors - 1)
        {
            Arc::make_mut(last)[used..].fill(0);
        }
    }
}

/// A file with a cache above it, as a system has one.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    /// What a read returns.
    cached: Content,
    /// What is left for certain after a power loss.
    durable: Content,
    /// Sectors written since the last sync, with every version of each.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// Lengths since the last sync.
    lengths: Vec<u64>,
    /// Sectors that a failed sync has given up: they read as written, but no later sync writes them.
    dropped: BTreeSet<usize>,
}

impl FileState {
    pub(super) fn length(&self) -> u64 {
        self.cached.length
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> bool {
        if offset + buffer.len() as u64 > self.cached.length {
            return false;
        }
        for_each_sector(offset, buffer.len(), |place, within, range| {
            match self.cached.sector(place) {
                Some(sector) => buffer[range.clone()].copy_from_slice(&sector[within..within + range.len()]),
                None => buffer[range].fill(0),
            }
        });
        true
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        if offset + data.len() as u64 > self.cached.length {
            self.set_length(offset + data.len() as u64);
        }
        for_each_sector(offset, data.len(), |place, within, range| {
            let mut sector = self
                .cached
                .sector(place)
                .map_or([0; SECTOR_BYTES], |sector| *sector);
            sector[within..within + range.len()].copy_from_slice(&data[range]);
            let zeros = sector.iter().all(|byte| *byte == 0);
            let sector = (!zeros).then(|| Arc::new(sector));
            let versions = self.dirty.entry(place).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(VERSIONS_MAX / 2);
            }
            versions.push(sector.clone());
            self.cached.set_sector(place, sector);
        });
    }

    /// Zeros, as far as the file goes; they come to the disk as a write does.
    pub(super) fn make_hole(&mut self, offset: u64, bytes: usize) {
        let within = index(self.cached.length.saturating_sub(offset)).min(bytes);
        self.write(&vec![0; within], offset);
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.cached.set_length(length);
        self.lengths.push(length);
        // A cut sector is a write like any other.
        let last = index(length / SECTOR_BYTES as u64);
        if !length.is_multiple_of(SECTOR_BYTES as u64) && self.cached.sectors.len() > last {
            let sector = self.cached.sector(last);
            self.dirty.entry(last).or_default().push(sector);
        }
    }

    pub(super) fn sync(&mut self) {
        for (place, _) in std::mem::take(&mut self.dirty) {
            let sector = self.cached.sector(place);
            self.durable.set_sector(place, sector);
            self.dropped.remove(&place);
        }
        self.lengths.clear();
        self.durable.set_length(self.cached.length);
    }

    /// A sync that fails: what it should have written is not written, now or by a later sync.
    pub(super) fn fail_sync(&mut self) {
        self.dropped.extend(std::mem::take(&mut self.dirty).into_keys());
    }

    /// What a power loss leaves: each unsynced sector as it was, as any write since left it, or half of each; a
    /// length that is the synced one or a later one.
    pub(super) fn crash(&self, random: &mut Random) -> Self {
        let mut left = self.durable.clone();
        let lengths = self.lengths.len();
        if lengths > 0 && random.chance(1, 2) {
            // The lengths between are as possible as the last one, but the last one is what most crashes leave.
            let place = if random.chance(3, 4) {
                lengths - 1
            } else {
                random.place(lengths)
            };
            left.set_length(self.lengths[place]);
        }
        let end = index(left.length.div_ceil(SECTOR_BYTES as u64));
        for (place, versions) in self.dirty.range(..end) {
            let old = left.sector(*place);
            let sector = match random.below(10) {
                0 => torn(&old, &versions[random.place(versions.len())], random),
                1..=4 => old,
                5..=7 => versions.last().cloned().flatten(),
                _ => versions[random.place(versions.len())].clone(),
            };
            left.set_sector(*place, sector);
        }
        for place in self.dropped.range(..end) {
            if !self.dirty.contains_key(place) && random.chance(1, 4) {
                left.set_sector(*place, self.cached.sector(*place));
            }
        }
        let length = left.length;
        left.set_length(length);
        Self {
            cached: left.clone(),
            durable: left,
            ..Self::default()
        }
    }

    /// The first sectors that are not zeros, from the one on in which `from` is.
    pub(super) fn next_data(&self, from: u64) -> Option<Range<u64>> {
        let first = index(from / SECTOR_BYTES as u64);
        let sectors = self.cached.sectors.get(first..)?;
        let start = first + sectors.iter().position(Option::is_some)?;
        let taken = self.cached.sectors[start..]
            .iter()
            .take_while(|sector| sector.is_some());
        let end = start + taken.count();
        Some((start * SECTOR_BYTES) as u64..(end * SECTOR_BYTES) as u64)
    }

    /// Bytes of sectors that are not zeros.
    pub(super) fn bytes_taken(&self) -> u64 {
        (self.cached.sectors.iter().flatten().count() * SECTOR_BYTES) as u64
    }

    /// All bytes, as a read sees them.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.cached.length)];
        self.read(&mut bytes, 0);
        bytes
    }

    /// A file with these bytes, all durable.
    pub(super) fn with_bytes(bytes: &[u8]) -> Self {
        let mut state = Self::default();
        state.write(bytes, 0);
        state.sync();
        state
    }
}

/// A sector whose beginning is new and whose end is old, as a disk writes from the front.
fn torn(old: &Sector, new: &Sector, random: &mut Random) -> Sector {
    let bytes = |sector: &Sector| sector.as_deref().copied().unwrap_or([0; SECTOR_BYTES]);
    let mut sector = bytes(old);
    let to = TEAR_BYTES * (1 + random.place(SECTOR_BYTES / TEAR_BYTES - 1));
    sector[..to].copy_from_slice(&bytes(new)[..to]);
    Some(Arc::new(sector))
}

/// Calls `with` for each sector under `bytes` bytes at `offset`: its place, where in it, and which of the bytes.
fn for_each_sector(offset: u64, bytes: usize, mut with: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < bytes {
        let at = index(offset) + done;
        let within = at % SECTOR_BYTES;
        let part = (SECTOR_BYTES - within).min(bytes - done);
        with(at / SECTOR_BYTES, within, done..done + part);
        done += part;
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files of tests fit memory")
}
