//! Connections, members in turn, health, errors: contract 1.13, 1.15, 3.4, 4.

use kelson_proto::etcdserverpb as pb;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::differences::Difference;
use crate::harness::client::single;
use crate::harness::{Client, Cluster, PATIENCE, assert_refused};
use crate::registry::Registry;

/// (major, minor, patch) of a version that may have a suffix.
fn parsed(version: &str) -> (u64, u64, u64) {
    let plain = version.split(['-', '+']).next().expect("split has a first part");
    let mut parts = plain.split('.').map(|part| part.parse().expect("a number"));
    let mut part = || parts.next().expect("three parts");
    (part(), part(), part())
}

/// One endpoint below the gate, or that cannot be parsed, turns consistent reads from cache off for an apiserver's life.
#[tokio::test]
async fn every_member_reports_a_version_with_the_progress_that_caches_need() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    for index in 0..3 {
        let status = cluster.client(index).status().await.expect("status");
        let version = parsed(&status.version);
        assert!(version >= (3, 4, 31), "{version:?}");
        assert!(!((3, 5, 0)..(3, 5, 13)).contains(&version), "{version:?}");
        assert!(status.db_size > 0);
    }
    // The probe runs at the start of an apiserver, which may be when there is no leader.
    cluster.kill(1);
    cluster.kill(2);
    let alone = cluster.client(0).status().await.expect("status needs no leader");
    assert!(parsed(&alone.version) >= (3, 4, 31));
}

#[tokio::test]
async fn health_is_the_read_of_a_key_that_is_never_written() {
    let cluster = Cluster::three().await;
    for index in 0..3 {
        let reply = cluster.client(index).range(single("/registry/health")).await;
        assert_eq!(reply.expect("healthy").count, 0);
    }
}

/// A client's calls go round its endpoints, so what one member acknowledged the next one must know; also while the
/// leader changes.
#[tokio::test]
async fn calls_that_go_round_the_members_read_what_the_call_before_wrote() {
    const CALLS: usize = 90;
    let cluster = Cluster::three().await;
    let registries: Vec<Registry> = (0..3).map(|n| Registry::at(cluster.client(n))).collect();
    let mut expected = 0;
    for call in 0..CALLS {
        if call % 30 == 15 {
            move_leader(&cluster).await;
        }
        let writer = &registries[call % 3];
        let reader = &registries[(call + 1) % 3];
        let value = call.to_string();
        expected = writer
            .update(b"/registry/leases/n1", value.as_bytes(), expected, 0)
            .await
            .done();
        let (current, found) = reader.get(b"/registry/leases/n1").await;
        let found = found.expect("it was written");
        assert_eq!(
            (found.value.as_ref(), found.mod_revision),
            (value.as_bytes(), expected)
        );
        assert!(current >= expected);
    }
}

async fn move_leader(cluster: &Cluster) {
    let leader = cluster.leader(0).await;
    let target = cluster.client((leader + 1) % 3).status().await.expect("status");
    let request = pb::MoveLeaderRequest {
        target_id: target.header.expect("header").member_id,
    };
    let moved = cluster.client(leader).maintenance().move_leader(request).await;
    moved.expect("leadership moves");
}

/// A custom resource costs an apiserver a client, and a client one connection to each member.
#[tokio::test]
async fn thousands_of_connections_are_served_and_cost_little() {
    const CONNECTIONS: usize = 2000;
    /// Most memory of an idle connection, in bytes. Source: contract 4, with room for the allocator.
    const BYTES_MAX: u64 = 64 << 10;
    let cluster = Cluster::fresh(1, &[]).await;
    let before = cluster.resident_bytes(0).expect("it runs");
    let mut clients = Vec::new();
    for n in 0..CONNECTIONS {
        let client = cluster.client(0);
        if n % 10 == 0 {
            client.put(&format!("/registry/{n}"), "").await;
        } else {
            assert!(client.revision().await > 0);
        }
        clients.push(client);
    }
    // All of them are still good.
    for client in &clients {
        client.range(single("/registry/0")).await.expect("served");
    }
    let grown = cluster.resident_bytes(0).expect("it runs").saturating_sub(before);
    if Difference::BoundedMemory.applies() {
        let each = grown / CONNECTIONS as u64;
        assert!(each <= BYTES_MAX, "{each} bytes for each connection");
    }
}

/// On connections to any member a client names the first one as the authority.
#[tokio::test]
async fn the_authority_of_a_request_may_be_another_member() {
    let cluster = Cluster::single().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoint(0))).expect("a URI");
    let origin = "http://first-of-the-list:2379".parse().expect("a URI");
    let channel = endpoint.origin(origin).timeout(PATIENCE).connect_lazy();
    let reply = kelson_proto::etcdserverpb::kv_client::KvClient::new(channel)
        .range(single("k"))
        .await;
    assert_eq!(reply.expect("served").into_inner().count, 0);
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused_with_the_text_that_becomes_413() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let before = registry.current().await;
    let object = vec![b'x'; 1_600_000];
    let refused = registry
        .try_create(b"/registry/configmaps/ns/large", &object, 0)
        .await;
    assert_refused(refused, Code::InvalidArgument, "etcdserver: request is too large");
    assert_eq!(registry.current().await, before);
}

/// The Go client sends a call again that ended with DeadlineExceeded or Canceled, a Txn too: a server that does not know
/// what became of a write must not say so.
#[tokio::test]
async fn a_write_that_nobody_can_commit_is_unavailable_and_nothing_else() {
    let mut cluster = Cluster::fresh(3, &["--heartbeat-interval=50", "--election-timeout=300"]).await;
    let leader = cluster.leader(0).await;
    let registry = Registry::at(cluster.client(leader));
    registry.created("/registry/pods/before", "").await;
    for follower in (0..3).filter(|index| *index != leader) {
        cluster.kill(follower);
    }
    let status = registry
        .try_create(b"/registry/pods/alone", b"", 0)
        .await
        .expect_err("nobody else has it");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let texts = [
        "etcdserver: request timed out",
        "etcdserver: request timed out, possibly due to previous leader failure",
        "etcdserver: request timed out, possibly due to connection lost",
        "etcdserver: leader changed",
        "etcdserver: no leader",
    ];
    assert!(texts.contains(&status.message()), "{status}");
    // What became of it is settled, one way or the other, once there is a quorum again.
    cluster.restart_all().await;
    let survivor: Client = cluster.client(leader);
    let found = survivor.get("/registry/pods/alone").await;
    assert!(found.is_none_or(|object| object.version == 1));
}
