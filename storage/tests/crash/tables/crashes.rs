//! Power losses and failing calls.

use kelson_storage::snapshot::{ImageReader, ImageWriter, install, temporary_beside};
use kelson_storage::testing::{DiskError, Recording};

use super::*;
use crate::{images, seeds};

/// States after each write, the fresh one first.
struct Run {
    states: Vec<Contents>,
    /// Of the newest durable one.
    durable: usize,
}

impl Run {
    fn new() -> Self {
        Self {
            states: vec![Contents::default()],
            durable: 0,
        }
    }

    /// The write that comes next; its outcome counts as possible from now on.
    fn plan(&mut self, random: &mut Random) -> WriteBatch {
        let mut state = self.states.last().expect("never empty").clone();
        let batch = state.next_batch(random);
        state.apply(&batch);
        self.states.push(state);
        batch
    }

    /// The state that a crash has left must be one of those, no older than the newest durable one.
    fn check(&self, found: &Contents, context: &str) -> usize {
        let place = self.states.iter().position(|state| state == found);
        match place {
            Some(place) if place >= self.durable => place,
            Some(place) => panic!("{context}: state {place} is back, {} was durable", self.durable),
            None => panic!("{context}: a state that no write has left: {:?}", found.meta),
        }
    }
}

/// Opens what a crash has left and checks it; with `depth`, crashes while that goes on.
fn recover(run: &Run, disk: &FaultyDisk, random: &mut Random, depth: u32, context: &str) {
    if depth > 0 {
        disk.record(Recording::All);
    }
    let tables = open(disk).unwrap_or_else(|fault| panic!("{context}: {fault}"));
    let found = Contents::of(&tables).unwrap_or_else(|fault| panic!("{context}: {fault}"));
    let place = run.check(&found, context);
    let mut after = Run {
        states: run.states[..=place].to_vec(),
        durable: run.durable.min(place),
    };
    let batch = after.plan(random);
    tables.write(&batch, true).unwrap();
    tables.give_back_space().unwrap();
    let mut moments = disk.take_recorded();
    disk.record(Recording::Off);
    for _ in 0..depth.min(moments.len() as u32) {
        let moment = moments.swap_remove(random.place(moments.len()));
        let crashed = moment.crash(random.number());
        recover(&after, &crashed, random, depth - 1, &format!("{context}, again"));
    }
    after.durable = after.states.len() - 1;
    drop(tables);
    let found = Contents::of(&open(disk).unwrap()).unwrap();
    after.check(&found, context);
}

/// Crashes at some of the moments since the last call, to `images` in all.
fn crash_somewhere(run: &Run, disk: &FaultyDisk, random: &mut Random, images: &mut u64, context: &str) {
    for moment in disk.take_recorded() {
        if *images > 0 && random.chance(1, 8) {
            let crashed = moment.crash(random.number());
            let depth = if random.chance(1, 10) { 2 } else { 0 };
            recover(run, &crashed, random, depth, context);
            *images -= 1;
        }
    }
}

#[test]
fn a_crash_leaves_what_one_write_left_and_nothing_older_than_the_durable_one() {
    let mut images = images() / 4;
    for seed in seeds(u64::MAX) {
        let mut random = Random::new(seed);
        let disk = disk();
        let mut run = Run::new();
        disk.record(Recording::All);
        let tables = open(&disk).unwrap();
        crash_somewhere(
            &run,
            &disk,
            &mut random,
            &mut images,
            &format!("seed {seed}, creation"),
        );
        for step in 1..12 {
            let batch = run.plan(&mut random);
            let durable = random.chance(1, 3);
            tables.write(&batch, durable).unwrap();
            tables.give_back_space().unwrap();
            let context = format!("seed {seed}, step {step}");
            crash_somewhere(&run, &disk, &mut random, &mut images, &context);
            if durable {
                run.durable = step;
            }
        }
        drop(tables);
        crash_somewhere(
            &run,
            &disk,
            &mut random,
            &mut images,
            &format!("seed {seed}, end"),
        );
        if images == 0 {
            return;
        }
    }
}

/// Runs the script of `seed` until something fails. Returns whether something did.
fn run_until_failure(run: &mut Run, disk: &FaultyDisk, random: &mut Random) -> bool {
    let Ok(tables) = open(disk) else {
        return true;
    };
    for step in 1..10 {
        let batch = run.plan(random);
        let durable = random.chance(1, 3);
        if tables.write(&batch, durable).is_err() {
            tables
                .write(&batch, true)
                .expect_err("after a failure nothing is written any more");
            return true;
        }
        if tables.give_back_space().is_err() {
            return true;
        }
        if durable {
            run.durable = step;
        }
    }
    false
}

#[test]
fn after_a_failed_call_nothing_durable_is_lost() {
    for seed in seeds(2) {
        for nth in 1.. {
            let mut random = Random::new(seed);
            let disk = disk();
            let mut run = Run::new();
            let error = [DiskError::Broken, DiskError::Full][random.place(2)];
            disk.fail_nth(nth, None, error);
            let failed = run_until_failure(&mut run, &disk, &mut random);
            let context = format!("seed {seed}, call {nth}");
            if disk.failure_is_pending() {
                assert!(!failed, "{context}: failed by itself");
                assert!(nth > 50, "{context}: too few calls to be a test");
                break;
            }
            // Killed, and then the power fails too.
            recover(
                &run,
                &disk.restart(),
                &mut random,
                0,
                &format!("{context}, killed"),
            );
            let seed = random.number();
            recover(
                &run,
                &disk.crash(seed),
                &mut random,
                0,
                &format!("{context}, crashed"),
            );
        }
    }
}

#[test]
fn a_full_disk_is_a_fault_and_what_was_durable_is_there_when_it_has_room_again() {
    for seed in seeds(4) {
        let mut random = Random::new(seed);
        let disk = disk();
        disk.set_capacity(Some(2_000_000 + random.below(2_000_000)));
        let mut run = Run::new();
        let Ok(tables) = open(&disk) else {
            continue;
        };
        loop {
            let batch = run.plan(&mut random);
            let durable = random.chance(1, 3);
            if tables.write(&batch, durable).is_err() {
                break;
            }
            if durable {
                run.durable = run.states.len() - 1;
            }
        }
        drop(tables);
        let disk = disk.restart();
        disk.set_capacity(None);
        recover(&run, &disk, &mut random, 0, &format!("seed {seed}"));
    }
}

/// Replaces the database by an image, as a member does that is too far behind.
fn receive(disk: &FaultyDisk, frames: &[Bytes]) -> Result<(), Fault> {
    let target = Path::new(DATABASE);
    let temporary = temporary_beside(disk, target);
    let mut reader = ImageReader::create(Arc::new(disk.clone()), &temporary)?;
    for frame in frames {
        reader.feed(frame.clone())?;
    }
    reader.finish()?;
    install(disk, &temporary, target)
}

#[test]
fn an_image_that_is_interrupted_leaves_the_old_database_or_the_new_one() {
    for seed in seeds(2) {
        let mut random = Random::new(seed);
        let mut run = Run::new();
        let disk = disk();
        let old = open(&disk).unwrap();
        old.write(&run.plan(&mut random), true).unwrap();
        drop(old);
        let before = disk.restart();
        let new = open(&disk).unwrap();
        new.write(&run.plan(&mut random), true).unwrap();
        let mut writer = ImageWriter::new(&new).unwrap();
        let frames: Vec<_> = std::iter::from_fn(|| writer.next_frame().unwrap()).collect();
        run.durable = 1;

        let disk = before.restart();
        disk.record(Recording::All);
        receive(&disk, &frames).unwrap();
        for (moment, crashed) in disk.take_recorded().iter().enumerate() {
            let crashed = crashed.crash(random.number());
            let context = format!("seed {seed}, crash at {moment}");
            recover(&run, &crashed, &mut random, 0, &context);
        }
        for nth in 1.. {
            let disk = before.restart();
            disk.fail_nth(nth, None, DiskError::Full);
            let received = receive(&disk, &frames);
            if disk.failure_is_pending() {
                break;
            }
            let context = format!("seed {seed}, failed at {nth}");
            received.expect_err(&context);
            recover(&run, &disk.restart(), &mut random, 0, &context);
        }
        run.durable = 2;
        recover(&run, &disk, &mut random, 0, &format!("seed {seed}, received"));
    }
}
