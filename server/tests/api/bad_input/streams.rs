//! Rows 21 to 24: watch streams. A refusal is a reply on the stream, and the stream stays.

use kelson_proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::state::Footprint;
use super::{Door, wanted};
use crate::differences::Difference;
use crate::harness::client::single;
use crate::harness::watching::{events, on_key, on_range, short};
use crate::harness::{Client, Cluster, Watching, in_time};

/// Asserts that the stream has no reply under way and still works.
async fn assert_alive(watching: &mut Watching, client: &Client, what: &str) {
    let marker = watching.create(on_key("marker")).await;
    assert!(marker.created && !marker.canceled, "{what}: {marker:?}");
    let revision = client.put("marker", "").await;
    let reply = watching.next().await;
    assert_eq!(
        (reply.watch_id, short(&events(&reply)[0])),
        (marker.watch_id, format!("PUT marker= @{revision}")),
        "{what}"
    );
    watching.cancel(marker.watch_id).await;
    assert!(watching.next().await.canceled, "{what}");
}

#[tokio::test]
async fn a_watcher_of_compacted_history_is_created_and_canceled() {
    if !wanted(21) {
        return;
    }
    for door in Door::ALL {
        let (cluster, member) = door.open().await;
        let client = cluster.client(member);
        let first = client.put("k", "1").await;
        let compacted = client.put("k", "2").await;
        client.compact(compacted).await.expect("compaction succeeds");
        for start_revision in [1, first] {
            let mut watching = client.watch();
            let id = watching
                .created(pb::WatchCreateRequest {
                    start_revision,
                    ..on_key("k")
                })
                .await;
            let reply = watching.next().await;
            assert!(reply.canceled && !reply.created, "{door:?}: {reply:?}");
            let told = (
                reply.watch_id,
                reply.compact_revision,
                reply.cancel_reason.as_str(),
            );
            assert_eq!(told, (id, compacted, ""), "{door:?} from {start_revision}");
            assert_alive(&mut watching, &client, "after a compacted start").await;
        }
    }
}

/// `(request, reason)` of watchers that are refused.
fn refused_watchers(taken: i64) -> Vec<(pb::WatchCreateRequest, &'static str)> {
    const EMPTY: &str = "mvcc: watcher range is empty";
    const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    const DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
    let from = |start_revision| pb::WatchCreateRequest {
        start_revision,
        ..on_key("k")
    };
    let with_id = |watch_id| pb::WatchCreateRequest {
        watch_id,
        ..on_key("k")
    };
    vec![
        (from(-1), COMPACTED),
        (from(i64::MIN), COMPACTED),
        (on_range("b", "a"), EMPTY),
        (on_range("b", "b"), EMPTY),
        (with_id(taken), DUPLICATE),
    ]
}

#[tokio::test]
async fn watchers_that_cannot_be_are_refused_and_the_stream_stays() {
    if !wanted(22) {
        return;
    }
    const TAKEN: i64 = 100;
    for door in Door::ALL {
        let (cluster, member) = door.open().await;
        let client = cluster.client(member);
        let mut watching = client.watch();
        let taken = pb::WatchCreateRequest {
            watch_id: TAKEN,
            ..on_key("elsewhere")
        };
        watching.created(taken).await;
        for (request, reason) in refused_watchers(TAKEN) {
            let what = format!("{door:?} {request:?}");
            let reply = watching.create(request).await;
            assert!(reply.created && reply.canceled, "{what}: {reply:?}");
            assert_eq!(
                (reply.watch_id, reply.cancel_reason.as_str()),
                (-1, reason),
                "{what}"
            );
            assert_alive(&mut watching, &client, &what).await;
        }
    }
}

#[tokio::test]
async fn requests_without_a_meaning_get_no_reply() {
    if !wanted(23) {
        return;
    }
    let cancel = |watch_id| RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
    let meaningless = [
        Some(cancel(4711)),
        Some(cancel(-1)),
        Some(cancel(i64::MIN)),
        None,
        Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
    ];
    for door in Door::ALL {
        let (cluster, member) = door.open().await;
        let client = cluster.client(member);
        for request_union in meaningless.clone() {
            let what = format!("{door:?} {request_union:?}");
            let mut watching = client.watch();
            watching.send_raw(pb::WatchRequest { request_union }).await;
            assert_alive(&mut watching, &client, &what).await;
        }
    }
}

/// Row 24: one stream asks for watcher after watcher and takes no reply.
#[tokio::test]
async fn ten_thousand_watchers_asked_for_without_reading_cost_little() {
    const WATCHERS: usize = 10_000;
    if !wanted(24) {
        return;
    }
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let footprint = Footprint::of(&cluster);
    let (requests, pending) = mpsc::channel(1);
    let mut service = client.watch_service();
    let call = service.watch(ReceiverStream::new(pending));
    let asking = async {
        for _ in 0..WATCHERS {
            let request_union = Some(RequestUnion::CreateRequest(on_key("k")));
            requests
                .send(pb::WatchRequest { request_union })
                .await
                .expect("the stream is open");
        }
    };
    let others = async {
        let mut watching = client.watch();
        watching.created(on_key("other")).await;
        for _ in 0..100 {
            let revision = client.put("other", "v").await;
            assert_eq!(watching.events(1).await, [format!("PUT other=v @{revision}")]);
        }
    };
    let mut replies = None;
    let reading = async {
        let mut stream = call.await.expect("the stream opens").into_inner();
        others.await;
        footprint.check(&cluster);
        // Whoever reads after all finds every reply.
        for _ in 0..WATCHERS {
            let reply = in_time("a reply", stream.message())
                .await
                .expect("the stream is open");
            assert!(reply.expect("the stream is open").created);
        }
        replies = Some(stream);
    };
    tokio::join!(asking, reading);
    footprint.check(&cluster);
}

/// Row 24: readers that never read hold nobody up and cost a bounded amount of memory; nothing is lost once they read.
#[tokio::test]
async fn readers_that_do_not_read_cost_little_and_lose_nothing() {
    const READERS: usize = 20;
    const REVISIONS: usize = 300;
    /// What a stream may hold for its reader, in bytes, and as much again for what is on its way. Source:
    /// `STREAM_BYTES_MAX` in `server/src/watch/outbox.rs`. Everything would be 19 MiB.
    const READER_BYTES_MAX: u64 = 4 << 20;
    if !wanted(24) {
        return;
    }
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let large = "v".repeat(64 << 10);
    let grown_by_writing = async || {
        let before = cluster.resident_bytes(0);
        for _ in 0..REVISIONS {
            client.put("k", &large).await;
        }
        cluster
            .resident_bytes(0)
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before))
    };
    // The first round shows what the history itself takes.
    let alone = grown_by_writing().await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut watching = Client::of(cluster.endpoint(0)).watch();
        watching.created(on_key("k")).await;
        readers.push(watching);
    }
    let first = client.revision().await + 1;
    let with_readers = grown_by_writing().await;
    if let Some((alone, with_readers)) = alone.zip(with_readers)
        && Difference::BoundedMemory.applies()
    {
        println!("{alone} bytes alone, {with_readers} with {READERS} readers that do not read");
        let bound = alone + READERS as u64 * READER_BYTES_MAX;
        assert!(
            with_readers < bound,
            "{with_readers} bytes, {alone} without readers"
        );
    }
    client.range(single("k")).await.expect("others are served");
    for watching in &mut readers {
        let mut next = first;
        while next < first + REVISIONS as i64 {
            for event in events(&watching.next().await) {
                assert_eq!(event.kv.expect("the pair").mod_revision, next);
                next += 1;
            }
        }
    }
}
