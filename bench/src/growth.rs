//! What a server costs as it fills up, with keys or with history: point reads over a large range, counts, puts, memory,
//! restart.

use std::path::Path;
use std::time::Duration;

use kelson_proto::etcdserverpb::RangeRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load::{self, Length, Load, Work};
use crate::plot::{Axis, Line, Plot, Scale};
use crate::process::Server;
use crate::scenes;
use crate::summary::Summary;

/// Reads measured for each figure, after as many to warm up.
const READS: usize = 300;
/// Longest time one figure may take; what was measured by then counts.
const FIGURE_TIME_MAX: Duration = Duration::from_secs(20);

/// How many revisions old the past is that is read.
const PAST: u64 = 100_000;

/// Puts come at this rate for so long, so that their p99 and CPU can be held against each other whatever else a server has to
/// do.
const PUTS_PER_SECOND: f64 = 2000.0;
const PUTS_TIME: Duration = Duration::from_secs(3);
/// The medians of so many such times count: one of them can meet a moment in which the disk stands still.
const PUTS_WINDOWS: usize = 3;
const PUT_CLIENTS: usize = 64;
const PUT_CONNECTIONS: usize = 8;

/// What becomes more from point to point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growing {
    /// Keys, of which a hundred thousand at most are written a second time.
    Keys,
    /// Revisions of so many keys. Nothing is compacted.
    Revisions {
        /// How many keys.
        keys: u64,
    },
}

impl Growing {
    fn unit(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Revisions { .. } => "revisions",
        }
    }
}

/// What one server is at one size.
struct Point {
    size: u64,
    limited: Duration,
    counted: Duration,
    /// As `limited`, at a revision that is [`PAST`] old.
    past: Duration,
    put: Duration,
    /// The server's for each put.
    put_cpu: Duration,
    resident_bytes: u64,
    /// After SIGTERM, and after kill -9.
    restarts: [Duration; 2],
}

/// Fills each server to each size, prints one table and draws it.
pub async fn compare(
    servers: &[String],
    growing: Growing,
    sizes: &[u64],
    value_bytes: usize,
    directory: &Path,
) -> anyhow::Result<()> {
    anyhow::ensure!(!servers.is_empty(), "--server is missing");
    std::fs::create_dir_all(directory)?;
    let unit = growing.unit();
    println!(
        "one member, values of {value_bytes} B{}; of {READS} serial reads per figure the median; puts at {PUTS_PER_SECOND}/s \
         for {PUTS_TIME:?}, of {PUTS_WINDOWS} times the median\n",
        match growing {
            Growing::Keys => String::new(),
            Growing::Revisions { keys } => format!(", {keys} keys"),
        }
    );
    println!(
        "| server | {unit} | limit=1 over the prefix | the same {PAST} revisions ago, or at the oldest | count_only | put p99 | CPU per put \
         | resident | bytes for each of the {unit} | SIGTERM to serving | kill -9 to serving |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for binary in servers {
        let name = binary.rsplit('/').next().unwrap_or(binary);
        let mut server = Server::start_one(binary).await?;
        let empty = server.resident_bytes()?;
        let mut points = Vec::new();
        for &size in sizes {
            let filled = grow(&server, growing, size, value_bytes).await?;
            eprintln!("{name}: {size} {unit} after {filled:.0?} more");
            let point = look(&mut server, growing, size, value_bytes).await?;
            println!(
                "| {name} | {size} | {:.3?} | {:.3?} | {:.3?} | {:.3?} | {:.0?} | {} MiB | {} B | {:.2?} | {:.2?} |",
                point.limited,
                point.past,
                point.counted,
                point.put,
                point.put_cpu,
                point.resident_bytes / (1 << 20),
                point.resident_bytes.saturating_sub(empty) / size,
                point.restarts[0],
                point.restarts[1]
            );
            points.push(point);
        }
        all.push((name.to_owned(), points));
    }
    draw(&all, growing, directory)
}

/// Makes the server as large as `size` says. Returns the time that this took.
async fn grow(server: &Server, growing: Growing, size: u64, value_bytes: usize) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let channels = load::connect(&[server.endpoint()], PUT_CONNECTIONS).await?;
    match growing {
        Growing::Keys => {
            load::fill(&channels, size, value_bytes).await?;
        }
        Growing::Revisions { keys } => {
            let now = scenes::revision(&channels[0]).await?;
            let missing = size.saturating_sub(now.unsigned_abs());
            load::rewrite(&channels, keys, value_bytes, missing).await?;
        }
    }
    Ok(begun.elapsed())
}

async fn look(server: &mut Server, growing: Growing, size: u64, value_bytes: usize) -> anyhow::Result<Point> {
    let channels = load::connect(&[server.endpoint()], PUT_CONNECTIONS).await?;
    let channel = &channels[0];
    let (keys, then) = match growing {
        Growing::Keys => {
            let then = scenes::revision(channel).await?;
            load::rewrite(&channels, size.min(PAST), value_bytes, PAST).await?;
            (size, then)
        }
        // The first keys are there from the start.
        Growing::Revisions { keys } => {
            let now = scenes::revision(channel).await?;
            (keys, (now - PAST.cast_signed()).max(2))
        }
    };
    let limited = RangeRequest {
        limit: 1,
        ..whole_prefix()
    };
    let past = RangeRequest {
        revision: then,
        ..limited.clone()
    };
    let past = measure(channel, past).await?;
    let counted = RangeRequest {
        count_only: true,
        ..whole_prefix()
    };
    let (limited, counted) = (measure(channel, limited).await?, measure(channel, counted).await?);
    let puts = Load {
        work: Work::Put,
        clients: PUT_CLIENTS,
        keys,
        value_bytes,
        rate: Some(PUTS_PER_SECOND),
        length: Length::Time(PUTS_TIME),
    };
    let (mut p99s, mut cpus) = ([Duration::ZERO; PUTS_WINDOWS], [Duration::ZERO; PUTS_WINDOWS]);
    for (p99, cpu) in p99s.iter_mut().zip(&mut cpus) {
        let before = server.usage()?.cpu;
        let puts = load::run(&channels, &puts).await?;
        anyhow::ensure!(puts.errors == 0 && puts.count() > 0, "{puts}");
        *p99 = puts.quantile(0.99);
        *cpu = server
            .usage()?
            .cpu
            .saturating_sub(before)
            .div_f64(puts.count() as f64);
    }
    p99s.sort_unstable();
    cpus.sort_unstable();
    let restarts = [server.stop_and_start().await?, server.restart().await?];
    Ok(Point {
        size,
        limited: limited.quantile(0.5),
        counted: counted.quantile(0.5),
        past: past.quantile(0.5),
        put: p99s[PUTS_WINDOWS / 2],
        put_cpu: cpus[PUTS_WINDOWS / 2],
        resident_bytes: server.resident_bytes()?,
        restarts,
    })
}

/// One picture for each column.
#[expect(clippy::cast_precision_loss, reason = "keys and bytes of one machine")]
fn draw(all: &[(String, Vec<Point>)], growing: Growing, directory: &Path) -> anyhow::Result<()> {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    type Column<'a> = (
        &'static str,
        &'static str,
        &'static str,
        &'a dyn Fn(&Point) -> f64,
    );
    let columns: [Column<'_>; 8] = [
        ("limit", "limit=1 over all keys", "median, us", &|point| {
            micros(point.limited)
        }),
        ("count", "count_only over all keys", "median, us", &|point| {
            micros(point.counted)
        }),
        ("put", "puts at 2000/s", "p99, us", &|point| micros(point.put)),
        ("cpu", "puts at 2000/s", "CPU, us each", &|point| {
            micros(point.put_cpu)
        }),
        ("memory", "memory", "resident, MiB", &|point| {
            point.resident_bytes as f64 / 1_048_576.0
        }),
        (
            "past",
            "limit=1 a hundred thousand revisions ago",
            "median, us",
            &|point| micros(point.past),
        ),
        ("stop", "SIGTERM to serving", "s", &|point| {
            point.restarts[0].as_secs_f64()
        }),
        ("restart", "kill -9 to serving", "s", &|point| {
            point.restarts[1].as_secs_f64()
        }),
    ];
    let unit = growing.unit();
    for (file, title, label, value) in columns {
        let lines = all.iter().map(|(name, points)| Line {
            name: name.clone(),
            points: points
                .iter()
                .map(|point| (point.size as f64, value(point)))
                .collect(),
        });
        let plot = Plot {
            title: format!("{title}, against the number of {unit}"),
            x: Axis {
                label: unit,
                scale: Scale::Logarithmic,
            },
            y: Axis {
                label,
                scale: Scale::Logarithmic,
            },
            lines: lines.collect(),
        };
        std::fs::write(
            directory.join(format!("growth-of-{unit}-{file}.svg")),
            plot.to_string(),
        )?;
    }
    println!("\nthe plots are in {}", directory.display());
    Ok(())
}

fn whole_prefix() -> RangeRequest {
    RangeRequest {
        key: "bench/".into(),
        range_end: "bench0".into(),
        ..RangeRequest::default()
    }
}

async fn measure(channel: &Channel, request: RangeRequest) -> anyhow::Result<Summary> {
    let mut client = KvClient::new(channel.clone());
    let started = Instant::now();
    let mut latencies = Vec::new();
    for _ in 0..2 * READS {
        let sent = Instant::now();
        client.range(request.clone()).await?;
        latencies.push(sent.elapsed());
        if started.elapsed() > FIGURE_TIME_MAX {
            break;
        }
    }
    let mut summary = Summary::default();
    let warm = latencies.len() / 2;
    latencies.drain(warm..).for_each(|latency| summary.took(latency));
    summary.elapsed = started.elapsed();
    Ok(summary)
}
