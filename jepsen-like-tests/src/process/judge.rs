//! The verdict on an episode: every reason for which it fails.

use std::collections::BTreeMap;

use super::episode::Outcome;
use super::recorder::Tally as Calls;
use crate::check::coverage::Tally;
use crate::check::{self, Evidence, Limits};
use crate::history::History;

/// Smallest share of calls that must succeed while there is no fault.
const CALM_OK_MIN: f64 = 0.5;

/// Largest share of calls whose fate may stay unknown: beyond it the checkers would have too little to go on.
const UNKNOWN_MAX: f64 = 0.2;

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
pub fn judge(outcome: &Outcome) -> Judgement {
    let mut reasons = outcome.breaches.clone();
    reasons.extend(share_of_successes(outcome));
    reasons.extend(without_effect(&outcome.history));
    let evidence = Evidence::new(&outcome.history, &outcome.members);
    let (reports, timeline) = check::judge(&evidence, &Limits::default());
    let bad = reports.iter().filter(|report| !report.verdict.is_pass());
    reasons.extend(bad.map(|report| format!("{}: {}", report.checker, report.verdict)));
    let mut coverage = Tally::of(&evidence, timeline.as_ref());
    coverage.snapshot_installs = outcome.logged.snapshot_installs;
    coverage.torn_tails = outcome.logged.torn_tails;
    Judgement { reasons, coverage }
}

/// Phases in which too little worked, and histories that know too little.
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
    let unknown = share(outcome.total.unknown, outcome.total);
    if unknown > UNKNOWN_MAX {
        reasons.push(format!("{:.1} % of calls ended unknown", unknown * 100.0));
    }
    reasons
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
    use crate::history::{Fault, Record};
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
        assert!(judge(&outcome).reasons.contains(&"member 1 ended".to_owned()));
        let reasons = share_of_successes(&outcome).join("; ");
        assert!(reasons.contains("calm phase: only 49 of 100"), "{reasons}");
        assert!(!reasons.contains("unknown"), "{reasons}");
        outcome.total.unknown = 21;
        assert!(
            share_of_successes(&outcome)
                .join("; ")
                .contains("of calls ended unknown")
        );
    }
}
