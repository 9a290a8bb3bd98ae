//! What this machine can do at all, without which no ratio means anything: how long its disk takes to sync, alone, for
//! three writers, and beside three checkpoints; what reading a page costs that is in memory already; how long one request
//! takes to a server that does nothing, and how many a second the generators get out of it.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use kelson_ports::free_ports;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load::{self, Length, Load, Work};
use crate::summary::Summary;
use crate::tool;

/// Bytes of each write that is synced: what a small batch of entries takes.
const WRITE_BYTES: usize = 4096;
/// Time for each measurement.
const TIME: Duration = Duration::from_secs(2);
/// How long the server that does nothing may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Writers that sync at once, as members of a cluster on one machine do.
const WRITERS: usize = 3;

/// Blocks of a file that stands for a database: 256 MiB, far more than a processor caches.
const BLOCKS: u64 = 64 * 1024;
/// Blocks that a checkpoint writes, one a second: 10 MiB.
const CHECKPOINT_BLOCKS: u64 = 2560;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Pause between two syncs beside checkpoints: a member that is not busy.
const SYNC_PAUSE: Duration = Duration::from_millis(2);
/// Time for the syncs beside checkpoints.
const BUSY_TIME: Duration = Duration::from_secs(6);
/// Scatters blocks: odd, so that all of them have their turn.
const STRIDE: u64 = 40_503;

/// See the module. Times in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Calibration {
    /// Half of the syncs of one writer took no longer.
    pub sync_p50: u64,
    /// Of a hundred, 99.
    pub sync_p99: u64,
    /// With three writers, each to its own file.
    pub shared_sync_p50: u64,
    /// Of a hundred, 99.
    pub shared_sync_p99: u64,
    /// While 10 MiB of scattered blocks are written and synced each second in each of three other files: half of them.
    pub busy_sync_p50: u64,
    /// Of a hundred, 99.
    pub busy_sync_p99: u64,
    /// A scattered block of a file that the system has in memory, until it is in a buffer.
    pub page_read: f64,
    /// Half of the requests of one client to a server that does nothing took no longer.
    pub lone_p50: u64,
    /// Puts a second that a server answers which does nothing, 1000 clients on 10 connections.
    pub ceiling: f64,
    /// Requests a second that etcd's tool gets out of it, by the rows that take the tool.
    pub tool_ceilings: Vec<(&'static str, f64)>,
}

/// A row that takes etcd's tool.
#[derive(Clone, Debug)]
pub struct ToolRow<'a> {
    pub name: &'static str,
    pub tool: &'a Path,
    pub words: &'a [String],
    pub clients: usize,
    pub connections: usize,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sync_p50,
            sync_p99,
            shared_sync_p50,
            shared_sync_p99,
            busy_sync_p50,
            busy_sync_p99,
            page_read,
            lone_p50,
            ceiling,
            tool_ceilings,
        } = self;
        write!(
            f,
            "fdatasync of {WRITE_BYTES} B: p50 {sync_p50} us, p99 {sync_p99} us; with {WRITERS} writers p50 \
             {shared_sync_p50} us, p99 {shared_sync_p99} us; beside {WRITERS} files that get 10 MiB of scattered blocks a \
             second p50 {busy_sync_p50} us, p99 {busy_sync_p99} us; a scattered block from the system's memory {page_read:.1} \
             us; a server that does nothing: one client p50 {lone_p50} us, ceiling of this generator {ceiling:.0} puts/s"
        )?;
        for (row, ceiling) in tool_ceilings {
            write!(f, ", of {row} {ceiling:.0}/s")?;
        }
        Ok(())
    }
}

impl Calibration {
    /// Measures, with files in `directory`.
    pub async fn measure(directory: &Path, tool_rows: &[ToolRow<'_>]) -> anyhow::Result<Self> {
        let alone = syncs(directory, 1).await?;
        let shared = syncs(directory, WRITERS).await?;
        let (busy, page_read) = beside_checkpoints(directory).await?;
        let nothing = Nothing::start().await?;
        let (lone, ceiling) = nothing.loaded().await?;
        let mut tool_ceilings = Vec::new();
        for row in tool_rows {
            tool_ceilings.push((row.name, nothing.loaded_by_tool(row).await?));
        }
        let micros = |summary: &Summary, share| summary.quantile(share).as_micros() as u64;
        Ok(Self {
            sync_p50: micros(&alone, 0.5),
            sync_p99: micros(&alone, 0.99),
            shared_sync_p50: micros(&shared, 0.5),
            shared_sync_p99: micros(&shared, 0.99),
            busy_sync_p50: micros(&busy, 0.5),
            busy_sync_p99: micros(&busy, 0.99),
            page_read,
            lone_p50: micros(&lone, 0.5),
            ceiling: ceiling.rate(),
            tool_ceilings,
        })
    }
}

async fn syncs(directory: &Path, writers: usize) -> anyhow::Result<Summary> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..writers {
        let path = directory.join(format!("calibration-{number}"));
        tasks.spawn_blocking(move || {
            let summary = sync_for(&path, TIME, Duration::ZERO).with_context(|| path.display().to_string());
            // Whatever went wrong is told; the file is in nobody's way.
            let _ = std::fs::remove_file(&path);
            summary
        });
    }
    let mut sum = Summary::default();
    while let Some(done) = tasks.join_next().await {
        sum.add(done??)?;
    }
    Ok(sum)
}

fn sync_for(path: &Path, time: Duration, pause: Duration) -> anyhow::Result<Summary> {
    let mut file = File::create(path)?;
    let block = [7; WRITE_BYTES];
    let mut summary = Summary::default();
    let started = Instant::now();
    while started.elapsed() < time {
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        summary.took(begun.elapsed());
        rest(pause);
    }
    Ok(summary)
}

/// Syncs of a small file beside those of large ones, and the time that reading a block of a large one takes.
async fn beside_checkpoints(directory: &Path) -> anyhow::Result<(Summary, f64)> {
    let scratch = tempfile::tempdir_in(directory)?;
    let path = scratch.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let databases = (0..WRITERS).map(|number| database(&path.join(number.to_string())));
        let databases = databases.collect::<anyhow::Result<Vec<_>>>()?;
        let page_read = time_of_reads(&databases[0])?;
        let stop = AtomicBool::new(false);
        let syncs = std::thread::scope(|scope| {
            let checkpoints: Vec<_> = databases
                .iter()
                .map(|file| scope.spawn(|| checkpoints(file, &stop)))
                .collect();
            let syncs = sync_for(&path.join("log"), BUSY_TIME, SYNC_PAUSE);
            stop.store(true, Ordering::Relaxed);
            for thread in checkpoints {
                thread.join().expect("a calibration does not panic")?;
            }
            syncs
        })?;
        Ok((syncs, page_read))
    })
    .await?
}

/// A file of blocks, on disk and in the system's memory.
fn database(path: &Path) -> anyhow::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    let many = vec![7; 256 * WRITE_BYTES];
    for at in 0..BLOCKS / 256 {
        file.write_all_at(&many, at * many.len() as u64)?;
    }
    file.sync_data()?;
    Ok(file)
}

/// Microseconds for each of many scattered blocks, read into more buffers than a processor caches.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 blocks")]
fn time_of_reads(file: &File) -> anyhow::Result<f64> {
    // Not zeros, which would be given no memory before they are written.
    let mut buffers = vec![[1; WRITE_BYTES]; 8192];
    let begun = Instant::now();
    for number in 0..BLOCKS {
        let place = usize::try_from(number)? % buffers.len();
        file.read_exact_at(&mut buffers[place], scattered(number))?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / BLOCKS as f64)
}

/// Writes and syncs scattered blocks, again and again, as checkpoints do.
fn checkpoints(file: &File, stop: &AtomicBool) -> anyhow::Result<()> {
    let block = [8; WRITE_BYTES];
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for _ in 0..CHECKPOINT_BLOCKS {
            number += 1;
            file.write_all_at(&block, scattered(number))?;
        }
        file.sync_data()?;
        rest(CHECKPOINT_EVERY.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own, at a rate")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Where a block is, so that neighbours in time are none on disk.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(STRIDE) % BLOCKS * WRITE_BYTES as u64
}

/// A server that does nothing, in a process of its own, as servers are.
struct Nothing {
    endpoint: String,
    channels: Vec<Channel>,
    /// Killed when it goes.
    _server: Child,
}

impl Nothing {
    async fn start() -> anyhow::Result<Self> {
        let port = free_ports(1)?[0];
        let server = Command::new(std::env::current_exe()?)
            .args(["nothing", "--port", &port.to_string()])
            .kill_on_drop(true)
            .spawn()?;
        let endpoint = format!("127.0.0.1:{port}");
        let started = Instant::now();
        let channels = loop {
            match load::connect(std::slice::from_ref(&endpoint), 10).await {
                Ok(channels) => break channels,
                Err(error) if started.elapsed() > START_TIMEOUT => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Ok(Self {
            endpoint,
            channels,
            _server: server,
        })
    }

    /// One client, and a thousand.
    async fn loaded(&self) -> anyhow::Result<(Summary, Summary)> {
        let load = Load {
            work: Work::Put,
            clients: 1000,
            keys: 1_000_000,
            value_bytes: 256,
            rate: None,
            length: Length::Time(TIME),
        };
        let lone = Load {
            clients: 1,
            ..load.clone()
        };
        Ok((
            load::run(&self.channels[..1], &lone).await?,
            load::run(&self.channels, &load).await?,
        ))
    }

    /// Requests a second.
    async fn loaded_by_tool(&self, row: &ToolRow<'_>) -> anyhow::Result<f64> {
        let endpoints = std::slice::from_ref(&self.endpoint);
        let said = tool::run(row.tool, endpoints, row.connections, row.clients, row.words).await?;
        anyhow::ensure!(
            said.errors == 0,
            "{}: {} requests to a server that does nothing failed",
            row.name,
            said.errors
        );
        Ok(said.rate)
    }
}

/// A server that answers every call with an empty message, until it is killed.
pub async fn serve_nothing(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            // The client's business if it breaks off.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer_nothing))
                .await;
        });
    }
}

async fn answer_nothing(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    // Read whole, as any server has to.
    let _ = request.into_body().collect().await;
    let trailers = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    // Not compressed, of no length.
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(trailers);
    let mut response = Response::new(body.boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
