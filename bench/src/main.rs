//! `kelson-bench`: measures any etcd endpoint, compares two servers, and shows how servers change as they fill up.
//!
//! ```text
//! kelson-bench load    --endpoints H:P[,H:P]  [--work W] [--seconds N] [--rate N] [--clients N] [--connections N] ...
//! kelson-bench compare --a BINARY --b BINARY  [--pairs N] [--seconds N] [--rows P1,P5] [--dir PATH]
//! kelson-bench growth  --server BINARY [--server BINARY]  [--of keys|revisions] [--sizes N,N,N] [--value-bytes N]
//! kelson-bench sweep   --server BINARY [--server BINARY]  [--rates N,N,N] [--seconds N]
//! kelson-bench k8s     --server BINARY [--server BINARY]  [--nodes N] [--pods-per-second N] [--minutes N]
//! kelson-bench soak    --server BINARY [--server BINARY]  [--minutes N] [--share 0.8]
//! ```
//!
//! Every figure is printed with the settings that made it. Errors are counted and shown, never dropped.

mod arguments;
mod calibration;
mod compare;
mod expiry;
mod fanout;
mod goals;
mod growth;
mod kubernetes;
mod load;
mod plot;
mod process;
mod report;
mod scenes;
mod soak;
mod summary;
mod sweep;
mod tool;
mod transactions;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use arguments::Arguments;
use growth::Growing;
use load::{Length, Load, Work};

const USAGE: &str = "usage: kelson-bench load --endpoints H:P[,H:P] [--work put|get|get-serializable|txn|stm|keepalive|node-leases|mixed]
                         [--seconds N] [--rate N] [--clients N] [--connections N] [--keys N] [--value-bytes N] [--txn-puts N]
       kelson-bench compare --a BINARY --b BINARY [--pairs N] [--heavy-pairs N] [--seconds N] [--scale 1.0]
                         [--rows P1,P5] [--tool ETCD_BENCHMARK] [--dir PATH]
       kelson-bench growth --server BINARY [--server BINARY] [--of keys|revisions] [--keys N] [--sizes N,N,N]
                         [--value-bytes N] [--dir PATH]
       kelson-bench sweep --server BINARY [--server BINARY] [--rates N,N,N] [--seconds N] [--dir PATH]
       kelson-bench k8s --server BINARY [--server BINARY] [--nodes 5000] [--pods 150000] [--pods-per-second 100]
                         [--event-ttl SECONDS] [--compaction-seconds 300] [--minutes 10] [--dir PATH]
       kelson-bench soak --server BINARY [--server BINARY] [--minutes 30] [--share 0.8] [--dir PATH]";

fn main() -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kelson-bench: {error:#}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut arguments = Arguments::of_process()?;
    match arguments.command() {
        "load" => put_load_on(arguments).await,
        "compare" => {
            let plan = compare::Plan {
                a: arguments.required("a")?,
                b: arguments.required("b")?,
                pairs: arguments.number("pairs", 5)?,
                heavy_pairs: arguments.number("heavy-pairs", 1)?,
                seconds: arguments.number("seconds", 3)?,
                scale: arguments.number("scale", 1.0)?,
                tool: arguments.all("tool").pop().map(Into::into),
                rows: arguments.list_or_none("rows"),
                directory: arguments.text("dir", "target/bench").into(),
            };
            arguments.finish()?;
            compare::compare(&plan).await
        }
        "growth" => {
            let servers = arguments.all("server");
            let sizes = arguments.numbers("sizes", &[10_000, 100_000, 1_000_000, 5_000_000])?;
            let value_bytes = arguments.number("value-bytes", 256)?;
            let keys = arguments.number("keys", 10_000)?;
            let growing = match arguments.text("of", "keys").as_str() {
                "keys" => Growing::Keys,
                "revisions" => Growing::Revisions { keys },
                other => anyhow::bail!("nothing grows --of {other:?}"),
            };
            let directory = PathBuf::from(arguments.text("dir", "target/bench"));
            arguments.finish()?;
            growth::compare(&servers, growing, &sizes, value_bytes, &directory).await
        }
        "sweep" => {
            let servers = arguments.all("server");
            let rates = arguments.numbers(
                "rates",
                &[1000, 2000, 4000, 6000, 8000, 10_000, 12_000, 16_000, 20_000],
            )?;
            let seconds = arguments.number("seconds", 10)?;
            let directory = PathBuf::from(arguments.text("dir", "target/bench"));
            arguments.finish()?;
            sweep::compare(&servers, &rates, seconds, &directory).await
        }
        "k8s" => {
            let plan = kubernetes::Plan {
                servers: arguments.all("server"),
                nodes: arguments.number("nodes", 5_000)?,
                pods: arguments.number("pods", 150_000)?,
                pods_per_second: arguments.number("pods-per-second", 100.0)?,
                time: Duration::from_secs(60 * arguments.number("minutes", 10)?),
                event_ttl: Duration::from_secs(arguments.number("event-ttl", 120)?),
                compaction: Duration::from_secs(arguments.number("compaction-seconds", 300)?),
                directory: arguments.text("dir", "target/bench").into(),
            };
            arguments.finish()?;
            anyhow::ensure!(plan.nodes > 0 && plan.pods_per_second > 0.0, "no nodes or pods");
            kubernetes::run(&plan).await
        }
        "soak" => {
            let servers = arguments.all("server");
            let minutes = arguments.number("minutes", 30)?;
            let share = arguments.number("share", 0.8)?;
            let directory = PathBuf::from(arguments.text("dir", "target/bench"));
            arguments.finish()?;
            soak::run(&servers, minutes, share, &directory).await
        }
        // For the calibration of a comparison.
        "nothing" => calibration::serve_nothing(arguments.number("port", 0)?).await,
        other => anyhow::bail!("unknown command {other:?}"),
    }
}

async fn put_load_on(mut arguments: Arguments) -> anyhow::Result<()> {
    let endpoints = arguments.list("endpoints")?;
    let puts = arguments.number("txn-puts", 10)?;
    let work = match arguments.text("work", "put").as_str() {
        "put" => Work::Put,
        "get" => Work::Get { serializable: false },
        "get-serializable" => Work::Get { serializable: true },
        "txn" => Work::Txn { puts },
        "stm" => Work::Stm,
        "keepalive" => Work::KeepAlive,
        "node-leases" => Work::NodeLeases,
        "mixed" => Work::Mixed,
        other => anyhow::bail!("there is no --work {other:?}"),
    };
    let rate: f64 = arguments.number("rate", 0.0)?;
    let load = Load {
        work,
        clients: arguments.number("clients", 64)?,
        keys: arguments.number("keys", 1_000_000)?,
        value_bytes: arguments.number("value-bytes", 256)?,
        rate: (rate > 0.0).then_some(rate),
        length: Length::Time(Duration::from_secs(arguments.number("seconds", 10)?)),
    };
    let connections = arguments.number("connections", endpoints.len())?;
    arguments.finish()?;
    anyhow::ensure!(load.keys > 0, "--keys must be 1 at least");
    let channels = load::connect(&endpoints, connections).await?;
    println!("{load}");
    println!("{}", load::run(&channels, &load).await?);
    Ok(())
}
