//! Two servers side by side: the same loads, on clusters of three members with equal flags in fresh directories, in
//! turns, so that both meet the same machine. What counts is the median of the ratios of the pairs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::calibration::{Calibration, ToolRow};
use crate::expiry::{self, Expiry};
use crate::fanout::{self, Fanout, Watching};
use crate::load::{self, Length, Load, Nodes, Work};
use crate::process::{Cluster, Usage, disk_written, own_cpu};
use crate::report::{Figures, Report, RowReport};
use crate::scenes::{self, Way};
use crate::summary::Summary;
use crate::tool;

/// Members of each cluster.
const MEMBERS: usize = 3;
/// Connections of a load that goes on beside the one that is measured.
const BESIDE_CONNECTIONS: usize = 10;
/// How often a row of lists reads everything, and how often the leader is killed.
const LISTS: u32 = 3;
const LEADER_KILLS: u32 = 5;
/// After so long a compaction's space should be free again, without a command.
const SPACE_IS_BACK: Duration = Duration::from_secs(60);
const IDLE_SETTLES: Duration = Duration::from_secs(3);

/// Settings of a comparison.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server that is judged.
    pub a: String,
    /// The one it is held against.
    pub b: String,
    /// Runs of each.
    pub pairs: usize,
    /// Runs of each for the rows that take minutes to prepare.
    pub heavy_pairs: usize,
    /// Time that each load is measured for.
    pub seconds: u64,
    /// Share of the million keys that rows with many keys take.
    pub scale: f64,
    /// etcd's own `benchmark` tool; none: its rows are left out.
    pub tool: Option<PathBuf>,
    /// Which of the rows, by name; empty: all.
    pub rows: Vec<String>,
    /// Where clusters keep their data, and the report goes.
    pub directory: PathBuf,
}

/// Keys, and bytes of their values.
type Filled = Option<(u64, usize)>;

/// One line of the table.
struct Row {
    name: &'static str,
    work: Measured,
    connections: usize,
    /// What must be there before.
    filled: Filled,
}

impl Row {
    /// What the cluster is still filled with after this row, if it was with `before`. A million keys take a minute.
    fn leaves_filled(&self, before: Filled) -> Filled {
        match &self.work {
            Measured::List(_) => self.filled,
            Measured::Compaction { load, .. } => Some((load.keys, load.value_bytes)),
            // Few writes over the same keys.
            Measured::Load { load, .. }
                if load.rate.is_some()
                    && before.is_some_and(|(keys, bytes)| (keys, bytes) == (load.keys, load.value_bytes)) =>
            {
                before
            }
            _ => None,
        }
    }

    /// Whether it takes minutes to prepare, so that fewer pairs must do.
    fn is_heavy(&self) -> bool {
        matches!(
            self.work,
            Measured::List(_) | Measured::Compaction { .. } | Measured::Fanout { laggard: Some(_), .. }
        )
    }
}

/// What is measured.
enum Measured {
    /// A load.
    Load {
        load: Load,
        /// It comes at half of the rate that server B reached in this row.
        at_half_of: Option<&'static str>,
        /// What else goes on meanwhile and is not measured; CPU is of both.
        beside: Option<Load>,
    },
    /// The same by etcd's own tool: words of its command line, and clients.
    Tool { words: Vec<String>, clients: usize },
    /// Watchers and writers; latencies are those of events, the rate that of puts. Beside them one more watcher catches up
    /// with so many revisions, again and again.
    Fanout { fanout: Fanout, laggard: Option<i64> },
    /// Watchers that are told nothing; what counts is the memory that they take.
    IdleWatchers(Fanout),
    /// Leases that end at once.
    Expiry(Expiry),
    /// Reading everything.
    List(Way),
    /// Killing the leader so often.
    LeaderKilled(u32),
    /// Nothing at all; CPU is that of a second.
    Idle(Duration),
    /// A load while everything below the present revision is compacted.
    Compaction {
        load: Load,
        /// As of [`Measured::Load`].
        at_half_of: Option<&'static str>,
    },
}

/// Keys of the rows that read everything or compact.
const MANY_KEYS: u64 = 1_000_000;

fn rows(plan: &Plan) -> Vec<Row> {
    let time = Duration::from_secs(plan.seconds);
    let many = (MANY_KEYS as f64 * plan.scale) as u64;
    let load = |work, clients| Load {
        work,
        clients,
        keys: 1_000_000,
        value_bytes: 256,
        rate: None,
        length: Length::Time(time),
    };
    let row = |name, load: Load, connections| Row {
        name,
        work: Measured::Load {
            load,
            at_half_of: None,
            beside: None,
        },
        connections,
        filled: None,
    };
    let few = |load: Load| Load { keys: 10_000, ..load };
    let filled = |row: Row| Row {
        filled: Some((10_000, 256)),
        ..row
    };
    let get = |serializable| few(load(Work::Get { serializable }, 1000));
    let half = Measured::Load {
        load: load(Work::Put, 256),
        at_half_of: Some("P1 put"),
        beside: None,
    };
    let beside_puts = Measured::Load {
        load: Load {
            rate: Some(2000.0),
            clients: 200,
            ..get(false)
        },
        at_half_of: None,
        beside: Some(load(Work::Put, 256)),
    };
    let large = Load {
        value_bytes: 16 * 1024,
        ..few(load(Work::Put, 64))
    };
    let calm = Load {
        rate: Some(500.0),
        keys: many.max(1),
        ..load(Work::Put, 64)
    };
    let nodes = |keys| Load {
        keys,
        value_bytes: 800,
        ..load(Work::NodeLeases, 512)
    };
    let fanout = Fanout {
        watchers: 10_000,
        streams: 100,
        keys: 10_000,
        writers: 256,
        value_bytes: 256,
        time,
    };
    // Few writers, so that the machine has room for somebody who catches up.
    let few_writers = Fanout {
        watchers: 1_000,
        keys: 1_000,
        writers: 8,
        ..fanout.clone()
    };
    let behind = many.max(2) / 2;
    let idle_watchers = Fanout {
        watchers: 300_000,
        streams: 300,
        ..fanout.clone()
    };
    let expiry = Expiry {
        leases: 20_000,
        after: Duration::from_secs(20),
    };
    let with_watchers = |fanout: &Fanout, laggard| Measured::Fanout {
        fanout: fanout.clone(),
        laggard,
    };
    let scene = |name, work, filled| Row {
        name,
        work,
        connections: 10,
        filled,
    };
    let compaction = |load, at_half_of| Measured::Compaction { load, at_half_of };
    let everything = Some((many.max(1), 256));
    let mut rows = vec![
        scene("P16 idle", Measured::Idle(time), None),
        row("P1 put", load(Work::Put, 1000), 10),
        row("P2 put", load(Work::Put, 64), 8),
        row("P3 put", load(Work::Put, 1), 1),
        scene("P4 put at half", half, None),
        filled(row("P5 get linearizable", get(false), 100)),
        filled(row("P5 get serializable", get(true), 100)),
        filled(Row {
            connections: 100,
            ..scene("P6 get at 2000/s beside puts", beside_puts, None)
        }),
        row("P7 txn of 10", load(Work::Txn { puts: 10 }, 64), 8),
        row("P7 STM", few(load(Work::Stm, 64)), 8),
        row("P7 lease keepalive", load(Work::KeepAlive, 64), 8),
        row("P7 put 16 KiB", large, 8),
        filled(row("mixed", few(load(Work::Mixed, 64)), 8)),
        scene("lease expiry", Measured::Expiry(expiry), None),
        scene("P13 put with watchers", with_watchers(&fanout, None), None),
        scene("P13 idle watchers", Measured::IdleWatchers(idle_watchers), None),
        scene("P13 events, 8 writers", with_watchers(&few_writers, None), None),
        scene(
            "P13 events, 8 writers, beside a laggard",
            with_watchers(&few_writers, Some(i64::try_from(behind).unwrap_or(i64::MAX))),
            Some((behind, 256)),
        ),
        row("P15 node leases of 5 k", nodes(5_000), 30),
        row("P15 node leases of 100 k", nodes(100_000), 30),
        scene("P9 list in one reply", Measured::List(Way::Unary), everything),
        scene(
            "P9 list by RangeStream",
            Measured::List(Way::Streamed),
            everything,
        ),
        scene("P9 list in pages", Measured::List(Way::Paged), everything),
        row("P10 put at 500/s, calm", calm.clone(), 8),
        scene("P10 put at 500/s, compaction", compaction(calm, None), None),
        scene(
            "P10 put at half, compaction",
            compaction(
                Load {
                    keys: many.max(1),
                    ..load(Work::Put, 256)
                },
                Some("P1 put"),
            ),
            None,
        ),
    ];
    if plan.tool.is_some() {
        let tool = |name, clients, connections, words: &str, filled| Row {
            name,
            work: Measured::Tool {
                words: words.split(' ').map(str::to_owned).collect(),
                clients,
            },
            connections,
            filled,
        };
        let put = "put --key-size 32 --val-size 256 --key-space-size 1000000 --total 100000";
        let put_few = "put --key-size 32 --val-size 256 --key-space-size 1000000 --total 40000";
        let get =
            |consistency| format!("range bench/000000000007 --consistency {consistency} --total 100000");
        rows.extend([
            tool("P1 put, etcd's tool", 1000, 10, put, None),
            tool("P2 put, etcd's tool", 64, 8, put_few, None),
            tool(
                "P5 get linearizable, etcd's tool",
                1000,
                100,
                &get("l"),
                Some((10_000, 256)),
            ),
            tool(
                "P5 get serializable, etcd's tool",
                1000,
                100,
                &get("s"),
                Some((10_000, 256)),
            ),
        ]);
    }
    // Last, as members that have started again read all their rows for a while.
    rows.push(scene(
        "P14 leader killed",
        Measured::LeaderKilled(LEADER_KILLS),
        None,
    ));
    rows
}

/// Compares and writes `report.md` and `report.json`.
pub async fn compare(plan: &Plan) -> anyhow::Result<()> {
    std::fs::create_dir_all(&plan.directory).with_context(|| plan.directory.display().to_string())?;
    let mut rows = rows(plan);
    rows.retain(|row| plan.rows.is_empty() || plan.rows.iter().any(|wanted| is_named(row.name, wanted)));
    anyhow::ensure!(!rows.is_empty(), "no row is named {}", plan.rows.join(" or "));
    println!("calibration ...");
    let calibration = Calibration::measure(&plan.directory, &tool_rows(plan, &rows)).await?;
    println!("{calibration}");
    let mut report = Report {
        a: name_of(&plan.a)?,
        b: name_of(&plan.b)?,
        pairs: plan.pairs,
        seconds: plan.seconds,
        calibration,
        rows: rows
            .iter()
            .map(|row| RowReport::new(row.name, &describe(row)))
            .collect(),
        failures: Vec::new(),
    };
    let started = Instant::now();
    for pair in 0..plan.pairs {
        // B first in the first pair, because its rate is needed; then in turns.
        let sides = if pair.is_multiple_of(2) { [1, 0] } else { [0, 1] };
        for side in sides {
            let binary = [&plan.a, &plan.b][side];
            println!(
                "pair {} of {}, {binary}, after {:.0?}",
                pair + 1,
                plan.pairs,
                started.elapsed()
            );
            let mut cluster = Cluster::start(binary, MEMBERS, &plan.directory).await?;
            let mut filled = None;
            for (place, row) in rows.iter().enumerate() {
                if row.is_heavy() && pair >= plan.heavy_pairs {
                    continue;
                }
                let Some(rate) = rate_of(row, &report.rows) else {
                    println!(
                        "  {}: left out, the row that it takes its rate from is not measured",
                        row.name
                    );
                    continue;
                };
                match measure(&mut cluster, row, rate, plan, filled).await {
                    Ok(figures) => {
                        filled = row.leaves_filled(filled);
                        println!("  {}: {figures}", row.name);
                        report.rows[place].add(pair, side, figures);
                    }
                    Err(error) => {
                        let failure = format!(
                            "pair {}, {}, {}: {error:#}",
                            pair + 1,
                            [&report.a, &report.b][side],
                            row.name
                        );
                        eprintln!("{failure}");
                        report.failures.push(failure);
                        // Whatever it did to its cluster, the next row shall not meet.
                        drop(cluster);
                        filled = None;
                        cluster = Cluster::start(binary, MEMBERS, &plan.directory).await?;
                    }
                }
            }
        }
        // What has been measured by now is worth something if the rest never comes.
        save(&plan.directory, &report)?;
    }
    println!("\n{report}");
    println!("report.md and report.json are in {}", plan.directory.display());
    anyhow::ensure!(
        report.failures.is_empty(),
        "{} rows failed",
        report.failures.len()
    );
    Ok(())
}

fn tool_rows<'a>(plan: &'a Plan, rows: &'a [Row]) -> Vec<ToolRow<'a>> {
    let tool_row = |row: &'a Row| match &row.work {
        Measured::Tool { words, clients } => Some(ToolRow {
            name: row.name,
            tool: plan.tool.as_deref()?,
            words,
            clients: *clients,
            connections: row.connections,
        }),
        _ => None,
    };
    rows.iter().filter_map(tool_row).collect()
}

/// Whether `wanted` names the row or the group that it is in: `P1` is not `P10`.
fn is_named(name: &str, wanted: &str) -> bool {
    let rest = name.strip_prefix(wanted);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}

/// The binary's name and what it says its version is.
fn name_of(binary: &str) -> anyhow::Result<String> {
    let said = std::process::Command::new(binary)
        .arg("--version")
        .output()
        .with_context(|| format!("{binary} --version"))?;
    let name = Path::new(binary).file_name().unwrap_or_default().display();
    let said = String::from_utf8_lossy(&said.stdout);
    let version: Vec<&str> = said.lines().take(2).collect();
    Ok(format!("{name}, {}", version.join(", ")))
}

fn save(directory: &Path, report: &Report) -> anyhow::Result<()> {
    std::fs::write(directory.join("report.md"), report.to_string())?;
    std::fs::write(
        directory.join("report.json"),
        serde_json::to_string_pretty(report)?,
    )?;
    Ok(())
}

fn describe(row: &Row) -> String {
    let what = match &row.work {
        Measured::Load {
            load,
            at_half_of,
            beside,
        } => {
            let rate = at_half(*at_half_of);
            let beside = beside.as_ref().map(|load| format!(", beside {load}"));
            format!("{load}{rate}{}", beside.unwrap_or_default())
        }
        Measured::Tool { words, clients } => format!("`benchmark {}`, {clients} clients", words.join(" ")),
        Measured::Fanout { fanout, laggard } => {
            let beside =
                laggard.map(|revisions| format!(", beside a watcher that is {revisions} revisions behind"));
            format!("{fanout}{}", beside.unwrap_or_default())
        }
        Measured::IdleWatchers(fanout) => format!(
            "{} watchers on {} streams that are told nothing; the rate is that of creating them",
            fanout.watchers, fanout.streams
        ),
        Measured::Expiry(expiry) => expiry.to_string(),
        Measured::List(way) => format!(
            "all of {} keys {way}, again and again",
            row.filled.unwrap_or_default().0
        ),
        Measured::LeaderKilled(times) => format!(
            "kill -9 of the leader, {times} times; latency is the longest time without an acknowledged write"
        ),
        Measured::Idle(time) => format!("nothing for {time:?}; CPU is of all members for each second"),
        Measured::Compaction { load, at_half_of } => {
            format!(
                "{load}{}, for a minute, while history is compacted in which each key was written three times",
                at_half(*at_half_of)
            )
        }
    };
    format!("{what}; {} connections to {MEMBERS} members", row.connections)
}

fn at_half(of: Option<&str>) -> String {
    of.map_or_else(String::new, |of| format!(" at half of B's rate in {of}"))
}

/// The rate that the row's load must have, if any; none if that is not known.
fn rate_of(row: &Row, reports: &[RowReport]) -> Option<Option<f64>> {
    let (load, at_half_of) = match &row.work {
        Measured::Load { load, at_half_of, .. } | Measured::Compaction { load, at_half_of } => {
            (load, at_half_of)
        }
        _ => return Some(None),
    };
    let Some(of) = at_half_of else {
        return Some(load.rate);
    };
    debug_assert!(load.rate.is_none(), "a row has one rate");
    let measured = reports.iter().find(|report| report.name == *of)?;
    Some(Some(measured.median(1, |figures| figures.rate)? / 2.0))
}

/// What a row came to, before what the members used is known.
struct Outcome {
    rate: f64,
    count: u64,
    quantiles: [Duration; 3],
    errors: u64,
}

impl From<Summary> for Outcome {
    fn from(summary: Summary) -> Self {
        Self {
            rate: summary.rate(),
            count: summary.count(),
            quantiles: [0.5, 0.99, 0.999].map(|share| summary.quantile(share)),
            errors: summary.errors,
        }
    }
}

async fn measure(
    cluster: &mut Cluster,
    row: &Row,
    rate: Option<f64>,
    plan: &Plan,
    filled: Filled,
) -> anyhow::Result<Figures> {
    let channels = load::connect(&cluster.endpoints(), row.connections).await?;
    if let Some((keys, value_bytes)) = row.filled.filter(|_| row.filled != filled) {
        match &row.work {
            // It counts revisions.
            Measured::Fanout { .. } => load::rewrite(&channels, keys, value_bytes, keys).await?,
            _ => load::fill(&channels, keys, value_bytes).await?,
        };
    }
    if let Measured::LeaderKilled(times) = &row.work {
        // What members used ends with them.
        let gaps = scenes::kill_leaders(cluster, *times).await?;
        return Ok(figures(&gaps.into(), Used::default()));
    }
    let nodes = prepare(row, &channels, filled).await?;
    cluster.forget_peaks()?;
    let before = Used::so_far(cluster, &plan.directory)?;
    let outcome = perform(cluster, row, rate, plan, &channels, nodes).await?;
    let after = Used::so_far(cluster, &plan.directory)?;
    Ok(Figures {
        files_mib: cluster.file_bytes()? >> 20,
        database_over_used: cluster.database_over_used().await?,
        ..figures(&outcome, after.since(&before))
    })
}

/// Warms up, or makes the leases of nodes, of which it says what is known then, or the history that is to be compacted.
async fn prepare(row: &Row, channels: &[Channel], filled: Filled) -> anyhow::Result<Nodes> {
    match &row.work {
        Measured::Load { load, .. } if load.work == Work::NodeLeases => {
            return load::make_nodes(channels, load).await;
        }
        Measured::Load { load, .. } => {
            let mut warm_up = load.clone();
            warm_up.length = Length::Time(Duration::from_secs(1));
            load::run(channels, &warm_up).await?;
        }
        Measured::Compaction { load, .. } => {
            let written = usize::from(filled == Some((load.keys, load.value_bytes)));
            for _ in written..3 {
                load::fill(channels, load.keys, load.value_bytes).await?;
            }
        }
        Measured::Idle(_) => {
            // Fresh members still lay out their files.
            tokio::time::sleep(IDLE_SETTLES).await;
        }
        _ => {}
    }
    Ok(Nodes::default())
}

async fn perform(
    cluster: &Cluster,
    row: &Row,
    rate: Option<f64>,
    plan: &Plan,
    channels: &[Channel],
    nodes: Nodes,
) -> anyhow::Result<Outcome> {
    Ok(match &row.work {
        Measured::Load { load, beside, .. } => {
            let load = Load { rate, ..load.clone() };
            let beside = async {
                match beside {
                    Some(beside) => {
                        let channels = load::connect(&cluster.endpoints(), BESIDE_CONNECTIONS).await?;
                        load::run(&channels, beside).await.map(drop)
                    }
                    None => Ok(()),
                }
            };
            let (summary, beside) = tokio::join!(load::run_knowing(channels, &load, nodes), beside);
            beside?;
            summary?.into()
        }
        Measured::Tool { words, clients } => {
            let tool = plan.tool.as_deref().context("the tool's rows need the tool")?;
            let said = tool::run(tool, &cluster.endpoints(), row.connections, *clients, words).await?;
            Outcome {
                rate: said.rate,
                count: said.count,
                quantiles: said.quantiles,
                errors: said.errors,
            }
        }
        Measured::Expiry(settings) => {
            let granted = expiry::grant(channels, settings).await?;
            expiry::run(&channels[0], granted).await?.into()
        }
        Measured::IdleWatchers(settings) => {
            let begun = Instant::now();
            let watching = Watching::open(channels, settings).await?;
            let took = begun.elapsed();
            drop(watching);
            Outcome {
                rate: settings.watchers as f64 / took.as_secs_f64(),
                count: settings.watchers,
                quantiles: [Duration::ZERO; 3],
                errors: 0,
            }
        }
        Measured::Fanout { fanout, laggard } => {
            let watching = Watching::open(channels, fanout).await?;
            let mut catching_up = JoinSet::new();
            if let Some(revisions) = *laggard {
                let channel = load::connect(&cluster.endpoints(), 1).await?.remove(0);
                catching_up.spawn(async move {
                    loop {
                        if let Err(error) = fanout::catch_up(&channel, revisions).await {
                            eprintln!("the watcher that catches up: {error:#}");
                            return;
                        }
                    }
                });
            }
            let (puts, events) = watching.run(channels).await?;
            anyhow::ensure!(
                laggard.is_none() || catching_up.try_join_next().is_none(),
                "nobody caught up"
            );
            Outcome {
                rate: puts.rate(),
                count: puts.count(),
                errors: puts.errors + events.errors,
                ..events.into()
            }
        }
        Measured::List(way) => scenes::list(&channels[0], *way, LISTS).await?.into(),
        Measured::Idle(time) => {
            tokio::time::sleep(*time).await;
            Outcome {
                rate: 0.0,
                count: time.as_secs(),
                quantiles: [Duration::ZERO; 3],
                errors: 0,
            }
        }
        Measured::Compaction { load, .. } => {
            let compacted_at = Instant::now();
            let compact = scenes::compact_everything(&channels[0]);
            // However long the compaction takes, it is over then.
            let load = Load {
                length: Length::Time(SPACE_IS_BACK),
                rate,
                ..load.clone()
            };
            let (summary, compacted) = tokio::join!(load::run(channels, &load), compact);
            compacted?;
            // What the files come to is looked at when they should have become small.
            tokio::time::sleep_until(compacted_at + SPACE_IS_BACK).await;
            summary?.into()
        }
        Measured::LeaderKilled(_) => anyhow::bail!("measured apart"),
    })
}

/// What a row used.
#[derive(Clone, Copy, Default)]
struct Used {
    members: Usage,
    own_cpu: Duration,
    disk: Option<u64>,
    grown_bytes: u64,
}

impl Used {
    fn so_far(cluster: &Cluster, directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            members: cluster.usage()?,
            own_cpu: own_cpu()?,
            disk: disk_written(directory)?,
            grown_bytes: 0,
        })
    }

    fn since(mut self, before: &Self) -> Self {
        self.members.cpu = self.members.cpu.saturating_sub(before.members.cpu);
        self.own_cpu = self.own_cpu.saturating_sub(before.own_cpu);
        self.disk = self
            .disk
            .zip(before.disk)
            .map(|(after, before)| after.saturating_sub(before));
        let peak = self.members.peak_resident_bytes;
        self.grown_bytes = peak.saturating_sub(before.members.resident_bytes);
        self
    }
}

fn figures(outcome: &Outcome, used: Used) -> Figures {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 of anything")]
    let each = |total: u64| total as f64 / outcome.count.max(1) as f64;
    let micros = |time: Duration| time.as_micros() as u64;
    let [p50_us, p99_us, p999_us] = outcome.quantiles.map(micros);
    Figures {
        rate: outcome.rate,
        p50_us,
        p99_us,
        p999_us,
        cpu_us: each(micros(used.members.cpu)),
        generator_cpu_us: each(micros(used.own_cpu)),
        disk_bytes: used.disk.map(each),
        peak_resident_mib: used.members.peak_resident_bytes >> 20,
        grown_mib: used.grown_bytes >> 20,
        files_mib: 0,
        database_over_used: 0.0,
        errors: outcome.errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--rows P1` took P10, P13, P15 and P16 along, which take half an hour.
    #[test]
    fn a_group_of_rows_is_named_by_whole_words() {
        assert!(is_named("P1 put", "P1"));
        assert!(is_named("P1 put, etcd's tool", "P1 put"));
        assert!(!is_named("P10 put at 500/s, calm", "P1"));
        assert!(is_named("P10 put at 500/s, calm", "P10"));
    }
}
