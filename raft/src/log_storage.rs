//! openraft's log over [`kelson_storage::wal`]: a shared table of recent entries, and one thread that owns the file.
//!
//! An entry can be read as soon as `append` returns, because it is in memory; it counts as stored when the thread has
//! synced the group it was written in. One sync covers everything that waited for it.

mod writer;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::error::Fault;
use kelson_storage::mutant;
use kelson_storage::revision::LogPosition;
use kelson_storage::wal::{Recovered, Wal, WalEntry, WalReader};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::codec::{decode_vote, encode_vote, entry_of, payload_bytes};
use crate::executor::{Bell, Executor, Running};
use crate::fault::FaultSignal;
use crate::meters::Meters;
use crate::type_config::{Entry, LogId, TypeConfig, Vote, log_id, position};
use writer::Writer;

/// Bytes of entries that one read for replication returns at most. Source: etcd's raft `MaxSizePerMsg`, 1 MiB.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// What an entry costs in the cache beyond its payload.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// The log as openraft sees it. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStorage {
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<Table>,
    reader: WalReader,
    queue: Arc<Queue>,
}

/// The newest entries and the log's edges.
struct Table {
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Bytes of entries kept for replication. A follower further behind is served from the file.
    cache_bytes_max: usize,
    /// Entries at or below this index are in the file; only they may leave the cache.
    flushed: Option<u64>,
    /// Truncations made here. The thread, which lags, must have made as many before it may speak of `flushed`:
    /// the same index may hold another entry by now.
    truncations: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

/// What the thread is asked to do, in order.
enum Work {
    Append(Vec<WalEntry>, IOFlushed<TypeConfig>),
    Vote(Bytes, oneshot::Sender<()>),
    Incarnation(u64, oneshot::Sender<()>),
    /// A committed position that somebody waits for.
    Committed(LogPosition, oneshot::Sender<()>),
    Truncate(Option<LogPosition>),
    /// Synced only if somebody waits for it.
    Purge(LogPosition, Option<oneshot::Sender<()>>),
    Stop,
}

struct Queue {
    waiting: Mutex<Waiting>,
    ready: Bell,
}

/// What the thread has not taken yet.
#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    /// The newest committed position, if it is not in the file. It saves a start some work and no more, so it wakes
    /// nobody: it goes along with whatever is written next.
    committed: Option<LogPosition>,
}

impl Queue {
    fn push(&self, work: Work) {
        self.waiting.lock().work.push_back(work);
        self.ready.ring();
    }
}

/// Ends the log thread when asked to.
pub(crate) struct LogThread {
    queue: Arc<Queue>,
    thread: Running,
}

impl LogThread {
    /// Writes what is queued, then ends the thread.
    pub(crate) async fn stop(self) {
        self.queue.push(Work::Stop);
        if !self.thread.ended().await {
            tracing::error!("the log thread panicked");
        }
    }
}

impl LogStorage {
    /// Starts the log thread over an opened log, of whose entries `cache_bytes` are kept in memory.
    pub(crate) fn start(
        wal: Wal,
        recovered: &Recovered,
        cache_bytes: usize,
        fault: FaultSignal,
        meters: Arc<Meters>,
        executor: &Executor,
    ) -> Result<(Self, LogThread), Fault> {
        let log = Self::over(&wal, recovered, cache_bytes, executor.bell())?;
        let shared = log.shared.clone();
        let queue = shared.queue.clone();
        let thread = executor.start("kelson-wal", Writer::new(wal, shared, fault, meters))?;
        Ok((log, LogThread { queue, thread }))
    }

    /// The index up to which the log is on disk; 0 for none.
    pub(crate) fn flushed(&self) -> u64 {
        self.shared.table.lock().flushed.unwrap_or(0)
    }

    /// Index of the newest entry that may go so that the log takes no more than `files` files.
    pub(crate) fn newest_beyond_files(&self, files: u64) -> Option<u64> {
        self.shared.reader.newest_beyond_files(files)
    }

    /// What the log holds, without the thread that writes it.
    fn over(wal: &Wal, recovered: &Recovered, cache_bytes_max: usize, ready: Bell) -> Result<Self, Fault> {
        let vote = match &recovered.vote {
            Some(bytes) => Some(decode_vote(bytes.clone()).map_err(|error| unreadable(&error))?),
            None => None,
        };
        let table = Table {
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            flushed: recovered.last.map(|last| last.index),
            truncations: 0,
            last: recovered.last.map(log_id),
            purged: recovered.purged.map(log_id),
            vote,
            committed: committed_in(recovered, &wal.reader())?.map(log_id),
        };
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            ready,
        });
        let shared = Arc::new(Shared {
            table: Mutex::new(table),
            reader: wal.reader(),
            queue,
        });
        Ok(Self { shared })
    }

    /// Makes the number of this process' life durable.
    pub(crate) async fn save_incarnation(&self, incarnation: u64) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.shared.queue.push(Work::Incarnation(incarnation, done));
        wait.await.map_err(|_| stopped())
    }

    /// Notes durably that the state at `upto`, which the log may not reach, is about to come from the leader: a
    /// database that is found there later is this announced one, and not one whose log has been lost.
    pub(crate) async fn announce(&self, upto: LogPosition) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        // A position from before would be written after it, and hide it.
        self.shared.queue.waiting.lock().committed = None;
        self.shared.queue.push(Work::Committed(upto, done));
        wait.await.map_err(|_| stopped())
    }

    /// Forgets durably what the state at `upto` holds. The next entry follows `upto`.
    pub(crate) async fn begin_after(&self, upto: LogPosition) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.shared.table.lock().purge(log_id(upto));
        self.shared.queue.push(Work::Purge(upto, Some(done)));
        wait.await.map_err(|_| stopped())
    }

    /// Entries of `from..to`, at most about `bytes` of them but at least one.
    fn read(&self, from: u64, to: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let in_file = {
            let table = self.shared.table.lock();
            if let Some(entries) = table.cached(from, to, bytes) {
                return Ok(entries);
            }
            table.end_in_file()
        };
        kelson_storage::reached!("replication_from_file");
        let records = self
            .shared
            .reader
            .read(from, to.min(in_file), bytes)
            .map_err(|fault| io::Error::other(fault.to_string()))?;
        records
            .into_iter()
            .map(|record| entry_of(log_id(record.position), record.payload))
            .collect()
    }
}

impl Table {
    /// Reads from the cache; none when it does not go back to `from`.
    fn cached(&self, from: u64, to: u64, bytes: usize) -> Option<Vec<Entry>> {
        let first = self.cache.front()?.index();
        if from < first {
            return None;
        }
        let skip = usize::try_from(from - first).ok()?;
        let mut entries = Vec::new();
        let mut total = 0;
        for entry in self.cache.iter().skip(skip) {
            if entry.index() >= to || (total > bytes && !entries.is_empty()) {
                break;
            }
            total += entry_bytes(entry);
            entries.push(entry.clone());
        }
        Some(entries)
    }

    /// The index up to which the file may be asked. Past it, entries are in the cache or nowhere: as long as the
    /// thread has not made a truncation, the file still shows what was cut off, in the place of what came after.
    fn end_in_file(&self) -> u64 {
        match self.cache.front() {
            Some(first) => first.index(),
            None => self.last.map_or(0, |last| last.index() + 1),
        }
    }

    fn push(&mut self, entry: Entry) {
        if let Some(last) = self.cache.back() {
            assert_eq!(entry.index(), last.index() + 1, "log entries out of order");
        }
        self.last = Some(entry.log_id());
        self.cache_bytes += entry_bytes(&entry);
        self.cache.push_back(entry);
    }

    /// Drops old entries past the budget, but none that is not in the file yet.
    fn trim(&mut self) {
        while self.cache_bytes > self.cache_bytes_max
            && self
                .cache
                .front()
                .is_some_and(|entry| Some(entry.index()) <= self.flushed)
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry_bytes(&entry);
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| id.index() + 1);
        while self.cache.back().is_some_and(|entry| entry.index() >= keep) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= entry_bytes(&entry);
            }
        }
        self.flushed = self.flushed.min(last.map(|id| id.index()));
        self.truncations += 1;
        self.last = last;
    }

    fn purge(&mut self, upto: LogId) {
        while self
            .cache
            .front()
            .is_some_and(|entry| entry.index() <= upto.index())
        {
            self.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        if self.last < Some(upto) {
            self.last = Some(upto);
        }
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(batch) => batch.payload().len() + ENTRY_OVERHEAD_BYTES,
        _ => ENTRY_OVERHEAD_BYTES,
    }
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => to + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let end = self
            .shared
            .table
            .lock()
            .last
            .map_or(0, |last| last.index() + 1)
            .min(to);
        let mut entries = Vec::new();
        let mut next = from;
        while next < end {
            let part = self.read(next, end, usize::MAX)?;
            let Some(last) = part.last() else { break };
            next = last.index() + 1;
            entries.extend(part);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.table.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let table = self.shared.table.lock();
        Ok(LogState {
            last_purged_log_id: table.purged,
            last_log_id: table.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, wait) = oneshot::channel();
        self.shared.queue.push(Work::Vote(encode_vote(vote), done));
        // M02: the candidate hears of a vote that a crash would take back.
        if !mutant!("M02") {
            wait.await.map_err(|_| stopped())?;
        }
        self.shared.table.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.shared.table.lock().committed = Some(committed);
            self.shared.queue.waiting.lock().committed = Some(position(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.table.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, mut callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut table = self.shared.table.lock();
            for entry in entries {
                records.push(WalEntry {
                    position: position(&entry.log_id()),
                    payload: payload_bytes(&entry),
                });
                table.push(entry);
            }
        }
        if mutant!("M01") {
            // The leader counts what is not synced yet.
            std::mem::replace(&mut callback, IOFlushed::noop()).io_completed(Ok(()));
        }
        if mutant!("M03")
            && let Some(Work::Append(_, earlier)) = self.shared.queue.waiting.lock().work.back_mut()
        {
            // The append before this one counts as synced because this one has come.
            std::mem::replace(earlier, IOFlushed::noop()).io_completed(Ok(()));
        }
        self.shared.queue.push(Work::Append(records, callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.shared.table.lock().truncate_after(last_log_id);
        self.shared
            .queue
            .push(Work::Truncate(last_log_id.as_ref().map(position)));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.shared.table.lock().purge(log_id);
        self.shared.queue.push(Work::Purge(position(&log_id), None));
        Ok(())
    }
}

/// What is known to be committed of the entries in the log. A position whose entry is neither there nor purged was an
/// announcement ([`LogStorage::announce`]) of a state that has not come: it says nothing of this log, which may hold entries that
/// the announced state would have replaced.
///
/// Simulation seed 833819: the received database could not be renamed, and the next start took the end of its log for
/// committed, an entry of a former leader.
///
/// # Errors
/// [`Fault::Damaged`], [`Fault::Io`]: the entry cannot be read.
pub(crate) fn committed_in(recovered: &Recovered, log: &WalReader) -> Result<Option<LogPosition>, Fault> {
    let Some(committed) = recovered.committed.filter(|at| Some(*at) > recovered.purged) else {
        return Ok(recovered.committed);
    };
    let found = log.read(committed.index, committed.index + 1, 1)?;
    Ok(Some(committed).filter(|at| found.first().is_some_and(|entry| entry.position == *at)))
}

fn stopped() -> io::Error {
    io::Error::other("the log thread has stopped")
}

fn unreadable(error: &io::Error) -> Fault {
    Fault::damaged(std::path::Path::new("wal"), 0, error.to_string())
}

#[cfg(test)]
mod tests;
