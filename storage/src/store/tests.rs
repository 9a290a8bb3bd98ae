use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::applied::{Applied, Event, EventKind};
use crate::codec::encode_batch;
use crate::command::{Command, DeleteRange, Proposal, Put, Range, Txn, TxnOp};
use crate::event_ring::RingRead;
use crate::key_value::KeyValue;
use crate::limits::CacheBudget;
use crate::real_disk::RealDisk;
use crate::revision::Revision;
use crate::testing::FaultyDisk;

/// A store over a scratch directory, and what it told.
pub(super) struct Fixture {
    directory: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) checkpointer: Checkpointer,
    seq: u64,
}

#[derive(Default)]
struct Told {
    outcomes: Vec<(CommandId, Outcome)>,
    leases: BTreeMap<i64, Option<i64>>,
}

impl ApplySink for Told {
    fn outcome(&mut self, id: CommandId, outcome: Outcome) {
        self.outcomes.push((id, outcome));
    }
    fn lease_granted(&mut self, id: i64, ttl: i64) {
        self.leases.insert(id, Some(ttl));
    }
    fn lease_revoked(&mut self, id: i64) {
        self.leases.insert(id, None);
    }
}

fn open(directory: &Path) -> Store {
    let options = StoreOptions {
        database: directory.join("db"),
        cache: CacheBudget {
            overlay: 1 << 20,
            event_ring: 1 << 20,
            ..CacheBudget::default()
        },
    };
    Store::open(Arc::new(RealDisk::default()), options).unwrap()
}

pub(super) fn put(key: &'static str, value: &'static str) -> Command {
    Command::Put(Put {
        key: key.into(),
        value: value.into(),
        ..Put::default()
    })
}

fn all() -> Range {
    Range {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Range::default()
    }
}

impl Fixture {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let checkpointer = store.checkpointer();
        Self {
            directory,
            store,
            checkpointer,
            seq: 0,
        }
    }

    fn reopen(self) -> Self {
        let Self {
            directory,
            store,
            checkpointer,
            seq,
        } = self;
        drop((store, checkpointer));
        let store = open(directory.path());
        let checkpointer = store.checkpointer();
        Self {
            directory,
            store,
            checkpointer,
            seq,
        }
    }

    fn next(&self) -> LogPosition {
        let index = self.store.applied().map_or(0, |applied| applied.index + 1);
        LogPosition { term: 1, index }
    }

    fn propose(&mut self, command: Command) -> Proposal {
        self.seq += 1;
        Proposal {
            id: CommandId {
                origin: 1,
                session: 1,
                seq: self.seq,
            },
            low: self.seq,
            command,
        }
    }

    fn apply(&mut self, proposals: &[Proposal]) -> Told {
        let mut told = Told::default();
        let batch = encode_batch(proposals);
        self.store.apply_batch(self.next(), &batch, &mut told).unwrap();
        told
    }

    pub(super) fn run(&mut self, command: Command) -> Result<Applied, Rejected> {
        let proposal = self.propose(command);
        let mut told = self.apply(&[proposal]);
        told.outcomes.pop().unwrap().1.result
    }

    /// Installs a snapshot of another store.
    pub(super) fn replace_by(&mut self, ahead: &mut Self) {
        ahead.checkpointer.step(true).unwrap();
        let mut image = crate::tables::WriteBatch {
            meta: ahead.store.reader().tables().meta().unwrap(),
            leases_put: ahead.store.reader().tables().leases().unwrap(),
            ..crate::tables::WriteBatch::default()
        };
        let mut keep = |revision, row| {
            image.rows.push((revision, Arc::new(row)));
            Ok(())
        };
        ahead.store.reader().tables().scan(&mut keep).unwrap();
        let received = self.directory.path().join("received");
        let tables = Tables::open(Arc::new(RealDisk::default()), &received, 1 << 20).unwrap();
        tables.write(&image, true).unwrap();
        self.store.replace(tables).unwrap();
        // The session and what it has sent come with the state.
        self.seq = ahead.seq;
    }

    fn values(&self, range: &Range) -> Vec<(String, String)> {
        let result = self.store.reader().view().range(range).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pair = |kv: &Bytes| {
            let kv = KeyValue::decode(kv).unwrap();
            (text(kv.key), text(kv.value))
        };
        result.kvs.iter().map(pair).collect()
    }
}

#[test]
fn puts_are_read_back_now_in_the_past_and_after_a_restart() {
    let mut fixture = Fixture::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        fixture.run(put(key, value)).unwrap();
    }
    let reader = fixture.store.reader();
    assert_eq!(reader.revision(), 4);
    let hash = reader.rolling_hash();
    let now = [("a", "3"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(fixture.values(&all()), now);
    let step = fixture.checkpointer.step(true).unwrap();
    assert_eq!(step.durable, Some(LogPosition { term: 1, index: 2 }));
    drop(reader);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.reader().rolling_hash(), hash);
    assert_eq!(fixture.values(&all()), now);
    let then = fixture.values(&Range { revision: 3, ..all() });
    assert_eq!(
        then,
        [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
}

#[test]
fn a_position_said_to_be_durable_is_there_after_a_power_loss() {
    const CRASHES: u64 = 20;
    let disk = FaultyDisk::new();
    disk.create_directory(Path::new("snap")).unwrap();
    let store = |disk: &FaultyDisk| {
        let options = StoreOptions {
            database: "snap/db".into(),
            cache: CacheBudget {
                overlay: 1 << 20,
                event_ring: 1 << 20,
                ..CacheBudget::default()
            },
        };
        Store::open(Arc::new(disk.clone()), options).unwrap()
    };
    let mut running = store(&disk);
    let mut checkpointer = running.checkpointer();
    for index in 0..6 {
        let at = LogPosition { term: 1, index };
        running.apply_blank(at).unwrap();
        let durable = checkpointer.step(index % 2 == 1).unwrap().durable;
        assert_eq!(durable.is_some(), index % 2 == 1);
        for seed in 0..CRASHES {
            // The log below `durable` may be gone.
            assert!(store(&disk.crash(seed)).applied() >= durable, "crash {seed}");
        }
    }
}

#[test]
fn second_copy_of_a_command_does_nothing() {
    let mut fixture = Fixture::new();
    let proposal = fixture.propose(put("a", "1"));
    let other = fixture.propose(put("b", "1"));
    let told = fixture.apply(&[proposal.clone(), proposal.clone(), other.clone()]);
    assert_eq!(told.outcomes.len(), 2);
    fixture.checkpointer.step(true).unwrap();
    let mut fixture = fixture.reopen();
    assert_eq!(fixture.apply(&[other, proposal]).outcomes, []);
    assert_eq!(fixture.store.reader().revision(), 3);
}

#[test]
fn batch_larger_than_a_lock_turn_is_applied_whole() {
    let mut fixture = Fixture::new();
    let proposals: Vec<_> = (0..3 * COMMANDS_PER_LOCK)
        .map(|_| fixture.propose(put("a", "1")))
        .collect();
    assert_eq!(fixture.apply(&proposals).outcomes.len(), proposals.len());
    assert_eq!(fixture.store.applied(), Some(LogPosition { term: 1, index: 0 }));
    let revision = fixture.store.reader().revision();
    assert_eq!(revision, 1 + proposals.len() as u64);
    let ring = fixture.store.reader().event_ring();
    let RingRead::Batches(batches) = ring.read_from(2, revision) else {
        panic!("behind");
    };
    assert_eq!(batches.len(), proposals.len());
}

/// API specification 5.5: the two cases in which etcd's rule lets a key change twice in one revision.
#[test]
fn key_may_change_twice_in_one_revision() {
    let mut fixture = Fixture::new();
    fixture.run(put("b", "0")).unwrap();
    let applied = fixture.run(Command::Txn(Txn {
        success: vec![
            TxnOp::DeleteRange(DeleteRange {
                key: "a".into(),
                range_end: Bytes::from_static(b"\0"),
                prev_kv: true,
            }),
            TxnOp::Put(Put {
                key: "b".into(),
                value: "1".into(),
                ..Put::default()
            }),
        ],
        ..Txn::default()
    }));
    assert!(applied.is_ok());
    fixture.run(put("b", "2")).unwrap();
    for reopened in [false, true] {
        let history = fixture.store.reader().history(3, 1 << 20).unwrap();
        let events: Vec<_> = history.batches.iter().flat_map(|batch| &batch.events).collect();
        let summary: Vec<_> = events
            .iter()
            .map(|event: &&Event| (event.kind, event.revision, event.previous))
            .collect();
        assert_eq!(
            summary,
            [
                (EventKind::Delete, Revision::new(3, 0), Some(Revision::new(2, 0))),
                (EventKind::Put, Revision::new(3, 1), None),
                (EventKind::Put, Revision::new(4, 0), Some(Revision::new(3, 1))),
            ]
        );
        assert_eq!(history.next, 5);
        if !reopened {
            fixture.checkpointer.step(true).unwrap();
            fixture = fixture.reopen();
        }
    }
}

/// A list of a million keys is sent in pieces; a compaction meanwhile must not take away what has not been sent.
#[test]
fn compaction_waits_for_a_long_read_and_not_for_ever() {
    for is_given_up in [false, true] {
        let mut fixture = Fixture::new();
        for command in [put("a", "1"), put("b", "1")] {
            fixture.run(command).unwrap();
        }
        let view = fixture.store.reader().pinned_view();
        for command in [put("a", "2"), put("b", "2"), Command::Compact { revision: 5 }] {
            fixture.run(command).unwrap();
        }
        // Written, so that the overlay may forget it.
        assert!(fixture.checkpointer.step(true).unwrap().compaction_pending);
        let rows = |fixture: &Fixture| fixture.store.reader().tables().contents().rows;
        assert!(fixture.checkpointer.step(true).unwrap().compaction_pending);
        assert_eq!(rows(&fixture), 4);
        let read = view.range(&all()).unwrap();
        assert_eq!((read.count, read.kvs.len()), (2, 2));
        if is_given_up {
            for _ in 0..crate::limits::COMPACTION_DEFERRALS_MAX {
                fixture.checkpointer.step(false).unwrap();
            }
        } else {
            drop(view);
        }
        while fixture.checkpointer.step(true).unwrap().compaction_pending {}
        assert_eq!(rows(&fixture), 2);
    }
}

/// A value of so many bytes, for [`put`].
fn long_value(bytes: usize) -> &'static str {
    Box::leak("x".repeat(bytes).into_boxed_str())
}

/// Each bite was a transaction once, also those that only read: they are most of them, and puts waited for the commits.
#[test]
fn a_compaction_looks_for_rows_without_writing() {
    let value = long_value(100_000);
    let mut fixture = Fixture::new();
    for _ in 0..5 {
        fixture.run(put("a", value)).unwrap();
    }
    assert!(
        !fixture.checkpointer.bite_without_commit().unwrap(),
        "there is no compaction"
    );
    fixture.run(Command::Compact { revision: 6 }).unwrap();
    assert!(
        !fixture.checkpointer.bite_without_commit().unwrap(),
        "a step begins it, which writes its rows"
    );
    assert!(fixture.checkpointer.step(false).unwrap().compaction_pending);
    fixture.run(put("b", "1")).unwrap();
    let unwritten = fixture.store.reader().unwritten_bytes();
    let mut looks = 0;
    while fixture.checkpointer.bite_without_commit().unwrap() {
        looks += 1;
    }
    assert!(looks > 1);
    assert_eq!(fixture.store.reader().unwritten_bytes(), unwritten);
    assert_eq!(fixture.store.reader().tables().contents().rows, 5);
    while fixture.checkpointer.step(true).unwrap().compaction_pending {}
    assert_eq!(fixture.store.reader().tables().contents().rows, 2);
}

/// Bytes that the database takes of the file system.
fn bytes_taken(fixture: &Fixture) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = fixture.store.reader().tables().path().to_owned();
    std::fs::metadata(file).unwrap().blocks() * 512
}

/// etcd gives nothing back before somebody defragments, which stops the member.
#[test]
fn the_space_of_what_compaction_forgets_comes_back_by_itself() {
    let value = long_value(20_000);
    let mut fixture = Fixture::new();
    for _ in 0..1_000 {
        fixture.run(put("a", value)).unwrap();
        fixture.checkpointer.step(false).unwrap();
    }
    let step = fixture.checkpointer.step(true).unwrap();
    assert!(!step.space_pending, "nothing has been deleted");
    assert!(bytes_taken(&fixture) > 20_000_000);
    fixture.run(Command::Compact { revision: 1_001 }).unwrap();
    // Nothing is written from here on.
    let mut steps = 0;
    loop {
        let step = fixture.checkpointer.step(true).unwrap();
        if !step.compaction_pending && !step.space_pending {
            break;
        }
        steps += 1;
        assert!(steps < 1_000, "it never ends");
    }
    assert_eq!(fixture.store.reader().tables().contents().rows, 1);
    assert!(
        bytes_taken(&fixture) < 2_000_000,
        "{} bytes",
        bytes_taken(&fixture)
    );
    let mut fixture = fixture.reopen();
    assert_eq!(fixture.store.reader().tables().contents().rows, 1);
    for _ in 0..100 {
        fixture.run(put("a", value)).unwrap();
        fixture.checkpointer.step(true).unwrap();
    }
    assert_eq!(fixture.reopen().store.reader().tables().contents().rows, 101);
}

#[test]
fn compaction_deletes_what_it_forgets_and_forgets_dead_keys() {
    let mut fixture = Fixture::new();
    let delete = |key: &'static str| {
        Command::DeleteRange(DeleteRange {
            key: key.into(),
            ..DeleteRange::default()
        })
    };
    // Revisions 2 to 7; b is dead before the compact revision, c at it.
    for command in [
        put("a", "1"),
        put("b", "1"),
        put("c", "1"),
        put("a", "2"),
        delete("b"),
        delete("c"),
    ] {
        fixture.run(command).unwrap();
    }
    assert_eq!(
        fixture.run(Command::Compact { revision: 7 }),
        Ok(Applied::Compact)
    );
    assert_eq!(
        fixture.run(Command::Compact { revision: 7 }),
        Err(Rejected::Compacted)
    );
    while fixture.checkpointer.step(true).unwrap().compaction_pending {}
    let reader = fixture.store.reader();
    assert!(reader.compaction_finished(7) && !reader.compaction_finished(8));
    let mut kept = Vec::new();
    let mut keep = |revision, _| {
        kept.push(revision);
        Ok(())
    };
    reader.tables().scan(&mut keep).unwrap();
    assert_eq!(kept, [Revision::new(5, 0), Revision::new(7, 0)]);
    let state = fixture.store.shared.state.lock();
    assert_eq!(state.index.get(b"b"), None);
    assert!(!state.index.get(b"c").unwrap().live);
}

#[test]
fn rows_that_are_not_the_checkpoints_are_found_at_start() {
    let mut fixture = Fixture::new();
    fixture.run(put("a", "1")).unwrap();
    fixture.checkpointer.step(true).unwrap();
    let tables = fixture.store.reader().tables();
    let meta = tables.meta().unwrap();
    let stolen = crate::tables::WriteBatch {
        deletes: vec![Revision::new(2, 0)],
        meta,
        ..crate::tables::WriteBatch::default()
    };
    tables.write(&stolen, true).unwrap();
    let Fixture {
        directory,
        store,
        checkpointer,
        ..
    } = fixture;
    drop((store, checkpointer, tables));
    let options = StoreOptions {
        database: directory.path().join("db"),
        cache: CacheBudget {
            overlay: 0,
            event_ring: 0,
            ..CacheBudget::default()
        },
    };
    let fault = Store::open(Arc::new(RealDisk::default()), options).err();
    assert!(matches!(fault, Some(Fault::Damaged { .. })), "{fault:?}");
}

#[test]
fn snapshot_of_a_later_state_shows_through_the_handles_of_before() {
    let mut ahead = Fixture::new();
    let lease = Command::LeaseGrant { id: 5, ttl: 60 };
    for command in [put("a", "1"), put("a", "2"), put("b", "3"), lease] {
        ahead.run(command).unwrap();
    }
    let mut behind = Fixture::new();
    behind.run(put("a", "1")).unwrap();
    let (reader, view) = (behind.store.reader(), behind.store.reader().view());
    behind.replace_by(&mut ahead);

    assert_eq!(reader.rolling_hash(), ahead.store.reader().rolling_hash());
    assert_eq!((reader.revision(), reader.leases()), (4, vec![(5, 60)]));
    assert_eq!(reader.event_ring().read_from(2, 4), RingRead::Behind);
    assert_eq!(reader.history(2, 1 << 20).unwrap().batches.len(), 3);
    assert_eq!(view.range(&all()).unwrap().count, 1, "a view stays what it was");
    // Apply and write-behind go on from there.
    for fixture in [&mut ahead, &mut behind] {
        fixture.seq = 10;
        fixture.run(put("c", "4")).unwrap();
    }
    let step = behind.checkpointer.step(true).unwrap();
    assert_eq!(step.durable, ahead.store.applied());
    assert_eq!(reader.rolling_hash(), ahead.store.reader().rolling_hash());
    assert_eq!(reader.tables().meta().unwrap().revision, 5);
}
