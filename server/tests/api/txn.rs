//! Txn: comparisons, branches, nesting, what its operations see and answer.

use CompareResult::{Equal, Greater, Less, NotEqual};
use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
    response_op::Response as Answer,
};

use crate::harness::client::{between, bytes, delete, put, request_op, single, text};
use crate::harness::{Client, Cluster, kv_pairs, pair};

/// A comparison of one key.
pub fn compare(key: &str, result: CompareResult, operand: TargetUnion) -> pb::Compare {
    let target = match operand {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(key),
        target_union: Some(operand),
        ..Default::default()
    }
}

/// A transaction of `compare`, then one of two lists.
pub fn txn(compare: Vec<pb::Compare>, success: Vec<Op>, failure: Vec<Op>) -> pb::TxnRequest {
    let ops = |list: Vec<Op>| list.into_iter().map(request_op).collect();
    pb::TxnRequest {
        compare,
        success: ops(success),
        failure: ops(failure),
    }
}

async fn holds(client: &Client, compare: pb::Compare) -> bool {
    let request = pb::TxnRequest {
        compare: vec![compare],
        ..Default::default()
    };
    client.txn(request).await.expect("txn succeeds").succeeded
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("header").revision
}

fn answers(reply: pb::TxnResponse) -> Vec<Answer> {
    reply
        .responses
        .into_iter()
        .map(|op| op.response.expect("every operation has an answer"))
        .collect()
}

/// The value a range operation found, if any.
fn found(answer: &Answer) -> Option<String> {
    let Answer::ResponseRange(range) = answer else {
        panic!("a range answer expected: {answer:?}")
    };
    kv_pairs(&range.kvs).pop().map(|pair| text(&pair.value))
}

#[tokio::test]
async fn comparisons_of_a_present_key() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    let created = client.put("k", "1").await;
    let attached = pb::PutRequest {
        lease,
        ..put("k", "m")
    };
    let modified = revision(&client.put_request(attached).await.expect("put succeeds").header);
    // Each operand, the one below and the one above, where there is an order.
    let operands: [(TargetUnion, TargetUnion, TargetUnion); 4] = [
        (
            TargetUnion::Version(2),
            TargetUnion::Version(1),
            TargetUnion::Version(3),
        ),
        (
            TargetUnion::CreateRevision(created),
            TargetUnion::CreateRevision(created - 1),
            TargetUnion::CreateRevision(created + 1),
        ),
        (
            TargetUnion::ModRevision(modified),
            TargetUnion::ModRevision(modified - 1),
            TargetUnion::ModRevision(modified + 1),
        ),
        (
            TargetUnion::Value(bytes("m")),
            TargetUnion::Value(bytes("ab")),
            TargetUnion::Value(bytes("mm")),
        ),
    ];
    for (same, below, above) in operands {
        for (result, operand, expected) in [
            (Equal, &same, true),
            (Equal, &below, false),
            (NotEqual, &same, false),
            (NotEqual, &above, true),
            (Greater, &below, true),
            (Greater, &same, false),
            (Greater, &above, false),
            (Less, &above, true),
            (Less, &same, false),
            (Less, &below, false),
        ] {
            let compare = compare("k", result, operand.clone());
            assert_eq!(holds(&client, compare).await, expected, "{result:?} {operand:?}");
        }
    }
    assert!(holds(&client, compare("k", Equal, TargetUnion::Lease(lease))).await);
    assert!(!holds(&client, compare("k", Equal, TargetUnion::Lease(0))).await);
}

#[tokio::test]
async fn comparisons_of_an_absent_key_take_zero_except_for_values() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for number in [
        TargetUnion::Version,
        TargetUnion::CreateRevision,
        TargetUnion::ModRevision,
        TargetUnion::Lease,
    ] {
        for (result, operand, expected) in [
            (Equal, 0, true),
            (NotEqual, 0, false),
            (Less, 1, true),
            (Greater, 0, false),
            (Greater, -1, true),
        ] {
            let compare = compare("absent", result, number(operand));
            assert_eq!(holds(&client, compare.clone()).await, expected, "{compare:?}");
        }
    }
    for result in [Equal, NotEqual, Less, Greater] {
        assert!(
            !holds(&client, compare("absent", result, TargetUnion::Value(bytes("")))).await,
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn a_comparison_of_a_range_must_hold_for_every_key() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "2")] {
        client.put(key, value).await;
    }
    let one = TargetUnion::Value(bytes("1"));
    let ranged = |from, to, operand: &TargetUnion| pb::Compare {
        range_end: bytes(to),
        ..compare(from, Equal, operand.clone())
    };
    assert!(holds(&client, ranged("a", "c", &one)).await);
    assert!(!holds(&client, ranged("a", "d", &one)).await);
    assert!(!holds(&client, ranged("a", "\0", &one)).await);
    // Without a key the range is like one absent key.
    assert!(!holds(&client, ranged("x", "z", &one)).await);
    assert!(holds(&client, ranged("x", "z", &TargetUnion::Version(0))).await);
    assert!(holds(&client, ranged("c", "a", &TargetUnion::Version(0))).await);
}

#[tokio::test]
async fn odd_comparisons_are_accepted() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    let plain = pb::Compare {
        key: bytes("k"),
        ..Default::default()
    };
    // A missing operand counts as zero, and the version is 1.
    assert!(!holds(&client, plain.clone()).await);
    assert!(
        holds(
            &client,
            pb::Compare {
                result: Greater.into(),
                ..plain.clone()
            }
        )
        .await
    );
    // So does one of another target.
    let mismatched = pb::Compare {
        target: CompareTarget::Version.into(),
        target_union: Some(TargetUnion::ModRevision(1)),
        ..plain.clone()
    };
    assert!(!holds(&client, mismatched).await);
    // An unknown target is equal to anything; an unknown result holds.
    assert!(
        holds(
            &client,
            pb::Compare {
                target: 99,
                ..plain.clone()
            }
        )
        .await
    );
    assert!(
        !holds(
            &client,
            pb::Compare {
                target: 99,
                result: Greater.into(),
                ..plain.clone()
            }
        )
        .await
    );
    assert!(holds(&client, pb::Compare { result: 99, ..plain }).await);
}

#[tokio::test]
async fn every_comparison_must_hold_and_none_always_does() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    let holding = compare("k", Equal, TargetUnion::Version(1));
    let failing = compare("k", Equal, TargetUnion::Version(2));
    let of = |compare| txn(compare, vec![], vec![]);
    assert!(client.txn(of(vec![])).await.expect("txn succeeds").succeeded);
    assert!(
        client
            .txn(of(vec![holding.clone(), holding.clone()]))
            .await
            .expect("txn succeeds")
            .succeeded
    );
    assert!(
        !client
            .txn(of(vec![holding, failing]))
            .await
            .expect("txn succeeds")
            .succeeded
    );
}

#[tokio::test]
async fn create_if_absent_creates_once() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let create = |value| {
        txn(
            vec![compare("k", Equal, TargetUnion::CreateRevision(0))],
            vec![Op::RequestPut(put("k", value))],
            vec![Op::RequestRange(single("k"))],
        )
    };
    let first = client.txn(create("first")).await.expect("txn succeeds");
    assert!(first.succeeded);
    let second = client.txn(create("second")).await.expect("txn succeeds");
    assert!(!second.succeeded);
    assert_eq!(revision(&second.header), revision(&first.header));
    assert_eq!(found(&answers(second)[0]), Some("first".into()));
}

#[tokio::test]
async fn writes_of_a_txn_share_one_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("gone", "").await;
    let ops = vec![
        Op::RequestPut(put("a", "")),
        Op::RequestDeleteRange(delete("gone")),
        Op::RequestPut(put("b", "")),
    ];
    let reply = client.run(ops).await.expect("txn succeeds");
    assert_eq!(revision(&reply.header), before + 1);
    for key in ["a", "b"] {
        let pair = client.get(key).await.expect("the key exists");
        assert_eq!(
            (pair.create_revision, pair.mod_revision, pair.version),
            (before + 1, before + 1, 1)
        );
    }
}

#[tokio::test]
async fn an_operation_sees_the_writes_before_it_and_its_header_says_so() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "old").await;
    let ops = vec![
        Op::RequestRange(single("k")),
        Op::RequestDeleteRange(delete("absent")),
        Op::RequestPut(pb::PutRequest {
            prev_kv: true,
            ..put("k", "new")
        }),
        Op::RequestRange(single("k")),
        Op::RequestDeleteRange(pb::DeleteRangeRequest {
            prev_kv: true,
            ..delete("absent")
        }),
    ];
    let reply = client.run(ops).await.expect("txn succeeds");
    assert_eq!(revision(&reply.header), before + 1);
    let answers = answers(reply);
    assert_eq!(found(&answers[0]), Some("old".into()));
    assert_eq!(found(&answers[3]), Some("new".into()));
    let headers: Vec<pb::ResponseHeader> = answers
        .iter()
        .map(|answer| match answer {
            Answer::ResponseRange(reply) => reply.header,
            Answer::ResponsePut(reply) => reply.header,
            Answer::ResponseDeleteRange(reply) => reply.header,
            Answer::ResponseTxn(reply) => reply.header,
        })
        .map(|header| header.expect("inner headers are present"))
        .collect();
    let revisions: Vec<i64> = headers.iter().map(|header| header.revision - before).collect();
    assert_eq!(revisions, [0, 0, 1, 1, 1]);
    assert!(
        headers
            .iter()
            .all(|header| (header.cluster_id, header.member_id, header.raft_term) == (0, 0, 0))
    );
    let Answer::ResponsePut(put) = &answers[2] else {
        panic!("a put answer expected")
    };
    assert_eq!(text(&pair(&put.prev_kv).expect("there was a pair").value), "old");
}

#[tokio::test]
async fn a_txn_that_changes_nothing_keeps_the_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let reply = client
        .txn(txn(vec![], vec![], vec![]))
        .await
        .expect("txn succeeds");
    assert_eq!(
        (reply.succeeded, revision(&reply.header), reply.responses.len()),
        (true, before, 0)
    );
    let reply = client
        .run(vec![Op::RequestDeleteRange(delete("absent"))])
        .await
        .expect("txn succeeds");
    assert_eq!(revision(&reply.header), before);
    // The branch that writes is not taken.
    let compare = vec![compare("k", Equal, TargetUnion::Version(7))];
    let reply = client
        .txn(txn(compare, vec![Op::RequestPut(put("k", "x"))], vec![]))
        .await
        .expect("txn succeeds");
    assert_eq!(
        (reply.succeeded, revision(&reply.header), reply.responses.len()),
        (false, before, 0)
    );
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn a_read_only_txn_reads_one_state() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let old = client.put("a", "1").await;
    client.put("a", "2").await;
    let newest = client.put("b", "3").await;
    let ops = vec![
        Op::RequestRange(single("a")),
        Op::RequestRange(pb::RangeRequest {
            revision: old,
            ..single("a")
        }),
        Op::RequestRange(between("a", "z")),
    ];
    let reply = client.run(ops).await.expect("txn succeeds");
    assert_eq!(revision(&reply.header), newest);
    let answers = answers(reply);
    assert_eq!(found(&answers[0]), Some("2".into()));
    assert_eq!(found(&answers[1]), Some("1".into()));
    assert_eq!(found(&answers[2]), Some("3".into()));
}

#[tokio::test]
async fn nested_comparisons_see_the_state_before_the_txn() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let inner = txn(
        vec![compare("k", Equal, TargetUnion::Version(0))],
        vec![Op::RequestPut(put("seen", "state before"))],
        vec![Op::RequestPut(put("seen", "own write"))],
    );
    let ops = vec![Op::RequestPut(put("k", "v")), Op::RequestTxn(inner)];
    client.run(ops).await.expect("txn succeeds");
    assert_eq!(
        client.get("seen").await.expect("the key exists").value,
        "state before"
    );
}

#[tokio::test]
async fn nested_reads_see_outer_writes_and_nested_headers_are_empty() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let inner = txn(
        vec![],
        vec![Op::RequestRange(single("k")), Op::RequestPut(put("inner", ""))],
        vec![],
    );
    let ops = vec![
        Op::RequestPut(put("k", "outer")),
        Op::RequestTxn(inner),
        Op::RequestRange(single("inner")),
    ];
    let answers = answers(client.run(ops).await.expect("txn succeeds"));
    let Answer::ResponseTxn(nested) = &answers[1] else {
        panic!("a txn answer expected")
    };
    assert_eq!(nested.header, Some(pb::ResponseHeader::default()));
    assert!(nested.succeeded);
    assert_eq!(nested.responses.len(), 2);
    let inner = nested.responses[0]
        .response
        .as_ref()
        .expect("every operation has an answer");
    assert_eq!(found(inner), Some("outer".into()));
    assert_eq!(found(&answers[2]), Some(String::new()));
}

#[tokio::test]
async fn nested_branches_are_chosen_at_every_depth() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    let absent = || vec![compare("absent", Greater, TargetUnion::Version(0))];
    let present = || vec![compare("k", Greater, TargetUnion::Version(0))];
    let depth_two = txn(
        absent(),
        vec![Op::RequestPut(put("wrong", ""))],
        vec![Op::RequestPut(put("right", "two"))],
    );
    let depth_one = txn(
        present(),
        vec![Op::RequestTxn(depth_two)],
        vec![Op::RequestPut(put("wrong", ""))],
    );
    let reply = client
        .txn(txn(absent(), vec![], vec![Op::RequestTxn(depth_one)]))
        .await;
    assert!(!reply.expect("txn succeeds").succeeded);
    assert_eq!(client.get("right").await.expect("the key exists").value, "two");
    assert_eq!(client.get("wrong").await, None);
}

#[tokio::test]
async fn forty_levels_of_nesting_work() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut request = txn(vec![], vec![Op::RequestPut(put("deep", "v"))], vec![]);
    for _ in 0..40 {
        request = txn(vec![], vec![Op::RequestTxn(request)], vec![]);
    }
    client.txn(request).await.expect("txn succeeds");
    assert!(client.get("deep").await.is_some());
}

#[tokio::test]
async fn a_key_deleted_and_put_in_one_txn_starts_anew_or_ends() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("a", "old").await;
    let before = client.put("b", "old").await;
    // A delete from a key on is not checked against puts beside it.
    let ops = vec![
        Op::RequestDeleteRange(pb::DeleteRangeRequest {
            key: bytes("a"),
            range_end: bytes("\0"),
            prev_kv: true,
        }),
        Op::RequestPut(put("b", "new")),
    ];
    let reply = client.run(ops).await.expect("txn succeeds");
    assert_eq!(revision(&reply.header), before + 1);
    let b = client.get("b").await.expect("the key exists");
    assert_eq!(
        (b.create_revision, b.mod_revision, b.version),
        (before + 1, before + 1, 1)
    );
    // Nor is the delete of a later nested txn against the put of an earlier one.
    let put_c = txn(vec![], vec![Op::RequestPut(put("c", "v"))], vec![]);
    let delete_c = txn(vec![], vec![Op::RequestDeleteRange(delete("c"))], vec![]);
    let reply = client
        .run(vec![Op::RequestTxn(put_c), Op::RequestTxn(delete_c)])
        .await
        .expect("txn succeeds");
    assert_eq!(revision(&reply.header), before + 2);
    assert_eq!(client.get("c").await, None);
}

#[tokio::test]
async fn leases_are_attached_by_a_txn() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    let ops = ["b", "a"]
        .map(|key| {
            Op::RequestPut(pb::PutRequest {
                lease,
                ..put(key, "")
            })
        })
        .to_vec();
    client.run(ops).await.expect("txn succeeds");
    let mut attached = client.time_to_live(lease).await.expect("the lease exists").keys;
    attached.sort();
    assert_eq!(attached, [bytes("a"), bytes("b")]);
    let compare = compare("a", Equal, TargetUnion::Lease(lease));
    assert!(holds(&client, compare).await);
}
