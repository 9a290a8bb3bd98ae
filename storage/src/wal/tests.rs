//! The log on a real disk: what is written comes back, in the running process and after a reopen.

use super::segment::Name;
use super::*;
use crate::real_disk::RealDisk;

fn options(directory: &Path) -> WalOptions {
    WalOptions {
        directory: directory.join("wal"),
        cluster_id: 0xc1,
        member_id: 0xa1,
        segment_bytes: 4096,
    }
}

fn open(directory: &Path, create: bool) -> Result<(Wal, Recovered), Fault> {
    Wal::open(Arc::new(RealDisk::new()), options(directory), create)
}

fn at(term: u64, index: u64) -> LogPosition {
    LogPosition { term, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> WalEntry {
    WalEntry {
        position: at(term, index),
        payload: Bytes::from(vec![index as u8; bytes]),
    }
}

fn append(wal: &mut Wal, term: u64, indexes: std::ops::Range<u64>, bytes: usize) {
    for index in indexes {
        wal.append(&entry(term, index, bytes)).unwrap();
    }
    wal.flush(true).unwrap();
}

fn segments(directory: &Path) -> Vec<u64> {
    recovery::segment_numbers(&RealDisk::new().list(&options(directory).directory).unwrap())
}

#[test]
fn everything_saved_is_there_after_a_reopen() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, recovered) = open(scratch.path(), true).unwrap();
    assert_eq!(recovered, Recovered::default());
    wal.save_vote(Bytes::from_static(b"vote"));
    wal.save_incarnation(7);
    append(&mut wal, 1, 0..3, 100);
    append(&mut wal, 1, 3..50, 700);
    wal.save_incarnation(3);
    wal.save_committed(at(1, 40));
    wal.truncate_after(Some(at(1, 44))).unwrap();
    wal.purge(at(1, 9)).unwrap();
    append(&mut wal, 2, 45..47, 0);
    drop(wal);

    let (wal, recovered) = open(scratch.path(), false).unwrap();
    let expected = Recovered {
        vote: Some(Bytes::from_static(b"vote")),
        committed: Some(at(1, 40)),
        purged: Some(at(1, 9)),
        last: Some(at(2, 46)),
        incarnation: 7,
        tail_cut: None,
    };
    assert_eq!(recovered, expected);
    let reader = wal.reader();
    let entries = reader.read(10, 100, usize::MAX).unwrap();
    let expected: Vec<_> = (10..45).map(|index| entry(1, index, 700)).collect();
    assert_eq!(entries[..35], expected);
    assert_eq!(entries[35..], [entry(2, 45, 0), entry(2, 46, 0)]);
    assert_eq!(reader.position_of(9), None);
    assert_eq!(reader.position_of(46), Some(at(2, 46)));
    assert_eq!(reader.position_of(47), None);
}

#[test]
fn a_read_stops_at_its_bounds_but_returns_one_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    append(&mut wal, 1, 0..10, 1000);
    let reader = wal.reader();
    let lengths = |from, to, bytes| reader.read(from, to, bytes).unwrap().len();
    assert_eq!(lengths(0, 10, 1), 1);
    assert_eq!(lengths(0, 10, 2000), 2);
    assert_eq!(lengths(2, 5, usize::MAX), 3);
    assert_eq!(lengths(10, 20, usize::MAX), 0);
    assert_eq!(lengths(5, 5, usize::MAX), 0);
}

#[test]
fn nothing_is_readable_before_the_flush() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    wal.append(&entry(1, 0, 5000)).unwrap();
    wal.append(&entry(1, 1, 5000)).unwrap();
    assert!(wal.buffered_bytes() >= 10_000);
    let reader = wal.reader();
    assert_eq!(reader.position_of(0), None);
    wal.flush(false).unwrap();
    assert_eq!(wal.buffered_bytes(), 0);
    assert_eq!(reader.read(0, 2, usize::MAX).unwrap().len(), 2);
}

#[test]
fn an_entry_larger_than_a_segment_is_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    append(&mut wal, 1, 0..1, 10);
    append(&mut wal, 1, 1..2, 9 << 20);
    append(&mut wal, 1, 2..3, 10);
    drop(wal);
    let (wal, _) = open(scratch.path(), false).unwrap();
    let entries = wal.reader().read(0, 3, usize::MAX).unwrap();
    assert_eq!(entries[1], entry(1, 1, 9 << 20));
    assert_eq!(entries.len(), 3);
}

#[test]
fn purged_segments_are_used_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    for index in 0..300 {
        append(&mut wal, 1, index..index + 1, 900);
        if index >= 5 {
            wal.purge(at(1, index - 5)).unwrap();
        }
    }
    wal.flush(true).unwrap();
    let files = RealDisk::new()
        .list(&options(scratch.path()).directory)
        .unwrap()
        .len();
    assert!(files <= 8, "{files} files");
    assert!(segments(scratch.path())[0] > 50);
    while wal.tidy().unwrap() {}
    assert_eq!(wal.spare_segments(), spares::SPARES_KEPT);
    drop(wal);
    let (wal, recovered) = open(scratch.path(), false).unwrap();
    assert_eq!(recovered.purged, Some(at(1, 294)));
    assert_eq!(wal.reader().read(295, 300, usize::MAX).unwrap().len(), 5);
}

#[test]
fn what_is_beyond_a_number_of_files_is_known_and_never_the_newest_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    let reader = wal.reader();
    assert_eq!(reader.newest_beyond_files(1), None, "there is nothing");
    for index in 0..40 {
        append(&mut wal, 1, index..index + 1, 900);
    }
    let newest = *segments(scratch.path()).last().unwrap();
    let in_file = |number: u64| {
        let table = reader.table.lock();
        let all = 0..40;
        let inside = all.filter(|index| table.entry(*index).is_some_and(|entry| entry.segment == number));
        inside.max()
    };
    for files in 1..newest {
        assert_eq!(
            reader.newest_beyond_files(files),
            in_file(newest - files),
            "{files} files"
        );
    }
    assert_eq!(reader.newest_beyond_files(newest), None, "there are no more");
    assert_eq!(reader.newest_beyond_files(0), Some(38), "one stays");
    wal.purge(at(1, 38)).unwrap();
    wal.flush(true).unwrap();
    assert_eq!(reader.newest_beyond_files(1), None, "they are gone");
}

#[test]
fn a_segment_being_read_is_not_used_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    append(&mut wal, 1, 0..20, 900);
    let held = Arc::clone(&wal.reader().table.lock().segments[&1]);
    wal.purge(at(1, 19)).unwrap();
    wal.flush(true).unwrap();
    while wal.tidy().unwrap() {}
    assert_eq!(segments(scratch.path())[0], 1);
    drop(held);
    while wal.tidy().unwrap() {}
    assert!(segments(scratch.path())[0] > 1);
}

#[test]
fn a_purge_past_the_end_moves_the_next_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    append(&mut wal, 1, 0..3, 10);
    wal.purge(at(5, 99)).unwrap();
    append(&mut wal, 5, 100..101, 10);
    wal.purge(at(5, 50)).unwrap();
    wal.truncate_after(Some(at(5, 99))).unwrap();
    wal.flush(true).unwrap();
    drop(wal);
    let (mut wal, recovered) = open(scratch.path(), false).unwrap();
    assert_eq!(
        (recovered.purged, recovered.last),
        (Some(at(5, 99)), Some(at(5, 99)))
    );
    append(&mut wal, 6, 100..101, 10);
    assert_eq!(wal.reader().position_of(100), Some(at(6, 100)));
}

#[test]
fn a_truncation_reaching_into_an_older_segment_survives_that_segments_end() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    append(&mut wal, 1, 0..30, 900);
    wal.truncate_after(Some(at(1, 2))).unwrap();
    append(&mut wal, 2, 3..60, 900);
    wal.purge(at(2, 40)).unwrap();
    wal.flush(true).unwrap();
    while wal.tidy().unwrap() {}
    drop(wal);
    let (wal, recovered) = open(scratch.path(), false).unwrap();
    assert_eq!(
        (recovered.purged, recovered.last),
        (Some(at(2, 40)), Some(at(2, 59)))
    );
    assert_eq!(wal.reader().read(41, 60, usize::MAX).unwrap().len(), 19);
}

#[test]
fn another_owner_a_missing_log_and_a_log_in_use_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    assert!(matches!(open(scratch.path(), false), Err(Fault::Unusable { .. })));
    assert!(!Wal::exists(&RealDisk::new(), &options(scratch.path()).directory));
    let (wal, _) = open(scratch.path(), true).unwrap();
    assert!(Wal::exists(&RealDisk::new(), &options(scratch.path()).directory));
    let in_use = open(scratch.path(), true).err().unwrap();
    assert!(in_use.to_string().contains("another process"), "{in_use}");
    drop(wal);
    for (cluster_id, member_id) in [(0xc2, 0xa1), (0xc1, 0xa2)] {
        let options = WalOptions {
            cluster_id,
            member_id,
            ..options(scratch.path())
        };
        let other = Wal::open(Arc::new(RealDisk::new()), options, false)
            .err()
            .unwrap();
        assert!(matches!(other, Fault::Unusable { .. }), "{other}");
    }
    open(scratch.path(), false).unwrap();
}

#[test]
fn a_missing_segment_is_damage() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true).unwrap();
    append(&mut wal, 1, 0..20, 900);
    drop(wal);
    let numbers = segments(scratch.path());
    assert!(numbers.len() > 3);
    for number in [1, 2] {
        let path = Name::segment(&options(scratch.path()).directory, number);
        let aside = scratch.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        assert!(
            matches!(open(scratch.path(), true), Err(Fault::Damaged { .. })),
            "segment {number}"
        );
        std::fs::rename(&aside, &path).unwrap();
    }
    open(scratch.path(), false).unwrap();
}
