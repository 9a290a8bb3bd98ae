//! `cargo xtask power-cut`: cuts the power of a lone member and of three, again and again.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use kelson_jepsen::power_cut::{self, Cycle, Plan};

use super::ledger;

const USAGE: &str = "usage: cargo xtask power-cut [--seed N] [--lone N] [--three N] [--binary PATH]... [--control PATH]
                                 [--dir PATH] [--ledger]

  --lone     cuts of a member that is alone [25]
  --three    cuts of three members [10]
  --binary   a server with etcd's flags that must pass; may be given several times [target/release/kelson]
  --control  a server that is known to lose writes when it is alone (etcd 3.5.1): it must, within 40 cuts, or nothing
             that the others passed means anything
  --dir      where images and logs are made, on a real disk [the system's scratch directory]
  --ledger   add a line to jepsen-like-tests/ledger.csv";

/// Cuts within which the control must have lost a write. Measured: etcd 3.5.1 alone loses some in about one of four, once
/// nobody can act between the cut and the end, so that forty without a loss are about one case in 30,000.
const CONTROL_CUTS: u32 = 40;

struct Flags {
    seed: u64,
    lone: u32,
    three: u32,
    binaries: Vec<PathBuf>,
    control: Option<PathBuf>,
    directory: PathBuf,
    ledger: bool,
}

/// What some cuts showed, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    cuts: u64,
    second_cuts: u64,
    acknowledged: u64,
    lost: u64,
    invented: u64,
    harmful: u64,
}

/// Runs the command.
pub fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let flags = Flags::parse(arguments)?;
    // Before the runtime: a namespace belongs to a thread and to those it starts.
    power_cut::own_mounts()?;
    let scratch = flags.directory.join(format!("power-cut-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let verdict = runtime.block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            verdict = flags.campaign(&scratch) => verdict,
        }
    });
    match &verdict {
        Ok(()) => std::fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?,
        Err(_) => println!(
            "images, logs and client histories are kept in {}",
            scratch.display()
        ),
    }
    verdict
}

impl Flags {
    fn parse(arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut flags = Self {
            seed: 1,
            lone: 25,
            three: 10,
            binaries: Vec::new(),
            control: None,
            directory: std::env::temp_dir(),
            ledger: false,
        };
        let mut rest = arguments.into_iter();
        while let Some(flag) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{flag} needs a value\n{USAGE}"))
            };
            match flag.as_str() {
                "--seed" => flags.seed = value()?.parse()?,
                "--lone" => flags.lone = value()?.parse()?,
                "--three" => flags.three = value()?.parse()?,
                "--binary" => flags.binaries.push(value()?.into()),
                "--control" => flags.control = Some(value()?.into()),
                "--dir" => flags.directory = value()?.into(),
                "--ledger" => flags.ledger = true,
                _ => bail!("{flag} is unknown\n{USAGE}"),
            }
        }
        if flags.binaries.is_empty() {
            flags.binaries.push("target/release/kelson".into());
        }
        Ok(flags)
    }

    /// The control first: without it the rest is not worth its time.
    async fn campaign(&self, scratch: &Path) -> anyhow::Result<()> {
        if let Some(control) = &self.control {
            self.must_lose(control, scratch).await?;
        }
        for binary in &self.binaries {
            let mut sum = Sum::default();
            for (members, cycles) in [(1, self.lone), (3, self.three)] {
                sum.add(&self.cut(binary, members, cycles, false, scratch).await?);
            }
            let verdict = sum.verdict();
            println!(
                "{}: {sum}: {}",
                binary.display(),
                if verdict.is_ok() { "pass" } else { "fail" }
            );
            if self.ledger {
                self.note(binary, &sum, &verdict)?;
            }
            verdict?;
        }
        Ok(())
    }

    async fn must_lose(&self, control: &Path, scratch: &Path) -> anyhow::Result<()> {
        let sum = self.cut(control, 1, CONTROL_CUTS, true, scratch).await?;
        println!("{}, the control: {sum}", control.display());
        ensure!(
            sum.lost > 0,
            "the control lost nothing in {} cuts: the instrument is dead",
            sum.cuts
        );
        Ok(())
    }

    /// Cuts, up to the first harm if that is what is looked for. The images go when no harm was done, or none matters.
    async fn cut(
        &self,
        binary: &Path,
        members: usize,
        cycles: u32,
        until_harm: bool,
        scratch: &Path,
    ) -> anyhow::Result<Sum> {
        let mut sum = Sum::default();
        if cycles == 0 {
            return Ok(sum);
        }
        let name = binary.file_name().unwrap_or_default().to_string_lossy();
        let directory = scratch.join(format!("{name}-{members}"));
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let plan = Plan {
            binary: binary.to_owned(),
            members,
            seed: self.seed,
            cycles,
            directory: directory.clone(),
        };
        println!(
            "power-cut --seed {} {} {cycles} --binary {}",
            self.seed,
            if members == 1 { "--lone" } else { "--three" },
            binary.display()
        );
        power_cut::run(&plan, |cycle| {
            tell(cycle);
            sum.count(cycle);
            if until_harm && sum.lost > 0 {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .await?;
        if until_harm || sum.harmful == 0 {
            std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        Ok(sum)
    }

    fn note(&self, binary: &Path, sum: &Sum, verdict: &anyhow::Result<()>) -> anyhow::Result<()> {
        let name = binary
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        ledger::append(&ledger::Line {
            rung: format!(
                "b power-cut {name} {} lone {} of three{}",
                self.lone,
                self.three,
                if self.control.is_some() {
                    " beside a control that lost writes"
                } else {
                    ""
                }
            ),
            seeds: self.seed.to_string(),
            simulated_s: 0,
            operations: sum.acknowledged,
            faults: sum.cuts + sum.second_cuts,
            verdict: match verdict {
                Ok(()) => "pass".to_owned(),
                Err(error) => format!("fail: {error}"),
            },
        })
    }
}

impl Sum {
    fn count(&mut self, cycle: &Cycle) {
        self.cuts += 1;
        self.second_cuts += u64::from(cycle.second_cut);
        self.acknowledged += cycle.acknowledged;
        self.lost += cycle.found.lost;
        self.invented += cycle.found.invented;
        self.harmful += u64::from(!cycle.found.is_clean());
    }

    fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.second_cuts += other.second_cuts;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.invented += other.invented;
        self.harmful += other.harmful;
    }

    fn verdict(&self) -> anyhow::Result<()> {
        ensure!(
            self.cuts == 0 || self.acknowledged > 0,
            "nothing was acknowledged: this shows nothing"
        );
        ensure!(
            self.harmful == 0,
            "{} of {} cuts did harm",
            self.harmful,
            self.cuts
        );
        Ok(())
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cuts and {} second ones, all starts succeeded; {} writes acknowledged, {} lost, {} invented, in {} cuts",
            self.cuts, self.second_cuts, self.acknowledged, self.lost, self.invented, self.harmful
        )
    }
}

fn tell(cycle: &Cycle) {
    let Cycle {
        number,
        cut,
        second_cut,
        acknowledged,
        unknown,
        recovery,
        found,
    } = cycle;
    let again = if *second_cut {
        " and again at the start"
    } else {
        ""
    };
    println!(
        "cycle {number:>3}: cut {cut:?}{again}; {acknowledged} acknowledged, {unknown} unknown; serves after {} ms; \
         {} keys, {} lost, {} invented",
        recovery.as_millis(),
        found.keys,
        found.lost,
        found.invented
    );
    for example in &found.examples {
        println!("           {example}");
    }
}
