//! The hub over the real store: what the ring gives and what history gives are the same bytes.
//!
//! On a paused clock: there a bite takes no time, so that the next one need not wait for as long.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use kelson_storage::codec::encode_batch;
use kelson_storage::command::{Command, CommandId, DeleteRange, Proposal, Put, Txn, TxnOp};
use kelson_storage::limits::CacheBudget;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{Checkpointer, Store, StoreOptions};
use tokio::sync::watch;

use crate::watch::task::StoreSource;
use crate::watch::testing::world::IDENTITY;
use crate::watch::{PROGRESS_INTERVAL_DEFAULT, WatchHub, WatchOptions, WatchResponses};

struct Setup {
    store: Store,
    checkpointer: Checkpointer,
    applied: watch::Sender<u64>,
    hub: WatchHub,
    task: futures::future::BoxFuture<'static, ()>,
}

impl Setup {
    fn open(directory: &Path) -> Self {
        let options = StoreOptions {
            database: directory.join("db"),
            cache: CacheBudget {
                overlay: 1 << 20,
                event_ring: 1 << 20,
                ..CacheBudget::default()
            },
        };
        let store = Store::open(Arc::new(RealDisk::default()), options).expect("a scratch directory");
        let (applied, seen) = watch::channel(store.reader().revision());
        let options = WatchOptions::new(PROGRESS_INTERVAL_DEFAULT, 1 << 20);
        let (hub, task) = WatchHub::over(StoreSource::new(store.reader()), IDENTITY, seen, options);
        Self {
            checkpointer: store.checkpointer(),
            store,
            applied,
            hub,
            task: task.map(|ended| ended.expect("the store can be read")).boxed(),
        }
    }

    fn apply(&mut self, command: Command) {
        let index = self.store.applied().map_or(0, |at| at.index + 1);
        let proposal = Proposal {
            id: CommandId {
                origin: 1,
                session: 1,
                seq: index + 1,
            },
            low: index + 1,
            command,
        };
        let at = LogPosition { term: 3, index };
        let batch = encode_batch([&proposal]);
        self.store
            .apply_batch(at, &batch, &mut ())
            .expect("a scratch directory");
        self.applied.send_replace(self.store.reader().revision());
    }

    fn watch(&self, start_revision: i64) -> WatchResponses {
        let create = WatchCreateRequest {
            range_end: Bytes::from_static(&[0]),
            start_revision,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let stream = self.hub.open_stream();
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        stream.request(request).expect("room");
        stream.into_responses()
    }

    /// Everything that comes before the hub has no more to do.
    fn taken(&mut self, responses: &mut WatchResponses) -> Vec<WatchResponse> {
        let mut taken = Vec::new();
        // The task yields between slices; a few turns finish these small amounts of work.
        for _ in 0..20 {
            assert!((&mut self.task).now_or_never().is_none(), "the task goes on");
            while let Some(Some(response)) = responses.next().now_or_never() {
                taken.push(response);
            }
        }
        taken
    }
}

fn put(key: &'static str, value: &'static str) -> Command {
    Command::Put(put_op(key, value))
}

fn put_op(key: &'static str, value: &'static str) -> Put {
    Put {
        key: key.into(),
        value: value.into(),
        ..Put::default()
    }
}

fn delete(key: &'static str) -> DeleteRange {
    DeleteRange {
        key: key.into(),
        ..DeleteRange::default()
    }
}

fn events(responses: &[WatchResponse]) -> Vec<Bytes> {
    responses
        .iter()
        .flat_map(|response| response.events.clone())
        .collect()
}

fn changes(setup: &mut Setup) {
    setup.apply(put("a", "1"));
    setup.apply(put("a", "2"));
    setup.apply(Command::Txn(Txn {
        success: vec![
            TxnOp::Put(put_op("b", "3")),
            TxnOp::DeleteRange(delete("a")),
            TxnOp::Put(put_op("c", "4")),
        ],
        ..Txn::default()
    }));
    setup.apply(Command::DeleteRange(delete("c")));
    setup.apply(put("a", "5"));
}

#[tokio::test(start_paused = true)]
async fn ring_overlay_and_tables_give_the_same_events() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let mut setup = Setup::open(directory.path());
    let mut level = setup.watch(0);
    assert!(setup.taken(&mut level)[0].created);
    changes(&mut setup);
    let from_ring = setup.taken(&mut level);
    assert_eq!(from_ring.len(), 5, "one response per revision");
    let mut late = setup.watch(1);
    let from_overlay = setup.taken(&mut late);
    assert_eq!(events(&from_overlay), events(&from_ring));
    assert_eq!(from_overlay[1].header.map(|header| header.raft_term), Some(3));

    setup.checkpointer.step(true).expect("a scratch directory");
    drop(setup);
    let mut setup = Setup::open(directory.path());
    let mut late = setup.watch(1);
    let from_tables = setup.taken(&mut late);
    assert_eq!(events(&from_tables), events(&from_ring));
    setup.apply(put("a", "6"));
    assert_eq!(
        setup.taken(&mut late).len(),
        1,
        "level with the ring of the new process"
    );
}

#[tokio::test(start_paused = true)]
async fn compacted_history_ends_watchers_below_it_and_serves_the_others() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let mut setup = Setup::open(directory.path());
    changes(&mut setup);
    // Revision 5 is the tombstone of "c".
    setup.apply(Command::Compact { revision: 5 });
    for finished in [false, true] {
        let mut at = setup.watch(5);
        let served = setup.taken(&mut at);
        assert_eq!(events(&served).len(), 2, "the tombstone and what follows");
        let mut below = setup.watch(4);
        let ended = setup.taken(&mut below);
        let [created, cancelled] = &ended[..] else {
            panic!("two replies expected: {ended:?}")
        };
        assert!(created.created && cancelled.canceled);
        assert_eq!(cancelled.compact_revision, 5);
        if !finished {
            while setup
                .checkpointer
                .step(true)
                .expect("a scratch directory")
                .compaction_pending
            {}
        }
    }
}
