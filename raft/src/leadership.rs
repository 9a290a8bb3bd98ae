//! Who leads, as far as this member can honestly say.
//!
//! openraft keeps naming a leader that a partitioned member has not heard for hours. Here a leader is known only while
//! it is heard (on a follower) or while a quorum answers (on the leader itself).

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::campaign::LeaderSigns;
use crate::node::{ProposeError, Raft};
use crate::type_config::TypeConfig;

type InstantOf = openraft::alias::InstantOf<TypeConfig>;

/// Who leads in which term; leader 0: nobody, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: u64,
    pub(crate) term: u64,
}

/// When leaders were gained and lost, to explain timeouts as etcd does.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeadershipHistory {
    known_since: Option<Instant>,
    lost_at: Option<Instant>,
    connection_lost_at: Option<Instant>,
    pub(crate) changes: u64,
}

impl LeadershipHistory {
    /// The leader is another one now, or none.
    fn changed(&mut self, before: Leadership, after: Leadership, now: Instant) {
        if before.leader != 0 {
            self.lost_at = Some(now);
        }
        self.known_since = (after.leader != 0).then_some(now);
        if after.leader != 0 {
            self.changes += 1;
        }
    }

    /// The connection to the leader broke.
    pub(crate) fn connection_lost(&mut self, now: Instant) {
        self.connection_lost_at = Some(now);
    }

    /// Whether the leader changed within `period` before `now`.
    pub(crate) fn changed_within(&self, period: Duration, now: Instant) -> bool {
        self.lost_at.is_some_and(|at| now.duration_since(at) <= period)
    }

    /// Why a command proposed at `since` has no outcome at its deadline `now` (API specification 11.1 and 11.3).
    pub(crate) fn explain(&self, since: Instant, now: Instant, election_timeout: Duration) -> ProposeError {
        let lost_after_start = self.lost_at.is_some_and(|at| at >= since);
        match (self.known_since, self.lost_at) {
            (None, _) if !lost_after_start => ProposeError::NoLeader,
            (_, Some(lost)) if lost + 2 * election_timeout >= since => ProposeError::TimeoutLeaderFailed,
            _ if self.connection_lost_at.is_some_and(|at| at >= since && at <= now) => {
                ProposeError::TimeoutConnectionLost
            }
            _ => ProposeError::Timeout,
        }
    }
}

/// Keeps `leadership` true until the node stops.
pub(crate) async fn watch_leadership(
    raft: Raft,
    signs: Arc<LeaderSigns>,
    history: Arc<Mutex<LeadershipHistory>>,
    leadership: watch::Sender<Leadership>,
    election_timeout: Duration,
) {
    let mut metrics = raft.server_metrics();
    let data = raft.data_metrics();
    let mut tick = tokio::time::interval(election_timeout / 4);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let patience = 2 * election_timeout;
    let mut named = None;
    loop {
        let now = Instant::now();
        let seen = {
            let server = metrics.borrow_and_update();
            let current = saved_leader(&server);
            if current != named {
                // A new leader's name comes from its own message: that is hearing it.
                named = current;
                signs.heard_now();
            }
            let term = server.vote.leader_id.term;
            let alone = server.membership_config.voter_ids().count() == 1;
            let leader = match current {
                Some(id) if id == server.id => {
                    let acked = data
                        .borrow_watched()
                        .last_quorum_acked
                        .as_ref()
                        .map(|acked| **acked);
                    let supported = acked.is_some_and(|at: InstantOf| at.elapsed() < patience);
                    let leads = server.state == ServerState::Leader;
                    if leads && (alone || supported || acked.is_none()) {
                        id
                    } else {
                        0
                    }
                }
                Some(id) if signs.heard().is_some_and(|at| now.duration_since(at) < patience) => id,
                _ => 0,
            };
            Leadership { leader, term }
        };
        let before = *leadership.borrow();
        if before != seen {
            if before.leader != seen.leader {
                history.lock().changed(before, seen, now);
                tracing::info!(
                    from = format!("{:x}", before.leader),
                    to = format!("{:x}", seen.leader),
                    term = seen.term,
                    "leader changed"
                );
            }
            leadership.send_replace(seen);
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
    }
}

/// The leader of the term that this member has saved. openraft names a leader before its term is on disk, and with it
/// the term that is: the pair would be of a leader and another one's term.
fn saved_leader(server: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
    server
        .current_leader
        .filter(|leader| server.vote.is_committed() && server.vote.leader_id.voted_for == *leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_secs(1);

    fn at(leader: u64) -> Leadership {
        Leadership { leader, term: leader }
    }

    #[tokio::test(start_paused = true)]
    async fn timeouts_are_explained_by_what_happened_meanwhile() {
        let start = Instant::now();
        let end = start + Duration::from_secs(7);
        let mut history = LeadershipHistory::default();
        assert_eq!(history.explain(start, end, ELECTION), ProposeError::NoLeader);
        history.changed(at(0), at(1), start);
        assert_eq!(history.explain(start, end, ELECTION), ProposeError::Timeout);
        history.connection_lost(start + ELECTION);
        assert_eq!(
            history.explain(start, end, ELECTION),
            ProposeError::TimeoutConnectionLost
        );
        history.changed(at(1), at(0), start + ELECTION);
        assert_eq!(
            history.explain(start, end, ELECTION),
            ProposeError::TimeoutLeaderFailed
        );
        let later = start + 10 * ELECTION;
        assert_eq!(
            history.explain(later, later + 7 * ELECTION, ELECTION),
            ProposeError::NoLeader
        );
    }
}
