//! What compaction costs, by the number of keys that live on beside what is forgotten: CPU time of the storage thread per
//! dead revision, and the longest bite, which is how long a checkpoint is held up.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

mod store;

use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kelson_storage::command::Command;

use store::{Bench, COMMANDS_PER_ENTRY, VALUE_BYTES, cpu_time, put, scatter};

/// Revisions that one compaction forgets.
const DEAD: u64 = 50_000;

/// Overwrites `DEAD` keys. Returns the revision afterwards, if it was `revision` before.
fn overwrite(bench: &mut Bench, keys: u64, revision: u64) -> u64 {
    let value = Bytes::from(vec![b'w'; VALUE_BYTES]);
    for first in (0..DEAD).step_by(COMMANDS_PER_ENTRY as usize) {
        let numbers = first..(first + COMMANDS_PER_ENTRY).min(DEAD);
        let entry = bench.entry(numbers.map(|number| put(scatter(revision + number, keys), &value)));
        bench.apply(&entry);
        bench.checkpointer.step(false).unwrap();
    }
    revision + DEAD
}

/// Compacts to `revision`. Returns what that took in all, and in its longest bite.
fn compact(bench: &mut Bench, revision: u64) -> (Duration, Duration) {
    let command = Command::Compact {
        revision: revision as i64,
    };
    let entry = bench.entry([command].into_iter());
    bench.apply(&entry);
    let (mut total, mut longest) = (Duration::ZERO, Duration::ZERO);
    loop {
        let start = cpu_time();
        let step = bench.checkpointer.step(false).unwrap();
        let took = cpu_time() - start;
        total += took;
        longest = longest.max(took);
        if !step.compaction_pending {
            return (total, longest);
        }
    }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compaction");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for keys in [10_000, 100_000, 1_000_000] {
        let mut bench = Bench::new();
        bench.fill(keys);
        let mut revision = 1 + keys.next_multiple_of(COMMANDS_PER_ENTRY);
        let mut longest = Duration::ZERO;
        group.bench_function(BenchmarkId::new("dead revision", keys), |bencher| {
            // However many are asked for, whole compactions are measured, and their mean is reported.
            bencher.iter_custom(|revisions| {
                revision = overwrite(&mut bench, keys, revision);
                let (total, bite) = compact(&mut bench, revision);
                longest = longest.max(bite);
                total.div_f64(DEAD as f64 / revisions as f64)
            });
        });
        println!("compaction among {keys} keys: longest bite {longest:?}");
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
