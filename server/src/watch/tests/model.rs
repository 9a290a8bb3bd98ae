//! Random interleavings of everything that can happen to a hub; the world checks each response.

use proptest::prelude::*;

use crate::watch::testing::steps::{CLIENTS, KEYS, Play, RANGES, Start, Step, Write};
use crate::watch::testing::world::Chronicle;

fn changes() -> impl Strategy<Value = Vec<Write>> {
    let write = (0..KEYS.len(), prop::bool::weighted(0.7)).prop_map(|(key, put)| Write { key, put });
    prop::collection::vec(write, 1..4)
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
        0..CLIENTS,
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
        1 => (0..CLIENTS, 0..8usize).prop_map(|(client, nth)| Step::Cancel { client, nth }),
        5 => (0..CLIENTS, 1..5usize).prop_map(|(client, count)| Step::Take { client, count }),
        1 => (0..8u64).prop_map(Step::Compact),
        2 => (0..CLIENTS).prop_map(Step::Progress),
        1 => (0..CLIENTS).prop_map(Step::Tick),
        5 => (1..5usize).prop_map(Step::ReadRing),
        5 => Just(Step::ReadHistory),
        1 => prop::collection::vec(changes(), 0..3).prop_map(Step::InstallSnapshot),
        1 => (0..CLIENTS).prop_map(Step::Reopen),
    ]
}

proptest! {
    #[test]
    fn every_interleaving_keeps_the_nine_words(
        steps in prop::collection::vec(step(), 1..150),
        responses_max in 1..5usize,
        bite_revisions in 1..6usize,
        ring_bytes in 100..2000usize,
    ) {
        let mut play = Play::new(Chronicle::new(bite_revisions, ring_bytes), responses_max);
        for step in steps {
            play.step(step);
        }
        play.end();
    }
}
