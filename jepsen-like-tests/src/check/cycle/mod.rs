//! Append lists across keys: no cycle of who-came-first, no lost and no doubled element (P1, P2).
//!
//! A list is a key whose name begins with [`PREFIX`]; its value is its elements with [`SEPARATOR`] between them. An
//! append writes the whole list with one new element at its end; elements are unique for their key. What was read then
//! tells the order of versions of each key, and from that: who wrote before whom (ww), who read what whom wrote (wr), who
//! read before whom wrote (rw). Together with real time (rt) these edges must not form a cycle.
//!
//! Serializable and historical reads stand outside of time and are left out, but must show prefixes, too.

mod graph;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::check::{Evidence, Verdict, describe};
use crate::history::{
    Blob, KeyValue, Operation, Outcome, Range, RangeResponse, Request, Response, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};

use graph::{Edge, Graph};

/// Keys that begin with this are lists.
pub const PREFIX: &str = "list/";
/// Stands between the elements of a list.
pub const SEPARATOR: char = ' ';

/// The value of a list.
pub fn encode(elements: &[String]) -> Blob {
    Blob::from(elements.join(&SEPARATOR.to_string()))
}

/// The elements of a list.
pub fn decode(value: &Blob) -> Vec<String> {
    value
        .text()
        .split(SEPARATOR)
        .filter(|element| !element.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_list(key: &Blob) -> bool {
    key.as_slice().starts_with(PREFIX.as_bytes())
}

/// A list as a call saw it or wrote it.
#[derive(Debug, Clone)]
struct Sight {
    operation: usize,
    elements: Vec<String>,
    /// Whether the call put it there.
    written: bool,
    /// Whether it stands at a moment between call and return.
    timed: bool,
}

/// Checks all lists.
pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let operations = &evidence.operations;
    let mut findings = Vec::new();
    let mut graph = Graph::new(operations);
    let mut lists = sights(operations);
    for (key, sights) in &mut lists {
        judge_list(operations, key, sights, &mut graph, &mut findings);
    }
    findings.extend(graph.cycles(operations));
    Verdict::from_findings(&findings)
}

/// Everything seen and written, by key.
fn sights(operations: &[Operation]) -> BTreeMap<Blob, Vec<Sight>> {
    let mut lists: BTreeMap<Blob, Vec<Sight>> = BTreeMap::new();
    for (index, operation) in operations.iter().enumerate() {
        let mut add = |key: &Blob, elements: Vec<String>, written: bool, timed: bool| {
            if is_list(key) {
                let sight = Sight {
                    operation: index,
                    elements,
                    written,
                    timed,
                };
                lists.entry(key.clone()).or_default().push(sight);
            }
        };
        match (&operation.request, &operation.outcome) {
            (Request::Range(range), Outcome::Ok(Response::Range(response))) => {
                of_range(range, response, &mut add)
            }
            (Request::Put(put), Outcome::Ok(_) | Outcome::Unknown { .. }) => {
                add(&put.key, decode(&put.value), true, true);
            }
            (Request::Txn(txn), Outcome::Ok(Response::Txn(response))) => of_txn(txn, response, &mut add),
            // Either branch may have run; what was read elsewhere tells.
            (Request::Txn(txn), Outcome::Unknown { .. }) => {
                for op in txn.success.iter().chain(&txn.failure) {
                    if let TxnOp::Put(put) = op {
                        add(&put.key, decode(&put.value), true, true);
                    }
                }
            }
            _ => {}
        }
    }
    lists
}

fn of_range(range: &Range, response: &RangeResponse, add: &mut impl FnMut(&Blob, Vec<String>, bool, bool)) {
    if range.keys_only || range.count_only {
        return;
    }
    let timed = !range.serializable && range.revision <= 0;
    for KeyValue { key, value, .. } in &response.kvs {
        add(key, decode(value), false, timed);
    }
    if range.range_end.is_empty() && response.kvs.is_empty() {
        add(&range.key, Vec::new(), false, timed);
    }
}

fn of_txn(txn: &Txn, response: &TxnResponse, add: &mut impl FnMut(&Blob, Vec<String>, bool, bool)) {
    let ops = if response.succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let mut own: HashSet<&Blob> = HashSet::new();
    for (op, response) in ops.iter().zip(&response.responses) {
        match (op, response) {
            // What it reads of its own writes says nothing about others.
            (TxnOp::Range(range), TxnOpResponse::Range(response)) if !own.contains(&range.key) => {
                of_range(range, response, add);
            }
            (TxnOp::Put(put), _) => {
                own.insert(&put.key);
                add(&put.key, decode(&put.value), true, true);
            }
            (TxnOp::Txn(txn), TxnOpResponse::Txn(response)) => of_txn(txn, response, add),
            _ => {}
        }
    }
}

/// Finds the order of versions of one list, and the edges it gives.
fn judge_list(
    operations: &[Operation],
    key: &Blob,
    sights: &mut [Sight],
    graph: &mut Graph,
    findings: &mut Vec<String>,
) {
    let certain = |sight: &&Sight| !sight.written || !operations[sight.operation].is_unknown();
    let Some(longest) = sights
        .iter()
        .filter(certain)
        .max_by_key(|sight| sight.elements.len())
        .cloned()
    else {
        return;
    };
    let name = |sight: &Sight| describe(&operations[sight.operation]);
    let mut met = HashSet::new();
    if let Some(twice) = longest.elements.iter().find(|element| !met.insert(*element)) {
        findings.push(format!(
            "{key}: element {twice} is there twice in {}",
            name(&longest)
        ));
    }
    let mut writers: HashMap<&str, &Sight> = HashMap::new();
    for sight in sights.iter().filter(|sight| sight.written) {
        let Some(element) = sight.elements.last() else {
            continue;
        };
        let known = longest.elements.iter().any(|known| known == element);
        if certain(&sight) || known {
            writers.insert(element, sight);
        }
    }
    for sight in sights.iter().filter(certain) {
        if !longest.elements.starts_with(&sight.elements) {
            let lost: Vec<_> = sight
                .elements
                .iter()
                .filter(|element| !longest.elements.contains(element))
                .collect();
            findings.push(format!(
                "{key}: {} saw [{}], {} saw [{}]: {}",
                name(sight),
                sight.elements.join(" "),
                name(&longest),
                longest.elements.join(" "),
                if lost.is_empty() {
                    "in another order".to_owned()
                } else {
                    format!("{lost:?} lost")
                },
            ));
        }
    }
    for (place, element) in longest.elements.iter().enumerate() {
        let Some(writer) = writers.get(element.as_str()) else {
            findings.push(format!(
                "{key}: nobody appended {element}, which {} saw",
                name(&longest)
            ));
            continue;
        };
        if let Some(next) = longest
            .elements
            .get(place + 1)
            .and_then(|next| writers.get(next.as_str()))
        {
            graph.add(writer.operation, next.operation, Edge::WriteWrite);
        }
    }
    for sight in sights.iter().filter(|sight| !sight.written && sight.timed) {
        if let Some(writer) = sight.elements.last().and_then(|last| writers.get(last.as_str())) {
            graph.add(writer.operation, sight.operation, Edge::WriteRead);
        }
        let next = longest.elements.get(sight.elements.len());
        if let Some(writer) = next.and_then(|next| writers.get(next.as_str())) {
            graph.add(sight.operation, writer.operation, Edge::ReadWrite);
        }
    }
}
