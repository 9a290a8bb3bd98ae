//! Range: bounds, limits, orders, filters and revisions.

use kelson_proto::etcdserverpb::{
    self as pb,
    range_request::{SortOrder, SortTarget},
};
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

use crate::harness::client::{between, bytes, everything, keys, put, single, text};
use crate::harness::{Client, Cluster, assert_refused, kv_pairs};

async fn keys_of(client: &Client, request: pb::RangeRequest) -> Vec<String> {
    keys(&client.range(request).await.expect("range succeeds"))
}

#[tokio::test]
async fn bounds_select_what_they_say() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for key in ["a", "ab", "abc", "b", "c"] {
        client.put(key, "").await;
    }
    let cases: &[(&str, &str, &[&str])] = &[
        ("a", "", &["a"]),
        ("aa", "", &[]),
        ("a", "b", &["a", "ab", "abc"]),
        ("ab", "ac", &["ab", "abc"]),
        ("ab", "\0", &["ab", "abc", "b", "c"]),
        ("\0", "\0", &["a", "ab", "abc", "b", "c"]),
        ("a", "a", &[]),
        ("b", "a", &[]),
        ("c", "d", &["c"]),
        ("d", "e", &[]),
    ];
    for (key, range_end, expected) in cases {
        assert_eq!(
            keys_of(&client, between(key, range_end)).await,
            *expected,
            "[{key:?}, {range_end:?})"
        );
    }
}

#[tokio::test]
async fn limit_cuts_the_pairs_but_not_the_count() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for key in ["a", "b", "c"] {
        client.put(key, "").await;
    }
    // (limit, pairs, more)
    for (limit, pairs, more) in [
        (0, 3, false),
        (-1, 3, false),
        (1, 1, true),
        (2, 2, true),
        (3, 3, false),
        (4, 3, false),
    ] {
        let reply = client
            .range(pb::RangeRequest {
                limit,
                ..everything()
            })
            .await
            .expect("range succeeds");
        assert_eq!(
            (reply.kvs.len(), reply.count, reply.more),
            (pairs, 3, more),
            "limit {limit}"
        );
    }
    let reply = client.range(between("x", "z")).await.expect("range succeeds");
    assert_eq!((reply.kvs.len(), reply.count, reply.more), (0, 0, false));
}

#[tokio::test]
async fn count_only_returns_no_pairs_whatever_else_is_asked() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for key in ["a", "b", "c"] {
        client.put(key, "").await;
    }
    let request = pb::RangeRequest {
        count_only: true,
        limit: 1,
        min_mod_revision: i64::MAX,
        ..everything()
    };
    let reply = client.range(request).await.expect("range succeeds");
    assert_eq!((reply.kvs.len(), reply.count, reply.more), (0, 3, false));
}

#[tokio::test]
async fn keys_only_blanks_value_and_lease() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    let revision = client
        .put_request(pb::PutRequest {
            lease,
            ..put("k", "v")
        })
        .await
        .expect("put succeeds")
        .header
        .expect("header")
        .revision;
    let reply = client
        .range(pb::RangeRequest {
            keys_only: true,
            ..single("k")
        })
        .await
        .expect("range succeeds");
    let pair = &kv_pairs(&reply.kvs)[0];
    assert_eq!(
        (pair.create_revision, pair.mod_revision, pair.version),
        (revision, revision, 1)
    );
    assert_eq!((pair.value.len(), pair.lease), (0, 0));
}

/// Three keys whose orders by key, version, creation, modification and value all differ.
async fn put_sortable(client: &Client) {
    client.put("b", "9").await;
    client.put("a", "x").await;
    client.put("c", "2").await;
    client.put("b", "8").await;
    client.put("b", "3").await;
    client.put("a", "1").await;
}

#[tokio::test]
async fn orders_sort_by_their_target() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    put_sortable(&client).await;
    use SortOrder::{Ascend, Descend, None};
    use SortTarget::{Create, Key, Mod, Value, Version};
    let cases: &[(SortOrder, SortTarget, &[&str])] = &[
        (None, Key, &["a", "b", "c"]),
        (Ascend, Key, &["a", "b", "c"]),
        (Descend, Key, &["c", "b", "a"]),
        (Ascend, Version, &["c", "a", "b"]),
        (Descend, Version, &["b", "a", "c"]),
        (Ascend, Create, &["b", "a", "c"]),
        (Descend, Create, &["c", "a", "b"]),
        (Ascend, Mod, &["c", "b", "a"]),
        (Descend, Mod, &["a", "b", "c"]),
        (Ascend, Value, &["a", "c", "b"]),
        (Descend, Value, &["b", "c", "a"]),
        (None, Mod, &["c", "b", "a"]),
        (None, Value, &["a", "c", "b"]),
    ];
    for &(order, target, expected) in cases {
        let request = pb::RangeRequest {
            sort_order: order.into(),
            sort_target: target.into(),
            ..everything()
        };
        assert_eq!(
            keys_of(&client, request.clone()).await,
            expected,
            "{order:?} {target:?}"
        );
        let keys_only = pb::RangeRequest {
            keys_only: true,
            ..request.clone()
        };
        assert_eq!(
            keys_of(&client, keys_only).await,
            expected,
            "{order:?} {target:?} keys only"
        );
        if order != None || target == Key {
            let first = pb::RangeRequest { limit: 2, ..request };
            assert_eq!(
                keys_of(&client, first).await,
                expected[..2],
                "{order:?} {target:?} limit 2"
            );
        }
    }
}

#[tokio::test]
async fn no_order_with_a_target_sorts_only_the_first_keys_past_the_limit() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for (key, value) in [("a", "9"), ("b", "8"), ("c", "7"), ("d", "1")] {
        client.put(key, value).await;
    }
    // The scan ends after limit + 1 keys in key order: "d", the smallest value, is never seen.
    let request = pb::RangeRequest {
        limit: 2,
        sort_target: SortTarget::Value.into(),
        ..everything()
    };
    let reply = client.range(request).await.expect("range succeeds");
    assert_eq!(keys(&reply), ["c", "b"]);
    assert_eq!((reply.count, reply.more), (4, true));
}

#[tokio::test]
async fn keys_only_sorted_by_value_sorts_by_the_real_values() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("a", "2").await;
    client.put("b", "1").await;
    let request = pb::RangeRequest {
        keys_only: true,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Value.into(),
        ..everything()
    };
    let reply = client.range(request).await.expect("range succeeds");
    assert_eq!(keys(&reply), ["b", "a"]);
    assert!(kv_pairs(&reply.kvs).iter().all(|pair| pair.value.is_empty()));
}

#[tokio::test]
async fn revision_filters_keep_what_lies_between() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let a = client.put("a", "").await;
    let b = client.put("b", "").await;
    let c = client.put("c", "").await;
    let a_again = client.put("a", "").await;
    let base = everything();
    let cases: &[(pb::RangeRequest, &[&str])] = &[
        (
            pb::RangeRequest {
                min_mod_revision: c,
                ..base.clone()
            },
            &["a", "c"],
        ),
        (
            pb::RangeRequest {
                max_mod_revision: b,
                ..base.clone()
            },
            &["b"],
        ),
        (
            pb::RangeRequest {
                min_mod_revision: b,
                max_mod_revision: c,
                ..base.clone()
            },
            &["b", "c"],
        ),
        (
            pb::RangeRequest {
                min_create_revision: b,
                ..base.clone()
            },
            &["b", "c"],
        ),
        (
            pb::RangeRequest {
                max_create_revision: a,
                ..base.clone()
            },
            &["a"],
        ),
        (
            pb::RangeRequest {
                max_create_revision: a,
                min_mod_revision: a_again,
                ..base.clone()
            },
            &["a"],
        ),
        (
            pb::RangeRequest {
                min_mod_revision: a_again + 1,
                ..base.clone()
            },
            &[],
        ),
    ];
    for (request, expected) in cases {
        let reply = client.range(request.clone()).await.expect("range succeeds");
        assert_eq!(keys(&reply), *expected, "{request:?}");
        assert_eq!(reply.count, 3, "the count ignores filters");
        assert!(!reply.more);
    }
    let limited = pb::RangeRequest {
        min_mod_revision: c,
        limit: 1,
        ..base
    };
    let reply = client.range(limited).await.expect("range succeeds");
    assert_eq!(
        (keys(&reply), reply.more, reply.count),
        (vec!["a".to_owned()], true, 3)
    );
}

#[tokio::test]
async fn a_read_of_the_past_shows_the_past_and_the_newest_revision_in_the_header() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let first = client.put("k", "1").await;
    client.put("k", "2").await;
    let deleted = client.delete("k").await;
    client.put("k", "3").await;
    let newest = client.put("other", "").await;
    let read = |revision| {
        client.range(pb::RangeRequest {
            revision,
            ..single("k")
        })
    };
    for (revision, value, version) in [
        (first, "1", 1),
        (first + 1, "2", 2),
        (newest, "3", 1),
        (-1, "3", 1),
    ] {
        let reply = read(revision).await.expect("range succeeds");
        let pair = &kv_pairs(&reply.kvs)[0];
        assert_eq!(
            (text(&pair.value), pair.version),
            (value.into(), version),
            "at {revision}"
        );
        assert_eq!(reply.header.expect("header").revision, newest);
    }
    let reply = read(deleted).await.expect("range succeeds");
    assert_eq!((reply.kvs.len(), reply.count), (0, 0));
    let future = read(newest + 1).await;
    assert_refused(
        future,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
}

#[tokio::test]
async fn a_count_in_the_past_is_the_count_of_then() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("a", "").await;
    let two = client.put("b", "").await;
    client.put("c", "").await;
    client.delete("a").await;
    let request = pb::RangeRequest {
        revision: two,
        limit: 1,
        ..everything()
    };
    let reply = client.range(request).await.expect("range succeeds");
    assert_eq!(
        (keys(&reply), reply.count, reply.more),
        (vec!["a".to_owned()], 2, true)
    );
}

#[tokio::test]
async fn compaction_hides_what_is_older_and_nothing_else() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let old = client.put("k", "1").await;
    let kept = client.put("k", "2").await;
    let newest = client.put("k", "3").await;
    let reply = client.compact(kept).await.expect("compaction succeeds");
    assert_eq!(reply.header.expect("header").revision, newest);
    let read = |revision| {
        client.range(pb::RangeRequest {
            revision,
            ..single("k")
        })
    };
    let refused = read(old).await;
    assert_refused(
        refused,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    assert_eq!(
        kv_pairs(&read(kept).await.expect("the compact revision is readable").kvs)[0].value,
        "2"
    );
    assert_eq!(
        kv_pairs(&read(0).await.expect("range succeeds").kvs)[0].value,
        "3"
    );
}

#[tokio::test]
async fn compaction_at_the_newest_revision_keeps_live_keys() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("gone", "").await;
    client.put("k", "v").await;
    let newest = client.delete("gone").await;
    client.compact(newest).await.expect("compaction succeeds");
    assert_eq!(keys_of(&client, everything()).await, ["k"]);
    assert_eq!(client.revision().await, newest);
    assert_refused(
        client.compact(newest).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    assert_refused(
        client.compact(newest + 1).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
}

#[tokio::test]
async fn compaction_at_zero_is_accepted_once_on_a_fresh_store() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_refused(client.compact(-1).await, Code::OutOfRange, compacted);
    client.compact(0).await.expect("compaction at zero succeeds once");
    assert_refused(client.compact(0).await, Code::OutOfRange, compacted);
}

#[tokio::test]
async fn physical_compaction_answers_like_any_other() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for _ in 0..20 {
        client.put("k", "v").await;
    }
    let revision = client.revision().await;
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    let reply = client
        .kv()
        .compact(request)
        .await
        .expect("compaction succeeds")
        .into_inner();
    assert_eq!(reply.header.expect("header").revision, revision);
    let again = client.kv().compact(request).await;
    assert_refused(
        again,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
}

#[tokio::test]
async fn a_linearizable_read_sees_a_write_made_through_any_member() {
    let cluster = Cluster::three().await;
    for round in 0..10 {
        for writer in 0..cluster.size() {
            let value = format!("{round} through {writer}");
            cluster.client(writer).put("k", &value).await;
            for reader in 0..cluster.size() {
                let read = cluster.client(reader).get("k").await.expect("the key exists");
                assert_eq!(text(&read.value), value, "read through {reader}");
            }
        }
    }
}

#[tokio::test]
async fn a_serializable_read_is_answered_without_a_quorum() {
    let mut cluster = Cluster::fresh(3, &[]).await;
    cluster.client(0).put("k", "v").await;
    assert!(cluster.client(2).get("k").await.is_some());
    cluster.kill(0);
    cluster.kill(1);
    let request = pb::RangeRequest {
        serializable: true,
        ..single("k")
    };
    let reply = cluster
        .client(2)
        .range(request)
        .await
        .expect("the local store answers");
    assert_eq!(kv_pairs(&reply.kvs)[0].value, "v");
}

#[tokio::test]
async fn many_pairs_come_back_whole_and_in_order() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    const PAIRS: usize = 2_000;
    const PER_TXN: usize = 100;
    for start in (0..PAIRS).step_by(PER_TXN) {
        let puts = (start..start + PER_TXN)
            .map(|n| pb::request_op::Request::RequestPut(put(&format!("{n:06}"), &"v".repeat(1000))))
            .collect();
        client.run(puts).await.expect("txn succeeds");
    }
    let reply = client.range(everything()).await.expect("range succeeds");
    assert_eq!(reply.count, PAIRS as i64);
    let stored = keys(&reply);
    assert_eq!(stored.len(), PAIRS);
    assert!(stored.is_sorted());
    assert!(
        kv_pairs(&reply.kvs)
            .iter()
            .all(|pair| pair.value == bytes(&"v".repeat(1000)))
    );
}

/// Long answers are sent while they are read; where they end and what stands behind the pairs must come out the same.
#[tokio::test]
async fn long_answers_are_cut_counted_and_pinned_like_short_ones() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    const PAIRS: usize = 3_000;
    const PER_TXN: usize = 100;
    // Lengths on both sides of where a length takes one more byte.
    let value = |n: usize| "v".repeat([0, 100, 128, 900, 17_000][n % 5]);
    for start in (0..PAIRS).step_by(PER_TXN) {
        let puts = (start..start + PER_TXN)
            .map(|n| pb::request_op::Request::RequestPut(put(&format!("{n:06}"), &value(n))))
            .collect();
        client.run(puts).await.expect("txn succeeds");
    }
    client.delete("000017").await;
    let revision = client.put("zzz", "").await;
    let read = async |limit: i64, revision: i64, key: &str| {
        let request = pb::RangeRequest {
            limit,
            revision,
            ..between(key, "z")
        };
        client.range(request).await.expect("range succeeds")
    };
    for (limit, named, key, expected) in [
        (0, 0, "0", PAIRS - 1),
        (0, revision, "0", PAIRS - 1),
        (-1, 0, "001000", PAIRS - 1000),
        (1_500, 0, "0", 1_500),
        (1_500, revision, "001000", 1_500),
        (10_000, 0, "0", PAIRS - 1),
        ((PAIRS - 1) as i64, 0, "0", PAIRS - 1),
    ] {
        let reply = read(limit, named, key).await;
        let case = format!("limit {limit}, revision {named}, from {key}");
        let all = if key == "0" { PAIRS - 1 } else { PAIRS - 1000 };
        assert_eq!(reply.kvs.len(), expected, "{case}");
        assert_eq!(reply.count, all as i64, "{case}");
        assert_eq!(reply.more, expected < all, "{case}");
        assert_eq!(reply.header.expect("header").revision, revision, "{case}");
        for pair in kv_pairs(&reply.kvs) {
            let n: usize = text(&pair.key).parse().expect("a number");
            assert_eq!(text(&pair.value), value(n), "{case}");
        }
        assert!(keys(&reply).is_sorted(), "{case}");
    }
}

/// Sends a Range and returns once the reply has begun, which is read by nobody yet: no more of it is sent than what the
/// windows of the connection take.
async fn begun_range(client: &Client, request: pb::RangeRequest) -> Streaming<pb::RangeResponse> {
    let mut grpc = tonic::client::Grpc::new(client.channel()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
    let codec = ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
    let reply = grpc.server_streaming(Request::new(request), path, codec).await;
    reply.expect("range succeeds").into_inner()
}

/// A list that was begun ends as it was, although all that it still has to say was overwritten and compacted meanwhile.
/// One at a named revision once broke off in the middle: each of its pieces asked for that revision again.
#[tokio::test]
async fn a_list_that_has_begun_outlives_the_compaction_of_its_revision() {
    const PAIRS: usize = 12_000;
    const PER_TXN: usize = 100;
    // Together many times what the windows of a connection take.
    const VALUE_BYTES: usize = 1_000;
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let write_all = async |letter: &str| {
        let mut revision = 0;
        for start in (0..PAIRS).step_by(PER_TXN) {
            let puts = (start..start + PER_TXN)
                .map(|n| {
                    pb::request_op::Request::RequestPut(put(&format!("{n:06}"), &letter.repeat(VALUE_BYTES)))
                })
                .collect();
            let reply = client.run(puts).await.expect("txn succeeds");
            revision = reply.header.expect("header").revision;
        }
        revision
    };
    for (named, old, new) in [(false, "a", "b"), (true, "c", "d")] {
        let revision = write_all(old).await;
        let request = pb::RangeRequest {
            revision: if named { revision } else { 0 },
            ..everything()
        };
        let mut list = begun_range(&cluster.client(0), request.clone()).await;
        let newest = write_all(new).await;
        client.compact(newest).await.expect("compaction succeeds");
        let past = pb::RangeRequest {
            revision,
            ..single("000000")
        };
        assert_refused(
            client.range(past).await,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        let reply = list.message().await.expect("the list goes on").expect("a reply");
        assert_eq!(reply.header.expect("header").revision, revision);
        assert_eq!((reply.count, reply.kvs.len()), (PAIRS as i64, PAIRS));
        let value = old.repeat(VALUE_BYTES);
        assert!(
            kv_pairs(&reply.kvs).iter().all(|pair| text(&pair.value) == value),
            "named: {named}"
        );
        assert!(list.message().await.expect("the list ends").is_none());
    }
}
