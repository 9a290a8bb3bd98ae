//! RangeStream: Range in pieces.

use kelson_proto::etcdserverpb::{
    self as pb,
    range_request::{SortOrder, SortTarget},
};
use tonic::{Code, Status};

use crate::harness::client::{everything, put, single};
use crate::harness::{Client, Cluster, assert_refused};

async fn pieces(client: &Client, request: pb::RangeRequest) -> Result<Vec<pb::RangeResponse>, Status> {
    let mut stream = client.kv().range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece.range_response.expect("every piece is a range response"));
    }
    Ok(pieces)
}

async fn fill(client: &Client, pairs: usize) {
    let puts = (0..pairs)
        .map(|n| pb::request_op::Request::RequestPut(put(&format!("{n:04}"), "v")))
        .collect();
    client.run(puts).await.expect("txn succeeds");
}

#[tokio::test]
async fn the_pieces_make_up_the_unary_reply() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    fill(&client, 100).await;
    let limited = pb::RangeRequest {
        limit: 42,
        ..everything()
    };
    let counted = pb::RangeRequest {
        count_only: true,
        ..everything()
    };
    let keys_only = pb::RangeRequest {
        keys_only: true,
        ..everything()
    };
    let ascending = pb::RangeRequest {
        sort_order: SortOrder::Ascend.into(),
        ..everything()
    };
    for request in [
        everything(),
        limited,
        counted,
        keys_only,
        ascending,
        single("0007"),
        single("absent"),
    ] {
        let whole = client.range(request.clone()).await.expect("range succeeds");
        let pieces = pieces(&client, request.clone()).await.expect("range succeeds");
        let (last, others) = pieces.split_last().expect("there is a piece");
        for piece in others {
            assert_eq!(
                (&piece.header, piece.more, piece.count),
                (&None, false, 0),
                "only the last has these"
            );
        }
        let kvs: Vec<_> = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
        assert_eq!(kvs, whole.kvs, "{request:?}");
        assert_eq!((last.more, last.count), (whole.more, whole.count), "{request:?}");
        assert_eq!(last.header, whole.header, "{request:?}");
    }
}

#[tokio::test]
async fn a_long_range_comes_in_several_pieces() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    fill(&client, 100).await;
    assert!(pieces(&client, everything()).await.expect("range succeeds").len() > 1);
}

/// Pieces grow as long as keys are small. Once, the first large values behind them came as many at a time: gigabytes of
/// the largest.
#[tokio::test]
async fn large_values_behind_small_ones_come_in_short_pieces() {
    const LARGE: usize = 200 * 1024;
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    fill(&client, 100).await;
    for from in 1..6 {
        let puts = (0..100)
            .map(|n| pb::request_op::Request::RequestPut(put(&format!("{:04}", from * 100 + n), "v")));
        client.run(puts.collect()).await.expect("txn succeeds");
    }
    for n in 0..60 {
        let value = vec![b'v'; LARGE];
        let large = pb::PutRequest {
            value: value.into(),
            ..put(&format!("large {n:02}"), "")
        };
        client.kv().put(large).await.expect("put succeeds");
    }
    let pieces = pieces(&client, everything()).await.expect("range succeeds");
    let keys: usize = pieces.iter().map(|piece| piece.kvs.len()).sum();
    assert_eq!(keys, 660);
    let whole = client.range(everything()).await.expect("range succeeds");
    let kvs: Vec<_> = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
    assert_eq!(kvs, whole.kvs);
    if crate::differences::is_kelson() {
        let longest = pieces
            .iter()
            .map(|piece| piece.kvs.iter().map(|kv| kv.len()).sum::<usize>());
        assert!(longest.max() <= Some(4 * 1024 * 1024));
    }
}

#[tokio::test]
async fn orders_and_filters_are_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let orders = "RangeStream does not support custom sort orders";
    let filters = "RangeStream does not support revision filters";
    let descending = pb::RangeRequest {
        sort_order: SortOrder::Descend.into(),
        ..everything()
    };
    assert_refused(pieces(&client, descending).await, Code::Unimplemented, orders);
    let by_value = pb::RangeRequest {
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Value.into(),
        ..everything()
    };
    assert_refused(pieces(&client, by_value).await, Code::Unimplemented, orders);
    let filtered = pb::RangeRequest {
        min_mod_revision: 1,
        ..everything()
    };
    assert_refused(pieces(&client, filtered).await, Code::Unimplemented, filters);
}

#[tokio::test]
async fn refusals_are_those_of_range() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let refused = pieces(&client, single("")).await;
    assert_refused(refused, Code::InvalidArgument, "etcdserver: key is not provided");
    let future = pb::RangeRequest {
        revision: i64::MAX,
        ..everything()
    };
    let refused = pieces(&client, future).await;
    assert_refused(
        refused,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
}
