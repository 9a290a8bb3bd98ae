//! `cargo xtask recheck`: the verdicts on episodes that were kept, once more and without a cluster.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kelson_jepsen::check::coverage::Tally;
use kelson_jepsen::check::{self, Evidence, Limits};
use kelson_jepsen::history::{HISTORY_FILE, History, MEMBERS_FILE, read_members};
use kelson_jepsen::process::figures::Figures;

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
    println!("  {}", Tally::of(&evidence, timeline.as_ref()));
    Ok(reports.iter().all(|report| report.verdict.is_pass()))
}
