//! Watch from a revision: replay, compaction, catching up, nothing lost and nothing twice.

use kelson_proto::etcdserverpb as pb;

use crate::harness::client::put;
use crate::harness::watching::{events, on_key, on_range, short};
use crate::harness::{Client, Cluster, Watching};

fn from(start_revision: i64, request: pb::WatchCreateRequest) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        start_revision,
        ..request
    }
}

/// Asserts that the next reply ends the watcher because its position was compacted.
async fn assert_compacted(watching: &mut Watching, watch_id: i64, compact_revision: i64) {
    let reply = watching.next().await;
    assert!(
        reply.canceled && !reply.created && reply.events.is_empty(),
        "{reply:?}"
    );
    assert_eq!(
        (reply.watch_id, reply.compact_revision),
        (watch_id, compact_revision)
    );
    assert_eq!(
        (
            reply.cancel_reason.as_str(),
            reply.header.expect("header").revision
        ),
        ("", 0)
    );
}

async fn put_many(client: &Client, key: &str, count: usize) -> i64 {
    let first = client.put(key, "0").await;
    for n in 1..count {
        client.put(key, &n.to_string()).await;
    }
    first
}

#[tokio::test]
async fn history_is_replayed_from_the_revision_inclusive() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    let mut watching = client.watch();
    watching.created(from(first + 1, on_key("k"))).await;
    let expected = [
        format!("PUT k=2 @{}", first + 1),
        format!("DELETE k @{}", first + 2),
    ];
    assert_eq!(watching.events(2).await, expected);
    let live = client.put("k", "3").await;
    assert_eq!(watching.events(1).await, [format!("PUT k=3 @{live}")]);
}

#[tokio::test]
async fn replay_carries_previous_pairs_and_honours_filters() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    let mut watching = client.watch();
    let request = pb::WatchCreateRequest {
        prev_kv: true,
        filters: vec![0],
        ..from(first, on_key("k"))
    };
    watching.created(request).await;
    let events = events(&watching.next().await);
    assert_eq!(
        events.iter().map(short).collect::<Vec<_>>(),
        [format!("DELETE k @{}", first + 2)]
    );
    assert_eq!(events[0].prev_kv.as_ref().expect("the previous pair").value, "2");
}

#[tokio::test]
async fn a_revision_of_the_future_is_waited_for() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let now = client.put("k", "before").await;
    let mut watching = client.watch();
    watching.created(from(now + 2, on_key("k"))).await;
    client.put("k", "still before").await;
    client.put("k", "then").await;
    assert_eq!(watching.events(1).await, [format!("PUT k=then @{}", now + 2)]);
}

#[tokio::test]
async fn a_compacted_start_is_created_and_then_canceled() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = put_many(&client, "k", 5).await;
    client.compact(first + 3).await.expect("compaction succeeds");
    let mut watching = client.watch();
    let id = watching.created(from(first, on_key("k"))).await;
    assert_compacted(&mut watching, id, first + 3).await;
    // The position it names is good to start from.
    let id = watching.created(from(first + 3, on_key("k"))).await;
    let reply = watching.next().await;
    assert_eq!(reply.watch_id, id);
    assert_eq!(
        events(&reply).iter().map(short).collect::<Vec<_>>(),
        [
            format!("PUT k=3 @{}", first + 3),
            format!("PUT k=4 @{}", first + 4)
        ]
    );
}

#[tokio::test]
async fn a_deletion_at_the_compact_revision_is_still_delivered() {
    let mut cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    let deleted = client.delete("k").await;
    client.put("other", "").await;
    client.compact(deleted).await.expect("compaction succeeds");
    let expected = [format!("DELETE k @{deleted}")];
    let mut watching = client.watch();
    watching.created(from(deleted, on_key("k"))).await;
    assert_eq!(watching.events(1).await, expected);
    cluster.kill(0);
    cluster.restart(0).await;
    let mut watching = cluster.client(0).watch();
    watching.created(from(deleted, on_key("k"))).await;
    assert_eq!(watching.events(1).await, expected);
}

#[tokio::test]
async fn a_level_watcher_does_not_notice_compaction() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    let first = put_many(&client, "k", 3).await;
    watching.events(3).await;
    client.compact(first + 2).await.expect("compaction succeeds");
    let live = client.put("k", "on").await;
    assert_eq!(watching.events(1).await, [format!("PUT k=on @{live}")]);
}

#[tokio::test]
async fn the_previous_pair_is_left_out_once_compacted() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "1").await;
    let changed = client.put("k", "2").await;
    client.compact(changed).await.expect("compaction succeeds");
    let mut watching = client.watch();
    watching
        .created(pb::WatchCreateRequest {
            prev_kv: true,
            ..from(changed, on_key("k"))
        })
        .await;
    let event = events(&watching.next().await).remove(0);
    assert_eq!(
        (short(&event), event.prev_kv),
        (format!("PUT k=2 @{changed}"), None)
    );
}

#[tokio::test]
async fn a_long_history_comes_whole_in_order_and_once() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    const REVISIONS: i64 = 2_500;
    let first = client.put("k", "0").await;
    let mut pending = Vec::new();
    for n in 1..REVISIONS {
        let client = client.clone();
        pending.push(async move { client.put("k", &n.to_string()).await });
        if pending.len() == 50 {
            futures::future::join_all(pending.drain(..)).await;
        }
    }
    futures::future::join_all(pending).await;
    let mut watching = client.watch();
    watching.created(from(first, on_range("k", "l"))).await;
    let mut next = first;
    while next < first + REVISIONS {
        let reply = watching.next().await;
        assert!(reply.header.as_ref().expect("header").revision >= next);
        for event in events(&reply) {
            assert_eq!(event.kv.expect("the pair").mod_revision, next);
            next += 1;
        }
    }
    let live = client.put("k", "live").await;
    assert_eq!(watching.events(1).await, [format!("PUT k=live @{live}")]);
}

#[tokio::test]
async fn a_reader_that_pauses_loses_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    const REVISIONS: i64 = 300;
    let large = "v".repeat(64 * 1024);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    let first = client.put("k", &large).await;
    for _ in 1..REVISIONS {
        client.put("k", &large).await;
    }
    // Nothing has been read so far: twenty MiB wait in buffers or, past them, in the store.
    let mut next = first;
    while next < first + REVISIONS {
        for event in events(&watching.next().await) {
            assert_eq!(event.kv.expect("the pair").mod_revision, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_watch_resumes_on_another_member_without_a_gap() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let victim = cluster.leader(0).await;
    let writer = (victim + 1) % 3;
    let mut watching = cluster.client(victim).watch();
    watching.created(on_key("k")).await;
    let first = put_many(&cluster.client(writer), "k", 5).await;
    let mut seen = watching.events(5).await;
    cluster.kill(victim);
    while let Some(Ok(reply)) = watching.next_or_end().await {
        seen.extend(events(&reply).iter().map(short));
    }
    let client = cluster.client(writer);
    let second = crate::harness::eventually("a write", || async {
        Some(
            client
                .put_request(put("k", "again"))
                .await
                .ok()?
                .header
                .expect("header")
                .revision,
        )
    })
    .await;
    let mut watching = cluster.client((victim + 2) % 3).watch();
    watching.created(from(first + 5, on_key("k"))).await;
    loop {
        let batch = watching.events(1).await;
        let done = batch.contains(&format!("PUT k=again @{second}"));
        seen.extend(batch);
        if done {
            break;
        }
    }
    // A put that was answered with an error may have happened all the same, hence the range.
    let expected: Vec<String> = (0..5).map(|n| format!("PUT k={n} @{}", first + n)).collect();
    assert_eq!(seen[..5], expected);
    let again: Vec<String> = (first + 5..=second)
        .map(|revision| format!("PUT k=again @{revision}"))
        .collect();
    assert_eq!(seen[5..], again);
}
