//! Is each key linearizable (P1)? Asked of values and versions alone, by search.
//!
//! A history is linearizable if it is for each key, so keys are judged one by one; a call on several keys is, for each
//! of them, a call on that key. Revisions in headers are not looked at, so that a wrong revision cannot excuse a wrong
//! value: this judge and `order` reach their verdicts on different ways. Compares with revisions take the header of the
//! acknowledged write they name, and hold or not, as may be, for unknown writes.
//!
//! Not judged: serializable and historical reads, keys that are ever attached to a lease.

mod project;
mod search;
#[cfg(test)]
mod tests;

use crate::check::{Evidence, Limits, Verdict, describe};

use search::{Found, search};

/// Checks all keys.
pub fn check(evidence: &Evidence<'_>, limits: &Limits) -> Verdict {
    let mut findings = Vec::new();
    let mut undecided = Vec::new();
    for (key, history) in project::split(&evidence.operations) {
        match search(&history, &history.spans, limits.search_steps) {
            Found::Linearizable => {}
            Found::Undecided => undecided.push(format!("key {key}: undecided ({})", history.size())),
            Found::Illegal { taken, stuck } => {
                let stuck = history
                    .operations
                    .get(stuck)
                    .map(|index| describe(&evidence.operations[*index]));
                findings.push(format!(
                    "key {key} is not linearizable: {taken} of {} calls have an order, but no order explains {}",
                    history.spans.len(),
                    stuck.unwrap_or_default()
                ));
            }
        }
    }
    if findings.is_empty() && !undecided.is_empty() {
        return Verdict::Invalid(undecided.join("\n"));
    }
    Verdict::from_findings(&findings)
}
