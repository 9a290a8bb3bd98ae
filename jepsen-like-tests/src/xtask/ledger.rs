//! `jepsen-like-tests/ledger.csv`: one line per campaign, appended by whoever ran it and committed with what it proves.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, ensure};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ledger.csv");
const HEAD: &str = "date,commit,rung,seeds,simulated s,operations,faults,verdict";

/// One campaign. What has commas gets spaces instead.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Which rung of the ladder, and in what form.
    pub rung: String,
    /// Seeds, from-to.
    pub seeds: String,
    /// Virtual seconds; 0 where time is real.
    pub simulated_s: u64,
    /// Client operations whose answers were checked, or runs of a fuzzer.
    pub operations: u64,
    /// Faults that took effect.
    pub faults: u64,
    /// `pass`, or what failed.
    pub verdict: String,
}

/// The commit that was checked out when this process began.
static TREE: OnceLock<String> = OnceLock::new();

/// To be called first: a campaign takes hours, and speaks of the tree that it was built from, not of what is checked out at
/// its end.
pub fn remember_tree() {
    // Where there is no work tree only a ledger's line misses it, and says so.
    if let Ok(commit) = tree() {
        TREE.get_or_init(|| commit);
    }
}

/// Adds a line of today and of the remembered tree.
///
/// # Errors
/// The file cannot be written, or this is no work tree of git.
pub fn append(line: &Line) -> anyhow::Result<()> {
    let date = output(Command::new("date").args(["--utc", "+%F"]))?;
    let commit = match TREE.get() {
        Some(commit) => commit.clone(),
        None => tree()?,
    };
    let new = !Path::new(PATH).exists();
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(PATH)
        .context(PATH)?;
    if new {
        writeln!(file, "{HEAD}")?;
    }
    let Line {
        rung,
        seeds,
        simulated_s,
        operations,
        faults,
        verdict,
    } = line;
    let [rung, seeds, verdict] = [rung, seeds, verdict].map(|text| text.replace([',', '\n'], " "));
    writeln!(
        file,
        "{date},{commit},{rung},{seeds},{simulated_s},{operations},{faults},{verdict}"
    )?;
    Ok(())
}

/// The commit that is checked out, and whether anything differs from it.
fn tree() -> anyhow::Result<String> {
    let git = |arguments: &[&str]| {
        output(
            Command::new("git")
                .args(arguments)
                .current_dir(env!("CARGO_MANIFEST_DIR")),
        )
    };
    let mut commit = git(&["rev-parse", "--short", "HEAD"])?;
    // The lines that a campaign adds here make nothing else of what it checked.
    let others = [":/", ":(exclude)ledger.csv"];
    let changed = ["status", "--porcelain", "--untracked-files=no", "--"];
    if !git(&[&changed[..], &others].concat())?.is_empty() {
        commit.push_str("-dirty");
    }
    Ok(commit)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
