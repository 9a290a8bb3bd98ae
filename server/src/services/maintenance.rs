//! Maintenance: Status, Alarm, Hash, HashKV, MoveLeader, Defragment. Snapshot and Downgrade are not offered.

use kelson_proto::etcdserverpb as pb;
use kelson_raft::node::NodeStatus;
use kelson_storage::applied::Applied;
use kelson_storage::command::{AlarmAction, AlarmKind, Command};
use tokio::time::Instant;

use super::ServiceContext;
use crate::convert;
use crate::status::ClientError;
use crate::version::{SERVER_VERSION, STORAGE_VERSION};

/// What this member knows about itself and the cluster. Answered by learners and without a leader, too.
pub async fn status(
    context: &ServiceContext,
    _: pb::StatusRequest,
) -> Result<pb::StatusResponse, ClientError> {
    let node = context.node.status();
    let size = context.reader().size();
    Ok(pb::StatusResponse {
        header: Some(context.header_now()),
        version: SERVER_VERSION.to_owned(),
        db_size: size.allocated.cast_signed(),
        db_size_in_use: size.in_use.cast_signed(),
        db_size_quota: context.quota_flag_or_default(),
        leader: node.leader,
        raft_index: node.committed,
        raft_term: node.term,
        raft_applied_index: node.applied,
        errors: status_errors(&node, &context.reader().alarms()),
        is_learner: node.is_learner,
        storage_version: STORAGE_VERSION.to_owned(),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    })
}

/// What is wrong, in the words that etcd's tools look for.
fn status_errors(node: &NodeStatus, alarms: &[(u64, AlarmKind)]) -> Vec<String> {
    let mut errors = Vec::new();
    if node.leader == 0 {
        errors.push(ClientError::NoLeader.text().to_owned());
    }
    errors.extend(alarms.iter().map(|(member, kind)| {
        let name = match kind {
            AlarmKind::None => "NONE",
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        format!("memberID:{member} alarm:{name}")
    }));
    errors
}

/// Lists, raises or clears alarms.
pub async fn alarm(
    context: &ServiceContext,
    request: pb::AlarmRequest,
) -> Result<pb::AlarmResponse, ClientError> {
    let action = convert::alarm_action(request.action)?;
    let alarm = convert::alarm_kind(request.alarm)?;
    if action == AlarmAction::Activate && alarm == AlarmKind::None {
        return Ok(convert::alarm_reply(context.header_now(), Vec::new()));
    }
    let command = Command::Alarm {
        action,
        member: request.member_id,
        alarm,
    };
    match context.propose(command).await? {
        (header, Applied::Alarm(alarms)) => Ok(convert::alarm_reply(header, alarms)),
        (_, other) => Err(convert::unexpected(&other)),
    }
}

/// Compacting the database file is the storage thread's business, done as it goes: there is nothing to stop for.
pub async fn defragment(
    _: &ServiceContext,
    _: pb::DefragmentRequest,
) -> Result<pb::DefragmentResponse, ClientError> {
    Ok(pb::DefragmentResponse { header: None })
}

/// A digest of the live state, equal on members that have applied the same commands. Not etcd's number.
pub async fn hash(context: &ServiceContext, _: pb::HashRequest) -> Result<pb::HashResponse, ClientError> {
    let began = Instant::now();
    let (_, digest) = context.reader().rolling_hash();
    context.requests.hash.observe(began.elapsed());
    let (high, low) = (digest >> 32, digest & u64::from(u32::MAX));
    Ok(pb::HashResponse {
        header: Some(context.header_now()),
        hash: u32::try_from(high ^ low).expect("both halves fit 32 bits"),
    })
}

/// etcd's digest of all history up to a revision. Reads everything, so it runs beside the runtime.
pub async fn hash_kv(
    context: &ServiceContext,
    request: pb::HashKvRequest,
) -> Result<pb::HashKvResponse, ClientError> {
    let reader = context.reader().clone();
    let began = Instant::now();
    let hashed = context
        .long_read(move || reader.hash_kv(request.revision))
        .await?;
    context.requests.hash_kv.observe(began.elapsed());
    Ok(pb::HashKvResponse {
        header: Some(context.header_at(hashed.revision)),
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.hash_revision.cast_signed(),
    })
}

/// Hands leadership to another voter and waits until it has it. Only the leader does this.
pub async fn move_leader(
    context: &ServiceContext,
    request: pb::MoveLeaderRequest,
) -> Result<pb::MoveLeaderResponse, ClientError> {
    let node = context.node.status();
    if !node.is_leader() {
        return Err(ClientError::NotLeader);
    }
    if request.target_id != node.id {
        context.node.transfer_leader(request.target_id).await?;
    }
    Ok(pb::MoveLeaderResponse { header: None })
}

/// Not offered.
pub async fn downgrade(
    _: &ServiceContext,
    _: pb::DowngradeRequest,
) -> Result<pb::DowngradeResponse, ClientError> {
    Err(ClientError::unimplemented(
        "etcdserver: downgrades are not implemented",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_names_a_missing_leader_and_each_alarm() {
        let node = NodeStatus::default();
        let alarms = [(7, AlarmKind::NoSpace), (8, AlarmKind::Corrupt)];
        assert_eq!(
            status_errors(&node, &alarms),
            [
                "etcdserver: no leader",
                "memberID:7 alarm:NOSPACE",
                "memberID:8 alarm:CORRUPT"
            ]
        );
        let led = NodeStatus { leader: 1, ..node };
        assert!(status_errors(&led, &[]).is_empty());
    }
}
