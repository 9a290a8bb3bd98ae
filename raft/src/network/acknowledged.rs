//! What each peer has acknowledged to this leader, to notice a log that went back.
//!
//! A peer that lost what it had acknowledged (a directory restored from a copy, a disk that forgot a sync) may have
//! been needed for a majority, so its entries must not simply be sent again. openraft takes such a conflict for its own
//! broken promise: with assertions on it panics, on the leader; without, it waits for ever. Here it is an error of that
//! peer alone, told once, and replication to it stays where it is. The next leader knows nothing of it.

use std::collections::BTreeMap;
use std::io;

use kelson_storage::mutant;
use parking_lot::Mutex;

use crate::type_config::{LogId, Vote};

/// See the module.
#[derive(Default)]
pub(crate) struct Acknowledged {
    peers: Mutex<BTreeMap<u64, Peer>>,
}

struct Peer {
    /// The leadership that the rest was said to.
    vote: Vote,
    matching: LogId,
    /// Whether a loss has been logged.
    told: bool,
}

impl Acknowledged {
    /// The peer has everything up to `matching`, as told to the leader of `vote`.
    pub(crate) fn accepted(&self, peer: u64, vote: &Vote, matching: LogId) {
        let mut peers = self.peers.lock();
        match peers.get_mut(&peer) {
            Some(known) if known.vote == *vote => {
                if known.matching.index < matching.index {
                    known.matching = matching;
                }
            }
            _ => {
                let known = Peer {
                    vote: *vote,
                    matching,
                    told: false,
                };
                peers.insert(peer, known);
            }
        }
    }

    /// The peer does not have the entry at `conflict`. An error if it had acknowledged it.
    pub(crate) fn refused(&self, peer: u64, vote: &Vote, conflict: &LogId) -> io::Result<()> {
        let mut peers = self.peers.lock();
        let Some(known) = peers.get_mut(&peer) else {
            return Ok(());
        };
        if mutant!("M15") {
            // A member that was wiped comes back under its old id as if nothing had happened.
            return Ok(());
        }
        if known.vote != *vote || known.matching.index < conflict.index {
            return Ok(());
        }
        if !known.told {
            known.told = true;
            tracing::error!(
                remote_peer_id = format!("{peer:x}"),
                acknowledged_index = known.matching.index,
                missing_index = conflict.index,
                "the log of a remote peer went back: it has lost entries that it had acknowledged; remove this member \
                 and add it again with an empty data directory"
            );
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer has lost entries that it had acknowledged",
        ))
    }
}

#[cfg(test)]
mod tests {
    use kelson_storage::revision::LogPosition;

    use super::*;
    use crate::type_config::log_id;

    const PEER: u64 = 7;

    fn vote(term: u64) -> Vote {
        Vote::new_committed(term, 1)
    }

    fn at(index: u64) -> LogId {
        log_id(LogPosition { term: 1, index })
    }

    #[test]
    fn a_conflict_above_what_was_acknowledged_is_the_search_for_the_common_log() {
        let peers = Acknowledged::default();
        peers.refused(PEER, &vote(1), &at(5)).unwrap();
        peers.accepted(PEER, &vote(1), at(3));
        peers.refused(PEER, &vote(1), &at(4)).unwrap();
    }

    #[test]
    fn a_conflict_at_what_was_acknowledged_is_a_loss() {
        let peers = Acknowledged::default();
        peers.accepted(PEER, &vote(1), at(9));
        // Replies to a heartbeat may be older than those to appends.
        peers.accepted(PEER, &vote(1), at(3));
        for index in [3, 9] {
            peers.refused(PEER, &vote(1), &at(index)).unwrap_err();
        }
        peers.refused(PEER + 1, &vote(1), &at(9)).unwrap();
    }

    #[test]
    fn another_leadership_begins_anew() {
        let peers = Acknowledged::default();
        peers.accepted(PEER, &vote(1), at(9));
        peers.refused(PEER, &vote(2), &at(9)).unwrap();
        peers.accepted(PEER, &vote(2), at(4));
        peers.refused(PEER, &vote(2), &at(9)).unwrap();
        peers.refused(PEER, &vote(2), &at(4)).unwrap_err();
    }
}
