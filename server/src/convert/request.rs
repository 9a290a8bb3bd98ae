//! Requests in: wire messages to commands, with every check that needs no state.

use kelson_proto::etcdserverpb as pb;
use kelson_storage::command::{
    AlarmAction, AlarmKind, Compare, CompareOperand, CompareResult, DeleteRange, Put, Range, SortOrder,
    SortTarget, Txn, TxnOp,
};

use super::duplicate_put::check_duplicate_puts;
use crate::status::ClientError;

/// A range read. Refused: an empty key, an unknown sort order or target.
pub fn range(request: pb::RangeRequest) -> Result<Range, ClientError> {
    if request.key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    Ok(Range {
        sort_order: sort_order(request.sort_order)?,
        sort_target: sort_target(request.sort_target)?,
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

fn sort_order(number: i32) -> Result<SortOrder, ClientError> {
    use pb::range_request::SortOrder as Wire;
    match Wire::try_from(number).map_err(|_| ClientError::InvalidSortOption)? {
        Wire::None => Ok(SortOrder::None),
        Wire::Ascend => Ok(SortOrder::Ascend),
        Wire::Descend => Ok(SortOrder::Descend),
    }
}

fn sort_target(number: i32) -> Result<SortTarget, ClientError> {
    use pb::range_request::SortTarget as Wire;
    match Wire::try_from(number).map_err(|_| ClientError::InvalidSortOption)? {
        Wire::Key => Ok(SortTarget::Key),
        Wire::Version => Ok(SortTarget::Version),
        Wire::Create => Ok(SortTarget::Create),
        Wire::Mod => Ok(SortTarget::Mod),
        Wire::Value => Ok(SortTarget::Value),
    }
}

/// A write. Refused: an empty key, a value or lease that is also to be ignored.
pub fn put(request: pb::PutRequest) -> Result<Put, ClientError> {
    if request.key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(ClientError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(ClientError::LeaseProvided);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// A delete. Refused: an empty key.
pub fn delete_range(request: pb::DeleteRangeRequest) -> Result<DeleteRange, ClientError> {
    if request.key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    Ok(DeleteRange {
        key: request.key,
        range_end: request.range_end,
        prev_kv: request.prev_kv,
    })
}

/// A transaction. Refused: more than `max_ops` operations (API specification 5.3), a bad operation (5.4), a key put
/// twice (5.5).
pub fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, ClientError> {
    let txn = txn_within(request, max_ops)?;
    check_duplicate_puts(&txn.success)?;
    check_duplicate_puts(&txn.failure)?;
    Ok(txn)
}

/// Recursive; the depth is bounded by the protobuf decoder's recursion limit, two levels of which make one here.
fn txn_within(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, ClientError> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let left = max_ops.checked_sub(longest).ok_or(ClientError::TooManyOps)?;
    Ok(Txn {
        compares: convert_all(request.compare, compare)?,
        success: convert_all(request.success, |op| txn_op(op, left))?,
        failure: convert_all(request.failure, |op| txn_op(op, left))?,
    })
}

fn convert_all<W, C>(
    wire: Vec<W>,
    convert: impl Fn(W) -> Result<C, ClientError>,
) -> Result<Vec<C>, ClientError> {
    wire.into_iter().map(convert).collect()
}

fn txn_op(op: pb::RequestOp, left: usize) -> Result<TxnOp, ClientError> {
    use pb::request_op::Request;
    match op.request {
        Some(Request::RequestRange(request)) => range(request).map(TxnOp::Range),
        Some(Request::RequestPut(request)) => put(request).map(TxnOp::Put),
        Some(Request::RequestDeleteRange(request)) => delete_range(request).map(TxnOp::DeleteRange),
        Some(Request::RequestTxn(request)) => txn_within(request, left).map(TxnOp::Txn),
        None => Err(ClientError::KeyNotFound),
    }
}

fn compare(request: pb::Compare) -> Result<Compare, ClientError> {
    if request.key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    Ok(Compare {
        key: request.key,
        range_end: request.range_end,
        result: compare_result(request.result),
        operand: compare_operand(request.target, request.target_union),
    })
}

fn compare_result(number: i32) -> CompareResult {
    use pb::compare::CompareResult as Wire;
    match Wire::try_from(number) {
        Ok(Wire::Equal) => CompareResult::Equal,
        Ok(Wire::Greater) => CompareResult::Greater,
        Ok(Wire::Less) => CompareResult::Less,
        Ok(Wire::NotEqual) => CompareResult::NotEqual,
        Err(_) => CompareResult::Always,
    }
}

/// An operand that is missing or belongs to another target counts as zero or empty (API specification 5.2).
fn compare_operand(target: i32, given: Option<pb::compare::TargetUnion>) -> CompareOperand {
    use pb::compare::{CompareTarget as Target, TargetUnion as Given};
    match (Target::try_from(target), given) {
        (Ok(Target::Version), Some(Given::Version(version))) => CompareOperand::Version(version),
        (Ok(Target::Version), _) => CompareOperand::Version(0),
        (Ok(Target::Create), Some(Given::CreateRevision(revision))) => CompareOperand::Create(revision),
        (Ok(Target::Create), _) => CompareOperand::Create(0),
        (Ok(Target::Mod), Some(Given::ModRevision(revision))) => CompareOperand::Mod(revision),
        (Ok(Target::Mod), _) => CompareOperand::Mod(0),
        (Ok(Target::Value), Some(Given::Value(value))) => CompareOperand::Value(value),
        (Ok(Target::Value), _) => CompareOperand::Value(bytes::Bytes::new()),
        (Ok(Target::Lease), Some(Given::Lease(lease))) => CompareOperand::Lease(lease),
        (Ok(Target::Lease), _) => CompareOperand::Lease(0),
        (Err(_), _) => CompareOperand::Unknown,
    }
}

/// An alarm action. Refused: an unknown number, on which etcd's own handler misbehaves.
pub fn alarm_action(number: i32) -> Result<AlarmAction, ClientError> {
    use pb::alarm_request::AlarmAction as Wire;
    match Wire::try_from(number).map_err(|_| ClientError::InvalidAlarm)? {
        Wire::Get => Ok(AlarmAction::Get),
        Wire::Activate => Ok(AlarmAction::Activate),
        Wire::Deactivate => Ok(AlarmAction::Deactivate),
    }
}

/// An alarm kind. Refused: an unknown number.
pub fn alarm_kind(number: i32) -> Result<AlarmKind, ClientError> {
    match pb::AlarmType::try_from(number).map_err(|_| ClientError::InvalidAlarm)? {
        pb::AlarmType::None => Ok(AlarmKind::None),
        pb::AlarmType::Nospace => Ok(AlarmKind::NoSpace),
        pb::AlarmType::Corrupt => Ok(AlarmKind::Corrupt),
    }
}
