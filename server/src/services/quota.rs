//! The backend quota, as the member that receives a request checks it: before the arguments are looked at, and before
//! anything is replicated (API specification 8.8). What is over it raises the NOSPACE alarm, which apply obeys.
//!
//! What counts is what the rows in the database take, live ones and history: pages that deleted rows left behind are
//! written again before the file grows, so that nobody has to defragment to get below the quota. And once there is room
//! again, the member takes back the alarm that its quota raised; etcd leaves that to the operator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
    if context.reader().size().in_use + cost < quota {
        return Ok(());
    }
    raise_alarm(context, quota).await;
    Err(ClientError::NoSpace)
}

/// How often a member looks whether there is room again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Looks in a row at which there must be room before the alarm goes.
const LOOKS: u32 = 2;
/// Percent of the quota below which there is room: so much below it that the next put does not raise the alarm again.
const ROOM_PERCENT: u64 = 90;

/// When the alarm that a quota raised may go.
#[derive(Debug, Default)]
struct Easing {
    /// The quota was seen to be used up: this alarm is its, and not one that somebody raised by hand.
    used_up: bool,
    /// Looks in a row at which there was room.
    looks: u32,
}

impl Easing {
    /// Takes note of a look at a database that stands under an alarm; true: it may go.
    fn look(&mut self, raised_here: bool, in_use: u64, quota: u64) -> bool {
        let has_room = u128::from(in_use) * 100 < u128::from(quota) * u128::from(ROOM_PERCENT);
        self.used_up |= raised_here || !has_room;
        self.looks = if has_room { self.looks + 1 } else { 0 };
        self.used_up && self.looks >= LOOKS
    }
}

/// Takes back the NOSPACE alarm of this member's quota once there is room, for as long as it is run.
pub async fn watch(context: Arc<ServiceContext>) {
    let Some(quota) = context.quota_bytes() else {
        return;
    };
    let own = (context.node.id(), AlarmKind::NoSpace);
    let mut easing = Easing::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !context.reader().alarms().contains(&own) {
            context.quota_used_up.store(false, Ordering::Relaxed);
            easing = Easing::default();
            continue;
        }
        let raised_here = context.quota_used_up.load(Ordering::Relaxed);
        let in_use_bytes = context.reader().size().in_use;
        if easing.look(raised_here, in_use_bytes, quota) {
            tracing::info!(
                in_use_bytes,
                quota_bytes = quota,
                "there is room again, clearing alarm"
            );
            set_alarm(&context, AlarmAction::Deactivate).await;
        }
    }
}

async fn raise_alarm(context: &ServiceContext, quota_bytes: u64) {
    context.quota_used_up.store(true, Ordering::Relaxed);
    let own = (context.node.id(), AlarmKind::NoSpace);
    if !context.reader().alarms().contains(&own) {
        tracing::warn!(quota_bytes, "database quota used up, raising alarm");
        set_alarm(context, AlarmAction::Activate).await;
    }
}

async fn set_alarm(context: &ServiceContext, action: AlarmAction) {
    let command = Command::Alarm {
        action,
        member: context.node.id(),
        alarm: AlarmKind::NoSpace,
    };
    if let Err(error) = context.propose(command).await {
        tracing::warn!(%error, ?action, "alarm not changed");
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

    #[test]
    fn alarm_goes_after_two_looks_in_a_row_at_a_database_with_room() {
        let mut easing = Easing::default();
        let looks = [100, 90, 89, 90, 10, 89].map(|in_use| easing.look(false, in_use, 100));
        assert_eq!(looks, [false, false, false, false, false, true]);
    }

    #[test]
    fn alarm_that_no_quota_raised_stays() {
        let mut easing = Easing::default();
        assert!((0..10).all(|_| !easing.look(false, 10, 100)));
        // The same one, if this member's quota had refused something.
        assert!(easing.look(true, 10, 100));
    }
}
