//! Random histories that are right by construction, and random ones that need not be.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::check::testing::*;
use crate::history::{Outcome, Range, Request, Response, StreamEvent, Txn, WatchResponse};

/// How to make a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) operations: usize,
    pub(crate) keys: u32,
    pub(crate) clients: usize,
    /// Unknown calls of a thousand.
    pub(crate) unknown: u32,
}

/// Makes a run: each call takes effect at a moment between its call and its return; values are unique.
pub(crate) fn run(seed: u64, shape: Shape) -> Script {
    let mut random = StdRng::seed_from_u64(seed);
    let mut free = vec![0u64; shape.clients];
    let mut plan = Vec::new();
    for value in 0..shape.operations {
        let client = random.random_range(0..shape.clients);
        let call = free[client] + random.random_range(1..20);
        let effect = call + random.random_range(0..20);
        let ret = effect + random.random_range(0..20);
        free[client] = ret;
        let unknown = random.random_range(0..1000) < shape.unknown;
        // A call whose answer was lost may take effect much later, or never.
        let late = if unknown { random.random_range(0..200) } else { 0 };
        let lost = unknown && random.random_bool(0.5);
        plan.push((effect + late, call, ret, unknown, lost, value));
    }
    plan.sort_unstable();
    let mut script = Script::default();
    for (_, call, ret, unknown, lost, value) in plan {
        let request = request(&mut random, &script, shape.keys, value);
        match (unknown, lost) {
            (true, true) => script.lost(call, request),
            (true, false) => script.unknown(call, request),
            _ => script.ok(call, ret, request),
        };
    }
    observe(&mut script);
    script
}

fn request(random: &mut StdRng, script: &Script, keys: u32, value: usize) -> Request {
    let key = format!("k{}", random.random_range(0..keys));
    let value = format!("v{value}");
    match random.random_range(0..20) {
        0..8 => get(&key),
        8..13 => put(&key, &value),
        13..16 => {
            let now = script.model.pair_at(&blob(&key), script.model.revision);
            let old = now.map_or("none".to_owned(), |pair| pair.value.text());
            cas(&key, if random.random_bool(0.7) { &old } else { "other" }, &value)
        }
        16 => delete(&key),
        17 => Request::Range(Range {
            limit: 3,
            ..everything()
        }),
        _ => {
            let other = format!("k{}", keys + random.random_range(0..keys));
            let ops = vec![put_op(&key, &value), get_op(&key), put_op(&other, &value)];
            Request::Txn(Txn {
                success: ops,
                ..Txn::default()
            })
        }
    }
}

/// An observer who sees everything once it is over.
fn observe(script: &mut Script) {
    let end = script.lines.iter().map(|line| line.ret).max().unwrap_or(0) / MS + 1000;
    let stream = script.stream(end);
    let revision = script.model.revision;
    script.watch(end, stream, 0, all_keys(), revision);
    let mut events = script.model.events_after(1);
    events.iter_mut().for_each(|event| event.prev_kv = None);
    if !events.is_empty() {
        script.on_response(
            end,
            stream,
            WatchResponse {
                header: header(revision),
                events,
                ..WatchResponse::default()
            },
        );
    }
    script.on_stream(end, stream, StreamEvent::ProgressRequest);
}

/// Replaces one read by what it would have seen too long ago; false if there is none to replace.
pub(crate) fn make_one_read_stale(script: &mut Script, random: &mut StdRng) -> bool {
    let start = random.random_range(0..script.lines.len());
    for offset in 0..script.lines.len() {
        let id = (start + offset) % script.lines.len();
        let line = script.lines[id].clone();
        let Outcome::Ok(Response::Range(response)) = line.outcome else {
            continue;
        };
        let Request::Range(range) = &line.request else {
            continue;
        };
        if !range.range_end.is_empty() {
            continue;
        }
        // The newest write of the key that had returned when the read was called.
        let returned = script
            .lines
            .iter()
            .filter_map(|other| match (&other.request, &other.outcome) {
                (Request::Put(put), Outcome::Ok(Response::Put(done))) if put.key == range.key => {
                    (other.ret < line.call).then_some(done.header.revision)
                }
                _ => None,
            });
        let Some(known) = returned.max() else { continue };
        let mut stale = script.model.range(range, known - 1);
        // An unknown delete may explain that a key is gone, for all the search can tell.
        if stale.kvs.is_empty()
            || stale.kvs[0].value == response.kvs.first().cloned().unwrap_or_default().value
        {
            continue;
        }
        stale.header = header(known - 1);
        script.lines[id].outcome = Outcome::Ok(Response::Range(stale));
        return true;
    }
    false
}

/// A few calls on one key with answers that may or may not go together.
pub(crate) fn tiny(seed: u64) -> Script {
    let mut random = StdRng::seed_from_u64(seed);
    let mut script = Script::default();
    let calls = random.random_range(3..=7);
    let mut order: Vec<usize> = (0..calls).collect();
    let spans: Vec<(u64, u64)> = (0..calls)
        .map(|_| {
            let call = random.random_range(0..20);
            (call, call + random.random_range(0..8))
        })
        .collect();
    // Answers come from an order that sometimes respects time and sometimes does not.
    if random.random_bool(0.4) {
        order.sort_by_key(|call| spans[*call].0 + spans[*call].1);
    }
    for call in order {
        let (start, end) = spans[call];
        let value = random.random_range(0..3).to_string();
        let request = match random.random_range(0..8) {
            0..3 => get("k"),
            3..5 => put("k", &value),
            5..7 => cas("k", &random.random_range(0..3).to_string(), &value),
            _ => delete("k"),
        };
        match random.random_range(0..10) {
            0 => script.unknown(start, request),
            1 => script.lost(start, request),
            _ => script.ok(start, end, request),
        };
    }
    if random.random_bool(0.5) {
        let id = random.random_range(0..calls);
        if let Outcome::Ok(Response::Range(response)) = &mut script.lines[id].outcome
            && let Some(pair) = response.kvs.first_mut()
        {
            pair.value = random.random_range(0..3).to_string().into();
        }
    }
    script
}
