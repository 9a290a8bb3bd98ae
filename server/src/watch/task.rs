//! [`HubTask`]: the one task that owns the hub. It wakes when apply has moved on, when a stream has something to say,
//! or when progress is due, and does its work in slices so that it never keeps the runtime for long.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kelson_storage::applied::EventBatch;
use kelson_storage::error::{Fault, Rejected};
use kelson_storage::event_ring::RingRead;
use kelson_storage::revision::Revision;
use kelson_storage::store::{HistoryBite, ReadError, StoreReader};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error};

use super::WatchCounts;
use super::catch_up::{BITE_BYTES, BITE_BYTES_BESIDE_EVENTS};
use super::encode::Past;
use super::hub::{Hub, Identity, Present};
use super::stream::{Message, StreamId};

/// Events handled before other tasks get the runtime.
const SLICE_EVENTS: usize = 1024;

/// Requests handled before other tasks get the runtime.
const SLICE_MESSAGES: usize = 256;

/// How many times as long as reading a bite of history took no further one is read while there are events for those who
/// are level. The more, the less a watcher that catches up slows the others down, and the later it does.
const REST_BESIDE_EVENTS: u32 = 3;

/// Where the hub's events come from.
pub(crate) trait Source: Past {
    /// See [`Present`].
    fn present(&self) -> Present;
    /// The newest revisions from `from` on; `present` is the store's revision as read before.
    fn ring(&self, from: u64, present: u64) -> RingRead;
    /// About `bytes` of history from `from` on.
    fn history(&self, from: u64, bytes: usize) -> Result<HistoryBite, ReadError>;
    /// Revisions below this one cannot be read; 0 if all can.
    fn compacted(&self) -> u64;
}

/// The store of this member.
pub(crate) struct StoreSource {
    reader: StoreReader,
}

impl StoreSource {
    /// Reads from `reader`.
    pub(crate) fn new(reader: StoreReader) -> Self {
        Self { reader }
    }
}

impl Past for StoreSource {
    fn record(&self, revision: Revision) -> Result<Option<Bytes>, Fault> {
        self.reader.record(revision)
    }
}

impl Source for StoreSource {
    fn present(&self) -> Present {
        Present {
            revision: self.reader.revision(),
            term: self.reader.applied().map_or(0, |at| at.term),
        }
    }

    fn ring(&self, from: u64, present: u64) -> RingRead {
        self.reader.event_ring().read_from(from, present)
    }

    fn history(&self, from: u64, bytes: usize) -> Result<HistoryBite, ReadError> {
        self.reader.history(from, bytes)
    }

    fn compacted(&self) -> u64 {
        self.reader.compacted().unwrap_or(0)
    }
}

/// [`WatchCounts`], shared with those who ask for them.
#[derive(Default)]
pub(crate) struct Gauges {
    streams: AtomicU64,
    watchers: AtomicU64,
    slow_watchers: AtomicU64,
    events: AtomicU64,
}

impl Gauges {
    /// The values as of the hub's last piece of work.
    pub(crate) fn read(&self) -> WatchCounts {
        WatchCounts {
            streams: self.streams.load(Ordering::Relaxed),
            watchers: self.watchers.load(Ordering::Relaxed),
            slow_watchers: self.slow_watchers.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
        }
    }

    fn write(&self, hub: &Hub) {
        self.streams.store(hub.stream_count() as u64, Ordering::Relaxed);
        self.watchers.store(hub.watcher_count() as u64, Ordering::Relaxed);
        self.slow_watchers
            .store(hub.behind_count() as u64, Ordering::Relaxed);
        self.events.store(hub.event_count(), Ordering::Relaxed);
    }
}

/// See the module.
pub(crate) struct HubTask<S> {
    hub: Hub,
    source: S,
    applied: watch::Receiver<u64>,
    inbox: mpsc::UnboundedReceiver<Message>,
    /// When the next bite of history may be read: those who are behind get half of the task's time at most, and a quarter
    /// while there are events, so that those who are level wait for no more than the bite under way.
    next_bite: Instant,
    /// Whether there were events since the last bite.
    had_events: bool,
    /// Whether a bite may be waiting for that.
    bite_put_off: bool,
    /// Read from the ring and not handled yet; at most as much as the ring holds.
    pending: VecDeque<Arc<EventBatch>>,
    progress_interval: Duration,
    /// When each stream's next progress round is due; streams that are gone are skipped.
    progress_due: BTreeSet<(Instant, StreamId)>,
    gauges: Arc<Gauges>,
}

impl<S: Source> HubTask<S> {
    /// A task that starts level with `source`.
    pub(crate) fn new(
        source: S,
        identity: Identity,
        applied: watch::Receiver<u64>,
        inbox: mpsc::UnboundedReceiver<Message>,
        progress_interval: Duration,
        gauges: Arc<Gauges>,
    ) -> Self {
        let revision = source.present().revision;
        Self {
            hub: Hub::new(identity, revision),
            source,
            applied,
            inbox,
            next_bite: Instant::now(),
            had_events: false,
            bite_put_off: false,
            pending: VecDeque::new(),
            progress_interval,
            progress_due: BTreeSet::new(),
            gauges,
        }
    }

    /// Runs until the node or all handles are gone, or the store cannot be read.
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        loop {
            self.applied.borrow_and_update();
            let busy = self
                .work()
                .inspect_err(|fault| error!(%fault, "watch hub cannot read the store"))?;
            self.gauges.write(&self.hub);
            if busy {
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.progress_due.first().map(|(due, _stream)| *due);
            let due = due
                .into_iter()
                .chain(self.bite_put_off.then_some(self.next_bite))
                .min();
            tokio::select! {
                biased;
                changed = self.applied.changed() => if changed.is_err() {
                    return Ok(());
                },
                message = self.inbox.recv() => match message {
                    Some(message) => self.on_message(message),
                    None => return Ok(()),
                },
                () = sleep_until(due) => {}
            }
        }
    }

    /// One slice of everything there is to do. Returns whether there is more.
    fn work(&mut self) -> Result<bool, Fault> {
        self.take_ring();
        self.deliver_pending()?;
        self.take_messages();
        let read_history = self.read_history()?;
        self.progress_ticks();
        Ok(read_history || !self.pending.is_empty() || !self.inbox.is_empty())
    }

    fn take_ring(&mut self) {
        if !self.pending.is_empty() {
            return;
        }
        let present = self.source.present();
        match self.source.ring(self.hub.next(), present.revision) {
            RingRead::Batches(batches) => self.pending.extend(batches),
            RingRead::Behind => {
                debug!(
                    next = self.hub.next(),
                    revision = present.revision,
                    "watch hub fell out of the event ring"
                );
                self.hub.ring_lost(present);
            }
        }
    }

    fn deliver_pending(&mut self) -> Result<(), Fault> {
        let present = self.source.present();
        let mut events = 0;
        while events < SLICE_EVENTS {
            let Some(batch) = self.pending.pop_front() else {
                break;
            };
            events += batch.events.len().max(1);
            self.had_events = true;
            self.hub.applied(&batch, present, &self.source)?;
        }
        Ok(())
    }

    fn take_messages(&mut self) {
        for _ in 0..SLICE_MESSAGES {
            let Ok(message) = self.inbox.try_recv() else {
                break;
            };
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Open(stream, outbox) => {
                self.hub.open(stream, outbox);
                self.schedule_progress(stream);
            }
            Message::Close(stream) => self.hub.close(stream),
            Message::Request(stream, request, permit) => {
                let present = self.source.present();
                self.hub.request(stream, request, Some(permit), present);
            }
            Message::Drained(stream) => self.hub.drained(stream),
        }
    }

    /// Reads one bite for whoever's turn it is. Returns whether to go on with the next.
    fn read_history(&mut self) -> Result<bool, Fault> {
        let began = Instant::now();
        self.bite_put_off = began < self.next_bite;
        if self.bite_put_off {
            return Ok(false);
        }
        let Some(from) = self.hub.wants_history() else {
            return Ok(false);
        };
        let (bytes, rest) = match std::mem::take(&mut self.had_events) {
            true => (BITE_BYTES_BESIDE_EVENTS, REST_BESIDE_EVENTS),
            false => (BITE_BYTES, 1),
        };
        let more = self.read_bite(from, bytes);
        let ended = Instant::now();
        self.next_bite = ended + (ended - began) * rest;
        more
    }

    fn read_bite(&mut self, from: u64, bytes: usize) -> Result<bool, Fault> {
        let present = self.source.present();
        match self.source.history(from, bytes) {
            Ok(bite) => self.hub.history(from, &bite, present, &self.source),
            Err(ReadError::Rejected(Rejected::Compacted)) => {
                self.hub.history_compacted(self.source.compacted(), present);
                Ok(true)
            }
            Err(ReadError::Rejected(rejected)) => {
                // The store rejects history for no other reason; the watchers concerned stay behind and ask again.
                error!(from, %rejected, "history read rejected");
                Ok(false)
            }
            Err(ReadError::Fault(fault)) => Err(fault),
        }
    }

    fn progress_ticks(&mut self) {
        let now = Instant::now();
        while let Some((due, stream)) = self.progress_due.first().copied() {
            if due > now {
                return;
            }
            self.progress_due.pop_first();
            if self.hub.has_stream(stream) {
                self.hub.progress_tick(stream, self.source.present());
                self.schedule_progress(stream);
            }
        }
    }

    /// Every round is up to a tenth longer than the interval, so that streams opened together spread out.
    fn schedule_progress(&mut self, stream: StreamId) {
        const SPREAD: u64 = 1024;
        let spread = (stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % SPREAD;
        let extra = self
            .progress_interval
            .mul_f64(spread as f64 / SPREAD as f64 / 10.0);
        self.progress_due
            .insert((Instant::now() + self.progress_interval + extra, stream));
    }
}

impl<S> Drop for HubTask<S> {
    /// Ends the streams that the hub has not heard of yet; the hub ends the others.
    fn drop(&mut self) {
        self.inbox.close();
        while let Ok(message) = self.inbox.try_recv() {
            if let Message::Open(_, outbox) = message {
                outbox.end();
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
