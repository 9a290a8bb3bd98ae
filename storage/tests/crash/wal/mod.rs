//! The Raft log against power losses, failing calls and damage.

mod damage;
mod explore;
mod model;

use std::io;
use std::path::Path;
use std::sync::Arc;

use kelson_storage::disk::{Disk, DiskFile};
use kelson_storage::testing::{DiskError, DiskOperation, FaultyDisk, Random};
use kelson_storage::wal::Wal;

use explore::{Explorer, Promises, open, options, run};
use model::{Model, script};

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_call() {
    let mut images = 0;
    let mut cuts = 0;
    for seed in crate::seeds(u64::MAX) {
        let mut explorer = Explorer::new(seed);
        if let Err(failure) = explorer.script(60, 2) {
            panic!(
                "KELSON_CRASH_SEED={seed}: after {} images: {failure}",
                explorer.images
            );
        }
        images += explorer.images;
        cuts += explorer.cuts;
        if images >= crate::images() {
            break;
        }
    }
    println!("{images} images, {cuts} torn tails");
    assert!(
        cuts > images / 100,
        "too few torn tails to mean anything: {cuts} of {images}"
    );
}

#[test]
fn a_call_that_fails_stops_the_log_and_loses_nothing_acknowledged() {
    for seed in crate::seeds(crate::images().div_ceil(4000)) {
        for nth in 1..=300 {
            for error in [DiskError::Broken, DiskError::Full] {
                if let Err(failure) = fail_at(seed, nth, None, error) {
                    panic!("KELSON_CRASH_SEED={seed}: call {nth} fails with {error:?}: {failure}");
                }
            }
        }
        for sort in [
            DiskOperation::Sync,
            DiskOperation::SyncDirectory,
            DiskOperation::Rename,
            DiskOperation::Write,
        ] {
            for nth in 1..=40 {
                if let Err(failure) = fail_at(seed, nth, Some(sort), DiskError::Broken) {
                    panic!("KELSON_CRASH_SEED={seed}: {sort:?} {nth} fails: {failure}");
                }
            }
        }
    }
}

/// Runs a script in which one call fails, then restarts with and without a power loss.
fn fail_at(seed: u64, nth: u64, sort: Option<DiskOperation>, error: DiskError) -> Result<(), String> {
    let disk = FaultyDisk::new();
    disk.fail_nth(nth, sort, error);
    let script = script(&Model::default(), 150, &mut Random::new(seed));
    let mut promises = Promises::default();
    let opened = open(&disk);
    let mut failed = opened.is_err();
    if let Ok((mut wal, _)) = opened {
        failed = run(&mut wal, &disk, &script, &mut promises).is_err();
        if failed && (wal.flush(true).is_ok() || wal.tidy().is_ok() || wal.seal().is_ok()) {
            return Err("the log went on after a failure".to_owned());
        }
    }
    if disk.failure_is_pending() {
        // The script makes fewer calls than that.
        return Ok(());
    }
    // A full disk may only have kept a spare from being filled.
    if !failed && error == DiskError::Broken {
        return Err("nobody heard of it".to_owned());
    }
    let mut explorer = Explorer::new(seed ^ nth);
    let depth = 2 + u32::from(!nth.is_multiple_of(4));
    explorer.recover(&disk.restart(), &promises, depth)?;
    explorer.recover(&disk.crash(nth), &promises, depth)
}

#[test]
fn a_full_disk_can_still_write_its_reserve() {
    let disk = FaultyDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    while wal.tidy().unwrap() {}
    let used = disk.files().iter().map(|(_, bytes)| bytes).sum();
    disk.set_capacity(Some(used));
    let mut promises = Promises::default();
    let script = script(&Model::default(), 400, &mut Random::new(1));
    let full = run(&mut wal, &disk, &script, &mut promises).unwrap_err();
    assert!(full.to_string().contains("space"), "{full}");
    assert!(wal.is_out_of_space());
    drop(wal);
    disk.set_capacity(None);
    Explorer::new(1).recover(&disk, &promises, 3).unwrap();
}

/// A disk whose syncs do nothing.
struct Lying(FaultyDisk);

#[derive(Debug)]
struct LyingFile(Arc<dyn DiskFile>);

impl Disk for Lying {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.open(path, create)?)))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.create_directory(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_directory(directory)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
}

impl DiskFile for LyingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn try_lock(&self) -> io::Result<()> {
        self.0.try_lock()
    }
}

#[test]
fn the_checker_notices_a_disk_that_does_not_sync() {
    let disk = FaultyDisk::new();
    let (wal, _) = open(&disk).unwrap();
    drop(wal);
    let (mut wal, _) = Wal::open(
        Arc::new(Lying(disk.clone())),
        options(explore::SEGMENT_BYTES),
        false,
    )
    .unwrap();
    let mut promises = Promises::default();
    let mut random = Random::new(1);
    let script = script(&Model::default(), 20, &mut random);
    run(&mut wal, &disk, &script, &mut promises).unwrap();
    let noticed = (0..20).filter(|seed| {
        Explorer::new(0)
            .recover(&disk.crash(*seed), &promises, 3)
            .is_err()
    });
    assert!(noticed.count() > 15);
}
