//! What is tried: few keys that differ in awkward ways, revisions drawn by their meaning, nested transactions.
//!
//! Revisions are generated as small codes and made real when the state is known ([`resolve`]), so that compacted, just
//! compacted, available, current and future ones are all common.

use bytes::Bytes;
use kelson_storage::command::*;
use kelson_storage::store::MemberRecord;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{Model, in_range};

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Step {
    /// One log entry. A `true` sends a second copy of an earlier command along.
    Apply(Vec<(Command, bool)>),
    /// A new leader: the term grows.
    Blank,
    /// A membership entry.
    Membership(Vec<MemberRecord>),
    /// Write behind.
    Checkpoint { durable: bool },
    /// The next bite, if it leaves the database as it is.
    Bite,
    /// The process dies and starts again; what the database lacks comes from the log.
    Restart { session: bool },
    /// A snapshot of the store replaces the store.
    Install,
    /// Read.
    Query(Range),
    /// Read with a transaction.
    QueryTxn(Txn),
    /// Keep a view, to be read later.
    HoldView,
    /// Read the view that was kept.
    QueryHeld(Range),
    /// Read history in bites.
    History { from: i64, bytes: usize },
    /// Hash the history.
    HashKv { revision: i64 },
}

const KEYS: [&[u8]; 6] = [b"a", b"a\0", b"a\xff", b"ab", b"b", b"\xff"];
/// None, and three ids.
const LEASES: [i64; 6] = [0, 0, 0, 1, -7, i64::MAX];
const LEASE_NEVER_GRANTED: i64 = 99;

fn key() -> impl Strategy<Value = Bytes> {
    select(&KEYS[..]).prop_map(Bytes::from_static)
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        6 => Just(Bytes::new()),
        2 => Just(Bytes::from_static(b"\0")),
        4 => key(),
        1 => Just(Bytes::from_static(b"c")),
    ]
}

fn span() -> impl Strategy<Value = (Bytes, Bytes)> {
    prop_oneof![
        4 => (key(), range_end()),
        1 => Just((Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    select(vec![
        "",
        "1",
        "2",
        "a longer value, so that bites of history differ",
    ])
    .prop_map(Bytes::from)
}

/// See [`resolve_revision`].
fn revision() -> impl Strategy<Value = i64> {
    0..17_i64
}

/// 0 stays 0; others become -1, around the compact revision, in between, around the current one, or compacted.
fn resolve_revision(code: i64, model: &Model) -> i64 {
    let (present, compacted) = (model.revision as i64, model.compacted);
    match code {
        0 => 0,
        1 => -1,
        2 => compacted - 1,
        3 => compacted,
        4 => compacted + 1,
        5..=8 => compacted + (present - compacted) * (code - 4) / 5,
        9 => present,
        10 => present + 1,
        11 => present - 1,
        _ => compacted * (code - 11) / 6,
    }
}

fn put() -> impl Strategy<Value = Put> {
    let flag = || prop::bool::weighted(0.2);
    (
        key(),
        value(),
        select(&LEASES[..]),
        prop::bool::ANY,
        flag(),
        flag(),
    )
        .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        })
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (span(), prop::bool::ANY).prop_map(|((key, range_end), prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = Range> {
    use SortOrder::*;
    use SortTarget::*;
    let filter = || prop_oneof![6 => Just(0), 1 => revision()];
    (
        (
            span(),
            -1..5_i64,
            prop_oneof![3 => Just(0), 5 => revision(), 1 => 12..17_i64],
        ),
        select(vec![None, None, Ascend, Descend]),
        select(vec![Key, Key, Version, Create, Mod, Value]),
        (prop::bool::weighted(0.3), prop::bool::weighted(0.2)),
        [filter(), filter(), filter(), filter()],
    )
        .prop_map(
            |(((key, range_end), limit, revision), order, target, flags, filters)| Range {
                key,
                range_end,
                limit,
                revision,
                sort_order: order,
                sort_target: target,
                keys_only: flags.0,
                count_only: flags.1,
                min_mod_revision: filters[0],
                max_mod_revision: filters[1],
                min_create_revision: filters[2],
                max_create_revision: filters[3],
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    use CompareResult::*;
    let operand = prop_oneof![
        (0..3_i64).prop_map(CompareOperand::Version),
        revision().prop_map(CompareOperand::Create),
        revision().prop_map(CompareOperand::Mod),
        value().prop_map(CompareOperand::Value),
        select(&LEASES[..]).prop_map(CompareOperand::Lease),
        Just(CompareOperand::Unknown),
    ];
    let result = select(vec![Equal, Equal, Greater, Less, NotEqual, Always]);
    (span(), result, operand).prop_map(|((key, range_end), result, operand)| Compare {
        key,
        range_end,
        result,
        operand,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        2 => range().prop_map(TxnOp::Range),
        3 => put().prop_map(TxnOp::Put),
        2 => delete().prop_map(TxnOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(3, 12, 2, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..2)).prop_map(
            |(compares, success, failure)| {
                TxnOp::Txn(Txn {
                    compares,
                    success,
                    failure,
                })
            },
        )
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4)).prop_map(|(compares, success, failure)| {
        Txn {
            compares,
            success,
            failure,
        }
    })
}

/// A transaction whose first write could be done, and whose last operation is refused: nothing of it may stay. Chance
/// alone makes too few of them to tell a store that keeps the first write.
fn refused_txn() -> impl Strategy<Value = Txn> {
    (0..KEYS.len(), 1..KEYS.len(), value(), 0..3).prop_map(|(first, step, value, cause)| {
        let first_key = Bytes::from_static(KEYS[first]);
        let key = Bytes::from_static(KEYS[(first + step) % KEYS.len()]);
        let refused = match cause {
            0 => TxnOp::Put(Put {
                key,
                lease: LEASE_NEVER_GRANTED,
                ..Put::default()
            }),
            // Refused unless the key exists.
            1 => TxnOp::Put(Put {
                key,
                ignore_value: true,
                ..Put::default()
            }),
            // Of the future: see [`resolve_revision`].
            _ => TxnOp::Range(Range {
                key,
                revision: 10,
                ..Range::default()
            }),
        };
        let first = Put {
            key: first_key,
            value,
            ..Put::default()
        };
        Txn {
            compares: Vec::new(),
            success: vec![TxnOp::Put(first), refused],
            failure: Vec::new(),
        }
    })
}

fn read_txn() -> impl Strategy<Value = Txn> {
    let reads = || vec(range().prop_map(TxnOp::Range), 0..3);
    (vec(compare(), 0..3), reads(), reads()).prop_map(|(compares, success, failure)| Txn {
        compares,
        success,
        failure,
    })
}

fn alarm() -> impl Strategy<Value = Command> {
    use AlarmAction::*;
    // Deactivations are common, or else most commands would meet an alarm.
    let action = select(vec![Get, Activate, Deactivate, Deactivate, Deactivate]);
    let kind = select(vec![AlarmKind::None, AlarmKind::NoSpace, AlarmKind::Corrupt]);
    (action, 0..2_u64, kind).prop_map(|(action, member, alarm)| Command::Alarm {
        action,
        member,
        alarm,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let expiry = prop_oneof![Just(None), (1..3_u64).prop_map(Some)];
    let lease = || select(&LEASES[3..]);
    prop_oneof![
        20 => put().prop_map(Command::Put),
        8 => delete().prop_map(Command::DeleteRange),
        20 => txn().prop_map(Command::Txn),
        2 => refused_txn().prop_map(Command::Txn),
        7 => revision().prop_map(|revision| Command::Compact { revision }),
        5 => (lease(), select(vec![2, 60, 9_000_000_000, 9_000_000_001])).prop_map(|(id, ttl)| Command::LeaseGrant {
            id,
            ttl,
        }),
        3 => (lease(), expiry).prop_map(|(id, expiry_term)| Command::LeaseRevoke { id, expiry_term }),
        2 => alarm(),
        1 => (0..4_u64, "[a-c]", vec("[a-c]", 0..2)).prop_map(|(id, name, client_urls)| Command::PublishMember {
            id,
            name,
            client_urls,
        }),
        1 => "3\\.[5-8]\\.0".prop_map(|version| Command::ClusterVersion { version }),
    ]
}

fn members() -> impl Strategy<Value = Vec<MemberRecord>> {
    vec((1..4_u64, "[a-c]", any::<bool>()), 1..3).prop_map(|mut members| {
        members.sort();
        members.dedup_by_key(|(id, ..)| *id);
        let member = |(id, url, is_learner)| MemberRecord {
            id,
            peer_urls: vec![url],
            is_learner,
            ..MemberRecord::default()
        };
        members.into_iter().map(member).collect()
    })
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => vec((command(), prop::bool::weighted(0.1)), 1..6).prop_map(Step::Apply),
        1 => Just(Step::Blank),
        1 => members().prop_map(Step::Membership),
        6 => any::<bool>().prop_map(|durable| Step::Checkpoint { durable }),
        2 => Just(Step::Bite),
        1 => any::<bool>().prop_map(|session| Step::Restart { session }),
        1 => Just(Step::Install),
        10 => range().prop_map(Step::Query),
        3 => read_txn().prop_map(Step::QueryTxn),
        2 => Just(Step::HoldView),
        4 => range().prop_map(Step::QueryHeld),
        3 => (revision(), 0..400_usize).prop_map(|(from, bytes)| Step::History { from, bytes }),
        2 => revision().prop_map(|revision| Step::HashKv { revision }),
    ]
}

/// Makes the codes in a step real.
pub fn resolve(step: &mut Step, model: &Model) {
    match step {
        Step::Apply(commands) => commands.iter_mut().for_each(|(command, _)| match command {
            Command::Txn(txn) => resolve_txn(txn, model),
            Command::Compact { revision } => *revision = resolve_revision(*revision, model),
            _ => {}
        }),
        Step::Query(range) | Step::QueryHeld(range) => resolve_range(range, model),
        Step::QueryTxn(txn) => resolve_txn(txn, model),
        Step::History { from: revision, .. } | Step::HashKv { revision } => {
            *revision = resolve_revision(*revision, model);
        }
        Step::Blank | Step::Membership(_) | Step::Checkpoint { .. } | Step::Bite | Step::Restart { .. } => {}
        Step::Install | Step::HoldView => {}
    }
}

fn resolve_range(range: &mut Range, model: &Model) {
    for revision in [
        &mut range.revision,
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        *revision = resolve_revision(*revision, model);
    }
}

fn resolve_txn(txn: &mut Txn, model: &Model) {
    for compare in &mut txn.compares {
        if let CompareOperand::Create(revision) | CompareOperand::Mod(revision) = &mut compare.operand {
            *revision = resolve_revision(*revision, model);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match op {
            TxnOp::Range(range) => resolve_range(range, model),
            TxnOp::Txn(txn) => resolve_txn(txn, model),
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => {}
        }
    }
}

/// Whether proposers let a transaction through: API specification 5.5, for both branches.
pub fn is_legal(txn: &Txn) -> bool {
    changes(&txn.success).is_some() && changes(&txn.failure).is_some()
}

/// Keys put and ranges deleted by a list of operations.
type Changes = (Vec<Bytes>, Vec<(Bytes, Bytes)>);

/// None if a key is given twice.
fn changes(ops: &[TxnOp]) -> Option<Changes> {
    let (mut puts, mut deletes): Changes = Default::default();
    // In this check a delete of everything from a key on is an inverted interval: it matches nothing.
    let is_deleted = |key: &Bytes, deletes: &[(Bytes, Bytes)]| {
        deletes
            .iter()
            .any(|(start, end)| **end != b"\0"[..] && in_range(key, start, end))
    };
    for op in ops {
        if let TxnOp::DeleteRange(delete) = op {
            deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for op in ops {
        if let TxnOp::Txn(nested) = op {
            let (then_puts, then_deletes) = changes(&nested.success)?;
            let (else_puts, else_deletes) = changes(&nested.failure)?;
            let taken = |key: &Bytes| puts.contains(key) || is_deleted(key, &deletes);
            if then_puts.iter().any(taken) || else_puts.iter().any(taken) {
                return None;
            }
            puts.extend(then_puts.into_iter().chain(else_puts));
            deletes.extend(then_deletes.into_iter().chain(else_deletes));
        }
    }
    for op in ops {
        if let TxnOp::Put(put) = op {
            if puts.contains(&put.key) || is_deleted(&put.key, &deletes) {
                return None;
            }
            puts.push(put.key.clone());
        }
    }
    Some((puts, deletes))
}
