//! `cargo xtask recheck`: the verdicts on episodes that were kept, once more and without a cluster.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kelson_jepsen::check::coverage::Tally;
use kelson_jepsen::check::{self, Evidence, Limits};
use kelson_jepsen::history::{HISTORY_FILE, History, MEMBERS_FILE, read_members};
use kelson_jepsen::process::figures::Figures;
use kelson_jepsen::process::logs::Counts;

const USAGE: &str = "usage: cargo xtask recheck DIRECTORY...

Each directory is an episode: it holds history.jsonl, and members.json if members could be asked.";

/// See [`USAGE`].
///
/// # Errors
///
/// If an episode does not pass, or cannot be read.
pub fn run(arguments: Vec<String>) -> Result<()> {
    if arguments.is_empty() || arguments.iter().any(|argument| argument.starts_with('-')) {
        bail!("{USAGE}");
    }
    let mut failed = Vec::new();
    for directory in arguments {
        if !recheck(Path::new(&directory)).with_context(|| directory.clone())? {
            failed.push(directory);
        }
    }
    if !failed.is_empty() {
        bail!("not passed: {}", failed.join(" "));
    }
    Ok(())
}

fn recheck(directory: &Path) -> Result<bool> {
    let history = History::read(&directory.join(HISTORY_FILE))?;
    let members = read_members(&directory.join(MEMBERS_FILE))?;
    let evidence = Evidence::new(&history, &members);
    println!("{}: {} calls", directory.display(), evidence.operations.len());
    let (reports, timeline) = check::judge(&evidence, &Limits::default());
    for report in &reports {
        println!("  {:<12} {}", report.checker, report.verdict);
    }
    println!("{}", Figures::of(&history).shown());
    let mut tally = Tally::of(&evidence, timeline.as_ref());
    let logged = logged(directory)?;
    (tally.snapshot_installs, tally.torn_tails) = (logged.snapshot_installs, logged.torn_tails);
    println!("  {tally}");
    Ok(reports.iter().all(|report| report.verdict.is_pass()))
}

/// What the members' logs tell.
fn logged(directory: &Path) -> Result<Counts> {
    let mut counts = Counts::default();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            counts.add(Counts::of(&String::from_utf8_lossy(&std::fs::read(path)?)));
        }
    }
    Ok(counts)
}
