//! What each member says of itself at the end: what the convergence checker compares.

use std::time::Duration;

use kelson_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::recorder::{Recorder, index};
use crate::check::Evidence;
use crate::check::convergence;
use crate::history::{AlarmInfo, History, LeaseInfo, MemberInfo, MemberSummary};

/// Longest wait for members to agree on everything once nobody writes. Leases of the load may still end meanwhile.
const AGREEMENT_PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What these members say once nobody writes: asked until they agree, for a while. Those that do not answer are noted
/// and left out.
pub async fn agreed(cluster: &Cluster, recorder: &Recorder, members: &[usize]) -> Vec<MemberSummary> {
    let deadline = Instant::now() + AGREEMENT_PATIENCE;
    loop {
        let mut summaries = Vec::new();
        for member in members {
            match summary(cluster, *member).await {
                Ok(summary) => summaries.push(summary),
                Err(status) => recorder.note(format!("no summary of member {member}: {status}")),
            }
        }
        if (summaries.len() == members.len() && agree(&summaries)) || Instant::now() > deadline {
            return summaries;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn agree(summaries: &[MemberSummary]) -> bool {
    convergence::check(&Evidence::new(&History::default(), summaries)).is_pass()
}

async fn summary(cluster: &Cluster, member: usize) -> Result<MemberSummary, tonic::Status> {
    let admin = cluster.admin(member);
    let status = admin.status().await?;
    let header = status.header.unwrap_or_default();
    let hash = admin.hash_kv(0).await?;
    let leases = admin.leases().await?.into_iter().map(|id| LeaseInfo {
        id,
        ..LeaseInfo::default()
    });
    let members = admin.members().await?.into_iter().map(member_info);
    let alarms = admin.alarms().await?.into_iter().map(alarm_info);
    Ok(MemberSummary {
        member: index(member),
        id: header.member_id,
        cluster_id: header.cluster_id,
        applied_index: Some(status.raft_applied_index),
        revision: Some(header.revision),
        hash_revision: Some(hash.hash_revision),
        hash: Some(u64::from(hash.hash)),
        compact_revision: Some(hash.compact_revision),
        leases: Some(leases.collect()),
        members: Some(members.collect()),
        alarms: Some(alarms.collect()),
        ..MemberSummary::default()
    })
}

fn member_info(member: pb::Member) -> MemberInfo {
    MemberInfo {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_ur_ls,
        client_urls: member.client_ur_ls,
        is_learner: member.is_learner,
    }
}

fn alarm_info(alarm: pb::AlarmMember) -> AlarmInfo {
    let kind = pb::AlarmType::try_from(alarm.alarm);
    AlarmInfo {
        member_id: alarm.member_id,
        alarm: kind.map_or("?", |kind| kind.as_str_name()).to_owned(),
    }
}
