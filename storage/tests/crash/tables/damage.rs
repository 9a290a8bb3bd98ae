//! Flipped bits, lost and old sectors, cut files. What opens must be the same as before; everything else is a fault
//! that names the file. `KELSON_FLIPS` sets how many places are tried.

use super::*;
use crate::{number, seeds};

const SECTOR_BYTES: usize = 512;
/// Where the engine's header starts and how long it is; see docs/file-format.md.
const HEADER_START: usize = 4096;
const HEADER_BYTES: usize = 320;

/// How many places are damaged, one at a time.
fn places() -> u64 {
    number("KELSON_FLIPS").unwrap_or(300)
}

/// A disk with a database of many writes, closed or as a crash would find it, its contents, and an older one's bytes.
struct Sample {
    disk: FaultyDisk,
    contents: Contents,
    bytes: Vec<u8>,
    older: Vec<u8>,
}

impl Sample {
    fn new(seed: u64, closed: bool) -> Self {
        let mut random = Random::new(seed);
        let disk = disk();
        let tables = open(&disk).unwrap();
        let mut contents = Contents::default();
        let mut older = Vec::new();
        for step in 0..30 {
            let batch = contents.next_batch(&mut random);
            contents.apply(&batch);
            tables.write(&batch, step % 5 == 4).unwrap();
            if step == 24 {
                older = disk.bytes(Path::new(DATABASE)).unwrap();
            }
        }
        let disk = if closed {
            drop(tables);
            disk
        } else {
            disk.restart()
        };
        Self {
            bytes: disk.bytes(Path::new(DATABASE)).unwrap(),
            disk,
            contents,
            older,
        }
    }

    /// A place in the file; half of the time one that is not zero, since most of a young file is.
    fn place(&self, random: &mut Random) -> usize {
        loop {
            let place = random.place(self.bytes.len());
            if random.chance(1, 10) || self.bytes[place] != 0 {
                return place;
            }
        }
    }

    /// Opens the database with other bytes and checks what comes of it. Whether it opened.
    fn check(&self, bytes: Vec<u8>, context: &str) -> bool {
        let disk = self.disk.restart();
        assert!(disk.damage(Path::new(DATABASE), |file| *file = bytes));
        match self.use_it(&disk) {
            Ok(()) => true,
            Err(fault) => {
                assert!(
                    matches!(fault, Fault::Damaged { .. } | Fault::Unusable { .. }),
                    "{context}: {fault:?}"
                );
                assert!(fault.to_string().contains(DATABASE), "{context}: {fault}");
                false
            }
        }
    }

    /// Reads everything, writes, and reads everything again after a restart.
    fn use_it(&self, disk: &FaultyDisk) -> Result<(), Fault> {
        let mut contents = self.contents.clone();
        let tables = open(disk)?;
        assert!(Contents::of(&tables)? == contents, "another answer");
        let mut random = Random::new(0);
        for durable in [false, true, true] {
            let batch = contents.next_batch(&mut random);
            contents.apply(&batch);
            tables.write(&batch, durable)?;
        }
        assert!(Contents::of(&tables)? == contents, "another answer after writing");
        drop(tables);
        assert!(
            Contents::of(&open(disk)?)? == contents,
            "another answer after reopening"
        );
        Ok(())
    }
}

/// Damages closed and unclosed samples in as many places as asked for; a tenth of it at least must be noticed.
fn damage(what: &str, mut change: impl FnMut(&Sample, &mut Random) -> Option<(Vec<u8>, String)>) {
    let mut opened = 0;
    let mut tried = 0;
    'all: for seed in seeds(u64::MAX) {
        let mut random = Random::new(seed);
        let sample = Sample::new(seed, seed % 2 == 0);
        for _ in 0..100 {
            if tried == places() {
                break 'all;
            }
            let Some((bytes, context)) = change(&sample, &mut random) else {
                continue;
            };
            let context = format!("seed {seed}, {what} {context}");
            opened += u64::from(sample.check(bytes, &context));
            tried += 1;
        }
    }
    println!("{what}: {opened} of {tried} made no difference");
    assert!(
        opened * 10 <= tried * 9,
        "{what}: only {} of {tried} noticed",
        tried - opened
    );
}

#[test]
fn a_flipped_bit_changes_nothing_or_is_a_fault() {
    damage("flipped", |sample, random| {
        let place = sample.place(random);
        let mut bytes = sample.bytes.clone();
        bytes[place] ^= 1 << random.below(8);
        Some((bytes, format!("byte {place}")))
    });
}

#[test]
fn every_flipped_bit_of_the_header_changes_nothing_or_is_a_fault() {
    for closed in [false, true] {
        let sample = Sample::new(3, closed);
        for bit in 0..HEADER_BYTES * 8 {
            // In a short run: every bit of the byte that chooses a commit and of the commits' versions, some of the rest.
            let short = places() <= 1000;
            if short && ![9, 64, 192].contains(&(bit / 8)) && bit % 7 != 0 {
                continue;
            }
            let mut bytes = sample.bytes.clone();
            bytes[HEADER_START + bit / 8] ^= 1 << (bit % 8);
            sample.check(bytes, &format!("closed {closed}, header bit {bit}"));
        }
    }
}

#[test]
fn a_zeroed_or_swapped_sector_changes_nothing_or_is_a_fault() {
    damage("zeroed or swapped", |sample, random| {
        let at = sample.place(random) / SECTOR_BYTES * SECTOR_BYTES;
        let from = sample.place(random) / SECTOR_BYTES * SECTOR_BYTES;
        let end = sample
            .bytes
            .len()
            .min(at + SECTOR_BYTES)
            .min(at + sample.bytes.len() - from);
        let mut bytes = sample.bytes.clone();
        if random.chance(1, 2) {
            bytes[at..end].fill(0);
        } else {
            bytes[at..end].copy_from_slice(&sample.bytes[from..from + end - at]);
        }
        Some((bytes, format!("sector at {at} from {from}")))
    });
}

/// All but the header's sector: an old header is a whole old state, which only its log can tell from the newest.
#[test]
fn an_old_sector_changes_nothing_or_is_a_fault() {
    damage("old", |sample, random| {
        let at = sample.place(random) / SECTOR_BYTES * SECTOR_BYTES;
        let end = sample.bytes.len().min(at + SECTOR_BYTES);
        let old = sample.older.get(at..end)?;
        if at == HEADER_START || sample.bytes[at..end] == *old {
            return None;
        }
        let mut bytes = sample.bytes.clone();
        bytes[at..end].copy_from_slice(old);
        Some((bytes, format!("sector at {at}")))
    });
}

#[test]
fn a_cut_file_changes_nothing_or_is_a_fault() {
    damage("cut", |sample, random| {
        let length = if random.chance(1, 10) {
            random.place(3 * 4096)
        } else {
            random.place(sample.bytes.len())
        };
        Some((sample.bytes[..length].to_vec(), format!("at {length}")))
    });
}
