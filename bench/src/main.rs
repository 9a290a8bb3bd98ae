//! `kelson-bench`: measures any etcd endpoint, and how servers change as they fill up.
//!
//! ```text
//! kelson-bench put    --endpoints H:P[,H:P]  [--total N] [--clients N] [--keys N] [--value-bytes N]
//! kelson-bench growth --server BINARY [--server BINARY]  [--sizes N,N,N] [--value-bytes N]
//! ```
//!
//! Every figure is printed with the settings that made it. Latencies are of requests one after the other unless
//! `--clients` says otherwise; errors are counted and shown, never dropped.

mod arguments;
mod growth;
mod load;
mod process;
mod summary;

use std::process::ExitCode;

use arguments::Arguments;

const USAGE: &str =
    "usage: kelson-bench put --endpoints H:P[,H:P] [--total N] [--clients N] [--keys N] [--value-bytes N]
       kelson-bench growth --server BINARY [--server BINARY] [--sizes N,N,N] [--value-bytes N]";

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
        "put" => {
            let endpoints = arguments.list("endpoints")?;
            let plan = load::Plan {
                total: arguments.number("total", 100_000)?,
                clients: arguments.number("clients", 64)?,
                keys: arguments.number("keys", 1_000_000)?,
                value_bytes: arguments.number("value-bytes", 256)?,
            };
            arguments.finish()?;
            let connections = load::connect(&endpoints).await?;
            println!("{plan}");
            println!("{}", load::put(&connections, &plan).await?);
            Ok(())
        }
        "growth" => {
            let servers = arguments.all("server");
            let sizes = arguments.numbers("sizes", &[10_000, 100_000, 1_000_000])?;
            let value_bytes = arguments.number("value-bytes", 256)?;
            arguments.finish()?;
            growth::compare(&servers, &sizes, value_bytes).await
        }
        other => anyhow::bail!("unknown command {other:?}"),
    }
}
