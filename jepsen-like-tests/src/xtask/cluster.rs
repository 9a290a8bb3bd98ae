//! `cargo xtask cluster`: episodes of real members under faults, see `kelson_jepsen::process`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kelson_jepsen::process::episode::{self, Outcome};
use kelson_jepsen::process::figures::Figures;
use kelson_jepsen::process::plan::{NAMES, Plan};
use kelson_jepsen::process::server::Server;
use kelson_jepsen::process::{judge, network};

const USAGE: &str = "usage: cargo xtask cluster [flags]
  --plan NAME        what happens, see below; mixed takes 2-4 at once                 [mixed]
  --seed N           seed of the first episode; the next one takes N + 1              [1]
  --repeat K         number of episodes                                               [1]
  --same             every episode takes the same seed
  --binary PATH      server to run, Kelson or etcd                                    [target/release/kelson]
  --members 3|5      members of the cluster                                           [3]
  --directory PATH   where episodes keep their files                                  [target/cluster]
  --keep             keep the files of episodes that pass, too
  --plans            only print the plans, run nothing
  --ledger           add a line to jepsen-like-tests/ledger.csv

plans:";

#[derive(Debug)]
struct Options {
    plan: String,
    seed: u64,
    repeat: u64,
    same: bool,
    binary: PathBuf,
    members: usize,
    directory: PathBuf,
    keep: bool,
    only_plans: bool,
    ledger: bool,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Options> {
        let mut options = Options {
            plan: "mixed".to_owned(),
            seed: 1,
            repeat: 1,
            same: false,
            binary: PathBuf::from("target/release/kelson"),
            members: 3,
            directory: PathBuf::from("target/cluster"),
            keep: false,
            only_plans: false,
            ledger: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--plan" => options.plan = value()?,
                "--seed" => options.seed = value()?.parse()?,
                "--repeat" => options.repeat = value()?.parse()?,
                "--same" => options.same = true,
                "--binary" => options.binary = value()?.into(),
                "--members" => options.members = value()?.parse()?,
                "--directory" => options.directory = value()?.into(),
                "--keep" => options.keep = true,
                "--plans" => options.only_plans = true,
                "--ledger" => options.ledger = true,
                _ => bail!("{}", usage()),
            }
        }
        Ok(options)
    }

    fn seed_of(&self, number: u64) -> u64 {
        if self.same {
            self.seed
        } else {
            self.seed.wrapping_add(number)
        }
    }
}

fn usage() -> String {
    let plans = NAMES.iter().map(|(name, what)| format!("\n  {name:<15} {what}"));
    format!("{USAGE}{}", plans.collect::<String>())
}

/// Sums over the episodes of a run.
#[derive(Debug, Default)]
struct Run {
    calls: u64,
    faults: u64,
    failed: Vec<u64>,
    figures: Figures,
}

/// See [`USAGE`].
///
/// # Errors
///
/// If an episode fails, or the driver does.
pub fn run(arguments: Vec<String>) -> Result<()> {
    let options = Options::parse(arguments)?;
    let plans = (0..options.repeat)
        .map(|number| Plan::new(&options.plan, options.seed_of(number), options.members))
        .collect::<Result<Vec<Plan>>>()?;
    if options.only_plans {
        plans.iter().for_each(|plan| print!("{plan}"));
        return Ok(());
    }
    let server = Server::of(&options.binary)?;
    println!("{} ({})", server.version, server.binary.display());
    std::fs::create_dir_all(&options.directory)?;
    let directory = options.directory.canonicalize()?;
    // Before any other thread: namespaces are entered one thread at a time.
    let with_network = enter_namespaces();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut run = Run::default();
    for plan in &plans {
        let place = directory.join(format!("{}-{}-{}", plan.name, plan.seed, std::process::id()));
        std::fs::create_dir_all(&place)?;
        let reasons = runtime.block_on(one(&server, plan, &place, with_network, &mut run));
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(100)).await });
        conclude(&options, &server, plan, &place, reasons, &mut run)?;
    }
    summarise(&options, &server, &run)
}

/// Says which faults will not happen if there are no namespaces.
fn enter_namespaces() -> bool {
    match network::enter() {
        Ok(()) => true,
        Err(error) => {
            println!("no namespaces: {error:#}");
            println!(
                "faults of the network and of disks do NOT run; kills, pauses, transfers, compaction, damage do"
            );
            false
        }
    }
}

/// One episode. Returns why it failed.
async fn one(server: &Server, plan: &Plan, place: &Path, with_network: bool, run: &mut Run) -> Vec<String> {
    print!("{plan}");
    let outcome = match episode::run(server, plan, place, with_network).await {
        Ok(outcome) => outcome,
        Err(error) => return vec![format!("the episode broke off: {error:#}")],
    };
    let reasons = judge::judge(&outcome).reasons;
    let figures = Figures::of(&outcome.history);
    show(&outcome, &figures);
    run.calls += outcome.total.total();
    run.faults += outcome.history.faults().filter(|fault| fault.took_effect).count() as u64;
    run.figures.add(&figures);
    reasons
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
}

/// Prints the verdict; keeps what a failed episode left.
fn conclude(
    options: &Options,
    server: &Server,
    plan: &Plan,
    place: &Path,
    reasons: Vec<String>,
    run: &mut Run,
) -> Result<()> {
    if reasons.is_empty() {
        println!("  PASS");
        if !options.keep {
            std::fs::remove_dir_all(place)?;
        }
        return Ok(());
    }
    run.failed.push(plan.seed);
    println!("  FAIL");
    let mut verdict = std::fs::File::create(place.join("verdict.txt"))?;
    writeln!(verdict, "{}{plan}", server.version)?;
    for reason in &reasons {
        println!("    {reason}");
        writeln!(verdict, "{reason}")?;
    }
    println!("  kept: {}", place.display());
    println!(
        "  again: cargo xtask cluster --plan {} --seed {} --members {} --binary {} --repeat 20 --same",
        plan.name,
        plan.seed,
        plan.members,
        server.binary.display()
    );
    Ok(())
}

fn summarise(options: &Options, server: &Server, run: &Run) -> Result<()> {
    println!(
        "{} episodes, {} failed; {} calls, {} faults that took effect, {} terms",
        options.repeat,
        run.failed.len(),
        run.calls,
        run.faults,
        run.figures.terms
    );
    println!(
        "  leader killed -> next write:           {}",
        run.figures.kill_leader.shown()
    );
    println!(
        "  leader cut off -> next write:          {}",
        run.figures.lose_leader.shown()
    );
    println!(
        "  healed -> read through the old leader: {}",
        run.figures.old_leader_reads.shown()
    );
    println!(
        "  follower back -> longest write gap:    {}, {} elections",
        run.figures.follower_returns.shown(),
        run.figures.follower_elections
    );
    if options.ledger {
        add_to_ledger(options, server, run)?;
    }
    if !run.failed.is_empty() {
        bail!("failed seeds: {:?}", run.failed);
    }
    Ok(())
}

/// commit, rung, seeds, simulated s, operations, faults, verdict
fn add_to_ledger(options: &Options, server: &Server, run: &Run) -> Result<()> {
    let commit = network::output(std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let path = Path::new("jepsen-like-tests/ledger.csv");
    let new = !path.exists();
    let mut ledger = std::fs::File::options().create(true).append(true).open(path)?;
    if new {
        writeln!(ledger, "commit,rung,seeds,simulated_s,operations,faults,verdict")?;
    }
    let verdict = match run.failed.as_slice() {
        [] => "pass".to_owned(),
        failed => format!("fail {failed:?}").replace(',', ""),
    };
    writeln!(
        ledger,
        "{},d {} {},{}-{},0,{},{},{verdict}",
        commit.trim(),
        options.plan,
        server.version.replace(',', ""),
        options.seed,
        options.seed_of(options.repeat.saturating_sub(1)),
        run.calls,
        run.faults,
    )?;
    Ok(())
}
