//! The final reads: what the store is in the end.

use std::collections::BTreeMap;

use crate::check::Evidence;
use crate::history::{
    Blob, Event, KeyValue, Operation, Phase, Range, Request, Response, StreamEvent, WatchCreate,
};

/// The final state and history.
#[derive(Debug)]
pub(super) struct Last {
    /// When the final read was called, in nanoseconds.
    pub(super) called: u64,
    /// Revision of the final read.
    pub(super) revision: i64,
    /// All keys at that revision.
    pub(super) pairs: BTreeMap<Blob, KeyValue>,
    /// From this revision on `events` is whole.
    pub(super) whole_from: i64,
    /// Changes up to `revision`, as the final watch brought them.
    pub(super) events: Vec<Event>,
}

impl Last {
    /// Finds the last read of all keys after the final mark, and the watch of all keys that goes back furthest.
    pub(super) fn find(evidence: &Evidence<'_>) -> Result<Self, String> {
        let Some(begin) = evidence.history.phase(Phase::Final) else {
            return Err("the history has no final phase".to_owned());
        };
        let mut reads = evidence
            .operations
            .iter()
            .filter(|operation| operation.call >= begin)
            .rev();
        let Some((called, revision, pairs)) = reads.find_map(read_of_everything) else {
            return Err("nobody read all keys in the final phase".to_owned());
        };
        let Some((whole_from, events)) = watch_of_everything(evidence, begin) else {
            return Err("nobody watched all keys from the beginning in the final phase".to_owned());
        };
        let events = events
            .into_iter()
            .filter(|event| event.kv.mod_revision <= revision)
            .collect();
        Ok(Self {
            called,
            revision,
            pairs,
            whole_from,
            events,
        })
    }
}

fn is_everything(key: &Blob, end: &Blob) -> bool {
    matches!(key.as_slice(), [] | [0]) && end.as_slice() == [0]
}

fn read_of_everything(operation: &Operation) -> Option<(u64, i64, BTreeMap<Blob, KeyValue>)> {
    let (Request::Range(range), Some(Response::Range(response))) = (&operation.request, operation.response())
    else {
        return None;
    };
    let plain = Range {
        key: range.key.clone(),
        range_end: range.range_end.clone(),
        ..Range::default()
    };
    let whole = is_everything(&range.key, &range.range_end) && *range == plain && !response.more;
    let pairs = response.kvs.iter().map(|pair| (pair.key.clone(), pair.clone()));
    whole.then(|| (operation.call, response.header.revision, pairs.collect()))
}

/// Events of the watcher of all keys, created after `begin`, that starts at the lowest revision and was not canceled.
fn watch_of_everything(evidence: &Evidence<'_>, begin: u64) -> Option<(i64, Vec<Event>)> {
    let mut best: Option<(i64, Vec<Event>)> = None;
    // Of each stream only the first watcher counts: recorders open one of its own for this.
    let mut streams: BTreeMap<u64, (WatchCreate, Vec<Event>, bool)> = BTreeMap::new();
    for record in evidence.history.streams().filter(|record| record.at >= begin) {
        match &record.event {
            StreamEvent::Create { request, .. } if request.start_revision > 0 => {
                streams
                    .entry(record.stream)
                    .or_insert_with(|| (request.clone(), Vec::new(), true));
            }
            StreamEvent::Response(response) => {
                if let Some((_, events, alive)) = streams.get_mut(&record.stream) {
                    events.extend(response.events.iter().cloned());
                    *alive &= response.compact_revision == 0;
                }
            }
            _ => {}
        }
    }
    for (request, events, alive) in streams.into_values() {
        let whole = is_everything(&request.key, &request.range_end) && !request.no_put && !request.no_delete;
        // At a compact revision only what compaction kept is left; whole is what comes after.
        let from = if request.start_revision <= 2 {
            2
        } else {
            request.start_revision + 1
        };
        if whole && alive && best.as_ref().is_none_or(|(best, _)| from < *best) {
            let mut events = events;
            events.retain(|event| event.kv.mod_revision >= from);
            best = Some((from, events));
        }
    }
    best
}
