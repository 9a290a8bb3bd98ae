//! Rejections must have had their reason, and compactions their effect.

use super::{Compaction, Timeline};
use crate::check::{Evidence, describe};
use crate::history::{Operation, Outcome, Request, TxnOp};
use crate::model::{self, Rejected};

/// Everything that compacted or may have, by time of call.
pub(super) fn compactions(operations: &[Operation]) -> Vec<Compaction> {
    let mut compactions = Vec::new();
    for operation in operations {
        let Request::Compact(compact) = &operation.request else {
            continue;
        };
        if !matches!(operation.outcome, Outcome::Failed { .. }) {
            let (call, ret) = (operation.call, operation.ret);
            compactions.push(Compaction {
                revision: compact.revision,
                call,
                ret,
            });
        }
    }
    compactions
}

/// Checks all rejections and compactions.
pub(super) fn check(evidence: &Evidence<'_>, timeline: &Timeline) -> Vec<String> {
    let operations = &evidence.operations;
    let done = Done::new(operations, timeline);
    let mut findings = compactions_rise(&done.compactions);
    for operation in operations {
        let finding = match &operation.outcome {
            Outcome::Ok(response) => done.finding_of_read(operation, response.header().revision),
            Outcome::Failed { text, .. } => done.finding_of_rejection(operation, text),
            Outcome::Unknown { .. } => None,
        };
        findings.extend(finding.map(|finding| format!("{}: {finding}", describe(operation))));
    }
    findings
}

/// Acknowledged compactions: each by its revision, the store revision in its header, and its call.
struct Done<'a> {
    compactions: Vec<(i64, i64, &'a Operation)>,
    /// Highest compact revision acknowledged up to a time of return.
    returned: Vec<(u64, i64)>,
    /// Highest compact revision among compactions up to a header revision.
    by_header: Vec<(i64, i64)>,
    /// Lowest, highest compact revision that may have been reached by a time of call.
    called: Vec<(u64, i64)>,
    /// Newest revision acknowledged up to a time of return.
    newest: Vec<(u64, i64)>,
    timeline: &'a Timeline,
}

/// Sorts by the first field and lets the second only grow.
fn rising<K: Ord + Copy>(mut steps: Vec<(K, i64)>) -> Vec<(K, i64)> {
    steps.sort_unstable();
    let mut highest = i64::MIN;
    for (_, value) in &mut steps {
        highest = highest.max(*value);
        *value = highest;
    }
    steps
}

/// The value of the last step before `key`.
fn before<K: Ord + Copy>(steps: &[(K, i64)], key: K) -> i64 {
    let place = steps.partition_point(|(step, _)| *step < key);
    place.checked_sub(1).map_or(i64::MIN, |place| steps[place].1)
}

impl<'a> Done<'a> {
    fn new(operations: &'a [Operation], timeline: &'a Timeline) -> Self {
        let mut compactions = Vec::new();
        let mut newest = Vec::new();
        for operation in operations {
            let Some(response) = operation.response() else {
                continue;
            };
            newest.push((operation.ret, response.header().revision));
            if let Request::Compact(compact) = &operation.request {
                compactions.push((compact.revision, response.header().revision, operation));
            }
        }
        compactions.sort_by_key(|(revision, header, _)| (*header, *revision));
        let of = |at: fn(&Operation) -> u64| {
            compactions
                .iter()
                .map(|(revision, _, operation)| (at(operation), *revision))
                .collect()
        };
        Self {
            returned: rising(of(|operation| operation.ret)),
            by_header: rising(
                compactions
                    .iter()
                    .map(|(revision, header, _)| (*header, *revision))
                    .collect(),
            ),
            called: rising(
                timeline
                    .compactions
                    .iter()
                    .map(|done| (done.call, done.revision))
                    .collect(),
            ),
            newest: rising(newest),
            compactions,
            timeline,
        }
    }

    /// P4: once compacted, always compacted.
    fn finding_of_read(&self, operation: &Operation, header: i64) -> Option<String> {
        let mut oldest = i64::MAX;
        let mut local = false;
        match &operation.request {
            Request::Range(range) => {
                oldest = if range.revision > 0 {
                    range.revision
                } else {
                    i64::MAX
                };
                local = range.serializable;
            }
            Request::Txn(txn) => oldest_in_txn(txn, operation, &mut oldest),
            _ => {}
        }
        let by_time = if local {
            i64::MIN
        } else {
            before(&self.returned, operation.call)
        };
        let compacted = by_time.max(before(&self.by_header, header));
        (oldest < compacted).then(|| format!("read revision {oldest} after compaction at {compacted}"))
    }

    /// P6: a rejection is true at some moment of the call.
    fn finding_of_rejection(&self, operation: &Operation, text: &str) -> Option<String> {
        let says = |rejected: Rejected| text == rejected.status().1;
        let refused = model::validate(&operation.request).err();
        if let Some(refused) = refused.filter(|refused| !says(*refused)) {
            return Some(format!("must have been refused with: {}", refused.status().1));
        }
        let always = [
            Rejected::EmptyKey,
            Rejected::ValueProvided,
            Rejected::LeaseProvided,
            Rejected::TooManyOps,
            Rejected::DuplicateKey,
        ];
        if refused.is_none() && always.into_iter().any(says) {
            return Some("there is nothing wrong with the request".to_owned());
        }
        if says(Rejected::Compacted) {
            let possible = before(&self.called, operation.ret);
            let lowest = lowest_revision(&operation.request);
            return (lowest > possible).then(|| "nothing that high was ever compacted".to_owned());
        }
        if says(Rejected::FutureRevision) {
            let reached = if is_local(&operation.request) {
                0
            } else {
                before(&self.newest, operation.call)
            };
            let highest = highest_revision(&operation.request);
            return (highest <= reached).then(|| format!("revision {reached} had been reached already"));
        }
        if let (Request::Put(put), true) = (&operation.request, says(Rejected::KeyNotFound)) {
            let absent = self.may_be_absent(&put.key, operation);
            return (!absent).then(|| "the key was there all the time".to_owned());
        }
        None
    }

    /// Whether `key` was absent at any moment of a call.
    fn may_be_absent(&self, key: &crate::history::Blob, operation: &Operation) -> bool {
        let last_known = before(&self.newest, operation.call);
        let mut absent = true;
        for change in &self.timeline.changes {
            if change.revision > last_known {
                if absent {
                    return true;
                }
                if change.not_before > operation.ret {
                    return false;
                }
            }
            for event in change.events.iter().filter(|event| event.kv.key == *key) {
                absent = event.kind == crate::history::EventKind::Delete;
            }
        }
        absent
    }
}

fn compactions_rise(compactions: &[(i64, i64, &Operation)]) -> Vec<String> {
    let mut findings = Vec::new();
    for pair in compactions.windows(2) {
        let [(first, _, one), (second, _, other)] = pair else {
            continue;
        };
        if first >= second {
            findings.push(format!(
                "{} and {} cannot both have been done",
                describe(one),
                describe(other)
            ));
        }
    }
    findings
}

fn is_local(request: &Request) -> bool {
    match request {
        Request::Range(range) => range.serializable,
        Request::Txn(txn) => {
            let mut ops = txn.success.iter().chain(&txn.failure);
            ops.all(|op| matches!(op, TxnOp::Range(range) if range.serializable))
        }
        _ => false,
    }
}

/// Every revision that a request names.
fn revisions(request: &Request) -> Vec<i64> {
    fn of_ops(ops: &[TxnOp], revisions: &mut Vec<i64>) {
        for op in ops {
            match op {
                TxnOp::Range(range) if range.revision != 0 => revisions.push(range.revision),
                TxnOp::Txn(txn) => {
                    of_ops(&txn.success, revisions);
                    of_ops(&txn.failure, revisions);
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    match request {
        Request::Range(range) => found.push(range.revision),
        Request::Compact(compact) => found.push(compact.revision),
        Request::Txn(txn) => {
            of_ops(&txn.success, &mut found);
            of_ops(&txn.failure, &mut found);
        }
        _ => {}
    }
    found
}

/// The lowest revision that a request names: for a read, one below it must have been compacted.
fn lowest_revision(request: &Request) -> i64 {
    let lowest = revisions(request).into_iter().min().unwrap_or(i64::MAX);
    match request {
        Request::Range(_) => lowest.saturating_add(1),
        Request::Txn(_) if lowest < 0 => i64::MIN,
        Request::Txn(_) => lowest.saturating_add(1),
        // Compacting a negative revision is refused from the start.
        _ if lowest < 0 => i64::MIN,
        _ => lowest,
    }
}

fn highest_revision(request: &Request) -> i64 {
    revisions(request).into_iter().max().unwrap_or(0)
}

fn oldest_in_txn(txn: &crate::history::Txn, operation: &Operation, oldest: &mut i64) {
    let Some(crate::history::Response::Txn(response)) = operation.response() else {
        return;
    };
    let ops = if response.succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    for op in ops {
        if let TxnOp::Range(range) = op
            && range.revision > 0
        {
            *oldest = range.revision.min(*oldest);
        }
    }
}
