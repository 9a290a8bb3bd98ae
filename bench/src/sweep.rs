//! Latency against load: puts at one fixed rate after the other, for each server in turn.

use std::path::Path;
use std::time::Duration;

use crate::load::{self, Length, Load, Work};
use crate::plot::{Axis, Line, Plot, Scale};
use crate::process::Cluster;

/// Members of each cluster.
const MEMBERS: usize = 3;
const CONNECTIONS: usize = 10;
const CLIENTS: usize = 256;

/// Puts at each of `rates` for `seconds`; prints a table and writes `latency.svg`.
pub async fn compare(
    servers: &[String],
    rates: &[u64],
    seconds: u64,
    directory: &Path,
) -> anyhow::Result<()> {
    anyhow::ensure!(!servers.is_empty(), "--server is missing");
    std::fs::create_dir_all(directory)?;
    println!(
        "puts of 256 B over 1 M keys, {CLIENTS} clients, {CONNECTIONS} connections, three members, {seconds} s for each \
         rate; latencies from when a put was due\n"
    );
    println!(
        "| server | asked/s | answered/s | p50 | p99 | p99.9 | CPU us | errors |\n|---|---|---|---|---|---|---|---|"
    );
    let mut lines = Vec::new();
    for binary in servers {
        let name = binary.rsplit('/').next().unwrap_or(binary);
        let cluster = Cluster::start(binary, MEMBERS, directory).await?;
        let channels = load::connect(&cluster.endpoints(), CONNECTIONS).await?;
        let mut points = Vec::new();
        for &rate in rates {
            #[expect(clippy::cast_precision_loss, reason = "rates that a server could have")]
            let load = Load {
                work: Work::Put,
                clients: CLIENTS,
                keys: 1_000_000,
                value_bytes: 256,
                rate: Some(rate as f64),
                length: Length::Time(Duration::from_secs(seconds)),
            };
            let before = cluster.usage()?;
            let summary = load::run(&channels, &load).await?;
            let cpu = cluster.usage()?.cpu.saturating_sub(before.cpu);
            #[expect(clippy::cast_precision_loss, reason = "microseconds of one run")]
            let each = cpu.as_micros() as f64 / summary.count().max(1) as f64;
            println!(
                "| {name} | {rate} | {:.0} | {:.3?} | {:.3?} | {:.3?} | {each:.0} | {} |",
                summary.rate(),
                summary.quantile(0.5),
                summary.quantile(0.99),
                summary.quantile(0.999),
                summary.errors
            );
            points.push((summary.rate(), summary.quantile(0.99).as_secs_f64() * 1000.0));
            // What cannot keep up any more only gets later.
            #[expect(clippy::cast_precision_loss, reason = "rates that a server could have")]
            if summary.rate() < rate as f64 * 0.9 {
                break;
            }
        }
        lines.push(Line {
            name: name.to_owned(),
            points,
        });
    }
    let plot = Plot {
        title: "Durable puts of 256 B, three members: p99 against load".to_owned(),
        x: Axis {
            label: "puts answered per second",
            scale: Scale::Linear,
        },
        y: Axis {
            label: "p99, ms",
            scale: Scale::Logarithmic,
        },
        lines,
    };
    let file = directory.join("latency.svg");
    std::fs::write(&file, plot.to_string())?;
    println!("\n{}", file.display());
    Ok(())
}
