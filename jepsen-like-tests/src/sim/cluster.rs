//! [`Cluster`]: simulated members that start, die, stop and come back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kelson_raft::environment::Environment;
use kelson_raft::executor::{Executor, Tasks};
use kelson_raft::life::Life;
use kelson_raft::node::{BootstrapMember, Node, NodeConfig};
use kelson_server::lease::LeaseKeeper;
use kelson_server::services::{Limits, ServiceContext};
use kelson_server::watch::{WatchHub, WatchOptions};
use kelson_storage::error::Fault;
use kelson_storage::testing::{FaultyDisk, Random};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::disk::MemberDisk;
use super::invariants::{Invariants, Marks};
use super::network::SimNetwork;
use super::plan::{Plan, chance};
use super::record::Recorder;
use super::stream::{MemberTransport, url_of};
use super::trace::Trace;

/// Id of every simulated cluster.
pub const CLUSTER_ID: u64 = 0xc0ffee;
/// How often members are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest pause before a member that died of a planned failure is started again.
const REVIVAL_MILLIS: u64 = 2000;
/// Time between progress replies of quiet watchers. Far less than the daemon's, so that runs see some.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: what it wrote stays.
    Kill,
    /// The machine loses power.
    PowerCut,
}

/// All members and what is around them. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) plan: Plan,
    pub(super) network: SimNetwork,
    pub(super) trace: Trace,
    pub(super) invariants: Invariants,
    pub(super) recorder: Recorder,
    pub(super) tasks: Tasks,
    slots: Vec<Mutex<Slot>>,
    random: Mutex<Random>,
    power_cuts: mpsc::UnboundedSender<u64>,
    deaths: AtomicU64,
}

struct Slot {
    id: u64,
    /// What the next life finds.
    disk: FaultyDisk,
    lives: u64,
    present: Option<Present>,
    slow_until: Arc<Mutex<Option<Instant>>>,
}

/// A member's present life.
struct Present {
    life: Arc<Life>,
    disk: MemberDisk,
    /// What it serves clients with, once it has started.
    context: Option<Arc<ServiceContext>>,
    /// Whether it may die of a fault: one was planned for its disk.
    excused: bool,
    /// Closed with the life.
    _alive: watch::Sender<()>,
    gone: Gone,
}

/// Resolves when a life has ended.
#[derive(Clone)]
pub struct Gone {
    alive: watch::Receiver<()>,
}

impl Gone {
    /// Waits for the end.
    pub async fn wait(mut self) {
        while self.alive.changed().await.is_ok() {}
    }
}

impl Cluster {
    /// Members of `plan`, none of them started.
    pub fn new(
        plan: Plan,
        network: SimNetwork,
        invariants: Invariants,
        recorder: Recorder,
        trace: Trace,
    ) -> Self {
        let (power_cuts, mut cut) = mpsc::unbounded_channel();
        let slots = (1..=plan.members).map(|id| {
            Mutex::new(Slot {
                id,
                disk: FaultyDisk::new(),
                lives: 0,
                present: None,
                slow_until: Arc::default(),
            })
        });
        let cluster = Self {
            inner: Arc::new(Inner {
                network,
                trace,
                invariants,
                recorder,
                tasks: Executor::default().tasks(),
                slots: slots.collect(),
                random: Mutex::new(chance(plan.seed, "cluster")),
                plan,
                power_cuts,
                deaths: AtomicU64::new(0),
            }),
        };
        let this = cluster.clone();
        cluster.inner.tasks.spawn(async move {
            while let Some(member) = cut.recv().await {
                this.end(member, Death::PowerCut);
                this.revive_later(member);
            }
        });
        cluster
    }

    /// Ids of all members.
    pub fn members(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.inner.plan.members
    }

    /// Lives that have ended.
    pub fn deaths(&self) -> u64 {
        self.inner.deaths.load(Ordering::Relaxed)
    }

    fn slot(&self, member: u64) -> &Mutex<Slot> {
        let place = usize::try_from(member - 1).expect("a member's id is small");
        &self.inner.slots[place]
    }

    /// The member's services and its end, if it runs.
    pub fn member(&self, member: u64) -> Option<(Arc<ServiceContext>, Gone)> {
        let slot = self.slot(member).lock();
        let present = slot.present.as_ref()?;
        Some((present.context.clone()?, present.gone.clone()))
    }

    /// The member's node, if it runs.
    pub fn node(&self, member: u64) -> Option<Node> {
        Some(self.member(member)?.0.node.clone())
    }

    /// Polls `future` as a part of the member's present life: not at all while it is stopped.
    pub async fn within<F>(&self, member: u64, future: F) -> F::Output
    where
        F: Future + Send,
        F::Output: Send,
    {
        let life = {
            let slot = self.slot(member).lock();
            slot.present.as_ref().map(|present| present.life.clone())
        };
        match life {
            Some(life) => Executor::simulated(life).within(future).await,
            None => std::future::pending().await,
        }
    }

    /// Whether the member has a life, started up or not.
    pub fn is_alive(&self, member: u64) -> bool {
        self.slot(member).lock().present.is_some()
    }

    /// Begins a life, if there is none. Its start goes on by itself.
    pub fn start(&self, member: u64) {
        let mut slot = self.slot(member).lock();
        if slot.present.is_some() {
            return;
        }
        slot.lives += 1;
        let inner = &self.inner;
        let life_number = inner.network.power_on(member);
        inner.trace.event("start", &[member, slot.lives]);
        inner.recorder.process(member, true);
        let life = self.life(&slot);
        let disk = MemberDisk::new(slot.disk.clone(), member, inner.trace.clone());
        let (alive, gone) = watch::channel(());
        let gone = Gone { alive: gone };
        slot.present = Some(Present {
            life: life.clone(),
            disk: disk.clone(),
            context: None,
            excused: false,
            _alive: alive,
            gone: gone.clone(),
        });
        drop(slot);
        let environment = Environment {
            disk: Arc::new(disk),
            transport: Arc::new(MemberTransport::new(inner.network.clone(), member, life_number)),
            executor: Executor::simulated(life),
            observer: Some(inner.invariants.observer(member)),
            wal_segment_bytes: inner.plan.wal_segment_bytes,
            index_files: inner.plan.index_files,
        };
        let this = self.clone();
        inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = gone.wait() => {}
                () = this.live(member, environment) => {}
            }
        });
    }

    fn life(&self, slot: &Slot) -> Arc<Life> {
        let seed = chance(
            self.inner.plan.seed,
            &format!("life {} of {}", slot.lives, slot.id),
        )
        .number();
        let random = Mutex::new(Random::new(seed ^ 1));
        let usual = self.inner.plan.disk_latency;
        let slow_until = slot.slow_until.clone();
        Life::new(seed, move || {
            let is_slow = slow_until.lock().is_some_and(|until| until > Instant::now());
            let longest = if is_slow { Duration::from_secs(2) } else { usual };
            Duration::from_micros(random.lock().below(longest.as_micros() as u64 + 1))
        })
    }

    /// A life from its start to its fault, if there is one.
    async fn live(&self, member: u64, environment: Environment) {
        let executor = environment.executor.clone();
        let fault = match Node::start_in(environment, self.config(member)).await {
            Ok(node) => self.serve(member, node, &executor).await,
            Err(fault) => fault,
        };
        let (excused, power_is_off) = {
            let slot = self.slot(member).lock();
            let present = slot.present.as_ref();
            present.map_or((true, true), |present| {
                (present.excused, present.disk.power_is_off())
            })
        };
        if power_is_off {
            // The end of this life is on its way.
            return std::future::pending().await;
        }
        self.inner.trace.note(|| format!("member {member} died: {fault}"));
        if !excused {
            self.inner.invariants.violated(format!(
                "member {member} died of a fault that nobody planned: {fault}"
            ));
        }
        // Not from within its own life.
        let this = self.clone();
        self.inner.tasks.spawn(async move {
            this.end(member, Death::Kill);
            this.revive_later(member);
        });
        std::future::pending::<()>().await;
    }

    /// Serves clients until something fails, as the daemon does it below its listeners.
    async fn serve(&self, member: u64, node: Node, executor: &Executor) -> Fault {
        let config = self.config(member);
        let options = WatchOptions::new(PROGRESS_INTERVAL, config.max_request_bytes);
        let (hub, watching) = WatchHub::start(node.clone(), options);
        let (leases, expiring) = LeaseKeeper::start(node.clone());
        let limits = Limits {
            max_request_bytes: config.max_request_bytes,
            max_txn_ops: 128,
            quota_backend_bytes: 0,
            warning_unary_request_duration: config.warning_apply_duration,
        };
        let seed = self.inner.random.lock().number();
        let (context, mut faults) = ServiceContext::new(node.clone(), hub, leases, limits, seed);
        // Owned by this future, so that they end with the life.
        let tasks = executor.tasks();
        let (failed, mut failure) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            if let Err(fault) = watching.await {
                // Whoever would hear of it is gone only with the member.
                let _ = failed.send(fault);
            }
            std::future::pending().await
        });
        tasks.spawn(expiring);
        if let Some(present) = &mut self.slot(member).lock().present {
            present.context = Some(Arc::new(context));
        }
        self.inner.trace.event("started", &[member]);
        tokio::select! {
            biased;
            fault = node.fault() => fault,
            Some(fault) = faults.recv() => fault,
            Some(fault) = failure.recv() => fault,
            () = self.look(member, node.clone()) => unreachable!("looking never ends"),
        }
    }

    /// Looks at a member again and again.
    async fn look(&self, member: u64, node: Node) {
        let mut marks = Marks::default();
        let mut leaders = node.leader_changes();
        loop {
            let (leader, term) = *leaders.borrow_and_update();
            let status = node.status();
            for (leader, term) in [(leader, term), (status.leader, status.term)] {
                if self.inner.invariants.leader(member, term, leader) {
                    self.inner.recorder.leader(leader, term);
                }
            }
            marks.look(&self.inner.invariants, &status, node.reader().revision());
            self.inner.recorder.collect(node.reader(), &self.inner.invariants);
            tokio::select! {
                biased;
                // None any more once the node has been shut down.
                Ok(()) = leaders.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Ends the member's life.
    pub fn end(&self, member: u64, death: Death) {
        let mut slot = self.slot(member).lock();
        let Some(present) = slot.present.take() else {
            return;
        };
        let inner = &self.inner;
        inner.deaths.fetch_add(1, Ordering::Relaxed);
        inner
            .trace
            .event("end", &[member, u64::from(death == Death::PowerCut)]);
        let seed = match death {
            Death::Kill => None,
            Death::PowerCut => Some(inner.random.lock().number()),
        };
        if death == Death::PowerCut {
            inner.network.power_off(member);
        }
        slot.disk = present.disk.leave(seed);
        *slot.slow_until.lock() = None;
        present.life.end();
        inner.recorder.process(member, false);
    }

    fn revive_later(&self, member: u64) {
        let pause = Duration::from_millis(1 + self.inner.random.lock().below(REVIVAL_MILLIS));
        let this = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            this.start(member);
        });
    }

    /// Plans a power cut in the midst of one of the member's next calls to its disk.
    pub fn cut_power_in_call(&self, member: u64, nth: u64) {
        let slot = self.slot(member).lock();
        let Some(present) = &slot.present else { return };
        let seed = self.inner.random.lock().number();
        let (life, network) = (present.life.clone(), self.inner.network.clone());
        let cuts = self.inner.power_cuts.clone();
        present.disk.cut_power(nth, seed, move || {
            network.power_off(member);
            life.end();
            // The rest is done from outside of the member's own poll.
            let _ = cuts.send(member);
        });
    }

    /// Plans a failure of one of the member's next calls to its disk. It may die of it.
    pub fn fail_disk(&self, member: u64, nth: u64, error: kelson_storage::testing::DiskError) {
        let mut slot = self.slot(member).lock();
        if let Some(present) = &mut slot.present {
            present.excused = true;
            present.disk.faulty().fail_nth(nth, None, error);
        }
    }

    /// Makes the member's disk slow for a while.
    pub fn slow_disk(&self, member: u64, duration: Duration) {
        *self.slot(member).lock().slow_until.lock() = Some(Instant::now() + duration);
    }

    /// Stops a member's process.
    pub fn stop(&self, member: u64) {
        if let Some(present) = &self.slot(member).lock().present {
            self.inner.trace.event("stop", &[member]);
            present.life.stop();
        }
    }

    /// Lets a stopped process go on.
    pub fn go_on(&self, member: u64) {
        let life = self
            .slot(member)
            .lock()
            .present
            .as_ref()
            .map(|present| present.life.clone());
        if let Some(life) = life {
            self.inner.trace.event("go on", &[member]);
            life.go_on();
        }
    }

    /// Ends all that is wrong: links, disks, stopped and dead members.
    pub fn heal(&self) {
        self.inner.network.mend_all();
        self.inner.recorder.all_faults_end();
        for member in self.members() {
            self.go_on(member);
            *self.slot(member).lock().slow_until.lock() = None;
            // What was planned and has not come will not come.
            let pending = {
                let slot = self.slot(member).lock();
                slot.present.as_ref().is_some_and(|present| {
                    present.disk.spare();
                    present.disk.faulty().failure_is_pending()
                })
            };
            if pending {
                self.end(member, Death::Kill);
            }
            self.start(member);
        }
    }

    /// Some member, evenly.
    pub fn any_member(&self, random: &mut Random) -> u64 {
        1 + random.below(self.inner.plan.members)
    }

    /// Some members, at least one but not all, unless there is only one.
    pub fn some_members(&self, random: &mut Random) -> BTreeSet<u64> {
        loop {
            let some: BTreeSet<u64> = self.members().filter(|_| random.chance(1, 2)).collect();
            if !some.is_empty() && (some.len() as u64) < self.inner.plan.members {
                return some;
            }
            if self.inner.plan.members == 1 {
                return self.members().collect();
            }
        }
    }

    fn config(&self, member: u64) -> NodeConfig {
        let plan = &self.inner.plan;
        let rate = plan.clock_rates[usize::try_from(member - 1).expect("a member's id is small")];
        let election_timeout = plan.election_timeout * 100 / u32::try_from(rate).expect("a rate is small");
        let bootstrap = self.members().map(|id| BootstrapMember {
            id,
            peer_urls: vec![url_of(id)],
        });
        NodeConfig {
            id: member,
            cluster_id: CLUSTER_ID,
            data_dir: PathBuf::from(format!("/member{member}")),
            wal_dir: None,
            bootstrap: bootstrap.collect(),
            listen_peer: vec![url_of(member)],
            heartbeat: election_timeout / 10,
            election_timeout,
            snapshot_count: plan.snapshot_count,
            snapshot_catchup_entries: plan.catchup_entries,
            max_wals: plan.max_wals,
            cache_bytes: kelson_storage::limits::CACHE_BYTES_DEFAULT,
            max_request_bytes: kelson_storage::limits::REQUEST_BYTES_DEFAULT,
            pre_vote: plan.pre_vote,
            unsafe_no_fsync: false,
            warning_apply_duration: Duration::from_secs(3600),
        }
    }
}
