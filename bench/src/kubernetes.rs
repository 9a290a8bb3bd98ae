//! What kube-apiserver sends for a cluster of so many nodes, without kube-apiserver: renewals of node leases, node status, the
//! lives of pods, events with a lease, reads that reach the store, watches of every resource, compaction every few minutes,
//! and once the lists of an apiserver that starts again. All of it comes at the rate that the cluster's size dictates, and
//! latencies count from when a request was due.

mod api;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load;
use crate::process::{Cluster, disk_written};
use crate::scenes;

use api::{Api, Kind};
use watching::Watchers;

const MEMBERS: usize = 3;
/// Connections of an apiserver: one for each of the larger resources and one for all others, about.
const CONNECTIONS: usize = 12;
/// Requests of one stream of work that may be under way at once.
const WORKERS: usize = 128;
/// Each node renews its lease and tells its status so often.
const RENEWAL_PERIOD: f64 = 10.0;
const STATUS_PERIOD: f64 = 300.0;
/// GETs and probes for the present revision, of each so many in a second.
const READS_PER_SECOND: f64 = 50.0;
/// What a pod's life consists of, in seconds after its creation: binding, status, and in the end deletion.
const POD_UPDATES: [f64; 5] = [0.1, 0.5, 1.5, 3.0, 5.0];
const POD_EVENTS: [f64; 5] = [0.1, 0.6, 1.6, 2.0, 3.1];
const POD_ENDS: f64 = 30.0;
const POD_IS_GONE: f64 = 31.0;

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Binaries, one after the other.
    pub servers: Vec<String>,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// Pods that are there from the beginning and stay.
    pub pods: u64,
    /// Pods that are created each second, and deleted half a minute later.
    pub pods_per_second: f64,
    /// For how long.
    pub time: Duration,
    /// After so long an event is gone.
    pub event_ttl: Duration,
    /// So often what is older than the last time is compacted.
    pub compaction: Duration,
    /// Where clusters keep their data.
    pub directory: PathBuf,
}

/// One stream of work: something that is due so often, from some time on.
struct Stream {
    kind: Kind,
    rate: f64,
    /// Seconds after the start.
    from: f64,
    act: Act,
}

/// What is done when its number comes.
#[derive(Clone, Copy)]
enum Act {
    RenewLease,
    TellStatus,
    CreatePod,
    UpdatePod,
    DeletePod,
    Event(usize),
    Get,
    Probe,
}

/// Runs each server and prints tables.
pub async fn run(plan: &Plan) -> anyhow::Result<()> {
    anyhow::ensure!(!plan.servers.is_empty(), "--server is missing");
    std::fs::create_dir_all(&plan.directory)?;
    println!(
        "{} nodes, each renews its lease every {RENEWAL_PERIOD} s and tells its status every {STATUS_PERIOD} s; {} pods stay, \
         {}/s live for {POD_ENDS} s with {} writes and {} events (gone after {:?}); {READS_PER_SECOND} gets and probes a second \
         each; compaction every {:?}; {:?} in all, three members, {CONNECTIONS} connections; latencies from when a request was \
         due, of watches from when its write was\n",
        plan.nodes,
        plan.pods,
        plan.pods_per_second,
        POD_UPDATES.len() + 3,
        POD_EVENTS.len(),
        plan.event_ttl,
        plan.compaction,
        plan.time,
    );
    for binary in &plan.servers {
        let name = binary.rsplit('/').next().unwrap_or(binary);
        live(name, binary, plan).await?;
    }
    Ok(())
}

async fn live(name: &str, binary: &str, plan: &Plan) -> anyhow::Result<()> {
    let cluster = Cluster::start(binary, MEMBERS, &plan.directory).await?;
    let channels = load::connect(&cluster.endpoints(), CONNECTIONS).await?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "pods of one run"
    )]
    let lives = (plan.time.as_secs_f64() * plan.pods_per_second).ceil() as u64;
    let api = Arc::new(Api::new(channels.clone(), plan, lives));
    let begun = Instant::now();
    api.fill(plan).await?;
    eprintln!(
        "{name}: {} nodes and {} pods after {:.0?}",
        plan.nodes,
        plan.pods,
        begun.elapsed()
    );
    let watchers = Watchers::open(&channels, &api).await?;
    cluster.forget_peaks()?;
    let (cpu, disk) = (cluster.usage()?.cpu, disk_written(&plan.directory)?);
    let start = api.start();
    let mut work = JoinSet::new();
    for stream in streams(plan) {
        keep_up(&mut work, &Arc::new(stream), &api, start, plan.time);
    }
    let lists = restart_of_an_apiserver(&api, start + plan.time / 2);
    let compactions = compact(&api, plan, start);
    let progress = tell_progress(name, &api, start, plan.time);
    let (lists, compactions, ()) = tokio::join!(lists, compactions, progress);
    let (lists, compactions) = (lists?, compactions?);
    while let Some(done) = work.join_next().await {
        done?;
    }
    let watched = watchers.end().await?;
    let usage = cluster.usage()?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\n| {name} | requests | per s | p50 | p99 | p99.9 | longest | errors |\n|---|---|---|---|---|---|---|---|"
    );
    let mut rows = api.summaries();
    rows.push(("watch events", watched));
    for (what, summary) in rows {
        println!(
            "| {what} | {} | {:.0} | {:.2?} | {:.2?} | {:.2?} | {:.2?} | {} |",
            summary.count(),
            summary.count() as f64 / seconds,
            summary.quantile(0.5),
            summary.quantile(0.99),
            summary.quantile(0.999),
            summary.quantile(1.0),
            summary.errors
        );
    }
    println!(
        "\n{name}: {:.2} cores for all members; the largest had {} MiB resident at most, {} MiB at the end; files of all take {} \
         MiB; {} written; lists of everything at once took {lists:.2?}; {compactions} compactions\n",
        usage.cpu.saturating_sub(cpu).as_secs_f64() / seconds,
        usage.peak_resident_bytes >> 20,
        usage.resident_bytes >> 20,
        cluster.file_bytes()? >> 20,
        match (disk_written(&plan.directory)?, disk) {
            (Some(after), Some(before)) => format!("{} MiB", (after - before) >> 20),
            _ => "nobody knows how much was".to_owned(),
        },
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 nodes")]
fn streams(plan: &Plan) -> Vec<Stream> {
    let stream = |kind, rate, from, act| Stream {
        kind,
        rate,
        from,
        act,
    };
    let (nodes, pods) = (plan.nodes as f64, plan.pods_per_second);
    let mut streams = vec![
        stream(Kind::Lease, nodes / RENEWAL_PERIOD, 0.0, Act::RenewLease),
        stream(Kind::Node, nodes / STATUS_PERIOD, 0.0, Act::TellStatus),
        stream(Kind::Pod, pods, 0.0, Act::CreatePod),
        stream(Kind::Pod, pods, POD_ENDS, Act::UpdatePod),
        stream(Kind::Pod, pods, POD_IS_GONE, Act::DeletePod),
        stream(Kind::Get, READS_PER_SECOND, 0.0, Act::Get),
        stream(Kind::Probe, READS_PER_SECOND, 0.0, Act::Probe),
    ];
    streams.extend(POD_UPDATES.map(|after| stream(Kind::Pod, pods, after, Act::UpdatePod)));
    let events = POD_EVENTS.iter().enumerate();
    streams.extend(events.map(|(event, after)| stream(Kind::Event, pods, *after, Act::Event(event))));
    streams
}

/// Does what is due when it is due, until the time is over.
fn keep_up(work: &mut JoinSet<()>, stream: &Arc<Stream>, api: &Arc<Api>, start: Instant, time: Duration) {
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..WORKERS {
        let (stream, api, next) = (stream.clone(), api.clone(), next.clone());
        work.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
                let due = start + Duration::from_secs_f64(stream.from + number as f64 / stream.rate);
                if due >= start + time {
                    return;
                }
                tokio::time::sleep_until(due).await;
                let answered = match stream.act {
                    Act::RenewLease => api.renew_lease(number, due).await,
                    Act::TellStatus => api.tell_status(number, due).await,
                    Act::CreatePod => api.create_pod(number, due).await,
                    Act::UpdatePod => api.update_pod(number, due).await,
                    Act::DeletePod => api.delete_pod(number).await,
                    Act::Event(event) => api.create_event(number, event, due).await,
                    Act::Get => api.get(number).await,
                    Act::Probe => api.probe().await,
                };
                api.note(stream.kind, due, answered);
            }
        });
    }
}

/// Reads every resource in pages at the same time, as the caches of an apiserver do that starts.
async fn restart_of_an_apiserver(api: &Arc<Api>, at: Instant) -> anyhow::Result<Duration> {
    tokio::time::sleep_until(at).await;
    let mut lists = JoinSet::new();
    for resource in api::RESOURCES {
        let api = api.clone();
        lists.spawn(async move { api.list(resource).await });
    }
    while let Some(done) = lists.join_next().await {
        done??;
    }
    Ok(at.elapsed())
}

/// Compacts, each time, what was the present the time before.
async fn compact(api: &Arc<Api>, plan: &Plan, start: Instant) -> anyhow::Result<u32> {
    let (mut last, mut done) = (api.revision().await?, 0);
    let mut due = start + plan.compaction;
    while due < start + plan.time {
        tokio::time::sleep_until(due).await;
        let now = api.revision().await?;
        scenes::compact(api.channel(), last).await?;
        (last, done, due) = (now, done + 1, due + plan.compaction);
    }
    Ok(done)
}

async fn tell_progress(name: &str, api: &Arc<Api>, start: Instant, time: Duration) {
    const EVERY: Duration = Duration::from_secs(30);
    while start.elapsed() + EVERY < time {
        tokio::time::sleep(EVERY).await;
        eprintln!(
            "{name}: {} requests after {:.0?}",
            api.answered(),
            start.elapsed()
        );
    }
    tokio::time::sleep_until(start + time).await;
}
