//! What each member looks like at the end of an episode: the input of the convergence checker, and `members.json`.

use serde::{Deserialize, Serialize};

use super::op::{Request, is_default, record};

record! {
    /// A member as another member knows it.
    MemberInfo {
        /// Member id.
        id: u64,
        /// Name, empty until it has started.
        name: String,
        /// Peer URLs.
        peer_urls: Vec<String>,
        /// Client URLs.
        client_urls: Vec<String>,
        /// Whether it is a learner.
        is_learner: bool,
    }
}

record! {
    /// A lease as a member knows it.
    LeaseInfo {
        /// Lease id.
        id: i64,
        /// Granted time to live in seconds.
        ttl: i64,
        /// Attached keys in key order.
        keys: Vec<super::Blob>,
    }
}

record! {
    /// A raised alarm.
    AlarmInfo {
        /// Member it is about.
        member_id: u64,
        /// etcd's name: `NOSPACE` or `CORRUPT`.
        alarm: String,
    }
}

record! {
    /// A committed log entry (`wal-dump`).
    WalEntry {
        /// Log index.
        index: u64,
        /// Term.
        term: u64,
        /// Kind: empty, command, membership...
        kind: String,
        /// The entry's bytes, or any digest of them that is equal exactly when they are.
        payload: super::Blob,
        /// The client command in it, when there is one and the recorder can tell: where an unknown call is placed.
        request: Option<Request>,
        /// Store revision after this entry was applied; 0 when the recorder cannot tell.
        revision: i64,
    }
}

record! {
    /// One member after everything has been healed, restarted and brought level.
    ///
    /// Fields that a recorder cannot see stay empty (`None`) and are not compared; a field that some members show and
    /// others do not is compared among those that do.
    MemberSummary {
        /// Index the harness counts members by.
        member: u32,
        /// Member id.
        id: u64,
        /// Id of the cluster.
        cluster_id: u64,
        /// Applied log index.
        applied_index: Option<u64>,
        /// Store revision.
        revision: Option<i64>,
        /// Revision that `hash` is of.
        hash_revision: Option<i64>,
        /// Key-value hash at `hash_revision` (HashKV or an own one).
        hash: Option<u64>,
        /// Compact revision; -1 when never compacted.
        compact_revision: Option<i64>,
        /// Leases by id.
        leases: Option<Vec<LeaseInfo>>,
        /// Members by id.
        members: Option<Vec<MemberInfo>>,
        /// Raised alarms.
        alarms: Option<Vec<AlarmInfo>>,
        /// Whether auth is on.
        auth_enabled: Option<bool>,
        /// Auth revision.
        auth_revision: Option<u64>,
        /// Committed entries that the member's log still holds, by rising index.
        wal: Option<Vec<WalEntry>>,
    }
}
