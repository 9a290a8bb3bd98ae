use std::sync::Arc;

use futures::FutureExt;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::wal::{Wal, WalOptions};
use openraft::EntryPayload;
use openraft::type_config::TypeConfigExt;

use super::*;

const SEGMENT_BYTES: u64 = 1024 * 1024;
pub(super) const CACHE_BYTES: usize = 32 * 1024 * 1024;

pub(super) fn open(directory: &std::path::Path, fresh: bool) -> (Wal, Recovered) {
    let options = WalOptions {
        directory: directory.to_owned(),
        cluster_id: 1,
        member_id: 2,
        segment_bytes: SEGMENT_BYTES,
    };
    Wal::open(Arc::new(RealDisk::without_sync()), options, fresh).unwrap()
}

pub(super) fn at(term: u64, index: u64) -> LogId {
    log_id(LogPosition { term, index })
}

pub(super) fn blank(log_id: LogId) -> Entry {
    let payload = EntryPayload::Blank;
    Entry { log_id, payload }
}

/// A log that holds `entries` in its file, and whose thread has not got round to anything new yet.
async fn idle_log(directory: &std::path::Path, entries: impl Iterator<Item = LogId>) -> LogStorage {
    let (mut wal, _) = open(directory, true);
    for id in entries {
        let payload = payload_bytes(&blank(id));
        let position = position(&id);
        wal.append(&WalEntry { position, payload }).unwrap();
    }
    wal.flush(true).unwrap();
    drop(wal);
    let (wal, recovered) = open(directory, false);
    LogStorage::over(&wal, &recovered, CACHE_BYTES, Executor::default().bell()).unwrap()
}

pub(super) async fn ids(log: &mut LogStorage, from: u64, to: u64) -> Vec<LogId> {
    let limited = log.limited_get_log_entries(from, to).await.unwrap();
    let whole = log.try_get_log_entries(from..to).await.unwrap();
    let ids = |entries: Vec<Entry>| entries.iter().map(RaftEntry::log_id).collect::<Vec<_>>();
    let (limited, whole) = (ids(limited), ids(whole));
    // One read may stop early, but never early for nothing.
    assert!(whole.starts_with(&limited) && (whole.is_empty() || !limited.is_empty()));
    whole
}

#[tokio::test]
async fn entries_cut_off_are_gone_before_the_file_knows() {
    let scratch = tempfile::tempdir().unwrap();
    let mut log = idle_log(scratch.path(), (0..6).map(|index| at(1, index))).await;
    // A new leader replaces the end of the log; the file still has the old one.
    log.truncate_after(Some(at(1, 3))).await.unwrap();
    assert_eq!(ids(&mut log, 2, 6).await, [at(1, 2), at(1, 3)]);
    let replaced = [blank(at(2, 4)), blank(at(2, 5))];
    log.append(replaced, IOFlushed::noop()).await.unwrap();
    assert_eq!(
        ids(&mut log, 2, 6).await,
        [at(1, 2), at(1, 3), at(2, 4), at(2, 5)]
    );
    assert_eq!(ids(&mut log, 5, 6).await, [at(2, 5)]);
}

#[tokio::test]
async fn nothing_counts_as_stored_before_the_thread_has_synced_it() {
    let scratch = tempfile::tempdir().unwrap();
    // The thread is not there: whatever is said of new entries and votes is a lie.
    let mut log = idle_log(scratch.path(), [at(1, 0)].into_iter()).await;
    let mut told = Vec::new();
    for index in 1..3 {
        let (done, wait) = TypeConfig::oneshot();
        log.append([blank(at(1, index))], IOFlushed::signal(done))
            .await
            .unwrap();
        told.push(wait);
    }
    for wait in told {
        assert!(wait.now_or_never().is_none(), "an append was acknowledged");
    }
    let mut voter = log.clone();
    let promised = voter.save_vote(&Vote::new(2, 1)).now_or_never();
    assert!(promised.is_none(), "a vote was promised");
    assert_eq!(log.read_vote().await.unwrap(), None);
}

/// Simulation seed 833819, see [`committed_in`].
#[tokio::test]
async fn an_announcement_that_never_came_commits_nothing_of_the_log() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(scratch.path(), true);
    for index in 0..6 {
        let id = at(1, index);
        let payload = payload_bytes(&blank(id));
        let position = position(&id);
        wal.append(&WalEntry { position, payload }).unwrap();
    }
    wal.flush(true).unwrap();
    drop(wal);
    for (saved, committed) in [
        (at(1, 3), Some(at(1, 3))),
        // Behind the log's end, and in its middle, where it has the entry of another leader.
        (at(2, 9), None),
        (at(2, 5), None),
    ] {
        let (wal, recovered) = open(scratch.path(), false);
        let recovered = Recovered {
            committed: Some(position(&saved)),
            ..recovered
        };
        let mut log = LogStorage::over(&wal, &recovered, CACHE_BYTES, Executor::default().bell()).unwrap();
        assert_eq!(log.read_committed().await.unwrap(), committed, "{saved}");
    }
}
