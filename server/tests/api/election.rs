//! The Election service.

use kelson_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use tonic::{Code, Status};

use crate::harness::client::{bytes, text};
use crate::harness::replies::Replies;
use crate::harness::watching::on_range;
use crate::harness::{Client, Cluster, assert_refused, in_time, pair};

/// Life of leases in these tests, in seconds: none of them may expire meanwhile.
const TTL: i64 = 600;

async fn campaign(client: &Client, lease: i64, value: &str) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest {
        name: bytes("name"),
        lease,
        value: bytes(value),
    };
    client
        .election()
        .campaign(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn elected(client: &Client, lease: i64, value: &str) -> LeaderKey {
    campaign(client, lease, value)
        .await
        .expect("nobody else runs")
        .leader
        .expect("a leader key")
}

async fn leader(client: &Client) -> Result<LeaderResponse, Status> {
    let request = LeaderRequest { name: bytes("name") };
    client
        .election()
        .leader(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn leader_value(client: &Client) -> String {
    let reply = leader(client).await.expect("there is a leader");
    text(&pair(&reply.kv).expect("a pair").value)
}

async fn proclaim(client: &Client, leader: LeaderKey, value: &str) -> Result<(), Status> {
    let request = ProclaimRequest {
        leader: Some(leader),
        value: bytes(value),
    };
    client.election().proclaim(request).await.map(drop)
}

async fn resign(client: &Client, leader: LeaderKey) {
    client
        .election()
        .resign(ResignRequest { leader: Some(leader) })
        .await
        .expect("resign succeeds");
}

#[tokio::test]
async fn the_winner_holds_a_key_of_name_and_lease() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(TTL).await;
    let reply = campaign(&client, lease, "v").await.expect("nobody else runs");
    let leader = reply.leader.expect("a leader key");
    assert_eq!(
        (text(&leader.name), text(&leader.key)),
        ("name".into(), format!("name/{lease:x}"))
    );
    let pair = client.get(&text(&leader.key)).await.expect("the key exists");
    assert_eq!((leader.rev, leader.lease), (pair.create_revision, lease));
    assert_eq!((text(&pair.value), pair.lease), ("v".into(), lease));
    assert_eq!(reply.header.expect("header").revision, pair.create_revision);
    assert_eq!(leader_value(&client).await, "v");
}

#[tokio::test]
async fn a_campaign_without_a_lease_gets_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let leader = elected(&client, 0, "v").await;
    assert_eq!(
        client
            .time_to_live(leader.lease)
            .await
            .expect("the lease exists")
            .granted_ttl,
        60
    );
}

#[tokio::test]
async fn campaigning_again_changes_the_value() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(TTL).await;
    let first = elected(&client, lease, "1").await;
    let second = elected(&client, lease, "2").await;
    assert_eq!(first, second);
    assert_eq!(leader_value(&client).await, "2");
}

#[tokio::test]
async fn proclaim_needs_the_lead() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(TTL).await;
    let leader = elected(&client, lease, "1").await;
    proclaim(&client, leader.clone(), "2")
        .await
        .expect("the leader proclaims");
    assert_eq!(leader_value(&client).await, "2");
    let stale = LeaderKey {
        rev: leader.rev + 1,
        ..leader.clone()
    };
    assert_refused(
        proclaim(&client, stale, "3").await,
        Code::Unknown,
        "election: not leader",
    );
    resign(&client, leader.clone()).await;
    assert_refused(
        proclaim(&client, leader.clone(), "4").await,
        Code::Unknown,
        "election: not leader",
    );
    // Resigning twice is no error.
    resign(&client, leader).await;
}

#[tokio::test]
async fn without_a_candidate_there_is_no_leader() {
    let cluster = Cluster::single().await;
    assert_refused(
        leader(&cluster.client(0)).await,
        Code::Unknown,
        "election: no leader",
    );
}

#[tokio::test]
async fn a_missing_leader_key_is_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let text = "\"leader\" field must be provided";
    let refused = client.election().resign(ResignRequest { leader: None }).await;
    assert_refused(refused, Code::Unknown, text);
    let refused = client
        .election()
        .proclaim(ProclaimRequest {
            leader: None,
            value: bytes(""),
        })
        .await;
    assert_refused(refused, Code::Unknown, text);
}

#[tokio::test]
async fn the_next_candidate_wins_when_the_leader_resigns() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_range("name/", "name0")).await;
    let (first, second) = (client.grant(TTL).await, client.grant(TTL).await);
    let winner = elected(&client, first, "first").await;
    watching.events(1).await;
    let mut waiting = Box::pin(campaign(&client, second, "second"));
    tokio::select! {
        reply = &mut waiting => panic!("elected beside another: {reply:?}"),
        _ = watching.events(1) => {}
    }
    assert_eq!(leader_value(&client).await, "first");
    resign(&client, winner).await;
    let successor = in_time("the election", waiting)
        .await
        .expect("the lead is free")
        .leader
        .expect("leader");
    assert_eq!(successor.lease, second);
    assert_eq!(leader_value(&client).await, "second");
}

#[tokio::test]
async fn observers_see_each_value_and_each_leader() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut election = client.election();
    let request = LeaderRequest { name: bytes("name") };
    let mut observed = Replies::of(async move { election.observe(request).await });
    let (first, second) = (client.grant(TTL).await, client.grant(TTL).await);
    let winner = elected(&client, first, "1").await;
    let mut next = async || {
        let reply = in_time("an observation", observed.next())
            .await
            .expect("no failure")
            .expect("no end");
        text(&pair(&reply.kv).expect("a pair").value)
    };
    assert_eq!(next().await, "1");
    proclaim(&client, winner.clone(), "2")
        .await
        .expect("the leader proclaims");
    assert_eq!(next().await, "2");
    resign(&client, winner).await;
    elected(&client, second, "3").await;
    assert_eq!(next().await, "3");
}
