//! `cargo xtask cluster`: episodes of real members under faults, see `kelson_jepsen::process`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kelson_jepsen::check::coverage::Demand;
use kelson_jepsen::process::campaign::Campaign;
use kelson_jepsen::process::episode;
use kelson_jepsen::process::fault::KINDS;
use kelson_jepsen::process::network;
use kelson_jepsen::process::plan::{MIXABLE, NAMES, Plan, SHORT, USUAL};
use kelson_jepsen::process::server::Server;

use super::ledger;

const USAGE: &str = "usage: cargo xtask cluster [flags]
  --plan NAME        what happens, see below                                          [mixed]
  --seed N           seed of the first episode; the next one takes N + 1              [1]
  --repeat K         number of episodes                                               [1]
  --same             every episode takes the same seed
  --short            episodes of the length that the Gate has time for
  --binary PATH      server to run, Kelson or etcd; of several each takes every plan  [target/release/kelson]
  --control PATH     etcd 3.5.1, which must be seen breaking a promise within 4 episodes before anything counts
  --members 3|5      members of the cluster                                           [3]
  --directory PATH   where episodes keep their files                                  [target/cluster]
  --keep             keep the files of episodes that pass, too
  --plans            only print the plans, run nothing
  --demand full      fail if the episodes together tried less than section 7 of the reliability design asks for
  --ledger           add a line to jepsen-like-tests/ledger.csv

plans:
  mixed           2-4 of those marked * at once
  every           each of these in turn, mixed too
  gate            those of the Gate in turn
  figures         those that show the figures of section 8 in turn";

/// Episodes within which the control must be caught.
const CONTROL_EPISODES: usize = 4;

#[derive(Debug)]
struct Options {
    plan: String,
    seed: u64,
    repeat: usize,
    same: bool,
    short: bool,
    binaries: Vec<PathBuf>,
    control: Option<PathBuf>,
    members: usize,
    directory: PathBuf,
    keep: bool,
    only_plans: bool,
    demand: Option<String>,
    ledger: bool,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Options> {
        let mut options = Options {
            plan: "mixed".to_owned(),
            seed: 1,
            repeat: 1,
            same: false,
            short: false,
            binaries: Vec::new(),
            control: None,
            members: 3,
            directory: PathBuf::from("target/cluster"),
            keep: false,
            only_plans: false,
            demand: None,
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
                "--short" => options.short = true,
                "--binary" => options.binaries.push(value()?.into()),
                "--control" => options.control = Some(value()?.into()),
                "--members" => options.members = value()?.parse()?,
                "--directory" => options.directory = value()?.into(),
                "--keep" => options.keep = true,
                "--plans" => options.only_plans = true,
                "--demand" => options.demand = Some(value()?),
                "--ledger" => options.ledger = true,
                _ => bail!("{}", usage()),
            }
        }
        if options.binaries.is_empty() {
            options.binaries.push(PathBuf::from("target/release/kelson"));
        }
        Ok(options)
    }

    fn plans(&self) -> Result<Vec<Plan>> {
        let lengths = if self.short { &SHORT } else { &USUAL };
        if !self.same {
            return Plan::several(&self.plan, self.seed, self.repeat, self.members, lengths);
        }
        let plan = Plan::with_lengths(&self.plan, self.seed, self.members, lengths)?;
        Ok(vec![plan; self.repeat])
    }

    fn demand(&self) -> Result<Option<Demand>> {
        match self.demand.as_deref() {
            None => Ok(None),
            Some("full") => Ok(Some(demand())),
            Some(other) => bail!("no demand {other:?}; there is: full"),
        }
    }
}

/// Without changes of membership, which no plan makes yet, and without torn tails: a killed process leaves none, that
/// takes the power cuts of another rung.
fn demand() -> Demand {
    let mut demand = Demand::full(KINDS, &[]);
    (demand.least.membership_changes, demand.least.torn_tails) = (0, 0);
    demand
}

fn usage() -> String {
    let plans = NAMES.iter().map(|(name, what)| {
        let mark = if MIXABLE.contains(name) { '*' } else { ' ' };
        format!("\n{mark} {name:<15} {what}")
    });
    format!("{USAGE}{}", plans.collect::<String>())
}

/// See [`USAGE`].
///
/// # Errors
///
/// If an episode fails, or the driver does.
pub fn run(arguments: Vec<String>) -> Result<()> {
    let options = Options::parse(arguments)?;
    let (plans, demand) = (options.plans()?, options.demand()?);
    if options.only_plans {
        plans.iter().for_each(|plan| print!("{plan}"));
        return Ok(());
    }
    plans.iter().try_for_each(episode::check_tools)?;
    let servers = options.binaries.iter().map(|binary| Server::of(binary));
    let servers = servers.collect::<Result<Vec<Server>>>()?;
    // Before any other thread: namespaces are entered one thread at a time.
    let with_network = network::enter_or_say();
    if let Some(control) = &options.control {
        check_control(control, &options, with_network)?;
    }
    let mut campaigns = Vec::new();
    for server in servers {
        println!("{} ({})", server.version, server.binary.display());
        campaigns.push(Campaign::new(
            server,
            &options.directory,
            with_network,
            options.keep,
        )?);
    }
    for plan in &plans {
        // In turns, so that all meet the same machine.
        for campaign in &mut campaigns {
            campaign.run(plan)?;
        }
    }
    let mut failed = Vec::new();
    for campaign in &campaigns {
        let reasons = campaign.verdict(demand.as_ref());
        if options.ledger {
            ledger::append(&line(&options.plan, campaign, &reasons))?;
        }
        failed.extend(reasons);
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// Whether the instruments are alive: a server that is known to break promises must be seen doing so.
fn check_control(control: &Path, options: &Options, with_network: bool) -> Result<()> {
    let server = Server::of(control)?;
    println!("control: {} ({})", server.version, server.binary.display());
    let directory = options.directory.join("control");
    let mut campaign = Campaign::new(server, &directory, with_network, false)?;
    let mut broken = None;
    for plan in Plan::several("kill", options.seed, CONTROL_EPISODES, options.members, &USUAL)? {
        let reasons = campaign.run(&plan)?;
        broken = reasons.into_iter().find(|reason| reason.contains(": FAIL\n"));
        if broken.is_some() {
            break;
        }
    }
    std::fs::remove_dir_all(&directory)?;
    if broken.is_none() {
        bail!("INVALID: the control broke no promise in {CONTROL_EPISODES} episodes");
    }
    println!("the control was caught, as it must be");
    Ok(())
}

fn line(plan: &str, campaign: &Campaign, reasons: &[String]) -> ledger::Line {
    let (first, last) = campaign.seeds();
    ledger::Line {
        rung: format!("d {plan} {}", campaign.name()),
        seeds: format!("{first}-{last}"),
        simulated_s: 0,
        operations: campaign.operations(),
        faults: campaign.faults(),
        verdict: match reasons {
            [] => "pass".to_owned(),
            reasons => format!("fail: {}", reasons.join("; ")),
        },
    }
}
