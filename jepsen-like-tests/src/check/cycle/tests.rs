//! Lists that lose, double and reorder elements, and cycles of every kind of edge.

use super::{check, encode};
use crate::check::testing::*;
use crate::history::{Outcome, Range, Request, Response, Txn, TxnOp, TxnOpResponse};

fn list(elements: &str) -> String {
    encode(&elements.split(' ').map(str::to_owned).collect::<Vec<_>>()).text()
}

fn append(key: &str, elements: &str) -> Request {
    put(key, &list(elements))
}

fn read_both() -> Request {
    Request::Txn(Txn {
        success: vec![get_op("list/x"), get_op("list/y")],
        ..Txn::default()
    })
}

/// Ids: 0 x=[1], 1 x=[1 2], 2 read x, 3 y=[a], 4 read both, 5 txn {x=[1 2 3], y=[a b]}, 6 read both, 7 read x, 8 read y.
fn good() -> Script {
    let mut script = Script::default();
    script.ok(1, 2, append("list/x", "1"));
    script.ok(3, 4, append("list/x", "1 2"));
    script.ok(5, 6, get("list/x"));
    script.ok(7, 8, append("list/y", "a"));
    script.ok(9, 10, read_both());
    let ops = vec![put_op("list/x", "1 2 3"), put_op("list/y", "a b")];
    script.ok(
        11,
        12,
        Request::Txn(Txn {
            success: ops,
            ..Txn::default()
        }),
    );
    script.ok(13, 14, read_both());
    script.ok(15, 16, get("list/x"));
    script.ok(17, 18, get("list/y"));
    script
}

/// Changes what a read saw.
fn saw(script: &mut Script, id: usize, place: usize, elements: &str) {
    let response = match script.response(id) {
        Response::Range(response) => response,
        Response::Txn(response) => match &mut response.responses[place] {
            TxnOpResponse::Range(response) => response,
            other => panic!("not a read: {other:?}"),
        },
        other => panic!("not a read: {other:?}"),
    };
    if elements.is_empty() {
        response.kvs.clear();
    } else {
        response.kvs[0].value = list(elements).into();
    }
}

const REJECTED: &[Spoiler] = &[
    ("a stale read", "did not see", |s| saw(s, 2, 0, "1")),
    ("a read of nothing", "did not see", |s| saw(s, 2, 0, "")),
    ("the last element is lost", "did not see", |s| {
        saw(s, 6, 0, "1 2");
        saw(s, 7, 0, "1 2");
    }),
    ("an element in the middle is lost", "order", |s| {
        saw(s, 7, 0, "1 3")
    }),
    ("an element is doubled", "twice", |s| saw(s, 7, 0, "1 2 3 1")),
    ("elements are reordered", "order", |s| saw(s, 7, 0, "2 1 3")),
    ("an element nobody appended", "nobody appended", |s| {
        saw(s, 7, 0, "1 2 3 9")
    }),
    ("an update is lost", "lost", |s| {
        s.line(19, 20, append("list/x", "1 2 4"), s.lines[0].outcome.clone());
    }),
    ("half of a transaction is seen", "cycle", |s| saw(s, 6, 1, "a")),
    ("a read from the future", "had returned before", |s| {
        saw(s, 2, 0, "1 2 3");
    }),
    ("two reads that disagree about two lists", "cycle", |s| {
        // Both run while x and y are appended to, one sees only x, the other only y.
        *s = Script::default();
        s.ok(1, 9, append("list/x", "1"));
        let one = s.ok(2, 8, read_both());
        s.ok(1, 9, append("list/y", "a"));
        let other = s.ok(2, 8, read_both());
        assert!(matches!(s.response(one), Response::Txn(_)));
        saw(s, other, 0, "");
    }),
    ("write skew", "cycle", |s| {
        // Each reads the other's list as empty and appends to its own.
        *s = Script::default();
        let skew = |read: &str, write: &str, value: &str| {
            Request::Txn(Txn {
                success: vec![get_op(read), put_op(write, value)],
                ..Txn::default()
            })
        };
        s.ok(1, 9, skew("list/x", "list/y", "a"));
        let second = s.ok(1, 9, skew("list/y", "list/x", "1"));
        s.ok(10, 11, read_both());
        saw(s, second, 0, "");
    }),
    ("an unknown append is seen and lost again", "lost", |s| {
        s.unknown(19, append("list/x", "1 2 3 4"));
        s.ok(20, 21, get("list/x"));
        s.line(22, 23, append("list/x", "1 2 3 5"), s.lines[0].outcome.clone());
    }),
    ("a stale write", "cycle", |s| {
        // The second append had returned before the first was called, but stands after it.
        (s.lines[0].call, s.lines[0].ret) = (5 * MS, 6 * MS);
        s.lines[2].call = 7 * MS;
        s.lines[2].ret = 8 * MS;
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("a read that overlaps the append", |s| {
        s.lines[2].call = 3 * MS;
        saw(s, 2, 0, "1");
    }),
    ("an unknown append that was never seen", |s| {
        s.lost(5, append("list/x", "1 2 9"));
        s.lost(5, read_both());
    }),
    ("an unknown append that was seen", |s| {
        s.unknown(19, append("list/x", "1 2 3 4"));
        s.ok(20, 21, get("list/x"));
    }),
    ("a rejected append", |s| {
        s.failed(5, 6, append("list/x", "1 9"), "etcdserver: request is too large");
    }),
    ("a serializable read is late", |s| {
        let request = Request::Range(Range {
            key: "list/x".into(),
            serializable: true,
            ..Range::default()
        });
        let id = s.ok(20, 21, request);
        saw(s, id, 0, "1");
    }),
    ("the other branch of a transaction", |s| {
        let Request::Txn(mut txn) = cas("list/x", "nothing", "1 2 3 4") else {
            unreachable!()
        };
        txn.failure = vec![TxnOp::Range(Range {
            key: "list/x".into(),
            ..Range::default()
        })];
        s.ok(20, 21, Request::Txn(txn));
    }),
    ("other keys are not lists", |s| {
        s.ok(20, 21, put("x", "5"));
        let id = s.ok(22, 23, get("x"));
        let Outcome::Ok(Response::Range(response)) = &mut s.lines[id].outcome else {
            unreachable!()
        };
        response.kvs[0].value = "7".into();
    }),
];

#[test]
fn lists_that_cannot_be_are_rejected() {
    must_reject(&good(), check, REJECTED);
}

#[test]
fn lists_that_can_be_are_accepted() {
    must_accept(&good(), check, ACCEPTED);
}
