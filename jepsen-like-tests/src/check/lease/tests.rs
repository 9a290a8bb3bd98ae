//! Leases that end early, late, never, or are not what an answer says.

use crate::check::testing::*;
use crate::check::{Evidence, Limits, Verdict, order};
use crate::history::{Fault, Leader, LeaseId, Record, Request, Response};

fn check(evidence: &Evidence<'_>) -> Verdict {
    let (_, timeline) = order::check(evidence);
    super::check(evidence, timeline.as_ref(), &Limits::default())
}

fn time_to_live(id: i64) -> Request {
    Request::LeaseTimeToLive(LeaseId { id, keys: false })
}

/// Lease 5 of 10 s, granted at 0, kept alive at 4 s, so it ends at 14 s: seen between 14.2 and 14.4 s. Ids: 0 grant, 1 and
/// 2 puts, 3 keepalive, 4 time to live, 5 read before the end, 6 read after it, 7 keepalive of nothing.
fn good() -> Script {
    let mut script = Script::default();
    script.ok(100, 110, grant(5, 10));
    script.ok(200, 210, put_leased("a", "1", 5));
    script.ok(300, 310, put_leased("b", "1", 5));
    script.ok(4000, 4010, keep_alive(5));
    let id = script.ok(6000, 6010, time_to_live(5));
    let Response::LeaseTimeToLive(response) = script.response(id) else {
        unreachable!()
    };
    response.ttl = 7;
    script.ok(14_200, 14_210, Request::Range(everything()));
    script.model.apply(&revoke(5)).unwrap();
    script.ok(14_390, 14_400, Request::Range(everything()));
    script.ok(15_000, 15_010, keep_alive(5));
    script
}

/// Moves a call.
fn at(script: &mut Script, id: usize, call: u64) {
    (script.lines[id].call, script.lines[id].ret) = (call * MS, (call + 10) * MS);
}

fn fault(script: &mut Script, start: u64, end: u64, took_effect: bool) {
    let (start, end) = (start * MS, end * MS);
    script.extra.push(Record::Fault(Fault {
        kind: "kill".into(),
        start,
        end,
        took_effect,
        ..Fault::default()
    }));
}

/// Moves the reads before and after the end, and what follows.
fn ends_between(script: &mut Script, before: u64, after: u64) {
    at(script, 5, before);
    at(script, 6, after);
    at(script, 7, after + 500);
}

const REJECTED: &[Spoiler] = &[
    ("ends before its time", "ended early", |s| {
        ends_between(s, 8_000, 9_000)
    }),
    ("ends just before its time", "ended early", |s| {
        ends_between(s, 13_000, 13_980)
    }),
    ("a keepalive did not count", "ended early", |s| {
        ends_between(s, 10_200, 10_300)
    }),
    ("ends long after its time", "ended late", |s| {
        ends_between(s, 17_100, 17_200)
    }),
    ("ends much too late after a change of leader", "ended late", |s| {
        s.extra.push(Record::Leader(Leader {
            at: 9_000 * MS,
            member: 1,
            term: 2,
        }));
        for id in 5..8 {
            s.header(id).raft_term = 2;
        }
        ends_between(s, 23_100, 23_200);
    }),
    ("never ends", "never ended", |s| {
        s.lines.truncate(6);
        at(s, 5, 30_000);
    }),
    ("is gone while it lives", "is gone, although", |s| {
        let line = s.lines[7].clone();
        s.line(8_000, 8_010, line.request, line.outcome);
    }),
    ("is gone for a put while it lives", "is gone, although", |s| {
        s.failed(
            8_000,
            8_010,
            put_leased("c", "1", 5),
            "etcdserver: requested lease not found",
        );
    }),
    ("is gone for a revoke while it lives", "is gone, although", |s| {
        s.failed(8_000, 8_010, revoke(5), "etcdserver: requested lease not found");
    }),
    ("has no time to live while it lives", "is gone, although", |s| {
        let Response::LeaseTimeToLive(response) = s.response(4) else {
            unreachable!()
        };
        (response.ttl, response.granted_ttl) = (-1, 0);
    }),
    ("has too little time left", "s left", |s| {
        let Response::LeaseTimeToLive(response) = s.response(4) else {
            unreachable!()
        };
        response.ttl = 3;
    }),
    ("was granted for another time", "granted TTL", |s| {
        let Response::LeaseTimeToLive(response) = s.response(4) else {
            unreachable!()
        };
        response.granted_ttl = 60;
    }),
    ("is renewed for another time", "TTL is", |s| {
        let Response::LeaseKeepAlive(response) = s.response(3) else {
            unreachable!()
        };
        response.ttl = 60;
    }),
    ("an answer about another lease", "about lease", |s| {
        let Response::LeaseKeepAlive(response) = s.response(3) else {
            unreachable!()
        };
        response.id = 6;
    }),
    ("is renewed after its end", "already", |s| {
        let Response::LeaseKeepAlive(response) = s.response(7) else {
            unreachable!()
        };
        response.ttl = 10;
    }),
    ("is renewed after it was revoked", "already", |s| {
        s.ok(20_000, 20_010, grant(6, 10));
        s.ok(20_100, 20_110, revoke(6));
        let id = s.ok(20_200, 20_210, keep_alive(6));
        let Response::LeaseKeepAlive(response) = s.response(id) else {
            unreachable!()
        };
        response.ttl = 10;
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("nobody looked for a long time", |s| {
        ends_between(s, 12_000, 90_000)
    }),
    ("a change of leader gives it its time again", |s| {
        s.extra.push(Record::Leader(Leader {
            at: 9_000 * MS,
            member: 1,
            term: 2,
        }));
        for id in 5..8 {
            s.header(id).raft_term = 2;
        }
        ends_between(s, 20_000, 21_000);
    }),
    ("a fault kept the leader from counting", |s| {
        fault(s, 9_000, 20_000, true);
        ends_between(s, 25_000, 26_000);
    }),
    ("a keepalive whose answer was lost may have counted", |s| {
        s.lost(10_000, keep_alive(5));
        ends_between(s, 25_000, 26_000);
    }),
    ("an unknown revoke may have ended it", |s| {
        s.lost(5_000, revoke(5));
        s.failed(8_000, 8_010, revoke(5), "etcdserver: requested lease not found");
    }),
    ("revoked in time", |s| {
        *s = Script::default();
        s.ok(100, 110, grant(5, 10));
        s.ok(200, 210, put_leased("a", "1", 5));
        s.ok(300, 310, revoke(5));
        s.ok(400, 410, keep_alive(5));
        s.ok(500, 510, grant(5, 10));
        s.ok(600, 610, keep_alive(5));
    }),
    ("a lease without keys ends unseen", |s| {
        s.ok(20_000, 20_010, grant(6, 2));
        s.model.apply(&revoke(6)).unwrap();
        s.ok(60_000, 60_010, keep_alive(6));
        s.ok(60_100, 60_110, grant(6, 2));
    }),
    ("keys moved to another lease outlive it", |s| {
        s.ok(20_000, 20_010, grant(6, 5));
        s.ok(20_000, 20_010, grant(7, 60));
        s.ok(20_100, 20_110, put_leased("m", "1", 6));
        s.ok(20_200, 20_210, put_leased("m", "2", 7));
        s.ok(50_000, 50_010, Request::Range(everything()));
    }),
];

#[test]
fn leases_that_break_their_promise_are_rejected() {
    must_reject(&good(), check, REJECTED);
}

#[test]
fn leases_that_keep_their_promise_are_accepted() {
    must_accept(&good(), check, ACCEPTED);
}

#[test]
fn a_fault_that_had_no_effect_is_no_excuse() {
    let mut script = good();
    fault(&mut script, 9_000, 20_000, false);
    ends_between(&mut script, 25_000, 26_000);
    assert!(script.judge(check).is_fail());
}
