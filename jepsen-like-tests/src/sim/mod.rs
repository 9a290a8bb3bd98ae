//! Deterministic simulation: whole members (store, log, database, consensus, peer codec, forwarding, read index, watch
//! hub, leases, the handlers behind gRPC) in one thread, on a disk, a network and a clock of ours. One seed is one run,
//! always the same.
//!
//! [`run`] plays a [`Plan`]: clients work and the [`nemesis`] harms for a while, under [`invariants`]; then everything
//! heals, the members must agree within [`CONVERGENCE`] and hold the same, and the checkers of [`crate::check`] judge
//! what clients were told.
//!
//! Outside of it: gRPC itself, membership changes, damage to what a disk holds. Other suites have those. A clock of
//! another rate is one of election and heartbeat timers only.

mod api;
mod clients;
mod cluster;
mod disk;
mod invariants;
mod judge;
pub mod nemesis;
pub mod network;
pub mod plan;
mod record;
mod stream;
mod trace;
mod watchers;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use kelson_raft::executor::Executor;
use tokio::runtime::{Builder, RngSeed};
use tokio::time::Instant;

use crate::check::coverage::Tally;
use crate::history::{Blob, History, Outcome, Phase, Range, Request};
use clients::Client;
use cluster::Cluster;
use invariants::Invariants;
use network::SimNetwork;
use plan::{FaultKind, Plan, chance};
use record::Recorder;
use trace::Trace;
use watchers::WatchClient;

/// How long after the last fault all members must agree, in virtual time.
pub const CONVERGENCE: Duration = Duration::from_secs(30);
/// How long streams are watched after the last change. Source: the checkers' bound on it, and a little.
const LAST_EVENTS: Duration = Duration::from_millis(5_500);
/// How often agreement is looked for.
const AGREEMENT_EVERY: Duration = Duration::from_millis(100);
/// The first of the clients that watch.
const FIRST_WATCHER: u32 = 500;
/// The client of the final reads.
const LAST_CLIENT: u32 = 1000;

/// What became of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was wrong; none if nothing was.
    pub violation: Option<String>,
    /// Hash of the trace and the number of its events.
    pub trace: (u64, u64),
    /// Virtual time.
    pub simulated: Duration,
    /// Calls of clients: answered, refused, unknown.
    pub operations: (u64, u64, u64),
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Terms with a leader.
    pub elections: u64,
    /// Lives that ended.
    pub deaths: u64,
    /// What was tried; nothing if the run ended before the checkers.
    pub coverage: Tally,
    /// What clients did and saw.
    pub history: History,
}

thread_local! {
    /// The first panic on this thread, which is one run's.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Plays `plan` on this thread. `print`: write every event to standard error.
pub fn run(plan: &Plan, print: bool) -> Report {
    catch_panics();
    PANIC.set(None);
    let mut seed = chance(plan.seed, "runtime");
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.number().to_le_bytes()))
        .build()
        .expect("a runtime without input and output needs nothing");
    let mut report = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(simulate(plan.clone(), print))
    }))
    .unwrap_or_default();
    drop(runtime);
    if let Some(panic) = PANIC.take() {
        report.violation = Some(format!("panic: {panic}"));
    }
    report
}

/// Panics inside of tasks end in join handles that nobody reads; a run must not pass with one.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|panic| {
                panic.get_or_insert_with(|| info.to_string());
            });
            usual(info);
        }));
    });
}

fn panicked() -> Option<String> {
    PANIC.with_borrow(Clone::clone)
}

async fn simulate(plan: Plan, print: bool) -> Report {
    let start = Instant::now();
    let trace = Trace::new(print);
    let invariants = Invariants::new(trace.clone());
    let recorder = Recorder::new(trace.clone());
    let network = SimNetwork::new(chance(plan.seed, "network").number(), plan.links, trace.clone());
    let cluster = Cluster::new(
        plan.clone(),
        network,
        invariants.clone(),
        recorder.clone(),
        trace.clone(),
    );
    let counts = nemesis::Counts::default();
    for member in cluster.members() {
        cluster.start(member);
    }
    recorder.mark(Phase::Faults);
    let (load, watching) = (Executor::default().tasks(), Executor::default().tasks());
    for number in 0..plan.clients {
        let client = Client::new(cluster.clone(), &plan, number as u32);
        load.spawn(client.run());
    }
    for number in 0..plan.watchers {
        let client = WatchClient::new(cluster.clone(), &plan, FIRST_WATCHER + number as u32);
        watching.spawn(client.run());
    }
    load.spawn(nemesis::run(cluster.clone(), plan.clone(), counts.clone()));
    let end = start + plan.duration;
    while Instant::now() < end && invariants.violation().is_none() && panicked().is_none() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    load.abort_all();
    let mut violation = invariants.violation();
    if violation.is_none() && panicked().is_none() {
        cluster.heal();
        recorder.mark(Phase::Healed);
        violation = converge(&cluster).await.err();
        // Streams have as long to show everything.
        tokio::time::sleep(LAST_EVENTS).await;
        violation = violation.or_else(|| invariants.violation());
    }
    watching.abort_all();
    let history = recorder.history();
    let mut coverage = Tally::default();
    if violation.is_none() && panicked().is_none() {
        let (verdict, tried) = judge::judge(&history);
        violation = verdict.err();
        coverage = tried;
        coverage.snapshot_installs = invariants.snapshot_installs();
    }
    let faults = counts.lock().clone();
    Report {
        violation,
        trace: trace.hash(),
        simulated: start.elapsed(),
        operations: count(&history),
        faults,
        elections: invariants.elections(),
        deaths: cluster.deaths(),
        coverage,
        history,
    }
}

fn count(history: &History) -> (u64, u64, u64) {
    let mut counts = (0, 0, 0);
    for operation in history.operations() {
        match operation.outcome {
            Outcome::Ok(_) => counts.0 += 1,
            Outcome::Failed { .. } => counts.1 += 1,
            Outcome::Unknown { .. } => counts.2 += 1,
        }
    }
    counts
}

/// Waits until every member serves linearizable reads and all have applied the same; then compares all they hold.
async fn converge(cluster: &Cluster) -> Result<(), String> {
    let deadline = Instant::now() + CONVERGENCE;
    let mut state = String::new();
    while Instant::now() < deadline {
        tokio::time::sleep(AGREEMENT_EVERY).await;
        if let Some(agreed) = agreement(cluster, &mut state) {
            agreed?;
            return last_reads(cluster, deadline).await;
        }
    }
    Err(format!(
        "no agreement {CONVERGENCE:?} after the last fault: {state}"
    ))
}

/// Whether all members stand at the same place, and if so whether they hold the same there.
fn agreement(cluster: &Cluster, state: &mut String) -> Option<Result<(), String>> {
    state.clear();
    let mut seen = Vec::new();
    for member in cluster.members() {
        let Some(node) = cluster.node(member) else {
            let _ = write!(state, "member {member} does not run; ");
            continue;
        };
        let status = node.status();
        let _ = write!(state, "{status:?}; ");
        let reader = node.reader();
        let holds = (
            reader
                .hash_kv(0)
                .map(|hash| format!("{hash:?}"))
                .map_err(|error| error.to_string()),
            reader.rolling_hash(),
            reader.compacted(),
            reader.leases(),
        );
        seen.push((status, holds, reader.clone()));
    }
    let (first, rest) = seen.split_first()?;
    let complete = seen.len() as u64 == *cluster.members().end();
    let same_place = rest
        .iter()
        .all(|(status, _, _)| status.applied == first.0.applied && status.leader == first.0.leader);
    if !complete || !same_place || first.0.leader == 0 || first.0.applied != first.0.committed {
        return None;
    }
    for (status, holds, reader) in &seen {
        if *holds != first.1 {
            return Some(Err(format!(
                "members {} and {} differ at index {}: {:?} and {holds:?}",
                first.0.id, status.id, status.applied, first.1
            )));
        }
        cluster.inner.recorder.collect(reader, &cluster.inner.invariants);
        // All came back from disk at a place before the end, and their leader has not committed anything yet.
        if reader.revision() != cluster.inner.recorder.collected() {
            let _ = write!(
                state,
                "member {} is at revision {}, the newest event is at {}",
                status.id,
                reader.revision(),
                cluster.inner.recorder.collected()
            );
            return None;
        }
    }
    Some(Ok(()))
}

/// Reads everything through each member, and all history of the last.
async fn last_reads(cluster: &Cluster, deadline: Instant) -> Result<(), String> {
    cluster.inner.recorder.mark(Phase::Final);
    for member in cluster.members() {
        let all = Range {
            key: Blob::from(vec![0]),
            range_end: Blob::from(vec![0]),
            ..Range::default()
        };
        loop {
            let read = clients::ask(cluster, LAST_CLIENT, member, Request::Range(all.clone()));
            match tokio::time::timeout_at(deadline, read).await {
                Ok(Some(Outcome::Ok(_))) => break,
                // A leader handed over at the last moment, or lost and found; a restart that took its time.
                Ok(_) => tokio::time::sleep(AGREEMENT_EVERY).await,
                Err(_) => return Err(format!("member {member} did not answer the last read")),
            }
        }
    }
    let last = *cluster.members().end();
    let node = loop {
        match cluster.node(last) {
            Some(node) if node.reader().revision() >= cluster.inner.recorder.collected() => break node,
            _ if Instant::now() > deadline => return Err(format!("member {last} did not come up again")),
            _ => tokio::time::sleep(AGREEMENT_EVERY).await,
        }
    };
    cluster
        .inner
        .recorder
        .final_history(LAST_CLIENT, last, node.reader())
}
