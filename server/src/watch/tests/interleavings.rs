//! All interleavings of a few inputs, up to a length at which the order of any two of them matters somewhere.

use bytes::Bytes;
use kelson_proto::etcdserverpb::WatchCreateRequest;

use crate::watch::testing::world::{Chronicle, World};

const STEPS_MAX: u32 = 5;

type Step = fn(&mut World);

const STEPS: [Step; 9] = [
    |world| {
        world.store.put("a", "x");
    },
    |world| {
        world.store.delete("a");
    },
    |world| world.create(0, watch(0)),
    |world| world.create(0, watch(2)),
    |world| drop(world.take(0)),
    |world| world.read_ring(1),
    |world| {
        world.read_history();
    },
    |world| world.progress(0),
    |world| world.store.compact(world.store.revision()),
];

fn watch(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(b"a"),
        start_revision,
        prev_kv: true,
        ..WatchCreateRequest::default()
    }
}

#[test]
fn every_short_sequence_keeps_the_nine_words() {
    let count = STEPS.len();
    for mut code in 0..count.pow(STEPS_MAX) {
        // A queue of one response and a ring of about one revision: everything is full at once.
        let mut world = World::new(Chronicle::new(1, 150), 1, 1);
        world.store.put("a", "first");
        for _ in 0..STEPS_MAX {
            STEPS[code % count](&mut world);
            code /= count;
        }
        world.settle_and_check();
    }
}
