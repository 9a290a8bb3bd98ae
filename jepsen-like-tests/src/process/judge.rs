//! The verdict on an episode: every reason for which it fails.

use super::episode::Outcome;
use super::recorder::Tally;

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
    reasons
}

fn share(part: u64, tally: Tally) -> f64 {
    match tally.total() {
        0 => 0.0,
        total => part as f64 / total as f64,
    }
}
