//! What the index costs, by number of keys: insert, get, count, and a listing with limit 1.
//!
//! Keys look like Kubernetes' (about 50 bytes) and are visited in an order without locality. Memory per key is printed
//! beside the times, since it is the other half of the promise.

use std::hint::black_box;
use std::ops::ControlFlow;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kelson_storage::mvcc::index::{Index, KeyMeta};
use kelson_storage::revision::Revision;

const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];

/// A fixed sequence that looks random (SplitMix64).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn key(number: u64) -> Vec<u8> {
    let random = scatter(number);
    let namespace = random % 100;
    format!("/registry/pods/namespace-{namespace:02}/pod-{random:020}").into_bytes()
}

fn meta(revision: u64) -> KeyMeta {
    KeyMeta {
        create: revision,
        modified: Revision::new(revision, 0),
        version: 1,
        lease: 0,
        bytes: 300,
        live: true,
    }
}

fn loaded(keys: u64) -> Index {
    let mut entries: Vec<_> = (0..keys)
        .map(|number| (Bytes::from(key(number)), meta(number)))
        .collect();
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Index::bulk_load(entries)
}

/// Keys made beforehand, each asked for once per round.
struct Keys {
    keys: Vec<Vec<u8>>,
    next: usize,
}

impl Keys {
    fn numbered(numbers: std::ops::Range<u64>) -> Self {
        Self {
            keys: numbers.map(key).collect(),
            next: 0,
        }
    }

    fn next(&mut self) -> &[u8] {
        self.next = (self.next + 1) % self.keys.len();
        &self.keys[self.next]
    }
}

fn writes(criterion: &mut Criterion) {
    for keys in SIZES {
        let mut group = criterion.benchmark_group(format!("index/{keys}"));
        let mut index = Index::new();
        for number in 0..keys {
            index.insert(&key(number), meta(number));
        }
        println!(
            "{keys} keys inserted: {} bytes per key",
            index.view().heap_bytes() as u64 / keys
        );

        let mut present = Keys::numbered(0..keys);
        group.bench_function("update", |bencher| {
            bencher.iter(|| index.insert(present.next(), meta(7)));
        });
        // Inserted and removed by turns, so that the size stays what the name says.
        let mut absent = Keys::numbered(keys..keys * 2);
        group.bench_function("insert and remove", |bencher| {
            bencher.iter(|| {
                let key = absent.next();
                index.insert(key, meta(7));
                index.remove(key)
            });
        });
        let batch = keys / 10;
        group.sample_size(10);
        group.bench_function(format!("insert {batch} new"), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let mut index = Index::new();
                    for number in 0..keys {
                        index.insert(&key(number), meta(number));
                    }
                    (index, Keys::numbered(keys..keys + batch))
                },
                |(index, new)| {
                    for _ in 0..batch {
                        index.insert(new.next(), meta(7));
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn writes_beside_a_reader(criterion: &mut Criterion) {
    for keys in SIZES {
        let mut group = criterion.benchmark_group(format!("index/{keys}"));
        let mut index = loaded(keys);
        let mut present = Keys::numbered(0..keys);
        // A reader takes a new root after every 32 writes, as apply lets one in that often at most.
        let mut root = index.root();
        let mut writes = 0;
        group.bench_function("update, root taken every 32", |bencher| {
            bencher.iter(|| {
                writes += 1;
                if writes % 32 == 0 {
                    root = index.root();
                }
                index.insert(present.next(), meta(7))
            });
        });
        black_box(root);
    }
}

fn reads(criterion: &mut Criterion) {
    for keys in SIZES {
        let mut group = criterion.benchmark_group(format!("index/{keys}"));
        let index = loaded(keys);
        println!(
            "{keys} keys loaded: {} bytes per key",
            index.view().heap_bytes() as u64 / keys
        );
        let root = index.root();
        let mut present = Keys::numbered(0..keys);
        group.bench_function("get", |bencher| bencher.iter(|| root.get(present.next())));
        group.bench_function("count", |bencher| {
            bencher.iter(|| root.count(present.next(), Some(b"/registry/pods/namespace-80")));
        });
        group.bench_function("limit 1 and count", |bencher| {
            bencher.iter(|| {
                let start = present.next();
                let mut first = None;
                root.for_each(start, None, |key, meta| {
                    first = Some((key.len(), meta.modified));
                    ControlFlow::Break(())
                });
                (first, root.count(start, None))
            });
        });
        group.sample_size(10);
        group.bench_function("walk all", |bencher| {
            bencher.iter(|| {
                let mut bytes = 0;
                root.for_each(b"", None, |key, _| {
                    bytes += key.len();
                    ControlFlow::Continue(())
                });
                bytes
            });
        });
    }
}

fn loads(criterion: &mut Criterion) {
    for keys in SIZES {
        let mut entries: Vec<_> = (0..keys)
            .map(|number| (Bytes::from(key(number)), meta(number)))
            .collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut group = criterion.benchmark_group(format!("index/{keys}"));
        group.sample_size(10);
        group.bench_function("bulk load", |bencher| {
            bencher.iter_batched(|| entries.clone(), Index::bulk_load, BatchSize::PerIteration);
        });
    }
}

criterion_group! {
    name = index;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = writes, writes_beside_a_reader, reads, loads
}
criterion_main!(index);
