//! Everything that can happen to a hub, as data: a property test and the fuzzer choose from the same.

use bytes::Bytes;
use kelson_proto::etcdserverpb::WatchCreateRequest;

use super::world::{Change, Chronicle, World};

/// Streams of a played world.
pub(crate) const CLIENTS: usize = 2;

pub(crate) const KEYS: [&str; 4] = ["a", "b", "ba", "c"];

/// (key, range end): single keys, a prefix, an open end, everything, nothing.
pub(crate) const RANGES: [(&str, &[u8]); 7] = [
    ("a", b""),
    ("ba", b""),
    ("b", b"c"),
    ("b", &[0]),
    ("", &[0]),
    ("a", b"z"),
    ("c", b"b"),
];

/// A put or a delete, by the number of its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) key: usize,
    pub(crate) put: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Apply(Vec<Write>),
    Create {
        client: usize,
        range: usize,
        start: Start,
        filters: Vec<i32>,
        prev_kv: bool,
        progress_notify: bool,
        watch_id: i64,
    },
    Cancel {
        client: usize,
        nth: usize,
    },
    Take {
        client: usize,
        count: usize,
    },
    /// At so many revisions before the present one.
    Compact(u64),
    Progress(usize),
    Tick(usize),
    ReadRing(usize),
    ReadHistory,
    InstallSnapshot(Vec<Vec<Write>>),
    Reopen(usize),
}

/// Where a watcher starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    Now,
    Back(i64),
    Ahead(i64),
    FromCompacted(i64),
}

/// A world to which steps happen.
pub(crate) struct Play {
    world: World,
    /// Values written so far: each is another.
    values: u64,
}

impl Play {
    pub(crate) fn new(store: Chronicle, responses_max: usize) -> Self {
        Self {
            world: World::new(store, CLIENTS, responses_max),
            values: 0,
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Apply(writes) => {
                let changes = self.changes(&writes);
                self.world.store.apply(&changes);
            }
            Step::Create {
                client,
                range,
                start,
                filters,
                prev_kv,
                progress_notify,
                watch_id,
            } => {
                let (key, range_end) = RANGES[range];
                let create = WatchCreateRequest {
                    key: Bytes::from_static(key.as_bytes()),
                    range_end: Bytes::from_static(range_end),
                    start_revision: self.start_revision(start),
                    progress_notify,
                    filters,
                    prev_kv,
                    watch_id,
                    fragment: false,
                };
                self.world.create(client, create);
            }
            Step::Cancel { client, nth } => self.world.cancel_nth(client, nth),
            Step::Take { client, count } => (0..count).for_each(|_| drop(self.world.take(client))),
            Step::Compact(back) => {
                let revision = self.world.store.revision().saturating_sub(back);
                self.world.store.compact(revision);
            }
            Step::Progress(client) => self.world.progress(client),
            Step::Tick(client) => self.world.tick(client),
            Step::ReadRing(batches) => self.world.read_ring(batches),
            Step::ReadHistory => {
                self.world.read_history();
            }
            Step::InstallSnapshot(revisions) => {
                let revisions: Vec<_> = revisions.iter().map(|writes| self.changes(writes)).collect();
                self.world.store.install_snapshot(&revisions);
            }
            Step::Reopen(client) => self.world.reopen(client),
        }
        self.world.hub.assert_consistent();
    }

    /// Everybody reads to the end, and must have got everything.
    pub(crate) fn end(mut self) {
        self.world.settle_and_check();
    }

    fn changes(&mut self, writes: &[Write]) -> Vec<Change> {
        let change = |write: &Write| {
            self.values += 1;
            if write.put {
                Change::Put(KEYS[write.key], self.values.to_string())
            } else {
                Change::Delete(KEYS[write.key])
            }
        };
        writes.iter().map(change).collect()
    }

    fn start_revision(&self, start: Start) -> i64 {
        let revision = i64::try_from(self.world.store.revision()).expect("small");
        let compacted = i64::try_from(self.world.compacted()).expect("small");
        match start {
            Start::Now => 0,
            Start::Back(by) => revision - by,
            Start::Ahead(by) => revision + by,
            Start::FromCompacted(by) => compacted + by,
        }
    }
}
