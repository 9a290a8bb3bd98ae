//! Transactions that only read: they are answered from one view and never enter the log (API specification 2.5, 5.7).

use kelson_proto::etcdserverpb as pb;
use kelson_storage::command::{Compare, Range, Txn, TxnOp};

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

fn compared_range(compare: &Compare) -> Range {
    Range {
        key: compare.key.clone(),
        range_end: compare.range_end.clone(),
        ..Range::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
