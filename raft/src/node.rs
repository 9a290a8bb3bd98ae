//! [`Node`]: the running Raft participant, as the server sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kelson_storage::applied::Outcome;
use kelson_storage::command::Command;
use kelson_storage::error::Fault;
use kelson_storage::store::StoreReader;

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
    /// Largest encoded command.
    pub max_request_bytes: usize,
    /// Whether elections start with a pre-vote round.
    pub pre_vote: bool,
    /// Never sync (tests only).
    pub unsafe_no_fsync: bool,
}

/// Handle of the running node. Cheap to clone; the node stops with [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    _private: (),
}

impl Node {
    /// Opens or makes the data below `config.data_dir`, starts the log and storage threads, listens for peers, joins.
    /// Must be called on the current-thread runtime that will run it.
    pub async fn start(_config: NodeConfig) -> Result<Self, Fault> {
        todo!()
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        todo!()
    }

    /// Cluster id.
    pub fn cluster_id(&self) -> u64 {
        todo!()
    }

    /// Replicates `command` and answers from this member's own apply. Works on every member; hides leader changes;
    /// gives up 5 s + 2 election timeouts after the call.
    pub async fn propose(&self, _command: Command) -> Result<Outcome, ProposeError> {
        todo!()
    }

    /// Returns once this member has applied everything that was committed when the call was made (Raft thesis 6.4).
    /// Calls made at the same time share one quorum round.
    pub async fn read_index(&self) -> Result<(), ReadIndexError> {
        todo!()
    }

    /// The store, for reading.
    pub fn reader(&self) -> &StoreReader {
        todo!()
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> NodeStatus {
        todo!()
    }

    /// Wakes whenever `status().leader` or `term` changes.
    pub fn leader_changes(&self) -> tokio::sync::watch::Receiver<(u64, u64)> {
        todo!()
    }

    /// Wakes whenever apply has moved on; the value is the store's main revision.
    pub fn applied_revisions(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }

    /// Everything apply does to leases from now on. One consumer.
    pub fn lease_changes(&self) -> tokio::sync::mpsc::UnboundedReceiver<LeaseChange> {
        todo!()
    }

    /// Whether this node is leader and a quorum says so after the call was made. Returns the term it holds for.
    pub async fn confirm_leadership(&self) -> Option<u64> {
        todo!()
    }

    /// Registers who answers other members' questions to the leader.
    pub fn serve_leader(&self, _service: Arc<dyn LeaderService>) {
        todo!()
    }

    /// Asks the leader, which may be this node; retries until the deadline of 5 s + 2 election timeouts.
    pub async fn ask_leader(&self, _request: Bytes) -> Result<Bytes, AskLeaderError> {
        todo!()
    }

    /// Hands leadership to `target` and waits until it has moved.
    pub async fn transfer_leader(&self, _target: u64) -> Result<(), TransferError> {
        todo!()
    }

    /// The deadline of proposals and reads: 5 s + 2 election timeouts.
    pub fn request_timeout(&self) -> Duration {
        todo!()
    }

    /// The shortest election timeout.
    pub fn election_timeout(&self) -> Duration {
        todo!()
    }

    /// Resolves when the node has died of a fault: the process must end within 1 s.
    pub async fn fault(&self) -> Fault {
        todo!()
    }

    /// Hands leadership over if this node has it, checkpoints, stops all tasks and threads.
    pub async fn shutdown(&self) {
        todo!()
    }
}
