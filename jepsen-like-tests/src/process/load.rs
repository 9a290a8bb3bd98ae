//! What clients do: eight kinds of work, each aimed at a promise, all on one store so that they meet in one order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::client::Client;
use super::leases;
use crate::check::cycle::{self, PREFIX};
use crate::history::{
    Blob, Compare, CompareResult, CompareTarget, DeleteRange, KeyValue, Put, Range, RangeResponse, Request,
    SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};

/// Kinds of work, in the order clients take them up.
pub const KINDS: &[&str] = &[
    "register",
    "append",
    "lease",
    "txn",
    "kubernetes",
    "set",
    "lock",
    "queue",
];

/// Rest between two calls of a client, in ms: keeps a history at a size that is checked in seconds.
const REST_MS: std::ops::Range<u64> = 4..16;

/// Lists to append to.
const LISTS: usize = 4;

/// What all clients share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Set when the load is to end.
    pub stop: AtomicBool,
    /// Newest revision that any client has seen.
    pub revision: AtomicI64,
    /// Newest compaction that any client knows to have succeeded.
    pub compacted: AtomicI64,
    /// Pause between two compactions, in ms.
    pub compact_every_ms: Arc<AtomicU64>,
    /// Compactions that have succeeded.
    pub compactions: Arc<AtomicU64>,
}

impl Shared {
    /// Whether the load goes on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Notes a revision that was seen.
    pub fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }
}

/// Runs one client until the load is to end.
pub async fn run(kind: &'static str, mut client: Client, shared: Arc<Shared>) {
    let mut state = State::default();
    while shared.goes_on() {
        match kind {
            "register" => register(&mut client, &shared, &mut state).await,
            "append" => append(&mut client).await,
            "txn" => transaction(&mut client, &shared, &mut state).await,
            "kubernetes" => kubernetes(&mut client, &shared, &mut state).await,
            "set" => set(&mut client, &mut state).await,
            "queue" => queue(&mut client).await,
            "lease" => leases::lease(&mut client, &shared).await,
            "lock" => leases::lock(&mut client, &shared).await,
            other => unreachable!("{other} is no kind of work"),
        }
        let rest = client.rng.random_range(REST_MS);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
}

/// What a client remembers between two steps.
#[derive(Debug, Default)]
struct State {
    last: Option<KeyValue>,
    keys: Vec<String>,
}

/// Gives up history, at whatever pace the nemesis asks for.
pub async fn compactor(mut client: Client, shared: Arc<Shared>) {
    while shared.goes_on() {
        let pause = shared.compact_every_ms.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let range = Range {
            key: "compact".into(),
            count_only: true,
            ..Range::default()
        };
        let Some(found) = client.range(range).await else {
            continue;
        };
        shared.saw(found.header.revision);
        // Now and then one that must be refused: already compacted, or in the future.
        let back = match client.rng.random_range(0..20) {
            0 => -1_000_000,
            1 => found.header.revision - shared.compacted.load(Ordering::Relaxed),
            _ => client.rng.random_range(0..200),
        };
        let revision = found.header.revision - back;
        if revision > 0 && client.compact(revision).await {
            shared.compacted.fetch_max(revision, Ordering::Relaxed);
            shared.compactions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Single keys: reads of both kinds, puts, compare-and-swap by value, deletes, and reads of the past.
async fn register(client: &mut Client, shared: &Shared, state: &mut State) {
    let key = format!("r/{}", client.rng.random_range(0..6));
    match client.rng.random_range(0..100) {
        0..30 => {
            let found = client.get(&key).await;
            remember(shared, state, found);
        }
        30..40 => {
            let range = Range {
                key: key.as_str().into(),
                serializable: true,
                ..Range::default()
            };
            client.range(range).await;
        }
        40..60 => {
            let value = client.value();
            client.put(&key, value).await;
        }
        60..85 => {
            let Some(last) = state.last.take() else {
                let found = client.get(&key).await;
                return remember(shared, state, found);
            };
            let value = client.value();
            let txn = Txn {
                compare: vec![equal(&last.key, CompareTarget::Value(last.value))],
                success: vec![put_op(&last.key, value)],
                failure: vec![range_op(&last.key)],
            };
            client.txn(txn).await;
        }
        85..90 => {
            client.delete(&key).await;
        }
        _ => past(client, shared).await,
    }
}

/// A read at a revision that is compacted, just not, somewhere between, the newest, or in the future.
async fn past(client: &mut Client, shared: &Shared) {
    let newest = shared.revision.load(Ordering::Relaxed);
    let compacted = shared.compacted.load(Ordering::Relaxed);
    let between = client
        .rng
        .random_range(compacted.min(newest)..=newest.max(compacted));
    let candidates = [
        compacted - 1,
        compacted,
        compacted + 1,
        between,
        newest,
        newest + 1_000_000,
    ];
    let revision = *candidates.choose(&mut client.rng).expect("not empty");
    let prefixes = ["r/", "t/", PREFIX, "s/"];
    let prefix = *prefixes.choose(&mut client.rng).expect("not empty");
    let range = Range {
        revision: revision.max(1),
        limit: client.rng.random_range(0..10),
        serializable: client.rng.random_bool(0.3),
        ..prefixed(prefix)
    };
    client.range(range).await;
}

fn remember(shared: &Shared, state: &mut State, found: Option<RangeResponse>) {
    let Some(found) = found else { return };
    shared.saw(found.header.revision);
    state.last = found.kvs.into_iter().next();
}

/// Lists that only grow. An append names the revisions it has read and goes to one list or to two at once; reads take
/// three at once. What the cycle checker judges.
async fn append(client: &mut Client) {
    let mut lists: Vec<Blob> = (0..LISTS).map(|list| format!("{PREFIX}{list}").into()).collect();
    lists.shuffle(&mut client.rng);
    let reads = client.rng.random_bool(0.4);
    lists.truncate(if reads { 3 } else { client.rng.random_range(1..=2) });
    let read = Txn {
        success: lists.iter().map(range_op).collect(),
        ..Txn::default()
    };
    let Some(found) = client.txn(read).await.filter(|_| !reads) else {
        return;
    };
    let mut longer = Txn::default();
    for (list, found) in lists.iter().zip(&found.responses) {
        let pair = match found {
            TxnOpResponse::Range(range) => range.kvs.first(),
            _ => None,
        };
        let mut elements = pair.map_or_else(Vec::new, |pair| cycle::decode(&pair.value));
        elements.push(client.value().text());
        let known = pair.map_or(0, |pair| pair.mod_revision);
        longer.compare.push(equal(list, CompareTarget::Mod(known)));
        longer.success.push(put_op(list, cycle::encode(&elements)));
        longer.failure.push(range_op(list));
    }
    client.txn(longer).await;
}

/// Several keys in one transaction: compares of all kinds, writes, reads before and after them, deletes, one level of
/// nesting, and now and then a read that cannot be answered, for which all of it must not happen.
async fn transaction(client: &mut Client, shared: &Shared, state: &mut State) {
    let mut keys: Vec<Blob> = (0..8).map(|key| format!("t/{key}").into()).collect();
    let count = client.rng.random_range(1..=4);
    let chosen: Vec<Blob> = (0..count)
        .map(|_| keys.swap_remove(client.rng.random_range(0..keys.len())))
        .collect();
    let compare = match &state.last {
        Some(last) => vec![compare_of(client, last)],
        None => Vec::new(),
    };
    let mut success = Vec::new();
    if client.rng.random_bool(0.5) {
        success.push(TxnOp::Range(prefixed("t/")));
    }
    for key in &chosen {
        let value = client.value();
        success.push(match client.rng.random_range(0..10) {
            0 => TxnOp::DeleteRange(DeleteRange {
                key: key.clone(),
                prev_kv: true,
                ..DeleteRange::default()
            }),
            1..3 => TxnOp::Txn(Txn {
                compare: vec![equal(key, CompareTarget::Version(0))],
                success: vec![put_op(key, value)],
                failure: vec![range_op(key)],
            }),
            _ => TxnOp::Put(Put {
                key: key.clone(),
                value,
                prev_kv: true,
                ..Put::default()
            }),
        });
    }
    let impossible = if client.rng.random_bool(0.05) {
        1_000_000
    } else {
        0
    };
    success.push(TxnOp::Range(Range {
        revision: impossible * shared.revision.load(Ordering::Relaxed).max(1),
        ..prefixed("t/")
    }));
    let failure = chosen.iter().map(range_op).collect();
    let read = chosen[0].clone();
    client
        .txn(Txn {
            compare,
            success,
            failure,
        })
        .await;
    if client.rng.random_bool(0.5)
        && let Some(found) = client.get(&read.text()).await
    {
        state.last = found.kvs.into_iter().next();
    }
}

fn compare_of(client: &mut Client, last: &KeyValue) -> Compare {
    let results = [
        CompareResult::Equal,
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ];
    let targets = [
        CompareTarget::Version(last.version),
        CompareTarget::Create(last.create_revision),
        CompareTarget::Mod(last.mod_revision),
        CompareTarget::Value(last.value.clone()),
        CompareTarget::Lease(last.lease),
    ];
    Compare {
        key: last.key.clone(),
        range_end: Blob::default(),
        result: *results.choose(&mut client.rng).expect("not empty"),
        target: targets.choose(&mut client.rng).expect("not empty").clone(),
    }
}

/// What an API server does: create if absent, update if unchanged, delete if unchanged, list in pages at one revision.
async fn kubernetes(client: &mut Client, shared: &Shared, state: &mut State) {
    let key: Blob = format!(
        "/registry/pods/ns{}/p{}",
        client.rng.random_range(0..2),
        client.rng.random_range(0..12)
    )
    .into();
    let last = state.last.take().filter(|last| last.key == key);
    let known = last.map_or(0, |last| last.mod_revision);
    match client.rng.random_range(0..10) {
        0..2 => pages(client, shared).await,
        2..4 => {
            let found = client.get(&key.text()).await;
            remember(shared, state, found);
        }
        4 => {
            let txn = Txn {
                compare: vec![equal(&key, CompareTarget::Mod(known))],
                success: vec![TxnOp::DeleteRange(DeleteRange {
                    key: key.clone(),
                    ..DeleteRange::default()
                })],
                failure: vec![range_op(&key)],
            };
            keep(state, client.txn(txn).await);
        }
        _ => {
            let value = client.value();
            let txn = Txn {
                compare: vec![equal(&key, CompareTarget::Mod(known))],
                success: vec![put_op(&key, value)],
                failure: vec![range_op(&key)],
            };
            keep(state, client.txn(txn).await);
        }
    }
}

fn keep(state: &mut State, found: Option<crate::history::TxnResponse>) {
    if let Some(TxnOpResponse::Range(range)) = found.and_then(|found| found.responses.into_iter().next()) {
        state.last = range.kvs.into_iter().next();
    }
}

/// A list in pages: all of them at the revision of the first.
async fn pages(client: &mut Client, shared: &Shared) {
    let mut page = Range {
        limit: client.rng.random_range(1..8),
        ..prefixed("/registry/")
    };
    loop {
        let Some(found) = client.range(page.clone()).await else {
            return;
        };
        shared.saw(found.header.revision);
        if page.revision == 0 {
            page.revision = found.header.revision;
        }
        let Some(last) = found.kvs.last().filter(|_| found.more) else {
            return;
        };
        let mut after = last.key.as_slice().to_vec();
        after.push(0);
        page.key = after.into();
        if !shared.goes_on() {
            return;
        }
    }
}

/// Elements that are added once each, and lists of all.
async fn set(client: &mut Client, state: &mut State) {
    match client.rng.random_range(0..10) {
        0..6 => {
            let value = client.value();
            let key: Blob = format!("s/{value}").into();
            let txn = Txn {
                compare: vec![equal(&key, CompareTarget::Create(0))],
                success: vec![put_op(&key, value)],
                failure: Vec::new(),
            };
            state.keys.push(key.text());
            client.txn(txn).await;
        }
        6..8 => {
            let range = Range {
                keys_only: client.rng.random_bool(0.3),
                count_only: client.rng.random_bool(0.3),
                limit: client.rng.random_range(0..50),
                sort_order: SortOrder::Descend,
                sort_target: SortTarget::Mod,
                ..prefixed("s/")
            };
            client.range(range).await;
        }
        // Keeps the set small.
        _ => {
            while state.keys.len() > 10 {
                let key = state.keys.remove(0);
                client.delete(&key).await;
            }
        }
    }
}

/// First in, first out, by create revision; whoever deletes an element has taken it.
async fn queue(client: &mut Client) {
    if client.rng.random_bool(0.5) {
        let value = client.value();
        client.put(&format!("q/{value}"), value).await;
        return;
    }
    let oldest = Range {
        limit: 1,
        sort_order: SortOrder::Ascend,
        sort_target: SortTarget::Create,
        ..prefixed("q/")
    };
    let Some(found) = client.range(oldest).await else {
        return;
    };
    let Some(first) = found.kvs.first() else { return };
    let txn = Txn {
        compare: vec![equal(&first.key, CompareTarget::Mod(first.mod_revision))],
        success: vec![TxnOp::DeleteRange(DeleteRange {
            key: first.key.clone(),
            prev_kv: true,
            ..DeleteRange::default()
        })],
        failure: Vec::new(),
    };
    client.txn(txn).await;
}

/// All keys that begin so. The prefix must not end in 0xff.
#[must_use]
pub fn prefixed(prefix: &str) -> Range {
    Range {
        key: prefix.into(),
        range_end: after(prefix),
        ..Range::default()
    }
}

/// The first key after all that begin so.
#[must_use]
pub fn after(prefix: &str) -> Blob {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("prefixes are not empty") += 1;
    end.into()
}

pub(super) fn equal(key: &Blob, target: CompareTarget) -> Compare {
    Compare {
        key: key.clone(),
        range_end: Blob::default(),
        result: CompareResult::Equal,
        target,
    }
}

pub(super) fn put_op(key: &Blob, value: Blob) -> TxnOp {
    TxnOp::Put(Put {
        key: key.clone(),
        value,
        ..Put::default()
    })
}

pub(super) fn range_op(key: &Blob) -> TxnOp {
    TxnOp::Range(Range {
        key: key.clone(),
        ..Range::default()
    })
}

/// Reads everything at one member, as the last word of an episode.
pub async fn read_all(client: &mut Client, member: usize) -> Option<RangeResponse> {
    let everything = Range {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Range::default()
    };
    match client.call_at(member, Request::Range(everything)).await? {
        crate::history::Response::Range(found) => Some(found),
        _ => None,
    }
}
