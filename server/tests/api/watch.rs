//! Watch: the stream, its watchers, live events, progress.

use kelson_proto::etcdserverpb::{self as pb, watch_create_request::FilterType};
use kelson_proto::mvccpb::event::EventType;
use tonic::Code;

use crate::harness::client::{bytes, delete_between, put, text};
use crate::harness::watching::{events, on_key, on_range, short};
use crate::harness::{Cluster, Watching, eventually};

/// The first two replies are for watchers created in this order; each failure answers like this.
fn assert_not_created(reply: &pb::WatchResponse, reason: &str) {
    assert!(reply.created && reply.canceled, "{reply:?}");
    assert_eq!(
        (
            reply.watch_id,
            reply.cancel_reason.as_str(),
            reply.compact_revision
        ),
        (-1, reason, 0)
    );
    assert!(reply.header.as_ref().expect("header").member_id != 0);
}

/// Asserts that nothing for other watchers is under way: the next reply is for a key put just now.
async fn assert_quiet(cluster: &Cluster, watching: &mut Watching) {
    let marker = watching.created(on_key("marker")).await;
    let revision = cluster.client(0).put("marker", "").await;
    let reply = watching.next().await;
    assert_eq!(
        (reply.watch_id, short(&events(&reply)[0])),
        (marker, format!("PUT marker= @{revision}"))
    );
    watching.cancel(marker).await;
    assert!(watching.next().await.canceled);
}

#[tokio::test]
async fn created_reply_carries_the_store_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let revision = client.put("k", "v").await;
    let mut watching = client.watch();
    let reply = watching.create(on_key("k")).await;
    assert!(reply.created && !reply.canceled && reply.cancel_reason.is_empty());
    assert_eq!(
        (reply.watch_id, reply.header.expect("header").revision),
        (0, revision)
    );
}

#[tokio::test]
async fn each_revision_is_one_reply_with_that_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    let first = client.put("k", "1").await;
    client.put("other", "").await;
    client.put("k", "2").await;
    client.delete("k").await;
    for (offset, event) in [(0, "PUT k=1"), (2, "PUT k=2"), (3, "DELETE k")] {
        let reply = watching.next().await;
        let revision = first + offset;
        assert_eq!(reply.header.as_ref().expect("header").revision, revision);
        assert_eq!(
            events(&reply).iter().map(short).collect::<Vec<_>>(),
            [format!("{event} @{revision}")]
        );
    }
}

#[tokio::test]
async fn events_hold_the_whole_pair_and_deletions_only_key_and_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    let created = client.put("k", "1").await;
    client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "2")
        })
        .await
        .expect("put succeeds");
    client.delete("k").await;
    watching.next().await;
    let event = events(&watching.next().await).remove(0);
    assert_eq!((event.r#type(), event.prev_kv), (EventType::Put, None));
    let kv = event.kv.expect("the pair");
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version, kv.lease),
        (created, created + 1, 2, lease)
    );
    assert_eq!(text(&kv.value), "2");
    let event = events(&watching.next().await).remove(0);
    assert_eq!((event.r#type(), event.prev_kv), (EventType::Delete, None));
    let kv = event.kv.expect("the pair");
    assert_eq!((text(&kv.key), kv.mod_revision), ("k".into(), created + 2));
    assert_eq!(
        (kv.create_revision, kv.version, kv.lease, kv.value.len()),
        (0, 0, 0, 0)
    );
}

#[tokio::test]
async fn previous_pairs_come_with_changes_and_deletions_but_not_with_creations() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching
        .created(pb::WatchCreateRequest {
            prev_kv: true,
            ..on_key("k")
        })
        .await;
    let first = client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("k", "3").await;
    for expected in [None, Some(("1", first)), Some(("2", first + 1)), None] {
        let event = events(&watching.next().await).remove(0);
        let previous = event.prev_kv.map(|pair| (text(&pair.value), pair.mod_revision));
        assert_eq!(
            previous,
            expected.map(|(value, revision)| (value.to_owned(), revision))
        );
    }
}

#[tokio::test]
async fn changes_of_one_txn_arrive_together_and_in_order() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("gone", "").await;
    let mut watching = client.watch();
    watching.created(on_range("\0", "\0")).await;
    let ops = vec![
        pb::request_op::Request::RequestPut(put("b", "1")),
        pb::request_op::Request::RequestDeleteRange(delete_between("gone", "gonf")),
        pb::request_op::Request::RequestPut(put("a", "2")),
    ];
    let revision = client
        .run(ops)
        .await
        .expect("txn succeeds")
        .header
        .expect("header")
        .revision;
    let reply = watching.next().await;
    let seen: Vec<String> = events(&reply).iter().map(short).collect();
    assert_eq!(
        seen,
        [
            format!("PUT b=1 @{revision}"),
            format!("DELETE gone @{revision}"),
            format!("PUT a=2 @{revision}")
        ]
    );
}

#[tokio::test]
async fn a_key_changed_twice_in_one_revision_gives_two_events() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "old").await;
    let mut watching = client.watch();
    watching
        .created(pb::WatchCreateRequest {
            prev_kv: true,
            ..on_key("k")
        })
        .await;
    let ops = vec![
        pb::request_op::Request::RequestDeleteRange(delete_between("a", "\0")),
        pb::request_op::Request::RequestPut(put("k", "new")),
    ];
    let revision = client
        .run(ops)
        .await
        .expect("txn succeeds")
        .header
        .expect("header")
        .revision;
    let events = events(&watching.next().await);
    assert_eq!(
        events.iter().map(short).collect::<Vec<_>>(),
        [format!("DELETE k @{revision}"), format!("PUT k=new @{revision}")]
    );
    assert!(events[0].prev_kv.is_some());
    assert!(events[1].prev_kv.is_none());
}

#[tokio::test]
async fn ranges_watch_what_they_read() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let cases: [(&str, &str, &[&str]); 6] = [
        ("b", "", &["b"]),
        ("a", "c", &["a", "ab", "b"]),
        ("ab", "ac", &["ab"]),
        ("b", "\0", &["b", "c"]),
        ("\0", "\0", &["a", "ab", "b", "c"]),
        ("", "\0", &["a", "ab", "b", "c"]),
    ];
    let mut watching: Vec<Watching> = Vec::new();
    for (key, range_end, _) in cases {
        let mut stream = client.watch();
        stream.created(on_range(key, range_end)).await;
        stream.created(on_key("z")).await;
        watching.push(stream);
    }
    for key in ["a", "ab", "b", "c", "z"] {
        client.put(key, "").await;
    }
    for (mut stream, (key, range_end, expected)) in watching.into_iter().zip(cases) {
        let mut seen = Vec::new();
        loop {
            let reply = stream.next().await;
            if reply.watch_id == 1 {
                break;
            }
            seen.extend(
                events(&reply)
                    .iter()
                    .map(|event| text(&event.kv.as_ref().expect("pair").key)),
            );
        }
        seen.retain(|key| key != "z");
        assert_eq!(seen, expected, "[{key:?}, {range_end:?})");
    }
}

#[tokio::test]
async fn an_empty_key_alone_watches_the_key_of_one_zero_byte() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("")).await;
    client.put("a", "").await;
    let revision = client.put("\0", "").await;
    assert_eq!(watching.events(1).await, [format!("PUT \0= @{revision}")]);
}

#[tokio::test]
async fn filters_drop_events_and_empty_replies() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    let filtered = |filters: Vec<i32>| pb::WatchCreateRequest {
        filters,
        ..on_key("k")
    };
    let no_put = watching.created(filtered(vec![FilterType::Noput.into()])).await;
    let no_delete = watching
        .created(filtered(vec![FilterType::Nodelete.into(), 77]))
        .await;
    let nothing = watching
        .created(filtered(vec![
            FilterType::Noput.into(),
            FilterType::Nodelete.into(),
        ]))
        .await;
    let first = client.put("k", "1").await;
    client.delete("k").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let reply = watching.next().await;
        assert_ne!(reply.watch_id, nothing);
        seen.push((reply.watch_id, short(&events(&reply)[0])));
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            (no_put, format!("DELETE k @{}", first + 1)),
            (no_delete, format!("PUT k=1 @{first}"))
        ]
    );
    assert_quiet(&cluster, &mut watching).await;
}

#[tokio::test]
async fn ids_count_up_and_may_be_chosen() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    let with_id = |watch_id| pb::WatchCreateRequest {
        watch_id,
        ..on_key("k")
    };
    assert_eq!(watching.created(on_key("k")).await, 0);
    assert_eq!(watching.created(on_key("k")).await, 1);
    assert_eq!(watching.created(with_id(2)).await, 2);
    assert_eq!(watching.created(with_id(100)).await, 100);
    assert_eq!(watching.created(on_key("k")).await, 3);
    watching.cancel(0).await;
    assert!(watching.next().await.canceled);
    assert_eq!(watching.created(on_key("k")).await, 4);
    let reply = watching.create(with_id(100)).await;
    assert_not_created(&reply, "mvcc: duplicate watch ID provided on the WatchStream");
    watching.cancel(100).await;
    assert!(watching.next().await.canceled);
    assert_eq!(watching.created(with_id(100)).await, 100);
}

#[tokio::test]
async fn creations_that_fail_leave_the_stream_open() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    let reply = watching.create(on_range("b", "a")).await;
    assert_not_created(&reply, "mvcc: watcher range is empty");
    let reply = watching.create(on_range("b", "b")).await;
    assert_not_created(&reply, "mvcc: watcher range is empty");
    let reply = watching
        .create(pb::WatchCreateRequest {
            start_revision: -1,
            ..on_key("k")
        })
        .await;
    assert_not_created(&reply, "etcdserver: mvcc: required revision has been compacted");
    watching.created(on_key("k")).await;
    let revision = client.put("k", "v").await;
    assert_eq!(watching.events(1).await, [format!("PUT k=v @{revision}")]);
}

#[tokio::test]
async fn a_canceled_watcher_is_silent_and_the_others_go_on() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    let canceled = watching.created(on_key("k")).await;
    let kept = watching.created(on_key("k")).await;
    watching.cancel(canceled).await;
    let reply = watching.next().await;
    assert!(reply.canceled && !reply.created);
    assert_eq!(
        (
            reply.watch_id,
            reply.compact_revision,
            reply.cancel_reason.as_str()
        ),
        (canceled, 0, "")
    );
    let revision = client.put("k", "v").await;
    assert_eq!(reply.header.expect("header").revision, revision - 1);
    assert_eq!(watching.next().await.watch_id, kept);
    // An id that is not there gets no answer.
    watching.cancel(canceled).await;
    watching.cancel(4711).await;
    watching.send_raw(pb::WatchRequest { request_union: None }).await;
    assert_quiet(&cluster, &mut watching).await;
}

#[tokio::test]
async fn a_half_closed_stream_still_delivers() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    watching.half_close();
    for _ in 0..3 {
        let revision = client.put("k", "v").await;
        assert_eq!(watching.events(1).await, [format!("PUT k=v @{revision}")]);
    }
}

#[tokio::test]
async fn manual_progress_answers_for_all_watchers_of_the_stream() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    watching.created(on_key("l")).await;
    let revision = client.put("elsewhere", "").await;
    watching.ask_progress().await;
    let reply = watching.next().await;
    assert_eq!((reply.watch_id, reply.events.len()), (-1, 0));
    assert!(!reply.created && !reply.canceled);
    assert_eq!(reply.header.expect("header").revision, revision);
}

#[tokio::test]
async fn manual_progress_follows_the_events_before_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    for round in 0..50 {
        let revision = client.put("k", &round.to_string()).await;
        watching.ask_progress().await;
        assert_eq!(watching.events(1).await, [format!("PUT k={round} @{revision}")]);
        let reply = watching.next().await;
        assert_eq!(
            (reply.watch_id, reply.header.expect("header").revision),
            (-1, revision)
        );
    }
}

#[tokio::test]
async fn manual_progress_is_ignored_while_there_is_nothing_to_answer_for() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.ask_progress().await;
    // A watcher of the future holds it back as well.
    let start_revision = client.revision().await + 1_000;
    watching
        .created(pb::WatchCreateRequest {
            start_revision,
            ..on_key("k")
        })
        .await;
    watching.ask_progress().await;
    assert_quiet(&cluster, &mut watching).await;
}

#[tokio::test]
async fn periodic_progress_is_sent_to_idle_watchers_that_asked() {
    let cluster = Cluster::fresh(1, &["--watch-progress-notify-interval=200ms"]).await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_key("k")).await;
    let asked = watching
        .created(pb::WatchCreateRequest {
            progress_notify: true,
            ..on_key("k")
        })
        .await;
    let revision = client.put("elsewhere", "").await;
    loop {
        let reply = watching.next().await;
        assert_eq!((reply.watch_id, reply.events.len()), (asked, 0));
        if reply.header.expect("header").revision == revision {
            break;
        }
    }
}

#[tokio::test]
async fn a_large_revision_is_fragmented_only_on_request() {
    let cluster = Cluster::fresh(1, &["--max-request-bytes=8388608"]).await;
    let client = cluster.client(0);
    const LARGE: usize = 1 << 20;
    const EVENTS: usize = 7;
    // The bound of a piece is the request limit and 512 KiB: eight and a half MiB here.
    let puts = |round: usize| {
        (0..EVENTS)
            .map(|n| {
                let value = round.to_string().repeat(LARGE);
                pb::request_op::Request::RequestPut(put(&format!("k{n}"), &value))
            })
            .collect::<Vec<_>>()
    };
    client.run(puts(1)).await.expect("txn succeeds");
    let start_revision = client
        .run(puts(2))
        .await
        .expect("txn succeeds")
        .header
        .expect("header")
        .revision;
    // With the pairs before it, one revision takes more than one piece may hold.
    let request = pb::WatchCreateRequest {
        start_revision,
        prev_kv: true,
        ..on_range("k", "l")
    };

    let mut plain = client.watch();
    plain.created(request.clone()).await;
    let reply = plain.next().await;
    assert_eq!((reply.events.len(), reply.fragment), (EVENTS, false));

    let mut fragmented = client.watch();
    let fragments = pb::WatchCreateRequest {
        fragment: true,
        ..request
    };
    fragmented.created(fragments).await;
    let mut pieces = Vec::new();
    loop {
        let piece = fragmented.next().await;
        let more = piece.fragment;
        pieces.push(piece.events);
        if !more {
            break;
        }
    }
    assert!(pieces.len() > 1, "fourteen MiB are more than one piece");
    assert_eq!(pieces.concat(), reply.events);
}

#[tokio::test]
async fn many_watchers_of_one_key_all_see_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    const WATCHERS: usize = 500;
    let mut watching = client.watch();
    for _ in 0..WATCHERS {
        watching.created(on_key("k")).await;
    }
    let revision = client.put("k", "v").await;
    let mut seen = vec![0; WATCHERS];
    for _ in 0..WATCHERS {
        let reply = watching.next().await;
        assert_eq!(short(&events(&reply)[0]), format!("PUT k=v @{revision}"));
        seen[usize::try_from(reply.watch_id).expect("ids count from zero")] += 1;
    }
    assert!(seen.iter().all(|&count| count == 1));
}

#[tokio::test]
async fn a_watch_without_a_leader_ends_only_if_it_asked_for_one() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    let survivor = cluster.client(2);
    let mut patient = survivor.watch();
    patient.created(on_key("k")).await;
    let mut strict = Watching::open_with(&survivor, Some(("hasleader", "true")));
    strict.created(on_key("k")).await;
    cluster.kill(0);
    cluster.kill(1);
    let end = strict
        .next_or_end()
        .await
        .expect("a status")
        .expect_err("the leader is gone");
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    let refused = Watching::open_with(&survivor, Some(("hasleader", "true")))
        .next_or_end()
        .await;
    let end = refused.expect("a status").expect_err("there is no leader");
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    // The other stream is alive, and goes on once there is a leader.
    cluster.restart(0).await;
    let revision = eventually("a write", || async {
        let request = pb::PutRequest {
            key: bytes("k"),
            ..Default::default()
        };
        Some(
            survivor
                .put_request(request)
                .await
                .ok()?
                .header
                .expect("header")
                .revision,
        )
    })
    .await;
    let last = patient.events(1).await;
    assert!(last.contains(&format!("PUT k= @{revision}")), "{last:?}");
}
