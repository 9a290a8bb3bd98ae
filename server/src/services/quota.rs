//! The backend quota, as the member that receives a request checks it: before the arguments are looked at, and before
//! anything is replicated (API specification 8.8). What is over it raises the NOSPACE alarm, which apply obeys.

use kelson_proto::etcdserverpb as pb;
use kelson_storage::command::{AlarmAction, AlarmKind, Command};

use super::ServiceContext;
use crate::status::ClientError;

/// What a put costs besides key and value, in bytes. Source: etcd `kvOverhead`.
const PUT_OVERHEAD_BYTES: u64 = 256;

/// What a lease costs, in bytes. Source: etcd `leaseOverhead`.
pub(super) const LEASE_COST_BYTES: u64 = 64;

/// What a put costs, in bytes.
pub(super) fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + (request.key.len() + request.value.len()) as u64
}

/// What a transaction costs, in bytes: its dearer branch, nested ones included.
pub(super) fn txn_cost(request: &pb::TxnRequest) -> u64 {
    branch_cost(&request.success).max(branch_cost(&request.failure))
}

fn branch_cost(ops: &[pb::RequestOp]) -> u64 {
    use pb::request_op::Request;
    ops.iter()
        .map(|op| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(txn)) => txn_cost(txn),
            _ => 0,
        })
        .sum()
}

/// Refuses what would not fit, and raises the alarm. What costs nothing always fits.
pub(super) async fn admit(context: &ServiceContext, cost: u64) -> Result<(), ClientError> {
    let Some(quota) = context.quota_bytes().filter(|_| cost > 0) else {
        return Ok(());
    };
    if context.reader().size().allocated + cost < quota {
        return Ok(());
    }
    raise_alarm(context, quota).await;
    Err(ClientError::NoSpace)
}

async fn raise_alarm(context: &ServiceContext, quota_bytes: u64) {
    let member = context.node.id();
    let alarm = AlarmKind::NoSpace;
    if context.reader().alarms().contains(&(member, alarm)) {
        return;
    }
    tracing::warn!(quota_bytes, "database quota used up, raising alarm");
    let raised = context.propose(Command::Alarm {
        action: AlarmAction::Activate,
        member,
        alarm,
    });
    if let Err(error) = raised.await {
        tracing::warn!(%error, "alarm not raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value_bytes: usize) -> pb::RequestOp {
        pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: "k".into(),
                value: vec![0; value_bytes].into(),
                ..Default::default()
            })),
        }
    }

    #[test]
    fn txn_costs_its_dearer_branch_with_what_is_nested_in_it() {
        let nested = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestTxn(pb::TxnRequest {
                failure: vec![put(100)],
                ..Default::default()
            })),
        };
        let txn = pb::TxnRequest {
            success: vec![put(10)],
            failure: vec![put(1), nested],
            ..Default::default()
        };
        assert_eq!(txn_cost(&txn), (256 + 1 + 1) + (256 + 1 + 100));
    }

    #[test]
    fn txn_that_only_deletes_costs_nothing() {
        let delete = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestDeleteRange(Default::default())),
        };
        let txn = pb::TxnRequest {
            success: vec![delete],
            ..Default::default()
        };
        assert_eq!(txn_cost(&txn), 0);
    }
}
