//! The faulty disk loses what was not synced, and nothing else.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::*;
use crate::disk::Disk;

fn disk_with_directory() -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_directory(Path::new("/d")).unwrap();
    disk
}

#[test]
fn what_was_synced_survives_every_crash_and_what_was_not_may_go() {
    let disk = disk_with_directory();
    let path = Path::new("/d/f");
    let file = disk.open(path, true).unwrap();
    file.write_all_at(&[1; 2048], 0).unwrap();
    file.sync().unwrap();
    disk.sync_directory(Path::new("/d")).unwrap();
    file.write_all_at(&[2; 1024], 1024).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let bytes = disk.crash(seed).bytes(path).unwrap();
        assert_eq!(bytes.len(), 2048);
        assert_eq!(bytes[..1024], [1; 1024]);
        assert_eq!(bytes, disk.crash(seed).bytes(path).unwrap());
        seen.insert((bytes[1024], bytes[1535], bytes[1536], bytes[2047]));
    }
    for sectors in [
        (1, 1, 1, 1),
        (2, 2, 2, 2),
        (1, 1, 2, 2),
        (2, 2, 1, 1),
        (2, 1, 1, 1),
    ] {
        assert!(seen.contains(&sectors), "{sectors:?} of {seen:?}");
    }
}

#[test]
fn names_are_lost_unless_their_directory_was_synced() {
    let disk = disk_with_directory();
    let file = disk.open(Path::new("/d/a"), true).unwrap();
    file.write_all_at(b"text", 0).unwrap();
    file.sync().unwrap();
    let names = |disk: &FaultyDisk| {
        let seeds = 0..50;
        seeds
            .map(|seed| disk.crash(seed).list(Path::new("/d")).unwrap())
            .collect::<BTreeSet<_>>()
    };
    let lists = |lists: &[&[&str]]| {
        let owned = lists
            .iter()
            .map(|list| list.iter().map(ToString::to_string).collect());
        owned.collect::<BTreeSet<Vec<String>>>()
    };
    assert_eq!(names(&disk), lists(&[&[], &["a"]]));
    disk.sync_directory(Path::new("/d")).unwrap();
    disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
    assert_eq!(names(&disk), lists(&[&["a"], &["b"]]));
    disk.sync_directory(Path::new("/d")).unwrap();
    assert_eq!(names(&disk), lists(&[&["b"]]));
    disk.remove(Path::new("/d/b")).unwrap();
    assert_eq!(names(&disk), lists(&[&[], &["b"]]));
    assert_eq!(disk.restart().list(Path::new("/d")).unwrap().len(), 0);
}

#[test]
fn a_failed_sync_drops_the_data_though_it_reads_as_written() {
    let disk = disk_with_directory();
    let path = Path::new("/d/f");
    let file = disk.open(path, true).unwrap();
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync().unwrap();
    disk.sync_directory(Path::new("/d")).unwrap();
    file.write_all_at(&[2; 512], 0).unwrap();
    disk.fail_nth(1, Some(DiskOperation::Sync), DiskError::Broken);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync().unwrap();
    assert_eq!(disk.restart().bytes(path).unwrap(), [2; 512]);
    assert!((0..50).any(|seed| disk.crash(seed).bytes(path).unwrap() == [1; 512]));
    file.write_all_at(&[2; 512], 0).unwrap();
    file.sync().unwrap();
    assert!((0..50).all(|seed| disk.crash(seed).bytes(path).unwrap() == [2; 512]));
}

#[test]
fn the_nth_call_fails_and_only_that_one() {
    let disk = disk_with_directory();
    disk.fail_nth(2, None, DiskError::Full);
    let file = disk.open(Path::new("/d/f"), true).unwrap();
    let full = file.write_all_at(&[1; 8], 0).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert!(!disk.failure_is_pending());
    assert_eq!(file.length().unwrap(), 4);
    file.write_all_at(&[1; 8], 0).unwrap();
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = disk_with_directory();
    disk.set_capacity(Some(1024));
    let file = disk.open(Path::new("/d/f"), true).unwrap();
    file.write_all_at(&[1; 1000], 0).unwrap();
    assert!(file.write_all_at(&[1; 100], 1000).is_err());
    file.write_all_at(&[2; 1000], 0).unwrap();
    let other = disk.open(Path::new("/d/g"), true).unwrap();
    assert!(other.set_length(100).is_err());
    disk.remove(Path::new("/d/f")).unwrap();
    other.set_length(100).unwrap();
}

#[test]
fn a_lock_is_given_back_when_its_file_closes() {
    let disk = disk_with_directory();
    let first = disk.open(Path::new("/d/lock"), true).unwrap();
    let second = disk.open(Path::new("/d/lock"), true).unwrap();
    first.try_lock().unwrap();
    assert_eq!(second.try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    second.try_lock().unwrap();
}

#[test]
fn recording_keeps_the_disk_as_it_was() {
    let disk = disk_with_directory();
    disk.record(Recording::Syncs);
    let file = disk.open(Path::new("/d/f"), true).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    file.sync().unwrap();
    file.write_all_at(b"two", 0).unwrap();
    let points = disk.take_recorded();
    assert_eq!(points.len(), 2);
    disk.sync_directory(Path::new("/d")).unwrap();
    assert!(
        points
            .iter()
            .all(|point| point.bytes(Path::new("/d/f")).unwrap() == b"one")
    );
    assert_eq!((points[0].operations(), points[1].operations()), (2, 3));
}
