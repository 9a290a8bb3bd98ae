//! Clusters that stand still, and clusters that may.

use super::check;
use crate::check::testing::*;
use crate::check::{Evidence, Limits, Verdict};
use crate::history::{Fault, Phase, Record};

fn judge(evidence: &Evidence<'_>) -> Verdict {
    check(evidence, &Limits::default())
}

fn fault(script: &mut Script, start: u64, end: u64, majority_remains: bool) {
    let fault = Fault {
        kind: "kill".into(),
        targets: vec![1],
        start: start * MS,
        end: end * MS,
        took_effect: true,
        majority_remains,
        ..Fault::default()
    };
    script.extra.push(Record::Fault(fault));
}

/// A write each 100 ms for 60 s; faults at 10 to 14 s (a majority remains) and at 20 to 25 s (none does). Writes fail for
/// 1 s after each start, and for all of the second fault and 1 s after.
fn good() -> Script {
    let mut script = Script::default();
    script.mark(0, Phase::Calm);
    for at in (100..60_000).step_by(100) {
        let down = (10_000..11_000).contains(&at) || (20_000..26_000).contains(&at);
        let request = put("k", &at.to_string());
        if down {
            script.lost(at, request)
        } else {
            script.ok(at, at + 5, request)
        };
    }
    script.mark(9_000, Phase::Faults);
    fault(&mut script, 10_000, 14_000, true);
    fault(&mut script, 20_000, 25_000, false);
    script.mark(25_000, Phase::Healed);
    script.mark(59_900, Phase::Final);
    script
}

/// No write is acknowledged in this time.
fn down(script: &mut Script, from: u64, until: u64) {
    for line in &mut script.lines {
        if (from * MS..until * MS).contains(&line.call) {
            line.outcome = crate::history::Outcome::Unknown {
                code: 14,
                text: String::new(),
            };
        }
    }
}

const REJECTED: &[Spoiler] = &[
    ("too long after a kill", "the start of kill", |s| {
        down(s, 10_000, 13_200)
    }),
    ("far too long after a kill", "the start of kill", |s| {
        down(s, 10_000, 18_000)
    }),
    (
        "never again after a kill",
        "no write was acknowledged after the start",
        |s| down(s, 10_000, 60_000),
    ),
    ("too long after the end of a fault", "the end of kill", |s| {
        down(s, 14_000, 19_500)
    }),
    ("too long after everything has healed", "the end of kill", |s| {
        down(s, 25_000, 31_000)
    }),
    (
        "never again after everything has healed",
        "the end of kill",
        |s| down(s, 25_000, 60_000),
    ),
    ("a gap before any fault", "without a fault", |s| {
        down(s, 2_000, 6_000)
    }),
    ("a gap from the beginning", "without a fault", |s| {
        down(s, 0, 4_000)
    }),
    ("a gap long after everything has healed", "without a fault", |s| {
        down(s, 40_000, 44_000)
    }),
    ("a gap at the end", "without a fault", |s| down(s, 55_000, 60_000)),
    ("a fault without an effect is no excuse", "without a fault", |s| {
        fault(s, 40_000, 44_000, false);
        let Some(Record::Fault(fault)) = s.extra.last_mut() else {
            unreachable!()
        };
        fault.took_effect = false;
        down(s, 40_000, 44_000);
    }),
];

const ACCEPTED: &[Variation] = &[
    ("as it is", |_| {}),
    ("without a majority there is no limit", |s| {
        down(s, 20_000, 29_000)
    }),
    ("a second fault takes the place of the first", |s| {
        fault(s, 12_000, 14_000, true);
        down(s, 10_000, 14_500);
    }),
    ("a slow disk has no limit", |s| {
        fault(s, 10_000, 18_000, true);
        let Some(Record::Fault(fault)) = s.extra.last_mut() else {
            unreachable!()
        };
        fault.slows = true;
        down(s, 10_000, 18_500);
    }),
    ("nobody asked", |s| {
        s.lines
            .retain(|line| !(40_000 * MS..44_000 * MS).contains(&line.call))
    }),
];

#[test]
fn clusters_that_stand_still_are_rejected() {
    must_reject(&good(), judge, REJECTED);
}

#[test]
fn clusters_that_go_on_are_accepted() {
    must_accept(&good(), judge, ACCEPTED);
}

#[test]
fn without_writes_nothing_can_be_said() {
    let mut script = good();
    down(&mut script, 0, 60_000);
    assert!(matches!(script.judge(judge), Verdict::Invalid(_)));
}
