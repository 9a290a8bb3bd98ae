//! What this machine can do at all, without which no ratio means anything: how long its disk takes to sync, alone and
//! for three writers, and how many requests a second the generator gets out of a server that does nothing.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
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
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::load::{self, Length, Load, Work};
use crate::process::free_ports;
use crate::summary::Summary;

/// Bytes of each write that is synced: what a small batch of entries takes.
const WRITE_BYTES: usize = 4096;
/// Time for each measurement.
const TIME: Duration = Duration::from_secs(2);
/// How long the server that does nothing may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Writers that sync at once, as members of a cluster on one machine do.
const WRITERS: usize = 3;

/// See the module. Times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Calibration {
    /// Half of the syncs of one writer took no longer.
    pub sync_p50: u64,
    /// Of a hundred, 99.
    pub sync_p99: u64,
    /// With three writers, each to its own file.
    pub shared_sync_p50: u64,
    /// Of a hundred, 99.
    pub shared_sync_p99: u64,
    /// Puts a second that a server answers which does nothing, 1000 clients on 10 connections.
    pub ceiling: f64,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sync_p50,
            sync_p99,
            shared_sync_p50,
            shared_sync_p99,
            ceiling,
        } = self;
        write!(
            f,
            "fdatasync of {WRITE_BYTES} B: p50 {sync_p50} us, p99 {sync_p99} us; with {WRITERS} writers p50 \
             {shared_sync_p50} us, p99 {shared_sync_p99} us; ceiling of this generator with a server that does nothing: \
             {ceiling:.0} puts/s"
        )
    }
}

impl Calibration {
    /// Measures, with files in `directory`.
    pub async fn measure(directory: &Path) -> anyhow::Result<Self> {
        let alone = syncs(directory, 1).await?;
        let shared = syncs(directory, WRITERS).await?;
        let micros = |summary: &Summary, share| summary.quantile(share).as_micros() as u64;
        Ok(Self {
            sync_p50: micros(&alone, 0.5),
            sync_p99: micros(&alone, 0.99),
            shared_sync_p50: micros(&shared, 0.5),
            shared_sync_p99: micros(&shared, 0.99),
            ceiling: ceiling().await?,
        })
    }
}

async fn syncs(directory: &Path, writers: usize) -> anyhow::Result<Summary> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..writers {
        let path = directory.join(format!("calibration-{number}"));
        tasks.spawn_blocking(move || {
            let summary = sync_for_a_while(&path).with_context(|| path.display().to_string());
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

fn sync_for_a_while(path: &Path) -> anyhow::Result<Summary> {
    let mut file = File::create(path)?;
    let block = [7; WRITE_BYTES];
    let mut summary = Summary::default();
    let started = Instant::now();
    while started.elapsed() < TIME {
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        summary.took(begun.elapsed());
    }
    Ok(summary)
}

async fn ceiling() -> anyhow::Result<f64> {
    let exe = std::env::current_exe()?;
    let port = free_ports(1)?[0];
    // A process of its own, as servers are.
    let _server = tokio::process::Command::new(exe)
        .args(["nothing", "--port", &port.to_string()])
        .kill_on_drop(true)
        .spawn()?;
    let endpoint = [format!("127.0.0.1:{port}")];
    let started = Instant::now();
    let channels = loop {
        match load::connect(&endpoint, 10).await {
            Ok(channels) => break channels,
            Err(error) if started.elapsed() > START_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let load = Load {
        work: Work::Put,
        clients: 1000,
        keys: 1_000_000,
        value_bytes: 256,
        rate: None,
        length: Length::Time(TIME),
    };
    Ok(load::run(&channels, &load).await?.rate())
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
