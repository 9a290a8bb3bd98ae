//! Purging: the one place that lets go of log entries, and only of those that a durable checkpoint covers.

use kelson_storage::revision::LogPosition;
use tokio::sync::watch;

use crate::node::Raft;

/// Watches durable checkpoints; after every `snapshot_count` entries tells openraft of the newest one and purges the
/// log below it, keeping `catchup_entries` for slow followers.
pub(crate) async fn purge_log(
    raft: Raft,
    mut durable: watch::Receiver<Option<LogPosition>>,
    snapshot_count: u64,
    catchup_entries: u64,
) {
    let mut last = durable.borrow_and_update().map_or(0, |at| at.index);
    while durable.changed().await.is_ok() {
        let Some(at) = *durable.borrow_and_update() else {
            continue;
        };
        if at.index < last.saturating_add(snapshot_count) {
            continue;
        }
        last = at.index;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        let Some(upto) = at.index.checked_sub(catchup_entries) else {
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
