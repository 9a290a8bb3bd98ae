//! From proposed commands to Raft entries: the leader's side.
//!
//! Commands that wait at the same moment share one entry. No timer is involved: an idle leader takes a lone command
//! at once, a busy one finds many waiting when an earlier entry has been applied.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kelson_storage::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::node::Raft;
use crate::type_config::Batch;

/// Entries proposed and not yet applied, at most. More would make batches smaller without making them faster.
const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Pause before an entry is proposed again that openraft refused though this node leads (a transfer is under way).
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// Commands that wait to become entries on the leader: its own and the forwarded ones.
pub(crate) struct Sequencer {
    queue: Mutex<VecDeque<Bytes>>,
    arrived: Notify,
}

/// What became of an entry, as far as the sequencer must care.
enum Fate {
    Applied,
    /// Never appended here; its commands may be proposed again.
    Refused(Batch),
    /// Appended and then lost with the leadership. The origins send their commands to the next leader.
    Lost,
}

impl Sequencer {
    pub(crate) fn new() -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            arrived: Notify::new(),
        }
    }

    /// Queues encoded commands. Nothing is promised: their origins send them again when they hear of a new leader.
    pub(crate) fn push(&self, proposals: impl IntoIterator<Item = Bytes>) {
        self.queue.lock().extend(proposals);
        self.arrived.notify_one();
    }

    /// Forgets what waits: this node is not the leader any more, and the origins know where to go.
    fn clear(&self) {
        self.queue.lock().clear();
    }

    fn take_batch(&self) -> Option<Batch> {
        let mut queue = self.queue.lock();
        let mut count = 0;
        let mut bytes = 0;
        for proposal in queue.iter() {
            if count == BATCH_COMMANDS_MAX || (bytes + proposal.len() > BATCH_BYTES_MAX && count > 0) {
                break;
            }
            count += 1;
            bytes += proposal.len();
        }
        if count == 0 {
            return None;
        }
        let batch = Batch::of(queue.iter().take(count));
        queue.drain(..count);
        Some(batch)
    }

    /// Turns what waits into entries for as long as the node lives.
    pub(crate) async fn run(&self, raft: &Raft) {
        let mut in_flight = FuturesUnordered::new();
        loop {
            // Let everything that is ready to propose do so, so that it shares the entry.
            tokio::task::yield_now().await;
            if in_flight.len() < ENTRIES_IN_FLIGHT_MAX
                && let Some(batch) = self.take_batch()
            {
                in_flight.push(propose(raft, batch));
                // Poll it once now: the entry must be in openraft's hands before this task sleeps.
            }
            let may_take = in_flight.len() < ENTRIES_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some(fate) = in_flight.next() => match fate {
                    Fate::Applied => {}
                    Fate::Refused(batch) if raft.is_leader() => {
                        tokio::time::sleep(REFUSED_PAUSE).await;
                        in_flight.push(propose(raft, batch));
                    }
                    Fate::Refused(_) | Fate::Lost => self.clear(),
                },
                () = self.arrived.notified(), if may_take => {}
            }
        }
    }
}

async fn propose(raft: &Raft, batch: Batch) -> Fate {
    let (responder, done) = ProgressResponder::complete_only();
    if raft
        .client_write_ff(batch.clone(), Some(responder))
        .await
        .is_err()
    {
        // The core has stopped; whoever ends the process knows why.
        return Fate::Lost;
    }
    match done.await {
        Ok(Ok(_)) => Fate::Applied,
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Fate::Refused(batch),
        Ok(Err(_)) | Err(_) => Fate::Lost,
    }
}
