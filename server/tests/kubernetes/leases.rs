//! Leases, as events and master leases have them: contract 1.12.

use kelson_proto::etcdserverpb::{self as pb, request_op::Request as Op};
use tonic::Code;

use crate::harness::client::put;
use crate::harness::watching::events;
use crate::harness::{Cluster, assert_refused};
use crate::registry::{Registry, watch_after};

const EVENTS: &[u8] = b"/registry/events/";

fn on_lease(number: usize, lease: i64) -> Op {
    Op::RequestPut(pb::PutRequest {
        lease,
        ..put(
            &format!("/registry/events/ns/{number:04}"),
            &format!("event {number}"),
        )
    })
}

/// The apiserver puts up to a thousand events on one lease and lets that run out.
#[tokio::test]
async fn a_lease_of_a_thousand_objects_ends_in_one_revision_with_all_their_last_values() {
    const OBJECTS: usize = 1000;
    let cluster = Cluster::three().await;
    let registry = Registry::at(cluster.client(0));
    let lease = registry.client().grant(10).await;
    // Many at once: the lease must not end before they are there.
    for batch in (0..OBJECTS).collect::<Vec<_>>().chunks(100) {
        let puts = batch.iter().map(|n| on_lease(*n, lease)).collect();
        registry.client().run(puts).await.expect("the lease is there");
    }
    let kept = registry
        .created("/registry/events/ns/kept", "without a lease")
        .await;
    let watcher = Registry::at(cluster.client(1));
    let mut watching = watcher.client().watch();
    watching.created(watch_after(EVENTS, kept)).await;
    let reply = loop {
        let reply = watching.next().await;
        if !reply.events.is_empty() {
            break reply;
        }
    };
    let events = events(&reply);
    let (_, left) = watcher.list(EVENTS, 500).await;
    assert_eq!(left.len(), 1, "only the object without a lease is left");
    for event in &events {
        let pair = event.kv.as_ref().expect("a pair");
        assert_eq!(pair.mod_revision, kept + 1, "one revision");
        let former = event.prev_kv.as_ref().expect("the previous pair");
        let number = std::str::from_utf8(&pair.key[pair.key.len() - 4..]).expect("a number");
        let number: usize = number.parse().expect("a number");
        assert_eq!(former.value.as_ref(), format!("event {number}").as_bytes());
    }
    assert_eq!(events.len(), OBJECTS);
    assert_eq!(watcher.current().await, kept + 1);
}

#[tokio::test]
async fn every_grant_has_an_id_of_its_own() {
    let cluster = Cluster::three().await;
    let mut ids = std::collections::BTreeSet::new();
    for n in 0..30 {
        ids.insert(cluster.client(n % 3).grant(3660).await);
    }
    assert_eq!(ids.len(), 30);
    assert!(!ids.contains(&0));
    for id in ids {
        cluster.client(0).revoke(id).await.expect("the lease is there");
    }
}

#[tokio::test]
async fn an_object_on_a_lease_that_is_gone_is_refused() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let before = registry.current().await;
    let refused = registry.try_create(b"/registry/events/ns/late", b"", 4711).await;
    assert_refused(refused, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(registry.current().await, before);
}
