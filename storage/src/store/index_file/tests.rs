use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::path_beside;
use crate::codec::encode_batch;
use crate::command::{Command, CommandId, DeleteRange, Proposal, Put, Range, Txn, TxnOp};
use crate::disk::Disk;
use crate::error::Fault;
use crate::limits::CacheBudget;
use crate::mvcc::index::KeyMeta;
use crate::revision::{LogPosition, Revision};
use crate::store::{Checkpointer, Opening, ReadError, Store, StoreOptions};
use crate::testing::FaultyDisk;

const DATABASE: &str = "snap/db";
/// More than there are records of one revision.
const SUBS: u32 = 4;

/// Everything that a start makes again.
#[derive(Debug, PartialEq)]
struct Content {
    applied: Option<LogPosition>,
    revision: u64,
    entries: Vec<(Vec<u8>, KeyMeta)>,
    /// Of the revisions that may be read.
    links: Vec<(Revision, Option<Revision>)>,
    leases: Vec<(i64, Vec<Vec<u8>>)>,
    hash: u64,
}

struct Member {
    disk: FaultyDisk,
    store: Store,
    checkpointer: Checkpointer,
    seq: u64,
}

fn open(disk: &FaultyDisk) -> Store {
    let options = StoreOptions {
        database: DATABASE.into(),
        cache: CacheBudget::default(),
    };
    Store::open(Arc::new(disk.clone()), options).unwrap()
}

fn content(store: &Store) -> Content {
    let state = store.shared.state.lock();
    let mut entries = Vec::new();
    state.index.view().for_each(&[], None, |key, meta| {
        entries.push((key.to_vec(), *meta));
        std::ops::ControlFlow::Continue(())
    });
    let first_main = state.compacted.unwrap_or(0).max(1) + 1;
    let all =
        (first_main..=state.revision).flat_map(|main| (0..SUBS).map(move |sub| Revision::new(main, sub)));
    let leases = state.leases.iter().map(|(id, _)| {
        let keys = state.leases.keys(id).unwrap_or_default();
        (id, keys.iter().map(|key| key.to_vec()).collect())
    });
    Content {
        applied: state.applied,
        revision: state.revision,
        entries,
        links: all
            .map(|revision| (revision, state.history.previous(revision)))
            .collect(),
        leases: leases.collect(),
        hash: state.hash.value(),
    }
}

impl Member {
    fn new() -> Self {
        let disk = FaultyDisk::new();
        disk.create_directory(Path::new("snap")).unwrap();
        Self::start(disk, 0)
    }

    fn start(disk: FaultyDisk, seq: u64) -> Self {
        crate::tables::remove_leftovers(&disk, Path::new("snap")).unwrap();
        let store = open(&disk);
        let mut checkpointer = store.checkpointer();
        if store.opening().from_index_file {
            checkpointer.check_rows().unwrap();
        }
        Self {
            disk,
            checkpointer,
            store,
            seq,
        }
    }

    fn run(&mut self, command: Command) {
        self.seq += 1;
        let proposal = Proposal {
            id: CommandId {
                origin: 1,
                session: 1,
                seq: self.seq,
            },
            low: self.seq,
            command,
        };
        let index = self.store.applied().map_or(0, |applied| applied.index + 1);
        let at = LogPosition { term: 1, index };
        self.store
            .apply_batch(at, &encode_batch([&proposal]), &mut ())
            .unwrap();
    }

    /// Writes an index file of the present.
    fn write_index_file(&mut self) {
        self.checkpointer.write_index_file();
        self.checkpointer.step(true).unwrap();
        self.checkpointer.finish_index_file();
        assert!(self.disk.exists(&path_beside(Path::new(DATABASE))));
    }

    /// Starts again twice on what `disk` holds, with the index file and without, and says how it went with it.
    fn compare_starts(disk: &FaultyDisk) -> Opening {
        let with = Member::start(disk.restart(), 0);
        let without = disk.restart();
        super::remove(&without, Path::new(DATABASE)).unwrap();
        let without = Member::start(without, 0);
        assert_eq!(content(&with.store), content(&without.store));
        with.store.opening().clone()
    }

    fn restart(self) -> Self {
        let Self {
            disk,
            store,
            checkpointer,
            seq,
        } = self;
        drop((store, checkpointer));
        Self::start(disk.restart(), seq)
    }
}

fn put(key: &str, lease: i64) -> Command {
    Command::Put(Put {
        key: key.to_owned().into(),
        value: "value".into(),
        lease,
        ..Put::default()
    })
}

fn delete(key: &str) -> Command {
    Command::DeleteRange(DeleteRange {
        key: key.to_owned().into(),
        ..DeleteRange::default()
    })
}

#[test]
fn a_start_takes_the_index_from_its_file_and_reads_only_the_rows_after_it() {
    let mut member = Member::new();
    member.run(Command::LeaseGrant { id: 9, ttl: 60 });
    for key in ["b", "a/1", "a/2", "c", "a/1", "b"] {
        member.run(put(key, if key == "c" { 9 } else { 0 }));
    }
    member.run(delete("a/2"));
    member.write_index_file();
    for key in ["a/0", "b", "d"] {
        member.run(put(key, 0));
    }
    member.run(delete("c"));
    member.checkpointer.step(true).unwrap();
    let opening = Member::compare_starts(&member.disk);
    assert_eq!(
        (opening.from_index_file, opening.rows, opening.keys),
        (true, 4, 6)
    );
}

#[test]
fn without_a_file_or_with_one_that_cannot_be_of_the_checkpoint_all_rows_are_read() {
    let mut member = Member::new();
    for key in ["a", "b", "a"] {
        member.run(put(key, 0));
    }
    member.checkpointer.step(true).unwrap();
    assert_eq!(Member::compare_starts(&member.disk).unfit, None);
    let before = member.disk.restart();
    member.run(put("c", 0));
    member.write_index_file();
    let file = member.disk.bytes(&path_beside(Path::new(DATABASE))).unwrap();

    // Of a future that this database has not.
    let newer = before.open(&path_beside(Path::new(DATABASE)), true).unwrap();
    newer.write_all_at(&file, 0).unwrap();
    let opening = Member::compare_starts(&before);
    let why = opening.unfit.unwrap_or_default();
    assert!(
        !opening.from_index_file && why.contains("after the checkpoint"),
        "{why}"
    );

    // Behind a compaction, which may have deleted whole keys without leaving a row that says so.
    member.run(delete("b"));
    member.run(put("a", 0));
    member.run(Command::Compact { revision: 7 });
    while member.checkpointer.step(true).unwrap().compaction_pending {}
    let opening = Member::compare_starts(&member.disk);
    let why = opening.unfit.unwrap_or_default();
    assert!(!opening.from_index_file && why.contains("compaction"), "{why}");
}

/// What is written while links are forgotten is not for a checkpoint that still has them.
#[test]
fn a_file_without_the_links_that_the_checkpoint_has_is_not_taken() {
    let mut member = Member::new();
    for _ in 0..20 {
        member.run(put("a", 0));
    }
    member.checkpointer.write_index_file();
    member.checkpointer.step(true).unwrap();
    let durable = member.disk.restart();
    member.run(Command::Compact { revision: 15 });
    member.checkpointer.finish_index_file();
    let file = member.disk.bytes(&path_beside(Path::new(DATABASE))).unwrap();
    let there = durable.open(&path_beside(Path::new(DATABASE)), true).unwrap();
    there.write_all_at(&file, 0).unwrap();
    let opening = Member::compare_starts(&durable);
    let why = opening.unfit.unwrap_or_default();
    assert!(!opening.from_index_file && why.contains("links"), "{why}");
    // To the member itself it is good.
    member.checkpointer.step(true).unwrap();
    assert!(Member::compare_starts(&member.disk).from_index_file);
}

#[test]
fn no_flipped_bit_and_no_missing_end_of_the_file_is_believed() {
    let mut member = Member::new();
    for key in ["a/1", "a/2", "b", "a/1", "a/3"] {
        member.run(put(key, 0));
    }
    member.run(delete("b"));
    member.write_index_file();
    let path = path_beside(Path::new(DATABASE));
    let file = member.disk.bytes(&path).unwrap();
    for byte in 0..file.len() as u64 {
        let damaged = member.disk.restart();
        assert!(damaged.flip_bit(&path, byte, (byte % 8) as u8));
        let opening = Member::compare_starts(&damaged);
        // Three bytes of a frame's head mean nothing; they are in its checksum all the same.
        assert!(
            opening.unfit.is_some(),
            "bit {} of byte {byte} was believed",
            byte % 8
        );
    }
    for length in 0..file.len() {
        let damaged = member.disk.restart();
        assert!(damaged.damage(&path, |bytes| bytes.truncate(length)));
        let opening = Member::compare_starts(&damaged);
        assert!(opening.unfit.is_some(), "{length} bytes were enough");
    }
    assert!(Member::compare_starts(&member.disk).from_index_file);
}

/// No start from the file finds the loss, as the index knows the key all the same; and so it is no answer that there is none.
#[test]
fn a_row_that_was_lost_before_the_file_is_missed_when_it_is_read() {
    let mut member = Member::new();
    for key in ["a", "b"] {
        member.run(put(key, 0));
    }
    member.write_index_file();
    let tables = member.store.reader().tables();
    let stolen = crate::tables::WriteBatch {
        deletes: vec![Revision::new(2, 0)],
        meta: tables.meta().unwrap(),
        ..crate::tables::WriteBatch::default()
    };
    tables.write(&stolen, true).unwrap();
    drop(tables);
    let member = member.restart();
    assert!(member.store.opening().from_index_file);
    let read = |key: &'static str| {
        let range = Range {
            key: key.into(),
            ..Range::default()
        };
        member.store.reader().view().range(&range)
    };
    assert_eq!(read("b").unwrap().kvs.len(), 1);
    assert!(matches!(read("a"), Err(ReadError::Fault(Fault::Damaged { .. }))));
}

/// Each bite of an index file was a transaction once: while one was written beside puts, and that takes a while with millions
/// of keys, there were five times as many.
#[test]
fn an_index_file_is_written_and_rows_are_checked_without_a_transaction() {
    let mut member = Member::new();
    for number in 0..100 {
        member.run(put(&key(number), 0));
    }
    member.checkpointer.write_index_file();
    assert!(member.checkpointer.step(true).unwrap().index_file_pending);
    let bites = |member: &mut Member| {
        member.run(put("unwritten", 0));
        let unwritten = member.store.reader().unwritten_bytes();
        let mut bites = 0;
        while member.checkpointer.bite_without_commit().unwrap() {
            bites += 1;
        }
        assert_eq!(member.store.reader().unwritten_bytes(), unwritten);
        bites
    };
    assert!(bites(&mut member) > 1);
    assert!(member.disk.exists(&path_beside(Path::new(DATABASE))));
    assert!(!member.checkpointer.step(true).unwrap().index_file_pending);

    let mut member = member.restart();
    assert!(member.store.opening().from_index_file);
    assert!(bites(&mut member) > 0);
    assert!(!member.checkpointer.step(true).unwrap().check_pending);
}

/// A damaged block is met by whoever reads it, and by nobody for years if nobody does; so all are read after a start.
#[test]
fn rows_that_no_start_has_read_are_read_after_it() {
    /// Less than a block of the database file.
    const STRIDE: usize = 4_000;
    let mut member = Member::new();
    for number in 0..2_000 {
        member.run(put(&key(number as u8), 0));
        if number % 100 == 0 {
            member.checkpointer.step(false).unwrap();
        }
    }
    member.write_index_file();
    let whole = member.restart().disk;
    let length = whole.bytes(Path::new(DATABASE)).unwrap().len() as u64;
    let mut found = 0;
    for byte in (0..length).step_by(STRIDE) {
        let disk = whole.restart();
        let options = StoreOptions {
            database: DATABASE.into(),
            cache: CacheBudget {
                tables: 0,
                ..CacheBudget::default()
            },
        };
        let store = Store::open(Arc::new(disk.clone()), options).unwrap();
        assert!(store.opening().from_index_file);
        // Only now: with debug assertions the engine reads every page at start.
        assert!(disk.flip_bit(Path::new(DATABASE), byte, 3));
        let mut checkpointer = store.checkpointer();
        let checked = checkpointer.check_rows().and_then(|()| {
            while checkpointer.step(false)?.check_pending {}
            Ok(())
        });
        found += u32::from(checked.is_err());
    }
    // 2,000 rows fill so many blocks at least.
    assert!(found > 20, "only {found} damaged blocks were found");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, bool),
    Delete(u8),
    Txn(u8),
    Revoke,
    Compact(u64),
    Checkpoint(bool),
    Bite,
    WriteIndexFile,
    FinishIndexFile,
    Restart,
    PowerLoss(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..8, any::<bool>()).prop_map(|(key, leased)| Step::Put(key, leased)),
        4 => (0u8..8).prop_map(Step::Delete),
        2 => (0u8..8).prop_map(Step::Txn),
        1 => Just(Step::Revoke),
        3 => (0u64..6).prop_map(Step::Compact),
        6 => any::<bool>().prop_map(Step::Checkpoint),
        4 => Just(Step::Bite),
        3 => Just(Step::WriteIndexFile),
        1 => Just(Step::FinishIndexFile),
        1 => Just(Step::Restart),
        2 => any::<u64>().prop_map(Step::PowerLoss),
    ]
}

fn key(number: u8) -> String {
    format!("key/{:02}", number % 8 * 7 % 8)
}

proptest! {
    /// At any moment, also of a power loss, a start that trusts the index file finds what one finds that reads all rows.
    #[test]
    fn a_start_finds_the_same_with_the_file_and_without(steps in prop::collection::vec(step(), 1..80)) {
        const LEASE: i64 = 5;
        let mut member = Member::new();
        member.run(Command::LeaseGrant { id: LEASE, ttl: 60 });
        for step in steps {
            let revision = member.store.reader().revision();
            match step {
                Step::Put(number, leased) => {
                    let leased = leased && member.store.reader().leases().iter().any(|(id, _)| *id == LEASE);
                    member.run(put(&key(number), if leased { LEASE } else { 0 }));
                }
                Step::Delete(number) => member.run(delete(&key(number))),
                Step::Txn(number) => member.run(Command::Txn(Txn {
                    success: (0..3)
                        .map(|more| {
                            TxnOp::Put(Put {
                                key: key((number + more) % 8).into(),
                                value: "of txn".into(),
                                ..Put::default()
                            })
                        })
                        .collect(),
                    ..Txn::default()
                })),
                Step::Revoke => {
                    member.run(Command::LeaseRevoke { id: LEASE, expiry_term: None });
                    member.run(Command::LeaseGrant { id: LEASE, ttl: 60 });
                }
                Step::Compact(back) => member.run(Command::Compact {
                    revision: revision.saturating_sub(back).cast_signed(),
                }),
                Step::Checkpoint(durable) => {
                    member.checkpointer.step(durable).unwrap();
                }
                Step::Bite => {
                    member.checkpointer.bite_without_commit().unwrap();
                }
                Step::WriteIndexFile => {
                    member.checkpointer.write_index_file();
                    member.checkpointer.step(true).unwrap();
                }
                Step::FinishIndexFile => member.checkpointer.finish_index_file(),
                Step::Restart => {
                    member.checkpointer.step(true).unwrap();
                    member = member.restart();
                }
                Step::PowerLoss(seed) => {
                    // The log would bring back what the database lacks.
                    let disk = member.disk.crash(seed);
                    Member::compare_starts(&disk);
                    member = Member::start(disk, member.seq);
                    if !member.store.reader().leases().iter().any(|(id, _)| *id == LEASE) {
                        member.run(Command::LeaseGrant { id: LEASE, ttl: 60 });
                    }
                }
            }
            Member::compare_starts(&member.disk);
        }
    }
}
