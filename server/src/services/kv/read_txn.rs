//! Transactions that only read: evaluated here on one [`ReadView`], never in the log (API specification 2.5, 5.7).

use std::cmp::Ordering;

use kelson_proto::etcdserverpb as pb;
use kelson_proto::mvccpb::KeyValue;
use kelson_storage::applied::{TxnApplied, TxnOpApplied};
use kelson_storage::command::{Compare, CompareOperand, CompareResult, Range, Txn, TxnOp};
use kelson_storage::error::{Fault, Rejected};
use kelson_storage::store::{ReadError, ReadView};
use prost::Message;

/// Where a transaction is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPath {
    /// From the local store as it is.
    Local,
    /// From the local store once it is known to be fresh.
    ReadIndex,
    /// By apply.
    Log,
}

impl ReadPath {
    /// A nested transaction counts as a write even if it only reads, as in etcd.
    pub(super) fn of(request: &pb::TxnRequest) -> Self {
        use pb::request_op::Request;
        let mut path = Self::Local;
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) if range.serializable => {}
                Some(Request::RequestRange(_)) => path = Self::ReadIndex,
                _ => return Self::Log,
            }
        }
        path
    }
}

/// Every range that evaluating `txn` may read: those of compares over more than one key, and of both branches.
pub(super) fn ranges(txn: &Txn) -> impl Iterator<Item = Range> {
    let compared = txn.compares.iter().map(compared_range);
    let branches = reads_of(&txn.success).chain(reads_of(&txn.failure));
    compared.chain(branches.cloned())
}

fn reads_of(branch: &[TxnOp]) -> impl Iterator<Item = &Range> {
    branch.iter().filter_map(|op| match op {
        TxnOp::Range(range) => Some(range),
        _ => None,
    })
}

/// Evaluates `txn`, all operations of which are reads, as of `view`.
pub(super) fn run(view: &ReadView, txn: &Txn, never_compacted: bool) -> Result<TxnApplied, ReadError> {
    debug_assert!(
        txn.success
            .iter()
            .chain(&txn.failure)
            .all(|op| matches!(op, TxnOp::Range(_))),
        "a transaction with a write goes through the log"
    );
    let succeeded = all_hold(view, &txn.compares)?;
    let branch = if succeeded { &txn.success } else { &txn.failure };
    let revision = view.revision();
    let mut responses = Vec::with_capacity(branch.len());
    for range in reads_of(branch) {
        check_negative_revision(range.revision, never_compacted)?;
        let result = view.range(range)?;
        responses.push(TxnOpApplied::Range { revision, result });
    }
    Ok(TxnApplied { succeeded, responses })
}

/// Outside of a transaction a negative revision means the newest; inside it is compared with the compact revision,
/// which is -1 before the first compaction (API specification 5.6).
fn check_negative_revision(revision: i64, never_compacted: bool) -> Result<(), Rejected> {
    if revision >= 0 || (revision == -1 && never_compacted) {
        Ok(())
    } else {
        Err(Rejected::Compacted)
    }
}

fn all_hold(view: &ReadView, compares: &[Compare]) -> Result<bool, ReadError> {
    for compare in compares {
        if !holds(view, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(view: &ReadView, compare: &Compare) -> Result<bool, ReadError> {
    let pairs = view.range(&compared_range(compare))?.kvs;
    if pairs.is_empty() {
        let by_value = matches!(compare.operand, CompareOperand::Value(_));
        return Ok(!by_value && pair_holds(compare, &KeyValue::default()));
    }
    for pair in pairs {
        let pair = KeyValue::decode(pair).map_err(|error| damaged_pair(&error))?;
        if !pair_holds(compare, &pair) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn damaged_pair(error: &prost::DecodeError) -> Fault {
    Fault::Unusable {
        path: "rev".into(),
        what: format!("a stored pair does not decode: {error}"),
    }
}

/// What must be read for `compare`. Without values an answer comes from the index alone, but it shows no lease.
fn compared_range(compare: &Compare) -> Range {
    Range {
        key: compare.key.clone(),
        range_end: compare.range_end.clone(),
        keys_only: !matches!(
            compare.operand,
            CompareOperand::Value(_) | CompareOperand::Lease(_)
        ),
        ..Range::default()
    }
}

fn pair_holds(compare: &Compare, stored: &KeyValue) -> bool {
    let order = match &compare.operand {
        CompareOperand::Version(version) => stored.version.cmp(version),
        CompareOperand::Create(revision) => stored.create_revision.cmp(revision),
        CompareOperand::Mod(revision) => stored.mod_revision.cmp(revision),
        CompareOperand::Value(value) => stored.value.cmp(value),
        CompareOperand::Lease(lease) => stored.lease.cmp(lease),
        CompareOperand::Unknown => Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Always => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(result: CompareResult, operand: CompareOperand) -> Compare {
        Compare {
            key: "k".into(),
            range_end: bytes::Bytes::new(),
            result,
            operand,
        }
    }

    #[test]
    fn stored_field_stands_left_of_the_operand() {
        let stored = KeyValue {
            version: 3,
            ..KeyValue::default()
        };
        let holds = |result, version| pair_holds(&compare(result, CompareOperand::Version(version)), &stored);
        assert!(holds(CompareResult::Greater, 2) && !holds(CompareResult::Greater, 3));
        assert!(holds(CompareResult::Less, 4) && !holds(CompareResult::Less, 3));
        assert!(holds(CompareResult::Equal, 3) && !holds(CompareResult::NotEqual, 3));
    }

    #[test]
    fn unknown_target_counts_as_equal_and_unknown_result_as_true() {
        let stored = KeyValue::default();
        assert!(pair_holds(
            &compare(CompareResult::Equal, CompareOperand::Unknown),
            &stored
        ));
        assert!(!pair_holds(
            &compare(CompareResult::NotEqual, CompareOperand::Unknown),
            &stored
        ));
        assert!(pair_holds(
            &compare(CompareResult::Always, CompareOperand::Version(9)),
            &stored
        ));
    }

    #[test]
    fn negative_revision_is_compacted_unless_it_is_the_mark_of_never() {
        assert_eq!(check_negative_revision(-1, true), Ok(()));
        assert_eq!(check_negative_revision(-1, false), Err(Rejected::Compacted));
        assert_eq!(check_negative_revision(-2, true), Err(Rejected::Compacted));
        assert_eq!(check_negative_revision(0, false), Ok(()));
    }

    #[test]
    fn only_ranges_stay_out_of_the_log() {
        use pb::request_op::Request;
        let range = |serializable| pb::RequestOp {
            request: Some(Request::RequestRange(pb::RangeRequest {
                serializable,
                ..Default::default()
            })),
        };
        let txn = |success, failure| pb::TxnRequest {
            compare: Vec::new(),
            success,
            failure,
        };
        let nested = pb::RequestOp {
            request: Some(Request::RequestTxn(pb::TxnRequest::default())),
        };
        assert_eq!(ReadPath::of(&txn(vec![], vec![])), ReadPath::Local);
        assert_eq!(
            ReadPath::of(&txn(vec![range(true)], vec![range(true)])),
            ReadPath::Local
        );
        assert_eq!(
            ReadPath::of(&txn(vec![range(true)], vec![range(false)])),
            ReadPath::ReadIndex
        );
        assert_eq!(
            ReadPath::of(&txn(vec![range(false)], vec![nested])),
            ReadPath::Log
        );
    }
}
