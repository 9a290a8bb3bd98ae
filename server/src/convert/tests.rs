//! What is refused before it reaches the log, and how unknown numbers are read.

use bytes::Bytes;
use kelson_proto::etcdserverpb as pb;
use kelson_storage::command::{CompareOperand, CompareResult};
use pb::request_op::Request;

use super::*;
use crate::status::ClientError;

/// etcd's `--max-txn-ops`.
const MAX_OPS: usize = 128;

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &'static str) -> pb::RequestOp {
    op(Request::RequestPut(pb::PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    }))
}

fn delete_op(key: &'static str, range_end: &'static str) -> pb::RequestOp {
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(range_end.as_bytes()),
        prev_kv: false,
    }))
}

fn range_op(key: &'static str) -> pb::RequestOp {
    op(Request::RequestRange(pb::RangeRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    }))
}

fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(pb::TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    }))
}

fn check(success: Vec<pb::RequestOp>) -> Result<(), ClientError> {
    let request = pb::TxnRequest {
        success,
        ..Default::default()
    };
    txn(request, MAX_OPS).map(|_| ())
}

fn txn_of_depth(depth: usize) -> pb::TxnRequest {
    (1..depth).fold(pb::TxnRequest::default(), |inner, _| pb::TxnRequest {
        success: vec![op(Request::RequestTxn(inner))],
        ..Default::default()
    })
}

#[test]
fn key_changed_twice_by_one_branch_is_refused() {
    let refused = [
        vec![put_op("a"), put_op("a")],
        vec![put_op("a"), delete_op("a", "")],
        vec![delete_op("a", ""), put_op("a")],
        vec![put_op("a"), delete_op("a", "b")],
        vec![delete_op("a", "c"), put_op("b")],
        vec![
            nested(vec![put_op("a")], vec![]),
            nested(vec![], vec![put_op("a")]),
        ],
        vec![put_op("a"), nested(vec![put_op("a")], vec![])],
        vec![put_op("a"), nested(vec![delete_op("a", "")], vec![])],
        vec![delete_op("a", "c"), nested(vec![], vec![put_op("b")])],
        vec![
            nested(vec![delete_op("a", "")], vec![]),
            nested(vec![put_op("a")], vec![]),
        ],
        vec![
            nested(vec![nested(vec![put_op("a")], vec![])], vec![]),
            put_op("a"),
        ],
    ];
    for (row, ops) in refused.into_iter().enumerate() {
        assert_eq!(check(ops), Err(ClientError::DuplicateKey), "row {row}");
    }
}

#[test]
fn nested_txn_twice_is_refused_though_its_branches_exclude_each_other() {
    let exclusive = || nested(vec![put_op("a")], vec![put_op("a")]);
    assert_eq!(check(vec![exclusive()]), Ok(()));
    assert_eq!(
        check(vec![exclusive(), exclusive()]),
        Err(ClientError::DuplicateKey)
    );
}

#[test]
fn what_cannot_clash_and_the_two_holes_of_etcd_are_accepted() {
    let accepted = [
        vec![put_op("a"), put_op("b")],
        vec![delete_op("a", ""), delete_op("a", "")],
        vec![delete_op("a", "d"), delete_op("b", "z")],
        vec![put_op("a"), range_op("a"), range_op("a")],
        vec![delete_op("a", "b"), put_op("b")],
        vec![delete_op("c", "b"), put_op("b"), put_op("c")],
        vec![
            nested(vec![put_op("a")], vec![]),
            nested(vec![delete_op("a", "")], vec![]),
        ],
        vec![put_op("b"), delete_op("a", "\0")],
    ];
    for (row, ops) in accepted.into_iter().enumerate() {
        assert_eq!(check(ops), Ok(()), "row {row}");
    }
}

#[test]
fn both_branches_may_put_the_same_key_but_each_is_checked() {
    let both = pb::TxnRequest {
        success: vec![put_op("a")],
        failure: vec![put_op("a")],
        ..Default::default()
    };
    assert!(txn(both, MAX_OPS).is_ok());
    let second = pb::TxnRequest {
        failure: vec![put_op("a"), put_op("a")],
        ..Default::default()
    };
    assert_eq!(txn(second, MAX_OPS), Err(ClientError::DuplicateKey));
}

#[test]
fn longest_list_counts_against_the_limit_and_nesting_uses_it_up() {
    let ranges = |count| vec![range_op("a"); count];
    assert_eq!(check(ranges(128)), Ok(()));
    assert_eq!(check(ranges(129)), Err(ClientError::TooManyOps));
    let compares = |count| pb::TxnRequest {
        compare: vec![
            pb::Compare {
                key: Bytes::from_static(b"a"),
                ..Default::default()
            };
            count
        ],
        success: ranges(128),
        failure: ranges(128),
    };
    assert!(txn(compares(128), MAX_OPS).is_ok());
    assert_eq!(txn(compares(129), MAX_OPS), Err(ClientError::TooManyOps));

    let with_child = |child| {
        let mut ops = ranges(27);
        ops.push(nested(ranges(child), vec![]));
        ops
    };
    assert_eq!(check(with_child(100)), Ok(()));
    assert_eq!(check(with_child(101)), Err(ClientError::TooManyOps));
    // Each child gets the whole rest.
    assert_eq!(
        check(vec![nested(ranges(126), vec![]), nested(ranges(126), vec![])]),
        Ok(())
    );
}

#[test]
fn nesting_is_bounded_by_the_operations_it_costs() {
    assert!(txn(txn_of_depth(40), MAX_OPS).is_ok());
    assert!(txn(txn_of_depth(129), MAX_OPS).is_ok());
    assert_eq!(txn(txn_of_depth(130), MAX_OPS), Err(ClientError::TooManyOps));
}

#[test]
fn operations_are_checked_in_branches_that_will_not_run() {
    let bad = [
        (put_op(""), ClientError::EmptyKey),
        (range_op(""), ClientError::EmptyKey),
        (delete_op("", "b"), ClientError::EmptyKey),
        (pb::RequestOp { request: None }, ClientError::KeyNotFound),
        (nested(vec![], vec![put_op("")]), ClientError::EmptyKey),
    ];
    for (op, error) in bad {
        let request = pb::TxnRequest {
            failure: vec![op],
            ..Default::default()
        };
        assert_eq!(txn(request, MAX_OPS), Err(error));
    }
    let compare = pb::TxnRequest {
        compare: vec![pb::Compare::default()],
        ..Default::default()
    };
    assert_eq!(txn(compare, MAX_OPS), Err(ClientError::EmptyKey));
}

#[test]
fn put_arguments_that_contradict_each_other_are_refused_in_order() {
    let base = pb::PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        ..Default::default()
    };
    let without_key = pb::PutRequest {
        key: Bytes::new(),
        ..base.clone()
    };
    assert_eq!(put(without_key), Err(ClientError::EmptyKey));
    assert_eq!(put(base.clone()), Err(ClientError::ValueProvided));
    let without_value = pb::PutRequest {
        value: Bytes::new(),
        ..base
    };
    assert_eq!(put(without_value), Err(ClientError::LeaseProvided));
}

#[test]
fn unknown_sort_numbers_are_refused() {
    let base = pb::RangeRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let order = pb::RangeRequest {
        sort_order: 3,
        ..base.clone()
    };
    let target = pb::RangeRequest {
        sort_target: -1,
        ..base
    };
    assert_eq!(range(order), Err(ClientError::InvalidSortOption));
    assert_eq!(range(target), Err(ClientError::InvalidSortOption));
}

#[test]
fn compare_with_unknown_numbers_or_a_foreign_operand_is_accepted() {
    use pb::compare::TargetUnion;
    let compare = |result, target, target_union| {
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: Bytes::from_static(b"k"),
                result,
                target,
                target_union,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut txn = txn(request, MAX_OPS).expect("accepted");
        let compare = txn.compares.remove(0);
        (compare.result, compare.operand)
    };
    assert_eq!(
        compare(9, 9, Some(TargetUnion::Lease(3))),
        (CompareResult::Always, CompareOperand::Unknown)
    );
    assert_eq!(
        compare(0, 1, Some(TargetUnion::ModRevision(3))),
        (CompareResult::Equal, CompareOperand::Create(0))
    );
    assert_eq!(
        compare(3, 3, None),
        (CompareResult::NotEqual, CompareOperand::Value(Bytes::new()))
    );
    assert_eq!(
        compare(2, 4, Some(TargetUnion::Lease(3))),
        (CompareResult::Less, CompareOperand::Lease(3))
    );
}

#[test]
fn key_is_cut_out_of_an_encoded_pair() {
    use prost::Message;
    let pair = kelson_proto::mvccpb::KeyValue {
        key: Bytes::from(vec![7; 300]),
        value: Bytes::from_static(b"v"),
        ..Default::default()
    };
    assert_eq!(key_of(&pair.encode_to_vec().into()), pair.key);
    assert_eq!(key_of(&Bytes::from_static(b"\x0a\x05ab")), "");
}
