//! What it costs to make a gRPC message of pairs that have been read: the stored bytes go into the frame as they are.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kelson_proto::{etcdserverpb as pb, mvccpb};
use kelson_server::convert::range_reply;
use kelson_server::services::grpc::outbound::encode;
use kelson_storage::applied::RangeResult;
use prost::Message;

const VALUE_BYTES: usize = 1024;

fn record(number: usize) -> Bytes {
    let pair = mvccpb::KeyValue {
        key: Bytes::from(format!("/registry/pods/namespace/{number:016x}")),
        create_revision: 1_000_000,
        mod_revision: 1_000_000,
        version: 1,
        value: Bytes::from(vec![b'v'; VALUE_BYTES]),
        lease: 0,
    };
    pair.encode_to_vec().into()
}

fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("encode");
    // A get, a page of a list, and a list that is encoded beside the runtime.
    for pairs in [1, 500, 10_000] {
        let kvs: Vec<Bytes> = (0..pairs).map(record).collect();
        group.throughput(Throughput::Elements(pairs as u64));
        group.bench_function(BenchmarkId::new("range reply of 1 KiB pairs", pairs), |bencher| {
            bencher.iter(|| {
                let result = RangeResult {
                    kvs: kvs.clone(),
                    more: false,
                    count: pairs as u64,
                };
                let reply = range_reply(pb::ResponseHeader::default(), result);
                runtime.block_on(encode(reply)).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
