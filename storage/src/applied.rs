//! What commands did: answers for the client, events for the watchers.

use bytes::Bytes;

use crate::command::AlarmKind;
use crate::error::Rejected;
use crate::revision::Revision;

/// What one command did, on every replica alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The store's main revision after the command: the reply header's.
    pub revision: u64,
    /// Term of the entry the command came in: the reply header's.
    pub term: u64,
    /// The answer.
    pub result: Result<Applied, Rejected>,
}

/// The answer of a command that was not rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applied {
    /// Written. The pair as it was before, encoded as `mvccpb.KeyValue`, if asked for and there.
    Put {
        /// See above.
        prev_kv: Option<Bytes>,
    },
    /// Deleted.
    DeleteRange(Deleted),
    /// Decided and run.
    Txn(TxnApplied),
    /// The compact revision took effect.
    Compact,
    /// Granted.
    LeaseGrant {
        /// The lease's id.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// Revoked, its keys deleted.
    LeaseRevoke,
    /// The alarms touched, or listed.
    Alarm(Vec<(u64, AlarmKind)>),
    /// Nothing to tell.
    Done,
}

/// What a delete removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Number of keys.
    pub deleted: u64,
    /// The pairs as they were, encoded as `mvccpb.KeyValue`, in key order, if asked for.
    pub prev_kvs: Vec<Bytes>,
}

/// What a transaction decided and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnApplied {
    /// Whether the success branch ran.
    pub succeeded: bool,
    /// One answer per operation of the branch that ran.
    pub responses: Vec<TxnOpApplied>,
}

/// The answer of one operation. `revision` is what the inner response header shows (API specification 2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOpApplied {
    /// A read.
    Range {
        /// See above.
        revision: u64,
        /// What was found.
        result: RangeResult,
    },
    /// A write.
    Put {
        /// See above.
        revision: u64,
        /// The pair as it was before, if asked for and there.
        prev_kv: Option<Bytes>,
    },
    /// A delete.
    DeleteRange {
        /// See above.
        revision: u64,
        /// What was removed.
        deleted: Deleted,
    },
    /// A nested transaction; its header is all zero.
    Txn(TxnApplied),
}

/// What a range read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// Encoded `mvccpb.KeyValue`s: the stored bytes themselves unless `keys_only`.
    pub kvs: Vec<Bytes>,
    /// Whether the limit cut something off.
    pub more: bool,
    /// Keys in the range at the read revision, before limit and filters.
    pub count: u64,
}

/// All changes of one main revision, in order: what a watcher sees at once or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// The main revision.
    pub revision: u64,
    /// The changes, by sub revision.
    pub events: Vec<Event>,
}

/// One put or delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// Where it stands in history.
    pub revision: Revision,
    /// The key (a slice of `kv`).
    pub key: Bytes,
    /// Encoded `mvccpb.KeyValue`: the whole pair of a put, key and mod revision of a delete.
    pub kv: Bytes,
    /// The key's record before this one, if it was alive: where `prev_kv` is read from when somebody wants it.
    pub previous: Option<Revision>,
}

/// What happened to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Written.
    Put,
    /// Deleted.
    Delete,
}
