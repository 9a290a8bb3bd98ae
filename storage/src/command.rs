//! [`Command`]: everything that can be replicated, before it has happened.
//!
//! A command carries all that is random or timed (lease ids, terms), because apply sees no clock and no chance.
//! Requests have been validated by the proposer against everything that does not depend on state.

use bytes::Bytes;

/// A replicated change, or a read that must be ordered with changes (a transaction).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Delete a range of keys.
    DeleteRange(DeleteRange),
    /// Compare, then run one of two branches.
    Txn(Txn),
    /// Forget history below a revision.
    Compact {
        /// Reads below this revision fail from now on. Signed, because etcd accepts 0 once and refuses negatives.
        revision: i64,
    },
    /// Create a lease.
    LeaseGrant {
        /// Chosen by the proposer when the client sent 0; any value, negative ones included.
        id: i64,
        /// Seconds, already raised to the minimum by the proposer.
        ttl: i64,
    },
    /// End a lease and delete its keys in one revision.
    LeaseRevoke {
        /// Which lease.
        id: i64,
        /// Set when the leader counted the lease out: the term of that leader. Rejected in any other term.
        expiry_term: Option<u64>,
    },
    /// Raise, clear or list alarms.
    Alarm {
        /// What to do.
        action: AlarmAction,
        /// The member the alarm is about.
        member: u64,
        /// Which alarm.
        alarm: AlarmKind,
    },
    /// A member tells its name and client URLs (etcd's "publish").
    PublishMember {
        /// The member's id.
        id: u64,
        /// Its `--name`.
        name: String,
        /// Its `--advertise-client-urls`.
        client_urls: Vec<String>,
    },
    /// The version that all members agree to speak, `major.minor.0`.
    ClusterVersion {
        /// E.g. `3.7.0`.
        version: String,
    },
}

/// Which [`Command`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// [`Command::Put`].
    Put,
    /// [`Command::DeleteRange`].
    DeleteRange,
    /// [`Command::Txn`].
    Txn,
    /// [`Command::Compact`].
    Compact,
    /// [`Command::LeaseGrant`].
    LeaseGrant,
    /// [`Command::LeaseRevoke`].
    LeaseRevoke,
    /// [`Command::Alarm`].
    Alarm,
    /// [`Command::PublishMember`].
    PublishMember,
    /// [`Command::ClusterVersion`].
    ClusterVersion,
}

impl CommandKind {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Compact,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::Alarm,
        Self::PublishMember,
        Self::ClusterVersion,
    ];
}

impl Command {
    /// Which one it is.
    pub fn kind(&self) -> CommandKind {
        match self {
            Self::Put(_) => CommandKind::Put,
            Self::DeleteRange(_) => CommandKind::DeleteRange,
            Self::Txn(_) => CommandKind::Txn,
            Self::Compact { .. } => CommandKind::Compact,
            Self::LeaseGrant { .. } => CommandKind::LeaseGrant,
            Self::LeaseRevoke { .. } => CommandKind::LeaseRevoke,
            Self::Alarm { .. } => CommandKind::Alarm,
            Self::PublishMember { .. } => CommandKind::PublishMember,
            Self::ClusterVersion { .. } => CommandKind::ClusterVersion,
        }
    }
}

/// Which command of which process this is: a second copy is dropped at apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// The member whose client sent it.
    pub origin: u64,
    /// The incarnation of that member's process; grows with every start, durably.
    pub session: u64,
    /// Counts the commands of that session, from 1.
    pub seq: u64,
}

/// A command on its way through the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Identity, for deduplication and for finding the waiter.
    pub id: CommandId,
    /// The origin's lowest sequence number still without an outcome: everything below needs no memory.
    pub low: u64,
    /// What to do.
    pub command: Command,
}

/// Write one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Not empty.
    pub key: Bytes,
    /// May be empty.
    pub value: Bytes,
    /// 0: no lease (and a former one is detached).
    pub lease: i64,
    /// Answer with the pair as it was before.
    pub prev_kv: bool,
    /// Keep the stored value; the key must exist.
    pub ignore_value: bool,
    /// Keep the stored lease; the key must exist.
    pub ignore_lease: bool,
}

/// Delete every key of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange {
    /// Start of the range; not empty.
    pub key: Bytes,
    /// etcd's range end: empty for the single key, one zero byte for "from key on".
    pub range_end: Bytes,
    /// Answer with the deleted pairs.
    pub prev_kv: bool,
}

/// A read of a range of keys at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Start of the range; not empty.
    pub key: Bytes,
    /// etcd's range end: empty for the single key, one zero byte for "from key on".
    pub range_end: Bytes,
    /// At most so many pairs; 0 or less: all.
    pub limit: i64,
    /// Read as of this revision; 0 or less: the newest (inside a transaction a negative one is compacted).
    pub revision: i64,
    /// Order of the answer.
    pub sort_order: SortOrder,
    /// What to order by.
    pub sort_target: SortTarget,
    /// Answer without values.
    pub keys_only: bool,
    /// Answer with the count alone.
    pub count_only: bool,
    /// Filters; 0: not set. Both ends inclusive.
    pub min_mod_revision: i64,
    /// See `min_mod_revision`.
    pub max_mod_revision: i64,
    /// See `min_mod_revision`.
    pub min_create_revision: i64,
    /// See `min_mod_revision`.
    pub max_create_revision: i64,
}

/// etcd's `SortOrder`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Ascending by the target, but a limit is applied in key order first (API specification 3.4).
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// etcd's `SortTarget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// By key.
    #[default]
    Key,
    /// By number of writes since creation.
    Version,
    /// By creation revision.
    Create,
    /// By newest revision.
    Mod,
    /// By value bytes.
    Value,
}

/// Compare, then one of two branches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to run; an empty list holds.
    pub compares: Vec<Compare>,
    /// Runs when all compares hold.
    pub success: Vec<TxnOp>,
    /// Runs otherwise.
    pub failure: Vec<TxnOp>,
}

/// One operation of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Read.
    Range(Range),
    /// Write one key.
    Put(Put),
    /// Delete a range.
    DeleteRange(DeleteRange),
    /// A nested transaction; its compares see the state before the whole transaction.
    Txn(Txn),
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Start of the range; not empty.
    pub key: Bytes,
    /// Empty for the single key; otherwise every key of the range must satisfy the condition.
    pub range_end: Bytes,
    /// How the stored field must relate to the operand.
    pub result: CompareResult,
    /// The field and the operand.
    pub operand: CompareOperand,
}

/// `stored RESULT operand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// stored == operand
    Equal,
    /// stored > operand
    Greater,
    /// stored < operand
    Less,
    /// stored != operand
    NotEqual,
    /// An enum number etcd does not know: holds for every key.
    Always,
}

/// The stored field that is compared, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareOperand {
    /// Number of writes since creation.
    Version(i64),
    /// Creation revision.
    Create(i64),
    /// Newest revision.
    Mod(i64),
    /// Value bytes; an absent key never satisfies this one.
    Value(Bytes),
    /// Lease id.
    Lease(i64),
    /// A target number etcd does not know: both sides count as equal.
    Unknown,
}

/// etcd's `AlarmAction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmAction {
    /// List.
    Get,
    /// Raise.
    Activate,
    /// Clear.
    Deactivate,
}

/// etcd's `AlarmType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// No alarm; in a list request: all of them.
    None,
    /// The database quota is used up.
    NoSpace,
    /// Members disagree about the data.
    Corrupt,
}
