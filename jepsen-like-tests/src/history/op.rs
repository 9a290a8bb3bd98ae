//! What clients ask and what members answer, as plain owned values.
//!
//! The shape is etcd's (`proto/etcd/rpc.proto`), with enum numbers kept as enums where etcd refuses unknown ones and
//! with absent fields left out of the JSON. Nothing here knows protobuf; see [`super::convert`].

use serde::{Deserialize, Serialize};

use super::Blob;

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "is_default")] pub $field: $type,)*
        }
    };
}
pub(super) use record;

record! {
    /// The header of a response. Zero where the member sent nothing, or no header at all.
    Header {
        /// Id of the cluster.
        cluster_id: u64,
        /// Id of the member that answered (not the index the harness counts members by).
        member_id: u64,
        /// Store revision; what it means for each call is section 2.4 of the API specification.
        revision: i64,
        /// Term of the last log entry that the member had applied.
        raft_term: u64,
    }
}

record! {
    /// A key with its value and history, as etcd's `mvccpb.KeyValue`.
    KeyValue {
        /// The key.
        key: Blob,
        /// Revision of the put that began this life of the key; 0 in delete events.
        create_revision: i64,
        /// Revision of the last change.
        mod_revision: i64,
        /// Puts since creation; 0 in delete events.
        version: i64,
        /// The value.
        value: Blob,
        /// Lease the key is attached to, 0 for none.
        lease: i64,
    }
}

/// How a range is sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortOrder {
    /// As the target orders, see section 3.4 of the API specification.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a range is sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortTarget {
    /// By key.
    #[default]
    Key,
    /// By version.
    Version,
    /// By create revision.
    Create,
    /// By mod revision.
    Mod,
    /// By value.
    Value,
}

record! {
    /// Reads a key or a range of keys.
    Range {
        /// First key; must not be empty.
        key: Blob,
        /// Empty: the one key. One zero byte: all keys from `key` on. Else the first key not read.
        range_end: Blob,
        /// Most pairs to return; 0 or negative for all.
        limit: i64,
        /// Revision to read at; 0 or negative for the newest.
        revision: i64,
        /// Sort order.
        sort_order: SortOrder,
        /// Sort target.
        sort_target: SortTarget,
        /// Read from the member's own state, without a quorum.
        serializable: bool,
        /// Leave out values (and leases).
        keys_only: bool,
        /// Leave out pairs.
        count_only: bool,
        /// Only pairs with at least this mod revision; 0 for any.
        min_mod_revision: i64,
        /// Only pairs with at most this mod revision; 0 for any.
        max_mod_revision: i64,
        /// Only pairs with at least this create revision; 0 for any.
        min_create_revision: i64,
        /// Only pairs with at most this create revision; 0 for any.
        max_create_revision: i64,
    }
}

record! {
    /// Writes one key.
    Put {
        /// The key; must not be empty.
        key: Blob,
        /// The value; must be empty with `ignore_value`.
        value: Blob,
        /// Lease to attach to, 0 for none; must be 0 with `ignore_lease`.
        lease: i64,
        /// Return the pair as it was.
        prev_kv: bool,
        /// Keep the stored value.
        ignore_value: bool,
        /// Keep the stored lease.
        ignore_lease: bool,
    }
}

record! {
    /// Deletes a key or a range of keys.
    DeleteRange {
        /// First key; must not be empty.
        key: Blob,
        /// As in [`Range`].
        range_end: Blob,
        /// Return the pairs as they were.
        prev_kv: bool,
    }
}

/// Which relation a compare demands of the stored field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareResult {
    /// Stored equals operand.
    #[default]
    Equal,
    /// Stored is greater than operand.
    Greater,
    /// Stored is less than operand.
    Less,
    /// Stored differs from operand.
    NotEqual,
}

/// Which field a compare looks at, and the operand it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareTarget {
    /// Version; 0 for an absent key.
    Version(i64),
    /// Create revision; 0 for an absent key.
    Create(i64),
    /// Mod revision; 0 for an absent key.
    Mod(i64),
    /// Value; an absent key fails every comparison.
    Value(Blob),
    /// Lease; 0 for an absent key.
    Lease(i64),
}

impl Default for CompareTarget {
    fn default() -> Self {
        Self::Version(0)
    }
}

record! {
    /// One condition of a transaction.
    Compare {
        /// First key.
        key: Blob,
        /// As in [`Range`]; every key in the range must satisfy the condition.
        range_end: Blob,
        /// Demanded relation, read as "stored `result` operand".
        result: CompareResult,
        /// Field and operand.
        target: CompareTarget,
    }
}

/// One operation inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnOp {
    /// Read.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    DeleteRange(DeleteRange),
    /// A transaction inside the transaction.
    Txn(Txn),
}

record! {
    /// Compares, then one of two lists of operations, at one point in time.
    Txn {
        /// Conditions; all must hold, also those of nested transactions that are reached.
        compare: Vec<Compare>,
        /// Run when all conditions hold.
        success: Vec<TxnOp>,
        /// Run otherwise.
        failure: Vec<TxnOp>,
    }
}

record! {
    /// Gives up history below a revision.
    Compact {
        /// Oldest revision that stays readable.
        revision: i64,
        /// Answer only after removal from disk.
        physical: bool,
    }
}

record! {
    /// Creates a lease.
    LeaseGrant {
        /// Wanted id; 0 lets the server choose.
        id: i64,
        /// Wanted time to live in seconds.
        ttl: i64,
    }
}

record! {
    /// Names one lease (revoke, keep alive, time to live).
    LeaseId {
        /// The lease.
        id: i64,
        /// Time to live only: list attached keys.
        keys: bool,
    }
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// KV Range.
    Range(Range),
    /// KV Put.
    Put(Put),
    /// KV DeleteRange.
    DeleteRange(DeleteRange),
    /// KV Txn.
    Txn(Txn),
    /// KV Compact.
    Compact(Compact),
    /// Lease LeaseGrant.
    LeaseGrant(LeaseGrant),
    /// Lease LeaseRevoke.
    LeaseRevoke(LeaseId),
    /// One message of a LeaseKeepAlive stream and its answer.
    LeaseKeepAlive(LeaseId),
    /// Lease LeaseTimeToLive.
    LeaseTimeToLive(LeaseId),
    /// Anything that changes no key, revision or lease: membership, maintenance, auth, transfer. Kept so that
    /// coverage can count it and a reader of the history can see it.
    Admin(Admin),
}

record! {
    /// A call the checkers only count.
    Admin {
        /// etcd's name of the RPC, for example `MemberAdd`.
        name: String,
        /// Its arguments in any readable form.
        detail: String,
    }
}

record! {
    /// Answer to [`Range`].
    RangeResponse {
        /// Header. Inside a transaction only `revision` is set.
        header: Header,
        /// Pairs.
        kvs: Vec<KeyValue>,
        /// Whether the limit cut something off.
        more: bool,
        /// Keys in the range, whatever the limit.
        count: i64,
    }
}

record! {
    /// Answer to [`Put`].
    PutResponse {
        /// Header; its revision is the one the put made.
        header: Header,
        /// The pair as it was, when asked for and there was one.
        prev_kv: Option<KeyValue>,
    }
}

record! {
    /// Answer to [`DeleteRange`].
    DeleteRangeResponse {
        /// Header.
        header: Header,
        /// Number of keys deleted.
        deleted: i64,
        /// The pairs as they were, when asked for, by key.
        prev_kvs: Vec<KeyValue>,
    }
}

/// Answer to one [`TxnOp`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnOpResponse {
    /// Answer to a range.
    Range(RangeResponse),
    /// Answer to a put.
    Put(PutResponse),
    /// Answer to a delete.
    DeleteRange(DeleteRangeResponse),
    /// Answer to a nested transaction; its header is all zero.
    Txn(TxnResponse),
}

record! {
    /// Answer to [`Txn`].
    TxnResponse {
        /// Header.
        header: Header,
        /// Which branch ran.
        succeeded: bool,
        /// One answer for each operation of that branch.
        responses: Vec<TxnOpResponse>,
    }
}

record! {
    /// Answer that carries nothing but a header (compact, revoke, admin).
    HeaderResponse {
        /// Header, all zero where the RPC has none.
        header: Header,
    }
}

record! {
    /// Answer to [`LeaseGrant`].
    LeaseGrantResponse {
        /// Header.
        header: Header,
        /// The lease.
        id: i64,
        /// Granted time to live in seconds.
        ttl: i64,
    }
}

record! {
    /// Answer to a keepalive.
    LeaseKeepAliveResponse {
        /// Header; its revision was read before the renewal.
        header: Header,
        /// The lease.
        id: i64,
        /// Granted time to live in seconds; 0 when the lease is gone.
        ttl: i64,
    }
}

record! {
    /// Answer to a time-to-live question.
    LeaseTimeToLiveResponse {
        /// Header.
        header: Header,
        /// The lease.
        id: i64,
        /// Whole seconds left; -1 when there is no such lease.
        ttl: i64,
        /// Granted time to live in seconds; 0 when there is no such lease.
        granted_ttl: i64,
        /// Attached keys, when asked for.
        keys: Vec<Blob>,
    }
}

/// What a member answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Response {
    /// KV Range.
    Range(RangeResponse),
    /// KV Put.
    Put(PutResponse),
    /// KV DeleteRange.
    DeleteRange(DeleteRangeResponse),
    /// KV Txn.
    Txn(TxnResponse),
    /// KV Compact.
    Compact(HeaderResponse),
    /// Lease LeaseGrant.
    LeaseGrant(LeaseGrantResponse),
    /// Lease LeaseRevoke.
    LeaseRevoke(HeaderResponse),
    /// Lease LeaseKeepAlive.
    LeaseKeepAlive(LeaseKeepAliveResponse),
    /// Lease LeaseTimeToLive.
    LeaseTimeToLive(LeaseTimeToLiveResponse),
    /// Any other RPC.
    Admin(HeaderResponse),
}

impl Response {
    /// The header.
    pub fn header(&self) -> &Header {
        match self {
            Self::Range(response) => &response.header,
            Self::Put(response) => &response.header,
            Self::DeleteRange(response) => &response.header,
            Self::Txn(response) => &response.header,
            Self::Compact(response) | Self::LeaseRevoke(response) | Self::Admin(response) => &response.header,
            Self::LeaseGrant(response) => &response.header,
            Self::LeaseKeepAlive(response) => &response.header,
            Self::LeaseTimeToLive(response) => &response.header,
        }
    }
}

/// How a call ended (P6). The client never retries, so one call is one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Ok(Response),
    /// It did not happen and will not.
    Failed {
        /// gRPC status code.
        code: i32,
        /// gRPC status message.
        text: String,
    },
    /// It may have happened, may yet happen, or may never.
    Unknown {
        /// gRPC status code, -1 when there was none.
        code: i32,
        /// What the client saw.
        text: String,
    },
}
