//! Which revisions members had shown by when: where a watcher "from now on" can begin at the earliest.
//!
//! The answer to a creation names a revision of its own. etcd reads that after it has created the watcher, so on a member
//! that is just catching up the first events may be older than the answer; they may not be older than what the member
//! had shown before the watcher was asked for.

use std::collections::BTreeMap;

use crate::check::Evidence;
use crate::history::Record;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// For each member: time, and the newest revision seen until then in the life of its process.
    members: BTreeMap<u32, Vec<(u64, i64)>>,
}

impl Shown {
    pub(super) fn find(evidence: &Evidence<'_>) -> Self {
        let mut members: BTreeMap<u32, Vec<(u64, i64)>> = BTreeMap::new();
        for operation in &evidence.operations {
            if let (Some(member), Some(response)) = (operation.member, operation.response()) {
                let seen = (operation.ret, response.header().revision);
                members.entry(member).or_default().push(seen);
            }
        }
        for record in &evidence.history.records {
            if let Record::Process(process) = record {
                // A new process may be behind the one before it.
                members.entry(process.member).or_default().push((process.at, 0));
            }
        }
        for seen in members.values_mut() {
            seen.sort_unstable();
            let mut newest = 0;
            for (_, revision) in seen {
                newest = if *revision == 0 { 0 } else { newest.max(*revision) };
                *revision = newest;
            }
        }
        Self { members }
    }

    /// The newest revision that a member had shown by this time; none if it is not known which member it is.
    pub(super) fn by(&self, member: Option<u32>, at: u64) -> Option<i64> {
        let seen = self.members.get(&member?);
        let before = |seen: &Vec<(u64, i64)>| seen.partition_point(|(time, _)| *time < at);
        let last = seen.and_then(|seen| seen.get(before(seen).checked_sub(1)?));
        Some(last.map_or(0, |(_, revision)| *revision))
    }
}
