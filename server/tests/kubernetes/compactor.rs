//! The apiservers' compactor: contract 2.

use bytes::Bytes;
use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
    response_op::Response as Answer,
};
use tonic::Code;

use crate::harness::client::{put, request_op, single};
use crate::harness::watching::{events, on_key, short};
use crate::harness::{Cluster, assert_refused, kv_pairs};
use crate::registry::{Registry, revision, watch_after};

const KEY: &str = "compact_rev_key";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

/// What one apiserver remembers from tick to tick.
struct Compactor {
    registry: Registry,
    version: i64,
    revision: i64,
}

impl Compactor {
    fn of(registry: Registry) -> Self {
        Self {
            registry,
            version: 0,
            revision: 0,
        }
    }

    /// One tick. True if this apiserver won it.
    async fn tick(&mut self) -> bool {
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Version.into(),
                key: Bytes::from_static(KEY.as_bytes()),
                target_union: Some(TargetUnion::Version(self.version)),
                ..Default::default()
            }],
            success: vec![request_op(Op::RequestPut(put(KEY, &self.revision.to_string())))],
            failure: vec![request_op(Op::RequestRange(single(KEY)))],
        };
        let reply = self.registry.client().txn(request).await.expect("a tick");
        let next = revision(&reply.header);
        if reply.succeeded {
            self.version += 1;
            if self.revision != 0 {
                let compacted = self.registry.client().compact(self.revision).await;
                compacted.expect("the winner compacts");
            }
        } else {
            let Some(Answer::ResponseRange(found)) = &reply.responses[0].response else {
                panic!("a lost tick reads the key: {reply:?}")
            };
            // Unchecked in the apiserver, too: it ends if the key is not there.
            self.version = kv_pairs(&found.kvs)[0].version;
        }
        self.revision = next;
        reply.succeeded
    }
}

#[tokio::test]
async fn two_apiservers_share_the_work_and_keep_an_interval_of_history() {
    let cluster = Cluster::three().await;
    let mut first = Compactor::of(Registry::at(cluster.client(0)));
    let mut second = Compactor::of(Registry::at(cluster.client(1)));
    let writer = Registry::at(cluster.client(2));
    assert!(first.tick().await, "nobody has ticked yet");
    let mut ticked = vec![first.revision];
    for round in 0..6 {
        writer.created(&format!("/registry/pods/{round}"), "").await;
        // The same interval in both: one wins, whichever comes first.
        let won = (first.tick().await, second.tick().await);
        assert!(won.0 ^ won.1, "{won:?}");
        let newest = writer.created(&format!("/registry/nodes/{round}"), "").await;
        let horizon = ticked.last().copied().expect("ticked before");
        let prefix = b"/registry/pods/";
        let gone = writer.page(prefix, prefix, 10, horizon - 1).await;
        assert_refused(gone, Code::OutOfRange, COMPACTED);
        writer
            .page(prefix, prefix, 10, horizon)
            .await
            .expect("the compacted revision itself is there");
        assert!(newest > first.revision.max(second.revision));
        ticked.push(first.revision.max(second.revision));
        assert_eq!(first.version, second.version);
    }
    // The one who never won takes over when the other is gone.
    drop(first);
    assert!(second.tick().await);
}

#[tokio::test]
async fn versions_count_puts_through_compactions_and_restarts() {
    let mut cluster = Cluster::fresh(1, &[]).await;
    let mut compactor = Compactor::of(Registry::at(cluster.client(0)));
    for _ in 0..5 {
        assert!(compactor.tick().await);
    }
    cluster.kill(0);
    cluster.restart(0).await;
    compactor.registry = Registry::at(cluster.client(0));
    assert!(compactor.tick().await, "it is still the version that it knows");
    let mut newcomer = Compactor::of(Registry::at(cluster.client(0)));
    assert!(!newcomer.tick().await);
    assert_eq!(newcomer.version, 6);
}

#[tokio::test]
async fn a_compaction_is_seen_at_once_by_reads_and_watches_of_the_member_that_answered() {
    let cluster = Cluster::single().await;
    let registry = Registry::at(cluster.client(0));
    let first = registry.created("/registry/pods/a", "1").await;
    let second = registry.created("/registry/pods/b", "2").await;
    registry
        .client()
        .compact(second)
        .await
        .expect("compaction succeeds");
    let prefix = b"/registry/pods/";
    assert_refused(
        registry.page(prefix, prefix, 1, first).await,
        Code::OutOfRange,
        COMPACTED,
    );
    let mut watching = registry.client().watch();
    watching.created(watch_after(prefix, first - 1)).await;
    let reply = watching.next().await;
    assert!(reply.canceled && reply.compact_revision == second, "{reply:?}");
    for (revision, text) in [(second, COMPACTED), (first, COMPACTED), (second + 1, FUTURE)] {
        let refused = registry.client().compact(revision).await;
        assert_refused(refused, Code::OutOfRange, text);
    }
}

/// From 1.34 on each apiserver follows the key from the revision of its read, not from the one after.
#[tokio::test]
async fn the_key_is_watched_from_the_very_revision_that_was_read() {
    let cluster = Cluster::single().await;
    let mut compactor = Compactor::of(Registry::at(cluster.client(0)));
    compactor.tick().await;
    let (read_at, _) = compactor.registry.get(KEY.as_bytes()).await;
    let mut watching = compactor.registry.client().watch();
    let from_there = pb::WatchCreateRequest {
        start_revision: read_at,
        ..on_key(KEY)
    };
    watching.created(from_there).await;
    let told = events(&watching.next().await);
    assert_eq!(
        told.iter().map(short).collect::<Vec<_>>(),
        [format!("PUT {KEY}=0 @{read_at}")]
    );
    compactor.tick().await;
    let told = watching.events(1).await;
    assert_eq!(told, [format!("PUT {KEY}={read_at} @{}", read_at + 1)]);
}
