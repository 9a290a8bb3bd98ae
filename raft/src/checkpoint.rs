//! Purging: the one place that lets go of log entries, and only of those that a durable checkpoint covers.

use kelson_storage::revision::LogPosition;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::log_storage::LogStorage;
use crate::node::Raft;

/// How many times as many files are kept while a follower still needs what is in them: one that has installed a snapshot
/// would otherwise need the next one at once, for as long as values are large and many.
const FILES_FOR_FOLLOWERS: u64 = 4;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Entries applied between two purges.
    pub(crate) snapshot_count: u64,
    /// Entries kept behind a checkpoint for slow followers.
    pub(crate) catchup_entries: u64,
    /// Files of the log above which it is purged whatever the other two say; 0: no bound. An entry holds up to a thousand
    /// commands or one of megabytes, so that a count of entries alone bounds nothing.
    pub(crate) files_max: u64,
}

impl Retention {
    /// The newest entry that may go by the number of files. `needed_after`: what the slowest follower has.
    fn beyond_files(&self, log: &LogStorage, needed_after: Option<u64>) -> Option<u64> {
        if self.files_max == 0 {
            return None;
        }
        let wanted = log.newest_beyond_files(self.files_max)?;
        let at_least = log.newest_beyond_files(self.files_max.saturating_mul(FILES_FOR_FOLLOWERS));
        let harmless = needed_after.map_or(Some(wanted), |has| {
            Some(has).filter(|_| has > 0).map(|has| has.min(wanted))
        });
        harmless.max(at_least)
    }
}

/// Index up to which every other member has the log, if this one leads; 0: one has nothing that is known of.
fn slowest_follower(raft: &Raft) -> Option<u64> {
    let data = raft.data_metrics();
    let data = data.borrow_watched();
    let replication = data.replication.as_ref()?;
    let matched = replication
        .values()
        .map(|matched| matched.as_ref().map_or(0, |id| id.index()));
    matched.min()
}

/// Watches durable checkpoints; when a purge is due tells openraft of the newest one and purges the log below it.
pub(crate) async fn purge_log(
    raft: Raft,
    log: LogStorage,
    mut durable: watch::Receiver<Option<LogPosition>>,
    retention: Retention,
) {
    let mut last = durable.borrow_and_update().map_or(0, |at| at.index);
    let mut purged = None;
    while durable.changed().await.is_ok() {
        let Some(at) = *durable.borrow_and_update() else {
            continue;
        };
        let is_due = at.index >= last.saturating_add(retention.snapshot_count);
        let by_count = Some(at.index).filter(|_| is_due);
        let by_count = by_count.and_then(|index| index.checked_sub(retention.catchup_entries));
        let by_files = retention.beyond_files(&log, slowest_follower(&raft));
        let upto = by_count.max(by_files.map(|index| index.min(at.index)));
        let upto = upto.filter(|_| upto > purged);
        if !is_due && upto.is_none() {
            continue;
        }
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        if is_due {
            last = at.index;
        }
        let Some(upto) = upto else { continue };
        purged = Some(upto);
        kelson_storage::reached!("log_purged");
        tracing::info!(
            applied_index = at.index,
            purge_index = upto,
            "purging the log below a durable checkpoint"
        );
        if raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
    }
}
