//! Tests of the tables.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::real_disk::RealDisk;

fn row(value: usize, previous: Option<Revision>) -> Arc<Row> {
    Arc::new(Row {
        tombstone: false,
        previous,
        kv: Bytes::from(vec![7; value]),
    })
}

fn batch(from: u64, to: u64) -> WriteBatch {
    WriteBatch {
        rows: (from..to)
            .map(|main| (Revision::new(main, 0), row(main as usize % 50, None)))
            .collect(),
        meta: Meta {
            revision: to - 1,
            ..Meta::default()
        },
        ..WriteBatch::default()
    }
}

fn all_rows(tables: &Tables) -> Vec<(Revision, Row)> {
    let mut rows = Vec::new();
    tables
        .scan(|revision, row| {
            rows.push((revision, row));
            Ok(())
        })
        .unwrap();
    rows
}

/// One write of those that readers and free space are tested with.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Sizes of new rows.
    pub(super) rows: Vec<usize>,
    /// First revision, step and number of those to delete.
    pub(super) deletes: (u64, u64, u64),
    pub(super) durable: bool,
    /// What it left is looked at again later.
    pub(super) keep: bool,
}

/// Steps of fewer than `rows` rows; of 25, `large` have many pages for themselves.
pub(super) fn step(rows: usize, large: u32) -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        22 - large => 0usize..600,
        3 => 1_000usize..9_000,
        large => 30_000usize..200_000,
    ];
    let rows = prop::collection::vec(size, 0..rows);
    let deletes = (0u64..300, 1u64..9, 0u64..150);
    (rows, deletes, any::<bool>(), any::<bool>()).prop_map(|(rows, deletes, durable, keep)| Step {
        rows,
        deletes,
        durable,
        keep,
    })
}

#[test]
fn a_fresh_database_is_at_revision_one_and_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    assert_eq!(tables.meta().unwrap(), Meta::default());
    assert_eq!(all_rows(&tables), vec![]);
    assert_eq!(tables.leases().unwrap(), vec![]);
    assert_eq!(RealDisk::new().list(directory.path()).unwrap(), ["db"]);
}

#[test]
fn what_was_written_is_read_before_and_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    tables.write(&batch(2, 50), false).unwrap();
    tables.write(&batch(50, 90), true).unwrap();
    let mut last = batch(90, 91);
    last.deletes = vec![Revision::new(3, 0), Revision::new(500, 0)];
    last.leases_put = vec![LeaseRow { id: -4, ttl: 5 }, LeaseRow { id: 9, ttl: 7 }];
    last.leases_removed = vec![9, 10];
    tables.write(&last, false).unwrap();
    let expected: Vec<_> = (2..91)
        .filter(|main| *main != 3)
        .map(|main| {
            let row = row(main as usize % 50, None);
            (Revision::new(main, 0), (*row).clone())
        })
        .collect();
    let check = |tables: &Tables| {
        assert_eq!(all_rows(tables), expected);
        assert_eq!(tables.meta().unwrap().revision, 90);
        assert_eq!(tables.leases().unwrap(), [LeaseRow { id: -4, ttl: 5 }]);
        assert_eq!(tables.read(Revision::new(3, 0)).unwrap(), None);
        let (revision, row) = expected[1].clone();
        assert_eq!(tables.read(revision).unwrap(), Some(row));
    };
    check(&tables);
    tables.close().unwrap();
    check(&Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap());
}

/// What redb counts, by reading every page.
fn counted(tables: &Tables) -> u64 {
    let transaction = tables.engine.database.begin_write().unwrap();
    let pages = transaction.stats().unwrap().allocated_pages();
    transaction.abort().unwrap();
    pages * 4096
}

#[test]
fn the_reckoned_size_stays_close_to_the_pages_that_redb_counts() {
    for value in [10, 290, 1500, 2100, 5000, 16_500, 30_000] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let tables = Tables::open(Arc::new(RealDisk::without_sync()), &path, 1 << 20).unwrap();
        let count = 30_000_000 / (value as u64 + 500);
        let check = |what: &str| {
            tables.write(&WriteBatch::default(), true).unwrap();
            let (size, counted) = (tables.size(), counted(&tables));
            assert!(0 < size.allocated && size.in_use <= size.allocated);
            // What it may be off by is bounded: a quarter, and the few MiB of the engine's own pages.
            let slack = 3 << 20;
            assert!(
                size.allocated + slack >= counted / 4 * 3 && size.allocated <= counted / 2 * 3 + slack,
                "{what} values of {value}: reckoned {size:?}, counted {counted}"
            );
        };
        check("no");
        for from in (2..count).step_by(500) {
            let rows = (from..from + 500).map(|main| (Revision::new(main, 0), row(value, None)));
            let rows = rows.collect();
            let batch = WriteBatch {
                rows,
                ..WriteBatch::default()
            };
            tables.write(&batch, from % 3 == 0).unwrap();
        }
        check("appended");
        for tenths in [3, 5, 7, 9, 10] {
            let deletes = (2..count + 500).filter(|main| main * 7919 % 10 < tenths);
            let batch = WriteBatch {
                deletes: deletes.map(|main| Revision::new(main, 0)).collect(),
                ..WriteBatch::default()
            };
            tables.write(&batch, true).unwrap();
            check(&format!("after deleting {tenths} tenths:"));
        }
    }
}

/// How many pieces the tables hold.
fn pieces(tables: &Tables) -> u64 {
    let transaction = tables.engine.database.begin_write().unwrap();
    let pieces = redb::ReadableTableMetadata::len(&transaction.open_table(PIECES).unwrap()).unwrap();
    transaction.abort().unwrap();
    pieces
}

/// Of rows a little larger than 16 KiB each took 32 once.
#[test]
fn large_rows_take_little_more_than_what_is_in_them() {
    for value in [4_100, 8_250, 16_500, 33_000, 500_000] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let tables = Tables::open(Arc::new(RealDisk::without_sync()), &path, 1 << 20).unwrap();
        tables.write(&WriteBatch::default(), true).unwrap();
        let empty = counted(&tables);
        let number = 30_000_000 / value as u64;
        let rows = (2..2 + number).map(|main| (Revision::new(main, 0), row(value, None)));
        let batch = WriteBatch {
            rows: rows.collect(),
            ..WriteBatch::default()
        };
        tables.write(&batch, true).unwrap();
        let taken = counted(&tables) - empty;
        let held = value as u64 * number;
        assert!(
            taken < held / 100 * 106,
            "rows of {value}: {held} bytes take {taken}"
        );
    }
}

#[test]
fn a_database_from_before_there_were_pieces_is_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    tables.write(&batch(2, 50), true).unwrap();
    let transaction = tables.engine.database.begin_write().unwrap();
    transaction.delete_table(PIECES).unwrap();
    transaction.commit().unwrap();
    tables.close().unwrap();
    let tables = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    let mut rows = all_rows(&tables);
    assert_eq!(rows.len(), 48);
    let large = row(20_000, None);
    let batch = WriteBatch {
        rows: vec![(Revision::new(50, 0), large.clone())],
        ..WriteBatch::default()
    };
    tables.write(&batch, false).unwrap();
    rows.push((Revision::new(50, 0), (*large).clone()));
    assert_eq!(all_rows(&tables), rows);
}

#[test]
fn a_repeated_write_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    tables.write(&batch(2, 50), true).unwrap();
    let rows = all_rows(&tables);
    let size = tables.size();
    tables.write(&batch(2, 50), true).unwrap();
    assert_eq!(all_rows(&tables), rows);
    assert_eq!(tables.size().in_use, size.in_use);
}

#[test]
fn reading_from_a_revision_returns_as_much_as_asked_for_and_at_least_one_row() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    let rows = (2..20).map(|main| (Revision::new(main, 0), row(100, None)));
    let batch = WriteBatch {
        rows: rows.collect(),
        ..WriteBatch::default()
    };
    tables.write(&batch, false).unwrap();
    let mains = |from, bytes| {
        let rows = tables.read_from(Revision::new(from, 0), bytes).unwrap();
        rows.iter().map(|(at, _)| at.main).collect::<Vec<_>>()
    };
    assert_eq!(mains(0, 0), [2]);
    assert_eq!(mains(5, 300), [5, 6, 7]);
    assert_eq!(mains(5, 399), [5, 6, 7]);
    assert_eq!(mains(18, 10_000), [18, 19]);
    assert_eq!(mains(20, 10_000), []);
}

#[test]
fn a_database_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let _held = Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20).unwrap();
    match Tables::open(Arc::new(RealDisk::new()), &path, 1 << 20) {
        Err(Fault::Unusable { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_newer_state_record_is_refused_as_newer() {
    let mut record = meta::encode(&Meta::default(), Counts::default());
    record[7] = 3;
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(meta::decode(&record), Err(meta::BadMeta::Newer(3)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Rows are deleted one by one or in walks, as they lie. Either way those rows go and no others, and the counts follow.
    #[test]
    fn deleted_rows_are_gone_and_no_others_are(
        sizes in prop::collection::vec((1u32..4, prop_oneof![9 => 0usize..600, 1 => 3_000usize..14_000]), 100..400),
        deletes in prop::collection::vec(prop::collection::vec((0u64..1_000, 0u32..4, 1u64..40), 1..30), 1..5),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let tables = Tables::open(Arc::new(RealDisk::without_sync()), &path, 1 << 20).unwrap();
        let mut model = BTreeMap::new();
        for (main, (subs, bytes)) in (2..).zip(sizes) {
            for sub in 0..subs {
                model.insert(Revision::new(main, sub), row(bytes, None));
            }
        }
        let rows = model.iter().map(|(revision, row)| (*revision, row.clone())).collect();
        tables.write(&WriteBatch { rows, ..WriteBatch::default() }, false).unwrap();
        for runs in deletes {
            let runs = runs.into_iter().flat_map(|(first, sub, step)| {
                (0..8).map(move |number| Revision::new(first + number * step, sub))
            });
            let deletes: Vec<_> = runs.collect();
            tables.write(&WriteBatch { deletes: deletes.clone(), ..WriteBatch::default() }, false).unwrap();
            model.retain(|revision, _| !deletes.contains(revision));
            let left: Vec<_> = all_rows(&tables).into_iter().map(|(revision, _)| revision).collect();
            prop_assert_eq!(left, model.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(tables.contents().rows, model.len() as u64);
            let in_pieces = |row: &Row| row.kv.len().saturating_sub(4_055).div_ceil(4_072);
            prop_assert_eq!(pieces(&tables), model.values().map(|row| in_pieces(row) as u64).sum::<u64>());
            let bytes = model.values().map(|row| {
                // Checksum, flags and the key; with pieces, how many bytes they have and their keys.
                let of_pieces = match in_pieces(row) {
                    0 => 0,
                    pieces => 4 + pieces * piece::KEY_BYTES,
                };
                row.kv.len() + 5 + Revision::ENCODED_BYTES + of_pieces
            });
            prop_assert_eq!(tables.contents().row_bytes, bytes.sum::<usize>() as u64);
        }
    }
}
