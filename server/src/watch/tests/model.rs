//! Random interleavings of everything that can happen to a hub; [`World`] checks each response.

use bytes::Bytes;
use kelson_proto::etcdserverpb::WatchCreateRequest;
use proptest::prelude::*;

use super::world::{Change, Chronicle, World};

const KEYS: [&str; 4] = ["a", "b", "ba", "c"];

/// (key, range end): single keys, a prefix, an open end, everything, nothing.
const RANGES: [(&str, &[u8]); 7] = [
    ("a", b""),
    ("ba", b""),
    ("b", b"c"),
    ("b", &[0]),
    ("", &[0]),
    ("a", b"z"),
    ("c", b"b"),
];

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(usize, bool)>),
    Create {
        client: usize,
        range: usize,
        start: Start,
        filters: Vec<i32>,
        prev_kv: bool,
        progress_notify: bool,
        watch_id: i64,
    },
    Cancel(usize, usize),
    Take(usize, usize),
    Compact(u64),
    Progress(usize),
    Tick(usize),
    ReadRing(usize),
    ReadHistory,
    InstallSnapshot(Vec<Vec<(usize, bool)>>),
    Reopen(usize),
}

#[derive(Clone, Copy, Debug)]
enum Start {
    Now,
    Back(i64),
    Ahead(i64),
    FromCompacted(i64),
}

fn changes() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..KEYS.len(), prop::bool::weighted(0.7)), 1..4)
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        3 => Just(Start::Now),
        3 => (0..30i64).prop_map(Start::Back),
        1 => (1..6i64).prop_map(Start::Ahead),
        2 => (-2..2i64).prop_map(Start::FromCompacted),
    ]
}

fn create() -> impl Strategy<Value = Step> {
    (
        0..2usize,
        0..RANGES.len(),
        start(),
        prop::collection::vec(0..3i32, 0..2),
        any::<(bool, bool)>(),
        prop_oneof![4 => Just(0i64), 1 => -2..4i64],
    )
        .prop_map(
            |(client, range, start, filters, (prev_kv, progress_notify), watch_id)| Step::Create {
                client,
                range,
                start,
                filters,
                prev_kv,
                progress_notify,
                watch_id,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => changes().prop_map(Step::Apply),
        4 => create(),
        1 => (0..2usize, 0..8usize).prop_map(|(client, nth)| Step::Cancel(client, nth)),
        5 => (0..2usize, 1..5usize).prop_map(|(client, count)| Step::Take(client, count)),
        1 => (0..8u64).prop_map(Step::Compact),
        2 => (0..2usize).prop_map(Step::Progress),
        1 => (0..2usize).prop_map(Step::Tick),
        5 => (1..5usize).prop_map(Step::ReadRing),
        5 => Just(Step::ReadHistory),
        1 => prop::collection::vec(changes(), 0..3).prop_map(Step::InstallSnapshot),
        1 => (0..2usize).prop_map(Step::Reopen),
    ]
}

fn named(changes: &[(usize, bool)], counter: &mut u64) -> Vec<Change> {
    let name = |(key, put): &(usize, bool)| {
        *counter += 1;
        if *put {
            Change::Put(KEYS[*key], counter.to_string())
        } else {
            Change::Delete(KEYS[*key])
        }
    };
    changes.iter().map(name).collect()
}

fn run(world: &mut World, step: Step, counter: &mut u64) {
    match step {
        Step::Apply(changes) => {
            world.store.apply(&named(&changes, counter));
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
            let revision = i64::try_from(world.store.revision()).expect("small");
            let compacted = i64::try_from(world.compacted()).expect("small");
            let start_revision = match start {
                Start::Now => 0,
                Start::Back(by) => revision - by,
                Start::Ahead(by) => revision + by,
                Start::FromCompacted(by) => compacted + by,
            };
            let (key, range_end) = RANGES[range];
            let create = WatchCreateRequest {
                key: Bytes::from_static(key.as_bytes()),
                range_end: Bytes::from_static(range_end),
                start_revision,
                progress_notify,
                filters,
                prev_kv,
                watch_id,
                fragment: false,
            };
            world.create(client, create);
        }
        Step::Cancel(client, nth) => world.cancel_nth(client, nth),
        Step::Take(client, count) => (0..count).for_each(|_| drop(world.take(client))),
        Step::Compact(back) => {
            let revision = world.store.revision().saturating_sub(back);
            world.store.compact(revision);
        }
        Step::Progress(client) => world.progress(client),
        Step::Tick(client) => world.tick(client),
        Step::ReadRing(batches) => world.read_ring(batches),
        Step::ReadHistory => {
            world.read_history();
        }
        Step::InstallSnapshot(revisions) => {
            let revisions: Vec<_> = revisions.iter().map(|changes| named(changes, counter)).collect();
            world.store.install_snapshot(&revisions);
        }
        Step::Reopen(client) => world.reopen(client),
    }
    world.hub.assert_consistent();
}

proptest! {
    #[test]
    fn every_interleaving_keeps_the_nine_words(
        steps in prop::collection::vec(step(), 1..150),
        responses_max in 1..5usize,
        bite_revisions in 1..6usize,
        ring_bytes in 100..2000usize,
    ) {
        let mut world = World::new(Chronicle::new(bite_revisions, ring_bytes), 2, responses_max);
        let mut counter = 0;
        for step in steps {
            run(&mut world, step, &mut counter);
        }
        world.settle_and_check();
    }
}
