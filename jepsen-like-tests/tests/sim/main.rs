//! Seeds of the deterministic simulation (`kelson_jepsen::sim`): a few at random, those of [`regressions`], and some
//! twice, because a simulation that is not the same twice proves nothing.
//!
//! `KELSON_SIM_FIRST`, `KELSON_SIM_SEEDS`, `KELSON_SIM_SECONDS` and `KELSON_SIM_MICRO_SEEDS` choose others; `cargo xtask
//! sim` plays one, or very many.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kelson_jepsen::sim::network::LinkQuality;
use kelson_jepsen::sim::plan::{FaultKind, Plan};
use kelson_jepsen::sim::{self, Report};

mod regressions;

/// Seeds played by default: what two busy cores do in a minute or two without optimisation. `cargo xtask sim` is the way
/// to play many.
const SEEDS: u64 = 8;
/// Virtual time of each seed, by default.
const DURATION: Duration = Duration::from_secs(30);
/// Micro seeds played by default.
const MICRO_SEEDS: u64 = 50;
/// Virtual time of each of them, before the faults end and the members have to agree.
const MICRO_DURATION: Duration = Duration::from_secs(2);
/// Seeds played twice.
const SEEDS_TWICE: u64 = 5;

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// Plays seeds on all cores, in any order: each is its own world.
fn play(seeds: std::ops::Range<u64>, with: impl Fn(u64) -> Report + Sync) -> Vec<(u64, Report)> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let reports = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = with(seed);
                    reports.lock().expect("no player panics").push((seed, report));
                }
            });
        }
    });
    let mut reports = reports.into_inner().expect("as above");
    reports.sort_by_key(|(seed, _)| *seed);
    reports
}

#[test]
fn seeds_hold_every_promise() {
    let count = setting("KELSON_SIM_SEEDS", SEEDS);
    let seconds = setting("KELSON_SIM_SECONDS", DURATION.as_secs());
    let operations = assert_no_violation(setting("KELSON_SIM_FIRST", 1), count, seconds);
    assert!(operations > 50 * count, "clients got hardly anything done");
}

/// So short that many worlds can be drawn: what goes wrong at a start, or in a rare mix, does so at once.
#[test]
fn micro_seeds_hold_every_promise() {
    let count = setting("KELSON_SIM_MICRO_SEEDS", MICRO_SEEDS);
    let operations = assert_no_violation(setting("KELSON_SIM_FIRST", 1), count, MICRO_DURATION.as_secs());
    assert!(operations > 5 * count, "clients got hardly anything done");
}

/// Plays seeds from `first` and says which one broke a promise. Answers how many operations were done.
#[track_caller]
fn assert_no_violation(first: u64, count: u64, seconds: u64) -> u64 {
    let reports = play(first..first + count, |seed| {
        sim::run(&Plan::of(seed, Duration::from_secs(seconds)), false)
    });
    let mut failed = String::new();
    for (seed, report) in &reports {
        if let Some(violation) = &report.violation {
            failed +=
                &format!("seed {seed}: {violation}\n    cargo xtask sim --seed {seed} --seconds {seconds}\n");
        }
    }
    let ok: u64 = reports.iter().map(|(_, report)| report.operations.0).sum();
    let unknown: u64 = reports.iter().map(|(_, report)| report.operations.2).sum();
    let elections: u64 = reports.iter().map(|(_, report)| report.elections).sum();
    let deaths: u64 = reports.iter().map(|(_, report)| report.deaths).sum();
    eprintln!(
        "{count} seeds of {seconds} s: {ok} operations, {unknown} unknown, {elections} elections, {deaths} deaths"
    );
    assert!(failed.is_empty(), "\n{failed}");
    ok
}

#[test]
fn a_seed_is_the_same_run_twice() {
    let count = setting("KELSON_SIM_TWICE", SEEDS_TWICE);
    let reports = play(100_000..100_000 + count, |seed| {
        let plan = Plan::of(seed, DURATION / 2);
        let first = sim::run(&plan, false);
        let second = sim::run(&plan, false);
        assert_eq!(first.trace, second.trace, "seed {seed} is not the same run twice");
        first
    });
    assert_eq!(reports.len() as u64, count);
}

/// A new leader hears from a quorum that it leads before the first entry of its term is on their disks. Until then it
/// does not know all that the old one has acknowledged, so a read that only asks who leads is stale: disks are slow here,
/// links are quick, and leaders die all the time.
#[test]
fn reads_at_new_leaders_see_what_the_old_one_acknowledged() {
    // One in three such seeds meets a read in time.
    let count = 2 * SEEDS;
    let reports = play(200_000..200_000 + count, |seed| {
        let plan = Plan::of(seed, DURATION);
        let all = BTreeSet::from(FaultKind::ALL);
        let plan = Plan {
            members: 3,
            clock_rates: vec![100; 3],
            faults: BTreeSet::from([FaultKind::Kill]),
            fault_every: Duration::from_secs(1),
            links: LinkQuality {
                delay: Duration::from_millis(1),
                jitter: Duration::from_millis(5),
                loss: 0,
            },
            disk_latency: Duration::from_millis(40),
            election_timeout: Duration::from_millis(500),
            clients: 8,
            client_pause: Duration::from_millis(5),
            keys: 2,
            leases: false,
            watchers: 0,
            ..plan.without(&all)
        };
        sim::run(&plan, false)
    });
    let elections: u64 = reports.iter().map(|(_, report)| report.elections).sum();
    assert!(elections > 5 * count, "{elections} elections are no test");
    for (seed, report) in reports {
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
