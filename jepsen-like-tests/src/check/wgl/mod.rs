//! Is each key linearizable (P1)? Asked of values and versions alone, by search.
//!
//! A history is linearizable if it is for each key, so keys are judged one by one; a call on several keys is, for each
//! of them, a call on that key. Revisions in headers are not looked at, so that a wrong revision cannot excuse a wrong
//! value: this judge and `order` reach their verdicts on different ways. Compares with revisions take the header of the
//! acknowledged write they name, and hold or not, as may be, for unknown writes.
//!
//! Each unknown call that may or may not have happened doubles what is to be searched. Where that is too much, the search
//! is told what [`Timeline`] knows of them: which never happened, and by when the others had. Of what was acknowledged it
//! is told nothing.
//!
//! Not judged: serializable and historical reads, keys that are ever attached to a lease.

mod project;
mod search;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::check::order::{Maker, Timeline};
use crate::check::{Evidence, Limits, Verdict, describe};

use project::KeyHistory;
use search::{Found, search};

/// Steps of a search that is told nothing, where there is something to tell.
const STEPS_UNTOLD: u64 = 100_000;

/// Checks all keys. `known` is what `order` found, if it found anything.
pub fn check(evidence: &Evidence<'_>, known: Option<&Timeline>, limits: &Limits) -> Verdict {
    let mut findings = Vec::new();
    let mut undecided = Vec::new();
    let fates = known.and_then(fates);
    for (key, mut history) in project::split(&evidence.operations) {
        match decide(&mut history, evidence, fates.as_ref(), limits) {
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

/// Of calls that changed something, by id: by when they had, in nanoseconds. None if some change is a guess.
fn fates(timeline: &Timeline) -> Option<HashMap<u64, u64>> {
    let mut fates = HashMap::new();
    for change in &timeline.changes {
        if change.guessed {
            return None;
        }
        if let Maker::Call(id) = change.maker {
            fates.insert(id, change.not_after);
        }
    }
    Some(fates)
}

fn decide(
    history: &mut KeyHistory,
    evidence: &Evidence<'_>,
    fates: Option<&HashMap<u64, u64>>,
    limits: &Limits,
) -> Found {
    let Some(fates) = fates else {
        return search(history, &history.spans, limits.search_steps);
    };
    let found = search(history, &history.spans, STEPS_UNTOLD.min(limits.search_steps));
    if found != Found::Undecided {
        return found;
    }
    history.tell(|index| {
        let operation = &evidence.operations[index];
        if operation.is_unknown() {
            fates.get(&operation.id).copied()
        } else {
            Some(operation.ret)
        }
    });
    search(history, &history.spans, limits.search_steps)
}
