//! Log entries, votes and memberships as bytes, and back. One encoding serves the log and the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use kelson_proto::peer;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;

use crate::type_config::{
    Batch, Entry, KIND_BATCH, KIND_BLANK, KIND_MEMBERSHIP, LogId, Membership, PeerNode, Vote,
};

/// The payload of an entry, as the log stores it and the wire carries it. A batch is not copied.
pub(crate) fn payload_bytes(entry: &Entry) -> Bytes {
    match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[KIND_BLANK]),
        EntryPayload::Normal(batch) => batch.payload().clone(),
        EntryPayload::Membership(membership) => {
            let message = membership_message(membership);
            let mut bytes = BytesMut::with_capacity(message.encoded_len() + 1);
            bytes.put_u8(KIND_MEMBERSHIP);
            message.encode(&mut bytes).expect("BytesMut grows as needed");
            bytes.freeze()
        }
    }
}

/// The entry of a payload that [`payload_bytes`] made. An unknown kind is refused: it comes from a newer version or
/// from damage.
pub(crate) fn entry_of(id: LogId, payload: Bytes) -> io::Result<Entry> {
    let payload = match payload.first() {
        Some(&KIND_BLANK) => EntryPayload::Blank,
        Some(&KIND_BATCH) => EntryPayload::Normal(Batch::from_payload(payload)),
        Some(&KIND_MEMBERSHIP) => EntryPayload::Membership(decode_membership(payload.slice(1..))?),
        kind => return Err(invalid(format!("entry {id} has unknown kind {kind:?}"))),
    };
    Ok(Entry::new(id, payload))
}

/// A membership as bytes, for the store and for snapshots.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    membership_message(membership).encode_to_vec().into()
}

/// Reads what [`encode_membership`] wrote.
pub(crate) fn decode_membership(bytes: Bytes) -> io::Result<Membership> {
    let message = peer::Membership::decode(bytes)
        .map_err(|error| invalid(format!("membership does not decode: {error}")))?;
    let configs: Vec<BTreeSet<u64>> = message
        .configs
        .into_iter()
        .map(|config| config.voters.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, PeerNode> = message
        .peers
        .into_iter()
        .map(|peer| (peer.id, PeerNode { urls: peer.urls }))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| invalid(format!("membership is not consistent: {error}")))
}

fn membership_message(membership: &Membership) -> peer::Membership {
    peer::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| peer::Config {
                voters: voters.iter().copied().collect(),
            })
            .collect(),
        peers: membership
            .nodes()
            .map(|(id, node)| peer::Peer {
                id: *id,
                urls: node.urls.clone(),
            })
            .collect(),
    }
}

/// A vote on the wire.
pub(crate) fn vote_message(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// A vote from the wire.
pub(crate) fn vote_of(message: Option<&peer::Vote>) -> io::Result<Vote> {
    let message = message.ok_or_else(|| invalid("a vote is missing".to_owned()))?;
    Ok(if message.committed {
        Vote::new_committed(message.term, message.node)
    } else {
        Vote::new(message.term, message.node)
    })
}

/// A vote as bytes, for the log.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    vote_message(vote).encode_to_vec().into()
}

/// Reads what [`encode_vote`] wrote.
pub(crate) fn decode_vote(bytes: Bytes) -> io::Result<Vote> {
    let message =
        peer::Vote::decode(bytes).map_err(|error| invalid(format!("vote does not decode: {error}")))?;
    vote_of(Some(&message))
}

/// A log id on the wire.
pub(crate) fn log_id_message(id: &LogId) -> peer::LogId {
    peer::LogId {
        term: id.committed_leader_id().term,
        index: id.index(),
    }
}

/// A log id from the wire.
pub(crate) fn log_id_of(message: &peer::LogId) -> LogId {
    LogId::new_term_index(message.term, message.index)
}

/// An error for bytes that no member of this version wrote.
pub(crate) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_kind_survive_the_round_trip() {
        let id = LogId::new_term_index(3, 7);
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2, 3])],
            BTreeMap::from([1, 2, 3, 4].map(|id| {
                (
                    id,
                    PeerNode {
                        urls: vec![format!("http://h{id}:2380")],
                    },
                )
            })),
        )
        .unwrap();
        let proposals = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Batch::of(proposals.iter())),
            EntryPayload::Membership(membership),
        ] {
            let entry = Entry::new(id, payload);
            let decoded = entry_of(id, payload_bytes(&entry)).unwrap();
            assert_eq!(decoded.payload, entry.payload);
        }
    }

    #[test]
    fn unknown_kinds_and_empty_payloads_are_refused() {
        let id = LogId::new_term_index(1, 1);
        assert!(entry_of(id, Bytes::from_static(&[9, 9])).is_err());
        assert!(entry_of(id, Bytes::new()).is_err());
    }

    #[test]
    fn votes_survive_the_round_trip() {
        for vote in [Vote::new(4, 2), Vote::new_committed(5, 1)] {
            assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        }
    }
}
