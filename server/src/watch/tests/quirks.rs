//! One test for each quirk of API specification 6 and 14.

use bytes::Bytes;
use kelson_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kelson_proto::mvccpb;
use prost::Message;

use crate::watch::catch_up::RESPONSE_REVISIONS_MAX;
use crate::watch::hub::Hub;
use crate::watch::stream::Request;
use crate::watch::testing::world::{Change, Chronicle, World};

fn world() -> World {
    World::new(Chronicle::new(usize::MAX, 1 << 20), 1, 128)
}

fn key(key: &'static str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..WatchCreateRequest::default()
    }
}

fn range(from: &'static str, to: &'static [u8]) -> WatchCreateRequest {
    WatchCreateRequest {
        range_end: Bytes::from_static(to),
        ..key(from)
    }
}

fn starting(start_revision: i64, create: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..create
    }
}

fn numbered(watch_id: i64, create: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { watch_id, ..create }
}

/// Creates a watcher and settles; the created reply and what followed.
fn created(world: &mut World, create: WatchCreateRequest) -> Vec<WatchResponse> {
    world.create(0, create);
    settled(world)
}

fn settled(world: &mut World) -> Vec<WatchResponse> {
    world.settle().remove(0)
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

fn keys(response: &WatchResponse) -> Vec<String> {
    let decode = |bytes: &Bytes| mvccpb::Event::decode(bytes.clone()).expect("an event");
    let pairs = response.events.iter().map(decode).filter_map(|event| event.kv);
    pairs
        .map(|pair| String::from_utf8_lossy(&pair.key).into_owned())
        .collect()
}

fn failure(responses: &[WatchResponse]) -> &str {
    let [failed] = responses else {
        panic!("one reply expected: {responses:?}")
    };
    assert!(failed.created && failed.canceled && failed.watch_id == -1);
    assert_eq!((failed.compact_revision, revision(failed)), (0, 1));
    &failed.cancel_reason
}

#[test]
fn failed_creates_give_the_exact_reason_and_leave_the_stream_open() {
    let mut world = world();
    let negative = created(&mut world, starting(-1, key("a")));
    assert_eq!(
        failure(&negative),
        "etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(
        failure(&created(&mut world, range("b", b"b"))),
        "mvcc: watcher range is empty"
    );
    assert_eq!(
        failure(&created(&mut world, range("b", b"a"))),
        "mvcc: watcher range is empty"
    );
    created(&mut world, numbered(7, key("a")));
    assert_eq!(
        failure(&created(&mut world, numbered(7, key("a")))),
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    // The range is checked before the id.
    assert_eq!(
        failure(&created(&mut world, numbered(7, range("b", b"a")))),
        "mvcc: watcher range is empty"
    );
    assert!(created(&mut world, key("a"))[0].created);
}

#[test]
fn denied_create_gives_its_reason_after_the_check_of_the_start_revision() {
    let mut world = world();
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    for (start, reason) in [
        (0, denied),
        (-1, "etcdserver: mvcc: required revision has been compacted"),
    ] {
        let create = starting(start, range("b", b"a"));
        world.clients[0].expect_create(&create);
        let request = Request::Denied(create, denied.to_owned());
        world.hub.request(0, request, None, world.store_present());
        assert_eq!(failure(&settled(&mut world)), reason);
    }
}

#[test]
fn ids_count_up_from_zero_skip_taken_ones_and_are_not_given_twice() {
    let mut world = world();
    let mut id = |create| created(&mut world, create)[0].watch_id;
    assert_eq!(id(key("a")), 0);
    assert_eq!(id(numbered(1, key("a"))), 1);
    assert_eq!(id(numbered(-7, key("a"))), -7);
    assert_eq!(id(key("a")), 2);
    world.cancel(0, 2);
    assert!(settled(&mut world)[0].canceled);
    assert_eq!(created(&mut world, key("a"))[0].watch_id, 3);
}

#[test]
fn id_of_broadcasts_cannot_be_asked_for() {
    let mut world = world();
    assert_eq!(
        failure(&created(&mut world, numbered(-1, key("a")))),
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
}

#[test]
fn cancel_is_answered_once_and_unknown_ids_are_not_answered() {
    let mut world = world();
    created(&mut world, key("a"));
    world.cancel(0, 5);
    world.cancel(0, 0);
    world.cancel(0, 0);
    world.store.put("a", "x");
    let responses = settled(&mut world);
    assert_eq!(responses.len(), 1);
    let canceled = &responses[0];
    assert!(canceled.canceled && !canceled.created && canceled.cancel_reason.is_empty());
    assert_eq!((canceled.watch_id, canceled.compact_revision), (0, 0));
}

#[test]
fn request_without_content_is_ignored() {
    let mut world = world();
    let present = world.store_present();
    world
        .hub
        .request(0, Request::Client(Default::default()), None, present);
    assert!(settled(&mut world).is_empty());
}

#[test]
fn start_now_gets_only_later_events_one_response_per_revision() {
    let mut world = world();
    world.store.put("a", "before");
    let reply = created(&mut world, key("a"));
    assert_eq!((reply.len(), revision(&reply[0])), (1, 2));
    world.store.put("a", "1");
    world.store.put("b", "no match");
    world.store.put("a", "2");
    let events = settled(&mut world);
    assert_eq!(events.iter().map(revision).collect::<Vec<_>>(), [3, 5]);
}

#[test]
fn start_in_the_past_replays_history_with_the_store_revision_in_the_header() {
    let mut world = world();
    world.store.put("a", "2");
    world.store.put("a", "3");
    world.store.put("b", "4");
    let responses = created(&mut world, starting(3, key("a")));
    assert_eq!(responses.len(), 2);
    assert_eq!(
        (keys(&responses[1]), revision(&responses[1])),
        (vec!["a".to_owned()], 4)
    );
}

#[test]
fn catch_up_response_header_may_be_ahead_although_more_follows() {
    let mut world = World::new(Chronicle::new(1, 1 << 20), 1, 128);
    world.store.put("a", "2");
    world.store.put("a", "3");
    let responses = created(&mut world, starting(1, key("a")));
    assert_eq!(responses.iter().map(revision).collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn start_in_the_future_is_silent_until_then() {
    let mut world = world();
    world.create(0, starting(4, key("a")));
    world.store.put("a", "2");
    world.store.put("a", "3");
    world.progress(0);
    assert_eq!(settled(&mut world).len(), 1);
    world.progress(0);
    assert_eq!(settled(&mut world).len(), 0);
    world.store.put("a", "4");
    assert_eq!(revision(&settled(&mut world)[0]), 4);
    world.progress(0);
    assert_eq!(settled(&mut world)[0].watch_id, -1);
}

#[test]
fn start_below_the_compact_revision_is_created_then_cancelled() {
    let mut world = world();
    for _ in 0..4 {
        world.store.put("a", "x");
    }
    world.store.compact(4);
    let responses = created(&mut world, starting(3, key("a")));
    let [created_reply, canceled] = &responses[..] else {
        panic!("two replies expected: {responses:?}")
    };
    assert!(created_reply.created && !created_reply.canceled && revision(created_reply) == 5);
    assert!(canceled.canceled && !canceled.created && canceled.cancel_reason.is_empty());
    assert_eq!((canceled.compact_revision, revision(canceled)), (4, 0));

    // The id stays taken until the client cancels it, and that is answered.
    world.progress(0);
    world.create(0, numbered(0, key("b")));
    world.cancel(0, 0);
    let responses = settled(&mut world);
    assert_eq!(responses.len(), 2, "progress was suppressed: {responses:?}");
    assert_eq!(responses[0].watch_id, 1);
    assert!(responses[1].canceled && responses[1].watch_id == 0 && responses[1].compact_revision == 0);
    world.progress(0);
    assert_eq!(settled(&mut world).len(), 1);
}

#[test]
fn start_at_the_compact_revision_gets_the_tombstone_there() {
    let mut world = world();
    world.store.put("a", "x");
    let at = world.store.delete("a");
    world.store.compact(at);
    let responses = created(&mut world, starting(3, key("a")));
    assert_eq!(keys(&responses[1]), ["a"]);
}

#[test]
fn level_watcher_does_not_notice_a_compaction() {
    let mut world = world();
    created(&mut world, key("a"));
    let at = world.store.put("a", "x");
    world.store.compact(at);
    assert_eq!(keys(&settled(&mut world)[0]), ["a"]);
}

#[test]
fn empty_key_stands_for_zero_byte_and_with_open_end_for_everything() {
    let mut world = world();
    created(&mut world, key(""));
    created(&mut world, range("", &[0]));
    world.store.put("\0", "x");
    world.store.put("a", "x");
    let responses = settled(&mut world);
    assert_eq!(
        responses
            .iter()
            .map(|response| response.watch_id)
            .collect::<Vec<_>>(),
        [0, 1, 1]
    );
}

#[test]
fn filters_suppress_whole_responses_and_unknown_ones_are_ignored() {
    let mut world = world();
    for filters in [vec![0], vec![1], vec![0, 1], vec![5]] {
        let filtered = WatchCreateRequest { filters, ..key("a") };
        created(&mut world, filtered);
    }
    world.store.put("a", "x");
    world.store.delete("a");
    let mut ids: Vec<i64> = settled(&mut world)
        .iter()
        .map(|response| response.watch_id)
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 3, 3]);
}

#[test]
fn manual_progress_needs_every_watcher_level() {
    let mut world = world();
    world.progress(0);
    assert!(settled(&mut world).is_empty(), "no watcher on the stream");
    world.store.put("a", "x");
    created(&mut world, key("a"));
    world.create(0, starting(1, key("a")));
    world.progress(0);
    assert_eq!(
        settled(&mut world).len(),
        2,
        "created and history, but no progress"
    );
    world.progress(0);
    let responses = settled(&mut world);
    assert_eq!((responses[0].watch_id, revision(&responses[0])), (-1, 2));
    assert!(!responses[0].created && !responses[0].canceled);
}

#[test]
fn manual_progress_speaks_only_of_what_has_been_queued() {
    let mut world = world();
    created(&mut world, key("a"));
    world.store.put("a", "x");
    world.progress(0);
    let first = world.take(0).expect("progress at the hub's position");
    assert_eq!((first.watch_id, revision(&first)), (-1, 1));
    assert_eq!(settled(&mut world).len(), 1);
}

#[test]
fn progress_into_a_full_queue_is_dropped() {
    let mut world = World::new(Chronicle::new(usize::MAX, 1 << 20), 1, 1);
    world.create(0, key("a"));
    world.progress(0);
    assert_eq!(settled(&mut world).len(), 1);
}

#[test]
fn periodic_progress_goes_to_quiet_level_watchers_that_asked() {
    let mut world = world();
    let asking = WatchCreateRequest {
        progress_notify: true,
        ..key("a")
    };
    created(&mut world, asking.clone());
    created(&mut world, key("a"));
    created(&mut world, starting(9, asking));
    world.tick(0);
    let responses = settled(&mut world);
    assert_eq!(responses.len(), 1);
    assert_eq!((responses[0].watch_id, revision(&responses[0])), (0, 1));
    world.store.put("a", "x");
    settled(&mut world);
    world.tick(0);
    assert!(
        settled(&mut world).is_empty(),
        "there were events since the last tick"
    );
    world.tick(0);
    assert_eq!(revision(&settled(&mut world)[0]), 2);
}

#[test]
fn catch_up_response_holds_at_most_a_thousand_revisions() {
    let mut world = world();
    for _ in 0..RESPONSE_REVISIONS_MAX + 1 {
        world
            .store
            .apply(&[Change::Put("a", "1".into()), Change::Put("b", "2".into())]);
    }
    let responses = created(&mut world, starting(1, range("", &[0])));
    let sizes: Vec<usize> = responses.iter().map(|response| response.events.len()).collect();
    assert_eq!(sizes, [0, 2 * RESPONSE_REVISIONS_MAX, 2]);
}

#[test]
fn slow_stream_is_replayed_from_history_and_delays_no_other() {
    let mut world = World::new(Chronicle::new(3, 200), 2, 4);
    world.create(0, key("a"));
    world.create(1, key("a"));
    assert!(world.take(0).is_some());
    for round in 0..100 {
        world.store.put("a", &round.to_string());
        world.read_ring(usize::MAX);
        world.read_history();
        while world.take(1).is_some() {}
    }
    let fast = world.clients[1].position(0);
    assert_eq!(fast, 102, "the fast client has everything");
    assert!(world.clients[0].position(0) < 10);
    world.settle_and_check();
}

#[test]
fn watchers_of_one_stream_take_turns() {
    let mut world = World::new(Chronicle::new(1, 1), 1, 1000);
    for round in 0..50 {
        world.store.put("a", &round.to_string());
    }
    world.create(0, starting(1, key("a")));
    world.create(0, starting(40, key("a")));
    for _ in 0..30 {
        world.read_history();
    }
    while world.take(0).is_some() {}
    assert!(world.clients[0].position(0) > 10 && world.clients[0].position(1) > 50);
    world.settle_and_check();
}

#[test]
fn one_bite_serves_all_who_stand_in_it() {
    let mut world = World::new(Chronicle::new(usize::MAX, 1), 1, 1000);
    for round in 0..50 {
        world.store.put("a", &round.to_string());
    }
    for start in 1..40 {
        world.create(0, starting(start, key("a")));
    }
    assert!(world.read_history());
    assert!(!world.read_history(), "nobody is behind any more");
    world.settle_and_check();
}

#[test]
fn snapshot_sends_level_watchers_to_history_and_compacted_ones_home() {
    let mut world = world();
    created(&mut world, key("a"));
    world.store.put("a", "2");
    settled(&mut world);
    let put = vec![Change::Put("a", "x".into())];
    world
        .store
        .install_snapshot(&[put.clone(), put.clone(), put.clone()]);
    assert_eq!(settled(&mut world)[0].events.len(), 3);
    world.store.install_snapshot(&[put.clone(), put.clone(), put]);
    world.store.compact(8);
    let responses = settled(&mut world);
    assert!(responses.len() == 1 && responses[0].compact_revision == 8);
}

#[test]
fn snapshot_without_news_changes_nothing() {
    let mut world = world();
    created(&mut world, key("a"));
    world.store.install_snapshot(&[]);
    assert!(settled(&mut world).is_empty());
    world.progress(0);
    assert_eq!(settled(&mut world).len(), 1);
}

#[test]
fn closed_stream_leaves_nothing_behind() {
    let mut world = world();
    world.store.put("a", "x");
    world.create(0, key("a"));
    world.create(0, starting(1, key("a")));
    world.hub.close(0);
    let hub: &Hub = &world.hub;
    assert_eq!(
        (hub.stream_count(), hub.watcher_count(), hub.behind_count()),
        (0, 0, 0)
    );
}
