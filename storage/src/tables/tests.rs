//! Tests of the tables.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::*;
use crate::disk::DiskFile;

#[derive(Debug)]
struct TestDisk;
#[derive(Debug)]
struct TestFile(File);

impl Disk for TestDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false);
        Ok(Arc::new(TestFile(options.open(path)?)))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<_> = fs::read_dir(directory)?
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        Ok(names)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

impl DiskFile for TestFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn try_lock(&self) -> io::Result<()> {
        Ok(self.0.try_lock()?)
    }
}

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
    let tables = Tables::open(Arc::new(TestDisk), &path).unwrap();
    assert_eq!(tables.meta().unwrap(), Meta::default());
    assert_eq!(all_rows(&tables), vec![]);
    assert_eq!(tables.leases().unwrap(), vec![]);
    assert_eq!(TestDisk.list(directory.path()).unwrap(), ["db"]);
}

#[test]
fn what_was_written_is_read_before_and_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let tables = Tables::open(Arc::new(TestDisk), &path).unwrap();
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
    check(&Tables::open(Arc::new(TestDisk), &path).unwrap());
}
