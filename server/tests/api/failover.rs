//! Three members: any of them serves, one of them may die.

use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
    request_op::Request as Op,
};
use tonic::Code;

use crate::harness::client::{everything, put, single, text};
use crate::harness::{Client, Cluster, eventually, kv_pairs};
use crate::txn::{compare, txn};

/// Puts until it works; returns the revision.
async fn put_in_the_end(client: &Client, key: &str, value: &str) -> i64 {
    eventually("a write", || async {
        Some(
            client
                .put_request(put(key, value))
                .await
                .ok()?
                .header
                .expect("header")
                .revision,
        )
    })
    .await
}

#[tokio::test]
async fn writes_go_on_after_the_leader_was_killed_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let victim = cluster.leader(0).await;
    let survivor = cluster.client((victim + 1) % 3);
    for n in 0..20 {
        survivor.put(&format!("before {n:02}"), "").await;
    }
    cluster.kill(victim);
    for n in 0..20 {
        put_in_the_end(&survivor, &format!("after {n:02}"), "").await;
    }
    let reply = survivor.range(everything()).await.expect("range succeeds");
    assert_eq!(reply.count, 40);
    assert_ne!(cluster.leader((victim + 1) % 3).await, victim);
}

#[tokio::test]
async fn a_leader_without_its_followers_answers_neither_writes_nor_reads_that_must_be_current() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let leader = cluster.leader(0).await;
    let client = cluster.client(leader);
    let revision = client.put("k", "v").await;
    for follower in (0..3).filter(|index| *index != leader) {
        cluster.kill(follower);
    }
    let (write, read) = tokio::join!(client.put_request(put("k", "alone")), client.range(single("k")));
    for refusal in [
        write.expect_err("nobody else has it"),
        read.expect_err("others may lead"),
    ] {
        assert!(
            [Code::Unavailable, Code::DeadlineExceeded].contains(&refusal.code()),
            "{refusal}"
        );
    }
    let from_here = pb::RangeRequest {
        serializable: true,
        ..single("k")
    };
    let reply = client.range(from_here).await.expect("no quorum is needed");
    let pair = kv_pairs(&reply.kvs).pop().expect("the key exists");
    assert_eq!(
        (pair.value.as_ref(), pair.mod_revision),
        (b"v".as_slice(), revision)
    );
}

#[tokio::test]
async fn a_member_that_was_away_catches_up() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let away = cluster.follower().await;
    let client = cluster.client((away + 1) % 3);
    client.put("k", "before").await;
    cluster.kill(away);
    for n in 0..100 {
        client.put("k", &n.to_string()).await;
    }
    cluster.restart(away).await;
    let back = cluster.client(away);
    assert_eq!(back.get("k").await.expect("the key exists").value, "99");
    let revision = client.revision().await;
    let hashes = [
        client.hash_kv(revision).await.expect("hash succeeds").hash,
        back.hash_kv(revision).await.expect("hash succeeds").hash,
    ];
    assert_eq!(hashes[0], hashes[1]);
}

#[tokio::test]
async fn all_members_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let lease = cluster.client(0).grant(600).await;
    let attached = pb::PutRequest {
        lease,
        ..put("leased", "v")
    };
    cluster
        .client(0)
        .put_request(attached)
        .await
        .expect("put succeeds");
    let revision = cluster.client(1).put("k", "v").await;
    for index in 0..3 {
        cluster.kill(index);
    }
    // A quorum is needed before any of them serves.
    cluster.restart_all().await;
    for index in 0..3 {
        let client = cluster.client(index);
        assert_eq!(
            client.get("k").await.expect("the key exists").mod_revision,
            revision
        );
        let reply = client.time_to_live(lease).await.expect("an answer");
        assert_eq!((reply.granted_ttl, reply.keys.len()), (600, 1));
    }
}

#[tokio::test]
async fn a_lease_survives_the_loss_of_the_leader() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let victim = cluster.leader(0).await;
    let client = cluster.client((victim + 1) % 3);
    const TTL: i64 = 5;
    let lease = client.grant(TTL).await;
    client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "v")
        })
        .await
        .expect("put succeeds");
    cluster.kill(victim);
    let left = eventually("an answer", || async { client.time_to_live(lease).await.ok() }).await;
    // The new leader starts with the whole life and an election timeout.
    assert!((TTL - 1..=TTL + 1).contains(&left.ttl), "{}", left.ttl);
    eventually("the expiry", || async {
        client.get("k").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn counters_through_all_members_lose_no_step() {
    let cluster = Cluster::three().await;
    const STEPS: usize = 20;
    const COUNTERS_PER_MEMBER: usize = 2;
    cluster.client(0).put("counter", "0").await;
    let counting = (0..cluster.size() * COUNTERS_PER_MEMBER).map(|n| {
        let client = cluster.client(n % cluster.size());
        async move {
            let mut done = 0;
            while done < STEPS {
                let current = client.get("counter").await.expect("the counter exists");
                let next = text(&current.value).parse::<usize>().expect("a number") + 1;
                let unchanged = TargetUnion::ModRevision(current.mod_revision);
                let step = txn(
                    vec![compare("counter", CompareResult::Equal, unchanged)],
                    vec![Op::RequestPut(put("counter", &next.to_string()))],
                    vec![],
                );
                if client.txn(step).await.expect("txn succeeds").succeeded {
                    done += 1;
                }
            }
        }
    });
    futures::future::join_all(counting).await;
    let counter = cluster
        .client(0)
        .get("counter")
        .await
        .expect("the counter exists");
    let steps = cluster.size() * COUNTERS_PER_MEMBER * STEPS;
    assert_eq!(
        (text(&counter.value), counter.version),
        (steps.to_string(), steps as i64 + 1)
    );
}
