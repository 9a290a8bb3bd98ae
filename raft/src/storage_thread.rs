//! The thread that writes the applied state to the database behind apply's back.
//!
//! Rows go out every few milliseconds without a sync; once in a while, or after many bytes, a durable checkpoint
//! makes everything up to one log position survive a crash. Only below such a position may the log be purged.

use std::sync::Arc;
use std::time::Duration;

use kelson_storage::error::Fault;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::Checkpointer;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use crate::executor::spawn_thread;
use crate::fault::FaultSignal;

/// Pause between two steps while there is something to write. Longer: bigger transactions, more memory in the overlay.
const STEP_PAUSE: Duration = Duration::from_millis(5);

/// Longest time between durable checkpoints while there is something to write. Longer: less disk work, more log to
/// replay after a crash.
const DURABLE_EVERY: Duration = Duration::from_secs(1);

/// Bytes written since the last durable checkpoint that force the next one.
const DURABLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Asks the storage thread for things; shared by the node and the state machine.
#[derive(Clone)]
pub(crate) struct StorageThread {
    shared: Arc<Shared>,
    durable: watch::Receiver<Option<LogPosition>>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    ready: Condvar,
    /// Held for each step; who replaces the database holds it meanwhile.
    checkpointer: Mutex<Checkpointer>,
    durable: watch::Sender<Option<LogPosition>>,
}

#[derive(Default)]
struct Inbox {
    /// Apply has moved since the last step.
    dirty: bool,
    /// A durable checkpoint is wanted now, by these.
    checkpoints: Vec<oneshot::Sender<Option<LogPosition>>>,
    stop: bool,
}

impl StorageThread {
    /// Starts the thread. `durable` is the position that the database held when it was opened.
    pub(crate) fn start(
        checkpointer: Checkpointer,
        durable: Option<LogPosition>,
        fault: FaultSignal,
    ) -> Result<(Self, std::thread::JoinHandle<()>), Fault> {
        let (sender, receiver) = watch::channel(durable);
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox::default()),
            ready: Condvar::new(),
            checkpointer: Mutex::new(checkpointer),
            durable: sender,
        });
        let thread_shared = shared.clone();
        let thread = spawn_thread("kelson-storage", move || run(&thread_shared, &fault))
            .map_err(|source| Fault::io("start thread", std::path::Path::new("kelson-storage"), source))?;
        Ok((
            Self {
                shared,
                durable: receiver,
            },
            thread,
        ))
    }

    /// Tells that apply has moved.
    pub(crate) fn wake(&self) {
        let mut inbox = self.shared.inbox.lock();
        if !inbox.dirty {
            inbox.dirty = true;
            self.shared.ready.notify_one();
        }
    }

    /// Makes the applied state durable now and returns its position. None: the thread has stopped.
    pub(crate) async fn checkpoint(&self) -> Option<LogPosition> {
        let (done, wait) = oneshot::channel();
        {
            let mut inbox = self.shared.inbox.lock();
            inbox.checkpoints.push(done);
        }
        self.shared.ready.notify_one();
        wait.await.ok().flatten()
    }

    /// The newest durable position, and a way to wait for the next.
    pub(crate) fn durable(&self) -> watch::Receiver<Option<LogPosition>> {
        self.durable.clone()
    }

    /// Runs `replace` while no step is under way, then takes `durable` for the durable position. Blocks.
    pub(crate) fn replace<T>(
        &self,
        replace: impl FnOnce() -> Result<(T, Checkpointer, Option<LogPosition>), Fault>,
    ) -> Result<T, Fault> {
        let mut checkpointer = self.shared.checkpointer.lock();
        let (value, new, durable) = replace()?;
        *checkpointer = new;
        self.shared.durable.send_replace(durable);
        Ok(value)
    }

    /// Asks the thread to make a last durable checkpoint and end.
    pub(crate) fn stop(&self) {
        self.shared.inbox.lock().stop = true;
        self.shared.ready.notify_one();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the storage thread's own pace; decides nothing about state"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn run(shared: &Shared, fault: &FaultSignal) {
    let mut last_durable = now();
    let mut unsynced_bytes = 0;
    let mut unsynced = false;
    let mut pending = false;
    loop {
        let (checkpoints, stop) = {
            let mut inbox = shared.inbox.lock();
            if !inbox.dirty && inbox.checkpoints.is_empty() && !inbox.stop && !pending {
                if unsynced {
                    shared.ready.wait_for(&mut inbox, DURABLE_EVERY);
                } else {
                    shared.ready.wait(&mut inbox);
                }
            } else if inbox.checkpoints.is_empty() && !inbox.stop {
                // Gather what apply does in the next moments into one transaction.
                shared.ready.wait_for(&mut inbox, STEP_PAUSE);
            }
            inbox.dirty = false;
            (std::mem::take(&mut inbox.checkpoints), inbox.stop)
        };
        let durable = stop
            || !checkpoints.is_empty()
            || unsynced_bytes >= DURABLE_BYTES_MAX
            || last_durable.elapsed() >= DURABLE_EVERY;
        let step = shared.checkpointer.lock().step(durable);
        match step {
            Ok(step) => {
                unsynced_bytes = step.unsynced_bytes;
                unsynced = !durable;
                pending = step.compaction_pending;
                if durable {
                    last_durable = now();
                    if step.durable.is_some() {
                        shared.durable.send_replace(step.durable);
                    }
                }
                for done in checkpoints {
                    // The caller may have given up.
                    let _ = done.send(step.durable);
                }
            }
            Err(error) => {
                fault.raise(error);
                return;
            }
        }
        if stop {
            return;
        }
    }
}
