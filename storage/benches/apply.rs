//! What one command costs in apply: everything between a committed entry's bytes and the outcomes, the events and the
//! rows for the database. Writing behind is outside the measured time, which is CPU time of the applying thread: what
//! else runs on the machine does not count.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

mod store;

use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kelson_storage::command::*;

use store::{Bench, COMMANDS_PER_ENTRY, VALUE_BYTES, cpu_time, key, put, scatter};

/// Time to apply `commands` commands, in entries of the usual size.
fn time(bench: &mut Bench, commands: u64, mut command: impl FnMut(u64) -> Command) -> Duration {
    let mut total = Duration::ZERO;
    let mut done = 0;
    while done < commands {
        let count = COMMANDS_PER_ENTRY.min(commands - done);
        let entry = bench.entry((done..done + count).map(&mut command));
        let start = cpu_time();
        bench.apply(&entry);
        total += cpu_time() - start;
        done += count;
        if done % (16 * COMMANDS_PER_ENTRY) == 0 {
            bench.checkpointer.step(false).unwrap();
        }
    }
    total
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    let value = Bytes::from(vec![b'w'; VALUE_BYTES]);
    for keys in [1_000, 100_000, 1_000_000] {
        let mut bench = Bench::new();
        bench.fill(keys);
        group.bench_function(BenchmarkId::new("overwrite 256 B", keys), |bencher| {
            bencher.iter_custom(|commands| {
                time(&mut bench, commands, |number| put(scatter(number, keys), &value))
            });
        });
        group.bench_function(BenchmarkId::new("compare and overwrite 256 B", keys), |bencher| {
            let txn = |number| {
                let key = key(scatter(number, keys));
                Command::Txn(Txn {
                    compares: vec![Compare {
                        key: key.clone(),
                        range_end: Bytes::new(),
                        result: CompareResult::Greater,
                        operand: CompareOperand::Mod(0),
                    }],
                    success: vec![TxnOp::Put(Put {
                        key,
                        value: value.clone(),
                        ..Put::default()
                    })],
                    failure: Vec::new(),
                })
            };
            bencher.iter_custom(|commands| time(&mut bench, commands, txn));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
