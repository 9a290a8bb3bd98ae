//! What one group commit costs, on the disk under `target/`: writing a group, writing and syncing it, reading back.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kelson_storage::limits::WAL_SEGMENT_BYTES;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;
use kelson_storage::wal::{Wal, WalEntry, WalOptions};

/// Bytes of a small put as it stands in the log.
const ENTRY_BYTES: usize = 320;
/// Entries kept behind the newest one, so that segments are used again.
const ENTRIES_KEPT: u64 = 10_000;

/// A log in a scratch directory, with its spares filled.
struct Log {
    wal: Wal,
    next: u64,
    _scratch: tempfile::TempDir,
}

impl Log {
    fn new(disk: RealDisk) -> Self {
        // Not the system's scratch directory, which may be in memory.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("target is writable");
        let options = WalOptions {
            directory: scratch.path().join("wal"),
            cluster_id: 1,
            member_id: 1,
            segment_bytes: WAL_SEGMENT_BYTES,
        };
        let (mut wal, _) = Wal::open(Arc::new(disk), options, true).expect("the disk works");
        while wal.tidy().expect("the disk works") {}
        Self {
            wal,
            next: 0,
            _scratch: scratch,
        }
    }

    fn group(&mut self, entries: &[Bytes], sync: bool) {
        for payload in entries {
            let position = LogPosition {
                term: 1,
                index: self.next,
            };
            let entry = WalEntry {
                position,
                payload: payload.clone(),
            };
            self.wal.append(&entry).expect("the disk works");
            self.next += 1;
        }
        if self.next % 1024 < entries.len() as u64 && self.next > ENTRIES_KEPT {
            let index = self.next - ENTRIES_KEPT;
            self.wal
                .purge(LogPosition { term: 1, index })
                .expect("the disk works");
        }
        self.wal.flush(sync).expect("the disk works");
    }
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal");
    for (name, disk) in [
        ("write", RealDisk::without_sync()),
        ("write_and_sync", RealDisk::new()),
    ] {
        for count in [1, 100, 1000] {
            let entries = vec![Bytes::from(vec![7; ENTRY_BYTES]); count];
            let mut log = Log::new(disk);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}_{count}"), |bencher| {
                bencher.iter_batched(|| (), |()| log.group(&entries, true), BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let mut log = Log::new(RealDisk::without_sync());
    let entries = vec![Bytes::from(vec![7; ENTRY_BYTES]); 1000];
    for _ in 0..10 {
        log.group(&entries, true);
    }
    let reader = log.wal.reader();
    let mut group = criterion.benchmark_group("wal_read");
    for count in [1, 100, 1000] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(count.to_string(), |bencher| {
            bencher.iter(|| black_box(reader.read(5000, 5000 + count, usize::MAX)).expect("the disk works"));
        });
    }
    group.finish();
}

criterion_group!(benches, groups, reads);
criterion_main!(benches);
