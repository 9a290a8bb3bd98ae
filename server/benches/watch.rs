//! What an event costs in the watch hub: finding its watchers, encoding it once, and a response for each of them, taken
//! by its client. Sockets are not part of it.

#![allow(missing_docs, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kelson_server::watch::testing::fan_out::FanOut;

const VALUE_BYTES: usize = 256;
/// As many streams as a few apiservers open.
const STREAMS: usize = 16;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("watch");
    group.sample_size(20);
    // Watchers, keys they watch in turn, and responses per event.
    for (watchers, keys) in [(1, 1), (10_000, 10_000), (100_000, 100_000), (100, 1), (1_000, 1)] {
        let mut fan_out = FanOut::new(watchers, keys, STREAMS, VALUE_BYTES);
        let per_event = watchers / keys;
        group.throughput(Throughput::Elements(per_event as u64));
        let name = BenchmarkId::new(format!("{watchers} watchers"), format!("{keys} keys"));
        group.bench_function(name, |bencher| {
            let mut number = 0;
            bencher.iter(|| {
                number = (number + 7919) % keys;
                let taken = fan_out.put(number);
                assert_eq!(taken, per_event);
            });
        });
    }
    // All of them watch other keys.
    for watchers in [0, 100_000] {
        let mut fan_out = FanOut::new(watchers, watchers.max(1), STREAMS, VALUE_BYTES);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("nobody's event", watchers), |bencher| {
            bencher.iter(|| assert_eq!(fan_out.put(watchers), 0));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
