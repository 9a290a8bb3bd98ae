//! Whether a response is what the model answers, and if not, in which field.

use std::collections::HashSet;
use std::fmt::Debug;

use crate::history::{
    Blob, DeleteRangeResponse, KeyValue, PutResponse, Range, RangeResponse, Request, Response, SortTarget,
    TxnOp, TxnOpResponse, TxnResponse,
};
use crate::model::Model;

/// The first field of `actual` that differs from `expected`, as words; `model` is in the state the call saw.
pub(super) fn difference(
    model: &Model,
    request: &Request,
    expected: &Response,
    actual: &Response,
) -> Option<String> {
    match (request, expected, actual) {
        (Request::Range(range), Response::Range(expected), Response::Range(actual)) => {
            range_difference(model, range, expected, actual)
        }
        (_, Response::Put(expected), Response::Put(actual)) => put_difference(expected, actual),
        (_, Response::DeleteRange(expected), Response::DeleteRange(actual)) => {
            delete_difference(expected, actual)
        }
        (Request::Txn(txn), Response::Txn(expected), Response::Txn(actual)) => {
            let ops = if expected.succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            txn_difference(model, ops, expected, actual)
        }
        (_, Response::LeaseGrant(expected), Response::LeaseGrant(actual)) => {
            field("lease", &expected.id, &actual.id).or_else(|| field("ttl", &expected.ttl, &actual.ttl))
        }
        (_, Response::Compact(_), Response::Compact(_))
        | (_, Response::LeaseRevoke(_), Response::LeaseRevoke(_)) => None,
        _ => Some("the response is of another kind than the request".to_owned()),
    }
    .or_else(|| {
        field(
            "header revision",
            &expected.header().revision,
            &actual.header().revision,
        )
    })
}

fn field<T: PartialEq + Debug>(name: &str, expected: &T, actual: &T) -> Option<String> {
    (expected != actual).then(|| format!("{name} is {actual:?}, must be {expected:?}"))
}

fn pair(name: &str, expected: &KeyValue, actual: &KeyValue) -> Option<String> {
    field(&format!("{name} key"), &expected.key, &actual.key)
        .or_else(|| {
            field(
                &format!("{name} {} value", actual.key),
                &expected.value,
                &actual.value,
            )
        })
        .or_else(|| {
            field(
                &format!("{name} {} version", actual.key),
                &expected.version,
                &actual.version,
            )
        })
        .or_else(|| {
            let name = format!("{name} {} create revision", actual.key);
            field(&name, &expected.create_revision, &actual.create_revision)
        })
        .or_else(|| {
            let name = format!("{name} {} mod revision", actual.key);
            field(&name, &expected.mod_revision, &actual.mod_revision)
        })
        .or_else(|| {
            field(
                &format!("{name} {} lease", actual.key),
                &expected.lease,
                &actual.lease,
            )
        })
}

fn pairs(name: &str, expected: &[KeyValue], actual: &[KeyValue]) -> Option<String> {
    let keys = |kvs: &[KeyValue]| kvs.iter().map(|pair| pair.key.clone()).collect::<Vec<Blob>>();
    if expected.len() != actual.len() {
        return field(&format!("{name} keys"), &keys(expected), &keys(actual));
    }
    expected
        .iter()
        .zip(actual)
        .find_map(|(expected, actual)| pair(name, expected, actual))
}

fn optional(name: &str, expected: &Option<KeyValue>, actual: &Option<KeyValue>) -> Option<String> {
    match (expected, actual) {
        (Some(expected), Some(actual)) => pair(name, expected, actual),
        _ => field(name, expected, actual),
    }
}

fn range_difference(
    model: &Model,
    range: &Range,
    expected: &RangeResponse,
    actual: &RangeResponse,
) -> Option<String> {
    field("count", &expected.count, &actual.count)
        .or_else(|| field("more", &expected.more, &actual.more))
        .or_else(|| {
            if range.sort_target == SortTarget::Key || range.count_only {
                pairs("pair", &expected.kvs, &actual.kvs)
            } else {
                tied_difference(model, range, expected, actual)
            }
        })
}

/// Section 3.4 leaves the order of ties open: the sort keys must be right, and each pair must be one of the range.
fn tied_difference(
    model: &Model,
    range: &Range,
    expected: &RangeResponse,
    actual: &RangeResponse,
) -> Option<String> {
    let now = expected.header.revision;
    let full = |pair: &KeyValue| {
        let at = if range.revision > 0 { range.revision } else { now };
        model.pair_at(&pair.key, at).unwrap_or_default()
    };
    let sort_key = |pair: &KeyValue| match range.sort_target {
        SortTarget::Key => (0, pair.key.clone()),
        SortTarget::Version => (pair.version, Blob::default()),
        SortTarget::Create => (pair.create_revision, Blob::default()),
        SortTarget::Mod => (pair.mod_revision, Blob::default()),
        SortTarget::Value => (0, full(pair).value),
    };
    let sort_keys = |kvs: &[KeyValue]| kvs.iter().map(sort_key).collect::<Vec<_>>();
    let all = model.range(
        &Range {
            limit: 0,
            ..range.clone()
        },
        now,
    );
    let known: HashSet<&KeyValue> = all.kvs.iter().collect();
    let mut met = HashSet::new();
    let stranger = actual
        .kvs
        .iter()
        .find(|pair| !known.contains(pair) || !met.insert(&pair.key));
    field(
        "sorted values",
        &sort_keys(&expected.kvs),
        &sort_keys(&actual.kvs),
    )
    .or_else(|| stranger.map(|pair| format!("pair {pair:?} is not of the range, or there twice")))
}

fn put_difference(expected: &PutResponse, actual: &PutResponse) -> Option<String> {
    optional("previous pair", &expected.prev_kv, &actual.prev_kv)
}

fn delete_difference(expected: &DeleteRangeResponse, actual: &DeleteRangeResponse) -> Option<String> {
    field("deleted", &expected.deleted, &actual.deleted)
        .or_else(|| pairs("previous pair", &expected.prev_kvs, &actual.prev_kvs))
}

fn txn_difference(
    model: &Model,
    ops: &[TxnOp],
    expected: &TxnResponse,
    actual: &TxnResponse,
) -> Option<String> {
    let heads = field("succeeded", &expected.succeeded, &actual.succeeded).or_else(|| {
        field(
            "number of responses",
            &expected.responses.len(),
            &actual.responses.len(),
        )
    });
    if heads.is_some() {
        return heads;
    }
    let mut triples = ops
        .iter()
        .zip(expected.responses.iter().zip(&actual.responses))
        .enumerate();
    triples.find_map(|(place, (op, (expected, actual)))| {
        let found = match (op, expected, actual) {
            (TxnOp::Range(range), TxnOpResponse::Range(expected), TxnOpResponse::Range(actual)) => {
                range_difference(model, range, expected, actual)
                    .or_else(|| field("header", &expected.header, &actual.header))
            }
            (_, TxnOpResponse::Put(expected), TxnOpResponse::Put(actual)) => {
                put_difference(expected, actual).or_else(|| field("header", &expected.header, &actual.header))
            }
            (_, TxnOpResponse::DeleteRange(expected), TxnOpResponse::DeleteRange(actual)) => {
                delete_difference(expected, actual)
                    .or_else(|| field("header", &expected.header, &actual.header))
            }
            (TxnOp::Txn(txn), TxnOpResponse::Txn(expected), TxnOpResponse::Txn(actual)) => {
                let ops = if expected.succeeded {
                    &txn.success
                } else {
                    &txn.failure
                };
                txn_difference(model, ops, expected, actual)
                    .or_else(|| field("header", &expected.header, &actual.header))
            }
            _ => Some("is of another kind".to_owned()),
        };
        found.map(|found| format!("response {place}: {found}"))
    })
}
