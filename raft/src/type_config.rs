//! The one place where openraft's type parameters are chosen.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use kelson_storage::revision::LogPosition;
use openraft::impls::leader_id_std;

openraft::declare_raft_types!(
    /// Kelson's choice of openraft's parameters. `leader_id_std` gives one leader per term, so that the term alone
    /// identifies the leader of an entry.
    pub(crate) TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = PeerNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::MemberRuntime,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, PeerNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// What openraft keeps about a member: where its peers reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// Peer URLs, as configured.
    pub urls: Vec<String>,
}

/// First byte of every payload in the log and on the wire.
pub(crate) const KIND_BLANK: u8 = 0;
pub(crate) const KIND_BATCH: u8 = 1;
pub(crate) const KIND_MEMBERSHIP: u8 = 2;

/// The commands of one entry: the kind byte, then what `kelson_storage::codec` encoded. Log, wire and apply share
/// these bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    bytes: Bytes,
}

impl Batch {
    /// A batch of encoded proposals, in order.
    pub(crate) fn of<'a>(proposals: impl Iterator<Item = &'a Bytes> + Clone) -> Self {
        let total: usize = proposals.clone().map(Bytes::len).sum();
        let mut bytes = BytesMut::with_capacity(total + 1);
        bytes.put_u8(KIND_BATCH);
        for proposal in proposals {
            bytes.put_slice(proposal);
        }
        Self {
            bytes: bytes.freeze(),
        }
    }

    /// The whole payload, kind byte included.
    pub(crate) fn payload(&self) -> &Bytes {
        &self.bytes
    }

    /// From a payload whose kind byte says `KIND_BATCH`.
    pub(crate) fn from_payload(payload: Bytes) -> Self {
        debug_assert_eq!(payload.first(), Some(&KIND_BATCH));
        Self { bytes: payload }
    }

    /// The encoded proposals.
    pub(crate) fn proposals(&self) -> Bytes {
        self.bytes.slice(1..)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Our position of openraft's log id.
pub(crate) fn position(id: &LogId) -> LogPosition {
    LogPosition {
        term: id.committed_leader_id().term,
        index: id.index(),
    }
}

/// openraft's log id of our position.
pub(crate) fn log_id(position: LogPosition) -> LogId {
    LogId::new_term_index(position.term, position.index)
}
