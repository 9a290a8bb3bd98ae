//! When a lease must have ended: leaders and faults that gave it more time.

use crate::check::{Evidence, Limits};
use crate::history::Record;

/// Changes of leader and faults, by time.
#[derive(Debug)]
pub(super) struct Unrest {
    /// For each term: the last sight of an older one, and the first of this one. The change was in between.
    changes: Vec<(u64, u64)>,
    /// Start and end of each fault that took effect.
    faults: Vec<(u64, u64)>,
}

impl Unrest {
    pub(super) fn find(evidence: &Evidence<'_>) -> Self {
        // (term, first seen, last seen)
        let mut terms: Vec<(u64, u64, u64)> = Vec::new();
        let mut see = |term: u64, at: u64| match terms.iter_mut().find(|(known, ..)| *known == term) {
            Some((_, first, last)) => (*first, *last) = (at.min(*first), at.max(*last)),
            None => terms.push((term, at, at)),
        };
        for operation in &evidence.operations {
            if let Some(response) = operation.response()
                && response.header().raft_term > 0
            {
                see(response.header().raft_term, operation.ret);
            }
        }
        for record in &evidence.history.records {
            if let Record::Leader(leader) = record {
                see(leader.term, leader.at);
            }
        }
        terms.sort_unstable();
        let changes = terms
            .windows(2)
            .map(|pair| (pair[0].2.min(pair[1].1), pair[1].1))
            .collect();
        let took_effect = evidence.history.faults().filter(|fault| fault.took_effect);
        Self {
            changes,
            faults: took_effect.map(|fault| (fault.start, fault.end)).collect(),
        }
    }

    /// The latest moment at which a lease may end that was last renewed at `renewed`, when that is asked for its state
    /// at `at`.
    pub(super) fn latest_end(&self, renewed: u64, at: u64, ttl: u64, limits: &Limits) -> u64 {
        let mut latest = renewed + ttl + limits.lease_late;
        for (after, until) in &self.changes {
            if *until > renewed && *after < at {
                latest = latest.max((*until).min(at) + ttl + limits.lease_late_after_leader);
            }
        }
        for (start, end) in &self.faults {
            if *end > renewed && *start < at {
                latest = latest.max((*end).min(at) + ttl + limits.lease_late_after_leader);
            }
        }
        latest
    }
}
