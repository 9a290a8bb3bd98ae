//! The log, given files that it did not write, or not so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::error::Fault;
use kelson_storage::revision::LogPosition;
use kelson_storage::testing::FaultyDisk;
use kelson_storage::wal::{Recovered, Wal, WalEntry, WalOptions};

use super::Input;

const SEGMENT_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;
/// Steps of a script.
const STEPS_MAX: usize = 40;
/// Changes made to a file.
const CHANGES_MAX: usize = 8;

fn open_log(disk: &FaultyDisk) -> Result<(Wal, Recovered), Fault> {
    let options = WalOptions {
        directory: Path::new("/wal").to_owned(),
        cluster_id: 1,
        member_id: 2,
        segment_bytes: SEGMENT_BYTES,
    };
    Wal::open(Arc::new(disk.clone()), options, true)
}

/// What a start finds: the state and all entries, or the text of the refusal.
fn found(disk: &FaultyDisk) -> Result<(Recovered, Vec<WalEntry>), String> {
    let (wal, recovered) = open_log(disk).map_err(|fault| fault.to_string())?;
    let first = recovered.purged.map_or(0, |purged| purged.index + 1);
    let end = recovered.last.map_or(0, |last| last.index + 1);
    let read = wal.reader().read(first, end, usize::MAX);
    let entries = read.map_err(|fault| fault.to_string())?;
    Ok((recovered, entries))
}

/// The newest segment of a log, by name.
fn newest_segment(disk: &FaultyDisk) -> PathBuf {
    let mut segments: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    segments.sort_unstable();
    segments.pop().expect("a log has a segment")
}

/// Everything that was flushed, in order, before the damage.
#[derive(Default)]
struct Script {
    entries: Vec<WalEntry>,
    flushed: usize,
}

/// Writes a log as the input says. Without truncations and purges, so that a prefix is a prefix.
fn write(disk: &FaultyDisk, input: &mut Input<'_>) -> Script {
    let (mut wal, _) = open_log(disk).expect("a fresh disk");
    let mut script = Script::default();
    let mut term = 1;
    for _ in 0..input.below(STEPS_MAX) {
        match input.below(8) {
            0..=3 => {
                term += u64::from(input.once_in(8));
                let index = script.entries.len() as u64;
                let filling = input.byte();
                let payload = vec![filling; input.below(1500)];
                let entry = WalEntry {
                    position: LogPosition { term, index },
                    payload: Bytes::from(payload),
                };
                wal.append(&entry).expect("a sound disk");
                script.entries.push(entry);
            }
            4 => wal.save_vote(Bytes::copy_from_slice(input.bytes(20))),
            5 => wal.save_incarnation(u64::from(input.byte())),
            6 => {
                wal.tidy().expect("a sound disk");
            }
            _ => {
                wal.flush(!input.once_in(4)).expect("a sound disk");
                script.flushed = script.entries.len();
            }
        }
    }
    wal.flush(true).expect("a sound disk");
    script.flushed = script.entries.len();
    script
}

/// Bytes that nobody wrote, in place of a segment or behind the beginning of one.
pub(super) fn open(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let disk = FaultyDisk::new();
    if input.once_in(2) {
        write(&disk, &mut input);
    } else {
        drop(open_log(&disk).expect("a fresh disk"));
    }
    let segment = newest_segment(&disk);
    let kept = input.below(SEGMENT_BYTES as usize);
    let rest = input.rest();
    disk.damage(&segment, |content| {
        let end = (kept + rest.len()).min(content.len());
        content[kept..end].copy_from_slice(&rest[..end - kept]);
    });
    assert_settled(&disk);
}

/// Whatever is found, the next start finds the same; but for a tail, which is cut once.
fn assert_settled(disk: &FaultyDisk) {
    let twin = disk.restart();
    let first = found(disk);
    assert_eq!(first, found(&twin), "two starts from the same bytes differ");
    if let Ok((mut recovered, entries)) = first {
        recovered.tail_cut = None;
        let again = found(&disk.restart());
        assert_eq!(
            again,
            Ok((recovered, entries)),
            "a second start found something else"
        );
    }
}

/// A sound log with bits flipped, sectors emptied, swapped or repeated, or its end missing.
pub(super) fn mutate(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let disk = FaultyDisk::new();
    let script = write(&disk, &mut input);
    let paths: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
    let mut changed = false;
    for _ in 0..input.below(CHANGES_MAX) {
        let path = input.one_of(&paths);
        changed |= disk.damage(&path, |content| change(content, &mut input));
    }
    match found(&disk.restart()) {
        Ok((recovered, entries)) => {
            assert!(
                script.entries.starts_with(&entries),
                "what was recovered was not written so"
            );
            assert!(
                changed || entries.len() == script.flushed,
                "entries of a sound log are missing"
            );
            let last = entries.last().map(|entry| entry.position);
            assert_eq!(recovered.last, last);
        }
        Err(refusal) => assert!(changed, "a sound log was refused: {refusal}"),
    }
    assert_settled(&disk);
}

fn change(content: &mut Vec<u8>, input: &mut Input<'_>) {
    let sectors = content.len() / SECTOR_BYTES;
    if sectors == 0 {
        return;
    }
    let sector = |place: usize| place * SECTOR_BYTES..(place + 1) * SECTOR_BYTES;
    match input.below(5) {
        0 => {
            let place = input.below(content.len());
            content[place] ^= 1 << input.below(8);
        }
        1 => content[sector(input.below(sectors))].fill(0),
        2 => {
            let (from, to) = (input.below(sectors), input.below(sectors));
            content.copy_within(sector(from), to * SECTOR_BYTES);
        }
        3 => {
            let keep = input.below(content.len());
            content.truncate(keep);
        }
        _ => {
            let place = input.below(content.len());
            content[place] = input.byte();
        }
    }
}
