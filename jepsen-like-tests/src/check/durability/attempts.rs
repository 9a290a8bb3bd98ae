//! What clients tried to change, and what they were told had changed.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use crate::history::{
    Blob, Event, EventKind, KeyValue, Operation, Outcome, Request, Response, TxnOp, TxnOpResponse,
};
use crate::model::in_range;

/// Everything attempted and not rejected.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    puts: HashSet<(Blob, Blob)>,
    /// Keys put with `ignore_value`: any value may be written again.
    touched: BTreeSet<Blob>,
    deleted: BTreeSet<Blob>,
    deleted_ranges: Vec<(Blob, Blob)>,
    leased: BTreeSet<Blob>,
}

impl Attempts {
    pub(super) fn collect(operations: &[Operation]) -> Self {
        let mut attempts = Self::default();
        for operation in operations {
            if matches!(operation.outcome, Outcome::Failed { .. }) {
                continue;
            }
            match &operation.request {
                Request::Put(put) => attempts.add(&TxnOp::Put(put.clone())),
                Request::DeleteRange(delete) => attempts.add(&TxnOp::DeleteRange(delete.clone())),
                Request::Txn(txn) => txn
                    .success
                    .iter()
                    .chain(&txn.failure)
                    .for_each(|op| attempts.add(op)),
                _ => {}
            }
        }
        attempts
    }

    fn add(&mut self, op: &TxnOp) {
        match op {
            TxnOp::Put(put) => {
                if put.ignore_value {
                    self.touched.insert(put.key.clone());
                } else {
                    self.puts.insert((put.key.clone(), put.value.clone()));
                }
                if put.lease != 0 {
                    self.leased.insert(put.key.clone());
                }
            }
            TxnOp::DeleteRange(delete) if delete.range_end.is_empty() => {
                self.deleted.insert(delete.key.clone());
            }
            TxnOp::DeleteRange(delete) => {
                self.deleted_ranges
                    .push((delete.key.clone(), delete.range_end.clone()));
            }
            TxnOp::Txn(txn) => txn.success.iter().chain(&txn.failure).for_each(|op| self.add(op)),
            TxnOp::Range(_) => {}
        }
    }

    /// Whether someone may have written this value there.
    pub(super) fn may_put(&self, pair: &KeyValue) -> bool {
        self.touched.contains(&pair.key) || self.puts.contains(&(pair.key.clone(), pair.value.clone()))
    }

    /// Whether someone, or the end of a lease, may have deleted this key.
    pub(super) fn may_delete(&self, key: &Blob) -> bool {
        let ranges = self.deleted_ranges.iter();
        self.deleted.contains(key)
            || self.leased.contains(key)
            || ranges.into_iter().any(|(start, end)| in_range(start, end, key))
    }
}

/// A change that a client was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A put; no value where the old one was kept.
    Put(Blob, Option<Blob>),
    /// A delete.
    Delete(Blob),
}

impl Change {
    pub(super) fn key(&self) -> &Blob {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    pub(super) fn is_delete(&self) -> bool {
        matches!(self, Self::Delete(_))
    }

    pub(super) fn is(&self, event: &Event) -> bool {
        match self {
            Self::Put(key, value) => {
                let same = value.as_ref().is_none_or(|value| *value == event.kv.value);
                event.kind == EventKind::Put && event.kv.key == *key && same
            }
            Self::Delete(key) => event.kind == EventKind::Delete && event.kv.key == *key,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, Some(value)) => write!(f, "put {key}={value}"),
            Self::Put(key, None) => write!(f, "put {key}"),
            Self::Delete(key) => write!(f, "delete {key}"),
        }
    }
}

/// The changes that an acknowledged call tells of. A delete tells its keys if it names one, or returns them.
pub(super) fn changes_of(request: &Request, response: &Response) -> Vec<Change> {
    let mut changes = Vec::new();
    match (request, response) {
        (Request::Put(put), Response::Put(response)) => {
            add_op(
                &TxnOp::Put(put.clone()),
                &TxnOpResponse::Put(response.clone()),
                &mut changes,
            );
        }
        (Request::DeleteRange(delete), Response::DeleteRange(response)) => {
            let (op, response) = (delete.clone(), response.clone());
            add_op(
                &TxnOp::DeleteRange(op),
                &TxnOpResponse::DeleteRange(response),
                &mut changes,
            );
        }
        (Request::Txn(txn), Response::Txn(response)) => {
            let ops = if response.succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            for (op, response) in ops.iter().zip(&response.responses) {
                add_op(op, response, &mut changes);
            }
        }
        _ => {}
    }
    changes
}

fn add_op(op: &TxnOp, response: &TxnOpResponse, changes: &mut Vec<Change>) {
    match (op, response) {
        (TxnOp::Put(put), TxnOpResponse::Put(_)) => {
            changes.push(Change::Put(
                put.key.clone(),
                (!put.ignore_value).then(|| put.value.clone()),
            ));
        }
        (TxnOp::DeleteRange(delete), TxnOpResponse::DeleteRange(response)) => {
            if delete.range_end.is_empty() && response.deleted > 0 {
                changes.push(Change::Delete(delete.key.clone()));
            } else {
                changes.extend(
                    response
                        .prev_kvs
                        .iter()
                        .map(|pair| Change::Delete(pair.key.clone())),
                );
            }
        }
        (TxnOp::Txn(txn), TxnOpResponse::Txn(response)) => {
            let ops = if response.succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            for (op, response) in ops.iter().zip(&response.responses) {
                add_op(op, response, changes);
            }
        }
        _ => {}
    }
}
