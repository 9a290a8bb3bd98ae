//! The Gate of rung d: short episodes of real members under faults, judged by all checkers.
//!
//! `KELSON_EPISODES` says how many (1 if unset; `.ci/run` asks for all plans of the Gate), `KELSON_SEED` where their
//! seeds begin (else the commit decides, so that every commit meets faults of its own). What cannot be done here, for
//! lack of root or of tools, is said; with `KELSON_REQUIRE_ALL` it is a failure.
//!
//! This is no libtest harness: namespaces are entered by a process of one thread, and members end with that thread.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use kelson_jepsen::check::coverage::Demand;
use kelson_jepsen::process::campaign::Campaign;
use kelson_jepsen::process::network;
use kelson_jepsen::process::plan::{GATE, Plan, SHORT};
use kelson_jepsen::process::server::Server;

/// The name by which `cargo test NAME` finds this.
const NAME: &str = "process::members_under_faults_keep_their_promises";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    let mut filters = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    if filters.peek().is_some() && !filters.any(|filter| NAME.contains(filter.as_str())) {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let episodes = number("KELSON_EPISODES")?.unwrap_or(1);
    let seed = match number("KELSON_SEED")? {
        Some(seed) => seed,
        None => seed_of_commit(),
    };
    println!("KELSON_SEED={seed} KELSON_EPISODES={episodes}");
    let plans = Plan::several("gate", seed, usize::try_from(episodes)?, 3, &SHORT)?;
    let server = Server::of(&binary()?)?;
    println!("{} ({})", server.version, server.binary.display());
    let with_network = network::enter_or_say();
    if std::env::var_os("KELSON_REQUIRE_ALL").is_some() {
        ensure!(
            with_network,
            "KELSON_REQUIRE_ALL is set, and there are no namespaces"
        );
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("process");
    let mut campaign = Campaign::new(server, &directory, with_network, false)?;
    for plan in &plans {
        campaign.run(plan)?;
    }
    let whole = with_network && plans.len() >= GATE.len();
    let reasons = campaign.verdict(whole.then(|| demand(&plans)).as_ref());
    ensure!(reasons.is_empty(), "{}", reasons.join("\n"));
    Ok(())
}

/// A quarter of what a Full run must try, with the kinds of faults that these plans have.
fn demand(plans: &[Plan]) -> Demand {
    let steps = plans
        .iter()
        .flat_map(|plan| &plan.tracks)
        .flat_map(|track| &track.steps);
    let mut kinds: Vec<&str> = steps.map(|step| step.fault.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut demand = Demand::gate(&kinds, &[]);
    // No plan changes the membership; processes that are killed leave no torn tails, which power cuts do.
    (demand.least.membership_changes, demand.least.torn_tails) = (0, 0);
    demand
}

/// The server, built as this test was: with the features that dependencies have in tests of the whole workspace, or all of
/// them would be compiled a second time. A test of the server brings its binary.
fn binary() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("KELSON_BIN") {
        return Ok(binary.into());
    }
    let mut build = kelson_jepsen::cargo::command();
    build.args(["test", "--quiet", "--locked", "--workspace"]);
    build.args(["--test", "daemon", "--no-run"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "{build:?}: {status}");
    // TARGET/debug/deps/process-1234
    let here = std::env::current_exe()?;
    let profile = here
        .ancestors()
        .nth(2)
        .context("a test binary is two levels down")?;
    Ok(profile.join("kelson"))
}

/// Any number will do where there is no git.
fn seed_of_commit() -> u64 {
    let said = Command::new("git")
        .args(["rev-parse", "--short=7", "HEAD"])
        .output();
    let commit = said.map_or_else(
        |_| String::new(),
        |said| String::from_utf8_lossy(&said.stdout).into_owned(),
    );
    u64::from_str_radix(commit.trim(), 16).unwrap_or(1)
}

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => bail!("{variable}: {error}"),
    }
}
