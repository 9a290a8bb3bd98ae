//! Txn: what is refused, and that a refusal changes nothing.

use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
    request_op::Request as Op,
};
use tonic::{Code, Status};

use crate::harness::client::{delete, delete_between, put, single};
use crate::harness::{Client, Cluster, assert_refused};
use crate::txn::{compare, txn};

const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";
/// etcd's default of `--max-txn-ops`.
const MAX_OPS: usize = 128;

fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
    Op::RequestTxn(txn(vec![], success, failure))
}

fn put_op(key: &str) -> Op {
    Op::RequestPut(put(key, ""))
}

fn delete_op(key: &str, range_end: &str) -> Op {
    Op::RequestDeleteRange(delete_between(key, range_end))
}

/// Runs `ops` as the branch taken and as the other one; both are checked alike.
async fn check(client: &Client, ops: Vec<Op>) -> [Result<pb::TxnResponse, Status>; 2] {
    [
        client.txn(txn(vec![], ops.clone(), vec![])).await,
        client.txn(txn(vec![], vec![], ops)).await,
    ]
}

#[tokio::test]
async fn one_list_may_not_write_a_key_twice() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("a", "untouched").await;
    let refused = [
        vec![put_op("a"), put_op("a")],
        vec![put_op("a"), delete_op("a", "")],
        vec![delete_op("a", ""), put_op("a")],
        vec![put_op("b"), delete_op("a", "c")],
        vec![put_op("a"), nested(vec![put_op("a")], vec![])],
        vec![nested(vec![], vec![put_op("a")]), put_op("a")],
        vec![put_op("a"), nested(vec![delete_op("a", "")], vec![])],
        vec![delete_op("a", "c"), nested(vec![put_op("b")], vec![])],
        vec![
            nested(vec![delete_op("a", "")], vec![]),
            nested(vec![put_op("a")], vec![]),
        ],
        vec![
            nested(vec![put_op("a")], vec![]),
            nested(vec![], vec![put_op("a")]),
        ],
        vec![nested(vec![put_op("a"), put_op("a")], vec![])],
    ];
    for ops in refused {
        for result in check(&client, ops.clone()).await {
            assert!(result.is_err(), "accepted: {ops:?}");
            assert_refused(result, Code::InvalidArgument, DUPLICATE);
        }
    }
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn lists_that_write_each_key_once_are_accepted() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let accepted = [
        vec![delete_op("a", ""), delete_op("a", "")],
        vec![delete_op("a", "c"), delete_op("b", "d")],
        vec![put_op("c"), delete_op("a", "c")],
        vec![nested(vec![put_op("a")], vec![put_op("a")])],
        vec![
            nested(vec![put_op("a")], vec![]),
            nested(vec![delete_op("a", "")], vec![]),
        ],
        vec![put_op("b"), delete_op("a", "\0")],
        vec![
            Op::RequestRange(single("a")),
            put_op("a"),
            Op::RequestRange(single("a")),
        ],
        vec![put_op("a"), delete_op("b", "a")],
    ];
    for ops in accepted {
        for result in check(&client, ops.clone()).await {
            assert!(result.is_ok(), "refused: {ops:?}: {result:?}");
        }
    }
    let both = client
        .txn(txn(vec![], vec![put_op("a")], vec![put_op("a")]))
        .await;
    both.expect("the branches are checked apart");
}

#[tokio::test]
async fn each_list_has_a_limit_of_its_own() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let reads = |count| vec![Op::RequestRange(single("k")); count];
    let compares = |count| vec![compare("k", CompareResult::Equal, TargetUnion::Version(0)); count];
    let full = txn(compares(MAX_OPS), reads(MAX_OPS), reads(MAX_OPS));
    client.txn(full).await.expect("the lists are not added up");
    for request in [
        txn(compares(MAX_OPS + 1), vec![], vec![]),
        txn(vec![], reads(MAX_OPS + 1), vec![]),
        txn(vec![], vec![], reads(MAX_OPS + 1)),
        // What the outer txn uses is taken from what an inner one may.
        txn(vec![], vec![nested(reads(MAX_OPS), vec![])], vec![]),
        txn(
            vec![],
            [reads(64), vec![nested(vec![], reads(64))]].concat(),
            vec![],
        ),
    ] {
        assert_refused(client.txn(request).await, Code::InvalidArgument, TOO_MANY);
    }
    let fits = txn(
        vec![],
        vec![
            nested(reads(MAX_OPS - 1), vec![]),
            nested(reads(MAX_OPS - 2), vec![]),
        ],
        vec![],
    );
    client.txn(fits).await.expect_err("two operations leave 126");
    let fits = txn(
        vec![],
        vec![
            nested(reads(MAX_OPS - 2), vec![]),
            nested(reads(MAX_OPS - 2), vec![]),
        ],
        vec![],
    );
    client
        .txn(fits)
        .await
        .expect("siblings do not share what is left");
}

#[tokio::test]
async fn a_failing_operation_undoes_the_whole_txn() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let old = client.put("k", "1").await;
    client.put("k", "2").await;
    let before = client.put("k", "3").await;
    client.compact(old + 1).await.expect("compaction succeeds");
    let read_at = |revision| {
        Op::RequestRange(pb::RangeRequest {
            revision,
            ..single("k")
        })
    };
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    let lease = "etcdserver: requested lease not found";
    let absent = "etcdserver: key not found";
    let cases = [
        (read_at(old), Code::OutOfRange, compacted),
        (read_at(-1), Code::OutOfRange, compacted),
        (read_at(before + 1), Code::OutOfRange, future),
        (
            Op::RequestPut(pb::PutRequest {
                lease: 4711,
                ..put("x", "")
            }),
            Code::NotFound,
            lease,
        ),
        (
            Op::RequestPut(pb::PutRequest {
                ignore_value: true,
                ..put("x", "")
            }),
            Code::InvalidArgument,
            absent,
        ),
        (
            Op::RequestPut(pb::PutRequest {
                ignore_lease: true,
                ..put("x", "")
            }),
            Code::InvalidArgument,
            absent,
        ),
    ];
    for (op, code, text) in cases {
        let list = vec![put_op("written"), op.clone()];
        assert_refused(client.run(list.clone()).await, code, text);
        let inner = vec![nested(list.clone(), vec![])];
        assert_refused(client.run(inner).await, code, text);
        // In the branch not taken it does no harm.
        let reply = client
            .txn(txn(vec![], vec![], list))
            .await
            .expect("the branch is not taken");
        assert!(reply.succeeded);
    }
    assert_eq!(client.get("written").await, None);
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn read_only_txns_check_revisions_too() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let old = client.put("k", "1").await;
    let newest = client.put("k", "2").await;
    client.compact(newest).await.expect("compaction succeeds");
    let read_at = |revision| {
        vec![Op::RequestRange(pb::RangeRequest {
            revision,
            ..single("k")
        })]
    };
    let refused = client.run(read_at(old)).await;
    assert_refused(
        refused,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    let refused = client.run(read_at(newest + 1)).await;
    assert_refused(
        refused,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    client
        .run(read_at(newest))
        .await
        .expect("the compact revision is readable");
}

#[tokio::test]
async fn malformed_operations_are_refused_in_either_branch() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let empty_key = "etcdserver: key is not provided";
    let cases = [
        (Op::RequestRange(single("")), empty_key),
        (put_op(""), empty_key),
        (Op::RequestDeleteRange(delete("")), empty_key),
        (nested(vec![put_op("")], vec![]), empty_key),
        (nested(vec![], vec![put_op("")]), empty_key),
        (
            Op::RequestTxn(txn(
                vec![compare("", CompareResult::Equal, TargetUnion::Version(0))],
                vec![],
                vec![],
            )),
            empty_key,
        ),
        (
            Op::RequestRange(pb::RangeRequest {
                sort_order: 9,
                ..single("k")
            }),
            "etcdserver: invalid sort option",
        ),
        (
            Op::RequestPut(pb::PutRequest {
                ignore_value: true,
                ..put("k", "v")
            }),
            "etcdserver: value is provided",
        ),
        (
            Op::RequestPut(pb::PutRequest {
                ignore_lease: true,
                lease: 1,
                ..put("k", "")
            }),
            "etcdserver: lease is provided",
        ),
    ];
    for (op, text) in cases {
        for result in check(&client, vec![op]).await {
            assert_refused(result, Code::InvalidArgument, text);
        }
    }
    let unset = pb::RequestOp { request: None };
    let with_unset = pb::TxnRequest {
        success: vec![unset],
        ..Default::default()
    };
    assert_refused(
        client.txn(with_unset).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    assert_eq!(client.revision().await, before);
}
