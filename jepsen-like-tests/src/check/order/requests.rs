//! What a request could do at all, whatever the state: narrows down who can have made a revision.

use crate::history::{Blob, Event, EventKind, KeyValue, Request, TxnOp};
use crate::model::in_range;

/// Whether events hold a change as it was seen.
pub(super) fn shows(events: &[Event], kind: EventKind, pair: &KeyValue) -> bool {
    events.iter().any(|event| event.kind == kind && event.kv == *pair)
}

pub(super) fn may_change(request: &Request) -> bool {
    matches!(
        request,
        Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) | Request::LeaseRevoke(_)
    )
}

/// Whether a request can change `key` in this way at all, whatever the state.
pub(super) fn may_touch(request: &Request, kind: EventKind, key: &Blob) -> bool {
    match request {
        Request::Put(put) => kind == EventKind::Put && put.key == *key,
        Request::DeleteRange(delete) => {
            kind == EventKind::Delete && in_range(&delete.key, &delete.range_end, key)
        }
        Request::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .any(|op| op_may_touch(op, kind, key)),
        Request::LeaseRevoke(_) => kind == EventKind::Delete,
        _ => false,
    }
}

pub(super) fn op_may_touch(op: &TxnOp, kind: EventKind, key: &Blob) -> bool {
    match op {
        TxnOp::Range(_) => false,
        TxnOp::Put(put) => kind == EventKind::Put && put.key == *key,
        TxnOp::DeleteRange(delete) => {
            kind == EventKind::Delete && in_range(&delete.key, &delete.range_end, key)
        }
        TxnOp::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .any(|op| op_may_touch(op, kind, key)),
    }
}

/// Whether a request writes this value somewhere, if it is to explain a put.
pub(super) fn writes(request: &Request, kind: EventKind, value: &Blob) -> bool {
    fn op_writes(op: &TxnOp, value: &Blob) -> bool {
        match op {
            TxnOp::Put(put) => put.value == *value,
            TxnOp::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .any(|op| op_writes(op, value)),
            TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
        }
    }
    kind == EventKind::Delete
        || match request {
            Request::Put(put) => put.value == *value,
            Request::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .any(|op| op_writes(op, value)),
            _ => false,
        }
}

/// Leases that a request names: it needs them to exist.
pub(in crate::check) fn leases_of(request: &Request, leases: &mut Vec<i64>) {
    fn of_ops(ops: &[TxnOp], leases: &mut Vec<i64>) {
        for op in ops {
            match op {
                TxnOp::Put(put) if put.lease != 0 => leases.push(put.lease),
                TxnOp::Txn(txn) => {
                    of_ops(&txn.success, leases);
                    of_ops(&txn.failure, leases);
                }
                _ => {}
            }
        }
    }
    match request {
        Request::Put(put) if put.lease != 0 => leases.push(put.lease),
        Request::Txn(txn) => {
            of_ops(&txn.success, leases);
            of_ops(&txn.failure, leases);
        }
        Request::LeaseRevoke(lease) => leases.push(lease.id),
        _ => {}
    }
}
