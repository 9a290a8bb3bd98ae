//! Cluster: who the members are; and who leads them.

use kelson_proto::etcdserverpb as pb;
use tonic::Code;

use crate::harness::{Cluster, assert_refused, eventually};

#[tokio::test]
async fn members_are_listed_in_the_order_of_their_ids() {
    let cluster = Cluster::three().await;
    let mut lists = Vec::new();
    for index in 0..cluster.size() {
        let reply = cluster.client(index).member_list().await;
        assert_eq!(reply.header.expect("header").revision, 0);
        assert!(reply.members.iter().map(|member| member.id).is_sorted());
        lists.push(reply.members);
    }
    assert!(lists.iter().all(|list| *list == lists[0]));
    for index in 0..cluster.size() {
        let own = cluster
            .client(index)
            .status()
            .await
            .expect("status succeeds")
            .header
            .expect("header");
        let entry = lists[0]
            .iter()
            .find(|member| member.id == own.member_id)
            .expect("a member of the cluster");
        assert_eq!(
            entry.client_ur_ls,
            [format!("http://{}", cluster.endpoint(index))]
        );
        assert!(!entry.is_learner && entry.peer_ur_ls.len() == 1);
    }
}

#[tokio::test]
async fn names_and_urls_are_those_of_the_flags() {
    let cluster = Cluster::fresh(3, &[]).await;
    let mut names: Vec<String> = cluster
        .client(0)
        .member_list()
        .await
        .members
        .into_iter()
        .map(|member| member.name)
        .collect();
    names.sort();
    assert_eq!(names, ["m0", "m1", "m2"]);
    for member in cluster.client(0).member_list().await.members {
        let index: usize = member.name[1..].parse().expect("names end in the index");
        let flag = format!("--initial-advertise-peer-urls={}", member.peer_ur_ls[0]);
        assert!(cluster.flags(index).contains(&flag));
    }
}

#[tokio::test]
async fn the_local_list_is_answered_without_a_quorum() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let members = cluster.client(2).member_list().await.members;
    cluster.kill(0);
    cluster.kill(1);
    let request = pb::MemberListRequest { linearizable: false };
    let reply = cluster
        .client(2)
        .cluster()
        .member_list(request)
        .await
        .expect("the local list");
    assert_eq!(reply.into_inner().members, members);
}

#[tokio::test]
async fn a_single_member_leads_itself() {
    let cluster = Cluster::fresh(1, &[]).await;
    let status = cluster.client(0).status().await.expect("status succeeds");
    assert_eq!(status.leader, status.header.expect("header").member_id);
    assert_eq!(cluster.client(0).member_list().await.members.len(), 1);
}

#[tokio::test]
async fn all_members_agree_on_the_leader() {
    let cluster = Cluster::three().await;
    let leader = cluster.leader(0).await;
    for index in 1..cluster.size() {
        assert_eq!(cluster.leader(index).await, leader);
    }
}

#[tokio::test]
async fn the_lead_moves_to_the_member_named() {
    let cluster = Cluster::three().await;
    let from = cluster.leader(0).await;
    let to = (from + 1) % cluster.size();
    let id_of = async |index: usize| {
        cluster
            .client(index)
            .status()
            .await
            .expect("status succeeds")
            .header
            .expect("header")
            .member_id
    };
    let move_to = async |asked: usize, target_id| {
        cluster
            .client(asked)
            .maintenance()
            .move_leader(pb::MoveLeaderRequest { target_id })
            .await
    };
    let refused = move_to(to, id_of(to).await).await;
    assert_refused(refused, Code::FailedPrecondition, "etcdserver: not leader");
    for unknown in [0, 4711] {
        let refused = move_to(from, unknown).await;
        assert_refused(
            refused,
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee",
        );
    }
    // To itself: nothing to do.
    move_to(from, id_of(from).await)
        .await
        .expect("the leader keeps the lead");
    assert_eq!(cluster.leader(from).await, from);
    let reply = move_to(from, id_of(to).await).await.expect("the lead moves");
    assert!(reply.into_inner().header.is_none());
    eventually("every member knows the new leader", || async {
        for index in 0..cluster.size() {
            if cluster.leader(index).await != to {
                return None;
            }
        }
        Some(())
    })
    .await;
    cluster.client(from).put("k", "after the move").await;
}
