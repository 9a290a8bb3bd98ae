//! Put and DeleteRange: revisions, versions, leases of keys, previous pairs.

use kelson_proto::etcdserverpb as pb;
use tonic::Code;

use crate::harness::client::{bytes, delete, delete_all, delete_between, everything, put, single, text};
use crate::harness::{Client, Cluster, assert_refused, kv_pairs, pair};

/// `(create_revision, mod_revision, version)` of a key.
async fn history_of(client: &Client, key: &str) -> (i64, i64, i64) {
    let pair = client.get(key).await.expect("the key exists");
    (pair.create_revision, pair.mod_revision, pair.version)
}

#[tokio::test]
async fn empty_store_is_at_revision_one_and_the_first_write_is_two() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    assert_eq!(client.revision().await, 1);
    assert_eq!(client.delete("absent").await, 1);
    assert_eq!(client.put("k", "v").await, 2);
    assert_eq!(client.revision().await, 2);
}

#[tokio::test]
async fn each_put_is_one_revision_and_one_version() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = client.put("k", "1").await;
    assert_eq!(history_of(&client, "k").await, (first, first, 1));
    assert_eq!(client.put("k", "2").await, first + 1);
    assert_eq!(history_of(&client, "k").await, (first, first + 1, 2));
    assert_eq!(client.put("other", "").await, first + 2);
    assert_eq!(history_of(&client, "k").await, (first, first + 1, 2));
}

#[tokio::test]
async fn same_value_again_is_a_new_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = client.put("k", "same").await;
    assert_eq!(client.put("k", "same").await, first + 1);
    assert_eq!(history_of(&client, "k").await, (first, first + 1, 2));
}

#[tokio::test]
async fn delete_ends_a_key_and_the_next_put_starts_it_anew() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = client.put("k", "1").await;
    client.put("k", "2").await;
    assert_eq!(client.delete("k").await, first + 2);
    assert_eq!(client.get("k").await, None);
    assert_eq!(client.put("k", "3").await, first + 3);
    assert_eq!(history_of(&client, "k").await, (first + 3, first + 3, 1));
}

#[tokio::test]
async fn empty_value_is_a_value() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "").await;
    let pair = client.get("k").await.expect("the key exists");
    assert!(pair.value.is_empty());
    assert_eq!(pair.version, 1);
}

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for key in [
        &b"\0"[..],
        b"\0\0",
        b"\xff",
        b"\xff\xff\xfe",
        b"a\0b",
        b"\xc3\x28",
    ] {
        let request = pb::PutRequest {
            key: key.to_vec().into(),
            value: key.to_vec().into(),
            ..Default::default()
        };
        client.put_request(request).await.expect("put succeeds");
    }
    let reply = client.range(everything()).await.expect("range succeeds");
    let pairs = kv_pairs(&reply.kvs);
    let stored: Vec<&[u8]> = pairs.iter().map(|pair| &pair.key[..]).collect();
    assert_eq!(
        stored,
        [
            &b"\0"[..],
            b"\0\0",
            b"a\0b",
            b"\xc3\x28",
            b"\xff",
            b"\xff\xff\xfe"
        ]
    );
    assert!(pairs.iter().all(|pair| pair.key == pair.value));
}

#[tokio::test]
async fn key_of_one_mebibyte_is_stored() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let key = "k".repeat(1 << 20);
    client.put(&key, "v").await;
    assert_eq!(client.get(&key).await.expect("the key exists").value, "v");
}

#[tokio::test]
async fn value_just_under_the_request_limit_is_stored_and_one_above_is_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let limit = 1536 * 1024;
    client.put("k", &"v".repeat(limit - 50)).await;
    let before = client.revision().await;
    let refused = client.put_request(put("k", &"v".repeat(limit))).await;
    assert_refused(refused, Code::InvalidArgument, "etcdserver: request is too large");
    let refused = client
        .put_request(put("k", &"v".repeat(3 << 20)))
        .await
        .expect_err("above the gRPC limit");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused
            .message()
            .starts_with("grpc: received message larger than max"),
        "{}",
        refused.message()
    );
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn put_returns_the_previous_pair_only_when_asked_and_there_is_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let asking = |value| pb::PutRequest {
        prev_kv: true,
        ..put("k", value)
    };
    let reply = client.put_request(asking("1")).await.expect("put succeeds");
    assert_eq!(pair(&reply.prev_kv), None);
    let first = reply.header.expect("header").revision;
    let reply = client.put_request(asking("2")).await.expect("put succeeds");
    let previous = pair(&reply.prev_kv).expect("there was a pair");
    assert_eq!(
        (text(&previous.value), previous.mod_revision, previous.version),
        ("1".into(), first, 1)
    );
    let reply = client.put_request(put("k", "3")).await.expect("put succeeds");
    assert!(reply.prev_kv.is_empty());
    let touch = pb::PutRequest {
        ignore_value: true,
        ignore_lease: true,
        ..put("k", "")
    };
    let reply = client.put_request(touch).await.expect("put succeeds");
    assert!(reply.prev_kv.is_empty());
}

#[tokio::test]
async fn ignore_value_rewrites_the_value_and_takes_the_lease_of_the_request() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "v")
        })
        .await
        .expect("put succeeds");
    let keep_value = pb::PutRequest {
        ignore_value: true,
        ..put("k", "")
    };
    client.put_request(keep_value).await.expect("put succeeds");
    let stored = client.get("k").await.expect("the key exists");
    assert_eq!(
        (text(&stored.value), stored.version, stored.lease),
        ("v".into(), 2, 0)
    );
}

#[tokio::test]
async fn ignore_lease_keeps_the_lease_and_a_plain_put_detaches_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "1")
        })
        .await
        .expect("put succeeds");
    let keep_lease = pb::PutRequest {
        ignore_lease: true,
        ..put("k", "2")
    };
    client.put_request(keep_lease).await.expect("put succeeds");
    let stored = client.get("k").await.expect("the key exists");
    assert_eq!((text(&stored.value), stored.lease), ("2".into(), lease));
    client.put("k", "3").await;
    assert_eq!(client.get("k").await.expect("the key exists").lease, 0);
    assert!(
        client
            .time_to_live(lease)
            .await
            .expect("the lease exists")
            .keys
            .is_empty()
    );
}

#[tokio::test]
async fn ignoring_both_is_a_touch() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "v")
        })
        .await
        .expect("put succeeds");
    let touch = pb::PutRequest {
        ignore_value: true,
        ignore_lease: true,
        ..put("k", "")
    };
    client.put_request(touch).await.expect("put succeeds");
    let stored = client.get("k").await.expect("the key exists");
    assert_eq!(
        (text(&stored.value), stored.version, stored.lease),
        ("v".into(), 2, lease)
    );
}

#[tokio::test]
async fn put_moves_a_key_from_one_lease_to_another() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let (from, to) = (client.grant(600).await, client.grant(600).await);
    for lease in [from, to, to] {
        client
            .put_request(pb::PutRequest {
                lease,
                ..put("k", "v")
            })
            .await
            .expect("put succeeds");
    }
    assert!(
        client
            .time_to_live(from)
            .await
            .expect("the lease exists")
            .keys
            .is_empty()
    );
    assert_eq!(
        client.time_to_live(to).await.expect("the lease exists").keys,
        [bytes("k")]
    );
    client.revoke(from).await.expect("revoke succeeds");
    assert!(client.get("k").await.is_some());
}

#[tokio::test]
async fn delete_range_counts_keys_and_returns_previous_pairs_in_key_order() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for key in ["c", "a", "b", "d"] {
        client.put(key, key).await;
    }
    let before = client.revision().await;
    let request = pb::DeleteRangeRequest {
        prev_kv: true,
        ..delete_between("a", "d")
    };
    let reply = client.delete_request(request).await.expect("delete succeeds");
    assert_eq!(reply.deleted, 3);
    assert_eq!(reply.header.expect("header").revision, before + 1);
    let previous: Vec<String> = kv_pairs(&reply.prev_kvs)
        .iter()
        .map(|pair| text(&pair.value))
        .collect();
    assert_eq!(previous, ["a", "b", "c"]);
    let reply = client.delete_request(delete("d")).await.expect("delete succeeds");
    assert_eq!((reply.deleted, reply.prev_kvs.len()), (1, 0));
}

#[tokio::test]
async fn delete_of_nothing_changes_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("b", "v").await;
    for request in [
        delete("absent"),
        delete_between("c", "d"),
        delete_between("b", "a"),
        delete_between("b", "b"),
    ] {
        let reply = client.delete_request(request).await.expect("delete succeeds");
        assert_eq!(
            (reply.deleted, reply.header.expect("header").revision),
            (0, before)
        );
    }
}

#[tokio::test]
async fn delete_from_a_key_on_and_of_everything() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for key in ["a", "b", "\u{10ffff}"] {
        client.put(key, "").await;
    }
    let reply = client
        .delete_request(delete_between("b", "\0"))
        .await
        .expect("delete succeeds");
    assert_eq!(reply.deleted, 2);
    let reply = client
        .delete_request(delete_all())
        .await
        .expect("delete succeeds");
    assert_eq!(reply.deleted, 1);
}

#[tokio::test]
async fn deleted_keys_leave_their_lease() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "v")
        })
        .await
        .expect("put succeeds");
    client.delete("k").await;
    client.put("k", "again").await;
    client.revoke(lease).await.expect("revoke succeeds");
    assert!(client.get("k").await.is_some());
}

#[tokio::test]
async fn keys_revisions_and_versions_survive_kill_and_restart() {
    let mut cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.put("gone", "").await;
    client.delete("gone").await;
    let before = client.range(everything()).await.expect("range succeeds");
    let hash = client.hash_kv(0).await.expect("hash succeeds").hash;
    cluster.kill(0);
    cluster.restart(0).await;
    let client = cluster.client(0);
    let after = client.range(everything()).await.expect("range succeeds");
    assert_eq!(after.kvs, before.kvs);
    assert_eq!(client.revision().await, 5);
    assert_eq!(client.hash_kv(0).await.expect("hash succeeds").hash, hash);
    let old = client
        .range(pb::RangeRequest {
            revision: 2,
            ..single("k")
        })
        .await
        .expect("history is kept");
    assert_eq!(kv_pairs(&old.kvs)[0].value, "1");
}
