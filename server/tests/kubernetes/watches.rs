//! Watches of caches: contract 1.10, 1.11, 3.2.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kelson_proto::etcdserverpb as pb;
use kelson_proto::mvccpb::{Event, event::EventType};

use crate::harness::watching::{events, on_key, short};
use crate::harness::{Cluster, Watching, in_time};
use crate::registry::{Registry, revision, watch_after};

const PODS: &[u8] = b"/registry/pods/";
/// How long a cacher waits for progress before it asks once more.
const ASKED_AGAIN: Duration = Duration::from_millis(100);

/// What the apiserver makes of an event: it ends the cache's watch if this panics.
fn interpreted(event: &Event) -> String {
    let pair = event.kv.as_ref().expect("an event has a pair");
    let key = String::from_utf8_lossy(&pair.key).into_owned();
    let former = event
        .prev_kv
        .as_ref()
        .map(|former| String::from_utf8_lossy(&former.value));
    let what = match (event.r#type(), pair.create_revision == pair.mod_revision) {
        (EventType::Put, true) => format!("ADDED {key} {}", String::from_utf8_lossy(&pair.value)),
        (EventType::Put, false) => {
            let former = former.expect("PrevKv=nil");
            format!(
                "MODIFIED {key} {former} to {}",
                String::from_utf8_lossy(&pair.value)
            )
        }
        (EventType::Delete, _) => format!("DELETED {key} {}", former.expect("PrevKv=nil")),
    };
    format!("{what} @{}", pair.mod_revision)
}

async fn next_events(watching: &mut Watching, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < count {
        let reply = watching.next().await;
        assert!(!reply.canceled, "{reply:?}");
        told.extend(events(&reply).iter().map(interpreted));
    }
    told
}

/// A cache lists at a revision and watches from the next one. The values that it lists are those that the first events
/// change, also when history before them has been compacted meanwhile.
#[tokio::test]
async fn a_watch_behind_a_compaction_still_has_every_previous_value() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let a = registry.created("/registry/pods/a", "1").await;
    let b = registry.created("/registry/pods/b", "2").await;
    let (listed, objects) = registry.list(PODS, 500).await;
    assert_eq!(objects.len(), 2);
    let a2 = registry.update(b"/registry/pods/a", b"one", a, 0).await.done();
    let b2 = registry.delete(b"/registry/pods/b", b).await.done();
    let c = registry.created("/registry/pods/c", "3").await;
    registry
        .client()
        .compact(listed)
        .await
        .expect("compaction succeeds");
    let mut watching = registry.client().watch();
    watching.created(watch_after(PODS, listed)).await;
    let expected = [
        format!("MODIFIED /registry/pods/a 1 to one @{a2}"),
        format!("DELETED /registry/pods/b 2 @{b2}"),
        format!("ADDED /registry/pods/c 3 @{c}"),
    ];
    assert_eq!(next_events(&mut watching, 3).await, expected);
}

/// A deletion's event has no create revision; a new object of the same name is not taken for a change of the old one.
#[tokio::test]
async fn an_object_that_comes_back_is_added_and_not_modified() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let before = registry.current().await;
    let mut watching = registry.client().watch();
    watching.created(watch_after(PODS, before)).await;
    let first = registry.created("/registry/pods/a", "old").await;
    let gone = registry.delete(b"/registry/pods/a", first).await.done();
    let again = registry.created("/registry/pods/a", "new").await;
    let expected = [
        format!("ADDED /registry/pods/a old @{first}"),
        format!("DELETED /registry/pods/a old @{gone}"),
        format!("ADDED /registry/pods/a new @{again}"),
    ];
    assert_eq!(next_events(&mut watching, 3).await, expected);
}

/// "too old resource version": the relist that this asks for must not be asked for without need.
#[tokio::test]
async fn a_start_below_the_compaction_is_told_the_compacted_revision_and_one_at_it_is_served() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let first = registry.created("/registry/pods/a", "1").await;
    let second = registry.created("/registry/pods/b", "2").await;
    let third = registry.created("/registry/pods/c", "3").await;
    registry
        .client()
        .compact(second)
        .await
        .expect("compaction succeeds");

    let mut watching = registry.client().watch();
    let refused = watching.created(watch_after(PODS, first - 1)).await;
    let reply = watching.next().await;
    assert_eq!((reply.watch_id, reply.canceled), (refused, true));
    assert_eq!(reply.compact_revision, second);

    watching.created(watch_after(PODS, second - 1)).await;
    let expected = [
        format!("ADDED /registry/pods/b 2 @{second}"),
        format!("ADDED /registry/pods/c 3 @{third}"),
    ];
    assert_eq!(next_events(&mut watching, 2).await, expected);
}

/// Creates are sent without waiting for more than the reply before, and unknown cancels are what a client sends about
/// watches that it has given up.
#[tokio::test]
async fn creates_are_answered_in_order_whatever_else_the_stream_is_asked() {
    const WATCHES: usize = 80;
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let current = registry.current().await;
    let mut watching = registry.client().watch();
    let mut ids = BTreeMap::new();
    for n in 0..WATCHES {
        watching.cancel(1_000_000).await;
        let prefix = format!("/registry/resource{n}/");
        let id = watching.created(watch_after(prefix.as_bytes(), current)).await;
        assert!(id >= 0 && ids.insert(id, n).is_none(), "{id} was given before");
    }
    for n in (0..WATCHES).rev() {
        let key = format!("/registry/resource{n}/object");
        let created = registry.created(&key, "").await;
        let reply = watching.next().await;
        assert_eq!(ids.get(&reply.watch_id), Some(&n));
        let told: Vec<String> = events(&reply).iter().map(interpreted).collect();
        assert_eq!(told, [format!("ADDED {key}  @{created}")]);
    }
}

/// What a consistent list from the cache does: it asks some member for the newest revision, and its cache, which watches
/// another member, for progress until it has come so far. Early is silent corruption, so all that was written up to the
/// revision of a progress reply must have come before.
#[tokio::test]
async fn progress_asked_for_reaches_what_another_member_has_read_and_never_overtakes_an_event() {
    const LISTS: usize = 60;
    let cluster = Cluster::three().await;
    let writer = Registry::at(cluster.client(0));
    let cache = Registry::at(cluster.client(1));
    let prober = Registry::at(cluster.client(2));
    let listed = cache.current().await;
    let mut watching = cache.client().watch();
    watching.created(watch_after(PODS, listed)).await;
    let (sender, mut written) = tokio::sync::mpsc::unbounded_channel();
    let mut writing = tokio::task::JoinSet::new();
    writing.spawn(async move {
        let mut n = 0u64;
        loop {
            // Every other write is of a resource that the cache does not watch.
            let ours = n.is_multiple_of(2);
            let resource = if ours { "pods" } else { "leases" };
            let revision = writer.created(&format!("/registry/{resource}/{n}"), "").await;
            if sender.send((revision, ours)).is_err() {
                return;
            }
            n += 1;
        }
    });
    let (mut fresh, mut told) = (listed, Vec::new());
    for _ in 0..LISTS {
        let wanted = prober.current().await;
        let mut asked = false;
        while fresh < wanted {
            if !asked {
                watching.ask_progress().await;
                asked = true;
            }
            // A request may be passed over while events are on their way.
            let Ok(reply) = tokio::time::timeout(ASKED_AGAIN, watching.next()).await else {
                asked = false;
                continue;
            };
            let at = revision(&reply.header);
            if reply.events.is_empty() {
                assert!(at >= fresh, "progress went back from {fresh} to {at}");
            }
            for event in events(&reply) {
                told.push(event.kv.expect("a pair").mod_revision);
            }
            fresh = if reply.events.is_empty() {
                at
            } else {
                *told.last().expect("told")
            };
            if reply.events.is_empty() {
                // A later reply with an event at or below would be out of order, which is seen at the end.
                told.push(-at);
            }
        }
    }
    drop(watching);
    writing.shutdown().await;
    let mut ours: Vec<i64> = Vec::new();
    while let Ok((revision, is_ours)) = written.try_recv() {
        ours.extend(is_ours.then_some(revision));
    }
    assert_nothing_overtaken(&told, &ours);
    assert!(told.iter().any(|at| *at < 0), "no progress was told");
}

/// `told`: revisions of events, and negative those of progress, as they came. `written`: those that should have come.
#[track_caller]
fn assert_nothing_overtaken(told: &[i64], written: &[i64]) {
    let mut due = written.iter().copied().peekable();
    for &at in told {
        if at > 0 {
            // A write whose reply was still on its way when the test ended is told, too.
            let expected = due.next();
            assert!(
                expected.is_none() || expected == Some(at),
                "{at} where {expected:?} was due"
            );
        } else if let Some(&next) = due.peek() {
            assert!(next > -at, "progress {} was told before the event of {next}", -at);
        }
    }
}

/// Watches on one stream answer together, also those that never had an event, from any member.
#[tokio::test]
async fn progress_of_quiet_watches_is_that_of_the_store() {
    let cluster = Cluster::three().await;
    let writer = Registry::at(cluster.client(0));
    for member in 0..3 {
        let cache = Registry::at(cluster.client(member));
        let current = cache.current().await;
        let mut watching = cache.client().watch();
        for resource in ["nodes", "secrets"] {
            let prefix = format!("/registry/{resource}/");
            watching.created(watch_after(prefix.as_bytes(), current)).await;
        }
        let written = writer.created(&format!("/registry/leases/{member}"), "").await;
        let told = in_time("progress", async {
            loop {
                watching.ask_progress().await;
                // Passed over by a member that has not applied the write yet: both watches start at its revision.
                let Ok(reply) = tokio::time::timeout(ASKED_AGAIN, watching.next()).await else {
                    continue;
                };
                assert_eq!((reply.watch_id, reply.events.len()), (-1, 0));
                let at = revision(&reply.header);
                if at >= written {
                    return at;
                }
            }
        })
        .await;
        assert_eq!(told, written);
    }
}

/// kubeadm sets 5 s; it keeps the caches of quiet resources above the compactions.
#[tokio::test]
async fn quiet_caches_are_told_the_revision_from_time_to_time() {
    let cluster = Cluster::fresh(1, &["--watch-progress-notify-interval=200ms"]).await;
    let registry = Registry::at(cluster.client(0));
    let mut watching = registry.client().watch();
    watching
        .created(watch_after(PODS, registry.current().await))
        .await;
    let written = registry.created("/registry/leases/n1", "").await;
    let mut last = 0;
    while last < written {
        let reply = watching.next().await;
        assert!(reply.events.is_empty() && !reply.canceled);
        let at = revision(&reply.header);
        assert!(at >= last, "from {last} to {at}");
        last = at;
    }
}

/// A list that comes out of the future (its revision was read at a member that is ahead) waits, and is not told progress
/// that would move the client's resume point back.
#[tokio::test]
async fn a_watch_of_the_future_waits_for_it() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let current = registry.current().await;
    let mut watching = registry.client().watch();
    watching.created(watch_after(PODS, current + 2)).await;
    watching.ask_progress().await;
    for n in 0..3 {
        registry.created(&format!("/registry/pods/{n}"), "").await;
    }
    let reply = watching.next().await;
    let told: Vec<String> = events(&reply).iter().map(short).collect();
    assert_eq!(told, [format!("PUT /registry/pods/2= @{}", current + 3)]);
}

/// Each store client has streams of its own by metadata; `hasleader` rides on those of caches.
#[tokio::test]
async fn a_cache_resumes_on_another_member_where_it_stood() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let follower = cluster.follower().await;
    let other = (follower + 1) % 3;
    let writer = Registry::at(cluster.client(other));
    let mut position = writer.current().await;
    let first = Registry::at(cluster.client(follower));
    let mut watching = Watching::open_with(first.client(), Some(("hasleader", "true")));
    watching.created(watch_after(PODS, position)).await;
    for n in 0..10 {
        writer.created(&format!("/registry/pods/{n:02}"), "").await;
    }
    for told in next_events(&mut watching, 10).await {
        let (_, at) = told.rsplit_once('@').expect("a revision");
        position = at.parse().expect("a revision");
    }
    cluster.kill(follower);
    let mut expected = Vec::new();
    for n in 10..20 {
        let at = writer.created(&format!("/registry/pods/{n:02}"), "").await;
        expected.push(format!("ADDED /registry/pods/{n:02}  @{at}"));
    }
    let mut resumed = Watching::open_with(writer.client(), Some(("hasleader", "true")));
    resumed.created(watch_after(PODS, position)).await;
    assert_eq!(next_events(&mut resumed, 10).await, expected);
}

/// The apiserver asks for neither filters nor fragments, and takes whatever range a key and an end make.
#[tokio::test]
async fn single_objects_are_watched_as_collections_are() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let created = registry.created("/registry/masterleases/10.0.0.1", "a").await;
    let mut watching = registry.client().watch();
    let one = pb::WatchCreateRequest {
        start_revision: created + 1,
        prev_kv: true,
        ..on_key("/registry/masterleases/10.0.0.1")
    };
    watching.created(one).await;
    registry.created("/registry/masterleases/10.0.0.2", "other").await;
    let key = Bytes::from_static(b"/registry/masterleases/10.0.0.1");
    let updated = registry.update(&key, b"b", created, 0).await.done();
    let expected = [format!(
        "MODIFIED /registry/masterleases/10.0.0.1 a to b @{updated}"
    )];
    assert_eq!(next_events(&mut watching, 1).await, expected);
}
