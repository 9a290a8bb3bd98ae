//! `cargo xtask mutants`: switches on the planted bugs one at a time and sends out the checker that must find each.
//!
//! The tests are built once, with the feature `mutants`. Every checker also runs once without a bug: it must be green,
//! or nothing it says of a bug counts. A checker that turns red without having met the bug counts as having missed it.
//!
//! `--gate` is the short form for every change: each checker that starts no server has to find one of its bugs. Which
//! one moves on with every commit.

mod builds;
mod hunt;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use kelson_jepsen::mutants::{Checker, Hunt, MUTANTS, Mutant};

use builds::Scope;
use hunt::Hunter;

/// What the command line asks for.
struct Asked {
    mutants: Vec<&'static Mutant>,
    scope: Scope,
}

/// Runs the command.
///
/// # Errors
///
/// When a bug survives, when a checker is red without one, or when the tests cannot be built.
pub fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let asked = Asked::parse(&arguments)?;
    let numbers: Vec<_> = asked.mutants.iter().map(|mutant| mutant.number).collect();
    println!("mutants {}", numbers.join(","));
    println!("again: cargo xtask mutants --only {}", numbers.join(","));
    let hunter = Hunter::new(builds::test_binaries(asked.scope)?)?;
    let red = clean_runs(&hunter, &asked.mutants)?;
    let mut survivors = Vec::new();
    let mut rows = Vec::new();
    for mutant in asked.mutants {
        let (checker, fate, is_caught) = hunt(&hunter, mutant, &red)?;
        if !is_caught {
            survivors.push(mutant.number);
        }
        println!("{} {}: {fate}", mutant.number, mutant.breaks);
        // The complaint is for whoever watches; the table is for those who come later.
        let fate = fate.split(" (").next().unwrap_or_default();
        rows.push(format!(
            "| {} | {} | {checker} | {fate} |",
            mutant.number, mutant.breaks
        ));
    }
    println!(
        "\n| # | planted bug | checker | fate |\n|---|---|---|---|\n{}",
        rows.join("\n")
    );
    ensure!(survivors.is_empty(), "not caught: {}", survivors.join(","));
    Ok(())
}

/// Sends out the checker of one bug: which it is, what came of it, and whether that is well.
fn hunt(hunter: &Hunter, mutant: &Mutant, red: &BTreeSet<Checker>) -> anyhow::Result<(String, String, bool)> {
    Ok(match mutant.hunt {
        Hunt::NotPlanted(why) => ("-".to_owned(), format!("not planted: {why}"), true),
        Hunt::By(checker, _) if red.contains(&checker) => {
            let why = "INVALID: its checker is red without a bug";
            (name(&checker), why.to_owned(), false)
        }
        Hunt::By(checker, seconds) => {
            let catch = hunter.run(checker, Some(mutant.number), seconds)?;
            (name(&checker), catch.to_string(), catch.is_caught())
        }
    })
}

/// Seconds that a checker may take without a bug. No promise is made of it: it only has to end on a busy machine.
const CLEAN_SECONDS: u64 = 500;

/// Runs every checker without a bug; returns those that are not green.
fn clean_runs(hunter: &Hunter, mutants: &[&Mutant]) -> anyhow::Result<BTreeSet<Checker>> {
    let checkers: BTreeSet<Checker> = mutants
        .iter()
        .filter_map(|mutant| match mutant.hunt {
            Hunt::By(checker, _) => Some(checker),
            Hunt::NotPlanted(_) => None,
        })
        .collect();
    let mut red = BTreeSet::new();
    for checker in checkers {
        let catch = hunter.run(checker, None, CLEAN_SECONDS)?;
        println!("without a bug: {}: {catch}", name(&checker));
        if !catch.is_green() {
            red.insert(checker);
        }
    }
    Ok(red)
}

/// A checker as one would say it to `cargo test`.
fn name(checker: &Checker) -> String {
    let settings: String = checker.settings.iter().map(|one| format!("{one} ")).collect();
    format!("`{settings}{} {}`", checker.binary, checker.tests)
}

impl Asked {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let flags: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mutants: Vec<_> = match flags[..] {
            [] => MUTANTS.iter().collect(),
            ["--only", numbers] => numbers.split(',').map(named).collect::<anyhow::Result<_>>()?,
            ["--gate"] => one_per_checker(commits()?),
            _ => bail!("usage: cargo xtask mutants [--gate | --only M07,M12]"),
        };
        let takes_members = mutants
            .iter()
            .any(|mutant| matches!(mutant.hunt, Hunt::By(checker, _) if checker.takes_members()));
        let scope = if takes_members {
            Scope::Everything
        } else {
            Scope::Parts
        };
        Ok(Self { mutants, scope })
    }
}

fn named(number: &str) -> anyhow::Result<&'static Mutant> {
    let found = MUTANTS.iter().find(|mutant| mutant.number == number);
    found.with_context(|| format!("there is no mutant {number}"))
}

/// For each checker that takes no whole member, one of the bugs it must find; all have their turn as `turn` grows.
fn one_per_checker(turn: usize) -> Vec<&'static Mutant> {
    let mut prey: BTreeMap<Checker, Vec<&Mutant>> = BTreeMap::new();
    for mutant in MUTANTS {
        if let Hunt::By(checker, _) = mutant.hunt
            && !checker.takes_members()
        {
            prey.entry(checker).or_default().push(mutant);
        }
    }
    prey.values()
        .map(|mutants| mutants[turn % mutants.len()])
        .collect()
}

/// Number of commits up to this one.
fn commits() -> anyhow::Result<usize> {
    let output = Command::new("git")
        .args(["rev-list", "--count", "HEAD"])
        .output()?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .context("git does not say how many commits there are")
}
