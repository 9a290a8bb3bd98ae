//! What a server costs as it fills up: point reads over a large range, counts, memory, restart.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kelson_proto::etcdserverpb::RangeRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load::{self, Length, Load, Work};
use crate::plot::{Axis, Line, Plot, Scale};
use crate::process::Server;
use crate::summary::Summary;

/// Reads measured for each figure, after as many to warm up.
const READS: usize = 300;
/// Longest time one figure may take; what was measured by then counts.
const FIGURE_TIME_MAX: Duration = Duration::from_secs(20);

/// How many revisions old the past is that is read.
const PAST: u64 = 100_000;

/// What one server is at one size.
struct Point {
    keys: u64,
    limited: Duration,
    counted: Duration,
    /// As `limited`, at a revision that is [`PAST`] old.
    past: Duration,
    put: Duration,
    resident_bytes: u64,
    /// After SIGTERM, and after kill -9.
    restarts: [Duration; 2],
}

/// Fills each server to each size, prints one table and draws it.
pub async fn compare(
    servers: &[String],
    sizes: &[u64],
    value_bytes: usize,
    directory: &Path,
) -> anyhow::Result<()> {
    anyhow::ensure!(!servers.is_empty(), "--server is missing");
    std::fs::create_dir_all(directory)?;
    println!(
        "one member, values of {value_bytes} B, {READS} serial requests per figure, medians but for the put's p99\n"
    );
    println!(
        "| server | keys | limit=1 over the prefix | the same {PAST} revisions ago | count_only | put p99 | resident | per key \
         | SIGTERM to serving | kill -9 to serving |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for binary in servers {
        let name = binary.rsplit('/').next().unwrap_or(binary);
        let mut server = Server::start_one(binary).await?;
        let empty = server.resident_bytes()?;
        let mut points = Vec::new();
        for &size in sizes {
            let point = grow(&mut server, size, value_bytes).await?;
            println!(
                "| {name} | {size} | {:.3?} | {:.3?} | {:.3?} | {:.3?} | {} MiB | {} B | {:.2?} | {:.2?} |",
                point.limited,
                point.past,
                point.counted,
                point.put,
                point.resident_bytes / (1 << 20),
                point.resident_bytes.saturating_sub(empty) / size,
                point.restarts[0],
                point.restarts[1]
            );
            points.push(point);
        }
        all.push((name.to_owned(), points));
    }
    draw(&all, directory)
}

async fn grow(server: &mut Server, size: u64, value_bytes: usize) -> anyhow::Result<Point> {
    let filled = load::fill(&[server.connect().await?], size, value_bytes).await?;
    eprintln!("filled to {size} keys: {filled}");
    let channel = server.connect().await?;
    let then = revision(&channel).await?;
    let overwritten = size.min(PAST);
    for _ in 0..PAST / overwritten {
        load::fill(&[server.connect().await?], overwritten, value_bytes).await?;
    }
    let limited = RangeRequest {
        limit: 1,
        ..whole_prefix()
    };
    let past = RangeRequest {
        revision: then,
        ..limited.clone()
    };
    let past = measure(&channel, past).await?;
    let counted = RangeRequest {
        count_only: true,
        ..whole_prefix()
    };
    let (limited, counted) = (
        measure(&channel, limited).await?,
        measure(&channel, counted).await?,
    );
    let puts = Load {
        work: Work::Put,
        clients: 1,
        keys: size,
        value_bytes,
        rate: None,
        length: Length::Requests(READS as u64),
    };
    let puts = load::run(&[channel], &puts).await?;
    let restarts = [server.stop_and_start().await?, server.restart().await?];
    Ok(Point {
        keys: size,
        limited: limited.quantile(0.5),
        counted: counted.quantile(0.5),
        past: past.quantile(0.5),
        put: puts.quantile(0.99),
        resident_bytes: server.resident_bytes()?,
        restarts,
    })
}

/// One picture for each column.
#[expect(clippy::cast_precision_loss, reason = "keys and bytes of one machine")]
fn draw(all: &[(String, Vec<Point>)], directory: &Path) -> anyhow::Result<()> {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    type Column<'a> = (
        &'static str,
        &'static str,
        &'static str,
        &'a dyn Fn(&Point) -> f64,
    );
    let columns: [Column<'_>; 7] = [
        ("limit", "limit=1 over all keys", "median, us", &|point| {
            micros(point.limited)
        }),
        ("count", "count_only over all keys", "median, us", &|point| {
            micros(point.counted)
        }),
        ("put", "a put, one client", "p99, us", &|point| micros(point.put)),
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
    for (file, title, label, value) in columns {
        let lines = all.iter().map(|(name, points)| Line {
            name: name.clone(),
            points: points
                .iter()
                .map(|point| (point.keys as f64, value(point)))
                .collect(),
        });
        let plot = Plot {
            title: format!("{title}, against the number of keys"),
            x: Axis {
                label: "keys",
                scale: Scale::Logarithmic,
            },
            y: Axis {
                label,
                scale: Scale::Logarithmic,
            },
            lines: lines.collect(),
        };
        std::fs::write(directory.join(format!("growth-{file}.svg")), plot.to_string())?;
    }
    println!("\nthe plots are in {}", directory.display());
    Ok(())
}

async fn revision(channel: &Channel) -> anyhow::Result<i64> {
    let probe = RangeRequest {
        key: "bench".into(),
        ..RangeRequest::default()
    };
    let reply = KvClient::new(channel.clone()).range(probe).await?.into_inner();
    Ok(reply.header.context("a reply without a header")?.revision)
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
