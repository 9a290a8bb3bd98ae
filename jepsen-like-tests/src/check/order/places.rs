//! Where acknowledged calls stand, and what is known about revisions that none of them made.

use std::collections::{BTreeMap, HashMap};

use crate::check::{Evidence, describe};
use crate::history::{
    Event, EventKind, KeyValue, Operation, RangeResponse, Request, Response, StreamEvent, TxnOp,
    TxnOpResponse, TxnResponse,
};

/// How a call stands in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It made this revision.
    Made(i64),
    /// It happened between this revision and the next.
    After(i64),
    /// It was answered from one member's own state, which was that of this revision.
    Local(i64),
    /// Its header says nothing about order.
    Nowhere,
}

impl Place {
    /// Sort key: a change comes before what happened between it and the next change.
    pub(super) fn order(self) -> Option<(i64, u8)> {
        match self {
            Self::Made(revision) => Some((revision, 0)),
            Self::After(revision) | Self::Local(revision) => Some((revision, 1)),
            Self::Nowhere => None,
        }
    }
}

/// The places of all calls, and what was seen of each revision.
#[derive(Debug)]
pub(super) struct Places {
    /// Place of each call, by its index among the operations.
    pub(super) of: Vec<Place>,
    /// Index of the call that made each revision.
    pub(super) makers: HashMap<i64, usize>,
    /// Indexes of the calls after each revision.
    pub(super) after: HashMap<i64, Vec<usize>>,
    /// Newest revision anyone has seen.
    pub(super) newest: i64,
    /// For each revision without an acknowledged maker, what readers and watchers saw of it, by key.
    pub(super) seen: HashMap<i64, Vec<(EventKind, KeyValue)>>,
    /// `known_by[r]`: the first time at which someone held proof that revision `r` had been made.
    pub(super) known_by: Vec<u64>,
}

impl Places {
    /// Gives each acknowledged call its place; two calls that made the same revision are a finding.
    pub(super) fn find(evidence: &Evidence<'_>) -> Result<Self, Vec<String>> {
        let operations = &evidence.operations;
        let mut findings = Vec::new();
        let of: Vec<Place> = operations.iter().map(place).collect();
        let mut makers: HashMap<i64, usize> = HashMap::new();
        let mut after: HashMap<i64, Vec<usize>> = HashMap::new();
        for (index, place) in of.iter().enumerate() {
            let call = || describe(&operations[index]);
            match *place {
                Place::Made(revision) if revision < 2 => {
                    findings.push(format!("{} claims a revision that is not a change", call()));
                }
                Place::Made(revision) => {
                    if let Some(first) = makers.insert(revision, index) {
                        let first = describe(&operations[first]);
                        findings.push(format!(
                            "revision {revision} was made twice: by {first} and by {}",
                            call()
                        ));
                    }
                }
                Place::After(revision) | Place::Local(revision) if revision < 1 => {
                    findings.push(format!("{} carries no revision", call()));
                }
                Place::After(revision) | Place::Local(revision) => {
                    after.entry(revision).or_default().push(index);
                }
                Place::Nowhere => {}
            }
        }
        if !findings.is_empty() {
            return Err(findings);
        }
        let mut places = Self {
            of,
            makers,
            after,
            newest: 1,
            seen: HashMap::new(),
            known_by: Vec::new(),
        };
        places.collect_sightings(evidence);
        Ok(places)
    }

    fn collect_sightings(&mut self, evidence: &Evidence<'_>) {
        let mut first_seen: BTreeMap<i64, u64> = BTreeMap::new();
        let mut see = |revision: i64, at: u64| {
            let first = first_seen.entry(revision).or_insert(at);
            *first = at.min(*first);
        };
        let mut pairs = Vec::new();
        for (operation, place) in evidence.operations.iter().zip(&self.of) {
            let Some(response) = operation.response() else {
                continue;
            };
            if let Some((revision, _)) = place.order() {
                see(revision, operation.ret);
            }
            pairs_in(&operation.request, response, &mut |pair| {
                see(pair.mod_revision, operation.ret);
                pairs.push((EventKind::Put, pair.clone()));
            });
        }
        for record in evidence.history.streams() {
            let StreamEvent::Response(response) = &record.event else {
                continue;
            };
            see(response.header.revision, record.at);
            for Event { kind, kv, .. } in &response.events {
                see(kv.mod_revision, record.at);
                pairs.push((*kind, kv.clone()));
            }
        }
        self.newest = first_seen
            .last_key_value()
            .map_or(1, |(revision, _)| *revision)
            .max(1);
        self.known_by = vec![u64::MAX; self.newest as usize + 2];
        for (revision, at) in first_seen {
            if let Ok(place) = usize::try_from(revision) {
                self.known_by[place] = at;
            }
        }
        for revision in (0..=self.newest as usize).rev() {
            self.known_by[revision] = self.known_by[revision].min(self.known_by[revision + 1]);
        }
        for (kind, pair) in pairs {
            if !self.makers.contains_key(&pair.mod_revision) {
                let seen = self.seen.entry(pair.mod_revision).or_default();
                if !seen.contains(&(kind, pair.clone())) {
                    seen.push((kind, pair));
                }
            }
        }
    }
}

fn place(operation: &Operation) -> Place {
    let Some(response) = operation.response() else {
        return Place::Nowhere;
    };
    let revision = response.header().revision;
    let changed = match (&operation.request, response) {
        (Request::Range(range), _) if range.serializable => return Place::Local(revision),
        (Request::Txn(txn), _) if is_local(txn.success.iter().chain(&txn.failure)) => {
            return Place::Local(revision);
        }
        (Request::Put(_), _) => true,
        (_, Response::DeleteRange(response)) => response.deleted > 0,
        (_, Response::Txn(response)) => has_changed(response),
        // A revoke makes a revision only if the lease had keys, which its response does not tell: see `replay`.
        (Request::Range(_) | Request::Compact(_) | Request::LeaseGrant(_) | Request::LeaseRevoke(_), _) => {
            false
        }
        _ => return Place::Nowhere,
    };
    if changed {
        Place::Made(revision)
    } else {
        Place::After(revision)
    }
}

/// Section 2.5 of the API specification: answered from local state, without a quorum.
fn is_local<'a>(mut ops: impl Iterator<Item = &'a TxnOp>) -> bool {
    ops.all(|op| matches!(op, TxnOp::Range(range) if range.serializable))
}

/// Whether a transaction wrote anything, by its own account.
fn has_changed(response: &TxnResponse) -> bool {
    response.responses.iter().any(|response| match response {
        TxnOpResponse::Range(_) => false,
        TxnOpResponse::Put(_) => true,
        TxnOpResponse::DeleteRange(response) => response.deleted > 0,
        TxnOpResponse::Txn(response) => has_changed(response),
    })
}

/// Every full pair that a response shows.
fn pairs_in(request: &Request, response: &Response, see: &mut impl FnMut(&KeyValue)) {
    match (request, response) {
        (Request::Range(range), Response::Range(response)) => pairs_of_range(range.keys_only, response, see),
        (_, Response::Put(response)) => response.prev_kv.iter().for_each(see),
        (_, Response::DeleteRange(response)) => response.prev_kvs.iter().for_each(see),
        (Request::Txn(txn), Response::Txn(response)) => pairs_in_txn(txn, response, see),
        _ => {}
    }
}

fn pairs_of_range(keys_only: bool, response: &RangeResponse, see: &mut impl FnMut(&KeyValue)) {
    if !keys_only {
        response.kvs.iter().for_each(see);
    }
}

fn pairs_in_txn(txn: &crate::history::Txn, response: &TxnResponse, see: &mut impl FnMut(&KeyValue)) {
    let ops = if response.succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    for (op, response) in ops.iter().zip(&response.responses) {
        match (op, response) {
            (TxnOp::Range(range), TxnOpResponse::Range(response)) => {
                pairs_of_range(range.keys_only, response, see);
            }
            (_, TxnOpResponse::Put(response)) => response.prev_kv.iter().for_each(&mut *see),
            (_, TxnOpResponse::DeleteRange(response)) => response.prev_kvs.iter().for_each(&mut *see),
            (TxnOp::Txn(txn), TxnOpResponse::Txn(response)) => pairs_in_txn(txn, response, see),
            _ => {}
        }
    }
}
