//! What a server costs as it fills up: point reads over a large range, counts, memory, restart.

use std::time::Duration;

use kelson_proto::etcdserverpb::RangeRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load;
use crate::process::Server;
use crate::summary::Summary;

/// Reads measured for each figure, after as many to warm up.
const READS: usize = 300;
/// Longest time one figure may take; what was measured by then counts.
const FIGURE_TIME_MAX: Duration = Duration::from_secs(20);

/// Fills each server to each size and prints one table.
pub async fn compare(servers: &[String], sizes: &[u64], value_bytes: usize) -> anyhow::Result<()> {
    anyhow::ensure!(!servers.is_empty(), "--server is missing");
    println!("one member, values of {value_bytes} B, {READS} serial reads per figure, medians\n");
    println!(
        "| server | keys | limit=1 over the prefix | count_only | resident | per key | restart to serving |"
    );
    println!("|---|---|---|---|---|---|---|");
    for binary in servers {
        let name = binary.rsplit('/').next().unwrap_or(binary);
        let mut server = Server::start_one(binary).await?;
        let empty = server.resident_bytes()?;
        for &size in sizes {
            let filled = load::fill(&[server.connect().await?], size, value_bytes).await?;
            eprintln!("filled to {size} keys: {filled}");
            let channel = server.connect().await?;
            let limited = measure(
                &channel,
                RangeRequest {
                    limit: 1,
                    ..whole_prefix()
                },
            )
            .await?;
            let counted = measure(
                &channel,
                RangeRequest {
                    count_only: true,
                    ..whole_prefix()
                },
            )
            .await?;
            let restart = server.restart().await?;
            let resident = server.resident_bytes()?;
            println!(
                "| {name} | {size} | {:.3?} | {:.3?} | {} MiB | {} B | {restart:.2?} |",
                limited.quantile(0.5),
                counted.quantile(0.5),
                resident / (1 << 20),
                resident.saturating_sub(empty) / size,
            );
        }
    }
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
