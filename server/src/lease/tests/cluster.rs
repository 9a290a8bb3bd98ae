//! Make-believe members that share one log and one store, each with its own idea of who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kelson_raft::node::{AskLeaderError, LeaderService, LeaseChange, NodeStatus, ProposeError};
use kelson_storage::applied::{Applied, Outcome};
use kelson_storage::command::Command;
use kelson_storage::error::Rejected;
use kelson_storage::revision::LogPosition;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::lease::host::Host;
use crate::lease::keeper::{self, Shared};

pub(super) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// One message between members.
const LATENCY: Duration = Duration::from_millis(3);

/// When a lease existed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) id: i64,
    pub(super) ttl: i64,
    pub(super) granted: Instant,
    pub(super) ended: Option<Instant>,
}

struct World {
    /// 0: none.
    leader: u64,
    term: u64,
    applied: LogPosition,
    leases: BTreeMap<i64, i64>,
    lives: Vec<Life>,
    /// Outcomes of coming expiries that get lost; whether the expiry is applied nevertheless.
    lost: Vec<bool>,
    /// Expiries rejected because their term was over.
    stale: usize,
    members: BTreeMap<u64, MemberState>,
}

struct MemberState {
    changes: Option<mpsc::UnboundedSender<LeaseChange>>,
    service: Option<Arc<dyn LeaderService>>,
    /// (leader, term) as this member believes.
    belief: watch::Sender<(u64, u64)>,
    applied: watch::Sender<u64>,
}

impl World {
    fn inform(&mut self, id: u64) {
        let truth = (self.leader, self.term);
        self.members[&id].belief.send_replace(truth);
    }

    /// Moves the log on by one entry of the current term.
    fn advance(&mut self) {
        self.applied.index += 1;
        self.applied.term = self.term;
        for member in self.members.values() {
            member.applied.send_modify(|_revision| ());
        }
    }

    fn commit(&mut self, command: &Command) -> Fate {
        if self.leader == 0 {
            return Fate::Waiting;
        }
        match self.lost.pop() {
            None => Fate::Known(self.apply(command)),
            Some(apply) => {
                if apply {
                    self.apply(command);
                }
                Fate::Lost
            }
        }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.advance();
        let result = match command {
            Command::LeaseGrant { id, ttl } => self.grant(*id, *ttl),
            Command::LeaseRevoke { id, expiry_term } => self.revoke(*id, *expiry_term),
            other => panic!("not a lease command: {other:?}"),
        };
        Outcome {
            revision: 1,
            term: self.term,
            result,
        }
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<Applied, Rejected> {
        if self.leases.contains_key(&id) {
            return Err(Rejected::LeaseExists);
        }
        self.leases.insert(id, ttl);
        self.lives.push(Life {
            id,
            ttl,
            granted: Instant::now(),
            ended: None,
        });
        self.report(LeaseChange::Granted { id, ttl });
        Ok(Applied::LeaseGrant { id, ttl })
    }

    fn revoke(&mut self, id: i64, expiry_term: Option<u64>) -> Result<Applied, Rejected> {
        if expiry_term.is_some_and(|term| term != self.term) {
            self.stale += 1;
            return Err(Rejected::ExpiryStale);
        }
        if self.leases.remove(&id).is_none() {
            return Err(Rejected::LeaseNotFound);
        }
        let life = self.lives.iter_mut().rev().find(|life| life.id == id);
        life.expect("it was granted").ended = Some(Instant::now());
        self.report(LeaseChange::Revoked { id });
        Ok(Applied::LeaseRevoke)
    }

    fn report(&self, change: LeaseChange) {
        for member in self.members.values() {
            if let Some(changes) = &member.changes {
                // A member whose task has ended hears nothing.
                let _ = changes.send(change);
            }
        }
    }
}

/// What becomes of a proposal.
enum Fate {
    /// Nobody leads.
    Waiting,
    Known(Outcome),
    Lost,
}

/// One member as its lease keeper sees it.
#[derive(Clone)]
pub(super) struct Member {
    id: u64,
    world: Arc<Mutex<World>>,
}

/// Keepers and tasks of all members.
pub(super) struct Cluster {
    world: Arc<Mutex<World>>,
    pub(super) keepers: Vec<Arc<Shared<Member>>>,
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// Members 1 to `count`, the first of them leader.
    pub(super) fn start(count: u64) -> Self {
        let member = |id| {
            let state = MemberState {
                changes: None,
                service: None,
                belief: watch::channel((0, 0)).0,
                applied: watch::channel(1).0,
            };
            (id, state)
        };
        let world = Arc::new(Mutex::new(World {
            leader: 0,
            term: 0,
            applied: LogPosition::default(),
            leases: BTreeMap::new(),
            lives: Vec::new(),
            lost: Vec::new(),
            stale: 0,
            members: (1..=count).map(member).collect(),
        }));
        let mut tasks = JoinSet::new();
        let mut keepers = Vec::new();
        for id in 1..=count {
            let world = world.clone();
            let (keeper, task) = keeper::start(Member { id, world });
            keepers.push(keeper);
            tasks.spawn(task);
        }
        let cluster = Self {
            world,
            keepers,
            _tasks: tasks,
        };
        cluster.elect(1);
        cluster
    }

    /// `leader` (0: nobody) leads a new term, and everybody knows.
    pub(super) fn elect(&self, leader: u64) {
        self.elect_secretly(leader, 0);
        self.enlighten();
    }

    /// `leader` leads a new term, and everybody knows but `unaware`, who hears of it with [`Cluster::enlighten`].
    pub(super) fn elect_secretly(&self, leader: u64, unaware: u64) {
        let mut world = self.world.lock();
        world.term += 1;
        world.leader = leader;
        for id in 1..=world.members.len() as u64 {
            if id != unaware {
                world.inform(id);
            }
        }
        if leader != 0 {
            world.advance();
        }
    }

    /// Everybody learns who leads.
    pub(super) fn enlighten(&self) {
        let mut world = self.world.lock();
        for id in 1..=world.members.len() as u64 {
            world.inform(id);
        }
    }

    /// The leader's idea of the term runs ahead of what it has applied.
    pub(super) fn elect_without_applying(&self, leader: u64) {
        let mut world = self.world.lock();
        world.term += 1;
        world.leader = leader;
        drop(world);
        self.enlighten();
    }

    /// An entry without content.
    pub(super) fn advance(&self) {
        self.world.lock().advance();
    }

    /// The outcome of the next expiry gets lost.
    pub(super) fn lose_expiry(&self, applied_nevertheless: bool) {
        self.world.lock().lost.push(applied_nevertheless);
    }

    /// Grants a lease, as a client of some member.
    pub(super) fn grant(&self, id: i64, ttl: i64) -> bool {
        let mut world = self.world.lock();
        world.leader != 0 && world.apply(&Command::LeaseGrant { id, ttl }).result.is_ok()
    }

    /// Revokes a lease, as a client of some member.
    pub(super) fn revoke(&self, id: i64) {
        let expiry_term = None;
        self.world.lock().apply(&Command::LeaseRevoke { id, expiry_term });
    }

    /// Every lease there ever was.
    pub(super) fn lives(&self) -> Vec<Life> {
        self.world.lock().lives.clone()
    }

    /// Leases there are.
    pub(super) fn alive(&self) -> usize {
        self.world.lock().leases.len()
    }

    /// Expiries rejected because their term was over.
    pub(super) fn stale_expiries(&self) -> usize {
        self.world.lock().stale
    }
}

impl Host for Member {
    fn status(&self) -> NodeStatus {
        let world = self.world.lock();
        let (leader, term) = *world.members[&self.id].belief.borrow();
        NodeStatus {
            id: self.id,
            leader,
            term,
            committed: world.applied.index,
            applied: world.applied.index,
            ..NodeStatus::default()
        }
    }

    fn applied(&self) -> Option<LogPosition> {
        Some(self.world.lock().applied)
    }

    fn leases(&self) -> Vec<(i64, i64)> {
        let world = self.world.lock();
        world.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect()
    }

    fn lease_ttl(&self, id: i64) -> Option<i64> {
        self.world.lock().leases.get(&id).copied()
    }

    fn lease_keys(&self, id: i64) -> Option<Vec<Bytes>> {
        self.lease_ttl(id).map(|_ttl| vec![Bytes::from_static(b"key")])
    }

    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while Instant::now() < deadline {
            sleep(LATENCY).await;
            let fate = self.world.lock().commit(&command);
            sleep(LATENCY).await;
            match fate {
                Fate::Waiting => {}
                Fate::Known(outcome) => return Ok(outcome),
                Fate::Lost => {
                    tokio::time::sleep_until(deadline).await;
                    return Err(ProposeError::Timeout);
                }
            }
        }
        Err(ProposeError::NoLeader)
    }

    /// A former leader that does not know yet gets no answer from anybody.
    async fn confirm_leadership(&self) -> Option<u64> {
        sleep(LATENCY).await;
        let (believed, truth) = {
            let world = self.world.lock();
            let believed = *world.members[&self.id].belief.borrow();
            (believed, (world.leader, world.term))
        };
        if believed.0 != self.id {
            return None;
        }
        if believed != truth {
            std::future::pending::<()>().await;
        }
        sleep(LATENCY).await;
        Some(truth.1)
    }

    async fn ask_leader(&self, request: Bytes) -> Result<Bytes, AskLeaderError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while Instant::now() < deadline {
            sleep(LATENCY).await;
            let service = {
                let world = self.world.lock();
                let leader = world.members[&self.id].belief.borrow().0;
                let leader = world.members.get(&leader);
                leader.and_then(|leader| leader.service.clone())
            };
            if let Some(service) = service {
                let answer = service.answer(request).await;
                sleep(LATENCY).await;
                return answer.map_err(AskLeaderError::Refused);
            }
        }
        Err(AskLeaderError::NoLeader)
    }

    fn serve_leader(&self, service: Arc<dyn LeaderService>) {
        let mut world = self.world.lock();
        world.members.get_mut(&self.id).expect("a member").service = Some(service);
    }

    fn lease_changes(&self) -> mpsc::UnboundedReceiver<LeaseChange> {
        let (sender, changes) = mpsc::unbounded_channel();
        let mut world = self.world.lock();
        world.members.get_mut(&self.id).expect("a member").changes = Some(sender);
        changes
    }

    fn leader_changes(&self) -> watch::Receiver<(u64, u64)> {
        self.world.lock().members[&self.id].belief.subscribe()
    }

    fn applied_revisions(&self) -> watch::Receiver<u64> {
        self.world.lock().members[&self.id].applied.subscribe()
    }

    fn request_timeout(&self) -> Duration {
        REQUEST_TIMEOUT
    }

    fn election_timeout(&self) -> Duration {
        ELECTION_TIMEOUT
    }
}
