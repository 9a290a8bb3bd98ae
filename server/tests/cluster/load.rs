//! Many writers at once, with a record of which members are up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::harness::Client;
use crate::members::{Members, wait_for};
use crate::pulse::Pulse;
use crate::settings::WRITERS;
use crate::writer::Writer;

/// Pause of a writer after an error, so that a refused connection is not a busy loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);

/// How writers choose the member they talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The same member always.
    Pinned,
    /// The next member after each error, as clients with several endpoints do.
    Roaming,
}

/// What writers and the test share.
pub struct Shared {
    pub pulse: Pulse,
    stop: AtomicBool,
    faults: Vec<Faulty>,
    unexcused: AtomicU64,
    excused: AtomicU64,
}

/// Whether a member's clients may see errors.
#[derive(Default)]
struct Faulty {
    now: AtomicBool,
    times: AtomicU64,
}

impl Shared {
    /// From now on the clients of this member may see errors.
    pub fn fault_begins(&self, member: usize) {
        self.faults[member].times.fetch_add(1, Ordering::SeqCst);
        self.faults[member].now.store(true, Ordering::SeqCst);
    }

    /// This member serves again.
    pub fn fault_ends(&self, member: usize) {
        self.faults[member].now.store(false, Ordering::SeqCst);
    }

    fn fault(&self, member: usize) -> (bool, u64) {
        let fault = &self.faults[member];
        (
            fault.now.load(Ordering::SeqCst),
            fault.times.load(Ordering::SeqCst),
        )
    }

    /// Waits for `count` more writes.
    pub async fn progress(&self, count: u64) {
        let from = self.pulse.beats();
        wait_for("writes to go on", || async {
            (self.pulse.beats() >= from + count).then_some(())
        })
        .await;
    }
}

/// Writers at work.
pub struct Load {
    pub shared: Arc<Shared>,
    tasks: JoinSet<Writer>,
}

/// What a load was told.
pub struct Summary {
    /// The writers, for the next load or for the verdict.
    pub writers: Vec<Writer>,
    /// Writes that succeeded.
    pub succeeded: u64,
    /// Errors of clients of a member without a fault.
    pub unexcused: u64,
    /// Errors of clients of a member during its fault.
    pub excused: u64,
}

/// Writers that have written nothing yet.
pub fn fresh_writers() -> Vec<Writer> {
    (0..WRITERS).map(Writer::new).collect()
}

impl Load {
    /// Sets the writers to work, spread over all members.
    pub fn start(cluster: &Members, writers: Vec<Writer>, round: u64, route: Route) -> Load {
        let endpoints = cluster.endpoints();
        let shared = Arc::new(Shared {
            pulse: Pulse::new(),
            stop: AtomicBool::new(false),
            faults: endpoints.iter().map(|_| Faulty::default()).collect(),
            unexcused: AtomicU64::new(0),
            excused: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for writer in writers {
            let clients = endpoints.iter().map(|endpoint| Client::of(endpoint)).collect();
            tasks.spawn(work(writer, clients, round, route, shared.clone()));
        }
        Load { shared, tasks }
    }

    /// Lets every writer finish its step.
    pub async fn stop(self) -> Summary {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut writers = self.tasks.join_all().await;
        writers.sort_by_key(|writer| writer.id);
        Summary {
            writers,
            succeeded: self.shared.pulse.beats(),
            unexcused: self.shared.unexcused.load(Ordering::SeqCst),
            excused: self.shared.excused.load(Ordering::SeqCst),
        }
    }
}

async fn work(
    mut writer: Writer,
    clients: Vec<Client>,
    round: u64,
    route: Route,
    shared: Arc<Shared>,
) -> Writer {
    let mut member = writer.id % clients.len();
    while !shared.stop.load(Ordering::SeqCst) {
        let before = shared.fault(member);
        if writer.step(&clients[member], round).await.is_ok() {
            shared.pulse.beat();
            continue;
        }
        let undisturbed = !before.0 && shared.fault(member) == before;
        let errors = if undisturbed {
            &shared.unexcused
        } else {
            &shared.excused
        };
        errors.fetch_add(1, Ordering::SeqCst);
        if route == Route::Roaming {
            member = (member + 1) % clients.len();
        }
        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
    }
    writer
}

/// The errors of all writers by text, the most frequent first.
pub fn errors(writers: &[Writer]) -> String {
    let mut sum = std::collections::BTreeMap::<&str, u64>::new();
    for (text, count) in writers.iter().flat_map(|writer| &writer.errors) {
        *sum.entry(text).or_default() += count;
    }
    let mut sorted: Vec<_> = sum.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let lines: Vec<String> = sorted
        .iter()
        .map(|(text, count)| format!("{count} x {text}"))
        .collect();
    lines.join("; ")
}
