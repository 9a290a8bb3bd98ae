//! Stores that lose, invent, renumber and rewrite.

use super::check;
use crate::check::Verdict;
use crate::check::testing::*;
use crate::history::{
    DeleteRange, Event, Phase, Record, Request, Response, StreamEvent, StreamRecord, Txn, WatchCreate,
    WatchResponse,
};

/// Writes something, then reads it all in the end from revision `from` on. Ids: 0 a=1 @2, 1 b=1 @3, 2 txn {a=2, c=1} @4,
/// 3 delete b @5, 4 unknown d @6, 5 lost e, 6 rejected f, 7 delete [x, z) of nothing, 8 a=3 @7, 9 final read.
fn finished(from: i64) -> Script {
    let mut script = Script::default();
    script.ok(1, 2, put("a", "1"));
    script.ok(3, 4, put("b", "1"));
    let ops = vec![put_op("a", "2"), put_op("c", "1")];
    script.ok(
        5,
        6,
        Request::Txn(Txn {
            success: ops,
            ..Txn::default()
        }),
    );
    script.ok(7, 8, delete("b"));
    script.unknown(9, put("d", "1"));
    script.lost(10, put("e", "1"));
    script.failed(11, 12, put("f", "1"), "etcdserver: request is too large");
    let range = DeleteRange {
        key: "x".into(),
        range_end: "z".into(),
        prev_kv: true,
    };
    script.ok(13, 14, Request::DeleteRange(range));
    script.ok(15, 16, put("a", "3"));
    script.mark(100, Phase::Final);
    script.ok(101, 102, Request::Range(everything()));
    let stream = script.stream(103);
    let request = WatchCreate {
        start_revision: from,
        ..all_keys()
    };
    script.watch(103, stream, 0, request.clone(), 7);
    script.deliver(104, stream, &request, &(from..8).collect::<Vec<_>>());
    script
}

fn events(script: &mut Script) -> Vec<&mut Vec<Event>> {
    let mut found = Vec::new();
    for record in &mut script.extra {
        if let Record::Stream(StreamRecord {
            event: StreamEvent::Response(response),
            ..
        }) = record
            && !response.created
        {
            found.push(&mut response.events);
        }
    }
    found
}

fn last_read(script: &mut Script) -> &mut Vec<crate::history::KeyValue> {
    match script.response(9) {
        Response::Range(response) => &mut response.kvs,
        other => panic!("not a read: {other:?}"),
    }
}

const REJECTED: &[Spoiler] = &[
    ("an acknowledged write is gone", "is lost: put b=1", |s| {
        events(s)[1].clear()
    }),
    ("half of a transaction is gone", "is lost: put c=1", |s| {
        events(s)[2].pop();
    }),
    ("a delete is gone", "is lost: delete b", |s| events(s)[3].clear()),
    ("the newest write is gone", "the final revision is 6", |s| {
        events(s)[5].clear();
        s.header(9).revision = 6;
    }),
    ("another value", "is lost: put a=1", |s| {
        events(s)[0][0].kv.value = "7".into()
    }),
    ("a value nobody wrote", "never attempted", |s| {
        events(s)[4][0].kv.value = "7".into()
    }),
    ("a key nobody wrote", "never attempted", |s| {
        let mut event = events(s)[4][0].clone();
        event.kv.key = "q".into();
        events(s)[4].push(event);
    }),
    ("a rejected write is there", "never attempted", |s| {
        events(s)[4][0].kv.key = "f".into();
    }),
    ("a key deleted by nobody", "never attempted", |s| {
        let mut event = events(s)[3][0].clone();
        event.kv.key = "c".into();
        events(s)[3].push(event);
    }),
    ("a revision is missing", "revisions 6 to 6 are gone", |s| {
        events(s)[4].clear()
    }),
    ("a version is skipped", "has version 3 after version 1", |s| {
        events(s)[2][0].kv.version = 3
    }),
    ("a deleted key lives on", "has version 2 after nothing", |s| {
        events(s)[4][0].kv.version = 2
    }),
    ("a key is created twice", "after version", |s| {
        events(s)[5][0].kv.create_revision = 7
    }),
    ("the final read lacks a key", "the final read", |s| {
        last_read(s).remove(0);
    }),
    (
        "the final read has more than there was",
        "the final history has not",
        |s| {
            let mut pair = last_read(s)[0].clone();
            pair.key = "e".into();
            last_read(s).push(pair);
        },
    ),
    ("the final read is old", "the final read", |s| {
        last_read(s)[0].value = "2".into()
    }),
];

const COMPACTED: &[Spoiler] = &[
    ("a compacted write left no trace", "is lost: put c=1", |s| {
        last_read(s).remove(1);
    }),
    ("an old pair that nobody wrote", "never attempted", |s| {
        last_read(s)[1].value = "7".into()
    }),
    ("a write after compaction is gone", "is lost: put a=3", |s| {
        events(s)[2].clear()
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("an unknown write that did not happen", |s| {
        s.lost(20, put("g", "1"));
    }),
    ("a second watch that starts later", |s| {
        let stream = s.stream(105);
        let request = WatchCreate {
            start_revision: 6,
            ..all_keys()
        };
        s.watch(105, stream, 1, request.clone(), 7);
        s.deliver(106, stream, &request, &[6, 7]);
    }),
    ("events after the final read", |s| {
        s.ok(110, 111, put("z", "1"));
        let events = s.events(&all_keys(), 8);
        s.on_response(
            112,
            1,
            WatchResponse {
                header: header(8),
                events,
                ..WatchResponse::default()
            },
        );
    }),
    ("the end of a lease deletes", |s| {
        *s = Script::default();
        s.ok(1, 2, grant(5, 10));
        s.ok(3, 4, put_leased("l", "1", 5));
        s.model.apply(&revoke(5)).unwrap();
        s.mark(100, Phase::Final);
        s.ok(101, 102, Request::Range(everything()));
        let stream = s.stream(103);
        s.watch(103, stream, 0, all_keys(), 3);
        s.deliver(104, stream, &all_keys(), &[2, 3]);
    }),
];

#[test]
fn stores_that_lose_or_invent_are_rejected() {
    must_reject(&finished(1), check, REJECTED);
}

#[test]
fn stores_that_lose_or_invent_behind_a_compaction_are_rejected() {
    must_reject(&finished(5), check, COMPACTED);
}

#[test]
fn stores_that_keep_everything_are_accepted() {
    must_accept(&finished(1), check, ACCEPTED);
}

#[test]
fn without_final_reads_nothing_can_be_said() {
    let mut script = finished(1);
    script.extra.retain(|record| !matches!(record, Record::Stream(_)));
    assert!(matches!(script.judge(check), Verdict::Invalid(_)));
    let mut script = finished(1);
    script.lines.truncate(9);
    assert!(matches!(script.judge(check), Verdict::Invalid(_)));
    let mut script = finished(1);
    script
        .extra
        .retain(|record| !matches!(record, Record::Mark { .. }));
    assert!(matches!(script.judge(check), Verdict::Invalid(_)));
}
