//! Did the campaign try what it was to try? Counts, summed over runs, against section 7 of the design.
//!
//! Each run makes a [`Tally`]: what its history shows by itself, plus what only the harness knows (snapshot installs, torn
//! tails, `reached!` marks). A campaign adds them up and holds the sum against a [`Demand`].

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::order::{Maker, Timeline};
use crate::check::{Evidence, Verdict, watch};
use crate::history::{Outcome, Record, Request};

/// What happened in a run, or in several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Calls.
    pub operations: u64,
    /// Calls whose fate is unknown.
    pub unknown: u64,
    /// Faults that took effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Changes of term.
    pub elections: u64,
    /// Snapshots installed on members; told by the harness.
    pub snapshot_installs: u64,
    /// Compactions acknowledged.
    pub compactions: u64,
    /// Watchers created again after their stream had ended.
    pub watch_resumptions: u64,
    /// Watchers ended by a compaction.
    pub compaction_cancels: u64,
    /// Leases that ended by themselves, with keys.
    pub lease_expiries: u64,
    /// Acknowledged changes of membership.
    pub membership_changes: u64,
    /// Torn log tails cut at a start; told by the harness.
    pub torn_tails: u64,
    /// `reached!` marks hit, by name; told by the harness.
    pub reached: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts what the history of one run shows.
    pub fn of(evidence: &Evidence<'_>, timeline: Option<&Timeline>) -> Self {
        let mut tally = Self {
            operations: evidence.operations.len() as u64,
            ..Self::default()
        };
        let mut terms = BTreeSet::new();
        for operation in &evidence.operations {
            tally.unknown += u64::from(operation.is_unknown());
            let Outcome::Ok(response) = &operation.outcome else {
                continue;
            };
            terms.extend(Some(response.header().raft_term).filter(|term| *term > 0));
            match &operation.request {
                Request::Compact(_) => tally.compactions += 1,
                Request::Admin(admin) => {
                    let changes = ["MemberAdd", "MemberRemove", "MemberPromote", "MemberUpdate"];
                    tally.membership_changes += u64::from(changes.contains(&admin.name.as_str()));
                }
                _ => {}
            }
        }
        for record in &evidence.history.records {
            match record {
                Record::Fault(fault) if fault.took_effect => {
                    *tally.faults.entry(fault.kind.clone()).or_default() += 1;
                }
                Record::Leader(leader) => {
                    terms.insert(leader.term);
                }
                _ => {}
            }
        }
        tally.elections = terms.len().saturating_sub(1) as u64;
        if let Some(timeline) = timeline {
            let expired = timeline
                .changes
                .iter()
                .filter(|change| matches!(change.maker, Maker::Expiry(_)));
            tally.lease_expiries = expired.count() as u64;
            let watches = watch::tally(evidence, timeline);
            tally.watch_resumptions = watches.resumptions;
            tally.compaction_cancels = watches.compaction_cancels;
        }
        tally
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.elections += other.elections;
        self.snapshot_installs += other.snapshot_installs;
        self.compactions += other.compactions;
        self.watch_resumptions += other.watch_resumptions;
        self.compaction_cancels += other.compaction_cancels;
        self.lease_expiries += other.lease_expiries;
        self.membership_changes += other.membership_changes;
        self.torn_tails += other.torn_tails;
        for (ours, theirs) in [
            (&mut self.faults, &other.faults),
            (&mut self.reached, &other.reached),
        ] {
            for (name, count) in theirs {
                *ours.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("elections", self.elections),
            ("snapshot installs", self.snapshot_installs),
            ("compactions", self.compactions),
            ("watch resumptions", self.watch_resumptions),
            ("of them ended by compaction", self.compaction_cancels),
            ("lease expiries", self.lease_expiries),
            ("membership changes", self.membership_changes),
            ("torn tails", self.torn_tails),
        ];
        let counts = counts.map(|(name, count)| format!("{count} {name}"));
        let faults = self.faults.iter().map(|(kind, count)| format!("{kind} {count}"));
        let faults = faults.collect::<Vec<_>>().join(", ");
        write!(f, "tried: {}; faults: {faults}", counts.join(", "))
    }
}

/// What a campaign must have tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Fault kinds of the campaign; each must have taken effect `each_fault` times.
    pub fault_kinds: Vec<String>,
    /// See `fault_kinds`.
    pub each_fault: u64,
    /// Names of all `reached!` marks.
    pub marks: Vec<String>,
    /// How many of the marks must have been hit, in percent.
    pub marks_percent: u64,
    /// Least counts of everything else.
    pub least: Tally,
}

impl Demand {
    /// The demand of the Full rung for these fault kinds and marks.
    pub fn full(fault_kinds: &[&str], marks: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let least = Tally {
            elections: 20,
            snapshot_installs: 5,
            compactions: 50,
            watch_resumptions: 100,
            compaction_cancels: 10,
            lease_expiries: 100,
            membership_changes: 6,
            torn_tails: 5,
            ..Tally::default()
        };
        Self {
            fault_kinds: owned(fault_kinds),
            each_fault: 3,
            marks: owned(marks),
            marks_percent: 80,
            least,
        }
    }

    /// The demand of the Long rung: as Full, with all marks.
    pub fn long(fault_kinds: &[&str], marks: &[&str]) -> Self {
        Self {
            marks_percent: 100,
            ..Self::full(fault_kinds, marks)
        }
    }

    /// The demand of the Gate: a quarter of Full, but at least one of each.
    pub fn gate(fault_kinds: &[&str], marks: &[&str]) -> Self {
        let mut demand = Self::full(fault_kinds, marks);
        demand.each_fault = (demand.each_fault / 4).max(1);
        demand.marks_percent /= 4;
        let least = &mut demand.least;
        for count in [
            &mut least.elections,
            &mut least.snapshot_installs,
            &mut least.compactions,
            &mut least.watch_resumptions,
            &mut least.compaction_cancels,
            &mut least.lease_expiries,
            &mut least.membership_changes,
            &mut least.torn_tails,
        ] {
            *count = (*count / 4).max(1);
        }
        demand
    }
}

/// Unknown calls a campaign must have at least, of 10,000: fewer, and its faults did nothing.
const LEAST_UNKNOWN: u64 = 5;
/// Unknown calls a campaign may have at most, of 10,000: more, and it checked too little.
const MOST_UNKNOWN: u64 = 2_000;

/// Checks the sum of a campaign.
pub fn check(tally: &Tally, demand: &Demand) -> Verdict {
    let mut findings = Vec::new();
    let mut least = |name: &str, count: u64, wanted: u64| {
        if count < wanted {
            findings.push(format!("{name}: {count}, must be {wanted} at least"));
        }
    };
    for kind in &demand.fault_kinds {
        let count = tally.faults.get(kind).copied().unwrap_or(0);
        least(&format!("fault {kind} with effect"), count, demand.each_fault);
    }
    let wanted = &demand.least;
    least("operations", tally.operations, wanted.operations);
    least("elections", tally.elections, wanted.elections);
    least(
        "snapshot installs",
        tally.snapshot_installs,
        wanted.snapshot_installs,
    );
    least("compactions", tally.compactions, wanted.compactions);
    least(
        "watch resumptions",
        tally.watch_resumptions,
        wanted.watch_resumptions,
    );
    least(
        "watches ended by compaction",
        tally.compaction_cancels,
        wanted.compaction_cancels,
    );
    least("lease expiries", tally.lease_expiries, wanted.lease_expiries);
    least(
        "membership changes",
        tally.membership_changes,
        wanted.membership_changes,
    );
    least("torn tails cut", tally.torn_tails, wanted.torn_tails);
    let hit = |mark: &&String| tally.reached.get(*mark).is_some_and(|count| *count > 0);
    let missed: Vec<&String> = demand.marks.iter().filter(|mark| !hit(mark)).collect();
    let marks = demand.marks.len();
    if (marks - missed.len()) as u64 * 100 < demand.marks_percent * marks as u64 {
        let percent = demand.marks_percent;
        findings.push(format!(
            "marks: {} of {marks} never reached ({missed:?}), {percent} % must be",
            missed.len()
        ));
    }
    if !demand.fault_kinds.is_empty() && tally.operations > 0 {
        let share = tally.unknown * 10_000 / tally.operations;
        if !(LEAST_UNKNOWN..=MOST_UNKNOWN).contains(&share) {
            findings.push(format!(
                "unknown calls: {} of {}",
                tally.unknown, tally.operations
            ));
        }
    }
    Verdict::from_findings(&findings)
}
