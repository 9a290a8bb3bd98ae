//! [`Writer`]: the thread that owns the log file. Takes all that waits, up to a bound, writes it with one sync, then
//! reports.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kelson_storage::error::Fault;
use kelson_storage::fail_point;
use kelson_storage::limits::WAL_GROUP_BYTES_MAX;
use kelson_storage::reached;
use kelson_storage::revision::LogPosition;
use kelson_storage::wal::{FlushStep, Wal};
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Shared, Work};
use crate::executor::{Bell, Next, Worker};
use crate::fault::FaultSignal;
use crate::meters::Meters;
use crate::type_config::TypeConfig;

/// Work items taken from the queue at once; their bytes are bounded by `WAL_GROUP_BYTES_MAX`.
const GROUP_ITEMS_MAX: usize = 4096;

/// How long a committed position waits for company before it is written alone.
const COMMITTED_WAITS: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Writer {
    wal: Wal,
    shared: Arc<Shared>,
    fault: FaultSignal,
    meters: Arc<Meters>,
    items: Vec<Work>,
    /// A committed position to write along with `items`.
    committed: Option<LogPosition>,
    /// Whether it has been quiet for a while since the last write.
    settled: bool,
    outcome: GroupOutcome,
}

impl Writer {
    pub(super) fn new(wal: Wal, shared: Arc<Shared>, fault: FaultSignal, meters: Arc<Meters>) -> Self {
        Self {
            wal,
            shared,
            fault,
            meters,
            items: Vec::new(),
            committed: None,
            settled: true,
            outcome: GroupOutcome::default(),
        }
    }

    fn take(&mut self) {
        let mut waiting = self.shared.queue.waiting.lock();
        let count = waiting.work.len().min(GROUP_ITEMS_MAX);
        self.items.extend(waiting.work.drain(..count));
        // Alone it is not worth a write; entries that it speaks of may still be waiting.
        if count > 0 && waiting.work.is_empty() {
            self.committed = waiting.committed.take();
        }
    }

    /// Writes and syncs what was taken. Returns whether it was the last.
    fn write(&mut self) -> Result<bool, Fault> {
        let mut stop = false;
        for item in self.items.drain(..) {
            self.outcome.write(&mut self.wal, item, &mut stop)?;
            if self.wal.buffered_bytes() > WAL_GROUP_BYTES_MAX {
                reached!("wal_group_split");
                self.outcome.finish(&mut self.wal, &self.shared, &self.meters)?;
            }
        }
        if let Some(committed) = self.committed.take() {
            self.wal.save_committed(committed);
        }
        self.outcome.finish(&mut self.wal, &self.shared, &self.meters)?;
        Ok(stop)
    }

    /// It may be the last one for long, and who looks at a stopped member's log goes by it.
    fn write_committed_alone(&mut self) -> Result<(), Fault> {
        let committed = self.shared.queue.waiting.lock().committed.take();
        if let Some(committed) = committed {
            self.wal.save_committed(committed);
            flush(&mut self.wal, false, &self.meters)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Next, Fault> {
        self.take();
        if self.items.is_empty() && !self.settled {
            self.settled = true;
            return Ok(Next::Wait(Some(COMMITTED_WAITS)));
        }
        if self.items.is_empty() {
            self.write_committed_alone()?;
            // Idle: put spare segments in order, a bounded step at a time, so that no append ever waits for one.
            let more = self.wal.tidy()?;
            return Ok(if more { Next::Again } else { Next::Wait(None) });
        }
        self.settled = false;
        match self.write() {
            Ok(false) => Ok(Next::Again),
            Ok(true) => {
                self.wal.seal()?;
                Ok(Next::End)
            }
            Err(error) => {
                // The file may hold anything now. Nothing written before this moment is reported as stored.
                self.outcome.fail(&error);
                Err(error)
            }
        }
    }
}

impl Worker for Writer {
    fn step(&mut self) -> Next {
        self.next().unwrap_or_else(|error| {
            self.fault.raise(error);
            Next::End
        })
    }

    fn wait(&self, limit: Option<Duration>) {
        let mut waiting = self.shared.queue.waiting.lock();
        if waiting.work.is_empty() {
            self.bell().wait(&mut waiting, limit);
        }
    }

    fn bell(&self) -> &Bell {
        &self.shared.queue.ready
    }
}

/// Writes what is buffered, and measures it.
fn flush(wal: &mut Wal, sync: bool, meters: &Meters) -> Result<(), Fault> {
    let bytes = wal.buffered_bytes() as u64;
    meters.wal_bytes.add(bytes);
    let mut since = Instant::now();
    wal.flush_in_steps(sync, |step| {
        let now = Instant::now();
        let took = now.duration_since(since);
        match step {
            FlushStep::Written if bytes == 0 => {}
            FlushStep::Written => meters.wal_write.observe(took),
            FlushStep::Synced => meters.wal_fsync.observe(took),
        }
        since = now;
    })
}

/// Who waits for the sync that is being prepared.
#[derive(Default)]
struct GroupOutcome {
    /// Only the newest completion matters to openraft: it speaks for all before it.
    appended: Option<IOFlushed<TypeConfig>>,
    waiting: Vec<oneshot::Sender<()>>,
    flushed: Option<u64>,
    truncations: u64,
    needs_sync: bool,
}

impl GroupOutcome {
    fn write(&mut self, wal: &mut Wal, item: Work, stop: &mut bool) -> Result<(), Fault> {
        match item {
            Work::Append(entries, callback) => {
                for entry in &entries {
                    wal.append(entry)?;
                    self.flushed = Some(entry.position.index);
                }
                self.appended = Some(callback);
                self.needs_sync = true;
            }
            Work::Vote(vote, done) => {
                wal.save_vote(vote);
                self.waiting.push(done);
                self.needs_sync = true;
            }
            Work::Incarnation(number, done) => {
                wal.save_incarnation(number);
                self.waiting.push(done);
                self.needs_sync = true;
            }
            Work::Committed(position, done) => {
                wal.save_committed(position);
                self.waiting.push(done);
                self.needs_sync = true;
            }
            Work::Truncate(last) => {
                wal.truncate_after(last)?;
                self.flushed = self.flushed.min(last.map(|position| position.index));
                self.truncations += 1;
                self.needs_sync = true;
            }
            Work::Purge(upto, done) => {
                wal.purge(upto)?;
                self.needs_sync |= done.is_some();
                self.waiting.extend(done);
                fail_point!("raftAfterWALRelease");
            }
            Work::Stop => *stop = true,
        }
        Ok(())
    }

    fn finish(&mut self, wal: &mut Wal, shared: &Shared, meters: &Meters) -> Result<(), Fault> {
        fail_point!("raftBeforeSave");
        flush(wal, self.needs_sync, meters)?;
        self.needs_sync = false;
        fail_point!("raftAfterSave");
        if let Some(index) = self.flushed.take() {
            let mut table = shared.table.lock();
            if table.truncations == self.truncations {
                table.flushed = table.flushed.max(Some(index));
                table.trim();
            } else {
                reached!("wal_truncation_overtook_flush");
            }
        }
        if let Some(callback) = self.appended.take() {
            callback.io_completed(Ok(()));
        }
        for done in self.waiting.drain(..) {
            // The caller may have given up; the write stands.
            let _ = done.send(());
        }
        Ok(())
    }

    fn fail(&mut self, error: &Fault) {
        if let Some(callback) = self.appended.take() {
            callback.io_completed(Err(io::Error::other(error.to_string())));
        }
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests;
