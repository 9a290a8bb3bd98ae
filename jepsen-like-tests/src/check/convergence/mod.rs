//! Replicas are equal once everything is quiet (P2, P13, P15, P18).
//!
//! Compares what each member says of itself ([`MemberSummary`]), field by field, among the members that say it. Log
//! entries are compared where two members still hold the same index. The recorder leaves out members that were removed.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::check::{Evidence, Verdict};
use crate::history::{MemberSummary, WalEntry};

/// Checks the members at the end of a run.
pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let members = evidence.members;
    if members.len() < 2 {
        return Verdict::Invalid(format!(
            "{} members told their state, nothing to compare",
            members.len()
        ));
    }
    let mut findings = Vec::new();
    compare(members, "cluster id", &mut findings, |member| {
        (member.cluster_id != 0).then_some(member.cluster_id)
    });
    compare(members, "revision", &mut findings, |member| member.revision);
    compare(members, "compact revision", &mut findings, |member| {
        member.compact_revision
    });
    compare(members, "revision of the hash", &mut findings, |member| {
        member.hash_revision
    });
    compare(members, "hash", &mut findings, |member| member.hash);
    compare(members, "leases", &mut findings, |member| {
        sorted(member.leases.as_ref()?, |lease| lease.id)
    });
    compare(members, "members", &mut findings, |member| {
        sorted(member.members.as_ref()?, |member| member.id)
    });
    compare(members, "alarms", &mut findings, |member| {
        sorted(member.alarms.as_ref()?, |alarm| {
            (alarm.member_id, alarm.alarm.clone())
        })
    });
    compare(members, "auth", &mut findings, |member| member.auth_enabled);
    compare(members, "auth revision", &mut findings, |member| {
        member.auth_revision
    });
    findings.extend(flags(members));
    findings.extend(logs(members));
    Verdict::from_findings(&findings)
}

fn sorted<T: Clone, K: Ord>(list: &[T], key: impl FnMut(&T) -> K) -> Option<Vec<T>> {
    let mut list = list.to_vec();
    list.sort_by_key(key);
    Some(list)
}

/// Compares one field of all members that show it with the first that does.
fn compare<T: PartialEq + Debug>(
    members: &[MemberSummary],
    name: &str,
    findings: &mut Vec<String>,
    field: impl Fn(&MemberSummary) -> Option<T>,
) {
    let mut shown = members
        .iter()
        .filter_map(|member| Some((member.member, field(member)?)));
    let Some((first, expected)) = shown.next() else {
        return;
    };
    for (member, actual) in shown {
        if actual != expected {
            findings.push(format!(
                "{name} differs: member {first} has {expected:?}, member {member} has {actual:?}"
            ));
        }
    }
}

/// A member that tells its state is in the membership, once.
fn flags(members: &[MemberSummary]) -> Vec<String> {
    let mut findings = Vec::new();
    for (place, member) in members.iter().enumerate().filter(|(_, member)| member.id != 0) {
        if members[..place].iter().any(|other| other.id == member.id) {
            findings.push(format!("member id {:x} is there twice", member.id));
        }
        let listed = member
            .members
            .as_ref()
            .is_none_or(|list| list.iter().any(|info| info.id == member.id));
        if !listed {
            findings.push(format!(
                "member {} does not find itself ({:x}) in its list",
                member.member, member.id
            ));
        }
    }
    findings
}

/// Log matching: the same index holds the same entry everywhere, without a hole, in rising terms.
fn logs(members: &[MemberSummary]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut known: BTreeMap<u64, (u32, &WalEntry)> = BTreeMap::new();
    for member in members {
        let Some(wal) = &member.wal else { continue };
        for pair in wal.windows(2) {
            if pair[1].index != pair[0].index + 1 || pair[1].term < pair[0].term {
                let (one, other) = (&pair[0], &pair[1]);
                findings.push(format!(
                    "member {}: entry {} of term {} follows entry {} of term {}",
                    member.member, other.index, other.term, one.index, one.term
                ));
            }
        }
        for entry in wal {
            let (first, expected) = *known.entry(entry.index).or_insert((member.member, entry));
            let same = (
                expected.term,
                &expected.kind,
                &expected.payload,
                &expected.request,
            ) == (entry.term, &entry.kind, &entry.payload, &entry.request);
            if !same {
                findings.push(format!(
                    "log entry {} differs: member {first} has {} of term {}, member {} has {} of term {}",
                    entry.index, expected.kind, expected.term, member.member, entry.kind, entry.term
                ));
                break;
            }
        }
    }
    findings
}
