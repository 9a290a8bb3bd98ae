//! The thread that writes the applied state to the database behind apply's back.
//!
//! Rows go out every few milliseconds without a sync; once in a while, or after many bytes, a durable checkpoint
//! makes everything up to one log position survive a crash. Only below such a position may the log be purged.

use std::sync::Arc;
use std::time::Duration;

use kelson_storage::error::Fault;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{Checkpointer, IndexFileAge};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::environment::IndexFilePolicy;
use crate::executor::{Bell, Executor, Next, Running, Worker};
use crate::fault::FaultSignal;
use crate::log_storage::LogStorage;
use crate::meters::Meters;

/// Pause between two steps while there is something to write. Longer: bigger transactions, more memory in the overlay.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// Pause between two bites of a compaction: of two million rows that go and a million that stay, three quarters of a minute
/// by arithmetic. Longer: space comes back later. Shorter: less time for the other work.
const BITE_PAUSE: Duration = Duration::from_millis(4);

/// Longest time between durable checkpoints while there is something to write. Longer: less disk work, more log to
/// replay after a crash.
const DURABLE_EVERY: Duration = Duration::from_secs(1);

/// Bytes written since the last durable checkpoint that force the next one.
const DURABLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What an index file may cost: it is not begun before so many times as long as the last one took have passed.
const INDEX_FILE_SHARE: u32 = 30;

/// A new index file is worth it when so many revisions have been written: a part of the rows that a start reads quickly
/// without, and a part of the keys that it holds.
const INDEX_FILE_ROWS_PART: u64 = 20;
const INDEX_FILE_KEYS_PART: u64 = 64;

/// With so many times the rows that a start reads quickly, index files come so many times as often.
const INDEX_FILE_HURRIES_FROM: u64 = 10;
const INDEX_FILE_HURRY: u32 = 6;

/// How often it is looked whether the time for an owed index file has come.
const INDEX_FILE_POLL: Duration = Duration::from_secs(1);

/// Asks the storage thread for things; shared by the node and the state machine.
#[derive(Clone)]
pub(crate) struct StorageThread {
    shared: Arc<Shared>,
    durable: watch::Receiver<Option<LogPosition>>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    ready: Bell,
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

impl Inbox {
    /// Somebody waits for the next step.
    fn is_urgent(&self) -> bool {
        self.stop || !self.checkpoints.is_empty()
    }
}

impl StorageThread {
    /// Starts the thread. `durable` is the position that the database held when it was opened.
    pub(crate) fn start(
        checkpointer: Checkpointer,
        durable: Option<LogPosition>,
        fault: FaultSignal,
        log: LogStorage,
        meters: Arc<Meters>,
        index_files: IndexFilePolicy,
        executor: &Executor,
    ) -> Result<(Self, Running), Fault> {
        let (sender, receiver) = watch::channel(durable);
        let shared = Arc::new(Shared {
            inbox: Mutex::new(Inbox::default()),
            ready: executor.bell(),
            checkpointer: Mutex::new(checkpointer),
            durable: sender,
        });
        let thread = executor.start(
            "kelson-storage",
            Writer::new(shared.clone(), fault, log, meters, index_files),
        )?;
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
            self.shared.ready.ring();
        }
    }

    /// Makes the applied state durable now and returns its position. None: the thread has stopped.
    pub(crate) async fn checkpoint(&self) -> Option<LogPosition> {
        let (done, wait) = oneshot::channel();
        {
            let mut inbox = self.shared.inbox.lock();
            inbox.checkpoints.push(done);
        }
        self.shared.ready.ring();
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
        self.shared.ready.ring();
    }
}

/// What the thread does.
struct Writer {
    shared: Arc<Shared>,
    fault: FaultSignal,
    log: LogStorage,
    meters: Arc<Meters>,
    pacer: Pacer,
    /// When rows were written last, durably or not.
    last_write: Instant,
    last_durable: Instant,
    unsynced_bytes: u64,
    unsynced: bool,
    /// Durable steps will give back more of the database's space.
    space_pending: bool,
    /// A compaction has more to delete, an index file more to write, or a check more to read.
    pending: bool,
    index_file: IndexFiles,
}

/// The pauses between steps. What comes amid one can ask for another one: apply that wakes this thread after a quiet time
/// has only begun. What asks for the same one does not end it: puts ring amid a compaction, too, hundreds of times a second.
#[derive(Default)]
struct Pacer {
    /// The length of the pause under way, and when it began.
    pause: Option<(Option<Duration>, Instant)>,
}

impl Pacer {
    /// What is left of a pause of `length`, which begins now unless one of that length is under way; a pause without a length
    /// lasts until there is something to do. None: the step is due.
    fn rest(&mut self, length: Option<Duration>) -> Option<Next> {
        let now = Instant::now();
        let under_way = self.pause.filter(|(same, _)| *same == length);
        let (_, began) = *self.pause.insert(under_way.unwrap_or((length, now)));
        let left = length.map(|length| length.saturating_sub(now - began));
        if left == Some(Duration::ZERO) {
            self.pause = None;
            return None;
        }
        Some(Next::Wait(left))
    }

    /// Whether the pause under way is of this length.
    fn rests(&self, length: Option<Duration>) -> bool {
        self.pause.is_some_and(|(same, _)| same == length)
    }
}

/// When index files are written.
struct IndexFiles {
    policy: IndexFilePolicy,
    age: IndexFileAge,
    began: Instant,
    took: Duration,
    under_way: bool,
}

impl IndexFiles {
    /// Whether a start would be much quicker with a new one.
    fn is_owed(&self) -> bool {
        let from_rows = self.policy.from_rows;
        let enough = from_rows / INDEX_FILE_ROWS_PART + self.age.keys / INDEX_FILE_KEYS_PART;
        self.age.rows >= from_rows && !self.under_way && (self.age.void || self.age.behind >= enough.max(1))
    }

    /// Whether it may be begun now.
    fn is_due(&self) -> bool {
        let every = if self.age.behind >= self.policy.from_rows * INDEX_FILE_HURRIES_FROM {
            self.policy.every / INDEX_FILE_HURRY
        } else {
            self.policy.every
        };
        self.is_owed() && self.began.elapsed() >= every.max(self.took * INDEX_FILE_SHARE)
    }
}

impl Writer {
    fn new(
        shared: Arc<Shared>,
        fault: FaultSignal,
        log: LogStorage,
        meters: Arc<Meters>,
        index_files: IndexFilePolicy,
    ) -> Self {
        Self {
            shared,
            fault,
            log,
            meters,
            pacer: Pacer::default(),
            last_write: Instant::now(),
            last_durable: Instant::now(),
            unsynced_bytes: 0,
            unsynced: false,
            space_pending: false,
            pending: true,
            index_file: IndexFiles {
                policy: index_files,
                age: IndexFileAge::default(),
                began: Instant::now(),
                took: Duration::ZERO,
                under_way: false,
            },
        }
    }

    /// How long to wait between the last step and the next one; none: until there is something to do.
    fn rest(&self, inbox: &Inbox) -> Option<Duration> {
        if inbox.is_urgent() {
            Some(Duration::ZERO)
        } else if self.pending {
            Some(BITE_PAUSE)
        } else if inbox.dirty {
            // Gather what apply does in the next moments into one transaction.
            Some(STEP_PAUSE)
        } else if self.unsynced || self.space_pending {
            Some(DURABLE_EVERY)
        } else if self.index_file.is_owed() {
            Some(INDEX_FILE_POLL)
        } else {
            None
        }
    }

    fn write(
        &mut self,
        checkpoints: Vec<oneshot::Sender<Option<LogPosition>>>,
        stop: bool,
    ) -> Result<(), Fault> {
        let index_file = self.index_file.is_due() || (stop && self.index_file.is_owed());
        let durable = stop
            || index_file
            || !checkpoints.is_empty()
            || self.unsynced_bytes >= DURABLE_BYTES_MAX
            || self.last_durable.elapsed() >= DURABLE_EVERY;
        let began = Instant::now();
        let step = {
            let mut checkpointer = self.shared.checkpointer.lock();
            // Most bites leave the database as it is: rows gather meanwhile as they do without them.
            let gathers = !durable && self.pending && self.last_write.elapsed() < STEP_PAUSE;
            if gathers && checkpointer.bite_without_commit()? {
                return Ok(());
            }
            self.last_write = began;
            checkpointer.log_ends(self.log.flushed());
            if index_file {
                checkpointer.write_index_file();
                self.index_file.began = began;
            }
            let step = checkpointer.step(durable)?;
            if stop {
                checkpointer.finish_index_file();
            }
            if let Some(failure) = checkpointer.take_index_file_failure() {
                tracing::warn!(%failure, "could not write the index file; the next start reads all rows");
            }
            step
        };
        self.meters.backend_commit.observe(began.elapsed());
        self.unsynced_bytes = step.unsynced_bytes;
        self.unsynced = !durable;
        self.space_pending = step.space_pending;
        self.pending = step.compaction_pending || step.index_file_pending || step.check_pending;
        self.index_file.age = step.index_file;
        if self.index_file.under_way && !step.index_file_pending {
            self.index_file.took = self.index_file.began.elapsed();
        }
        self.index_file.under_way = step.index_file_pending;
        if durable {
            self.last_durable = Instant::now();
            if step.durable.is_some() {
                self.shared.durable.send_replace(step.durable);
            }
        }
        for done in checkpoints {
            // The caller may have given up.
            let _ = done.send(step.durable);
        }
        Ok(())
    }
}

impl Worker for Writer {
    fn step(&mut self) -> Next {
        let (checkpoints, stop) = {
            let mut inbox = self.shared.inbox.lock();
            let length = self.rest(&inbox);
            if let Some(rest) = self.pacer.rest(length) {
                return rest;
            }
            inbox.dirty = false;
            (std::mem::take(&mut inbox.checkpoints), inbox.stop)
        };
        match self.write(checkpoints, stop) {
            Ok(()) if stop => Next::End,
            Ok(()) => Next::Again,
            Err(error) => {
                self.fault.raise(error);
                Next::End
            }
        }
    }

    fn wait(&self, limit: Option<Duration>) {
        let mut inbox = self.shared.inbox.lock();
        // What came since the step that asked for this wait has rung already.
        if self.pacer.rests(self.rest(&inbox)) {
            self.bell().wait(&mut inbox, limit);
        }
    }

    fn bell(&self) -> &Bell {
        &self.shared.ready
    }

    /// It wants a core for a millisecond at a time, hundreds of times a second while a compaction goes on; puts that had to
    /// wait for it made their slowest hundredth a quarter slower.
    fn is_background(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each ring ended the pause once: beside 500 puts a second a compaction took twice the share of the cores that it was
    /// meant to, and waited half as long for long reads.
    #[tokio::test(start_paused = true)]
    async fn what_rings_amid_a_pause_does_not_end_it() {
        let mut pacer = Pacer::default();
        let wait = |length| Some(Next::Wait(Some(length)));
        assert_eq!(pacer.rest(Some(BITE_PAUSE)), wait(BITE_PAUSE));
        tokio::time::advance(BITE_PAUSE / 4).await;
        assert_eq!(pacer.rest(Some(BITE_PAUSE)), wait(BITE_PAUSE * 3 / 4));
        tokio::time::advance(BITE_PAUSE * 3 / 4).await;
        assert_eq!(pacer.rest(Some(BITE_PAUSE)), None);
        assert_eq!(pacer.rest(Some(BITE_PAUSE)), wait(BITE_PAUSE), "the next one");
    }

    #[tokio::test(start_paused = true)]
    async fn another_pause_begins_anew_and_none_is_none() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.rest(None), Some(Next::Wait(None)));
        assert_eq!(pacer.rest(None), Some(Next::Wait(None)), "rung for nothing");
        tokio::time::advance(STEP_PAUSE).await;
        assert_eq!(pacer.rest(Some(STEP_PAUSE)), Some(Next::Wait(Some(STEP_PAUSE))));
        assert!(pacer.rests(Some(STEP_PAUSE)) && !pacer.rests(None));
        assert_eq!(pacer.rest(Some(Duration::ZERO)), None, "somebody waits");
    }
}
