//! The model against the quirks of the API specification (its section 14, numbers in brackets).

use super::*;
use crate::history::{Compact, LeaseGrant, LeaseId};

fn key(text: &str) -> Blob {
    Blob::from(text)
}

fn put(k: &str, v: &str) -> Put {
    Put {
        key: key(k),
        value: key(v),
        ..Put::default()
    }
}

fn leased(k: &str, lease: i64) -> Put {
    Put { lease, ..put(k, "x") }
}

fn delete(k: &str, end: &str) -> DeleteRange {
    DeleteRange {
        key: key(k),
        range_end: key(end),
        prev_kv: true,
    }
}

fn compare(k: &str, result: CompareResult, target: CompareTarget) -> Compare {
    Compare {
        key: key(k),
        range_end: Blob::default(),
        result,
        target,
    }
}

fn everything() -> Range {
    Range {
        key: key("\0"),
        range_end: key("\0"),
        ..Range::default()
    }
}

fn ok(model: &mut Model, request: Request) -> Response {
    model.apply(&request).expect("accepted").response
}

fn rejected(model: &mut Model, request: Request) -> Rejected {
    let before = model.clone();
    let rejected = model.apply(&request).expect_err("rejected");
    assert_eq!(*model, before, "a rejection changes nothing");
    rejected
}

fn read(model: &mut Model, range: Range) -> RangeResponse {
    let Response::Range(response) = ok(model, Request::Range(range)) else {
        unreachable!()
    };
    response
}

fn run(model: &mut Model, txn: Txn) -> TxnResponse {
    let Response::Txn(response) = ok(model, Request::Txn(txn)) else {
        unreachable!()
    };
    response
}

/// a=1 at 2, b=2 at 3, c=3 at 4, a=9 at 5.
fn abc() -> Model {
    let mut model = Model::default();
    for (k, v) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "9")] {
        ok(&mut model, Request::Put(put(k, v)));
    }
    model
}

fn names(kvs: &[KeyValue]) -> String {
    kvs.iter().map(|pair| pair.key.text()).collect()
}

#[test]
fn revisions_begin_at_one_and_the_first_write_is_two() {
    let mut model = Model::default();
    assert_eq!(read(&mut model, everything()).header.revision, 1);
    assert_eq!(ok(&mut model, Request::Put(put("a", "1"))).header().revision, 2);
}

#[test]
fn a_put_counts_versions_and_a_delete_starts_them_afresh() {
    let mut model = abc();
    let a = model.pair_at(&key("a"), 5).unwrap();
    assert_eq!((a.create_revision, a.mod_revision, a.version), (2, 5, 2));
    let Response::DeleteRange(deleted) = ok(&mut model, Request::DeleteRange(delete("a", ""))) else {
        unreachable!()
    };
    assert_eq!(
        (deleted.deleted, deleted.prev_kvs, deleted.header.revision),
        (1, vec![a], 6)
    );
    ok(&mut model, Request::Put(put("a", "2")));
    let a = model.pair_at(&key("a"), 7).unwrap();
    assert_eq!((a.create_revision, a.mod_revision, a.version), (7, 7, 1));
}

#[test]
fn what_changes_nothing_makes_no_revision() {
    let mut model = abc();
    assert_eq!(
        ok(&mut model, Request::DeleteRange(delete("x", "")))
            .header()
            .revision,
        5
    ); // [5]
    assert_eq!(
        ok(&mut model, Request::DeleteRange(delete("c", "a")))
            .header()
            .revision,
        5
    ); // [12]
    assert_eq!(run(&mut model, Txn::default()).header.revision, 5);
    let txn = Txn {
        success: vec![TxnOp::DeleteRange(delete("x", ""))],
        ..Txn::default()
    };
    assert_eq!(run(&mut model, txn).header.revision, 5);
    assert_eq!(model.revision, 5);
}

#[test]
fn a_historical_read_shows_the_present_revision_in_its_header() {
    let mut model = abc();
    let response = read(
        &mut model,
        Range {
            revision: 3,
            ..everything()
        },
    );
    assert_eq!(
        (names(&response.kvs).as_str(), response.header.revision),
        ("ab", 5)
    ); // [4]
    assert_eq!(
        read(
            &mut model,
            Range {
                revision: -4,
                ..everything()
            }
        )
        .count,
        3
    ); // [11]
    assert_eq!(
        rejected(
            &mut model,
            Request::Range(Range {
                revision: 6,
                ..everything()
            })
        ),
        Rejected::FutureRevision
    );
}

#[test]
fn limit_count_and_more() {
    let mut model = abc();
    let cases = [
        (
            Range {
                limit: 2,
                ..everything()
            },
            "ab",
            3,
            true,
        ),
        (
            Range {
                limit: 3,
                ..everything()
            },
            "abc",
            3,
            false,
        ),
        (
            Range {
                limit: -1,
                ..everything()
            },
            "abc",
            3,
            false,
        ), // [11]
        (
            Range {
                limit: 1,
                count_only: true,
                ..everything()
            },
            "",
            3,
            false,
        ), // [15]
        (
            Range {
                min_mod_revision: 4,
                ..everything()
            },
            "ac",
            3,
            false,
        ), // [8]
        (
            Range {
                max_mod_revision: 4,
                limit: 1,
                ..everything()
            },
            "b",
            3,
            true,
        ), // [8]
        (
            Range {
                max_create_revision: 3,
                ..everything()
            },
            "ab",
            3,
            false,
        ),
        (
            Range {
                sort_target: SortTarget::Mod,
                ..everything()
            },
            "bca",
            3,
            false,
        ), // [9]
        (
            Range {
                sort_target: SortTarget::Mod,
                limit: 1,
                ..everything()
            },
            "b",
            3,
            true,
        ), // [9] of a and b only
        (
            Range {
                sort_order: SortOrder::Descend,
                limit: 2,
                ..everything()
            },
            "cb",
            3,
            true,
        ),
        (
            Range {
                sort_target: SortTarget::Value,
                sort_order: SortOrder::Ascend,
                limit: 1,
                ..everything()
            },
            "b",
            3,
            true,
        ),
        (
            Range {
                key: key("b"),
                range_end: key("\0"),
                ..Range::default()
            },
            "bc",
            2,
            false,
        ), // [13]
        (
            Range {
                key: key("b"),
                ..Range::default()
            },
            "b",
            1,
            false,
        ),
        (
            Range {
                key: key("b"),
                range_end: key("a"),
                ..Range::default()
            },
            "",
            0,
            false,
        ),
    ];
    for (range, wanted, count, more) in cases {
        let response = read(&mut model, range.clone());
        assert_eq!(
            (names(&response.kvs).as_str(), response.count, response.more),
            (wanted, count, more),
            "{range:?}"
        );
    }
}

#[test]
fn keys_only_drops_values_and_leases() {
    let mut model = Model::default();
    ok(&mut model, Request::LeaseGrant(LeaseGrant { id: 7, ttl: 10 }));
    ok(&mut model, Request::Put(leased("a", 7)));
    let pair = &read(
        &mut model,
        Range {
            keys_only: true,
            ..everything()
        },
    )
    .kvs[0];
    assert_eq!((pair.value.is_empty(), pair.lease), (true, 0)); // [14]
    let by_value = Range {
        keys_only: true,
        sort_target: SortTarget::Value,
        ..everything()
    };
    assert_eq!(read(&mut model, by_value).kvs[0].lease, 7);
}

#[test]
fn puts_that_keep_the_value_or_the_lease() {
    let mut model = Model::default();
    ok(&mut model, Request::LeaseGrant(LeaseGrant { id: 7, ttl: 10 }));
    let touch = Put {
        key: key("a"),
        ignore_value: true,
        ignore_lease: true,
        ..Put::default()
    };
    assert_eq!(
        rejected(&mut model, Request::Put(touch.clone())),
        Rejected::KeyNotFound
    ); // [17]
    ok(&mut model, Request::Put(leased("a", 7)));
    ok(&mut model, Request::Put(touch));
    let pair = model.pair_at(&key("a"), 3).unwrap();
    assert_eq!((pair.value, pair.lease, pair.version), (key("x"), 7, 2));
    ok(
        &mut model,
        Request::Put(Put {
            key: key("a"),
            ignore_value: true,
            ..Put::default()
        }),
    );
    assert_eq!(model.pair_at(&key("a"), 4).unwrap().lease, 0); // [16]
    let both = Put {
        ignore_value: true,
        ..put("a", "v")
    };
    assert_eq!(rejected(&mut model, Request::Put(both)), Rejected::ValueProvided);
    let both = Put {
        ignore_lease: true,
        ..leased("a", 7)
    };
    assert_eq!(rejected(&mut model, Request::Put(both)), Rejected::LeaseProvided);
}

#[test]
fn compares_of_absent_keys() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{Create, Lease, Mod, Value, Version};
    let mut model = abc();
    let cases = [
        (compare("x", Equal, Create(0)), true), // [25]
        (compare("x", Less, Version(1)), true),
        (compare("x", Greater, Mod(0)), false),
        (compare("x", NotEqual, Lease(0)), false),
        (compare("x", NotEqual, Value(key("1"))), false), // [24]
        (compare("x", Equal, Value(key(""))), false),     // [24]
        (compare("a", Equal, Value(key("9"))), true),
        (compare("a", NotEqual, Mod(5)), false),
        (
            Compare {
                range_end: key("c"),
                ..compare("a", Greater, Mod(2))
            },
            true,
        ),
        (
            Compare {
                range_end: key("c"),
                ..compare("a", Greater, Mod(3))
            },
            false,
        ),
        (
            Compare {
                range_end: key("z"),
                ..compare("x", Equal, Version(0))
            },
            true,
        ),
    ];
    for (compare, wanted) in cases {
        let txn = Txn {
            compare: vec![compare.clone()],
            ..Txn::default()
        };
        assert_eq!(run(&mut model, txn).succeeded, wanted, "{compare:?}");
    }
}

#[test]
fn nested_compares_see_the_state_before_the_transaction() {
    let mut model = Model::default();
    let absent = vec![compare("a", CompareResult::Equal, CompareTarget::Version(0))];
    let nested = Txn {
        compare: absent,
        success: vec![TxnOp::Put(put("b", "then"))],
        failure: vec![],
    };
    let range = Range {
        key: key("a"),
        ..Range::default()
    };
    let txn = Txn {
        success: vec![
            TxnOp::Range(range.clone()),
            TxnOp::Put(put("a", "1")),
            TxnOp::Range(range),
            TxnOp::Txn(nested),
        ],
        ..Txn::default()
    };
    let response = run(&mut model, txn);
    let [
        TxnOpResponse::Range(before),
        _,
        TxnOpResponse::Range(after),
        TxnOpResponse::Txn(nested),
    ] = &response.responses[..]
    else {
        unreachable!()
    };
    assert!(nested.succeeded); // [23]
    assert_eq!(
        (
            before.count,
            before.header.revision,
            after.count,
            after.header.revision
        ),
        (0, 1, 1, 2)
    );
    assert_eq!((nested.header.revision, response.header.revision), (0, 2)); // [33]
    assert_eq!(model.pair_at(&key("b"), 2).unwrap().mod_revision, 2);
}

#[test]
fn a_bad_operation_counts_only_on_the_taken_branch_and_undoes_everything() {
    let mut model = abc();
    ok(
        &mut model,
        Request::Compact(Compact {
            revision: 4,
            physical: false,
        }),
    );
    let old = TxnOp::Range(Range {
        revision: 3,
        ..everything()
    });
    let future = TxnOp::Range(Range {
        revision: 6,
        ..everything()
    });
    let negative = TxnOp::Range(Range {
        revision: -1,
        ..everything()
    });
    let bad_lease = TxnOp::Put(leased("b", 99));
    let cases = [
        (old, Rejected::Compacted),
        (future, Rejected::FutureRevision),
        (negative, Rejected::Compacted),
        (bad_lease, Rejected::LeaseNotFound),
    ];
    for (op, why) in cases {
        let taken = Txn {
            success: vec![TxnOp::Put(put("a", "z")), op.clone()],
            failure: vec![],
            compare: vec![],
        };
        assert_eq!(rejected(&mut model, Request::Txn(taken)), why); // [32]
        run(
            &mut model,
            Txn {
                failure: vec![op],
                ..Txn::default()
            },
        );
    }
    let mut fresh = Model::default();
    let negative = TxnOp::Range(Range {
        revision: -1,
        ..everything()
    });
    run(
        &mut fresh,
        Txn {
            success: vec![negative],
            ..Txn::default()
        },
    ); // [11]
}

#[test]
fn which_transactions_may_change_a_key_twice() {
    let p = |k: &str| TxnOp::Put(put(k, "1"));
    let d = |k: &str, end: &str| TxnOp::DeleteRange(delete(k, end));
    let then = |ops: Vec<TxnOp>| {
        TxnOp::Txn(Txn {
            success: ops,
            ..Txn::default()
        })
    };
    let both = |a: TxnOp, b: TxnOp| {
        TxnOp::Txn(Txn {
            success: vec![a],
            failure: vec![b],
            ..Txn::default()
        })
    };
    let cases = [
        (vec![p("a"), p("a")], false),
        (vec![p("a"), d("a", "b")], false),
        (vec![d("a", ""), p("a")], false),
        (vec![d("a", ""), d("a", "c")], true),
        (vec![both(p("a"), p("a"))], true),
        (vec![both(p("a"), p("a")), both(p("a"), p("a"))], false), // [30]
        (vec![p("a"), then(vec![d("a", "")])], false),
        (vec![d("a", "c"), then(vec![p("b")])], false),
        (vec![then(vec![d("a", "")]), then(vec![p("a")])], false),
        (vec![then(vec![p("a")]), then(vec![d("a", "")])], true), // [31]
        (vec![p("b"), d("a", "\0")], true),                       // [31]
    ];
    for (success, legal) in cases {
        let request = Request::Txn(Txn {
            success,
            ..Txn::default()
        });
        assert_eq!(validate(&request).is_ok(), legal, "{request:?}");
    }
}

#[test]
fn one_key_changed_twice_in_one_revision_makes_two_events() {
    let mut model = abc();
    let nested = |op| {
        TxnOp::Txn(Txn {
            success: vec![op],
            ..Txn::default()
        })
    };
    let txn = Txn {
        success: vec![
            nested(TxnOp::Put(put("a", "z"))),
            nested(TxnOp::DeleteRange(delete("a", ""))),
        ],
        ..Txn::default()
    };
    let applied = model.apply(&Request::Txn(txn)).unwrap();
    let kinds: Vec<_> = applied
        .events
        .iter()
        .map(|event| (event.kind, event.kv.mod_revision))
        .collect();
    assert_eq!(kinds, [(EventKind::Put, 6), (EventKind::Delete, 6)]);
    assert_eq!(model.pair_at(&key("a"), 6), None);
}

#[test]
fn the_operation_limit_is_the_longest_list_and_nesting_shares_it() {
    let puts = |n: usize| {
        (0..n)
            .map(|i| TxnOp::Put(put(&format!("k{i}"), "")))
            .collect::<Vec<_>>()
    };
    let txn = |ops: usize, nested: usize| {
        let mut success = puts(ops - 1);
        success.push(TxnOp::Txn(Txn {
            failure: puts(0),
            success: vec![],
            compare: vec![],
        }));
        if let Some(TxnOp::Txn(inner)) = success.last_mut() {
            let none = compare("x", CompareResult::Equal, CompareTarget::Version(0));
            inner.compare = vec![none; nested];
        }
        validate(&Request::Txn(Txn {
            success,
            failure: puts(ops),
            ..Txn::default()
        }))
    };
    assert_eq!(txn(128, 0), Ok(())); // [29]
    assert_eq!(txn(129, 0), Err(Rejected::TooManyOps));
    assert_eq!(txn(100, 28), Ok(()));
    assert_eq!(txn(100, 29), Err(Rejected::TooManyOps));
}

#[test]
fn compaction_keeps_the_newest_and_a_tombstone_exactly_there() {
    let mut model = abc(); // a: 2, 5; b: 3; c: 4
    ok(&mut model, Request::DeleteRange(delete("b", ""))); // 6
    ok(&mut model, Request::DeleteRange(delete("c", ""))); // 7
    ok(
        &mut model,
        Request::Compact(Compact {
            revision: 7,
            physical: false,
        }),
    );
    let left: Vec<_> = model
        .keys
        .iter()
        .map(|(key, versions)| (key.text(), versions.len(), versions[0].main))
        .collect();
    assert_eq!(left, [("a".into(), 1, 5), ("c".into(), 1, 7)]); // [49]
    assert_eq!(model.revision, 7);
    assert_eq!(
        read(
            &mut model,
            Range {
                revision: 7,
                ..everything()
            }
        )
        .count,
        1
    ); // [3]
    assert_eq!(
        rejected(
            &mut model,
            Request::Range(Range {
                revision: 6,
                ..everything()
            })
        ),
        Rejected::Compacted
    );
    let compact = |revision| {
        Request::Compact(Compact {
            revision,
            physical: false,
        })
    };
    assert_eq!(rejected(&mut model, compact(7)), Rejected::Compacted);
    assert_eq!(rejected(&mut model, compact(8)), Rejected::FutureRevision);
    let mut fresh = Model::default();
    assert_eq!(rejected(&mut fresh, compact(-1)), Rejected::Compacted);
    ok(&mut fresh, compact(0)); // [2]
    assert_eq!(rejected(&mut fresh, compact(0)), Rejected::Compacted);
}

#[test]
fn leases_end_with_all_their_keys_in_one_revision() {
    let mut model = Model::default();
    let Response::LeaseGrant(granted) = ok(&mut model, Request::LeaseGrant(LeaseGrant { id: -3, ttl: 0 }))
    else {
        unreachable!()
    };
    assert_eq!((granted.id, granted.ttl), (-3, 2)); // [51] [52]
    assert_eq!(
        rejected(&mut model, Request::LeaseGrant(LeaseGrant { id: -3, ttl: 9 })),
        Rejected::LeaseExists
    );
    let too_long = LeaseGrant {
        id: -3,
        ttl: MAX_LEASE_TTL + 1,
    };
    assert_eq!(
        rejected(&mut model, Request::LeaseGrant(too_long)),
        Rejected::LeaseTtlTooLarge
    );
    ok(&mut model, Request::Put(leased("b", -3)));
    ok(&mut model, Request::Put(leased("a", -3)));
    let applied = model
        .apply(&Request::LeaseRevoke(LeaseId { id: -3, keys: false }))
        .unwrap();
    assert_eq!(applied.response.header().revision, 4);
    assert_eq!(
        applied
            .events
            .iter()
            .map(|event| event.kv.key.text())
            .collect::<String>(),
        "ab"
    ); // [56]
    let gone = LeaseId { id: -3, keys: true };
    assert_eq!(
        rejected(&mut model, Request::LeaseRevoke(gone.clone())),
        Rejected::LeaseNotFound
    ); // [53]
    let Response::LeaseTimeToLive(answer) = ok(&mut model, Request::LeaseTimeToLive(gone)) else {
        unreachable!()
    };
    assert_eq!((answer.ttl, answer.granted_ttl, answer.keys.len()), (-1, 0, 0));
    ok(&mut model, Request::LeaseGrant(LeaseGrant { id: 5, ttl: 9 }));
    assert_eq!(
        ok(&mut model, Request::LeaseRevoke(LeaseId { id: 5, keys: false }))
            .header()
            .revision,
        4 // [56]
    );
}

#[test]
fn events_carry_what_was_there_before() {
    let mut model = abc();
    let changed = model.apply(&Request::Put(put("a", "10"))).unwrap().events;
    assert_eq!(changed[0].prev_kv.as_ref().unwrap().value, key("9"));
    let created = model.apply(&Request::Put(put("n", "1"))).unwrap().events;
    assert_eq!(created[0].prev_kv, None); // [45]
    let deleted = model
        .apply(&Request::DeleteRange(delete("a", "c")))
        .unwrap()
        .events;
    let shown = KeyValue {
        key: key("a"),
        mod_revision: 8,
        ..KeyValue::default()
    };
    assert_eq!((deleted[0].kind, &deleted[0].kv), (EventKind::Delete, &shown)); // [44]
    assert_eq!(deleted[1].prev_kv.as_ref().unwrap().value, key("2"));
    assert_eq!(model.events_after(5).len(), 4);
}
