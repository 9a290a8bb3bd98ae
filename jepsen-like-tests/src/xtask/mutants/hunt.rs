//! One run of one checker, with one bug or none.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use kelson_jepsen::mutants::Checker;

/// How often to look whether a checker has ended.
const POLL: Duration = Duration::from_millis(20);

/// Runs checkers. Everything they leave behind is below one directory.
pub struct Hunter {
    binaries: BTreeMap<String, PathBuf>,
    directory: PathBuf,
}

/// What a run came to.
pub struct Catch {
    end: End,
    /// Whether the bug was met.
    reached: bool,
    took: Duration,
    /// The first words of the checker's complaint.
    complaint: String,
    /// All that it wrote.
    log: PathBuf,
}

enum End {
    Green,
    Red,
    /// No test has such a name.
    Nothing,
    OutOfTime,
}

impl Catch {
    /// Whether the checker found the bug: it complained, after it had met it.
    pub fn is_caught(&self) -> bool {
        self.reached && matches!(self.end, End::Red)
    }

    /// Whether some test ran, and all that ran passed.
    pub fn is_green(&self) -> bool {
        matches!(self.end, End::Green)
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (&self.end, self.reached) {
            (End::Red, true) => "caught",
            (End::Red, false) => "RED",
            (End::Green, true) => "SURVIVED",
            (End::Green, false) => "green",
            (End::Nothing, _) => "NO SUCH TEST",
            (End::OutOfTime, _) => "OUT OF TIME",
        };
        write!(f, "{verdict} in {:.1} s", self.took.as_secs_f64())?;
        match &self.end {
            End::Red => write!(f, " ({})", self.complaint),
            End::Green => Ok(()),
            End::Nothing | End::OutOfTime => write!(f, " (see {})", self.log.display()),
        }
    }
}

impl Hunter {
    /// A hunter with these executables.
    pub fn new(binaries: BTreeMap<String, PathBuf>) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("kelson-mutants-{}", std::process::id()));
        fs::create_dir_all(&directory).context("no place for logs")?;
        println!("logs are in {}", directory.display());
        Ok(Self { binaries, directory })
    }

    /// Sends out a checker for `seconds` at most.
    pub fn run(&self, checker: Checker, mutant: Option<&str>, seconds: u64) -> anyhow::Result<Catch> {
        let binary = self.binaries.get(checker.binary);
        let binary = binary.with_context(|| format!("no test binary {}", checker.binary))?;
        let name = match mutant {
            Some(number) => number.to_owned(),
            None => format!("none-{}-{}", checker.binary, checker.tests.replace("::", "-")),
        };
        let log = self.directory.join(format!("{name}.log"));
        let reached = self.directory.join(format!("{name}.reached"));
        let output = File::create(&log)?;
        let mut command = Command::new(binary);
        command
            .arg(checker.tests)
            .envs(checker.settings.iter().filter_map(|setting| setting.split_once('=')))
            // A case is not made smaller, and no case is kept: it says nothing about a sound Kelson.
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            .env("KELSON_MUTANT_REACHED", &reached)
            .current_dir(&self.directory)
            .stdout(output.try_clone()?)
            .stderr(output)
            // The checker and the servers that it starts end together.
            .process_group(0);
        match mutant {
            Some(number) => command.env("KELSON_MUTANT", number),
            None => command.env_remove("KELSON_MUTANT"),
        };
        let begun = now();
        let mut child = command.spawn().context("a checker cannot be started")?;
        let status = wait(&mut child, begun, Duration::from_secs(seconds))?;
        let took = begun.elapsed();
        end_group(&child);
        Ok(Catch {
            end: end(status, &log)?,
            reached: reached.exists(),
            took,
            complaint: complaint(&log)?,
            log,
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a checker took is a figure for people"
)]
fn now() -> Instant {
    Instant::now()
}

/// Waits for the end; none if it does not come in time.
fn wait(child: &mut Child, begun: Instant, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "waits for another process, on no runtime"
        )]
        std::thread::sleep(POLL);
    }
}

/// Ends what a checker has left running.
fn end_group(child: &Child) {
    let group = format!("-{}", child.id());
    // There is nothing left to end as a rule, and then this fails.
    let _ = Command::new("kill").args(["-KILL", "--", &group]).output();
}

fn end(status: Option<ExitStatus>, log: &Path) -> anyhow::Result<End> {
    Ok(match status {
        None => End::OutOfTime,
        Some(status) if !status.success() => End::Red,
        Some(_) if fs::read_to_string(log)?.contains("test result: ok. 0 passed") => End::Nothing,
        Some(_) => End::Green,
    })
}

/// The first panic in a log, without its place: two lines at most, cut to a width that fits a table.
fn complaint(log: &Path) -> anyhow::Result<String> {
    const WIDTH: usize = 120;
    let bytes = fs::read(log)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
    let words: Vec<&str> = lines.by_ref().skip(1).take(1).map(str::trim).collect();
    let words = words.join(" ").replace('|', "/");
    Ok(words.chars().take(WIDTH).collect())
}
