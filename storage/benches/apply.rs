//! What one command costs in apply: everything between a committed entry's bytes and the outcomes, the events and the
//! rows for the database. Writing behind is outside the measured time, which is CPU time of the applying thread: what
//! else runs on the machine does not count.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kelson_storage::applied::Outcome;
use kelson_storage::codec::encode_batch;
use kelson_storage::command::*;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{ApplySink, Checkpointer, Store, StoreOptions};

const VALUE_BYTES: usize = 256;
const COMMANDS_PER_ENTRY: u64 = 256;

/// Drops everything, like the sink of a member whose clients are elsewhere.
struct Nobody;

impl ApplySink for Nobody {
    fn outcome(&mut self, _: CommandId, _: Outcome) {}
    fn lease_granted(&mut self, _: i64, _: i64) {}
    fn lease_revoked(&mut self, _: i64) {}
}

struct Bench {
    _directory: tempfile::TempDir,
    store: Store,
    checkpointer: Checkpointer,
    index: u64,
    seq: u64,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            database: directory.path().join("db"),
            overlay_bytes: 32 << 20,
            event_ring_bytes: 16 << 20,
        };
        let store = Store::open(Arc::new(RealDisk::without_sync()), options).unwrap();
        Self {
            checkpointer: store.checkpointer(),
            store,
            _directory: directory,
            index: 0,
            seq: 0,
        }
    }

    /// The bytes of an entry of commands.
    fn entry(&mut self, commands: impl Iterator<Item = Command>) -> Bytes {
        let low = self.seq + 1;
        let proposals: Vec<_> = commands
            .map(|command| {
                self.seq += 1;
                let id = CommandId {
                    origin: 0x1234_5678_9abc_def0,
                    session: 1,
                    seq: self.seq,
                };
                Proposal { id, low, command }
            })
            .collect();
        encode_batch(&proposals)
    }

    fn apply(&mut self, entry: &Bytes) {
        let at = LogPosition {
            term: 1,
            index: self.index,
        };
        self.store.apply_batch(at, entry, &mut Nobody).unwrap();
        self.index += 1;
    }

    /// Fills the store with `keys` keys.
    fn fill(&mut self, keys: u64) {
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        let mut key = 0;
        while key < keys {
            let entry = self.entry((key..key + COMMANDS_PER_ENTRY).map(|key| put(key, &value)));
            self.apply(&entry);
            key += COMMANDS_PER_ENTRY;
            if key % (64 * COMMANDS_PER_ENTRY) == 0 {
                self.checkpointer.step(false).unwrap();
            }
        }
        self.checkpointer.step(false).unwrap();
    }

    /// Time to apply `commands` commands, in entries of the usual size.
    fn time(&mut self, commands: u64, mut command: impl FnMut(u64) -> Command) -> Duration {
        let mut total = Duration::ZERO;
        let mut done = 0;
        while done < commands {
            let count = COMMANDS_PER_ENTRY.min(commands - done);
            let entry = self.entry((done..done + count).map(&mut command));
            let start = cpu_time();
            self.apply(&entry);
            total += cpu_time() - start;
            done += count;
            if done % (16 * COMMANDS_PER_ENTRY) == 0 {
                self.checkpointer.step(false).unwrap();
            }
        }
        total
    }
}

/// CPU time this thread has used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every thread has a CPU clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("/registry/pods/namespace/{number:016x}"))
}

fn put(number: u64, value: &Bytes) -> Command {
    Command::Put(Put {
        key: key(number),
        value: value.clone(),
        ..Put::default()
    })
}

/// A number below `below`, without pattern.
fn scatter(number: u64, below: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % below
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    let value = Bytes::from(vec![b'w'; VALUE_BYTES]);
    for keys in [1_000, 100_000, 1_000_000] {
        let mut bench = Bench::new();
        bench.fill(keys);
        group.bench_function(BenchmarkId::new("overwrite 256 B", keys), |bencher| {
            bencher.iter_custom(|commands| bench.time(commands, |number| put(scatter(number, keys), &value)));
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
            bencher.iter_custom(|commands| bench.time(commands, txn));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
