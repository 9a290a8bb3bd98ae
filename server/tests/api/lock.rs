//! The Lock service.

use kelson_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use tonic::Status;

use crate::harness::client::{bytes, text};
use crate::harness::watching::on_range;
use crate::harness::{Client, Cluster, eventually, in_time};

/// Life of leases in these tests, in seconds: none of them may expire meanwhile.
const TTL: i64 = 600;

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    client
        .lock()
        .lock(LockRequest {
            name: bytes(name),
            lease,
        })
        .await
        .map(tonic::Response::into_inner)
}

async fn unlock(client: &Client, key: &str) {
    let reply = client
        .lock()
        .unlock(UnlockRequest { key: bytes(key) })
        .await
        .expect("unlock succeeds");
    assert!(reply.into_inner().header.is_some());
}

#[tokio::test]
async fn the_key_of_a_lock_is_its_name_and_the_lease() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for (lease, suffix) in [(0x2a, "2a"), (-1, "-1")] {
        client.grant_request(TTL, lease).await.expect("grant succeeds");
        let reply = lock(&client, "name", lease).await.expect("the lock is free");
        assert_eq!(text(&reply.key), format!("name/{suffix}"));
        let pair = client.get(&text(&reply.key)).await.expect("the key exists");
        assert_eq!((pair.lease, pair.value.len()), (lease, 0));
        assert_eq!(reply.header.expect("header").revision, pair.create_revision);
        unlock(&client, &text(&reply.key)).await;
        assert_eq!(client.get(&text(&reply.key)).await, None);
    }
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let key = text(&lock(&client, "name", 0).await.expect("the lock is free").key);
    let lease = client.get(&key).await.expect("the key exists").lease;
    assert_eq!(key, format!("name/{lease:x}"));
    assert_eq!(
        client
            .time_to_live(lease)
            .await
            .expect("the lease exists")
            .granted_ttl,
        60
    );
}

#[tokio::test]
async fn the_same_lease_holds_the_lock_already() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(TTL).await;
    let first = lock(&client, "name", lease).await.expect("the lock is free");
    let second = lock(&client, "name", lease)
        .await
        .expect("the lock is held by this lease");
    assert_eq!(first.key, second.key);
}

#[tokio::test]
async fn waiters_get_the_lock_in_the_order_they_came() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_range("name/", "name0")).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(client.grant(TTL).await);
    }
    let held = text(
        &lock(&client, "name", leases[0])
            .await
            .expect("the lock is free")
            .key,
    );
    watching.events(1).await;
    let mut waiters = Vec::new();
    for lease in &leases[1..] {
        let (client, lease) = (client.clone(), *lease);
        let mut waiter = Box::pin(async move { lock(&client, "name", lease).await });
        // Drive the call until its key is in line.
        tokio::select! {
            reply = &mut waiter => panic!("the lock is held by another: {reply:?}"),
            _ = watching.events(1) => {}
        }
        waiters.push(waiter);
    }
    let mut last = waiters.pop().expect("two waiters");
    let mut next = waiters.pop().expect("two waiters");
    unlock(&client, &held).await;
    let next_key = tokio::select! {
        reply = &mut next => text(&reply.expect("the lock is free").key),
        reply = &mut last => panic!("the later waiter got the lock: {reply:?}"),
    };
    assert_eq!(next_key, format!("name/{:x}", leases[1]));
    // The end of a lease frees the lock as well.
    client.revoke(leases[1]).await.expect("revoke succeeds");
    let last_key = in_time("the lock", last).await.expect("the lock is free").key;
    assert_eq!(text(&last_key), format!("name/{:x}", leases[2]));
}

#[tokio::test]
async fn a_waiter_that_gives_up_leaves_the_line() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let (holder, waiter) = (client.grant(TTL).await, client.grant(TTL).await);
    lock(&client, "name", holder).await.expect("the lock is free");
    let key = format!("name/{waiter:x}");
    {
        let waiting = lock(&client, "name", waiter);
        let in_line = eventually("the waiter's key", || async { client.get(&key).await });
        tokio::select! {
            reply = waiting => panic!("the lock is held by another: {reply:?}"),
            _ = in_line => {}
        }
    }
    eventually("the key is gone", || async {
        client.get(&key).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn unlocking_what_is_not_locked_succeeds() {
    let cluster = Cluster::single().await;
    unlock(&cluster.client(0), "name/absent").await;
}

#[tokio::test]
async fn a_lease_that_is_not_there_is_refused_with_the_code_unknown() {
    let cluster = Cluster::single().await;
    let status = lock(&cluster.client(0), "name", 4711)
        .await
        .expect_err("no such lease");
    assert_eq!(status.message(), "etcdserver: requested lease not found");
    assert_eq!(status.code(), tonic::Code::Unknown);
}
