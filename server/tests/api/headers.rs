//! What the header of each reply says: who answered, and at which revision.

use kelson_proto::etcdserverpb as pb;
use kelson_proto::v3lockpb::{LockRequest, UnlockRequest};
use tonic::Code;
use tonic_prost::ProstCodec;

use crate::harness::client::{bytes, delete, put, single, with_metadata};
use crate::harness::watching::on_key;
use crate::harness::{Client, Cluster, eventually};

/// The header of one reply of every unary call that has one, by name.
async fn headers_of(client: &Client) -> Vec<(&'static str, Option<pb::ResponseHeader>)> {
    let lease = client.grant_request(600, 0).await.expect("grant succeeds");
    let time_to_live = client.time_to_live(lease.id).await.expect("the lease exists");
    let leases = client
        .lease()
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .expect("leases are listed");
    let alarms = client
        .maintenance()
        .alarm(pb::AlarmRequest::default())
        .await
        .expect("alarms are listed");
    let hash = client
        .maintenance()
        .hash(pb::HashRequest {})
        .await
        .expect("hash succeeds");
    let lock = LockRequest {
        name: bytes("l"),
        lease: lease.id,
    };
    let locked = client
        .lock()
        .lock(lock)
        .await
        .expect("the lock is free")
        .into_inner();
    let unlock = UnlockRequest { key: locked.key };
    let unlocked = client
        .lock()
        .unlock(unlock)
        .await
        .expect("unlock succeeds")
        .into_inner();
    vec![
        ("grant", lease.header),
        ("time to live", time_to_live.header),
        ("leases", leases.into_inner().header),
        ("alarm", alarms.into_inner().header),
        ("hash", hash.into_inner().header),
        ("hash kv", client.hash_kv(0).await.expect("hash succeeds").header),
        ("status", client.status().await.expect("status succeeds").header),
        ("member list", client.member_list().await.header),
        (
            "range",
            client.range(single("k")).await.expect("range succeeds").header,
        ),
        (
            "put",
            client
                .put_request(put("k", ""))
                .await
                .expect("put succeeds")
                .header,
        ),
        (
            "delete",
            client
                .delete_request(delete("k"))
                .await
                .expect("delete succeeds")
                .header,
        ),
        ("txn", client.run(vec![]).await.expect("txn succeeds").header),
        ("lock", locked.header),
        ("unlock", unlocked.header),
        (
            "revoke",
            client.revoke(lease.id).await.expect("revoke succeeds").header,
        ),
    ]
}

#[tokio::test]
async fn every_reply_names_the_cluster_and_the_member_that_answered() {
    let cluster = Cluster::three().await;
    let mut members = Vec::new();
    let mut clusters = Vec::new();
    for index in 0..cluster.size() {
        let client = cluster.client(index);
        let status = client.status().await.expect("status succeeds");
        let own = status.header.expect("header");
        members.push(own.member_id);
        clusters.push(own.cluster_id);
        for (name, header) in headers_of(&client).await {
            let header = header.unwrap_or_else(|| panic!("{name} has no header"));
            assert_eq!(
                (header.cluster_id, header.member_id),
                (own.cluster_id, own.member_id),
                "{name}"
            );
            assert_eq!(header.raft_term, status.raft_term, "{name}");
        }
    }
    members.sort_unstable();
    members.dedup();
    clusters.dedup();
    assert_eq!((members.len(), clusters.len()), (3, 1));
}

#[tokio::test]
async fn revisions_in_headers_are_those_of_the_store() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let lease = client.grant_request(600, 0).await.expect("grant succeeds");
    let attached = pb::PutRequest {
        lease: lease.id,
        ..put("l", "")
    };
    let attached = client.put_request(attached).await.expect("put succeeds");
    let leases = client
        .lease()
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .expect("leases are listed");
    let alarms = client
        .maintenance()
        .alarm(pb::AlarmRequest::default())
        .await
        .expect("alarms are listed");
    let revoked = client.revoke(lease.id).await;
    let cases = [
        ("grant", lease.header, before),
        ("put", attached.header, before + 1),
        ("leases", leases.into_inner().header, before + 1),
        ("alarm", alarms.into_inner().header, before + 1),
        ("revoke", revoked.expect("revoke succeeds").header, before + 2),
        (
            "range",
            client.range(single("k")).await.expect("range succeeds").header,
            before + 2,
        ),
        (
            "status",
            client.status().await.expect("status succeeds").header,
            before + 2,
        ),
        (
            "hash kv",
            client.hash_kv(0).await.expect("hash succeeds").header,
            before + 2,
        ),
        (
            "compact",
            client.compact(before).await.expect("compaction succeeds").header,
            before + 2,
        ),
        (
            "delete",
            client
                .delete_request(delete("k"))
                .await
                .expect("delete succeeds")
                .header,
            before + 3,
        ),
        ("member list", client.member_list().await.header, 0),
    ];
    for (name, header, revision) in cases {
        assert_eq!(header.expect("header").revision, revision, "{name}");
    }
}

#[tokio::test]
async fn watch_replies_name_the_member_too() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let own = client
        .status()
        .await
        .expect("status succeeds")
        .header
        .expect("header");
    let mut watching = client.watch();
    let created = watching.create(on_key("k")).await.header.expect("header");
    client.put("k", "v").await;
    let event = watching.next().await.header.expect("header");
    watching.ask_progress().await;
    let progress = watching.next().await.header.expect("header");
    for header in [created, event, progress] {
        assert_eq!(
            (header.cluster_id, header.member_id),
            (own.cluster_id, own.member_id)
        );
        assert_eq!(header.raft_term, own.raft_term);
    }
}

#[tokio::test]
async fn a_call_that_needs_a_leader_is_refused_at_once_without_one() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let client = cluster.client(2);
    let request = || pb::RangeRequest {
        serializable: true,
        ..single("k")
    };
    let ask = async |value| {
        client
            .kv()
            .range(with_metadata(request(), Some(("hasleader", value))))
            .await
    };
    ask("true").await.expect("there is a leader");
    cluster.kill(0);
    cluster.kill(1);
    let status = eventually("the loss of the leader", || async { ask("true").await.err() }).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    ask("false").await.expect("a serializable read needs no leader");
    let status = cluster.client(2).status().await.expect("status needs no leader");
    assert_eq!(
        (status.leader, status.errors),
        (0, vec!["etcdserver: no leader".to_owned()])
    );
}

#[tokio::test]
async fn unknown_metadata_is_ignored() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for metadata in [
        ("client-api-version", "3.7"),
        ("client-api-version", "nonsense"),
        ("x-other", "1"),
    ] {
        client
            .kv()
            .range(with_metadata(single("k"), Some(metadata)))
            .await
            .expect("range succeeds");
    }
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let cluster = Cluster::single().await;
    for path in ["/etcdserverpb.KV/Nothing", "/no.such.Service/Call", "/"] {
        let mut grpc = tonic::client::Grpc::new(cluster.client(0).channel());
        grpc.ready().await.expect("the server accepts connections");
        let codec = ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
        let path = path.parse().expect("a valid path");
        let call = grpc
            .unary(tonic::Request::new(pb::RangeRequest::default()), path, codec)
            .await;
        let status = call.expect_err("no such method");
        assert_eq!(status.code(), Code::Unimplemented, "{}", status.message());
    }
}
