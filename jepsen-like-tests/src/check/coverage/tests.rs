//! Campaigns that tried too little of one thing each.

use super::{Demand, Tally, check};
use crate::check::testing::*;
use crate::check::{Evidence, Verdict, order};
use crate::history::{Admin, Fault, Leader, Record, Request, StreamEvent, WatchCreate, WatchResponse};

const KINDS: &[&str] = &["kill", "pause"];
const MARKS: &[&str] = &["a", "b", "c", "d", "e"];

fn enough() -> Tally {
    let mut tally = Demand::full(KINDS, MARKS).least;
    (tally.operations, tally.unknown) = (10_000, 100);
    tally.faults = KINDS.iter().map(|kind| ((*kind).to_owned(), 3)).collect();
    tally.reached = MARKS[..4].iter().map(|mark| ((*mark).to_owned(), 1)).collect();
    tally
}

#[test]
fn a_campaign_that_tried_everything_passes() {
    assert_eq!(check(&enough(), &Demand::full(KINDS, MARKS)), Verdict::Pass);
    assert_eq!(check(&enough(), &Demand::gate(KINDS, MARKS)), Verdict::Pass);
    assert!(
        check(&enough(), &Demand::long(KINDS, MARKS)).is_fail(),
        "one mark is missing"
    );
}

#[test]
fn a_campaign_that_tried_too_little_of_anything_fails() {
    type Spoiled = (&'static str, fn(&mut Tally));
    let spoilers: &[Spoiled] = &[
        ("fault kill", |t| *t.faults.get_mut("kill").unwrap() = 2),
        ("fault pause", |t| {
            t.faults.remove("pause");
        }),
        ("elections", |t| t.elections -= 1),
        ("snapshot installs", |t| t.snapshot_installs -= 1),
        ("compactions", |t| t.compactions -= 1),
        ("watch resumptions", |t| t.watch_resumptions -= 1),
        ("watches ended", |t| t.compaction_cancels -= 1),
        ("lease expiries", |t| t.lease_expiries -= 1),
        ("membership changes", |t| t.membership_changes -= 1),
        ("torn tails", |t| t.torn_tails -= 1),
        ("marks", |t| {
            t.reached.remove("a");
        }),
        ("unknown calls", |t| t.unknown = 0),
        ("unknown calls", |t| t.unknown = 2_100),
    ];
    for (name, spoil) in spoilers {
        let mut tally = enough();
        spoil(&mut tally);
        match check(&tally, &Demand::full(KINDS, MARKS)) {
            Verdict::Fail(text) => assert!(text.starts_with(name), "{name}: {text}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn runs_add_up() {
    let mut sum = enough();
    sum.add(&enough());
    assert_eq!(
        (
            sum.operations,
            sum.faults["kill"],
            sum.reached["a"],
            sum.torn_tails
        ),
        (20_000, 6, 2, 10)
    );
}

#[test]
fn a_history_is_counted() {
    let mut script = Script::default();
    script.ok(1, 2, grant(5, 2));
    script.ok(3, 4, put_leased("l", "1", 5));
    script.model.apply(&revoke(5)).unwrap();
    script.ok(5_000, 5_001, Request::Range(everything()));
    script.ok(5_100, 5_101, compact(3));
    script.lost(5_200, put("x", "1"));
    script.ok(
        5_300,
        5_301,
        Request::Admin(Admin {
            name: "MemberAdd".into(),
            ..Admin::default()
        }),
    );
    let stream = script.stream(6_000);
    script.watch(6_000, stream, 1, all_keys(), 3);
    let canceled = true;
    script.on_response(
        6_001,
        stream,
        WatchResponse {
            canceled,
            compact_revision: 3,
            ..WatchResponse::default()
        },
    );
    script.on_stream(
        6_002,
        stream,
        StreamEvent::Closed {
            code: 0,
            text: String::new(),
        },
    );
    let stream = script.stream(6_003);
    script.watch(
        6_003,
        stream,
        1,
        WatchCreate {
            start_revision: 3,
            ..all_keys()
        },
        3,
    );
    script.extra.push(Record::Fault(Fault {
        kind: "kill".into(),
        took_effect: true,
        ..Fault::default()
    }));
    script.extra.push(Record::Fault(Fault {
        kind: "pause".into(),
        took_effect: false,
        ..Fault::default()
    }));
    script.extra.push(Record::Leader(Leader {
        at: 1,
        member: 0,
        term: 7,
    }));
    let history = script.history();
    let evidence = Evidence::new(&history, &[]);
    let (_, timeline) = order::check(&evidence);
    let expected = Tally {
        operations: 6,
        unknown: 1,
        faults: [("kill".to_owned(), 1)].into(),
        elections: 1,
        compactions: 1,
        watch_resumptions: 1,
        compaction_cancels: 1,
        lease_expiries: 1,
        membership_changes: 1,
        ..Tally::default()
    };
    assert_eq!(Tally::of(&evidence, timeline.as_ref()), expected);
}
