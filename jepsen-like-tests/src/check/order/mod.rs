//! The one order of everything (P1 to P6): sort what happened by revision, do it again on the model, compare.
//!
//! 1. Every acknowledged call has a place: a change stands at the revision it made, everything else right after the
//!    revision in its header.
//! 2. Revisions that no acknowledged call made must have been made by unknown ones, or by the end of a lease. Reads,
//!    watches and log dumps show what happened there; [`replay`] finds who can have done it.
//! 3. The model does it all in that order; every field of every response must be what the model answers.
//! 4. The places must respect real time: what returned before another call began stands before it ([`real_time`]).
//!    Serializable reads may be late but never early, and never go back on one member.
//! 5. Rejections must have had their reason, and compactions their effect ([`refusals`]).
//!
//! Every step but the second is linear in the history, apart from sorting. If unique values and an observer of all keys
//! make the second step's choice unique, it is linear, too.
//!
//! The result is also a [`Timeline`]: the true history of the store, by which other checkers judge.

mod compare;
mod places;
mod real_time;
mod refusals;
mod replay;
mod requests;
#[cfg(test)]
mod tests;

pub(in crate::check) use self::requests::leases_of;
use crate::check::{Evidence, Verdict};
use crate::history::Event;

/// Who made a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// The call with this id.
    Call(u64),
    /// The end of this lease, without a client.
    Expiry(i64),
}

/// What happened at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision.
    pub revision: i64,
    /// Who made it.
    pub maker: Maker,
    /// Its events in order, each with the pair before it (as if nothing had been compacted).
    pub events: Vec<Event>,
    /// It happened at this time or later, in nanoseconds.
    pub not_before: u64,
    /// It had happened at this time, in nanoseconds; `u64::MAX` when nobody ever saw it.
    pub not_after: u64,
    /// Whether no read, watch or log showed what happened here, so that another choice was possible.
    pub guessed: bool,
}

/// A compaction that happened or may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// Its revision.
    pub revision: i64,
    /// When it was called, in nanoseconds.
    pub call: u64,
    /// When it returned, in nanoseconds; `u64::MAX` if it is unknown whether it happened.
    pub ret: u64,
}

/// The history of the store, revision by revision, as all answers together show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    /// One change for each revision from 2 on.
    pub changes: Vec<Change>,
    /// Compactions by time of call.
    pub compactions: Vec<Compaction>,
}

impl Timeline {
    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.changes.len() as i64 + 1
    }

    /// What happened at a revision.
    pub fn change(&self, revision: i64) -> Option<&Change> {
        usize::try_from(revision - 2)
            .ok()
            .and_then(|place| self.changes.get(place))
    }

    /// What happened from one revision to another, both included.
    pub fn between(&self, first: i64, last: i64) -> &[Change] {
        let first = (first.max(2) - 2) as usize;
        let last = (last.max(1) - 1) as usize;
        let last = last.min(self.changes.len());
        &self.changes[first.min(last)..last]
    }

    /// Whether history before `revision` may have been gone at a time.
    pub fn may_be_compacted(&self, revision: i64, at: u64) -> bool {
        self.compactions
            .iter()
            .any(|compaction| compaction.revision > revision && compaction.call < at)
    }
}

/// Checks a history; the timeline is there unless no order was found at all.
pub fn check(evidence: &Evidence<'_>) -> (Verdict, Option<Timeline>) {
    let places = match places::Places::find(evidence) {
        Ok(places) => places,
        Err(findings) => return (Verdict::from_findings(&findings), None),
    };
    let replayed = match replay::replay(evidence, &places) {
        Ok(replayed) => replayed,
        Err(verdict) => return (verdict, None),
    };
    let mut timeline = replayed.timeline;
    timeline.compactions = refusals::compactions(&evidence.operations);
    real_time::fill_not_before(evidence, &places, &mut timeline);
    let mut findings = replayed.differences;
    findings.extend(real_time::check(evidence, &places, &timeline));
    findings.extend(refusals::check(evidence, &timeline));
    (Verdict::from_findings(&findings), Some(timeline))
}
