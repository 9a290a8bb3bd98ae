//! The cluster goes on: longest times without an acknowledged write (P16, section 8 of the design).
//!
//! After the start of a fault that leaves a majority, after the end of every fault, and in phases without faults, some
//! write must be acknowledged within its limit, if any was asked for in time. Where faults overlap or follow closely,
//! the later one counts. That streams are not stuck is the watch checker's to see.

#[cfg(test)]
mod tests;

use crate::check::{Evidence, Limits, Verdict, seconds};
use crate::history::{Fault, Operation, Phase, Request};

/// Writes by time.
struct Writes {
    /// Call and return of acknowledged writes, by return.
    acknowledged: Vec<(u64, u64)>,
    /// Calls of all writes.
    calls: Vec<u64>,
    /// Time of the last record of a call.
    end: u64,
}

impl Writes {
    fn collect(operations: &[Operation]) -> Self {
        let writes = operations.iter().filter(|operation| {
            matches!(
                operation.request,
                Request::Put(_) | Request::Txn(_) | Request::DeleteRange(_)
            )
        });
        let (mut acknowledged, mut calls) = (Vec::new(), Vec::new());
        for write in writes {
            calls.push(write.call);
            if write.response().is_some() {
                acknowledged.push((write.ret, write.call));
            }
        }
        acknowledged.sort_unstable();
        calls.sort_unstable();
        let returned = acknowledged.last().map_or(0, |(ret, _)| *ret);
        let end = calls.last().copied().unwrap_or(0).max(returned);
        Self {
            acknowledged: acknowledged.into_iter().map(|(ret, call)| (call, ret)).collect(),
            calls,
            end,
        }
    }

    /// When the first write was acknowledged that was called at `from` or later.
    fn first_after(&self, from: u64) -> Option<u64> {
        self.acknowledged
            .iter()
            .find(|(call, _)| *call >= from)
            .map(|(_, ret)| *ret)
    }

    /// Whether the time from `from` on was long enough, and a write asked for in the first half of it.
    fn tests(&self, from: u64, limit: u64) -> bool {
        let asked = self.calls.get(self.calls.partition_point(|call| *call < from));
        from + limit <= self.end && asked.is_some_and(|call| *call <= from + limit / 2)
    }
}

/// Checks a run.
pub fn check(evidence: &Evidence<'_>, limits: &Limits) -> Verdict {
    let writes = Writes::collect(&evidence.operations);
    if writes.acknowledged.is_empty() {
        return Verdict::Invalid("no write was ever acknowledged".to_owned());
    }
    let faults: Vec<&Fault> = evidence
        .history
        .faults()
        .filter(|fault| fault.took_effect)
        .collect();
    let mut findings = Vec::new();
    for (place, fault) in faults.iter().enumerate() {
        let others = || {
            faults
                .iter()
                .enumerate()
                .filter(move |(other, _)| *other != place)
                .map(|(_, other)| other)
        };
        let disturbed = |from: u64, limit: u64| {
            others().any(|other| {
                let worse = !other.majority_remains || other.slows;
                let near = |at: u64| from < at && at <= from + limit;
                let lasts = other.start <= from + limit && other.end > from;
                near(other.start) || near(other.end) || (lasts && worse)
            })
        };
        let name = format!("{} of {:?}", fault.kind, fault.targets);
        if fault.majority_remains && !fault.slows && !disturbed(fault.start, limits.write_after_fault) {
            let what = format!("the start of {name}");
            findings.extend(late(&writes, fault.start, limits.write_after_fault, &what));
        }
        if !disturbed(fault.end, limits.write_after_heal) {
            findings.extend(late(
                &writes,
                fault.end,
                limits.write_after_heal,
                &format!("the end of {name}"),
            ));
        }
    }
    findings.extend(calm(evidence, &writes, limits));
    Verdict::from_findings(&findings)
}

fn late(writes: &Writes, from: u64, limit: u64, what: &str) -> Option<String> {
    if !writes.tests(from, limit) {
        return None;
    }
    let first = writes.first_after(from);
    let gap = first.map(|first| first - from);
    gap.is_none_or(|gap| gap > limit).then(|| match gap {
        Some(gap) => format!(
            "the first write after {what} at {} took {}",
            seconds(from),
            seconds(gap)
        ),
        None => format!("no write was acknowledged after {what} at {}", seconds(from)),
    })
}

/// Gaps in the calm phase, and after everything has healed and settled.
fn calm(evidence: &Evidence<'_>, writes: &Writes, limits: &Limits) -> Vec<String> {
    let history = evidence.history;
    let phases = [
        (history.phase(Phase::Calm), history.phase(Phase::Faults)),
        (
            history
                .phase(Phase::Healed)
                .map(|at| at + limits.write_after_heal),
            history.phase(Phase::Final),
        ),
    ];
    let mut findings = Vec::new();
    for (from, until) in phases {
        let (Some(from), Some(until)) = (from, until) else {
            continue;
        };
        let inside = writes
            .acknowledged
            .iter()
            .map(|(_, ret)| *ret)
            .filter(|ret| (from..until).contains(ret));
        let mut last = from;
        for ret in inside.chain([until]) {
            let gap = ret.saturating_sub(last);
            let asked = writes.calls.partition_point(|call| *call < last);
            let asked = writes.calls.get(asked).is_some_and(|call| *call < last + gap / 2);
            if gap > limits.calm_write_gap && asked {
                findings.push(format!(
                    "no write was acknowledged for {} from {} on, without a fault",
                    seconds(gap),
                    seconds(last)
                ));
            }
            last = ret;
        }
    }
    findings
}
