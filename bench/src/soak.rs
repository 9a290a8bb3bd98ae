//! Puts at a fixed share of what a server can do, for so long that what grows, leaks or stalls is seen: latency, memory and
//! files, slice by slice.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::load::{self, Length, Load, Work};
use crate::plot::{Axis, Line, Plot, Scale};
use crate::process::Cluster;
use crate::scenes;

const MEMBERS: usize = 3;
const CONNECTIONS: usize = 10;
const CLIENTS: usize = 256;
const KEYS: u64 = 1_000_000;
/// For how long the highest rate is looked for.
const SATURATION: Duration = Duration::from_secs(20);
/// Latencies are summed up over so long.
const SLICE: Duration = Duration::from_secs(10);
/// History is compacted as kube-apiserver does it.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(60);
/// What happens before is warming up.
const SETTLED_AFTER: Duration = Duration::from_secs(300);
/// Times of the beginning and of the end that are held against each other.
const HELD: Duration = Duration::from_secs(300);

/// What was seen in one slice.
struct Slice {
    since: Duration,
    rate: f64,
    p50: Duration,
    p99: Duration,
    longest: Duration,
    resident_bytes: u64,
    file_bytes: u64,
    errors: u64,
}

/// Runs each server for `minutes` at `share` of its own highest rate; prints tables and writes plots.
pub async fn run(servers: &[String], minutes: u64, share: f64, directory: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!servers.is_empty(), "--server is missing");
    std::fs::create_dir_all(directory)?;
    let mut all = Vec::new();
    for binary in servers {
        let name = binary.rsplit('/').next().unwrap_or(binary).to_owned();
        let cluster = Cluster::start(binary, MEMBERS, directory).await?;
        let slices = soak(&name, &cluster, Duration::from_secs(minutes * 60), share).await?;
        tell_drift(&name, &slices);
        all.push((name, slices));
    }
    draw(&all, directory)
}

async fn soak(name: &str, cluster: &Cluster, time: Duration, share: f64) -> anyhow::Result<Vec<Slice>> {
    let channels = load::connect(&cluster.endpoints(), CONNECTIONS).await?;
    load::fill(&channels, KEYS, 256).await?;
    let closed = Load {
        work: Work::Put,
        clients: CLIENTS,
        keys: KEYS,
        value_bytes: 256,
        rate: None,
        length: Length::Time(SATURATION),
    };
    let most = load::run(&channels, &closed).await?.rate();
    let rate = most * share;
    println!(
        "\n{name}: puts of 256 B over 1 M keys, {CLIENTS} clients, three members, {rate:.0}/s, {share} of {most:.0}/s; \
         compaction of everything each {COMPACTION_INTERVAL:?}; latencies from when a put was due\n"
    );
    println!(
        "| after | answered/s | p50 | p99 | longest | resident | files | errors |\n|---|---|---|---|---|---|---|---|"
    );
    let paced = Load {
        rate: Some(rate),
        length: Length::Time(SLICE),
        ..closed
    };
    let (begun, mut compacted) = (Instant::now(), Instant::now());
    let mut slices = Vec::new();
    while begun.elapsed() < time {
        let since = begun.elapsed();
        let is_due = compacted.elapsed() >= COMPACTION_INTERVAL;
        if is_due {
            compacted = Instant::now();
        }
        // Beside the load: a pause that only compaction sees would not be in the picture.
        let compact = async {
            match is_due {
                true => scenes::compact_everything(&channels[0]).await,
                false => Ok(()),
            }
        };
        let (summary, compaction) = tokio::join!(load::run(&channels, &paced), compact);
        compaction?;
        let summary = summary?;
        let slice = Slice {
            since,
            rate: summary.rate(),
            p50: summary.quantile(0.5),
            p99: summary.quantile(0.99),
            longest: summary.quantile(1.0),
            resident_bytes: cluster.usage()?.resident_bytes,
            file_bytes: cluster.file_bytes()?,
            errors: summary.errors,
        };
        println!(
            "| {since:.0?} | {:.0} | {:.3?} | {:.3?} | {:.3?} | {} MiB | {} MiB | {} |",
            slice.rate,
            slice.p50,
            slice.p99,
            slice.longest,
            slice.resident_bytes >> 20,
            slice.file_bytes >> 20,
            slice.errors
        );
        slices.push(slice);
    }
    Ok(slices)
}

/// What is held against itself, and how it is read off a slice.
type Figure = (&'static str, fn(&Slice) -> f64);

/// How much the last minutes differ from those after warming up: medians over the slices of either.
fn tell_drift(name: &str, slices: &[Slice]) {
    let Some(last) = slices.last() else { return };
    let ended = last.since + SLICE;
    if ended < SETTLED_AFTER + 2 * HELD {
        println!("\n{name}: too short to tell drift from noise");
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes and microseconds of one machine")]
    let figures: [Figure; 3] = [
        ("p99", |slice| slice.p99.as_secs_f64()),
        ("resident memory", |slice| slice.resident_bytes as f64),
        ("files", |slice| slice.file_bytes as f64),
    ];
    for (what, figure) in figures {
        let median = |from: Duration, to: Duration| {
            let held = slices
                .iter()
                .filter(|slice| slice.since >= from && slice.since < to);
            let mut values: Vec<f64> = held.map(figure).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let first = median(SETTLED_AFTER, SETTLED_AFTER + HELD);
        let last = median(ended.saturating_sub(HELD), ended);
        println!(
            "{name}: {what}: {:+.1} % from minute 5 to the end",
            (last / first - 1.0) * 100.0
        );
    }
}

fn draw(all: &[(String, Vec<Slice>)], directory: &Path) -> anyhow::Result<()> {
    type Picture = (&'static str, &'static str, &'static str, Scale, fn(&Slice) -> f64);
    #[expect(clippy::cast_precision_loss, reason = "bytes of one machine")]
    let pictures: [Picture; 4] = [
        (
            "p99",
            "p99 of each ten seconds",
            "ms",
            Scale::Logarithmic,
            |slice| slice.p99.as_secs_f64() * 1e3,
        ),
        (
            "longest",
            "longest put of each ten seconds",
            "ms",
            Scale::Logarithmic,
            |slice| slice.longest.as_secs_f64() * 1e3,
        ),
        (
            "memory",
            "memory of the largest member",
            "resident, MiB",
            Scale::Linear,
            |slice| slice.resident_bytes as f64 / 1_048_576.0,
        ),
        ("files", "files of all members", "MiB", Scale::Linear, |slice| {
            slice.file_bytes as f64 / 1_048_576.0
        }),
    ];
    for (file, title, label, scale, value) in pictures {
        let lines = all.iter().map(|(name, slices)| Line {
            name: name.clone(),
            points: slices
                .iter()
                .map(|slice| (slice.since.as_secs_f64() / 60.0, value(slice)))
                .collect(),
        });
        let plot = Plot {
            title: format!("Puts at a steady rate: {title}"),
            x: Axis {
                label: "minutes",
                scale: Scale::Linear,
            },
            y: Axis { label, scale },
            lines: lines.collect(),
        };
        std::fs::write(directory.join(format!("soak-{file}.svg")), plot.to_string())?;
    }
    println!("\nthe plots are in {}", directory.display());
    Ok(())
}
