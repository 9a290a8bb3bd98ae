//! [`ServiceContext`]: everything a handler may use.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kelson_proto::etcdserverpb::ResponseHeader;
use kelson_raft::node::Node;
use kelson_storage::applied::{Applied, Outcome};
use kelson_storage::command::Command;
use kelson_storage::error::Fault;
use kelson_storage::store::{ReadError, StoreReader};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::GRPC_OVERHEAD_BYTES;
use super::grpc::meter::GrpcMeters;
use super::request_meters::{RequestKind, RequestMeters};
use crate::lease::LeaseKeeper;
use crate::status::ClientError;
use crate::watch::WatchHub;

/// Backend quota when the flag is 0, in bytes. Source: etcd `DefaultQuotaBytes`.
const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;

/// What `InternalRaftRequest` adds to a request in etcd, in bytes: header with id, and the tag and length of the
/// request itself. A request of `max_request_bytes` minus this is the largest accepted.
const COMMAND_OVERHEAD_BYTES: usize = 18;

/// Reads that may run beside the runtime at once; the others wait. Each one may hold a whole range in memory.
const LONG_READS_MAX: usize = 4;

/// Long lists that may hold a window of records at once, so that slow clients do not add up to much memory. The others
/// read a piece at a time, at a higher cost.
const WINDOWS_MAX: usize = 3;

/// What clients may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest encoded command in bytes (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Most operations in one list of a transaction (`--max-txn-ops`).
    pub max_txn_ops: usize,
    /// Largest database in bytes (`--quota-backend-bytes`); 0: the default of 2 GiB, negative: no quota.
    pub quota_backend_bytes: i64,
    /// A call with one answer that takes longer than this is worth a line in the log
    /// (`--warning-unary-request-duration`).
    pub warning_unary_request_duration: Duration,
}

/// What the handlers of all services share.
pub struct ServiceContext {
    /// The Raft participant.
    pub node: Node,
    /// Serves watchers.
    pub watch_hub: WatchHub,
    /// Answers questions about remaining time.
    pub leases: LeaseKeeper,
    /// What clients may ask for.
    pub limits: Limits,
    /// Counts calls.
    pub grpc: Arc<GrpcMeters>,
    /// Times requests.
    pub requests: Arc<RequestMeters>,
    /// Work that outlives its call, such as giving up the place of a client that has gone away while waiting for a
    /// lock. The owner closes it and waits for it when the server stops.
    pub tasks: TaskTracker,
    /// Reads that found this member's data damaged are reported here: the process must stop.
    pub faults: mpsc::UnboundedSender<Fault>,
    /// This member's quota refused something since its NOSPACE alarm was last seen cleared.
    pub(super) quota_used_up: AtomicBool,
    lease_ids: Mutex<StdRng>,
    long_reads: Arc<Semaphore>,
    windows: Arc<Semaphore>,
}

impl ServiceContext {
    /// A context whose lease ids are drawn from `seed`, and what it reports faults to.
    pub fn new(
        node: Node,
        watch_hub: WatchHub,
        leases: LeaseKeeper,
        limits: Limits,
        seed: u64,
    ) -> (Self, mpsc::UnboundedReceiver<Fault>) {
        let (faults, reported) = mpsc::unbounded_channel();
        let context = Self {
            node,
            watch_hub,
            leases,
            limits,
            grpc: Arc::default(),
            requests: Arc::default(),
            tasks: TaskTracker::new(),
            faults,
            quota_used_up: AtomicBool::new(false),
            lease_ids: Mutex::new(StdRng::seed_from_u64(seed)),
            long_reads: Arc::new(Semaphore::new(LONG_READS_MAX)),
            windows: Arc::new(Semaphore::new(WINDOWS_MAX)),
        };
        (context, reported)
    }

    /// The store, for reading.
    pub fn reader(&self) -> &StoreReader {
        self.node.reader()
    }

    /// The header of a reply that was read at `revision`.
    pub fn header_at(&self, revision: u64) -> ResponseHeader {
        let term = self.reader().applied().map_or(0, |position| position.term);
        self.header(revision, term)
    }

    /// The header of a reply about now.
    pub fn header_now(&self) -> ResponseHeader {
        self.header_at(self.reader().revision())
    }

    /// The header of a reply without a revision, as etcd's cluster service sends it.
    pub fn header_without_revision(&self) -> ResponseHeader {
        self.header_at(0)
    }

    fn header(&self, revision: u64, term: u64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.node.cluster_id(),
            member_id: self.node.id(),
            revision: revision.cast_signed(),
            raft_term: term,
        }
    }

    /// Replicates a command, and answers with the reply header and what the command did.
    pub async fn propose(&self, command: Command) -> Result<(ResponseHeader, Applied), ClientError> {
        let (kind, began) = (RequestKind::of(&command), Instant::now());
        let proposed = self.node.propose(command).await;
        self.requests.observe(kind, proposed.is_ok(), began.elapsed());
        let Outcome {
            revision,
            term,
            result,
        } = proposed?;
        Ok((self.header(revision, term), result?))
    }

    /// Refuses a request of `encoded_bytes` whose command would be larger than is replicated.
    pub fn check_request_size(&self, encoded_bytes: usize) -> Result<(), ClientError> {
        if encoded_bytes + COMMAND_OVERHEAD_BYTES > self.limits.max_request_bytes {
            return Err(ClientError::RequestTooLarge);
        }
        Ok(())
    }

    /// Largest gRPC message taken from a client, in bytes.
    pub fn receive_limit_bytes(&self) -> usize {
        self.limits.max_request_bytes + GRPC_OVERHEAD_BYTES
    }

    /// The quota as it is reported: negative if it is switched off.
    pub fn quota_flag_or_default(&self) -> i64 {
        match self.limits.quota_backend_bytes {
            0 => QUOTA_BYTES_DEFAULT,
            bytes => bytes,
        }
    }

    /// The quota in bytes; none if it is switched off.
    pub fn quota_bytes(&self) -> Option<u64> {
        u64::try_from(self.quota_flag_or_default()).ok()
    }

    /// What the client is told about a read that failed. A fault stops the member, too.
    pub fn read_failed(&self, error: ReadError) -> ClientError {
        match error {
            ReadError::Rejected(rejected) => rejected.into(),
            ReadError::Fault(fault) => {
                tracing::error!(error = %fault, "read failed, stopping");
                // The receiver is gone only when the member is stopping already.
                let _ = self.faults.send(fault);
                ClientError::Stopped
            }
        }
    }

    /// Runs a long read on a thread beside the runtime. It runs to its end even if the caller goes away.
    pub async fn long_read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let turn = self.long_reads.clone().acquire_owned().await;
        let turn = turn.map_err(|_closed| ClientError::Stopped)?;
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read()
        });
        match reading.await {
            Ok(result) => result.map_err(|error| self.read_failed(error)),
            // The runtime is going down.
            Err(_) => Err(ClientError::Stopped),
        }
    }

    /// Leave to hold a window of a long list in memory, for as long as it is kept; none if too many do already.
    pub(super) fn window(&self) -> Option<OwnedSemaphorePermit> {
        self.windows.clone().try_acquire_owned().ok()
    }

    /// A positive id that no lease has here. etcd draws 63 bits, too.
    pub fn new_lease_id(&self) -> i64 {
        let mut generator = self.lease_ids.lock();
        loop {
            let id = generator.random_range(1..=i64::MAX);
            if self.reader().lease_ttl(id).is_none() {
                return id;
            }
        }
    }
}
