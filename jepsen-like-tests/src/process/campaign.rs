//! A campaign: episodes one after the other, one sum of what they tried, one verdict.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use kelson_storage::reached::MARKS;
use tokio::runtime::{Builder, Runtime};

use super::episode::{self, Outcome};
use super::figures::Figures;
use super::judge::{Judgement, judge};
use super::plan::Plan;
use super::server::Server;
use crate::check::Limits;
use crate::check::coverage::{self, Demand, Tally};
use crate::history::Record;

/// Rest between two episodes: what the last one left behind ends.
const REST: Duration = Duration::from_millis(100);

/// Longest time without a write, in ns, after which a server whose bounds we do not know counts as stuck.
const GOING_ON: u64 = 30_000_000_000;

/// Name of the file in which a failed episode says why.
pub const VERDICT_FILE: &str = "verdict.txt";

/// Episodes of one server, so far.
#[derive(Debug)]
pub struct Campaign {
    server: Server,
    directory: PathBuf,
    with_network: bool,
    keeps_all: bool,
    runtime: Runtime,
    seeds: Vec<u64>,
    failed: Vec<(String, u64)>,
    faults: u64,
    figures: Figures,
    coverage: Tally,
}

impl Campaign {
    /// Episodes of `server` that keep their files below `directory`; those of episodes that pass only if `keeps_all`.
    ///
    /// Members end with the thread that calls this, see [`episode::run`].
    ///
    /// # Errors
    ///
    /// If the directory cannot be made.
    pub fn new(server: Server, directory: &Path, with_network: bool, keeps_all: bool) -> Result<Campaign> {
        std::fs::create_dir_all(directory)?;
        Ok(Campaign {
            server,
            directory: directory.canonicalize()?,
            with_network,
            keeps_all,
            runtime: Builder::new_current_thread().enable_all().build()?,
            seeds: Vec::new(),
            failed: Vec::new(),
            faults: 0,
            figures: Figures::default(),
            coverage: Tally::default(),
        })
    }

    /// Runs and judges one episode, and prints what is worth knowing. Returns why it fails; nothing: it passes. Faults
    /// that this server does not promise to stand are skipped.
    ///
    /// # Errors
    ///
    /// If its directory cannot be written. An episode that breaks off fails.
    pub fn run(&mut self, plan: &Plan) -> Result<Vec<String>> {
        if !self.server.stands(plan) {
            println!("plan {} is not for {}", plan.name, self.server.short_version());
            return Ok(Vec::new());
        }
        let name = self.server.short_version();
        let place = self.directory.join(format!(
            "{}-{}-{name}-{}",
            plan.name,
            plan.seed,
            std::process::id()
        ));
        std::fs::create_dir_all(&place)?;
        print!("{name}: {plan}");
        let episode = episode::run(&self.server, plan, &place, self.with_network);
        let mut judgement = match self.runtime.block_on(episode) {
            Ok(outcome) => self.judged(&outcome),
            Err(error) => Judgement {
                reasons: vec![format!("the episode broke off: {error:#}")],
                ..Judgement::default()
            },
        };
        self.runtime.block_on(async { tokio::time::sleep(REST).await });
        judgement.reasons.retain(|reason| {
            let known = self.server.is_known_to_fail(plan, reason);
            if known {
                println!("  known of {name}: {reason}");
            }
            !known
        });
        self.seeds.push(plan.seed);
        self.coverage.add(&judgement.coverage);
        self.conclude(plan, &place, &judgement.reasons)?;
        Ok(judgement.reasons)
    }

    fn judged(&mut self, outcome: &Outcome) -> Judgement {
        let figures = Figures::of(&outcome.history);
        show(outcome, &figures);
        self.faults += outcome.history.faults().filter(|fault| fault.took_effect).count() as u64;
        self.figures.add(&figures);
        judge(outcome, &self.limits())
    }

    /// How soon a write must succeed is Kelson's promise. etcd is only held to going on at all.
    fn limits(&self) -> Limits {
        let usual = Limits::default();
        if self.server.is_kelson() {
            return usual;
        }
        Limits {
            write_after_fault: GOING_ON,
            write_after_heal: GOING_ON,
            calm_write_gap: GOING_ON,
            ..usual
        }
    }

    /// Prints the verdict of an episode; keeps what a failed one left.
    fn conclude(&mut self, plan: &Plan, place: &Path, reasons: &[String]) -> Result<()> {
        if reasons.is_empty() {
            println!("  PASS");
            if !self.keeps_all {
                std::fs::remove_dir_all(place)?;
            }
            return Ok(());
        }
        self.failed.push((plan.name.clone(), plan.seed));
        println!("  FAIL");
        let mut verdict = File::create(place.join(VERDICT_FILE))?;
        writeln!(verdict, "{}\n{plan}", self.server.version)?;
        for reason in reasons {
            println!("    {reason}");
            writeln!(verdict, "{reason}")?;
        }
        println!(
            "  kept: {}; judged again by: cargo xtask recheck {0}",
            place.display()
        );
        println!(
            "  again: cargo xtask cluster --plan {} --seed {} --members {}{} --binary {} --repeat 20 --same",
            plan.name,
            plan.seed,
            plan.members,
            if plan.short { " --short" } else { "" },
            self.server.binary.display()
        );
        Ok(())
    }

    /// Prints the sums. Returns why the campaign fails: episodes, figures of Kelson above their bounds (etcd's are for
    /// comparison), too little of what `demand` wants of Kelson.
    #[must_use]
    pub fn verdict(&self, demand: Option<&Demand>) -> Vec<String> {
        let Tally {
            operations, unknown, ..
        } = self.coverage;
        println!(
            "{}: {} episodes, {} failed; {operations} calls, {unknown} unknown; {} faults that took effect",
            self.server.version,
            self.seeds.len(),
            self.failed.len(),
            self.faults,
        );
        println!("{}", self.figures.shown());
        let mut coverage = self.coverage.clone();
        coverage.reached = marks_reached();
        println!("  {coverage}");
        if !coverage.reached.is_empty() {
            let never = MARKS.iter().map(|(mark, _)| *mark);
            let never: Vec<&str> = never
                .filter(|mark| !coverage.reached.contains_key(*mark))
                .collect();
            println!(
                "  {} of {} marks reached; never: {}",
                MARKS.len() - never.len(),
                MARKS.len(),
                never.join(" ")
            );
        }
        let mut reasons = Vec::new();
        if !self.failed.is_empty() {
            let failed = self.failed.iter().map(|(name, seed)| format!("{name} {seed}"));
            reasons.push(format!("episodes {}", failed.collect::<Vec<_>>().join("; ")));
        }
        if self.server.is_kelson() {
            reasons.extend(self.figures.breaches());
        }
        if let Some(demand) = demand.filter(|_| self.server.is_kelson()) {
            let verdict = coverage::check(&coverage, demand);
            reasons.extend((!verdict.is_pass()).then(|| format!("coverage: {verdict}")));
        }
        reasons
    }

    /// What tells this campaign from others: its server and the number of its episodes.
    #[must_use]
    pub fn name(&self) -> String {
        format!("x{} {}", self.seeds.len(), self.server.short_version())
    }

    /// First and last seed.
    #[must_use]
    pub fn seeds(&self) -> (u64, u64) {
        let (first, last) = (self.seeds.first(), self.seeds.last());
        (first.copied().unwrap_or(0), last.copied().unwrap_or(0))
    }

    /// Calls that were checked.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.coverage.operations
    }

    /// Faults that took effect.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }
}

/// How often each mark was hit, if members write that down: in the file that `KELSON_REACHED` names.
fn marks_reached() -> BTreeMap<String, u64> {
    let file = std::env::var_os("KELSON_REACHED").and_then(|path| std::fs::read_to_string(path).ok());
    let mut counts = BTreeMap::new();
    for mark in file.unwrap_or_default().lines() {
        *counts.entry(mark.to_owned()).or_default() += 1;
    }
    counts
}

fn show(outcome: &Outcome, figures: &Figures) {
    let total = outcome.total;
    println!(
        "  {} calls: {} ok, {} failed, {} unknown ({:.2} %); calm {} of {}, healed {} of {}; terms {}; revision {:?}",
        total.total(),
        total.ok,
        total.failed,
        total.unknown,
        100.0 * total.unknown as f64 / total.total().max(1) as f64,
        outcome.calm.ok,
        outcome.calm.total(),
        outcome.healed.ok,
        outcome.healed.total(),
        figures.terms,
        outcome.members.first().and_then(|member| member.revision),
    );
    let notes = outcome.history.records.iter().filter_map(|record| match record {
        Record::Note { at, text } if text.starts_with("healed after") => Some((at, text)),
        _ => None,
    });
    for (at, text) in notes {
        println!("    {:>6.2} s  {text}", *at as f64 / 1e9);
    }
}
