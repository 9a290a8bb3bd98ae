//! The database on a disk that loses, fails and rots: after every crash it holds exactly what one write left, no older
//! than the last durable one; and what is damaged is the same as before or a fault that names the file.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::disk::Disk;
use kelson_storage::error::Fault;
use kelson_storage::revision::{LogPosition, Revision};
use kelson_storage::tables::{LeaseRow, Meta, Row, Tables, WriteBatch, remove_leftovers};
use kelson_storage::testing::{FaultyDisk, Random};

mod crashes;
mod damage;

const DIRECTORY: &str = "/data";
const DATABASE: &str = "/data/db";

/// Everything that a database says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Contents {
    meta: Meta,
    leases: Vec<LeaseRow>,
    rows: Vec<(Revision, Row)>,
}

impl Contents {
    fn of(tables: &Tables) -> Result<Self, Fault> {
        let mut rows = Vec::new();
        tables.scan(|revision, row| {
            rows.push((revision, row));
            Ok(())
        })?;
        for (revision, row) in rows.iter().step_by(7) {
            assert_eq!(tables.read(*revision)?.as_ref(), Some(row));
        }
        Ok(Self {
            meta: tables.meta()?,
            leases: tables.leases()?,
            rows,
        })
    }

    /// What `batch` makes of it.
    fn apply(&mut self, batch: &WriteBatch) {
        self.rows
            .extend(batch.rows.iter().map(|(at, row)| (*at, (**row).clone())));
        self.rows.retain(|(at, _)| !batch.deletes.contains(at));
        self.leases.extend(&batch.leases_put);
        self.leases
            .retain(|lease| !batch.leases_removed.contains(&lease.id));
        self.leases.sort_by_key(|lease| lease.id);
        self.meta = batch.meta.clone();
    }

    /// Some change of it: new rows, small and large ones, deletions, leases, another position.
    fn next_batch(&self, random: &mut Random) -> WriteBatch {
        let index = self.meta.applied.map_or(0, |applied| applied.index) + 1;
        let mut main = self.meta.revision;
        let mut rows = Vec::new();
        for _ in 0..random.below(40) {
            main += 1;
            for sub in 0..=random.below(2) as u32 {
                rows.push((Revision::new(main, sub), Arc::new(some_row(random))));
            }
        }
        let mut deletes: Vec<_> = self.rows.iter().map(|(revision, _)| *revision).collect();
        let dying = [0, 1, 6][random.place(3)];
        deletes.retain(|_| random.chance(dying, 10));
        let id = 1 + random.below(1 << 40) as i64;
        WriteBatch {
            rows,
            deletes,
            leases_put: vec![LeaseRow { id, ttl: 9 }],
            leases_removed: self
                .leases
                .iter()
                .map(|lease| lease.id)
                .filter(|_| random.chance(1, 4))
                .collect(),
            meta: Meta {
                applied: Some(LogPosition { term: 1, index }),
                revision: main,
                hash: random.below(u64::MAX),
                sessions: Bytes::from(vec![3; random.place(3000)]),
                ..Meta::default()
            },
        }
    }
}

fn some_row(random: &mut Random) -> Row {
    let length = [20, 300, 5000, 40_000][[0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 3][random.place(11)]];
    Row {
        tombstone: random.chance(1, 5),
        previous: random.chance(1, 2).then(|| Revision::new(random.below(9), 0)),
        kv: Bytes::from(vec![random.below(256) as u8; random.place(length)]),
    }
}

/// An empty disk with the data directory.
fn disk() -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_directory(Path::new(DIRECTORY)).unwrap();
    disk
}

/// What a start does.
fn open(disk: &FaultyDisk) -> Result<Tables, Fault> {
    remove_leftovers(disk, Path::new(DIRECTORY))?;
    Tables::open(Arc::new(disk.clone()), Path::new(DATABASE), 1 << 20)
}
