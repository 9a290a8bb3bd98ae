//! Tests of the tables.

use bytes::Bytes;

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

#[test]
fn a_fresh_database_is_at_revision_one_and_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path).unwrap();
    assert_eq!(tables.meta().unwrap(), Meta::default());
    assert_eq!(all_rows(&tables), vec![]);
    assert_eq!(tables.leases().unwrap(), vec![]);
    assert_eq!(RealDisk::new().list(directory.path()).unwrap(), ["db"]);
}

#[test]
fn what_was_written_is_read_before_and_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(RealDisk::new()), &path).unwrap();
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
    check(&Tables::open(Arc::new(RealDisk::new()), &path).unwrap());
}
