//! `cargo xtask sim`: plays seeds of the deterministic simulation.
//!
//! One seed, or many on all cores. A seed that fails is printed with what was wrong and how to play it
//! again; with `--shrink` kinds of faults are left out one by one for as long as it still fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use kelson_jepsen::check::coverage::Tally;
use kelson_jepsen::history;
use kelson_jepsen::sim::plan::{FaultKind, Plan};
use kelson_jepsen::sim::{self, Report};

use crate::ledger::{self, Line};

/// One line of help.
pub const HELP: &str = "play seeds of the simulation: --seed N [--count K] [--seconds S] [--without A,B] [--shrink] \
                        [--twice] [--jobs N] [--trace] [--history FILE] [--ledger]";

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
    let sum = play_all(&flags);
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
    if flags.ledger {
        append_to_ledger(&flags, &sum)?;
    }
    if sum.failed.is_empty() {
        return Ok(());
    }
    if flags.shrink {
        let (seed, _) = &sum.failed[0];
        shrink(&flags, *seed);
    }
    bail!("{} seeds failed", sum.failed.len())
}

fn play_all(flags: &Flags) -> Sum {
    let next = AtomicU64::new(flags.seed);
    let end = flags.seed + flags.count;
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..flags.jobs.min(usize::try_from(flags.count).unwrap_or(flags.jobs)) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = flags.play(seed);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    add(&mut sum, flags, seed, report);
                }
            });
        }
    });
    sum.into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
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
            "{} of {} seeds, {} failed",
            sum.played,
            flags.count,
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

fn append_to_ledger(flags: &Flags, sum: &Sum) -> anyhow::Result<()> {
    let verdict = match sum.failed.len() {
        0 => "pass".to_owned(),
        failed => format!("{failed} seeds failed"),
    };
    ledger::append(&Line {
        rung: "simulation".to_owned(),
        seeds: format!("{}-{}", flags.seed, flags.seed + flags.count - 1),
        simulated_s: sum.simulated.as_secs(),
        operations: sum.operations,
        faults: sum.faults,
        verdict,
    })
}
