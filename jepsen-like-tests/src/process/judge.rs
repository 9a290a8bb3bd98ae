//! The verdict on an episode: every reason for which it fails.

use std::collections::BTreeMap;

use super::episode::Outcome;
use super::recorder::Tally;
use crate::check::{self, Evidence, Limits};
use crate::history::History;

/// Smallest share of calls that must succeed while there is no fault.
const CALM_OK_MIN: f64 = 0.5;

/// Largest share of calls whose fate may stay unknown: beyond it the checkers would have too little to go on.
const UNKNOWN_MAX: f64 = 0.2;

/// Reasons why the episode fails; none: it passes.
#[must_use]
pub fn verdict(outcome: &Outcome) -> Vec<String> {
    let mut reasons = outcome.breaches.clone();
    for (phase, tally) in [("calm", outcome.calm), ("healed", outcome.healed)] {
        if share(tally.ok, tally) < CALM_OK_MIN {
            reasons.push(format!(
                "{phase} phase: only {} of {} calls succeeded",
                tally.ok,
                tally.total()
            ));
        }
    }
    let unknown = share(outcome.total.unknown, outcome.total);
    if unknown > UNKNOWN_MAX {
        reasons.push(format!("{:.1} % of calls ended unknown", unknown * 100.0));
    }
    reasons.extend(without_effect(&outcome.history));
    let evidence = Evidence::new(&outcome.history, &outcome.members);
    let (order, timeline) = check::order::check(&evidence);
    let watch = check::watch::check(&evidence, timeline.as_ref(), &Limits::default());
    let verdicts = [("order", order), ("watch", watch)];
    let bad = verdicts.into_iter().filter(|(_, verdict)| !verdict.is_pass());
    reasons.extend(bad.map(|(checker, verdict)| format!("{checker}: {verdict}")));
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

fn share(part: u64, tally: Tally) -> f64 {
    match tally.total() {
        0 => 0.0,
        total => part as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Fault, Record};

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
            calm: Tally {
                ok: 49,
                failed: 51,
                unknown: 0,
            },
            healed: Tally {
                ok: 9,
                failed: 1,
                unknown: 0,
            },
            total: Tally {
                ok: 58,
                failed: 22,
                unknown: 20,
            },
            breaches: vec!["member 1 ended".to_owned()],
        };
        let reasons = verdict(&outcome).join("; ");
        assert!(reasons.contains("member 1 ended"), "{reasons}");
        assert!(reasons.contains("calm phase: only 49 of 100"), "{reasons}");
        assert!(!reasons.contains("unknown"), "{reasons}");
        outcome.total.unknown = 21;
        assert!(verdict(&outcome).join("; ").contains("of calls ended unknown"));
    }
}
