//! Purging: the one place that lets go of log entries, and only of those that a durable checkpoint covers.

use kelson_storage::revision::LogPosition;
use tokio::sync::watch;

use crate::log_storage::LogStorage;
use crate::node::Raft;

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

/// Watches durable checkpoints; when a purge is due tells openraft of the newest one and purges the log below it.
pub(crate) async fn purge_log(
    raft: Raft,
    log: LogStorage,
    mut durable: watch::Receiver<Option<LogPosition>>,
    retention: Retention,
) {
    let mut last = durable.borrow_and_update().map_or(0, |at| at.index);
    while durable.changed().await.is_ok() {
        let Some(at) = *durable.borrow_and_update() else {
            continue;
        };
        let is_due = at.index >= last.saturating_add(retention.snapshot_count);
        let beyond = Some(retention.files_max).filter(|files| *files > 0);
        let beyond = beyond.and_then(|files| log.newest_beyond_files(files));
        if !is_due && beyond.is_none() {
            continue;
        }
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        let by_count = Some(at.index).filter(|_| is_due);
        let by_count = by_count.and_then(|index| index.checked_sub(retention.catchup_entries));
        if is_due {
            last = at.index;
        }
        let Some(upto) = by_count.max(beyond.map(|index| index.min(at.index))) else {
            continue;
        };
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
