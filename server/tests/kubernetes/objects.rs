//! One object: contract 1.1, 1.2, 1.6, 1.7, 1.8.

use crate::harness::Cluster;
use crate::harness::watching::events;
use crate::registry::{Outcome, Registry, watch_after};

const KEY: &[u8] = b"/registry/pods/default/p1";

#[tokio::test]
async fn an_object_is_created_once_and_again_after_its_deletion() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let created = registry.create(KEY, b"one", 0).await.expect("it is new");
    let (current, found) = registry.get(KEY).await;
    let found = found.expect("it is there");
    assert_eq!(
        (current, found.mod_revision, found.create_revision),
        (created, created, created)
    );

    assert_eq!(registry.create(KEY, b"two", 0).await, None);
    assert_eq!(registry.current().await, created, "what fails makes no revision");

    let deleted = registry.delete(KEY, created).await.done();
    assert_eq!(deleted, created + 1);
    assert_eq!(registry.get(KEY).await, (deleted, None));
    let again = registry.create(KEY, b"three", 0).await.expect("it is gone");
    assert_eq!(again, deleted + 1);
    let (_, found) = registry.get(KEY).await;
    assert_eq!(found.map(|object| object.version), Some(1));
}

#[tokio::test]
async fn an_update_of_an_old_object_is_answered_with_the_present_one() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let created = registry.create(KEY, b"one", 0).await.expect("it is new");
    let updated = registry.update(KEY, b"two", created, 0).await.done();
    assert_eq!(updated, created + 1);

    let Outcome::Conflict(Some(found)) = registry.update(KEY, b"three", created, 0).await else {
        panic!("the object has changed")
    };
    assert_eq!(
        (found.value.as_ref(), found.mod_revision),
        (b"two".as_slice(), updated)
    );
    let Outcome::Conflict(Some(found)) = registry.delete(KEY, created).await else {
        panic!("the object has changed")
    };
    assert_eq!(found.mod_revision, updated);
    assert_eq!(registry.current().await, updated, "what fails makes no revision");
}

#[tokio::test]
async fn writes_to_an_object_that_is_gone_are_answered_with_nothing() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let before = registry.current().await;
    assert_eq!(
        registry.update(KEY, b"one", before, 0).await,
        Outcome::Conflict(None)
    );
    assert_eq!(registry.delete(KEY, before).await, Outcome::Conflict(None));
    assert_eq!(registry.current().await, before);
    // Revision 0 is "not there": an update may create.
    assert_eq!(
        registry.update(KEY, b"one", 0, 0).await,
        Outcome::Done(before + 1)
    );
}

#[tokio::test]
async fn a_write_makes_one_revision_and_one_event_of_that_revision() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let before = registry.current().await;
    let mut watching = registry.client().watch();
    watching.created(watch_after(b"/registry/pods/", before)).await;
    let created = registry.create(KEY, b"one", 0).await.expect("it is new");
    let updated = registry.update(KEY, b"two", created, 0).await.done();
    let deleted = registry.delete(KEY, updated).await.done();
    assert_eq!([created, updated, deleted], [before + 1, before + 2, before + 3]);
    for expected in [created, updated, deleted] {
        let reply = watching.next().await;
        let events = events(&reply);
        let revisions: Vec<i64> = events
            .iter()
            .filter_map(|event| Some(event.kv.as_ref()?.mod_revision))
            .collect();
        assert_eq!(revisions, [expected]);
    }
}

#[tokio::test]
async fn keys_and_values_come_back_byte_for_byte() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let every_byte: Vec<u8> = (0..=255).collect();
    // Encrypted values are bound to their key, built-ins begin with magic bytes, and empty is not deleted.
    let odd_key = [b"/registry/secrets/x/".as_slice(), &every_byte].concat();
    for value in [every_byte.as_slice(), b"k8s\0\x0a\x02v1", b""] {
        let (_, found) = registry.get(&odd_key).await;
        let expected = found.map_or(0, |object| object.mod_revision);
        let written = registry.update(&odd_key, value, expected, 0).await.done();
        let (_, found) = registry.get(&odd_key).await;
        let found = found.expect("it is there");
        assert_eq!(
            (found.key.as_ref(), found.value.as_ref()),
            (odd_key.as_slice(), value)
        );
        assert_eq!(found.mod_revision, written);
    }
}

#[tokio::test]
async fn an_update_without_a_lease_takes_the_old_one_away() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let lease = registry.client().grant(3660).await;
    let created = registry.create(KEY, b"one", lease).await.expect("it is new");
    let lease_of =
        |object: (i64, Option<kelson_proto::mvccpb::KeyValue>)| object.1.map(|object| object.lease);
    assert_eq!(lease_of(registry.get(KEY).await), Some(lease));
    registry.update(KEY, b"two", created, 0).await.done();
    assert_eq!(lease_of(registry.get(KEY).await), Some(0));
    registry.client().revoke(lease).await.expect("the lease is there");
    assert_eq!(
        lease_of(registry.get(KEY).await),
        Some(0),
        "it outlives what was its lease"
    );
}

/// GuaranteedUpdate without a cache: all begin with a guess, and go on with what the conflict showed them.
#[tokio::test]
async fn updates_that_race_through_all_members_lose_nothing() {
    const WRITERS: usize = 9;
    const UPDATES: usize = 20;
    let cluster = Cluster::three().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let registry = Registry::at(cluster.client(writer % cluster.size()));
        writers.spawn(async move {
            let mut guess = (0, 0);
            for _ in 0..UPDATES {
                loop {
                    let (count, expected): (u64, i64) = guess;
                    let next = (count + 1).to_string();
                    match registry.update(KEY, next.as_bytes(), expected, 0).await {
                        Outcome::Done(revision) => {
                            guess = (count + 1, revision);
                            break;
                        }
                        Outcome::Conflict(Some(found)) => {
                            let text = std::str::from_utf8(&found.value).expect("a number");
                            guess = (text.parse().expect("a number"), found.mod_revision);
                        }
                        Outcome::Conflict(None) => guess = (0, 0),
                    }
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("no writer fails");
    }
    let (_, found) = Registry::at(cluster.client(0)).get(KEY).await;
    let found = found.expect("it was written");
    let all = WRITERS * UPDATES;
    assert_eq!(found.value.as_ref(), all.to_string().as_bytes());
    assert_eq!(
        found.version,
        i64::try_from(all).expect("small"),
        "each was applied once"
    );
}
