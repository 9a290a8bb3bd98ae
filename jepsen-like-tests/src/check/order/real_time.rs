//! The order of revisions against the order of time.

use std::collections::HashMap;

use super::places::{Place, Places};
use super::{Maker, Timeline};
use crate::check::{Evidence, describe};
use crate::history::{Operation, Record};

/// A call in its place.
struct Placed<'a> {
    order: (i64, u8),
    operation: &'a Operation,
    /// Whether it must not be late: all but serializable reads.
    strict: bool,
}

/// Checks P1 (and P3 for serializable reads); also fills in when each change can have happened at the earliest.
pub(super) fn check(evidence: &Evidence<'_>, places: &Places, timeline: &Timeline) -> Vec<String> {
    let mut findings = not_before_called(&placed(evidence, places, timeline));
    findings.extend(never_back_on_one_member(evidence, places));
    findings.extend(one_cluster(evidence));
    findings
}

fn placed<'a>(evidence: &'a Evidence<'_>, places: &Places, timeline: &Timeline) -> Vec<Placed<'a>> {
    let by_id: HashMap<u64, usize> = evidence
        .operations
        .iter()
        .enumerate()
        .map(|(index, operation)| (operation.id, index))
        .collect();
    let mut placed = Vec::new();
    let mut made = vec![None; evidence.operations.len()];
    for change in &timeline.changes {
        if let Maker::Call(id) = change.maker {
            made[by_id[&id]] = Some((change.revision, 0));
        }
    }
    for (index, operation) in evidence.operations.iter().enumerate() {
        let strict = !matches!(places.of[index], Place::Local(_));
        if let Some(order) = made[index].or_else(|| places.of[index].order()) {
            placed.push(Placed {
                order,
                operation,
                strict,
            });
        }
    }
    placed.sort_by_key(|call| call.order);
    placed
}

/// Nothing may stand before something that had returned when it was called.
fn not_before_called(placed: &[Placed<'_>]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut latest: Option<&Operation> = None;
    for same in placed.chunk_by(|a, b| a.order == b.order) {
        for late in same {
            if let Some(early) = latest.filter(|early| late.operation.ret < early.call) {
                findings.push(format!(
                    "{} had returned before {} was called, but stands after it in the order of revisions",
                    describe(late.operation),
                    describe(early)
                ));
            }
        }
        let strict = same.iter().filter(|call| call.strict).map(|call| call.operation);
        latest = latest
            .into_iter()
            .chain(strict)
            .max_by_key(|operation| operation.call);
    }
    findings
}

/// A call, return, start or stop, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Restart { member: u64 },
    Call { index: usize },
    Return { index: usize },
}

/// What one member has shown in one life.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    life: u32,
    /// Highest revision and term of a returned response, and which call it was.
    revision: i64,
    term: u64,
    by: usize,
}

/// P3: while a process lives, neither the revision nor the term it shows goes back.
fn never_back_on_one_member(evidence: &Evidence<'_>, places: &Places) -> Vec<String> {
    let mut moments: Vec<(u64, Moment)> = Vec::new();
    for record in &evidence.history.records {
        if let Record::Process(process) = record {
            moments.push((process.at, Moment::Restart { member: process.id }));
        }
    }
    for (index, operation) in evidence.operations.iter().enumerate() {
        if operation.response().is_some() && places.of[index].order().is_some() {
            moments.push((operation.call, Moment::Call { index }));
            moments.push((operation.ret, Moment::Return { index }));
        }
    }
    moments.sort_unstable();
    let header = |index: usize| {
        evidence.operations[index]
            .response()
            .expect("filtered above")
            .header()
    };
    let mut members: HashMap<u64, Shown> = HashMap::new();
    let mut at_call: HashMap<usize, Shown> = HashMap::new();
    let mut findings = Vec::new();
    for (_, moment) in moments {
        match moment {
            Moment::Restart { member } => {
                for (id, shown) in &mut members {
                    // Without its id, any member may be the one.
                    if member == 0 || *id == member {
                        *shown = Shown {
                            life: shown.life + 1,
                            ..Shown::default()
                        };
                    }
                }
            }
            Moment::Call { index } => {
                let shown = members.entry(header(index).member_id).or_default();
                at_call.insert(index, *shown);
            }
            Moment::Return { index } => {
                let before = at_call.remove(&index).expect("a call comes before its return");
                let (header, shown) = (header(index), members.entry(header(index).member_id).or_default());
                if header.member_id == 0 || before.life != shown.life {
                    continue;
                }
                if header.revision < before.revision || header.raft_term < before.term {
                    findings.push(format!(
                        "member {:x} went back to revision {} in term {}: {} was called after {} had returned",
                        header.member_id,
                        header.revision,
                        header.raft_term,
                        describe(&evidence.operations[index]),
                        describe(&evidence.operations[before.by]),
                    ));
                }
                if header.revision >= shown.revision {
                    (shown.revision, shown.by) = (header.revision, index);
                }
                shown.term = shown.term.max(header.raft_term);
            }
        }
    }
    findings
}

/// All members answer for one cluster.
fn one_cluster(evidence: &Evidence<'_>) -> Vec<String> {
    let mut first: Option<(u64, &Operation)> = None;
    for operation in &evidence.operations {
        let id = operation
            .response()
            .map_or(0, |response| response.header().cluster_id);
        match first {
            _ if id == 0 => {}
            None => first = Some((id, operation)),
            Some((cluster, first)) if cluster != id => {
                let (one, other) = (describe(first), describe(operation));
                return vec![format!(
                    "{other} was answered by cluster {id:x}, {one} by cluster {cluster:x}"
                )];
            }
            Some(_) => {}
        }
    }
    Vec::new()
}

/// For each change the latest call of something that stands before it: it cannot have happened earlier.
pub(super) fn fill_not_before(evidence: &Evidence<'_>, places: &Places, timeline: &mut Timeline) {
    let placed = placed(evidence, places, timeline);
    let mut next = placed.iter().peekable();
    let mut latest = 0;
    for change in &mut timeline.changes {
        while let Some(call) = next.next_if(|call| call.order <= (change.revision, 0)) {
            if call.strict {
                latest = latest.max(call.operation.call);
            }
        }
        change.not_before = latest;
    }
}
