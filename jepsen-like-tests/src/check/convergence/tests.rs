//! Members that differ in one thing each.

use super::check;
use crate::check::testing::*;
use crate::history::{AlarmInfo, LeaseInfo, MemberInfo, MemberSummary, WalEntry};

fn member(place: u32) -> MemberSummary {
    let info = |id: u64| MemberInfo {
        id,
        name: format!("m{id}"),
        is_learner: id == 13,
        ..MemberInfo::default()
    };
    let entry = |index: u64| WalEntry {
        index,
        term: 1 + index / 4,
        kind: "command".into(),
        payload: blob(&format!("entry {index}")),
        ..WalEntry::default()
    };
    MemberSummary {
        member: place,
        id: 11 + u64::from(place),
        cluster_id: 9,
        revision: Some(20),
        hash_revision: Some(20),
        hash: Some(77),
        compact_revision: Some(5),
        leases: Some(vec![LeaseInfo {
            id: 5,
            ttl: 10,
            keys: vec![blob("l")],
        }]),
        members: Some(vec![info(11), info(12), info(13)]),
        alarms: Some(vec![AlarmInfo {
            member_id: 11,
            alarm: "NOSPACE".into(),
        }]),
        auth_enabled: Some(true),
        auth_revision: Some(3),
        // Members keep different parts of the log.
        wal: Some((u64::from(place) + 1..8).map(entry).collect()),
        ..MemberSummary::default()
    }
}

fn good() -> Script {
    Script {
        members: (0..3).map(member).collect(),
        ..Script::default()
    }
}

const REJECTED: &[Spoiler] = &[
    ("another hash", "hash differs", |s| s.members[1].hash = Some(78)),
    ("another revision", "revision differs", |s| {
        s.members[2].revision = Some(19)
    }),
    ("another cluster", "cluster id differs", |s| {
        s.members[2].cluster_id = 8
    }),
    (
        "hashes of different revisions",
        "revision of the hash differs",
        |s| s.members[2].hash_revision = Some(19),
    ),
    ("another compact revision", "compact revision differs", |s| {
        s.members[0].compact_revision = Some(-1)
    }),
    ("a lease is missing", "leases differs", |s| {
        s.members[1].leases = Some(vec![])
    }),
    ("a lease lacks a key", "leases differs", |s| {
        s.members[1].leases.as_mut().unwrap()[0].keys.clear()
    }),
    ("a learner became a voter on one member", "members differs", |s| {
        s.members[1].members.as_mut().unwrap()[2].is_learner = false;
    }),
    ("a removed member is still known", "members differs", |s| {
        s.members[1].members.as_mut().unwrap().push(MemberInfo {
            id: 14,
            ..MemberInfo::default()
        });
    }),
    ("an alarm is missing", "alarms differs", |s| {
        s.members[1].alarms = Some(vec![])
    }),
    ("auth is off on one member", "auth differs", |s| {
        s.members[1].auth_enabled = Some(false)
    }),
    ("another auth revision", "auth revision differs", |s| {
        s.members[1].auth_revision = Some(2)
    }),
    ("another entry", "log entry 6 differs", |s| {
        s.members[2].wal.as_mut().unwrap()[3].payload = blob("x")
    }),
    ("another term", "log entry 7 differs", |s| {
        s.members[2].wal.as_mut().unwrap()[4].term = 3
    }),
    ("a hole in the log", "follows entry", |s| {
        s.members[2].wal.as_mut().unwrap().remove(2);
    }),
    ("one id twice", "twice", |s| s.members[1].id = 11),
    ("a member that is not one", "does not find itself", |s| {
        s.members[1].id = 99
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("lists in another order", |s| {
        s.members[1].members.as_mut().unwrap().reverse()
    }),
    ("fields that one member does not show", |s| {
        s.members[1].hash = None;
        s.members[2].leases = None;
        s.members[0].wal = None;
    }),
    ("different applied indexes", |s| {
        s.members[1].applied_index = Some(90)
    }),
];

#[test]
fn members_that_differ_are_rejected() {
    must_reject(&good(), check, REJECTED);
}

#[test]
fn members_that_are_equal_are_accepted() {
    must_accept(&good(), check, ACCEPTED);
}

#[test]
fn one_member_proves_nothing() {
    let mut script = good();
    script.members.truncate(1);
    assert!(matches!(script.judge(check), crate::check::Verdict::Invalid(_)));
}
