//! Two servers side by side: the same loads, on clusters of three members with equal flags in fresh directories, in
//! turns, so that both meet the same machine. What counts is the median of the ratios of the pairs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use crate::calibration::Calibration;
use crate::load::{self, Length, Load, Work};
use crate::process::{Cluster, disk_written, own_cpu};
use crate::report::{Figures, Report, RowReport};

/// Members of each cluster.
const MEMBERS: usize = 3;
/// Connections of a load that goes on beside the one that is measured.
const BESIDE_CONNECTIONS: usize = 10;

/// Settings of a comparison.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server that is judged.
    pub a: String,
    /// The one it is held against.
    pub b: String,
    /// Runs of each.
    pub pairs: usize,
    /// Time that each load is measured for.
    pub seconds: u64,
    /// Which of the rows, by name; empty: all.
    pub rows: Vec<String>,
    /// Where clusters keep their data, and the report goes.
    pub directory: PathBuf,
}

/// One line of the table.
struct Row {
    name: &'static str,
    load: Load,
    connections: usize,
    /// Keys that must be there before.
    filled: u64,
    /// The load comes at half of the rate that server B reached in this row.
    at_half_of: Option<&'static str>,
    /// What else goes on meanwhile and is not measured; CPU is of both.
    beside: Option<Load>,
}

fn rows(time: Duration) -> Vec<Row> {
    let row = |name, work, clients, connections| Row {
        name,
        load: Load {
            work,
            clients,
            keys: 1_000_000,
            value_bytes: 256,
            rate: None,
            length: Length::Time(time),
        },
        connections,
        filled: 0,
        at_half_of: None,
        beside: None,
    };
    let get = |name, serializable| {
        let mut row = row(name, Work::Get { serializable }, 1000, 100);
        (row.load.keys, row.filled) = (10_000, 10_000);
        row
    };
    let mut large = row("P7 put 16 KiB", Work::Put, 64, 8);
    (large.load.keys, large.load.value_bytes) = (10_000, 16 * 1024);
    let mut half = row("P4 put at half", Work::Put, 256, 10);
    half.at_half_of = Some("P1 put");
    let mut beside_puts = get("P6 get at 2000/s beside puts", false);
    (beside_puts.load.clients, beside_puts.load.rate) = (200, Some(2000.0));
    beside_puts.beside = Some(row("", Work::Put, 256, 1).load);
    vec![
        row("P1 put", Work::Put, 1000, 10),
        row("P2 put", Work::Put, 64, 8),
        row("P3 put", Work::Put, 1, 1),
        half,
        get("P5 get linearizable", false),
        get("P5 get serializable", true),
        beside_puts,
        row("P7 txn of 10", Work::Txn { puts: 10 }, 64, 8),
        row("P7 lease keepalive", Work::KeepAlive, 64, 8),
        large,
    ]
}

/// Compares and writes `report.md` and `report.json`.
pub async fn compare(plan: &Plan) -> anyhow::Result<()> {
    std::fs::create_dir_all(&plan.directory).with_context(|| plan.directory.display().to_string())?;
    println!("calibration ...");
    let calibration = Calibration::measure(&plan.directory).await?;
    println!("{calibration}");
    let mut rows = rows(Duration::from_secs(plan.seconds));
    rows.retain(|row| plan.rows.is_empty() || plan.rows.iter().any(|wanted| row.name.starts_with(wanted)));
    anyhow::ensure!(!rows.is_empty(), "no row is named {}", plan.rows.join(" or "));
    let mut reports: Vec<RowReport> = rows
        .iter()
        .map(|row| RowReport::new(row.name, &describe(row)))
        .collect();
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
            let cluster = Cluster::start(binary, MEMBERS, &plan.directory).await?;
            for (place, row) in rows.iter().enumerate() {
                let Some(load) = load_of(row, &reports) else {
                    println!("  {}: left out, {:?} is not measured", row.name, row.at_half_of);
                    continue;
                };
                let figures = measure(&cluster, row, &load, &plan.directory).await?;
                println!("  {}: {figures}", row.name);
                reports[place].add(pair, side, figures);
            }
        }
    }
    let report = Report {
        a: plan.a.clone(),
        b: plan.b.clone(),
        pairs: plan.pairs,
        seconds: plan.seconds,
        calibration,
        rows: reports,
    };
    save(&plan.directory, &report)
}

fn save(directory: &Path, report: &Report) -> anyhow::Result<()> {
    let markdown = report.to_string();
    println!("\n{markdown}");
    std::fs::write(directory.join("report.md"), markdown)?;
    std::fs::write(
        directory.join("report.json"),
        serde_json::to_string_pretty(report)?,
    )?;
    println!("report.md and report.json are in {}", directory.display());
    Ok(())
}

fn describe(row: &Row) -> String {
    let rate = row
        .at_half_of
        .map(|of| format!(" at half of B's rate in {of}"))
        .unwrap_or_default();
    let beside = row
        .beside
        .as_ref()
        .map(|load| format!(", beside {load}"))
        .unwrap_or_default();
    format!(
        "{}{rate}{beside}, {} connections to {MEMBERS} members",
        row.load, row.connections
    )
}

/// The load with its rate; none if that is not known.
fn load_of(row: &Row, reports: &[RowReport]) -> Option<Load> {
    let mut load = row.load.clone();
    if let Some(of) = row.at_half_of {
        let measured = reports.iter().find(|report| report.name == of)?;
        load.rate = Some(measured.median(1, |figures| figures.rate)? / 2.0);
    }
    Some(load)
}

async fn measure(cluster: &Cluster, row: &Row, load: &Load, directory: &Path) -> anyhow::Result<Figures> {
    let channels = load::connect(&cluster.endpoints(), row.connections).await?;
    if row.filled > 0 {
        load::fill(&channels, row.filled, load.value_bytes).await?;
    }
    let mut warm_up = load.clone();
    warm_up.length = Length::Time(Duration::from_secs(1));
    load::run(&channels, &warm_up).await?;
    let (before, own_before, disk_before) = (cluster.usage()?, own_cpu()?, disk_written(directory)?);
    let beside = async {
        match &row.beside {
            Some(beside) => {
                let channels = load::connect(&cluster.endpoints(), BESIDE_CONNECTIONS).await?;
                load::run(&channels, beside).await.map(drop)
            }
            None => Ok(()),
        }
    };
    let (summary, beside) = tokio::join!(load::run(&channels, load), beside);
    let summary = summary?;
    beside?;
    let (after, own_after, disk_after) = (cluster.usage()?, own_cpu()?, disk_written(directory)?);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 of anything")]
    let each = |total: u64| total as f64 / summary.count().max(1) as f64;
    let micros = |time: Duration| time.as_micros() as u64;
    Ok(Figures {
        rate: summary.rate(),
        p50_us: micros(summary.quantile(0.5)),
        p99_us: micros(summary.quantile(0.99)),
        p999_us: micros(summary.quantile(0.999)),
        cpu_us: each(micros(after.cpu.saturating_sub(before.cpu))),
        generator_cpu_us: each(micros(own_after.saturating_sub(own_before))),
        disk_bytes: disk_after
            .zip(disk_before)
            .map(|(after, before)| each(after.saturating_sub(before))),
        peak_resident_mib: after.peak_resident_bytes >> 20,
        errors: summary.errors,
    })
}
