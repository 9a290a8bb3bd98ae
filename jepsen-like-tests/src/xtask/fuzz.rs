//! `cargo xtask fuzz`: builds the fuzzer of `fuzz/` and lets it loose on one target, or on all of them in turn.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use kelson_jepsen::fuzz::{self, TARGETS, Target};

use super::ledger;

const USAGE: &str =
    "usage: cargo xtask fuzz <target>|all [FILE] [--seconds S] [--jobs N] [--no-sanitizer] [--ledger]

  FILE            run this one input and say whether it breaks the promise
  --seconds       how long each target is fuzzed [60]
  --jobs          processes at the same time [1]
  --no-sanitizer  without AddressSanitizer, twice as fast
  --ledger        add a line per target to jepsen-like-tests/ledger.csv

targets:";

/// Most memory of a fuzzing process, in MiB, and longest time of one input, in s. Source: reliability 4e.
const LIMITS: [&str; 2] = ["-rss_limit_mb=512", "-timeout=2"];
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// What libFuzzer needs to see where an input goes.
const COVERAGE: &str = "--cfg tokio_unstable --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares";
const SANITIZER: &str = "-Zsanitizer=address";

struct Flags {
    targets: Vec<&'static Target>,
    file: Option<PathBuf>,
    seconds: u64,
    jobs: u32,
    sanitizer: bool,
    ledger: bool,
}

/// Runs the command.
pub fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let flags = Flags::parse(arguments)?;
    if let Some(file) = &flags.file {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        for target in &flags.targets {
            println!("{}: {}", target.name, target.promise);
            (target.run)(&bytes);
        }
        println!("held");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let fuzzer = flags.build(&root)?;
    let mut broken = Vec::new();
    for target in &flags.targets {
        let verdict = flags.fuzz(&root, &fuzzer, target)?;
        if !verdict {
            broken.push(target.name);
        }
    }
    ensure!(
        broken.is_empty(),
        "{broken:?} do not hold; the inputs are in {}",
        root.join("artifacts").display()
    );
    Ok(())
}

impl Flags {
    fn parse(arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut flags = Self {
            targets: Vec::new(),
            file: None,
            seconds: 60,
            jobs: 1,
            sanitizer: true,
            ledger: false,
        };
        let mut rest = arguments.into_iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--seconds" => flags.seconds = value()?.parse()?,
                "--jobs" => flags.jobs = value()?.parse()?,
                "--no-sanitizer" => flags.sanitizer = false,
                "--ledger" => flags.ledger = true,
                "all" if flags.targets.is_empty() => flags.targets.extend(TARGETS),
                name if flags.targets.is_empty() => match fuzz::target(name) {
                    Some(target) => flags.targets.push(target),
                    None => bail!("{}", usage()),
                },
                file if flags.file.is_none() && !file.starts_with('-') => flags.file = Some(file.into()),
                _ => bail!("{}", usage()),
            }
        }
        ensure!(!flags.targets.is_empty(), "{}", usage());
        Ok(flags)
    }

    /// Builds the fuzzer; returns its path.
    fn build(&self, root: &Path) -> anyhow::Result<PathBuf> {
        let mut instrumentation = COVERAGE.to_owned();
        if self.sanitizer {
            instrumentation = format!("{instrumentation} {SANITIZER}");
        }
        let directory = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => PathBuf::from(directory).join("fuzz"),
            None => root.join("target"),
        };
        // Naming the platform keeps the flags away from build scripts.
        let built = Command::new("cargo")
            .args(["build", "--target", PLATFORM])
            .arg("--manifest-path")
            .arg(root.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&directory)
            .env("RUSTFLAGS", instrumentation)
            // The sanitizer is there in stable compilers, behind a door.
            .env("RUSTC_BOOTSTRAP", "1")
            .status()
            .context("cargo")?;
        ensure!(built.success(), "the fuzzer does not build");
        Ok(directory.join(PLATFORM).join("debug/fuzz"))
    }

    /// Fuzzes one target. What is found on the way is kept beside the build, not in the corpus: that is small and chosen.
    fn fuzz(&self, root: &Path, fuzzer: &Path, target: &Target) -> anyhow::Result<bool> {
        println!(
            "fuzz {} --seconds {}: {}",
            target.name, self.seconds, target.promise
        );
        let seeds = root.join("corpus").join(target.name);
        let found = root.join("found").join(target.name);
        let artifacts = root.join("artifacts").join(target.name);
        for directory in [&seeds, &found, &artifacts] {
            std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        let output = Command::new(fuzzer)
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-fork={}", self.jobs))
            .args(["-print_final_stats=1", "-max_len=4096"])
            .args(LIMITS)
            .args([&found, &seeds])
            .env("KELSON_FUZZ_TARGET", target.name)
            .output()
            .with_context(|| fuzzer.display().to_string())?;
        let log = String::from_utf8_lossy(&output.stderr);
        let held = output.status.success();
        let runs = runs_of(&log);
        println!(
            "{}: {runs} runs, {}",
            target.name,
            if held { "held" } else { "BROKEN" }
        );
        if !held {
            let lines: Vec<&str> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        if self.ledger {
            ledger::append(&ledger::Line {
                rung: format!("e fuzz {}", target.name),
                seeds: format!("{} s", self.seconds),
                operations: runs,
                verdict: if held { "pass" } else { "fail" }.to_owned(),
                ..ledger::Line::default()
            })?;
        }
        Ok(held)
    }
}

/// Inputs tried, by the newest progress line of libFuzzer (`#1234: cov: ...`).
fn runs_of(log: &str) -> u64 {
    let runs = log.lines().rev().find_map(|line| {
        let rest = line.strip_prefix('#')?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
        rest[..end].parse().ok()
    });
    runs.unwrap_or(0)
}

fn usage() -> String {
    let targets = TARGETS
        .iter()
        .map(|target| format!("\n  {:<16} {}", target.name, target.promise));
    format!("{USAGE}{}", targets.collect::<String>())
}
