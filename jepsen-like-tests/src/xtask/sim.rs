//! `cargo xtask sim`: plays seeds of the deterministic simulation.
//!
//! One seed, or many on all cores. A seed that fails is printed with what was wrong and how to play it
//! again; with `--shrink` kinds of faults are left out one by one for as long as it still fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use kelson_jepsen::check::coverage::{self, Demand, Tally};
use kelson_jepsen::history;
use kelson_jepsen::sim::plan::{FaultKind, Plan};
use kelson_jepsen::sim::{self, Report};
use kelson_storage::reached;
use tokio::time::Instant;

use crate::ledger::{self, Line};

/// One line of help.
pub const HELP: &str = "play seeds of the simulation: --seed N [--count K] [--seconds S] [--without A,B] [--shrink] \
                        [--twice] [--jobs N] [--trace] [--history FILE] [--demand] [--ledger]";

/// Marks on paths that the simulation has not: it damages no data, has no quota, and its values and streams are small.
const OUT_OF_REACH: [&str; 7] = [
    "apply_waited_for_database",
    "compaction_in_bites",
    "damage_refused",
    "member_differs",
    "nospace_refused_at_apply",
    "snapshot_refused",
    "watch_ring_lost",
];
/// Real time after which a seed hangs: it goes round and round without its clock moving on. Usual are some seconds.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// Time between two looks at what is being played.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Flags {
    seed: u64,
    count: u64,
    duration: Duration,
    without: BTreeSet<FaultKind>,
    shrink: bool,
    twice: bool,
    trace: bool,
    history: Option<String>,
    ledger: bool,
    /// Whether too little of what the design wants tried is a failure.
    demand: bool,
    /// Threads that play seeds.
    jobs: usize,
}

impl Flags {
    fn parse(arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut flags = Self {
            seed: 1,
            count: 1,
            duration: Duration::from_secs(60),
            without: BTreeSet::new(),
            shrink: false,
            twice: false,
            trace: false,
            history: None,
            ledger: false,
            demand: false,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--seed" => flags.seed = value()?.parse()?,
                "--count" => flags.count = value()?.parse()?,
                "--seconds" => flags.duration = Duration::from_secs(value()?.parse()?),
                "--without" => {
                    for kind in value()?.split(',') {
                        flags.without.insert(kind.parse().map_err(anyhow::Error::msg)?);
                    }
                }
                "--jobs" => flags.jobs = value()?.parse()?,
                "--history" => flags.history = Some(value()?),
                "--shrink" => flags.shrink = true,
                "--twice" => flags.twice = true,
                "--trace" => flags.trace = true,
                "--ledger" => flags.ledger = true,
                "--demand" => flags.demand = true,
                _ => bail!("unknown flag {flag}"),
            }
        }
        Ok(flags)
    }

    fn plan(&self, seed: u64) -> Plan {
        Plan::of(seed, self.duration).without(&self.without)
    }

    fn play(&self, seed: u64) -> Report {
        let mut report = sim::run(&self.plan(seed), self.trace);
        if self.twice && report.violation.is_none() {
            let again = sim::run(&self.plan(seed), self.trace);
            if again.trace != report.trace {
                report.violation = Some(format!(
                    "not the same run twice: {:x?}, then {:x?}",
                    report.trace, again.trace
                ));
            }
        }
        report
    }

    /// How to play one seed again.
    fn command(&self, seed: u64, without: &BTreeSet<FaultKind>) -> String {
        let mut command = format!(
            "cargo xtask sim --seed {seed} --seconds {}",
            self.duration.as_secs()
        );
        if !without.is_empty() {
            let kinds: Vec<String> = without.iter().map(ToString::to_string).collect();
            command += &format!(" --without {}", kinds.join(","));
        }
        command
    }
}

/// What all seeds did together.
#[derive(Default)]
struct Sum {
    played: u64,
    simulated: Duration,
    operations: u64,
    unknown: u64,
    elections: u64,
    deaths: u64,
    faults: u64,
    coverage: Tally,
    failed: Vec<(u64, String)>,
}

/// Runs the subcommand.
///
/// # Errors
/// A wrong flag, or a seed that failed.
pub fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let flags = Flags::parse(arguments)?;
    println!(
        "seeds {}..{}, {} virtual seconds each",
        flags.seed,
        flags.seed + flags.count,
        flags.duration.as_secs()
    );
    if flags.count == 1 {
        println!("{:#?}", flags.plan(flags.seed));
    }
    let mut sum = play_all(&flags);
    count_marks(&mut sum.coverage);
    println!(
        "{} seeds, {} virtual s, {} operations ({} unknown), {} faults, {} elections, {} deaths, {} failed",
        sum.played,
        sum.simulated.as_secs(),
        sum.operations,
        sum.unknown,
        sum.faults,
        sum.elections,
        sum.deaths,
        sum.failed.len()
    );
    println!("{}", sum.coverage);
    let never = sum.coverage.reached.iter().filter(|(_, count)| **count == 0);
    let never: Vec<&str> = never.map(|(mark, _)| mark.as_str()).collect();
    println!(
        "{} of {} marks reached; never: {}",
        sum.coverage.reached.len() - never.len(),
        sum.coverage.reached.len(),
        never.join(" ")
    );
    let mut reasons = Vec::new();
    if !sum.failed.is_empty() {
        reasons.push(format!("{} seeds failed", sum.failed.len()));
    }
    if flags.demand {
        let verdict = coverage::check(&sum.coverage, &demand());
        reasons.extend((!verdict.is_pass()).then(|| format!("coverage: {verdict}")));
    }
    if flags.ledger {
        append_to_ledger(&flags, &sum, &reasons)?;
    }
    if flags.shrink
        && let Some((seed, _)) = sum.failed.first()
    {
        shrink(&flags, *seed);
    }
    if !reasons.is_empty() {
        bail!("{}", reasons.join("\n"));
    }
    Ok(())
}

/// Of all faults, and of everything but changes of membership, which no plan makes yet.
fn demand() -> Demand {
    let kinds = FaultKind::ALL.map(|kind| kind.to_string());
    let marks: Vec<&str> = reached::MARKS
        .iter()
        .map(|(mark, _)| *mark)
        .filter(|mark| !OUT_OF_REACH.contains(mark))
        .collect();
    let mut demand = Demand::full(&kinds.each_ref().map(String::as_str), &marks);
    demand.least.membership_changes = 0;
    demand
}

/// What the marks say of all runs of this process, in builds that count.
fn count_marks(tally: &mut Tally) {
    let marks = reached::counts().map(|(mark, count)| (mark.to_owned(), count));
    tally.reached = marks.collect();
    tally.torn_tails = tally.reached.get("wal_torn_tail_cut").copied().unwrap_or(0);
}

fn play_all(flags: &Flags) -> Sum {
    let next = AtomicU64::new(flags.seed);
    let end = flags.seed + flags.count;
    let sum = Mutex::new(Sum::default());
    let playing = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        scope.spawn(|| end_with_what_hangs(flags, &sum, &playing));
        for _ in 0..flags.jobs.min(usize::try_from(flags.count).unwrap_or(flags.jobs)) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    locked(&playing).insert(seed, Instant::now());
                    let report = flags.play(seed);
                    add(&mut locked(&sum), flags, seed, report);
                    locked(&playing).remove(&seed);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread cannot be ended from outside, so a seed that hangs ends everything.
fn end_with_what_hangs(flags: &Flags, sum: &Mutex<Sum>, playing: &Mutex<BTreeMap<u64, Instant>>) {
    while locked(sum).played < flags.count {
        #[expect(clippy::disallowed_methods, reason = "looks at other threads, on no runtime")]
        std::thread::sleep(LOOK_EVERY);
        let hanging = locked(playing)
            .iter()
            .find_map(|(seed, since)| (since.elapsed() > HANGS_AFTER).then_some(*seed));
        if let Some(seed) = hanging {
            println!(
                "seed {seed} hangs: {HANGS_AFTER:?} and no end\n    {}",
                flags.command(seed, &flags.without)
            );
            std::process::exit(1);
        }
    }
}

fn add(sum: &mut Sum, flags: &Flags, seed: u64, report: Report) {
    sum.played += 1;
    sum.simulated += report.simulated;
    sum.operations += report.operations.0;
    sum.unknown += report.operations.2;
    sum.elections += report.elections;
    sum.deaths += report.deaths;
    sum.coverage.add(&report.coverage);
    sum.faults += report.faults.values().sum::<u64>();
    if flags.count == 1 {
        println!(
            "trace {:x} of {} events; calls ok, refused, unknown: {:?}; {:?}",
            report.trace.0, report.trace.1, report.operations, report.faults
        );
    } else if sum.played.is_multiple_of(50) {
        println!(
            "{} of {} seeds, {} virtual s, {} failed",
            sum.played,
            flags.count,
            sum.simulated.as_secs(),
            sum.failed.len()
        );
    }
    if let Some(path) = &flags.history
        && let Err(error) = write_history(path, &report.history)
    {
        println!("cannot write {path}: {error}");
    }
    if let Some(violation) = report.violation {
        println!(
            "seed {seed}: {violation}\n    {}",
            flags.command(seed, &flags.without)
        );
        sum.failed.push((seed, violation));
    }
}

fn write_history(path: &str, history: &history::History) -> std::io::Result<()> {
    let mut writer = history::Writer::append(Path::new(path))?;
    for record in &history.records {
        writer.write(record)?;
    }
    writer.flush()
}

/// Leaves out what the failure does not need.
fn shrink(flags: &Flags, seed: u64) {
    let mut without = flags.without.clone();
    for kind in flags.plan(seed).faults {
        let mut fewer = without.clone();
        fewer.insert(kind);
        let report = sim::run(&Plan::of(seed, flags.duration).without(&fewer), false);
        if report.violation.is_some() {
            println!("still fails without {kind}");
            without = fewer;
        }
    }
    let left = Plan::of(seed, flags.duration).without(&without).faults;
    println!("enough to fail: {left:?}\n    {}", flags.command(seed, &without));
}

fn append_to_ledger(flags: &Flags, sum: &Sum, reasons: &[String]) -> anyhow::Result<()> {
    let verdict = match reasons {
        [] => "pass".to_owned(),
        reasons => format!("fail: {}", reasons.join("; ")),
    };
    ledger::append(&Line {
        rung: "c simulation".to_owned(),
        seeds: format!("{}-{}", flags.seed, flags.seed + flags.count - 1),
        simulated_s: sum.simulated.as_secs(),
        operations: sum.operations,
        faults: sum.faults,
        verdict,
    })
}
