//! Watches: every event of a range of keys, in order, once, from a given revision on (promise P9).
//!
//! ```text
//! apply ──> event ring ──> task ──> Hub (level group) ──┐
//!                 history ─ bites ─> Hub (catch-up) ────┴─> Outbox of each stream ──> gRPC
//! ```
//!
//! A watcher is *level* when it has been offered everything that the hub has read from the ring, and *behind*
//! otherwise. A watcher that is behind, because it starts in the past, because its client is slow, or because the
//! store was replaced by a snapshot, re-reads history until it has caught up. Apply waits for nobody.

mod catch_up;
mod deliver;
mod encode;
mod fragment;
mod hub;
mod index;
mod interval_tree;
mod outbox;
mod range;
mod roster;
mod stream;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kelson_raft::node::Node;
use kelson_storage::error::Fault;
use tokio::sync::{mpsc, watch};

use self::hub::Identity;
use self::stream::Message;
pub use self::stream::{WatchRequestError, WatchRequests, WatchResponses, WatchStream};
use self::task::{Gauges, HubTask, Source, StoreSource};

/// Time between progress responses of a quiet watcher that asked for them. Source: etcd
/// `--watch-progress-notify-interval`; every round is up to a tenth longer, so that streams do not answer at once.
pub const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// Bytes that a client message may have beyond the largest request. Source: etcd's gRPC overhead.
const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// What the hub must know at start.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// See [`PROGRESS_INTERVAL_DEFAULT`].
    pub progress_interval: Duration,
    /// Size in bytes from which on a response is split for clients that asked for fragments.
    pub fragment_bytes: usize,
}

impl WatchOptions {
    /// The options that etcd derives from its `--max-request-bytes`.
    pub fn new(progress_interval: Duration, max_request_bytes: usize) -> Self {
        Self {
            progress_interval,
            fragment_bytes: max_request_bytes + GRPC_OVERHEAD_BYTES,
        }
    }
}

/// Handle of the watch hub. Cheap to clone.
#[derive(Clone)]
pub struct WatchHub {
    messages: mpsc::UnboundedSender<Message>,
    next_stream: Arc<AtomicU64>,
    fragment_bytes: usize,
    gauges: Arc<Gauges>,
}

/// How much the hub has to do right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Open streams.
    pub streams: u64,
    /// Watchers, including those that a compaction ended and their client has not cancelled.
    pub watchers: u64,
    /// Watchers that are behind and re-read history.
    pub slow_watchers: u64,
    /// Events queued for watchers since the start; one event for two watchers counts twice.
    pub events: u64,
}

impl WatchHub {
    /// A hub over `node`'s store, and the task that runs it. The task ends with an error when the store cannot be
    /// read: the process must stop then. It ends well when all handles and streams are gone; dropping it ends all
    /// streams.
    pub fn start(node: Node, options: WatchOptions) -> (Self, impl Future<Output = Result<(), Fault>>) {
        let identity = Identity {
            cluster_id: node.cluster_id(),
            member_id: node.id(),
        };
        let source = StoreSource::new(node.reader().clone());
        Self::over(source, identity, node.applied_revisions(), options)
    }

    /// A hub over any source of events; tests bring their own.
    fn over<S: Source>(
        source: S,
        identity: Identity,
        applied: watch::Receiver<u64>,
        options: WatchOptions,
    ) -> (Self, impl Future<Output = Result<(), Fault>>) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let gauges = Arc::new(Gauges::default());
        let hub = Self {
            messages,
            next_stream: Arc::new(AtomicU64::new(0)),
            fragment_bytes: options.fragment_bytes,
            gauges: gauges.clone(),
        };
        let task = HubTask::new(
            source,
            identity,
            applied,
            inbox,
            options.progress_interval,
            gauges,
        );
        (hub, task.run())
    }

    /// See [`WatchCounts`].
    pub fn counts(&self) -> WatchCounts {
        self.gauges.read()
    }

    /// Opens a stream for one client.
    pub fn open_stream(&self) -> WatchStream {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        WatchStream::open(id, self.messages.clone(), self.fragment_bytes)
    }
}
