//! Bytes that change after they were written: the same log, or a refusal that names the file. Never other data.

use std::path::Path;
use std::sync::Arc;

use kelson_storage::error::Fault;
use kelson_storage::testing::{FaultyDisk, Random};
use kelson_storage::wal::Wal;

use super::explore::{DIRECTORY, Promises, files, open, options, run};
use super::model::{Model, Step, script};

const SECTOR_BYTES: u64 = 512;

/// Changes the bytes of a file.
type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);

/// A disk with a log that a script of so many steps has written, and what it holds. All of it has been synced.
fn written(seed: u64, steps: usize, segment_bytes: u64, seal: bool) -> (FaultyDisk, Model) {
    let disk = FaultyDisk::new();
    let options = options(segment_bytes);
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), options, true).unwrap();
    let mut script = script(&Model::default(), steps, &mut Random::new(seed));
    if seal {
        script.push(Step::Seal);
    }
    run(&mut wal, &disk, &script, &mut Promises::default()).unwrap();
    drop(wal);
    let (wal, recovered) = open(&disk).unwrap();
    let model = Model::of(&wal, &recovered).unwrap();
    drop(wal);
    (disk, model)
}

/// Opens a damaged log: true when it is the same, false when it is refused.
fn same_or_refused(disk: &FaultyDisk, model: &Model, damaged: &Path) -> bool {
    let found = open(disk).and_then(|(wal, recovered)| Model::of(&wal, &recovered));
    let fault = match found {
        Ok(found) if found == *model => return true,
        Ok(found) => panic!("found {}\ninstead of {}", found.summary(), model.summary()),
        Err(fault) => fault,
    };
    match &fault {
        Fault::Damaged { path, .. } => assert!(path.starts_with(DIRECTORY), "{fault}"),
        other => panic!("{} is damaged, and the log says: {other}", damaged.display()),
    }
    // Twice the same.
    let again = open(&disk.restart()).err().map(|fault| fault.to_string());
    assert_eq!(again, Some(fault.to_string()));
    false
}

fn flip(disk: &FaultyDisk, path: &Path, byte: u64, bit: u8, model: &Model) -> bool {
    let image = disk.restart();
    assert!(image.flip_bit(path, byte, bit));
    same_or_refused(&image, model, path)
}

#[test]
fn a_flipped_bit_anywhere_in_a_small_log_never_changes_data() {
    for seal in [false, true] {
        let (disk, model) = written(3, 12, 4096, seal);
        let mut refused = 0;
        let mut same = 0;
        for (path, bytes) in files(&disk) {
            for byte in 0..bytes {
                let bit = u8::try_from((byte ^ (byte >> 3)) % 8).unwrap();
                if flip(&disk, &path, byte, bit, &model) {
                    same += 1
                } else {
                    refused += 1
                }
            }
        }
        println!("{same} the same, {refused} refused");
        assert!(refused > 1000, "too few flips hit anything");
    }
}

#[test]
fn a_flipped_bit_in_a_larger_log_never_changes_data() {
    for seed in crate::seeds(3) {
        let (disk, model) = written(seed, 400, 16 * 1024, seed % 2 == 0);
        let files = files(&disk);
        let mut random = Random::new(seed);
        let mut refused = 0;
        let count = crate::images() / 20;
        for _ in 0..count {
            let (path, bytes) = &files[random.place(files.len())];
            let (byte, bit) = (random.below(*bytes), random.below(8) as u8);
            refused += u64::from(!flip(&disk, path, byte, bit, &model));
        }
        assert!(
            refused > count / 4,
            "KELSON_CRASH_SEED={seed}: too few of the flips hit anything"
        );
    }
}

#[test]
fn a_running_log_never_returns_flipped_bytes() {
    let (disk, model) = written(5, 40, 4096, true);
    for (path, bytes) in files(&disk) {
        for byte in (0..bytes).step_by(7) {
            let image = disk.restart();
            let (wal, recovered) = open(&image).unwrap();
            image.flip_bit(&path, byte, 3);
            match Model::of(&wal, &recovered) {
                Ok(found) => assert_eq!(found, model),
                Err(Fault::Damaged { path: named, .. }) => assert_eq!(named, path),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn lost_swapped_and_cut_sectors_of_a_sealed_log_are_refused() {
    let (disk, model) = written(7, 40, 4096, true);
    let mut refused = 0;
    for (path, bytes) in files(&disk) {
        for sector in 0..bytes / SECTOR_BYTES {
            let at = usize::try_from(sector * SECTOR_BYTES).unwrap();
            let damages: [Damage<'_>; 3] = [
                &|bytes| bytes[at..at + 512].fill(0),
                &|bytes| {
                    let other = if at == 0 { bytes.len() - 512 } else { at - 512 };
                    let (low, high) = (at.min(other), at.max(other));
                    let (left, right) = bytes.split_at_mut(high);
                    left[low..low + 512].swap_with_slice(&mut right[..512]);
                },
                &|bytes| bytes.truncate(at),
            ];
            for (kind, damage) in damages.into_iter().enumerate() {
                let image = disk.restart();
                image.damage(&path, damage);
                if is_seal(&disk, &path, sector) && kind != 2 {
                    // The seal itself can be lost: it is what proves the rest. What it proved is still there.
                    continue;
                }
                refused += u64::from(!same_or_refused(&image, &model, &path));
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

/// Whether that sector is the last one written of the newest segment.
fn is_seal(disk: &FaultyDisk, path: &Path, sector: u64) -> bool {
    let (newest, _) = files(disk)
        .into_iter()
        .rfind(|(path, _)| !path.to_string_lossy().contains("spare"))
        .unwrap();
    let bytes = disk.bytes(path).unwrap();
    let written = |sector: usize| bytes[sector * 512..][..512].iter().any(|byte| *byte != 0);
    let last = (0..bytes.len() / 512).rfind(|sector| written(*sector));
    newest == path && last.is_none_or(|last| sector >= last as u64)
}
