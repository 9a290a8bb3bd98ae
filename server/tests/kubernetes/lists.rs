//! Lists: contract 1.3, 1.4, 1.5, 1.9.

use kelson_proto::etcdserverpb as pb;
use tonic::{Code, Status};

use crate::harness::{Client, Cluster, assert_refused, kv_pairs};
use crate::registry::{Registry, page_request, revision};

const PODS: &[u8] = b"/registry/pods/";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

async fn create_pods(registry: &Registry, count: usize) -> i64 {
    let mut last = 0;
    for n in 0..count {
        last = registry
            .created(&format!("/registry/pods/ns/{n:05}"), "pod")
            .await;
    }
    last
}

/// Its answer decides whether a cache is fresh enough, so it must know of every write, wherever that was made.
#[tokio::test]
async fn the_probe_of_a_missing_key_names_the_newest_revision_at_every_member() {
    let cluster = Cluster::three().await;
    for round in 0..30 {
        let writer = Registry::at(cluster.client(round % 3));
        let prober = Registry::at(cluster.client((round + 1) % 3));
        let written = writer.created(&format!("/registry/leases/{round}"), "").await;
        assert_eq!(prober.current().await, written, "another resource's write counts");
        assert_eq!(prober.current().await, written, "the probe makes no revision");
    }
}

#[tokio::test]
async fn pages_are_one_state_while_others_write() {
    const PODS_BEFORE: usize = 250;
    let cluster = Cluster::three().await;
    let registry = Registry::at(cluster.client(0));
    create_pods(&registry, PODS_BEFORE).await;
    registry
        .created("/registry/podsecurity", "not in the prefix")
        .await;
    let writer = Registry::at(cluster.client(1));
    let (mut page, mut from, mut pinned) = (None, PODS.to_vec(), 0);
    let mut seen = 0;
    for round in 0.. {
        let next = registry.page(&from, PODS, 50, pinned).await.expect("a page");
        assert_eq!(
            next.count,
            i64::try_from(PODS_BEFORE - seen).expect("small"),
            "what is left, then"
        );
        assert_eq!(next.more, !next.is_last());
        if pinned == 0 {
            pinned = next.revision;
        } else {
            assert!(next.revision > pinned, "the header is of the present");
        }
        seen += next.objects.len();
        from = next.next();
        // Both before and behind where the next page begins.
        writer
            .created(&format!("/registry/pods/ns/00000-{round}"), "")
            .await;
        writer
            .created(&format!("/registry/pods/ns/99999-{round}"), "")
            .await;
        let is_last = next.is_last();
        page = Some(next);
        if is_last {
            break;
        }
    }
    assert_eq!(seen, PODS_BEFORE);
    assert_eq!(page.map(|page| page.objects.len()), Some(50));
}

#[tokio::test]
async fn the_rule_of_count_ends_a_list_where_it_ends() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let newest = create_pods(&registry, 30).await;
    for limit in [1, 7, 10, 29, 30, 31, 500] {
        let (pinned, objects) = registry.list(PODS, limit).await;
        assert_eq!((pinned, objects.len()), (newest, 30), "limit {limit}");
    }
    let nothing = registry.list(b"/registry/nothing/", 500).await;
    assert_eq!(nothing, (newest, Vec::new()));
}

#[tokio::test]
async fn a_continuation_behind_a_compaction_fails_and_goes_on_in_the_present() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    create_pods(&registry, 20).await;
    let first = registry.page(PODS, PODS, 8, 0).await.expect("a page");
    let later = registry.created("/registry/pods/ns/99998", "").await;
    registry
        .client()
        .compact(later)
        .await
        .expect("compaction succeeds");
    let next = first.next();
    let refused = registry.page(&next, PODS, 8, first.revision).await;
    assert_refused(refused, Code::OutOfRange, COMPACTED);
    // The token that says so asks for the rest as it is now.
    let rest = registry.page(&next, PODS, 500, 0).await.expect("the rest");
    assert_eq!(rest.objects.len(), 20 - 8 + 1);
    assert_eq!(rest.revision, later);
    let at = registry
        .page(PODS, PODS, 500, later)
        .await
        .expect("the compacted revision itself is there");
    assert_eq!(at.count, 21);
}

#[tokio::test]
async fn a_revision_of_the_future_is_an_error_of_its_own() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let future = registry.current().await + 1;
    assert_refused(
        registry.page(PODS, PODS, 500, future).await,
        Code::OutOfRange,
        FUTURE,
    );
}

#[tokio::test]
async fn counts_and_keys_come_without_values() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    create_pods(&registry, 12).await;
    let counted = pb::RangeRequest {
        count_only: true,
        ..page_request(PODS, PODS, 0, 0)
    };
    let counted = registry.client().range(counted).await.expect("a count");
    assert_eq!((counted.count, counted.kvs.len()), (12, 0));
    let keys = pb::RangeRequest {
        keys_only: true,
        ..page_request(PODS, PODS, 0, 0)
    };
    let keys = registry.client().range(keys).await.expect("keys");
    let keys: Vec<_> = kv_pairs(&keys.kvs);
    assert_eq!(keys.len(), 12);
    assert!(
        keys.iter()
            .all(|object| object.key.starts_with(PODS) && object.mod_revision > 0)
    );
}

async fn stream(client: &Client, request: pb::RangeRequest) -> Result<Vec<pb::RangeResponse>, Status> {
    let mut replies = client.kv().range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = replies.message().await? {
        pieces.push(piece.range_response.expect("every piece is a range response"));
    }
    Ok(pieces)
}

/// The apiserver looks one message ahead and takes "another one comes" for "there is more".
#[tokio::test]
async fn a_streamed_list_ends_with_the_message_that_has_its_last_object() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let newest = create_pods(&registry, 200).await;
    let pinned = newest - 50;
    for (limit, at, expected, more) in [
        (0, 0, 200, false),
        (200, 0, 200, false),
        (64, 0, 64, true),
        (1, 0, 1, true),
        (0, pinned, 150, false),
    ] {
        let pieces = stream(registry.client(), page_request(PODS, PODS, limit, at))
            .await
            .expect("a stream");
        let (last, others) = pieces.split_last().expect("there is a message");
        assert!(
            pieces.iter().all(|piece| !piece.kvs.is_empty()),
            "no message is empty"
        );
        assert!(
            others.iter().all(|piece| piece.header.is_none()),
            "the header is on the last message"
        );
        let objects: usize = pieces.iter().map(|piece| piece.kvs.len()).sum();
        assert_eq!((objects, last.more), (expected, more), "limit {limit} at {at}");
        let all = if at == 0 { 200 } else { 150 };
        assert_eq!(last.count, all, "sent and remaining");
        assert_eq!(revision(&last.header), newest, "of the store, also when pinned");
    }
    let nothing = stream(
        registry.client(),
        page_request(b"/registry/no/", b"/registry/no/", 0, 0),
    )
    .await
    .expect("a stream");
    assert_eq!(nothing.len(), 1);
    assert_eq!(revision(&nothing[0].header), newest);
}

#[tokio::test]
async fn a_streamed_list_of_a_compacted_revision_is_refused() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let newest = create_pods(&registry, 5).await;
    registry
        .client()
        .compact(newest)
        .await
        .expect("compaction succeeds");
    let refused = stream(registry.client(), page_request(PODS, PODS, 0, newest - 1)).await;
    assert_refused(refused, Code::OutOfRange, COMPACTED);
}

/// Releases up to 1.36 read whole resources without a limit; nothing bounds such a reply.
#[tokio::test]
async fn a_reply_may_be_larger_than_any_request() {
    const OBJECTS: usize = 24;
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let object = vec![b'x'; 1 << 20];
    for n in 0..OBJECTS {
        let key = format!("/registry/configmaps/ns/{n:02}");
        registry
            .create(key.as_bytes(), &object, 0)
            .await
            .expect("it is new");
    }
    let prefix = b"/registry/configmaps/";
    let page = registry.page(prefix, prefix, 0, 0).await.expect("one reply");
    assert_eq!(page.objects.len(), OBJECTS);
    assert!(page.objects.iter().all(|found| found.value == object));
}
