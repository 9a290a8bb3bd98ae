//! Streams that break a word of P9, and streams that only look odd.

use crate::check::testing::*;
use crate::check::{Evidence, Limits, Verdict, order};
use crate::history::{Phase, Record, Request, StreamEvent, StreamRecord, Txn, WatchCreate, WatchResponse};

fn check(evidence: &Evidence<'_>) -> Verdict {
    let (_, timeline) = order::check(evidence);
    super::check(evidence, timeline.as_ref(), &Limits::default())
}

fn a_to_c() -> WatchCreate {
    let (prev_kv, start_revision) = (true, 3);
    WatchCreate {
        key: "a".into(),
        range_end: "c".into(),
        start_revision,
        prev_kv,
        ..WatchCreate::default()
    }
}

/// Revisions: 2 a=1, 3 b=1, 4 a=2, 5 {a=3, b=2, c=1}, 6 delete b, 7 c=2, 8 a=4, 9 a=5. Stream 1 watches everything from 1, stream 2
/// [a, c) from 3 with the pairs before.
fn good() -> Script {
    let mut script = Script::default();
    script.ok(1, 2, put("a", "1"));
    script.ok(3, 4, put("b", "1"));
    script.ok(5, 6, put("a", "2"));
    let ops = vec![put_op("a", "3"), put_op("b", "2"), put_op("c", "1")];
    script.ok(
        7,
        8,
        Request::Txn(Txn {
            success: ops,
            ..Txn::default()
        }),
    );
    script.ok(9, 10, delete("b"));
    script.ok(11, 12, put("c", "2"));
    script.ok(13, 14, put("a", "4"));
    script.ok(15, 16, put("a", "5"));
    let stream = script.stream(20);
    script.watch(20, stream, 100, all_keys(), 9);
    script.deliver(21, stream, &all_keys(), &[2, 3, 4, 5, 6, 7, 8, 9]);
    let stream = script.stream(20);
    script.watch(20, stream, 101, a_to_c(), 9);
    script.deliver(21, stream, &a_to_c(), &[3, 4, 5, 6, 7, 8, 9]);
    script.mark(30, Phase::Healed);
    script
}

/// Responses with events of a stream.
fn events(script: &mut Script, wanted: u64) -> Vec<&mut WatchResponse> {
    let mut found = Vec::new();
    for record in &mut script.extra {
        if let Record::Stream(StreamRecord {
            stream,
            event: StreamEvent::Response(response),
            ..
        }) = record
            && *stream == wanted
            && !response.created
        {
            found.push(response);
        }
    }
    found
}

/// Removes the n-th response with events from stream 2.
fn remove(script: &mut Script, n: usize) -> Record {
    let mut seen = 0;
    let place = script.extra.iter().position(|record| {
        let Record::Stream(StreamRecord {
            stream: 2,
            event: StreamEvent::Response(response),
            ..
        }) = record
        else {
            return false;
        };
        seen += usize::from(!response.created);
        !response.created && seen == n + 1
    });
    script.extra.remove(place.unwrap())
}

fn progress(watch_id: i64, revision: i64) -> WatchResponse {
    WatchResponse {
        watch_id,
        header: header(revision),
        ..WatchResponse::default()
    }
}

fn cancel(compact_revision: i64) -> WatchResponse {
    WatchResponse {
        canceled: true,
        compact_revision,
        ..WatchResponse::default()
    }
}

fn again(start_revision: i64) -> WatchCreate {
    WatchCreate {
        start_revision,
        ..a_to_c()
    }
}

/// A watcher from now on: created at revision 9, as member 1 says, but its first event is of revision 5.
fn from_now_on(s: &mut Script) {
    let (stream, request) = (s.stream(22), again(0));
    s.watch(22, stream, 102, request.clone(), 9);
    s.deliver(23, stream, &request, &[5, 6, 7, 8, 9]);
}

const REJECTED: &[Spoiler] = &[
    (
        "from now on, but older than what the member had shown",
        "not unique or not ordered",
        |s| {
            s.member = Some(1);
            from_now_on(s);
        },
    ),
    (
        "from now on, but older than the answer",
        "not unique or not ordered",
        from_now_on,
    ),
    ("two responses swapped", "not reliable", |s| {
        let removed = remove(s, 1);
        s.extra.push(removed);
    }),
    ("events swapped inside a response", "not ordered", |s| {
        let removed = remove(s, 2);
        let Record::Stream(StreamRecord {
            event: StreamEvent::Response(later),
            ..
        }) = removed
        else {
            unreachable!()
        };
        let response = events(s, 2).remove(1);
        response.events.splice(0..0, later.events);
        response.header.revision = 5;
    }),
    ("an event twice", "not unique", |s| {
        let response = events(s, 2)[1].clone();
        s.on_response(22, 2, response);
    }),
    ("a response lost", "not reliable", |s| {
        remove(s, 1);
    }),
    ("the first event lost", "not reliable", |s| {
        remove(s, 0);
    }),
    ("a revision split over two responses", "not atomic", |s| {
        let event = events(s, 2)[2].events.pop().unwrap();
        s.on_response(
            21,
            2,
            WatchResponse {
                header: header(5),
                events: vec![event],
                ..WatchResponse::default()
            },
        );
    }),
    ("half of a revision lost", "not atomic", |s| {
        events(s, 2)[2].events.remove(0);
    }),
    ("an event of another key", "not filtered", |s| {
        let event = s.events(&all_keys(), 7).remove(0);
        s.on_response(
            22,
            2,
            WatchResponse {
                header: header(9),
                events: vec![event],
                ..WatchResponse::default()
            },
        );
        remove(s, 5);
        remove(s, 4);
    }),
    ("an event from before the start", "before its start", |s| {
        let event = s.events(&all_keys(), 2).remove(0);
        events(s, 2)[0].events.insert(0, event);
    }),
    ("an event that never happened", "wrong event", |s| {
        events(s, 2)[1].events[0].kv.value = "9".into()
    }),
    ("a put shown as a creation", "wrong event", |s| {
        events(s, 2)[1].events[0].kv.create_revision = 4
    }),
    ("a delete with a value", "wrong event", |s| {
        events(s, 2)[3].events[0].kv.value = "1".into()
    }),
    ("the pair before is of the present", "pair before", |s| {
        events(s, 2)[1].events[0].prev_kv.as_mut().unwrap().value = "3".into();
    }),
    ("the pair before is missing", "pair before", |s| {
        events(s, 2)[3].events[0].prev_kv = None
    }),
    ("a pair before that was not asked for", "pair before", |s| {
        let pair = events(s, 2)[3].events[0].prev_kv.clone();
        events(s, 1)[4].events[0].prev_kv = pair;
    }),
    ("progress overtakes an event", "overtakes", |s| {
        let last = remove(s, 5);
        s.on_stream(21, 2, StreamEvent::ProgressRequest);
        s.on_response(21, 2, progress(-1, 9));
        s.extra.push(last);
    }),
    ("progress nobody asked for", "nobody asked", |s| {
        s.on_response(22, 2, progress(-1, 9))
    }),
    (
        "progress for a watcher that did not want it",
        "did not want",
        |s| s.on_response(22, 2, progress(0, 9)),
    ),
    (
        "progress below the start of a watcher from the future",
        "that starts at",
        |s| {
            let stream = s.stream(22);
            s.watch(22, stream, 102, again(20), 9);
            s.on_stream(23, stream, StreamEvent::ProgressRequest);
            s.on_response(24, stream, progress(-1, 9));
        },
    ),
    ("a future watcher gets earlier events", "before its start", |s| {
        let stream = s.stream(22);
        s.watch(22, stream, 102, again(20), 9);
        s.deliver(23, stream, &all_keys(), &[9]);
    }),
    ("resumed one revision late", "not reliable", |s| {
        s.on_stream(
            23,
            2,
            StreamEvent::Closed {
                code: 14,
                text: String::new(),
            },
        );
        let stream = s.stream(24);
        s.watch(24, stream, 101, again(4), 9);
        s.deliver(25, stream, &again(4), &[5, 6, 8, 9]);
    }),
    ("a silent gap after compaction", "not reliable", |s| {
        s.ok(22, 23, compact(6));
        let stream = s.stream(24);
        s.watch(24, stream, 102, again(3), 9);
        s.deliver(25, stream, &again(3), &[6, 8, 9]);
    }),
    (
        "canceled by a compaction it had passed",
        "canceled by compaction",
        |s| {
            s.ok(17, 18, compact(6));
            s.on_response(22, 2, cancel(6));
        },
    ),
    (
        "canceled by a compaction that never was",
        "nobody asked for",
        |s| {
            let stream = s.stream(24);
            s.watch(24, stream, 102, again(3), 9);
            s.on_response(25, stream, cancel(6));
        },
    ),
    ("canceled for no reason", "no reason", |s| {
        s.on_response(22, 2, cancel(0))
    }),
    ("events after the cancel", "unknown watcher", |s| {
        s.on_stream(20, 2, StreamEvent::Cancel { watch_id: 0 });
        let last = remove(s, 5);
        s.on_response(21, 2, cancel(0));
        s.extra.push(last);
    }),
    ("refused without reason", "without reason", |s| {
        let stream = s.stream(22);
        s.on_stream(
            22,
            stream,
            StreamEvent::Create {
                watcher: 103,
                request: again(3),
            },
        );
        s.on_response(
            23,
            stream,
            WatchResponse {
                created: true,
                watch_id: -1,
                ..cancel(0)
            },
        );
    }),
    ("an event before it was asked for", "before anyone asked", |s| {
        let line = &mut s.lines[7];
        (line.call, line.ret) = (40 * MS, 41 * MS);
    }),
    ("a fragment nobody wanted", "did not want any", |s| {
        events(s, 2)[2].fragment = true
    }),
    ("the last event never arrives", "never got", |s| {
        remove(s, 5);
        s.mark(9000, Phase::Final);
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("catching up with several revisions in one response", |s| {
        let later: Vec<_> = (0..5).map(|_| remove(s, 1)).collect();
        let response = events(s, 2).remove(0);
        for record in later {
            let Record::Stream(StreamRecord {
                event: StreamEvent::Response(later),
                ..
            }) = record
            else {
                unreachable!()
            };
            response.events.extend(later.events);
        }
        response.header.revision = 9;
    }),
    ("from now on, at a member that is catching up", |s| {
        s.member = Some(1);
        from_now_on(s);
        // All calls were at another one.
        s.member = Some(2);
    }),
    ("canceled by its client before its creation was known", |s| {
        let (stream, request) = (s.stream(22), again(10));
        let created = WatchResponse {
            created: true,
            header: header(9),
            ..WatchResponse::default()
        };
        let create = StreamEvent::Create {
            watcher: 102,
            request,
        };
        s.on_stream(22, stream, create);
        s.on_stream(23, stream, StreamEvent::Cancel { watch_id: 0 });
        s.on_response(24, stream, created);
        s.on_response(25, stream, cancel(0));
    }),
    ("fragments of one revision", |s| {
        let stream = s.stream(22);
        let request = WatchCreate {
            fragment: true,
            ..again(5)
        };
        s.watch(22, stream, 102, request.clone(), 9);
        for (place, event) in s.events(&request, 5).into_iter().enumerate() {
            let fragment = place == 0;
            let response = WatchResponse {
                header: header(9),
                events: vec![event],
                fragment,
                ..WatchResponse::default()
            };
            s.on_response(23, stream, response);
        }
        s.deliver(24, stream, &request, &[6, 8, 9]);
    }),
    ("resumed on another member", |s| {
        remove(s, 5);
        s.on_stream(
            23,
            2,
            StreamEvent::Closed {
                code: 14,
                text: String::new(),
            },
        );
        let stream = s.stream(24);
        s.watch(24, stream, 101, again(9), 9);
        s.deliver(25, stream, &again(9), &[9]);
    }),
    ("resumed with an overlap", |s| {
        s.on_stream(
            23,
            2,
            StreamEvent::Closed {
                code: 14,
                text: String::new(),
            },
        );
        let stream = s.stream(24);
        s.watch(24, stream, 101, again(5), 9);
        s.deliver(25, stream, &again(5), &[5, 6, 8, 9]);
    }),
    ("progress after everything", |s| {
        s.on_stream(21, 2, StreamEvent::ProgressRequest);
        s.on_response(22, 2, progress(-1, 9));
        s.on_stream(
            23,
            2,
            StreamEvent::Closed {
                code: 14,
                text: String::new(),
            },
        );
        let stream = s.stream(24);
        s.watch(24, stream, 101, again(10), 9);
    }),
    ("canceled by compaction and resumed where history begins", |s| {
        s.ok(22, 23, compact(6));
        let stream = s.stream(24);
        s.watch(24, stream, 102, again(3), 9);
        s.on_response(25, stream, cancel(6));
        let stream = s.stream(26);
        s.watch(26, stream, 102, again(6), 9);
        s.deliver(27, stream, &again(6), &[6, 8, 9]);
    }),
    ("the pair before is compacted", |s| {
        s.ok(15, 18, compact(6));
        events(s, 2)[3].events[0].prev_kv = None;
    }),
    ("filters", |s| {
        let request = WatchCreate {
            no_put: true,
            ..again(3)
        };
        let stream = s.stream(24);
        s.watch(24, stream, 102, request.clone(), 9);
        s.deliver(25, stream, &request, &[3, 4, 5, 6, 7, 8, 9]);
    }),
    ("only what comes after", |s| {
        let stream = s.stream(14);
        s.watch(14, stream, 102, again(0), 8);
        s.deliver(24, stream, &again(0), &[9]);
    }),
    ("canceled by the client", |s| {
        s.on_stream(20, 2, StreamEvent::Cancel { watch_id: 0 });
        remove(s, 5);
        s.on_response(21, 2, cancel(0));
        s.mark(9000, Phase::Final);
    }),
    ("refused with reason", |s| {
        let stream = s.stream(22);
        s.on_stream(
            22,
            stream,
            StreamEvent::Create {
                watcher: 103,
                request: again(-1),
            },
        );
        s.on_response(
            23,
            stream,
            WatchResponse {
                created: true,
                watch_id: -1,
                ..cancel(0)
            },
        );
    }),
    ("the stream broke before the last event", |s| {
        remove(s, 5);
        s.on_stream(
            23,
            2,
            StreamEvent::Closed {
                code: 14,
                text: String::new(),
            },
        );
        s.mark(9000, Phase::Final);
    }),
];

#[test]
fn every_word_of_the_watch_promise_can_be_broken() {
    must_reject(&good(), check, REJECTED);
}

#[test]
fn odd_but_right_streams_are_accepted() {
    must_accept(&good(), check, ACCEPTED);
}

#[test]
fn a_client_that_skips_revisions_proves_nothing() {
    let mut script = good();
    script.on_stream(
        23,
        2,
        StreamEvent::Closed {
            code: 14,
            text: String::new(),
        },
    );
    let stream = script.stream(24);
    script.watch(24, stream, 101, again(12), 9);
    assert!(matches!(script.judge(check), Verdict::Invalid(_)));
}
