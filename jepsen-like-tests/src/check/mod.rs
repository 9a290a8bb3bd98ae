//! Judges of a history: each takes what was seen and says whether a promise was broken.
//!
//! Collect the evidence once, then ask one checker or all of them:
//!
//! ```
//! use kelson_jepsen::check::{self, Evidence, Limits};
//! use kelson_jepsen::history::History;
//!
//! let history = History::default();
//! let evidence = Evidence::new(&history, &[]);
//! let reports = check::all(&evidence, &Limits::default());
//! assert!(reports.iter().any(|report| report.checker == "order"));
//! ```
//!
//! A [`Verdict::Fail`] names the operations in words. [`Verdict::Invalid`] (nothing to judge by, or undecided) counts
//! as a failure of the run. `cargo xtask recheck DIR` repeats the verdicts on a saved episode.

pub mod convergence;
pub mod coverage;
pub mod cycle;
pub mod durability;
#[cfg(test)]
mod generate;
pub mod lease;
pub mod liveness;
pub mod order;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod wgl;

use std::fmt;

use crate::history::{History, MemberSummary, Operation, Outcome, Request};

/// What a checker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The promise was kept, as far as this history can tell.
    Pass,
    /// The promise was broken; the text says by which operations.
    Fail(String),
    /// Nothing can be said; the text says why.
    Invalid(String),
}

impl Verdict {
    /// Whether the promise was kept.
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Pass)
    }

    /// Whether the promise was broken.
    pub fn is_fail(&self) -> bool {
        matches!(self, Self::Fail(_))
    }

    /// A failure if anything was found, with the first few findings as its text.
    pub fn from_findings(findings: &[String]) -> Self {
        const SHOWN: usize = 8;
        if findings.is_empty() {
            return Self::Pass;
        }
        let mut text = findings[..findings.len().min(SHOWN)].join("\n");
        if findings.len() > SHOWN {
            text.push_str(&format!("\n... and {} more", findings.len() - SHOWN));
        }
        Self::Fail(text)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail(text) => write!(f, "FAIL\n{text}"),
            Self::Invalid(text) => write!(f, "INVALID\n{text}"),
        }
    }
}

/// Everything the checkers judge by.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The history.
    pub history: &'a History,
    /// Its calls with their returns, by time of call.
    pub operations: Vec<Operation>,
    /// The members at the end; may be empty.
    pub members: &'a [MemberSummary],
}

impl<'a> Evidence<'a> {
    /// Collects the evidence of one run.
    pub fn new(history: &'a History, members: &'a [MemberSummary]) -> Self {
        Self {
            history,
            operations: history.operations(),
            members,
        }
    }
}

/// What one checker said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the checker.
    pub checker: &'static str,
    /// Its verdict.
    pub verdict: Verdict,
}

/// Bounds that checkers hold a run to. All times in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most steps of the search for a linearization of one key, before it counts as undecided.
    pub search_steps: u64,
    /// From the start of a fault that leaves a majority to the next OK write.
    pub write_after_fault: u64,
    /// From the end of a fault, or of all, to the next OK write.
    pub write_after_heal: u64,
    /// Longest time without an OK write when nothing is wrong.
    pub calm_write_gap: u64,
    /// From the end of faults, and of writes, to the last event on every open stream (P9).
    pub last_event: u64,
    /// How long a lease may outlive its TTL without a change of leader (P11).
    pub lease_late: u64,
    /// How long a lease may outlive TTL after the last change of leader (P11).
    pub lease_late_after_leader: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            search_steps: 200_000_000,
            write_after_fault: 3 * SECOND,
            write_after_heal: 5 * SECOND,
            calm_write_gap: 3 * SECOND,
            last_event: 5 * SECOND,
            lease_late: 3 * SECOND,
            lease_late_after_leader: 4 * SECOND,
        }
    }
}

/// Asks every checker that judges single runs.
pub fn all(evidence: &Evidence<'_>, limits: &Limits) -> Vec<Report> {
    judge(evidence, limits).0
}

/// As [`all`]; also gives away the history of the store that `order` found, for counting ([`coverage::Tally::of`]).
pub fn judge(evidence: &Evidence<'_>, limits: &Limits) -> (Vec<Report>, Option<order::Timeline>) {
    let (order, timeline) = order::check(evidence);
    let known = timeline.as_ref();
    let verdicts = [
        ("order", order),
        ("wgl", wgl::check(evidence, known, limits)),
        ("cycle", cycle::check(evidence)),
        ("watch", watch::check(evidence, known, limits)),
        ("lease", lease::check(evidence, known, limits)),
        ("durability", durability::check(evidence)),
        ("convergence", convergence::check(evidence)),
        ("liveness", liveness::check(evidence, limits)),
    ];
    let reports = verdicts.map(|(checker, verdict)| Report { checker, verdict });
    (reports.into(), timeline)
}

/// How a call is named in explanations: its id, client, request and outcome in one short line.
pub fn describe(operation: &Operation) -> String {
    let outcome = match &operation.outcome {
        Outcome::Ok(response) => format!("ok at revision {}", response.header().revision),
        Outcome::Failed { text, .. } => format!("failed: {text}"),
        Outcome::Unknown { .. } => "unknown".to_owned(),
    };
    let request = describe_request(&operation.request);
    format!(
        "call {} (client {}: {request}, {outcome})",
        operation.id, operation.client
    )
}

fn describe_request(request: &Request) -> String {
    match request {
        Request::Range(range) if range.range_end.is_empty() => format!("get {}", range.key),
        Request::Range(range) => format!("get [{}, {})", range.key, range.range_end),
        Request::Put(put) => format!("put {}={}", put.key, put.value),
        Request::DeleteRange(delete) if delete.range_end.is_empty() => format!("delete {}", delete.key),
        Request::DeleteRange(delete) => format!("delete [{}, {})", delete.key, delete.range_end),
        Request::Txn(txn) => {
            let (compares, then, otherwise) = (txn.compare.len(), txn.success.len(), txn.failure.len());
            format!("txn of {compares} compares, {then} then, {otherwise} else")
        }
        Request::Compact(compact) => format!("compact {}", compact.revision),
        Request::LeaseGrant(grant) => format!("grant lease {} for {} s", grant.id, grant.ttl),
        Request::LeaseRevoke(lease) => format!("revoke lease {}", lease.id),
        Request::LeaseKeepAlive(lease) => format!("keep lease {} alive", lease.id),
        Request::LeaseTimeToLive(lease) => format!("time to live of lease {}", lease.id),
        Request::Admin(admin) => format!("{} {}", admin.name, admin.detail),
    }
}

/// Nanoseconds as seconds with milliseconds, for explanations.
pub(crate) fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:03} s",
        nanoseconds / 1_000_000_000,
        nanoseconds / 1_000_000 % 1000
    )
}
