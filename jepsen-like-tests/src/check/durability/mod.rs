//! What was acknowledged is still there after everything was restarted, and nothing else is (P5, P7).
//!
//! After [`Phase::Final`] the recorder reads all keys and watches all keys from the beginning (or from where history
//! begins after a compaction). That final history is held against what clients attempted, without the model and without
//! `order`: acknowledged is a subset of final, final is a subset of attempted, versions and revisions are consecutive.

mod attempts;
mod last;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::check::{Evidence, Verdict, describe};
use crate::history::{Blob, Event, EventKind, KeyValue};

use attempts::{Attempts, changes_of};
use last::Last;

#[cfg(doc)]
use crate::history::Phase;

/// Checks a run with final reads; without them it is invalid.
pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let last = match Last::find(evidence) {
        Ok(last) => last,
        Err(why) => return Verdict::Invalid(why),
    };
    let mut findings = Vec::new();
    findings.extend(consecutive_revisions(&last));
    findings.extend(consecutive_versions(&last));
    findings.extend(same_end(&last));
    findings.extend(nothing_lost(evidence, &last));
    findings.extend(nothing_invented(evidence, &last));
    Verdict::from_findings(&findings)
}

fn show(event: &Event) -> String {
    match event.kind {
        EventKind::Put => format!(
            "put {}={} at revision {}",
            event.kv.key, event.kv.value, event.kv.mod_revision
        ),
        EventKind::Delete => format!("delete {} at revision {}", event.kv.key, event.kv.mod_revision),
    }
}

/// P5: each revision has made a change.
fn consecutive_revisions(last: &Last) -> Vec<String> {
    let mut next = last.whole_from;
    let mut findings = Vec::new();
    for event in &last.events {
        let revision = event.kv.mod_revision;
        if revision > next {
            findings.push(format!(
                "revisions {next} to {} are gone from the final history",
                revision - 1
            ));
        }
        next = next.max(revision + 1);
    }
    if next <= last.revision {
        findings.push(format!(
            "revisions {next} to {} are gone from the final history",
            last.revision
        ));
    }
    findings
}

/// Each version of a key follows the one before.
fn consecutive_versions(last: &Last) -> Vec<String> {
    let mut known: BTreeMap<&Blob, Option<&KeyValue>> = BTreeMap::new();
    let mut findings = Vec::new();
    for event in &last.events {
        let before = known.insert(&event.kv.key, (event.kind == EventKind::Put).then_some(&event.kv));
        // What a key was before the first event is known only if nothing was compacted.
        let before = match before {
            None if last.whole_from > 2 => continue,
            before => before.flatten(),
        };
        let wrong = match (event.kind, before) {
            (EventKind::Put, Some(old)) => {
                event.kv.version != old.version + 1 || event.kv.create_revision != old.create_revision
            }
            (EventKind::Put, None) => {
                event.kv.version != 1 || event.kv.create_revision != event.kv.mod_revision
            }
            (EventKind::Delete, old) => old.is_none(),
        };
        if wrong {
            let version = event.kv.version;
            let old = before.map_or("nothing".to_owned(), |old| format!("version {}", old.version));
            findings.push(format!("{} has version {version} after {old}", show(event)));
        }
    }
    findings
}

/// The final read is what the final history adds up to.
fn same_end(last: &Last) -> Vec<String> {
    let mut state: BTreeMap<&Blob, Option<&KeyValue>> = BTreeMap::new();
    for event in &last.events {
        state.insert(&event.kv.key, (event.kind == EventKind::Put).then_some(&event.kv));
    }
    let mut findings = Vec::new();
    for (key, expected) in &state {
        if last.pairs.get(*key) != expected.as_deref() {
            findings.push(format!("the final read has another {key} than the final history"));
        }
    }
    let unknown = last
        .pairs
        .values()
        .find(|pair| pair.mod_revision >= last.whole_from && !state.contains_key(&pair.key));
    findings
        .extend(unknown.map(|pair| format!("the final read has {}, the final history has not", pair.key)));
    findings
}

/// P7: acknowledged changes are in the final history.
fn nothing_lost(evidence: &Evidence<'_>, last: &Last) -> Vec<String> {
    let mut by_revision: BTreeMap<i64, Vec<&Event>> = BTreeMap::new();
    for event in &last.events {
        by_revision.entry(event.kv.mod_revision).or_default().push(event);
    }
    let attempts = Attempts::collect(&evidence.operations);
    let mut findings = Vec::new();
    for operation in &evidence.operations {
        let Some(response) = operation.response() else {
            continue;
        };
        let revision = response.header().revision;
        if revision > last.revision {
            // What had not returned when the final read began may have come after it.
            let newest = last.revision;
            let lost = format!("{} is lost: the final revision is {newest}", describe(operation));
            findings.extend((operation.ret < last.called).then_some(lost));
            continue;
        }
        for change in changes_of(&operation.request, response) {
            let there = if revision >= last.whole_from {
                by_revision
                    .get(&revision)
                    .is_some_and(|events| events.iter().any(|event| change.is(event)))
            } else {
                // Compacted: a later version, or a reason for none.
                let kept = last
                    .pairs
                    .get(change.key())
                    .is_some_and(|pair| pair.mod_revision >= revision);
                kept || change.is_delete() || attempts.may_delete(change.key())
            };
            if !there {
                findings.push(format!("{} is lost: {change}", describe(operation)));
            }
        }
    }
    findings
}

/// P7: everything in the final history was attempted.
fn nothing_invented(evidence: &Evidence<'_>, last: &Last) -> Vec<String> {
    let attempts = Attempts::collect(&evidence.operations);
    let mut state: BTreeMap<&Blob, &KeyValue> = BTreeMap::new();
    let mut findings = Vec::new();
    for event in &last.events {
        let key = &event.kv.key;
        let attempted = match event.kind {
            EventKind::Put => attempts.may_put(&event.kv),
            // A lease may have taken it, now or before history began.
            EventKind::Delete => {
                attempts.may_delete(key) || state.get(key).is_none_or(|pair| pair.lease != 0)
            }
        };
        if !attempted {
            findings.push(format!("{} was never attempted, or was rejected", show(event)));
        }
        if event.kind == EventKind::Put {
            state.insert(key, &event.kv);
        }
    }
    let pairs = last
        .pairs
        .values()
        .filter(|pair| pair.mod_revision < last.whole_from);
    for pair in pairs.filter(|pair| !attempts.may_put(pair)) {
        findings.push(format!(
            "{}={} was never attempted, or was rejected",
            pair.key, pair.value
        ));
    }
    findings
}
