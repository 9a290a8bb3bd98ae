//! Sectors: how the log tells bytes that were never written from bytes that were written and then changed.
//!
//! A segment is a row of 512-byte sectors. Each carries 508 bytes of data and ends in a stamp that names the
//! generation (the life of the file) which wrote it. What a disk writes whole or not at all is a sector, so after a
//! power loss a sector has either the stamp of its new life or of none or an older one. A stamp has a parity, so one
//! flipped bit never turns it into another valid stamp. Offsets below are *data offsets*: they count data bytes only.

use std::io;

use crate::disk::DiskFile;
use crate::mutant;

/// Bytes of a sector on disk. Source: what disks promise to write whole.
pub(super) const SECTOR_BYTES: usize = 512;
/// Bytes of data in a sector; the rest is its stamp.
pub(super) const SECTOR_DATA_BYTES: usize = SECTOR_BYTES - STAMP_BYTES;
const STAMP_BYTES: usize = 4;
/// Bytes read from a file at once when a whole segment is loaded.
const LOAD_BYTES: usize = 1024 * 1024;

/// The life of a segment file: grows by one each time any file of the log is put to use, so no two lives share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(u32);

impl Generation {
    /// 28 bits: at 64 MiB a segment, 16 EiB of log.
    const MAX: u32 = (1 << 28) - 1;

    /// The generation of that number, or `None` for zero (never written) and past the last one.
    pub(super) fn new(number: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// The number in the upper 28 bits, the exclusive or of its seven half-bytes in the lower four.
    fn stamp(self) -> u32 {
        let mut parity = self.0 ^ (self.0 >> 16);
        parity ^= parity >> 8;
        parity ^= parity >> 4;
        (self.0 << 4) | (parity & 0xf)
    }
}

/// What a sector's stamp says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Written in this life of the file.
    Current,
    /// Never written, or written in an earlier life: a write to it in this life has not reached the disk.
    Older,
    /// No write of ours leaves this: the stamp itself is damaged.
    Impossible,
}

fn age(stamp: u32, current: Generation) -> Age {
    if stamp == 0 {
        return Age::Older;
    }
    match Generation::new(stamp >> 4) {
        Some(generation) if generation.stamp() != stamp || generation > current => Age::Impossible,
        Some(generation) if generation == current => Age::Current,
        // M08: what a file holds from a former life passes for written in this one.
        Some(_) if mutant!("M08") => Age::Current,
        Some(_) => Age::Older,
        None => Age::Impossible,
    }
}

/// The sector that holds the data byte at `offset`.
pub(super) fn sector_of(offset: u64) -> u64 {
    offset / SECTOR_DATA_BYTES as u64
}

/// The first sector that starts at or after `offset`.
pub(super) fn next_sector(offset: u64) -> u64 {
    offset.div_ceil(SECTOR_DATA_BYTES as u64)
}

/// The data offset at which `sector` starts.
pub(super) fn sector_start(sector: u64) -> u64 {
    sector * SECTOR_DATA_BYTES as u64
}

/// Where in the file the data byte at `offset` is.
pub(super) fn file_offset(offset: u64) -> u64 {
    sector_of(offset) * SECTOR_BYTES as u64 + offset % SECTOR_DATA_BYTES as u64
}

/// Builds the bytes of one write: data goes in, stamped sectors come out.
#[derive(Debug)]
pub(super) struct SectorWriter {
    bytes: Vec<u8>,
    first_sector: u64,
    stamp: [u8; STAMP_BYTES],
}

impl SectorWriter {
    pub(super) fn new(generation: Generation) -> Self {
        Self {
            bytes: Vec::new(),
            first_sector: 0,
            stamp: generation.stamp().to_le_bytes(),
        }
    }

    /// Starts over at the beginning of `sector`, keeping a buffer of at most `keep_bytes`.
    pub(super) fn restart(&mut self, sector: u64, keep_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.first_sector = sector;
    }

    /// The data offset of the next byte pushed.
    pub(super) fn offset(&self) -> u64 {
        sector_start(self.first_sector + (self.bytes.len() / SECTOR_BYTES) as u64)
            + (self.bytes.len() % SECTOR_BYTES) as u64
    }

    pub(super) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = SECTOR_DATA_BYTES - self.bytes.len() % SECTOR_BYTES;
            let (now, later) = data.split_at(room.min(data.len()));
            self.bytes.extend_from_slice(now);
            if now.len() == room {
                self.bytes.extend_from_slice(&self.stamp);
            }
            data = later;
        }
    }

    /// Fills the last sector with zeros and returns what to write, and at which file offset.
    pub(super) fn finish(&mut self) -> (&[u8], u64) {
        let used = self.bytes.len() % SECTOR_BYTES;
        if used != 0 {
            let padded = self.bytes.len() + SECTOR_DATA_BYTES - used;
            self.bytes.resize(padded, 0);
            self.bytes.extend_from_slice(&self.stamp);
        }
        (&self.bytes, self.first_sector * SECTOR_BYTES as u64)
    }
}

/// Sectors read back: their data in one piece, and their stamps.
pub(super) struct Sectors {
    first: u64,
    data: Vec<u8>,
    stamps: Vec<u32>,
}

impl Sectors {
    /// Reads `count` sectors from `first` on.
    pub(super) fn load(file: &dyn DiskFile, first: u64, count: u64) -> io::Result<Self> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let mut sectors = Self {
            first,
            data: Vec::with_capacity(count * SECTOR_DATA_BYTES),
            stamps: Vec::with_capacity(count),
        };
        let mut raw = vec![0; LOAD_BYTES.min(count * SECTOR_BYTES)];
        let mut offset = first * SECTOR_BYTES as u64;
        let mut left = count * SECTOR_BYTES;
        while left > 0 {
            let part = left.min(raw.len());
            file.read_exact_at(&mut raw[..part], offset)?;
            for sector in raw[..part].chunks_exact(SECTOR_BYTES) {
                let (data, stamp) = sector.split_at(SECTOR_DATA_BYTES);
                sectors.data.extend_from_slice(data);
                sectors
                    .stamps
                    .push(u32::from_le_bytes(stamp.try_into().expect("512 - 508 = 4")));
            }
            offset += part as u64;
            left -= part;
        }
        Ok(sectors)
    }

    /// The sector after the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.stamps.len() as u64
    }

    /// The age of `sector`, which must be one of those loaded.
    pub(super) fn age(&self, sector: u64, current: Generation) -> Age {
        let place = usize::try_from(sector - self.first).expect("was loaded, so it fits memory");
        age(self.stamps[place], current)
    }

    /// The data from `offset` on, of `bytes` bytes, if all of it was loaded.
    pub(super) fn data(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(sector_start(self.first))?).ok()?;
        self.data.get(from..from.checked_add(bytes)?)
    }

    /// All data, to be sliced without copying; it starts at the data offset [`Sectors::data_start`].
    pub(super) fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The data offset of the first byte loaded.
    pub(super) fn data_start(&self) -> u64 {
        sector_start(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_single_flip_of_a_stamp_makes_another_valid_one() {
        let current = Generation(0x0abc_def1);
        for number in [1, 2, 16, 0x1111, 0x0abc_def1] {
            let stamp = Generation(number).stamp();
            for bit in 0..32 {
                assert_eq!(
                    age(stamp ^ (1 << bit), current),
                    Age::Impossible,
                    "{number} bit {bit}"
                );
            }
        }
        assert_eq!(age(current.stamp(), current), Age::Current);
        assert_eq!(age(Generation(7).stamp(), current), Age::Older);
        assert_eq!(age(Generation(0x0abc_def2).stamp(), current), Age::Impossible);
        assert_eq!(age(0, current), Age::Older);
    }

    #[test]
    fn offsets_count_data_bytes_only() {
        let mut writer = SectorWriter::new(Generation(1));
        writer.restart(3, 0);
        assert_eq!(writer.offset(), 3 * 508);
        writer.push(&[7; 508]);
        assert_eq!(writer.offset(), 4 * 508);
        writer.push(&[8; 600]);
        assert_eq!(writer.offset(), 4 * 508 + 600);
        let (bytes, at) = writer.finish();
        assert_eq!((bytes.len(), at), (3 * 512, 3 * 512));
        assert_eq!(file_offset(4 * 508 + 1), 4 * 512 + 1);
        assert_eq!((sector_of(507), sector_of(508)), (0, 1));
        assert_eq!((next_sector(508), next_sector(509)), (1, 2));
    }
}
