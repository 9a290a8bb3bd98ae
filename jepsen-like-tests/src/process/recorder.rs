//! One clock, one counter and one file for everything that happens in an episode.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::time::Instant;

use crate::history::{Call, HISTORY_FILE, History, Outcome, Phase, Process, Record, Request, Return, Writer};

/// Writes the history of an episode, and keeps it for the checkers.
#[derive(Debug)]
pub struct Recorder {
    origin: Instant,
    next: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    history: History,
    writer: Writer,
    tally: Tally,
}

/// Calls that have returned, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// It happened.
    pub ok: u64,
    /// It did not.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Tally {
    /// All that returned.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: Tally) -> Tally {
        Tally {
            ok: self.ok - earlier.ok,
            failed: self.failed - earlier.failed,
            unknown: self.unknown - earlier.unknown,
        }
    }
}

impl Recorder {
    /// A history in `directory`.
    ///
    /// # Errors
    ///
    /// If the file cannot be made.
    pub fn new(directory: &Path) -> Result<Recorder> {
        Ok(Recorder {
            origin: Instant::now(),
            next: AtomicU64::new(1),
            inner: Mutex::new(Inner {
                history: History::default(),
                writer: Writer::append(&directory.join(HISTORY_FILE))?,
                tally: Tally::default(),
            }),
        })
    }

    /// Nanoseconds since the recorder was made.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number that nobody else gets: for calls, streams and watchers.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a record.
    pub fn push(&self, record: Record) {
        let mut inner = self.lock();
        // A full disk under the driver must not look like a fault of the cluster.
        inner
            .writer
            .write(&record)
            .expect("the driver's own disk takes the history");
        inner.history.push(record);
    }

    /// A call that is about to be sent. Returns its id.
    pub fn call(&self, client: u32, member: usize, request: Request) -> u64 {
        let id = self.number();
        self.push(Record::Call(Call {
            at: self.now(),
            id,
            client,
            member: Some(index(member)),
            request,
        }));
        id
    }

    /// The answer to a call.
    pub fn returned(&self, id: u64, outcome: Outcome) {
        let at = self.now();
        {
            let tally = &mut self.lock().tally;
            match outcome {
                Outcome::Ok(_) => tally.ok += 1,
                Outcome::Failed { .. } => tally.failed += 1,
                Outcome::Unknown { .. } => tally.unknown += 1,
            }
        }
        self.push(Record::Return(Return { at, id, outcome }));
    }

    /// A phase begins.
    pub fn phase(&self, phase: Phase) {
        self.push(Record::Mark {
            at: self.now(),
            phase,
        });
    }

    /// A member's process has started or ended.
    pub fn process(&self, member: usize, id: u64, up: bool) {
        self.push(Record::Process(Process {
            at: self.now(),
            member: index(member),
            id,
            up,
        }));
    }

    /// Text for readers.
    pub fn note(&self, text: String) {
        self.push(Record::Note { at: self.now(), text });
    }

    /// Calls that have returned so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// Writes everything to the file, and gives the history away.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(&self) -> Result<History> {
        let mut inner = self.lock();
        inner.writer.flush()?;
        Ok(std::mem::take(&mut inner.history))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member's index as histories hold it.
///
/// # Panics
///
/// If there are more than 2^32 members.
#[must_use]
pub fn index(member: usize) -> u32 {
    u32::try_from(member).expect("clusters are small")
}
