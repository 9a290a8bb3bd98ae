//! Requests from a fuzzer's bytes, aimed at the edges: few keys, revisions around the compacted and the present one.

use super::Input;
use crate::history::{
    Blob, Compact, Compare, CompareResult, CompareTarget, DeleteRange, LeaseGrant, LeaseId, Put, Range,
    Request, SortOrder, SortTarget, Txn, TxnOp,
};
use crate::model::Model;

/// Deepest transaction within transactions.
const DEPTH_MAX: usize = 5;
/// Operations of one list.
const OPS_MAX: usize = 5;

fn blob(bytes: &[u8]) -> Blob {
    Blob(bytes.to_vec().into())
}

fn key(input: &mut Input<'_>) -> Blob {
    blob(input.one_of::<&[u8]>(&[b"a", b"a\0", b"ab", b"b", b"\xff", b"ba", b"c", b""]))
}

fn range_end(input: &mut Input<'_>) -> Blob {
    blob(input.one_of::<&[u8]>(&[b"", b"\0", b"b", b"c", b"a\0", b"\xff\xff", b"a"]))
}

fn revision(input: &mut Input<'_>, model: &Model) -> i64 {
    let (now, compacted) = (model.revision, model.compacted);
    let drawn = i64::from(input.byte());
    match input.below(7) {
        0 => 0,
        1 => compacted,
        2 => compacted + 1,
        3 => now,
        4 => now + 1,
        5 => drawn % (now + 1),
        _ => -drawn,
    }
}

fn lease(input: &mut Input<'_>) -> i64 {
    input.one_of(&[0, 0, 0, 1, 2, -3])
}

/// The next request, for a store that stands where `model` does.
pub(super) fn request(input: &mut Input<'_>, model: &Model) -> Request {
    match input.below(12) {
        0..=2 => Request::Put(put(input)),
        3 => Request::DeleteRange(delete(input)),
        4 | 5 => Request::Range(range(input, model)),
        6..=8 => Request::Txn(txn(input, model, DEPTH_MAX)),
        9 => Request::Compact(Compact {
            revision: revision(input, model),
            physical: false,
        }),
        10 => Request::LeaseGrant(LeaseGrant {
            id: input.one_of(&[1, 2, -3]),
            ttl: input.one_of(&[2, 5, 100, 9_000_000_001]),
        }),
        _ => Request::LeaseRevoke(LeaseId {
            id: input.one_of(&[1, 2, -3]),
            keys: false,
        }),
    }
}

fn put(input: &mut Input<'_>) -> Put {
    let flags = input.byte();
    Put {
        key: key(input),
        value: blob(input.bytes(5)),
        lease: lease(input),
        prev_kv: flags & 1 != 0,
        ignore_value: flags & 0b110 == 0b110,
        ignore_lease: flags & 0b11000 == 0b11000,
    }
}

fn delete(input: &mut Input<'_>) -> DeleteRange {
    DeleteRange {
        key: key(input),
        range_end: range_end(input),
        prev_kv: input.once_in(2),
    }
}

fn range(input: &mut Input<'_>, model: &Model) -> Range {
    let flags = input.byte();
    let bound = |input: &mut Input<'_>, on: bool| if on { revision(input, model).max(0) } else { 0 };
    Range {
        key: key(input),
        range_end: range_end(input),
        limit: input.one_of(&[0, 0, 1, 2, -1]),
        revision: revision(input, model),
        sort_order: input.one_of(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend]),
        sort_target: input.one_of(&[
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ]),
        serializable: true,
        keys_only: flags & 1 != 0,
        count_only: flags & 0b110 == 0b110,
        min_mod_revision: bound(input, flags & 0b1_1000 == 0b1_1000),
        max_mod_revision: bound(input, flags & 0b110_0000 == 0b110_0000),
        min_create_revision: bound(input, flags & 0b1000_1000 == 0b1000_1000),
        max_create_revision: bound(input, flags & 0b1010_0000 == 0b1010_0000),
    }
}

fn compare(input: &mut Input<'_>, model: &Model) -> Compare {
    let number = if input.once_in(2) {
        revision(input, model)
    } else {
        i64::from(input.below(4) as u8)
    };
    Compare {
        key: key(input),
        range_end: if input.once_in(3) {
            range_end(input)
        } else {
            Blob::default()
        },
        result: input.one_of(&[
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]),
        target: match input.below(5) {
            0 => CompareTarget::Version(number),
            1 => CompareTarget::Create(number),
            2 => CompareTarget::Mod(number),
            3 => CompareTarget::Value(blob(input.bytes(5))),
            _ => CompareTarget::Lease(number),
        },
    }
}

/// A transaction of at most `depth` levels.
pub(super) fn txn(input: &mut Input<'_>, model: &Model, depth: usize) -> Txn {
    let compares = input.below(3);
    let (then_ops, else_ops) = (input.below(OPS_MAX), input.below(OPS_MAX));
    Txn {
        compare: (0..compares).map(|_| compare(input, model)).collect(),
        success: (0..then_ops).map(|_| txn_op(input, model, depth)).collect(),
        failure: (0..else_ops).map(|_| txn_op(input, model, depth)).collect(),
    }
}

fn txn_op(input: &mut Input<'_>, model: &Model, depth: usize) -> TxnOp {
    match input.below(7) {
        0..=2 => TxnOp::Put(put(input)),
        3 => TxnOp::DeleteRange(delete(input)),
        4 | 5 if depth > 1 => TxnOp::Txn(txn(input, model, depth - 1)),
        _ => TxnOp::Range(range(input, model)),
    }
}
