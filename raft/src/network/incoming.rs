//! What peers sent, as requests for openraft and for the sequencer.
//!
//! What no sound member sends is refused here, with an error that ends the connection: openraft takes on trust that
//! entries are in order and that nobody speaks in this member's own name, and a command that cannot be read would stop
//! every member that applies it, for ever.

use std::io;

use bytes::Bytes;
use kelson_proto::peer;
use kelson_storage::codec::decode_batch;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use super::frame::Frame;
use crate::codec::{entry_of, invalid, log_id_of, vote_of};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

/// A vote that another member than `own` was given or asks for.
pub(crate) fn vote_of_another(message: Option<&peer::Vote>, own: u64) -> io::Result<Vote> {
    let vote = vote_of(message)?;
    if vote.leader_id.voted_for == own {
        return Err(invalid(format!("vote {vote} is in this member's own name")));
    }
    Ok(vote)
}

/// The request in an append frame to member `own`. Its entries follow one another without a gap, and each can be
/// applied.
pub(crate) fn append_request(frame: Frame, own: u64) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let message: peer::AppendRequest = frame.message()?;
    let vote = vote_of_another(message.vote.as_ref(), own)?;
    let previous = message.previous.as_ref().map(log_id_of);
    let mut last = previous;
    let mut entries = Vec::with_capacity(message.entries.len());
    for entry in message.entries {
        let id = entry
            .id
            .as_ref()
            .ok_or_else(|| invalid("an entry without an id".to_owned()))?;
        let id = log_id_of(id);
        if !follows(last, id) {
            return Err(invalid(format!("entry {id} does not follow {last:?}")));
        }
        last = Some(id);
        let entry = entry_of(id, entry.payload)?;
        check(&entry).map_err(|what| invalid(format!("entry {id}: {what}")))?;
        entries.push(entry);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: previous,
        entries,
        leader_commit: message.commit.as_ref().map(log_id_of),
    })
}

/// Whether `id` can stand right after `last` in a log.
fn follows(last: Option<LogId>, id: LogId) -> bool {
    match last {
        None => id.index() == 0,
        Some(last) => {
            let in_order = id.committed_leader_id().term >= last.committed_leader_id().term;
            in_order && last.index().checked_add(1) == Some(id.index())
        }
    }
}

/// Whether an entry can be applied once it is committed.
fn check(entry: &Entry) -> Result<(), String> {
    match &entry.payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Normal(batch) => check_commands(&batch.proposals()),
        EntryPayload::Membership(membership) if membership.voter_ids().next().is_none() => {
            Err("a membership without voters".to_owned())
        }
        EntryPayload::Membership(_) => Ok(()),
    }
}

/// The commands in a forward frame, each of which can be read.
pub(crate) fn proposals(frame: Frame) -> io::Result<Vec<Bytes>> {
    let message: peer::Forward = frame.message()?;
    for proposal in &message.proposals {
        check_commands(proposal).map_err(invalid)?;
    }
    Ok(message.proposals)
}

fn check_commands(batch: &Bytes) -> Result<(), String> {
    decode_batch(batch)
        .try_for_each(|proposal| proposal.map(drop))
        .map_err(|error| error.to_string())
}

/// The request in a frame that asks for a vote, or for the promise of one.
pub(crate) fn vote_request(frame: Frame, own: u64) -> io::Result<VoteRequest<TypeConfig>> {
    let message: peer::VoteRequest = frame.message()?;
    let mut request = VoteRequest::new(
        vote_of_another(message.vote.as_ref(), own)?,
        message.last.as_ref().map(log_id_of),
    );
    request.leadership_transfer = message.leadership_transfer;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use kelson_storage::codec::encode_batch;
    use kelson_storage::command::{Command, CommandId, Proposal};
    use prost::Message;

    use super::super::frame::Kind;
    use super::*;
    use crate::type_config::{Batch, KIND_BATCH, KIND_BLANK, KIND_MEMBERSHIP};

    fn entry(term: u64, index: u64, payload: &[u8]) -> peer::Entry {
        peer::Entry {
            id: Some(peer::LogId { term, index }),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    /// The member that sends, and the one that is sent to.
    const LEADER: u64 = 1;
    const OWN: u64 = 2;

    fn append(previous: Option<(u64, u64)>, entries: Vec<peer::Entry>) -> Result<usize, String> {
        append_to(OWN, previous, entries)
    }

    fn append_to(own: u64, previous: Option<(u64, u64)>, entries: Vec<peer::Entry>) -> Result<usize, String> {
        let message = peer::AppendRequest {
            vote: Some(peer::Vote {
                term: 3,
                node: LEADER,
                committed: true,
            }),
            previous: previous.map(|(term, index)| peer::LogId { term, index }),
            entries,
            commit: None,
        };
        let frame = Frame {
            kind: Kind::Append,
            body: message.encode_to_vec().into(),
        };
        append_request(frame, own)
            .map(|request| request.entries.len())
            .map_err(|error| error.to_string())
    }

    fn blank(term: u64, index: u64) -> peer::Entry {
        entry(term, index, &[KIND_BLANK])
    }

    #[test]
    fn entries_in_order_are_taken() {
        assert_eq!(append(None, vec![blank(0, 0), blank(1, 1)]), Ok(2));
        assert_eq!(append(Some((1, 4)), vec![blank(1, 5), blank(3, 6)]), Ok(2));
        assert_eq!(append(Some((1, 4)), vec![]), Ok(0));
    }

    /// A leader that was sent an append as if by itself stopped at an assertion of openraft.
    #[test]
    fn nobody_speaks_in_this_members_own_name() {
        assert!(append_to(LEADER, Some((1, 4)), vec![blank(1, 5)]).is_err());
    }

    /// openraft's log would have had a hole, which nobody can fill.
    #[test]
    fn entries_out_of_order_are_refused() {
        for (previous, entries) in [
            (Some((1, 4)), vec![blank(1, 6)]),
            (Some((1, 4)), vec![blank(1, 4)]),
            (Some((1, 4)), vec![blank(0, 5)]),
            (Some((1, 4)), vec![blank(1, 5), blank(1, 7)]),
            (Some((1, u64::MAX)), vec![blank(1, 0)]),
            (None, vec![blank(1, 1)]),
        ] {
            let refused = append(previous, entries.clone());
            assert!(refused.is_err(), "{previous:?} {entries:?}");
        }
    }

    /// Once committed it would have stopped every member, at this start and all later ones.
    #[test]
    fn entries_that_could_not_be_applied_are_refused() {
        for payload in [
            &[KIND_BATCH, 0xff, 0xff, 0xff, 0xff][..],
            &[KIND_BATCH, 1, 0, 0, 0, 0xff],
            &[KIND_MEMBERSHIP],
        ] {
            assert!(
                append(Some((1, 4)), vec![entry(1, 5, payload)]).is_err(),
                "{payload:?}"
            );
        }
    }

    #[test]
    fn commands_that_can_be_read_are_taken_and_others_refused() {
        let good = encode_batch(&[Proposal {
            id: CommandId {
                origin: 1,
                session: 1,
                seq: 1,
            },
            low: 0,
            command: Command::Compact { revision: 7 },
        }]);
        let forward = |proposal: &Bytes| {
            let message = peer::Forward {
                proposals: vec![proposal.clone()],
            };
            proposals(Frame {
                kind: Kind::Forward,
                body: message.encode_to_vec().into(),
            })
        };
        assert_eq!(forward(&good).unwrap(), std::slice::from_ref(&good));
        for cut in 1..good.len() {
            assert!(forward(&good.slice(..cut)).is_err(), "{cut}");
        }
        let batch = Batch::of([&good].into_iter());
        assert_eq!(append(Some((1, 4)), vec![entry(1, 5, batch.payload())]), Ok(1));
    }
}
