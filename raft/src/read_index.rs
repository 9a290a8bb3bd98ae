//! Linearizable reads by ReadIndex (Raft thesis 6.4).
//!
//! On the leader, [`LeaderReads`] confirms leadership with a quorum round that starts after the reads it speaks for
//! arrived; reads that arrive during a round share the next. On every member, [`ReadQueue`] does the same for its own
//! clients, so that a member has few barriers on the way to the leader at a time. No clock is trusted anywhere.
//!
//! A follower need not wait for such a round if it makes a quorum with the leader, as in a cluster of three. It says which
//! vote it has, after its reads have arrived ([`vote_for`]). If the leader still has the same one when it hears of that,
//! neither of them had voted for a later leader when the reads arrived; so there was none, and what this one has
//! committed is all there was ([`index_by_word`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kelson_storage::mutant;
use kelson_storage::reached;
use openraft::async_runtime::WatchReceiver;
use openraft::{ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::node::{Raft, ReadIndexError};
use crate::type_config::{LogId, Vote};

/// Rounds of a member's own reads under way at once. The next one starts before the last is answered, so that a read waits for
/// hardly more than its own.
const ROUNDS_MAX: usize = 4;

/// How long a round may take before its reads are told "not confirmed". Source: etcd's `readIndexRetryTime`.
pub(crate) const ROUND_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after a round that was refused at once, as it is by a leader that hands over. Its reads come back immediately:
/// without a pause they would go round and round for as long as the transfer takes.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

type Confirmed = oneshot::Sender<Option<LogId>>;

/// The leader's side.
pub(crate) struct LeaderReads {
    waiting: Mutex<Vec<Confirmed>>,
    arrived: Notify,
}

impl LeaderReads {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            arrived: Notify::new(),
        }
    }

    /// Resolves with the index that a read arriving now must wait for; none if leadership was not confirmed.
    pub(crate) fn confirm(&self) -> impl Future<Output = Option<Option<LogId>>> + Send + use<> {
        let (confirmed, wait) = oneshot::channel();
        self.waiting.lock().push(confirmed);
        self.arrived.notify_one();
        async move { wait.await.ok() }
    }

    /// Runs the rounds, one at a time, for as long as the node lives.
    pub(crate) async fn run(&self, raft: &Raft) {
        loop {
            self.arrived.notified().await;
            // Let all reads that are ready to arrive do so before the round starts.
            tokio::task::yield_now().await;
            let round = std::mem::take(&mut *self.waiting.lock());
            if round.is_empty() {
                continue;
            }
            if mutant!("M17") {
                // Nobody is asked whether this member still leads.
                let index = committed_here(raft);
                for confirmed in round {
                    let _ = confirmed.send(index);
                }
                continue;
            }
            let index =
                tokio::time::timeout(ROUND_TIMEOUT, raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
            // Dropping the senders tells the others that nothing was confirmed.
            let linearizer = match index {
                Ok(Ok(linearizer)) => linearizer,
                Ok(Err(_)) => {
                    reached!("read_round_refused");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    continue;
                }
                Err(_) => continue,
            };
            let mut index = Some(*linearizer.read_log_id().log_id());
            if mutant!("M20") {
                // A new leader does not know what the old one has committed.
                index = committed_here(raft);
            }
            for confirmed in round {
                let _ = confirmed.send(index);
            }
        }
    }
}

/// This member's vote, if it is that of `leader`, which it follows. It is asked for in the core, in turn with the requests
/// for votes: what is watched of it may be older.
pub(crate) async fn vote_for(raft: &Raft, leader: u64) -> Option<Vote> {
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await.ok()?;
    (vote.committed && vote.leader_id.voted_for == leader).then_some(vote)
}

/// The index that reads must wait for which had arrived at `peer` before it had the vote `word`; none if that does not
/// show that this member led then.
pub(crate) async fn index_by_word(raft: &Raft, peer: u64, word: Vote) -> Option<LogId> {
    let asked = raft.with_raft_state(move |state| {
        let standing = Standing {
            leads: state.server_state == ServerState::Leader,
            vote: *state.vote_ref(),
            committed: state.local_committed().copied(),
            configs: state.membership_state.effective().get_joint_config(),
        };
        standing.index_by_word(peer, &word)
    });
    let index = asked.await.ok().flatten();
    if index.is_some() {
        reached!("read_confirmed_by_word");
    }
    index
}

/// Where a member stands when it is asked to confirm reads.
struct Standing<'a> {
    leads: bool,
    vote: Vote,
    committed: Option<LogId>,
    /// Voters; two sets while a joint change is under way.
    configs: &'a [BTreeSet<u64>],
}

impl Standing<'_> {
    fn index_by_word(&self, peer: u64, word: &Vote) -> Option<LogId> {
        let committed = self.committed?;
        if mutant!("M17") {
            // Whoever it was that the peer followed.
            return Some(committed);
        }
        let leader = self.vote.leader_id.voted_for;
        let is_quorum = |voters: &BTreeSet<u64>| {
            let known = [leader, peer].iter().filter(|id| voters.contains(id)).count();
            known * 2 > voters.len()
        };
        // An entry of its own term tells a leader what earlier ones have committed.
        let knows_all = committed.committed_leader_id().term == self.vote.leader_id.term || mutant!("M20");
        let leads = self.leads && self.vote.committed && *word == self.vote && peer != leader;
        (leads && knows_all && self.configs.iter().all(is_quorum)).then_some(committed)
    }
}

/// What this member knows to be committed. No read may rely on it: only planted bugs do.
fn committed_here(raft: &Raft) -> Option<LogId> {
    let metrics = raft.data_metrics();
    metrics.borrow_watched().local_committed
}

/// A client's read that waits for its barrier.
pub(crate) struct Waiter {
    since: Instant,
    done: oneshot::Sender<Result<(), ReadIndexError>>,
}

/// A member's own reads: waiting for the next round, in a round that is under way, or for apply.
///
/// Pure bookkeeping; whoever talks to the leader drives it.
#[derive(Default)]
pub(crate) struct ReadQueue {
    next: Vec<Waiter>,
    /// By token.
    rounds: BTreeMap<u64, Round>,
    token: u64,
    applying: BTreeMap<u64, Vec<Waiter>>,
}

struct Round {
    since: Instant,
    reads: Vec<Waiter>,
}

impl ReadQueue {
    /// Adds a read.
    pub(crate) fn push(&mut self, now: Instant) -> oneshot::Receiver<Result<(), ReadIndexError>> {
        let (done, wait) = oneshot::channel();
        let waiter = Waiter { since: now, done };
        match self.rounds.last_entry() {
            // The round under way may have been answered before this read arrived.
            Some(mut round) if mutant!("M18") => round.get_mut().reads.push(waiter),
            _ => self.next.push(waiter),
        }
        wait
    }

    /// Starts a round if reads wait and not too many are under way. Returns its token.
    pub(crate) fn start_round(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        self.token += 1;
        let round = Round {
            since: now,
            reads: std::mem::take(&mut self.next),
        };
        self.rounds.insert(self.token, round);
        Some(self.token)
    }

    /// The answer of round `token`; none: not confirmed. `applied` is where apply stands.
    pub(crate) fn finish_round(&mut self, token: u64, index: Option<Option<LogId>>, applied: Option<u64>) {
        let Some(Round { reads, .. }) = self.rounds.remove(&token) else {
            return;
        };
        match index {
            Some(index) => {
                let index = index.map(|id| id.index());
                // M19: the read does not wait for apply.
                if index <= applied || mutant!("M19") {
                    finish(reads, &Ok(()));
                } else if let Some(index) = index {
                    reached!("read_waited_for_apply");
                    self.applying.entry(index).or_default().extend(reads);
                }
            }
            None => {
                reached!("read_round_not_confirmed");
                self.requeue(reads);
            }
        }
    }

    /// Gives up on the rounds under way: the leader changed, or the way to it broke, or they took too long. Their reads
    /// join the next one, under a new token.
    pub(crate) fn abandon_rounds(&mut self) {
        let rounds = std::mem::take(&mut self.rounds);
        self.requeue(rounds.into_values().flat_map(|round| round.reads).collect());
    }

    fn requeue(&mut self, mut reads: Vec<Waiter>) {
        reads.append(&mut self.next);
        self.next = reads;
    }

    /// Whether a round has been under way for too long.
    pub(crate) fn round_is_late(&self, now: Instant) -> bool {
        let oldest = self.rounds.values().next();
        oldest.is_some_and(|round| now.duration_since(round.since) >= ROUND_TIMEOUT)
    }

    /// Whether some read only waits for apply.
    pub(crate) fn waits_for_apply(&self) -> bool {
        !self.applying.is_empty()
    }

    /// Apply has reached `applied`.
    pub(crate) fn applied(&mut self, applied: Option<u64>) {
        while let Some(entry) = self.applying.first_entry() {
            if Some(*entry.key()) > applied {
                return;
            }
            finish(entry.remove(), &Ok(()));
        }
    }

    /// Ends reads older than `timeout` with `error`. Returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant, timeout: Duration, error: &ReadIndexError) -> usize {
        let mut count = 0;
        let expired = |waiter: &mut Waiter| now.duration_since(waiter.since) >= timeout;
        let in_rounds = self.rounds.values_mut().map(|round| &mut round.reads);
        let lists = std::iter::once(&mut self.next).chain(in_rounds);
        for list in lists.chain(self.applying.values_mut()) {
            let late: Vec<Waiter> = list.extract_if(.., expired).collect();
            count += late.len();
            finish(late, &Err(error.clone()));
        }
        self.applying.retain(|_, list| !list.is_empty());
        count
    }

    /// Ends all reads: the node is stopping.
    pub(crate) fn fail_all(&mut self, error: &ReadIndexError) {
        self.abandon_rounds();
        let applying = std::mem::take(&mut self.applying);
        for list in std::iter::once(std::mem::take(&mut self.next)).chain(applying.into_values()) {
            finish(list, &Err(error.clone()));
        }
    }
}

fn finish(waiters: Vec<Waiter>, result: &Result<(), ReadIndexError>) {
    for waiter in waiters {
        // The client may have gone.
        let _ = waiter.done.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Option<Option<LogId>> {
        Some(Some(LogId::new_term_index(1, index)))
    }

    #[test]
    fn a_word_counts_only_for_a_leader_that_it_makes_a_quorum_with() {
        const LEADER: u64 = 1;
        const PEER: u64 = 2;
        let three = [BTreeSet::from([1, 2, 3])];
        let standing = Standing {
            leads: true,
            vote: Vote::new_committed(7, LEADER),
            committed: Some(LogId::new_term_index(7, 40)),
            configs: &three,
        };
        let word = Vote::new_committed(7, LEADER);
        assert_eq!(standing.index_by_word(PEER, &word), standing.committed);
        // The peer is of another mind, or only about to be.
        for other in [
            Vote::new_committed(6, LEADER),
            Vote::new_committed(8, LEADER),
            Vote::new_committed(7, 3),
            Vote::new(7, LEADER),
        ] {
            assert_eq!(standing.index_by_word(PEER, &other), None, "{other}");
        }
        // Who is no voter, or is the leader itself, adds nothing to it.
        for other in [LEADER, 4] {
            assert_eq!(standing.index_by_word(other, &word), None);
        }
        let none = |changed: Standing<'_>| assert_eq!(changed.index_by_word(PEER, &word), None);
        let five = [BTreeSet::from([1, 2, 3, 4, 5])];
        let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4, 5])];
        let without_leader = [BTreeSet::from([2, 3, 4])];
        for configs in [&five[..], &joint, &without_leader] {
            none(Standing { configs, ..standing });
        }
        none(Standing {
            leads: false,
            ..standing
        });
        none(Standing {
            vote: Vote::new(7, LEADER),
            ..standing
        });
        // A new leader that has committed nothing yet does not know all that its predecessors have.
        for committed in [None, Some(LogId::new_term_index(6, 40))] {
            none(Standing {
                committed,
                ..standing
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_arrives_during_a_round_is_not_served_by_it() {
        let now = Instant::now();
        let mut queue = ReadQueue::default();
        let mut early = queue.push(now);
        let token = queue.start_round(now).unwrap();
        let mut late = queue.push(now);
        queue.finish_round(token, at(5), Some(5));
        assert_eq!(early.try_recv().unwrap(), Ok(()));
        assert!(late.try_recv().is_err());
        let token = queue.start_round(now).unwrap();
        queue.finish_round(token, at(7), Some(5));
        assert!(late.try_recv().is_err(), "apply has not reached 7");
        queue.applied(Some(6));
        assert!(late.try_recv().is_err());
        queue.applied(Some(7));
        assert_eq!(late.try_recv().unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_abandoned_round_is_ignored() {
        let now = Instant::now();
        let mut queue = ReadQueue::default();
        let mut read = queue.push(now);
        let old = queue.start_round(now).unwrap();
        queue.abandon_rounds();
        let new = queue.start_round(now).unwrap();
        queue.finish_round(old, at(1), Some(9));
        assert!(read.try_recv().is_err(), "the old token confirms nothing");
        queue.finish_round(new, at(1), Some(9));
        assert_eq!(read.try_recv().unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_overlap_up_to_a_bound_and_end_in_any_order() {
        let now = Instant::now();
        let mut queue = ReadQueue::default();
        let mut reads = Vec::new();
        let mut tokens = Vec::new();
        for _ in 0..ROUNDS_MAX {
            reads.push(queue.push(now));
            tokens.push(queue.start_round(now).unwrap());
        }
        let mut late = queue.push(now);
        assert_eq!(queue.start_round(now), None, "enough are under way");
        queue.finish_round(tokens[1], at(5), Some(5));
        assert_eq!(reads[1].try_recv().unwrap(), Ok(()));
        assert!(reads[0].try_recv().is_err(), "its own round is not answered");
        assert!(!queue.round_is_late(now + ROUND_TIMEOUT / 2));
        let later = now + ROUND_TIMEOUT;
        assert!(queue.round_is_late(later));
        queue.abandon_rounds();
        let token = queue.start_round(later).unwrap();
        assert!(!queue.round_is_late(later));
        queue.finish_round(tokens[0], at(5), Some(5));
        assert!(reads[0].try_recv().is_err(), "it is of another round now");
        queue.finish_round(token, at(6), Some(6));
        for place in [0, 2, 3] {
            assert_eq!(reads[place].try_recv().unwrap(), Ok(()));
        }
        assert_eq!(late.try_recv().unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn reads_end_at_their_deadline_wherever_they_wait() {
        let now = Instant::now();
        let mut queue = ReadQueue::default();
        let mut reads = vec![queue.push(now)];
        let token = queue.start_round(now).unwrap();
        queue.finish_round(token, at(9), None);
        reads.push(queue.push(now));
        queue.start_round(now);
        reads.push(queue.push(now));
        queue.expire(
            now + Duration::from_secs(7),
            Duration::from_secs(7),
            &ReadIndexError::Timeout,
        );
        for read in &mut reads {
            assert_eq!(read.try_recv().unwrap(), Err(ReadIndexError::Timeout));
        }
        assert!(!queue.waits_for_apply());
    }
}
