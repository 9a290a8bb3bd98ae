//! The verdict on an episode: every reason for which it fails.

use std::collections::BTreeMap;

use super::episode::Outcome;
use super::probe::is_probe;
use super::recorder::Tally as Calls;
use crate::check::coverage::Tally;
use crate::check::{self, Evidence, Limits};
use crate::history::{History, Operation};

/// Smallest share of calls that must succeed while there is no fault.
const CALM_OK_MIN: f64 = 0.5;

/// Largest share of an episode's calls whose fate may stay unknown: beyond it the checkers would have too little to go
/// on. Over a campaign [`crate::check::coverage`] allows 20 %; one episode may be four faults at once on a slow machine.
const UNKNOWN_MAX_PERCENT: u64 = 40;

/// What is thought of an episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Reasons why it fails; none: it passes.
    pub reasons: Vec<String>,
    /// What it tried.
    pub coverage: Tally,
}

/// Judges an episode by what the driver saw, and by every checker.
#[must_use]
pub fn judge(outcome: &Outcome, limits: &Limits) -> Judgement {
    let mut reasons = outcome.breaches.clone();
    reasons.extend(share_of_successes(outcome));
    reasons.extend(without_effect(&outcome.history));
    let evidence = Evidence::new(&outcome.history, &outcome.members);
    reasons.extend(too_little_known(&evidence.operations));
    let (reports, timeline) = check::judge(&evidence, limits);
    let bad = reports.iter().filter(|report| !report.verdict.is_pass());
    reasons.extend(bad.map(|report| format!("{}: {}", report.checker, report.verdict)));
    let mut coverage = Tally::of(&evidence, timeline.as_ref());
    coverage.snapshot_installs = outcome.logged.snapshot_installs;
    coverage.torn_tails = outcome.logged.torn_tails;
    Judgement { reasons, coverage }
}

/// Phases in which too little worked.
fn share_of_successes(outcome: &Outcome) -> Vec<String> {
    let mut reasons = Vec::new();
    for (phase, calls) in [("calm", outcome.calm), ("healed", outcome.healed)] {
        if share(calls.ok, calls) < CALM_OK_MIN {
            reasons.push(format!(
                "{phase} phase: only {} of {} calls succeeded",
                calls.ok,
                calls.total()
            ));
        }
    }
    reasons
}

/// Whether so many calls of the load stayed unknown that the checkers had too little to go on. Probes are apart.
fn too_little_known(operations: &[Operation]) -> Option<String> {
    let load = operations
        .iter()
        .filter(|operation| !is_probe(&operation.request));
    let (mut calls, mut unknown) = (0_u64, 0_u64);
    for operation in load {
        calls += 1;
        unknown += u64::from(operation.is_unknown());
    }
    (unknown * 100 > calls * UNKNOWN_MAX_PERCENT).then(|| format!("{unknown} of {calls} calls ended unknown"))
}

/// Kinds of faults of which none took effect, though a majority was there for it to act on.
fn without_effect(history: &History) -> Vec<String> {
    let mut effects: BTreeMap<&str, bool> = BTreeMap::new();
    for fault in history.faults() {
        *effects.entry(&fault.kind).or_default() |= fault.took_effect || !fault.majority_remains;
    }
    let idle = effects.into_iter().filter(|(_, took_effect)| !took_effect);
    idle.map(|(kind, _)| format!("no fault of kind {kind} took effect"))
        .collect()
}

fn share(part: u64, calls: Calls) -> f64 {
    match calls.total() {
        0 => 0.0,
        total => part as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{
        Call, Fault, Outcome as Answer, Put, PutResponse, Record, Request, Response, Return,
    };
    use crate::process::logs::Counts;

    fn history(faults: &[(&str, bool)]) -> History {
        let mut history = History::default();
        for (kind, took_effect) in faults {
            history.push(Record::Fault(Fault {
                kind: (*kind).to_owned(),
                took_effect: *took_effect,
                majority_remains: true,
                ..Fault::default()
            }));
        }
        history
    }

    #[test]
    fn a_kind_of_fault_that_never_took_effect_is_named() {
        let found = without_effect(&history(&[("kill", false), ("kill", true), ("loss", false)]));
        assert_eq!(found, ["no fault of kind loss took effect"]);
    }

    #[test]
    fn an_episode_whose_calls_fail_while_nothing_is_wrong_fails() {
        let mut outcome = Outcome {
            history: History::default(),
            members: Vec::new(),
            calm: Calls {
                ok: 49,
                failed: 51,
                unknown: 0,
            },
            healed: Calls {
                ok: 9,
                failed: 1,
                unknown: 0,
            },
            total: Calls {
                ok: 58,
                failed: 22,
                unknown: 20,
            },
            logged: Counts::default(),
            breaches: Vec::new(),
        };
        outcome.breaches.push("member 1 ended".to_owned());
        assert!(
            judge(&outcome, &Limits::default())
                .reasons
                .contains(&"member 1 ended".to_owned())
        );
        let reasons = share_of_successes(&outcome).join("; ");
        assert!(reasons.contains("calm phase: only 49 of 100"), "{reasons}");
    }

    #[test]
    fn too_many_unknown_calls_are_a_reason_and_probes_are_not() {
        let mut history = History::default();
        let mut call = |id, key: &str, returns| {
            let request = Request::Put(Put {
                key: key.into(),
                ..Put::default()
            });
            history.push(Record::Call(Call {
                at: id,
                id,
                client: 0,
                member: None,
                request,
            }));
            if returns {
                let outcome = Response::Put(PutResponse::default());
                history.push(Record::Return(Return {
                    at: id + 1,
                    id,
                    outcome: Answer::Ok(outcome),
                }));
            }
        };
        (0..60).for_each(|id| call(id, "r/1", true));
        (60..100).for_each(|id| call(id, "r/1", false));
        (100..200).for_each(|id| call(id, "p/1", false));
        assert_eq!(too_little_known(&history.operations()), None);
        history.push(Record::Call(Call {
            at: 300,
            id: 300,
            client: 0,
            member: None,
            request: Request::Put(Put::default()),
        }));
        let found = too_little_known(&history.operations());
        assert_eq!(found.as_deref(), Some("41 of 101 calls ended unknown"));
    }
}
