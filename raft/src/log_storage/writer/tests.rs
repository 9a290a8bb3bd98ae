use bytes::Bytes;
use futures::FutureExt;
use kelson_storage::codec::encode_batch;
use kelson_storage::command::{Command, CommandId, Proposal, Put};
use kelson_storage::reached;
use openraft::EntryPayload;
use openraft::storage::RaftLogStorage;
use openraft::type_config::TypeConfigExt;

use super::super::LogStorage;
use super::super::tests::{CACHE_BYTES, at, blank, ids, open};
use super::*;
use crate::executor::Executor;
use crate::type_config::{Batch, Entry, LogId, position};

/// A new log and its thread's half, which does nothing unless it is told to.
fn log_and_writer(directory: &std::path::Path) -> (LogStorage, Writer) {
    let (wal, recovered) = open(directory, true);
    let log = LogStorage::over(&wal, &recovered, CACHE_BYTES, Executor::default().bell()).unwrap();
    let shared = log.shared.clone();
    let writer = Writer::new(wal, shared, FaultSignal::default(), Arc::new(Meters::default()));
    (log, writer)
}

fn large(log_id: LogId, bytes: usize) -> Entry {
    let command = Command::Put(Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(vec![b'v'; bytes]),
        ..Put::default()
    });
    let id = CommandId {
        origin: 1,
        session: 1,
        seq: log_id.index(),
    };
    let proposal = encode_batch(&[Proposal { id, low: 1, command }]);
    let payload = EntryPayload::Normal(Batch::of([&proposal].into_iter()));
    Entry { log_id, payload }
}

fn times(mark: &str) -> u64 {
    reached::counts()
        .find(|(name, _)| *name == mark)
        .map_or(0, |(_, count)| count)
}

/// One write covers 8 MiB; what waits beyond that is written, and reported, after it.
#[tokio::test]
async fn a_group_that_is_too_large_is_written_in_parts_and_reported_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut log, mut writer) = log_and_writer(scratch.path());
    let mut told = Vec::new();
    for index in 0..5 {
        let (done, wait) = TypeConfig::oneshot();
        log.append([large(at(1, index), 3 << 20)], IOFlushed::signal(done))
            .await
            .unwrap();
        told.push(wait);
    }
    let before = times("wal_group_split");
    assert!(matches!(writer.step(), Next::Again));
    assert!(times("wal_group_split") > before);
    // Each part answers for its newest append, which speaks for those before it.
    let answered: Vec<bool> = told
        .into_iter()
        .map(|wait| wait.now_or_never().is_some())
        .collect();
    assert!(answered[4], "{answered:?}");
    assert_eq!(log.flushed(), 4);
    drop((log, writer));
    let (wal, recovered) = open(scratch.path(), false);
    let mut log = LogStorage::over(&wal, &recovered, CACHE_BYTES, Executor::default().bell()).unwrap();
    assert_eq!(
        ids(&mut log, 0, 5).await,
        (0..5).map(|index| at(1, index)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_write_and_its_sync_are_measured_apart() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut log, mut writer) = log_and_writer(scratch.path());
    let (done, _wait) = TypeConfig::oneshot();
    log.append([large(at(1, 0), 1)], IOFlushed::signal(done))
        .await
        .unwrap();
    writer.step();
    let counts = |meters: &Meters| [&meters.wal_write, &meters.wal_fsync].map(|meter| meter.cumulative().1);
    assert_eq!(counts(&writer.meters), [1, 1]);
    assert!(writer.meters.wal_bytes.get() > 0);
}

fn reopened(directory: &std::path::Path) -> kelson_storage::wal::Recovered {
    open(directory, false).1
}

/// Each put woke the thread twice: once for its entry, and once more to write down that it is committed.
#[tokio::test]
async fn a_committed_position_waits_for_company_and_not_for_ever() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut log, mut writer) = log_and_writer(scratch.path());
    log.append([blank(at(1, 0))], IOFlushed::noop()).await.unwrap();
    log.save_committed(Some(at(1, 0))).await.unwrap();
    log.append([blank(at(1, 1))], IOFlushed::noop()).await.unwrap();
    assert_eq!(writer.step(), Next::Again);
    log.save_committed(Some(at(1, 1))).await.unwrap();
    assert_eq!(
        writer.step(),
        Next::Wait(Some(COMMITTED_WAITS)),
        "nothing is written for it"
    );
    drop((log, writer));
    assert_eq!(reopened(scratch.path()).committed, Some(position(&at(1, 0))));

    let (wal, recovered) = open(scratch.path(), false);
    let mut log = LogStorage::over(&wal, &recovered, CACHE_BYTES, Executor::default().bell()).unwrap();
    let mut writer = Writer::new(wal, log.shared.clone(), FaultSignal::default(), Arc::default());
    log.append([blank(at(1, 2))], IOFlushed::noop()).await.unwrap();
    while writer.step() != Next::Wait(Some(COMMITTED_WAITS)) {}
    log.save_committed(Some(at(1, 2))).await.unwrap();
    while writer.step() != Next::Wait(None) {}
    drop((log, writer));
    assert_eq!(reopened(scratch.path()).committed, Some(position(&at(1, 2))));
}

/// A position that was committed before a snapshot is announced must not be written after the announcement: the next start
/// would take the snapshot's database for one whose log has been lost.
#[tokio::test]
async fn an_announcement_is_not_hidden_by_an_older_committed_position() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut log, mut writer) = log_and_writer(scratch.path());
    log.append([blank(at(1, 0))], IOFlushed::noop()).await.unwrap();
    assert_eq!(writer.step(), Next::Again);
    log.save_committed(Some(at(1, 0))).await.unwrap();
    let upto = position(&at(2, 9));
    let mut announced = Box::pin(log.announce(upto));
    assert!(announced.as_mut().now_or_never().is_none());
    assert_eq!(writer.step(), Next::Again);
    announced.await.unwrap();
    drop((log, writer));
    assert_eq!(reopened(scratch.path()).committed, Some(upto));
}

/// While a group is being written its end is cut off, and another leader's entry takes the place: that what was written is on
/// disk says nothing of what stands there now.
#[tokio::test]
async fn a_write_that_a_truncation_overtook_does_not_speak_for_what_came_after() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut log, mut writer) = log_and_writer(scratch.path());
    let entries = (0..4).map(|index| blank(at(1, index)));
    log.append(entries, IOFlushed::noop()).await.unwrap();
    writer.take();
    log.truncate_after(Some(at(1, 1))).await.unwrap();
    let (done, wait) = TypeConfig::oneshot();
    log.append([blank(at(2, 2))], IOFlushed::signal(done))
        .await
        .unwrap();
    let before = times("wal_truncation_overtook_flush");
    assert!(!writer.write().unwrap());
    assert!(times("wal_truncation_overtook_flush") > before);
    assert_eq!(log.flushed(), 0, "nothing is known to be stored");
    let mut wait = Box::pin(wait);
    assert!(
        wait.as_mut().now_or_never().is_none(),
        "an append was acknowledged"
    );
    assert!(matches!(writer.step(), Next::Again));
    assert!(wait.now_or_never().is_some());
    assert_eq!(log.flushed(), 2);
    assert_eq!(ids(&mut log, 0, 3).await, [at(1, 0), at(1, 1), at(2, 2)]);
    drop((log, writer));
    let (wal, recovered) = open(scratch.path(), false);
    let mut log = LogStorage::over(&wal, &recovered, CACHE_BYTES, Executor::default().bell()).unwrap();
    assert_eq!(ids(&mut log, 0, 3).await, [at(1, 0), at(1, 1), at(2, 2)]);
}
