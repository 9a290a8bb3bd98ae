//! [`Node`]: the running Raft participant, as the server sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kelson_storage::applied::Outcome;
use kelson_storage::codec;
use kelson_storage::command::{Command, Proposal};
use kelson_storage::error::Fault;
use kelson_storage::limits::CacheBudget;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::StoreReader;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::environment::Environment;
use crate::executor::{Running, Tasks};
use crate::fault::FaultSignal;
use crate::leadership::{Leadership, LeadershipHistory};
use crate::log_storage::LogThread;
use crate::meters::{Meters, PeerMeters};
use crate::outbox::Outbox;
use crate::read_index::LeaderReads;
use crate::state_machine::StateMachine;
use crate::storage_thread::StorageThread;
use crate::to_leader::ToLeader;
use crate::type_config::TypeConfig;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LeaderServiceSlot = Arc<Mutex<Option<Arc<dyn LeaderService>>>>;

/// Bytes of a proposal that are not the command: id, low mark and frame.
const PROPOSAL_OVERHEAD_BYTES: usize = 64;

/// How long a shutdown waits for leadership to move. Source: etcd's request timeout bounds its own attempt.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// What this node knows about the cluster right now. Cheap to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// This member.
    pub id: u64,
    /// The leader, if this node has heard from one within an election timeout (or is it); else 0.
    pub leader: u64,
    /// The newest term this node knows.
    pub term: u64,
    /// Index of the newest committed entry.
    pub committed: u64,
    /// Index of the newest applied entry.
    pub applied: u64,
    /// Whether this member is a learner.
    pub is_learner: bool,
    /// Leaders seen since the process started.
    pub leader_changes: u64,
}

impl NodeStatus {
    /// Whether this node is the leader.
    pub fn is_leader(&self) -> bool {
        self.leader != 0 && self.leader == self.id
    }
}

/// Why a proposal returned no outcome. Callers care about one thing: may it still happen?
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The encoded command is larger than `max_request_bytes`. It never entered a log.
    #[error("request is too large")]
    TooLarge,
    /// Too many commands are waiting already. It never entered a log.
    #[error("too many requests")]
    TooManyRequests,
    /// No leader was known all the time until the deadline. It never entered a log.
    #[error("no leader until the deadline")]
    NoLeader,
    /// May or may not commit later: the deadline passed.
    #[error("request timed out")]
    Timeout,
    /// As `Timeout`, and a leader was lost within the two election timeouts before the start of the request, or after it.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailed,
    /// As `Timeout`, and the leader could not be reached all the time.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This node is stopping; what was in flight may or may not commit.
    #[error("server stopped")]
    Stopped,
}

/// Why a linearizable read could not be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// The deadline passed.
    #[error("request timed out")]
    Timeout,
    /// The leader changed meanwhile and the deadline has passed.
    #[error("leader changed")]
    LeaderChanged,
    /// This node is stopping.
    #[error("server stopped")]
    Stopped,
}

/// Why the leader could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskLeaderError {
    /// No leader until the deadline.
    #[error("no leader")]
    NoLeader,
    /// The leader refused; the text is for the client.
    #[error("{0}")]
    Refused(String),
    /// This node is stopping.
    #[error("server stopped")]
    Stopped,
}

/// Why leadership was not transferred.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node is not the leader.
    #[error("not leader")]
    NotLeader,
    /// The target is no voter.
    #[error("bad leader transferee")]
    BadTransferee,
    /// It did not happen in time.
    #[error("request timed out, leader transfer took too long")]
    Timeout,
}

/// Answers what other members ask of the leader (lease keepalives and times to live). Called on the runtime; the
/// bytes are the server's business.
pub trait LeaderService: Send + Sync + 'static {
    /// Answers one request, or refuses with a text for the client.
    fn answer(&self, request: Bytes) -> futures::future::BoxFuture<'static, Result<Bytes, String>>;
}

/// A change of a lease that apply made, for the task that counts leases out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// Granted with this TTL in seconds; it counts from now.
    Granted {
        /// Lease id.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// Gone.
    Revoked {
        /// Lease id.
        id: i64,
    },
    /// The store was replaced by a snapshot: read all leases again.
    Reset,
}

/// One member of the static bootstrap configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapMember {
    /// Derived as etcd derives it.
    pub id: u64,
    /// Where peers reach it, e.g. `http://10.0.0.1:2380`.
    pub peer_urls: Vec<String>,
}

/// What a node must know at start. Times are durations; sizes are bytes or entries as named.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This member.
    pub id: u64,
    /// The cluster; other clusters' peers are refused.
    pub cluster_id: u64,
    /// Where everything is kept: `<data_dir>/member/...`.
    pub data_dir: std::path::PathBuf,
    /// The log's directory when it is not below `data_dir`.
    pub wal_dir: Option<std::path::PathBuf>,
    /// Founding members; used only when there is no data yet.
    pub bootstrap: Vec<BootstrapMember>,
    /// `host:port` addresses to listen on for peers.
    pub listen_peer: Vec<String>,
    /// Leader's heartbeat period.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_timeout: Duration,
    /// Entries applied between checkpoints that allow the log to be purged.
    pub snapshot_count: u64,
    /// Entries kept behind a checkpoint for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Files of the log (64 MiB each) that may hold entries which a checkpoint covers; 0: any number. Fewer: a follower
    /// that was away comes back by a snapshot sooner. More: disk.
    pub max_wals: u64,
    /// Bytes kept in memory so as not to be read again: pages, records, events, log entries.
    pub cache_bytes: u64,
    /// Largest encoded command.
    pub max_request_bytes: usize,
    /// Whether elections start with a pre-vote round.
    pub pre_vote: bool,
    /// Applying one log entry for longer than this is worth a line in the log.
    pub warning_apply_duration: Duration,
    /// Never sync (tests only).
    pub unsafe_no_fsync: bool,
}

/// Handle of the running node. Cheap to clone; the node stops with [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What the handle shares; filled by `start`.
pub(crate) struct Inner {
    pub(crate) config: NodeConfig,
    pub(crate) raft: Raft,
    pub(crate) meters: Arc<Meters>,
    pub(crate) reader: StoreReader,
    pub(crate) outbox: Arc<Mutex<Outbox>>,
    pub(crate) to_leader: Arc<ToLeader>,
    pub(crate) leader_reads: Arc<LeaderReads>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) history: Arc<Mutex<LeadershipHistory>>,
    pub(crate) leader_changes: watch::Receiver<(u64, u64)>,
    pub(crate) applied: watch::Receiver<(Option<LogPosition>, u64)>,
    pub(crate) applied_revisions: watch::Receiver<u64>,
    pub(crate) lease_changes: Mutex<Option<mpsc::UnboundedReceiver<LeaseChange>>>,
    pub(crate) leader_service: LeaderServiceSlot,
    pub(crate) fault: FaultSignal,
    pub(crate) tasks: Tasks,
    pub(crate) storage: StorageThread,
    pub(crate) threads: Mutex<Option<Threads>>,
    pub(crate) stopping: AtomicBool,
}

/// The threads of a member, joined at the end.
pub(crate) struct Threads {
    pub(crate) log: LogThread,
    pub(crate) storage: Running,
}

impl NodeConfig {
    /// How the cache is divided.
    pub fn cache(&self) -> CacheBudget {
        CacheBudget::of(self.cache_bytes)
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("member").join("snap").join("db")
    }

    /// The directory of the log's segments.
    pub fn log_directory(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }

    /// The deadline of proposals and reads. Source: etcd's `ReqTimeout`.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }
}

impl Node {
    /// Opens or makes the data below `config.data_dir`, starts the log and storage threads, listens for peers, joins.
    /// Must be called on the current-thread runtime that will run it.
    pub async fn start(config: NodeConfig) -> Result<Self, Fault> {
        let environment = Environment::real(&config);
        Self::start_in(environment, config).await
    }

    /// The same in a world of the caller's.
    pub async fn start_in(environment: Environment, config: NodeConfig) -> Result<Self, Fault> {
        let executor = environment.executor.clone();
        let inner = executor.within(crate::start::start(environment, config)).await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        self.inner.config.id
    }

    /// Cluster id.
    pub fn cluster_id(&self) -> u64 {
        self.inner.config.cluster_id
    }

    /// Replicates `command` and answers from this member's own apply. Works on every member; hides leader changes;
    /// gives up 5 s + 2 election timeouts after the call.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let wait = {
            let mut outbox = self.inner.outbox.lock();
            if self.inner.stopping.load(Ordering::Relaxed) {
                return Err(ProposeError::Stopped);
            }
            let (id, low) = outbox.next_id();
            let mut bytes = BytesMut::new();
            codec::append_proposal(&mut bytes, &Proposal { id, low, command });
            if bytes.len() > self.inner.config.max_request_bytes + PROPOSAL_OVERHEAD_BYTES {
                return Err(ProposeError::TooLarge);
            }
            if !outbox.has_room(bytes.len()) {
                return Err(ProposeError::TooManyRequests);
            }
            outbox.push(bytes.freeze(), Instant::now())
        };
        self.inner.to_leader.wake();
        wait.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Number of commands of this member's clients that have no outcome yet.
    pub fn proposals_pending(&self) -> usize {
        self.inner.outbox.lock().len()
    }

    /// Returns once this member has applied everything that was committed when the call was made (Raft thesis 6.4).
    /// Calls made at the same time share one quorum round.
    pub async fn read_index(&self) -> Result<(), ReadIndexError> {
        if self.inner.stopping.load(Ordering::Relaxed) {
            return Err(ReadIndexError::Stopped);
        }
        let wait = self.inner.to_leader.reads.lock().push(Instant::now());
        self.inner.to_leader.wake();
        wait.await.unwrap_or(Err(ReadIndexError::Stopped))
    }

    /// The store, for reading.
    pub fn reader(&self) -> &StoreReader {
        &self.inner.reader
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> NodeStatus {
        let leadership = *self.inner.leadership.borrow();
        let data = self.inner.raft.data_metrics();
        let data = data.borrow_watched();
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        let applied = self.inner.applied.borrow().0;
        let applied = applied.map_or(0, |at| at.index);
        let id = self.id();
        NodeStatus {
            id,
            leader: leadership.leader,
            term: leadership.term,
            committed: data.local_committed.map_or(0, |at| at.index()).max(applied),
            applied,
            is_learner: server
                .membership_config
                .membership()
                .learner_ids()
                .any(|learner| learner == id),
            leader_changes: self.inner.history.lock().changes,
        }
    }

    /// What this node counts and measures about itself.
    pub fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    /// The other members, by id, and what is measured about them.
    pub fn peer_meters(&self) -> Vec<(u64, Arc<PeerMeters>)> {
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        let members = server.membership_config.membership().nodes();
        let others = members.map(|(id, _)| *id).filter(|id| *id != self.id());
        others.map(|id| (id, self.inner.meters.peer(id))).collect()
    }

    /// Wakes whenever `status().leader` or `term` changes.
    pub fn leader_changes(&self) -> watch::Receiver<(u64, u64)> {
        self.inner.leader_changes.clone()
    }

    /// Wakes whenever apply has moved on; the value is the store's main revision.
    pub fn applied_revisions(&self) -> watch::Receiver<u64> {
        self.inner.applied_revisions.clone()
    }

    /// Everything apply does to leases from now on. One consumer: a second call gets a channel that stays silent.
    pub fn lease_changes(&self) -> mpsc::UnboundedReceiver<LeaseChange> {
        self.inner
            .lease_changes
            .lock()
            .take()
            .unwrap_or_else(|| mpsc::unbounded_channel().1)
    }

    /// Whether this node is leader and a quorum says so after the call was made. Returns the term it holds for.
    pub async fn confirm_leadership(&self) -> Option<u64> {
        let before = *self.inner.leadership.borrow();
        if before.leader != self.id() {
            return None;
        }
        self.inner.leader_reads.confirm().await?;
        let after = *self.inner.leadership.borrow();
        (after == before).then_some(before.term)
    }

    /// Registers who answers other members' questions to the leader.
    pub fn serve_leader(&self, service: Arc<dyn LeaderService>) {
        *self.inner.leader_service.lock() = Some(service);
    }

    /// Asks the leader, which may be this node; retries until the deadline of 5 s + 2 election timeouts.
    pub async fn ask_leader(&self, request: Bytes) -> Result<Bytes, AskLeaderError> {
        if self.inner.stopping.load(Ordering::Relaxed) {
            return Err(AskLeaderError::Stopped);
        }
        self.inner
            .to_leader
            .ask(request)
            .await
            .unwrap_or(Err(AskLeaderError::Stopped))
    }

    /// Hands leadership to `target` and waits until it has moved.
    pub async fn transfer_leader(&self, target: u64) -> Result<(), TransferError> {
        if self.status().leader != self.id() {
            return Err(TransferError::NotLeader);
        }
        let is_voter = {
            let server = self.inner.raft.server_metrics();
            let server = server.borrow_watched();
            server.membership_config.voter_ids().any(|voter| voter == target)
        };
        if !is_voter {
            return Err(TransferError::BadTransferee);
        }
        if target == self.id() {
            return Ok(());
        }
        let mut leadership = self.inner.leadership.clone();
        let deadline = Instant::now() + self.request_timeout();
        loop {
            if self.inner.raft.trigger().transfer_leader(target).await.is_err() {
                return Err(TransferError::Timeout);
            }
            // A target that was behind refuses; it is asked again once it has had the time to catch up.
            let attempt = (Instant::now() + 2 * self.inner.config.election_timeout).min(deadline);
            let moved = leadership.wait_for(|now| now.leader == target);
            match tokio::time::timeout_at(attempt, moved).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(TransferError::Timeout),
                Err(_) if Instant::now() >= deadline => return Err(TransferError::Timeout),
                Err(_) if self.inner.leadership.borrow().leader != self.id() => {
                    return Err(TransferError::Timeout);
                }
                Err(_) => {}
            }
        }
    }

    /// The deadline of proposals and reads: 5 s + 2 election timeouts.
    pub fn request_timeout(&self) -> Duration {
        self.inner.config.request_timeout()
    }

    /// The shortest election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.inner.config.election_timeout
    }

    /// Resolves when the node has died of a fault: the process must end within 1 s.
    pub async fn fault(&self) -> Fault {
        self.inner.fault.wait().await
    }

    /// Hands leadership over if this node has it, checkpoints, stops all tasks and threads.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.inner.stopping.store(true, Ordering::Relaxed);
        self.inner.to_leader.stop();
        // First our own tasks: one of them takes the end of the core for a fault.
        self.inner.tasks.abort_all();
        if self.inner.raft.shutdown().await.is_err() {
            tracing::warn!("the raft core had panicked");
        }
        self.inner.storage.stop();
        let threads = self.inner.threads.lock().take();
        if let Some(threads) = threads {
            threads.log.stop().await;
            if !threads.storage.ended().await {
                tracing::error!("the storage thread panicked");
            }
        }
    }

    /// Moves leadership to the voter that is furthest, if this node leads a cluster of several. Gives up after some seconds.
    pub async fn hand_over(&self) {
        if !self.status().is_leader() {
            tracing::info!("skipped leadership transfer; local server is not leader");
            return;
        }
        let Some(target) = self.transferee() else {
            tracing::info!("skipped leadership transfer for single voting member cluster");
            return;
        };
        let to = format!("{target:x}");
        tracing::info!(transferee_member_id = to, "leadership transfer starting");
        match tokio::time::timeout(HANDOVER_TIMEOUT, self.transfer_leader(target)).await {
            Ok(Ok(())) => tracing::info!(transferee_member_id = to, "leadership transfer finished"),
            Ok(Err(error)) => tracing::warn!(transferee_member_id = to, %error, "leadership transfer failed"),
            Err(_) => tracing::warn!(
                transferee_member_id = to,
                "leadership transfer failed: it took too long"
            ),
        }
    }

    fn transferee(&self) -> Option<u64> {
        let data = self.inner.raft.data_metrics();
        let replication = data.borrow_watched().replication.clone()?;
        let server = self.inner.raft.server_metrics();
        let voters: Vec<u64> = server.borrow_watched().membership_config.voter_ids().collect();
        replication
            .into_iter()
            .filter(|(id, _)| *id != self.id() && voters.contains(id))
            .max_by_key(|(_, matched)| *matched)
            .map(|(id, _)| id)
    }
}
