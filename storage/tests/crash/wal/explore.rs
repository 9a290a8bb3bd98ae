//! Runs scripts, crashes at their calls, recovers, and crashes the recovery too.

use std::path::Path;
use std::sync::Arc;

use kelson_storage::disk::Disk;
use kelson_storage::error::Fault;
use kelson_storage::testing::{FaultyDisk, Random, Recording};
use kelson_storage::wal::{Recovered, Wal, WalOptions};

use super::model::{Change, Model, Step, script};

/// How often a crash may follow a crash.
const DEPTH_MAX: u32 = 3;
pub const DIRECTORY: &str = "/member/wal";
pub const SEGMENT_BYTES: u64 = 4096;

pub fn options(segment_bytes: u64) -> WalOptions {
    WalOptions {
        directory: Path::new(DIRECTORY).to_owned(),
        cluster_id: 1,
        member_id: 2,
        segment_bytes,
    }
}

pub fn open(disk: &FaultyDisk) -> Result<(Wal, Recovered), Fault> {
    Wal::open(Arc::new(disk.clone()), options(SEGMENT_BYTES), true)
}

/// What a run of a script has promised, call by call.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// The log as it was when the run began.
    start: Model,
    changes: Vec<Change>,
    /// After so many calls to the disk, so many changes were durable; ascending.
    durable: Vec<(u64, usize)>,
}

impl Promises {
    pub fn from(start: Model) -> Self {
        Self {
            start,
            ..Self::default()
        }
    }

    /// Whether `found` is the log after all changes that were durable after `calls`, and maybe some more of them in
    /// order.
    pub fn allow(&self, found: &Model, calls: u64) -> Result<(), String> {
        let durable = self
            .durable
            .iter()
            .rev()
            .find(|(at, _)| *at <= calls)
            .map_or(0, |(_, changes)| *changes);
        let mut model = self.start.clone();
        let (certain, possible) = self.changes.split_at(durable);
        certain.iter().for_each(|change| model.apply(change));
        if model == *found {
            return Ok(());
        }
        let acknowledged = model.summary();
        for change in possible {
            model.apply(change);
            if model == *found {
                return Ok(());
            }
        }
        Err(format!(
            "found {}\nacknowledged {acknowledged}\nattempted {}",
            found.summary(),
            model.summary()
        ))
    }
}

/// Runs a script; stops at the first error.
pub fn run(wal: &mut Wal, disk: &FaultyDisk, script: &[Step], promises: &mut Promises) -> Result<(), Fault> {
    for step in script {
        let synced = match step {
            Step::Change(change) => {
                promises.changes.push(change.clone());
                give(wal, change)?;
                false
            }
            Step::Flush(sync) => wal.flush(*sync).map(|()| *sync)?,
            Step::Tidy => wal.tidy().map(|_| false)?,
            Step::Seal => wal.seal().map(|()| true)?,
        };
        if synced {
            promises.durable.push((disk.operations(), promises.changes.len()));
        }
    }
    Ok(())
}

fn give(wal: &mut Wal, change: &Change) -> Result<(), Fault> {
    match change {
        Change::Append(entry) => return wal.append(entry),
        Change::Truncate(kept) => return wal.truncate_after(*kept),
        Change::Purge(upto) => return wal.purge(*upto),
        Change::Vote(vote) => wal.save_vote(vote.clone()),
        Change::Committed(position) => wal.save_committed(*position),
        Change::Incarnation(number) => wal.save_incarnation(*number),
    }
    Ok(())
}

/// Explores states of the disk until a budget is used up.
pub struct Explorer {
    pub random: Random,
    pub images: u64,
    pub cuts: u64,
}

impl Explorer {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            images: 0,
            cuts: 0,
        }
    }

    /// Recovers what a crash has left on `disk` and checks it, then crashes during and after that recovery, and in
    /// a script that goes on from there.
    pub fn recover(&mut self, disk: &FaultyDisk, promises: &Promises, depth: u32) -> Result<(), String> {
        self.images += 1;
        let calls = disk.operations();
        disk.record(Recording::All);
        let (mut wal, recovered) = open(disk).map_err(|fault| format!("refused to start: {fault}"))?;
        self.cuts += u64::from(recovered.tail_cut.is_some());
        let found = Model::of(&wal, &recovered).map_err(|fault| format!("cannot be read: {fault}"))?;
        promises.allow(&found, calls)?;
        if depth == DEPTH_MAX {
            return Ok(());
        }
        let during = disk.take_recorded();
        for point in self.sample(&during, 2) {
            let image = point.crash(self.random.number());
            // The calls of the recovery promise nothing that the script before it had not.
            let earlier = Promises {
                durable: vec![(0, durable_at(promises, calls))],
                ..promises.clone()
            };
            self.recover(&image, &earlier, depth + 1)?;
        }
        // What has been found may have been acted upon, so it must stay.
        let mut next = Promises::from(found.clone());
        let image = disk.crash(self.random.number());
        self.recover(&image, &next, DEPTH_MAX)?;
        let script = script(&found, 12, &mut self.random);
        run(&mut wal, disk, &script, &mut next).map_err(|fault| format!("going on failed: {fault}"))?;
        let mut points = disk.take_recorded();
        points.push(disk.restart());
        for point in self.sample(&points, 2) {
            let image = if self.random.chance(1, 8) {
                point.restart()
            } else {
                point.crash(self.random.number())
            };
            self.recover(&image, &next, depth + 1)?;
        }
        Ok(())
    }

    /// Runs a whole script on `disk`, which is empty, and crashes `images_per_call` times at each call to the disk.
    pub fn script(&mut self, steps: usize, images_per_call: u64) -> Result<(), String> {
        let disk = FaultyDisk::new();
        disk.record(Recording::All);
        let script = script(&Model::default(), steps, &mut self.random);
        let mut promises = Promises::default();
        let (mut wal, _) = open(&disk).map_err(|fault| fault.to_string())?;
        run(&mut wal, &disk, &script, &mut promises).map_err(|fault| fault.to_string())?;
        let mut points = disk.take_recorded();
        points.push(disk.restart());
        for point in points {
            for _ in 0..images_per_call {
                let depth = if self.random.chance(1, 8) { 0 } else { DEPTH_MAX };
                let image = point.crash(self.random.number());
                self.recover(&image, &promises, depth)?;
            }
        }
        Ok(())
    }

    fn sample(&mut self, points: &[FaultyDisk], count: usize) -> Vec<FaultyDisk> {
        if points.is_empty() {
            return Vec::new();
        }
        (0..count)
            .map(|_| points[self.random.place(points.len())].clone())
            .collect()
    }
}

fn durable_at(promises: &Promises, calls: u64) -> usize {
    promises
        .durable
        .iter()
        .rev()
        .find(|(at, _)| *at <= calls)
        .map_or(0, |(_, changes)| *changes)
}

/// The paths of the files of the log.
pub fn files(disk: &FaultyDisk) -> Vec<(std::path::PathBuf, u64)> {
    let mut files = disk.files();
    files.retain(|(path, bytes)| path.starts_with(DIRECTORY) && *bytes > 0);
    assert!(disk.exists(Path::new(DIRECTORY)));
    files
}
