//! How long requests take, by what they are: what etcd 3.7 charts beside its calls.

use std::time::Duration;

use kelson_raft::meters::Histogram;
use kelson_storage::command::Command;

/// What is told apart, under etcd's names. Source: etcd `getRequestType` and the two kinds of reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A read of a range.
    Range,
    /// A transaction that only reads.
    ReadonlyTxn,
    /// A write of one key.
    Put,
    /// A deletion.
    DeleteRange,
    /// A transaction that may write.
    Txn,
    /// A compaction.
    Compaction,
    /// A new lease.
    LeaseGrant,
    /// The end of a lease that a client wants.
    LeaseRevoke,
    /// Alarms.
    Alarm,
    /// A member tells its name.
    ClusterMemberAttrSet,
    /// The cluster's version.
    ClusterVersionSet,
    /// What is younger than this list.
    Unknown,
}

impl RequestKind {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 12] = [
        Self::Range,
        Self::ReadonlyTxn,
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Compaction,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::Alarm,
        Self::ClusterMemberAttrSet,
        Self::ClusterVersionSet,
        Self::Unknown,
    ];

    /// The kind of a command.
    pub fn of(command: &Command) -> Self {
        match command {
            Command::Put(_) => Self::Put,
            Command::DeleteRange(_) => Self::DeleteRange,
            Command::Txn(_) => Self::Txn,
            Command::Compact { .. } => Self::Compaction,
            Command::LeaseGrant { .. } => Self::LeaseGrant,
            Command::LeaseRevoke { .. } => Self::LeaseRevoke,
            Command::Alarm { .. } => Self::Alarm,
            Command::PublishMember { .. } => Self::ClusterMemberAttrSet,
            Command::ClusterVersion { .. } => Self::ClusterVersionSet,
            _ => Self::Unknown,
        }
    }
}

/// A histogram for what failed, and one for what succeeded.
#[derive(Debug)]
pub struct ByFate([Histogram; 2]);

impl ByFate {
    fn new(first: Duration, count: u32) -> Self {
        Self([(); 2].map(|()| Histogram::doubling(first, count)))
    }

    /// Something took `length`.
    pub fn observe(&self, succeeded: bool, length: Duration) {
        self.0[usize::from(succeeded)].observe(length);
    }

    /// Both, with the label that etcd gives them.
    pub fn labelled(&self) -> [(&'static str, &Histogram); 2] {
        [("false", &self.0[0]), ("true", &self.0[1])]
    }
}

/// See the module.
#[derive(Debug)]
pub struct RequestMeters {
    /// From the request's arrival at the store to its answer; in the order of [`RequestKind::ALL`].
    requests: Vec<ByFate>,
    /// The reading alone, without the wait for the others.
    pub ranges: ByFate,
    /// Hashes of the live state.
    pub hash: Histogram,
    /// Hashes of the history.
    pub hash_kv: Histogram,
}

impl Default for RequestMeters {
    fn default() -> Self {
        let hashes = || Histogram::doubling(Duration::from_millis(10), 15);
        Self {
            requests: RequestKind::ALL
                .iter()
                .map(|_| ByFate::new(Duration::from_millis(1), 14))
                .collect(),
            ranges: ByFate::new(Duration::from_micros(100), 20),
            hash: hashes(),
            hash_kv: hashes(),
        }
    }
}

impl RequestMeters {
    /// A request of `kind` took `length`.
    pub fn observe(&self, kind: RequestKind, succeeded: bool, length: Duration) {
        self.requests[kind as usize].observe(succeeded, length);
    }

    /// All kinds with what is known of them.
    pub fn requests(&self) -> impl Iterator<Item = (RequestKind, &ByFate)> {
        RequestKind::ALL.into_iter().zip(&self.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_fate_is_counted_apart() {
        let meters = RequestMeters::default();
        for (number, kind) in RequestKind::ALL.into_iter().enumerate() {
            for _ in 0..=number {
                meters.observe(kind, number % 2 == 0, Duration::from_millis(3));
            }
        }
        for (number, (kind, fates)) in meters.requests().enumerate() {
            assert_eq!(kind, RequestKind::ALL[number]);
            let counts = fates.labelled().map(|(_, histogram)| histogram.cumulative().1);
            let count = number as u64 + 1;
            assert_eq!(counts, if number % 2 == 0 { [0, count] } else { [count, 0] });
        }
    }
}
