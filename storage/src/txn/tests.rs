use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::command::DeleteRange;
use crate::mvcc::index::Index;
use crate::tables::Row;

/// One record, of every revision.
struct Only(Option<Arc<Row>>);

impl Records for Only {
    fn rows(&self, revisions: &[Revision]) -> Result<Vec<Option<Arc<Row>>>, Fault> {
        Ok(vec![self.0.clone(); revisions.len()])
    }
    fn at_or_below(&self, revisions: &[Revision], _: u64) -> Vec<Option<Revision>> {
        vec![None; revisions.len()]
    }
    fn count_change(&self, _: u64, _: u64, _: Span<'_>, _: usize) -> Option<i64> {
        None
    }
}

/// Calls `test` with a state at revision 5 that holds "k" = "v": created at 2, modified at 5, version 3, lease 9.
fn with_state(compacted: Option<u64>, test: impl Fn(Before<'_, Only>)) {
    let kv = KeyValue {
        key: b"k",
        create_revision: 2,
        mod_revision: 5,
        version: 3,
        value: b"v",
        lease: 9,
    };
    let mut index = Index::new();
    let meta = KeyMeta {
        create: 2,
        modified: Revision::new(5, 0),
        version: 3,
        lease: 9,
        bytes: kv.encoded_len() as u32,
        live: true,
    };
    index.insert(b"k", meta);
    let row = Row {
        kv: kv.to_bytes(),
        ..Row::default()
    };
    let state = Reading {
        root: index.view(),
        present: 5,
        records: &Only(Some(Arc::new(row))),
    };
    test(Before { state, compacted });
}

fn when(key: &'static str, result: CompareResult, operand: CompareOperand) -> Txn {
    Txn {
        compares: vec![Compare {
            key: Bytes::from(key),
            range_end: Bytes::new(),
            result,
            operand,
        }],
        ..Txn::default()
    }
}

fn decided(before: &Before<'_, Only>, txn: &Txn) -> Vec<bool> {
    before.decide(txn).unwrap().iter().collect()
}

/// API specification 5.2.
#[test]
fn fields_are_compared_as_stored_to_given() {
    use CompareOperand::*;
    use CompareResult::*;
    with_state(None, |before| {
        let value = |text: &'static str| Value(Bytes::from(text));
        for (result, operand, holds) in [
            (Equal, Version(3), true),
            (Greater, Version(2), true),
            (Less, Version(3), false),
            (NotEqual, Create(3), true),
            (Equal, Mod(5), true),
            (Equal, Lease(9), true),
            (Greater, value("u"), true),
            (Less, value("va"), true),
            (Equal, value(""), false),
            (Always, Version(77), true),
            (Equal, Unknown, true),
            (Less, Unknown, false),
        ] {
            assert_eq!(decided(&before, &when("k", result, operand)), [holds]);
        }
    });
}

/// API specification 5.2: an absent key is zero in all fields but the value, of which nothing is true.
#[test]
fn absent_keys_are_zero_and_have_no_value() {
    use CompareOperand::*;
    use CompareResult::*;
    with_state(None, |before| {
        for operand in [Version, Create, Mod, Lease] {
            assert_eq!(decided(&before, &when("none", Equal, operand(0))), [true]);
            assert_eq!(decided(&before, &when("none", Less, operand(1))), [true]);
            assert_eq!(decided(&before, &when("none", NotEqual, operand(0))), [false]);
        }
        for result in [Equal, NotEqual, Less, Greater] {
            assert_eq!(
                decided(&before, &when("none", result, Value(Bytes::new()))),
                [false]
            );
        }
    });
}

#[test]
fn only_the_chosen_path_is_decided_and_checked() {
    let nested = when("k", CompareResult::Equal, CompareOperand::Version(0));
    let future = TxnOp::Range(Range {
        revision: 6,
        ..Range::default()
    });
    let txn = Txn {
        success: vec![TxnOp::Txn(nested.clone()), TxnOp::Txn(Txn::default())],
        failure: vec![future.clone()],
        ..Txn::default()
    };
    with_state(None, |before| {
        assert_eq!(decided(&before, &txn), [true, false, true]);
        let decisions = before.decide(&txn).unwrap();
        assert_eq!(before.check(&txn, &decisions, |_| false), Ok(()));
        let taken = Txn {
            success: vec![future.clone()],
            ..Txn::default()
        };
        let decisions = before.decide(&taken).unwrap();
        assert_eq!(
            before.check(&taken, &decisions, |_| false),
            Err(Rejected::FutureRevision)
        );
    });
}

/// API specification 5.6: inside a transaction a negative revision is not "the newest".
#[test]
fn negative_revisions_are_compacted_but_for_minus_one_before_the_first_compaction() {
    let reads = |revision| Txn {
        success: vec![TxnOp::Range(Range {
            revision,
            ..Range::default()
        })],
        ..Txn::default()
    };
    for (compacted, revision, expected) in [
        (None, 0, Ok(())),
        (None, -1, Ok(())),
        (None, -2, Err(Rejected::Compacted)),
        (Some(0), -1, Err(Rejected::Compacted)),
        (Some(4), 0, Ok(())),
        (Some(4), 4, Ok(())),
        (Some(4), 3, Err(Rejected::Compacted)),
    ] {
        with_state(compacted, |before| {
            let txn = reads(revision);
            let decisions = before.decide(&txn).unwrap();
            assert_eq!(
                before.check(&txn, &decisions, |_| true),
                expected,
                "{compacted:?} {revision}"
            );
        });
    }
}

#[test]
fn keeping_a_field_of_a_key_deleted_before_is_rejected() {
    let delete = TxnOp::DeleteRange(DeleteRange {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: false,
    });
    let touch = TxnOp::Put(Put {
        key: Bytes::from_static(b"k"),
        ignore_value: true,
        ..Put::default()
    });
    with_state(None, |before| {
        for (ops, expected) in [
            (vec![touch.clone(), delete.clone()], Ok(())),
            (vec![delete.clone(), touch.clone()], Err(Rejected::KeyNotFound)),
        ] {
            let txn = Txn {
                success: ops,
                ..Txn::default()
            };
            let decisions = before.decide(&txn).unwrap();
            assert_eq!(before.check(&txn, &decisions, |_| true), expected);
        }
    });
}

#[test]
fn nested_reads_are_not_read_only_and_nested_puts_count() {
    let reads = Txn {
        success: vec![TxnOp::Range(Range::default())],
        ..Txn::default()
    };
    assert!(is_read_only(&reads));
    let nested = Txn {
        failure: vec![TxnOp::Txn(reads)],
        ..Txn::default()
    };
    assert!(!is_read_only(&nested) && !has_put(&nested));
    let puts = Txn {
        failure: vec![TxnOp::Put(Put::default())],
        ..Txn::default()
    };
    let nested = Txn {
        success: vec![TxnOp::Txn(puts)],
        ..Txn::default()
    };
    assert!(has_put(&nested));
}
