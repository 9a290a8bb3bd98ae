//! The search against hand-written histories, against brute force, and against the order checker.

use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::check;
use crate::check::generate::{self, Shape};
use crate::check::testing::*;
use crate::check::{Evidence, Limits, Verdict, order};
use crate::history::{
    CompareTarget, DeleteRange, KeyValue, Operation, Outcome, Put, Request, Response, Txn, TxnOp,
    TxnOpResponse,
};
use crate::model::Model;

fn judge(evidence: &Evidence<'_>) -> Verdict {
    check(evidence, None, &Limits::default())
}

/// Ids: 0 put a=1, 1 get a, 2 cas a 1->2, 3 get a, 4 cas a 1->3 fails, 5 put a=4 returning what was there, 6 delete a,
/// 7 get a, 8 put a=5, 9 txn {a=6, b=6}, 10 read all, 11 unknown put a=7, 12 get a.
fn good() -> Script {
    let mut script = Script::default();
    script.ok(1, 3, put("a", "1"));
    script.ok(4, 6, get("a"));
    script.ok(7, 9, cas("a", "1", "2"));
    script.ok(10, 12, get("a"));
    script.ok(13, 15, cas("a", "1", "3"));
    let prev_kv = true;
    script.ok(
        16,
        18,
        Request::Put(Put {
            key: "a".into(),
            value: "4".into(),
            prev_kv,
            ..Put::default()
        }),
    );
    script.ok(
        19,
        21,
        Request::DeleteRange(DeleteRange {
            key: "a".into(),
            prev_kv,
            ..DeleteRange::default()
        }),
    );
    script.ok(22, 24, get("a"));
    script.ok(25, 27, put("a", "5"));
    script.ok(
        28,
        30,
        Request::Txn(Txn {
            success: vec![put_op("a", "6"), put_op("b", "6")],
            ..Txn::default()
        }),
    );
    script.ok(31, 33, Request::Range(everything()));
    script.unknown(32, put("a", "7"));
    script.ok(40, 42, get("a"));
    script
}

fn value(script: &mut Script, id: usize) -> &mut KeyValue {
    match script.response(id) {
        Response::Range(response) => &mut response.kvs[0],
        Response::Put(response) => response.prev_kv.as_mut().unwrap(),
        Response::DeleteRange(response) => &mut response.prev_kvs[0],
        other => panic!("no pair in {other:?}"),
    }
}

fn again(script: &mut Script, call: u64, ret: u64, id: usize) {
    let line = script.lines[id].clone();
    script.line(call, ret, line.request, line.outcome);
}

const ILLEGAL: &str = "not linearizable";

const REJECTED: &[Spoiler] = &[
    ("a value nobody wrote", ILLEGAL, |s| {
        value(s, 1).value = "9".into()
    }),
    ("an old value", ILLEGAL, |s| value(s, 3).value = "1".into()),
    ("an old value much later", ILLEGAL, |s| again(s, 34, 35, 3)),
    ("a value from the future", ILLEGAL, |s| {
        value(s, 1).value = "2".into()
    }),
    ("nothing where there is something", ILLEGAL, |s| {
        let empty = s.lines[7].outcome.clone();
        s.lines[3].outcome = empty;
    }),
    ("something where there is nothing", ILLEGAL, |s| {
        let full = s.lines[3].outcome.clone();
        s.lines[7].outcome = full;
    }),
    ("a compare that held must not have", ILLEGAL, |s| {
        let Request::Txn(txn) = &mut s.lines[2].request else {
            unreachable!()
        };
        txn.compare[0].target = CompareTarget::Value("8".into());
    }),
    ("a compare that failed must have held", ILLEGAL, |s| {
        let Request::Txn(txn) = &mut s.lines[4].request else {
            unreachable!()
        };
        txn.compare[0].target = CompareTarget::Value("2".into());
    }),
    ("a compare with a revision that is another", ILLEGAL, |s| {
        let Request::Txn(txn) = &mut s.lines[2].request else {
            unreachable!()
        };
        txn.compare[0].target = CompareTarget::Mod(7);
    }),
    ("a wrong version", ILLEGAL, |s| value(s, 3).version = 1),
    ("a wrong version after an unknown write", ILLEGAL, |s| {
        value(s, 12).version = 4
    }),
    ("a wrong pair before a put", ILLEGAL, |s| {
        value(s, 5).value = "1".into()
    }),
    ("a wrong pair before a delete", ILLEGAL, |s| {
        value(s, 6).version = 1
    }),
    ("half of a transaction", ILLEGAL, |s| {
        let Response::Range(response) = s.response(10) else {
            unreachable!()
        };
        response.kvs.remove(1);
    }),
    ("a delete of nothing that deleted something", ILLEGAL, |s| {
        let response = crate::history::DeleteRangeResponse {
            deleted: 1,
            ..Default::default()
        };
        s.line(22, 24, delete("a"), Outcome::Ok(Response::DeleteRange(response)));
    }),
    ("an unknown write comes and goes", ILLEGAL, |s| {
        again(s, 44, 45, 10)
    }),
    ("an unknown write is seen before it was called", ILLEGAL, |s| {
        let id = s.lines.len() - 1;
        again(s, 28, 30, id);
    }),
    ("a wrong revision is no excuse", ILLEGAL, |s| {
        value(s, 3).value = "1".into();
        value(s, 3).version = 1;
        s.header(3).revision = 2;
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("header revisions are hidden", |s| s.header(3).revision = 77),
    ("overlapping calls may be seen in any order", |s| {
        s.lines[3].call = 5 * MS;
        again(s, 8, 30, 1);
    }),
    ("an unknown write that nobody ever saw", |s| {
        s.lost(20, put("a", "x"));
        s.lost(5, cas("a", "1", "y"));
        s.lost(5, delete("a"));
    }),
    ("a serializable read may be late", |s| {
        again(s, 44, 45, 1);
        let Some(Request::Range(range)) = s.lines.last_mut().map(|line| &mut line.request) else {
            unreachable!()
        };
        range.serializable = true;
    }),
    ("keys with leases are not judged", |s| {
        s.ok(50, 51, grant(5, 10));
        s.ok(52, 53, put_leased("l", "1", 5));
        s.model.apply(&revoke(5)).unwrap();
        s.ok(60, 61, get("l"));
    }),
    ("an unknown transaction may take either branch", |s| {
        let Request::Txn(txn) = cas("a", "7", "8") else {
            unreachable!()
        };
        s.unknown(
            50,
            Request::Txn(Txn {
                failure: vec![put_op("a", "9")],
                ..txn
            }),
        );
        s.ok(52, 53, get("a"));
    }),
    ("a compare with the revision of an unknown write", |s| {
        let Request::Txn(mut txn) = cas("a", "7", "8") else {
            unreachable!()
        };
        txn.compare[0].target = CompareTarget::Mod(8);
        s.ok(52, 53, Request::Txn(txn));
    }),
];

#[test]
fn histories_without_an_order_are_rejected() {
    must_reject(&good(), judge, REJECTED);
}

#[test]
fn histories_with_an_order_are_accepted() {
    must_accept(&good(), judge, ACCEPTED);
}

/// Whether two answers show the same values and versions.
fn same(expected: &Response, actual: &Response) -> bool {
    let shown = |kvs: &[KeyValue]| {
        kvs.iter()
            .map(|pair| (pair.value.clone(), pair.version))
            .collect::<Vec<_>>()
    };
    match (expected, actual) {
        (Response::Range(a), Response::Range(b)) => shown(&a.kvs) == shown(&b.kvs),
        (Response::Put(_), Response::Put(_)) => true,
        (Response::DeleteRange(a), Response::DeleteRange(b)) => a.deleted == b.deleted,
        (Response::Txn(a), Response::Txn(b)) => {
            let pairs = a.responses.iter().zip(&b.responses);
            a.succeeded == b.succeeded
                && pairs.into_iter().all(|pair| match pair {
                    (TxnOpResponse::Range(a), TxnOpResponse::Range(b)) => shown(&a.kvs) == shown(&b.kvs),
                    _ => true,
                })
        }
        _ => false,
    }
}

/// Tries every order of the calls on the model.
fn has_an_order(operations: &[Operation], done: u32, model: &Model) -> bool {
    let left = |index: &usize| done & 1 << index == 0;
    let places: Vec<usize> = (0..operations.len()).filter(left).collect();
    if places.iter().all(|place| operations[*place].is_unknown()) {
        return true;
    }
    let first_return = places
        .iter()
        .map(|place| operations[*place].ret)
        .min()
        .unwrap_or(u64::MAX);
    places.iter().any(|place| {
        let operation = &operations[*place];
        let mut model = model.clone();
        let Ok(applied) = model.apply(&operation.request) else {
            return false;
        };
        let fits = operation
            .response()
            .is_none_or(|response| same(&applied.response, response));
        operation.call <= first_return && fits && has_an_order(operations, done | 1 << place, &model)
    })
}

#[test]
fn the_search_finds_what_brute_force_finds() {
    let mut legal = 0;
    for seed in 0..10_000 {
        let script = generate::tiny(seed);
        let history = script.history();
        let evidence = Evidence::new(&history, &[]);
        let expected = has_an_order(&evidence.operations, 0, &Model::default());
        let verdict = judge(&evidence);
        assert_eq!(
            verdict.is_pass(),
            expected,
            "seed {seed}: {verdict}\n{:#?}",
            evidence.operations
        );
        legal += usize::from(expected);
    }
    assert!(
        (2_000..8_000).contains(&legal),
        "{legal} of 10,000 histories were legal: one-sided"
    );
}

#[test]
fn order_and_search_agree() {
    let shape = Shape {
        operations: 200,
        keys: 4,
        clients: 6,
        unknown: 40,
    };
    for seed in 0..60 {
        let mut script = generate::run(seed, shape);
        assert_eq!(script.judge(judge), Verdict::Pass, "search, seed {seed}");
        assert_eq!(
            script.judge(|evidence| order::check(evidence).0),
            Verdict::Pass,
            "order, seed {seed}"
        );
        if generate::make_one_read_stale(&mut script, &mut StdRng::seed_from_u64(seed)) {
            assert!(script.judge(judge).is_fail(), "search, stale, seed {seed}");
            assert!(
                script.judge(|evidence| order::check(evidence).0).is_fail(),
                "order, stale, seed {seed}"
            );
        }
    }
}

#[test]
fn a_search_that_takes_too_long_is_undecided() {
    let limits = Limits {
        search_steps: 3,
        ..Limits::default()
    };
    assert!(matches!(
        good().judge(|evidence| check(evidence, None, &limits)),
        Verdict::Invalid(_)
    ));
}

/// Not a test of time: it prints how long both judges take for 100,000 calls.
#[test]
#[expect(clippy::disallowed_methods, reason = "measures real time, and only prints it")]
fn a_long_history_is_decided() {
    let operations = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    let shape = Shape {
        operations,
        keys: 20,
        clients: 16,
        unknown: 5,
    };
    let script = generate::run(1, shape);
    let history = script.history();
    let evidence = Evidence::new(&history, &[]);
    let start = Instant::now();
    assert_eq!(judge(&evidence), Verdict::Pass);
    let searched = start.elapsed();
    assert_eq!(order::check(&evidence).0, Verdict::Pass);
    println!(
        "{operations} calls: wgl {searched:?}, order {:?}",
        start.elapsed() - searched
    );
}

#[test]
fn nested_transactions_are_judged() {
    let mut script = Script::default();
    script.ok(1, 2, put("a", "1"));
    let Request::Txn(inner) = cas("a", "1", "2") else {
        unreachable!()
    };
    script.ok(
        3,
        4,
        Request::Txn(Txn {
            success: vec![TxnOp::Txn(inner)],
            ..Txn::default()
        }),
    );
    script.ok(5, 6, get("a"));
    assert_eq!(script.judge(judge), Verdict::Pass);
    value(&mut script, 2).value = "1".into();
    assert!(script.judge(judge).is_fail());
}
