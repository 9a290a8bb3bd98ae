//! When a member stands for election.
//!
//! openraft's own timer knows silence only. This one also takes evidence: a leader whose process dies resets its
//! connections at once, and there is no point in waiting out a timeout that is there for leaders of which nothing is
//! known. Silence alone is judged as etcd judges it, no sooner than one election timeout.
//!
//! Evidence can be wrong (a leader may drop one connection and live), so every campaign begins with a pre-vote round:
//! members that have heard the leader within its lease refuse, and nothing has changed. A campaign that is refused is
//! tried again as long as the evidence stands.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::Raft;
use crate::type_config::Vote;

/// Share of the election timeout for which a member that heard the leader votes for nobody else, in percent. Short,
/// so that evidence is acted on soon; more than the pause between two heartbeats, of which an election timeout has at
/// least five.
const LEASE_PERCENT: u32 = 30;

/// Silence after which a member stands, in percent of the election timeout: at random, so that two seldom stand at once.
const SILENCE_PERCENT: Range<u32> = 100..125;

/// Pause after the lease of a leader whose connection broke, in percent of the election timeout.
const EVIDENCE_PERCENT: Range<u32> = 0..8;

/// Pause after a campaign on evidence that was refused, and after one that only came in somebody else's term.
const RETRY_PERCENT: Range<u32> = 3..8;

/// Patience while an election is undecided: longer than a round takes, shorter than what is borne of a leader.
const UNDECIDED_PERCENT: Range<u32> = 25..60;

/// Patience once elections have come to nothing this often: votes are saved with a sync, and a slow disk must be able
/// to keep up.
const UNDECIDED_SLOW_PERCENT: Range<u32> = 100..200;
const UNDECIDED_QUICK_ROUNDS: u32 = 2;

/// Campaigns without any answer or vote that are tried as quickly. More than for votes, since nobody's disk pays for a
/// pre-vote, and a cluster that comes together again must not wait long.
const FRUITLESS_QUICK_ROUNDS: u32 = 5;

/// For how long a leader's lease keeps this member from voting for others.
pub(crate) fn lease(election_timeout: Duration) -> Duration {
    election_timeout * LEASE_PERCENT / 100
}

/// What this member hears of its leader. Shared by the connections it comes in on.
#[derive(Default)]
pub(crate) struct LeaderSigns {
    seen: Mutex<Seen>,
    connection_lost: Notify,
    in_a_taken_term: Notify,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    heard: Option<Instant>,
    lost: Option<Lost>,
}

/// A replication connection that its leader made and that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost {
    leader: u64,
    at: Instant,
}

impl LeaderSigns {
    /// A message of the leader was accepted just now. Our own clock, because openraft keeps a leader it cannot hear.
    pub(crate) fn heard_now(&self) {
        let mut seen = self.seen.lock();
        seen.heard = Some(Instant::now());
        seen.lost = None;
    }

    /// When a leader was last heard.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.seen.lock().heard
    }

    /// A replication connection from `peer` has ended.
    pub(crate) fn connection_lost(&self, peer: u64) {
        self.seen.lock().lost = Some(Lost {
            leader: peer,
            at: Instant::now(),
        });
        self.connection_lost.notify_one();
    }

    /// A member that knows less refused this one its vote, and only because it has voted in that term already. openraft
    /// refuses candidates that know less and keeps its term: so they all stand in one term, each votes for itself, and the
    /// one that could win asks in vain. In the next term it would not.
    pub(crate) fn asked_in_a_taken_term(&self) {
        self.in_a_taken_term.notify_one();
    }

    fn seen(&self) -> Seen {
        *self.seen.lock()
    }
}

/// What decides about the next campaign.
#[derive(Clone, Copy)]
struct Situation {
    /// This member could be elected at all.
    may_stand: bool,
    /// Nobody else votes.
    alone: bool,
    leader: Option<u64>,
    seen: Seen,
}

/// Times of campaigns. Pure but for the chance it is given.
struct Timer<R> {
    election_timeout: Duration,
    chance: R,
    /// Latest sign that somebody leads or stands.
    sign: Instant,
    vote: Option<Vote>,
    /// Votes seen since there was a leader.
    undecided: u32,
    /// Campaigns of this member since there was a leader.
    fruitless: u32,
    /// Silence borne from `sign` on.
    patience: Duration,
    /// Pause after the lease when the connection broke.
    hesitation: Duration,
    /// The pause after the last campaign ends here.
    not_before: Instant,
    /// The last campaign came in a term that was taken: when to try the next one.
    again: Option<Instant>,
}

impl<R: Rng> Timer<R> {
    fn new(election_timeout: Duration, chance: R, now: Instant) -> Self {
        let mut timer = Self {
            election_timeout,
            chance,
            sign: now,
            vote: None,
            undecided: 0,
            fruitless: 0,
            patience: Duration::ZERO,
            hesitation: Duration::ZERO,
            not_before: now,
            again: None,
        };
        timer.draw();
        timer
    }

    fn draw(&mut self) {
        self.patience = self.share(match self.undecided {
            0 => SILENCE_PERCENT,
            1..=UNDECIDED_QUICK_ROUNDS => UNDECIDED_PERCENT,
            _ => UNDECIDED_SLOW_PERCENT,
        });
        self.hesitation = self.share(EVIDENCE_PERCENT);
    }

    fn share(&mut self, percent: Range<u32>) -> Duration {
        let micros = u64::try_from(self.election_timeout.as_micros()).unwrap_or(u64::MAX) / 100;
        let range =
            u64::from(percent.start).saturating_mul(micros)..u64::from(percent.end).saturating_mul(micros);
        if range.is_empty() {
            return Duration::ZERO;
        }
        Duration::from_micros(self.chance.random_range(range))
    }

    /// Another vote than before, given or taken, is a sign that somebody leads or stands.
    fn observe_vote(&mut self, vote: &Vote, now: Instant) {
        if self.vote.as_ref() != Some(vote) {
            if vote.is_committed() {
                (self.undecided, self.fruitless) = (0, 0);
            } else {
                self.undecided = self.undecided.saturating_add(1);
            }
            self.vote = Some(*vote);
            self.sign = now;
            self.again = None;
            self.draw();
        }
    }

    /// See [`LeaderSigns::asked_in_a_taken_term`].
    fn asked_in_a_taken_term(&mut self, now: Instant) {
        if self.again.is_none() {
            self.again = Some(now + self.share(RETRY_PERCENT));
        }
    }

    /// When to stand, if nothing changes until then. None: not as things are.
    fn due(&mut self, situation: &Situation) -> Option<Instant> {
        if !situation.may_stand {
            return None;
        }
        if situation.alone {
            return Some(self.not_before);
        }
        if let Some(heard) = situation.seen.heard {
            self.sign = self.sign.max(heard);
        }
        // The refusal may come after somebody has been elected: that is no reason to stand against a leader.
        if let Some(again) = self.again.filter(|_| situation.leader.is_none()) {
            return Some(again);
        }
        let due = if self.has_evidence(situation) {
            self.sign + lease(self.election_timeout) + self.hesitation
        } else {
            self.sign + self.patience
        };
        Some(due.max(self.not_before))
    }

    /// The connection of the leader that is still believed in broke, and nothing was heard since.
    fn has_evidence(&self, situation: &Situation) -> bool {
        situation
            .seen
            .lost
            .is_some_and(|lost| Some(lost.leader) == situation.leader && lost.at >= self.sign)
    }

    /// A campaign begins now.
    fn stood(&mut self, situation: &Situation, now: Instant) {
        let pause = if self.has_evidence(situation) {
            RETRY_PERCENT
        } else if self.fruitless < FRUITLESS_QUICK_ROUNDS {
            UNDECIDED_PERCENT
        } else {
            UNDECIDED_SLOW_PERCENT
        };
        self.fruitless = self.fruitless.saturating_add(1);
        self.again = None;
        self.not_before = now + self.share(pause);
        self.draw();
    }
}

/// Stands for election whenever it is time, until the node stops. `seed` decides by how much members differ.
pub(crate) async fn campaign(
    raft: Raft,
    signs: Arc<LeaderSigns>,
    election_timeout: Duration,
    pre_vote: bool,
    seed: u64,
) {
    let mut metrics = raft.server_metrics();
    let mut timer = Timer::new(election_timeout, StdRng::seed_from_u64(seed), Instant::now());
    loop {
        let now = Instant::now();
        let situation = {
            let server = metrics.borrow_and_update();
            timer.observe_vote(&server.vote, now);
            let membership = server.membership_config.membership();
            Situation {
                may_stand: server.state != ServerState::Leader
                    && membership.voter_ids().any(|id| id == server.id),
                alone: membership.voter_ids().count() == 1,
                leader: server.current_leader,
                seen: signs.seen(),
            }
        };
        let due = timer.due(&situation);
        if due.is_some_and(|due| due <= now) {
            if timer.has_evidence(&situation) {
                kelson_storage::reached!("campaign_on_evidence");
            } else if !situation.alone {
                kelson_storage::reached!("campaign_on_silence");
            }
            timer.stood(&situation, now);
            // A member alone has nobody to ask. An error is the core's end, which others report.
            if raft.trigger().elect(pre_vote && !situation.alone).await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            () = signs.connection_lost.notified() => {}
            () = signs.in_a_taken_term.notified() => timer.asked_in_a_taken_term(Instant::now()),
            () = until(due) => {}
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::{RaftLeaderId, RaftVote};

    use super::*;

    const ELECTION: Duration = Duration::from_secs(1);

    fn timer(now: Instant) -> Timer<StdRng> {
        Timer::new(ELECTION, StdRng::seed_from_u64(7), now)
    }

    fn following(leader: u64, heard: Instant) -> Situation {
        Situation {
            may_stand: true,
            alone: false,
            leader: Some(leader),
            seen: Seen {
                heard: Some(heard),
                lost: None,
            },
        }
    }

    fn vote(term: u64, committed: bool) -> Vote {
        Vote::from_leader_id(openraft::impls::leader_id_std::LeaderId::new(term, 1), committed)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_borne_for_an_election_timeout() {
        let start = Instant::now();
        for seed in 0..100 {
            let mut timer = Timer::new(ELECTION, StdRng::seed_from_u64(seed), start);
            let heard = start + ELECTION / 2;
            let due = timer.due(&following(1, heard)).unwrap();
            assert!((heard + ELECTION..heard + ELECTION * 5 / 4).contains(&due));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_to_the_leader_cuts_the_wait_to_its_lease() {
        let start = Instant::now();
        let mut timer = timer(start);
        let mut situation = following(1, start);
        situation.seen.lost = Some(Lost {
            leader: 1,
            at: start + ELECTION / 20,
        });
        let due = timer.due(&situation).unwrap();
        assert!((start + lease(ELECTION)..start + lease(ELECTION) + ELECTION / 10).contains(&due));
        // Refused: tried again soon, as long as nothing is heard.
        timer.stood(&situation, due);
        let again = timer.due(&situation).unwrap();
        assert!(again > due && again < due + ELECTION / 10);
        situation.seen = Seen {
            heard: Some(again),
            lost: None,
        };
        assert!(timer.due(&situation).unwrap() >= again + ELECTION);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_somebody_else_is_no_evidence() {
        let start = Instant::now();
        let mut timer = timer(start);
        let mut situation = following(1, start);
        situation.seen.lost = Some(Lost { leader: 2, at: start });
        assert!(timer.due(&situation).unwrap() >= start + ELECTION);
        // Nor is one that broke before the leader was last heard.
        situation.seen = Seen {
            heard: Some(start + ELECTION),
            lost: Some(Lost { leader: 1, at: start }),
        };
        assert!(timer.due(&situation).unwrap() >= start + 2 * ELECTION);
    }

    #[tokio::test(start_paused = true)]
    async fn a_vote_given_to_another_starts_the_wait_anew() {
        let start = Instant::now();
        let mut timer = timer(start);
        let situation = Situation {
            leader: None,
            ..following(1, start)
        };
        timer.observe_vote(&vote(5, true), start + ELECTION);
        assert!(timer.due(&situation).unwrap() >= start + 2 * ELECTION);
        timer.observe_vote(&vote(5, true), start + 2 * ELECTION);
        assert!(timer.due(&situation).unwrap() < start + 3 * ELECTION);
    }

    /// Two members stood at once and shared the votes: a leader kill once cost 1.6 s instead of 0.35 s, because both
    /// then waited as if a leader had been heard.
    #[tokio::test(start_paused = true)]
    async fn a_split_vote_is_tried_again_soon_and_then_more_slowly() {
        let start = Instant::now();
        let mut timer = timer(start);
        let situation = following(1, start);
        timer.observe_vote(&vote(5, true), start);
        let mut waited = Vec::new();
        for term in 6..10 {
            let now = start + ELECTION * term;
            timer.observe_vote(&vote(term.into(), false), now);
            timer.stood(&situation, now);
            waited.push(timer.due(&situation).unwrap() - now);
        }
        assert!(
            waited[..2].iter().all(|&waited| waited < ELECTION * 6 / 10),
            "{waited:?}"
        );
        assert!(waited[2..].iter().all(|&waited| waited >= ELECTION), "{waited:?}");
    }

    /// Simulation seed 20322: over slow links a round took longer than the pause between two campaigns. All members stood
    /// again and again while the others did, and nobody was ever elected.
    #[tokio::test(start_paused = true)]
    async fn campaigns_that_come_to_nothing_get_out_of_each_others_way() {
        let start = Instant::now();
        let mut timer = timer(start);
        let situation = Situation {
            leader: None,
            ..following(1, start)
        };
        let mut waited = Vec::new();
        for round in 1..10 {
            let now = start + ELECTION * 10 * round;
            timer.stood(&situation, now);
            waited.push(timer.due(&situation).unwrap() - now);
        }
        let quick = FRUITLESS_QUICK_ROUNDS as usize;
        assert!(
            waited[..quick].iter().all(|&waited| waited < ELECTION * 6 / 10),
            "{waited:?}"
        );
        assert!(
            waited[quick..].iter().all(|&waited| waited >= ELECTION),
            "{waited:?}"
        );
        let leader = start + ELECTION * 100;
        timer.observe_vote(&vote(5, true), leader);
        timer.stood(&situation, leader);
        assert!(timer.due(&situation).unwrap() < leader + ELECTION * 5 / 4);
    }

    /// Simulation seed 53306, without pre-vote: openraft refuses a candidate whose log is shorter and keeps its own term. The
    /// member with the shortest log stood first, the one with the second longest next, the one with the longest last, all in
    /// one term, in which each had voted for itself by the time the one that could have won asked; and that in the same order
    /// again and again, for hundreds of election timeouts in the worst of these seeds.
    #[tokio::test(start_paused = true)]
    async fn members_with_unequal_logs_elect_one_without_pre_vote_too() {
        let start = Instant::now();
        let mut longest = Duration::ZERO;
        for seed in 0..2000 {
            longest = longest.max(elect_one_of_unequal(seed, start));
        }
        assert!(longest < ELECTION * 3, "{longest:?}");
    }

    /// How long three members take that have just stood in the worst order.
    fn elect_one_of_unequal(seed: u64, start: Instant) -> Duration {
        const LOGS: [u64; 3] = [54, 62, 63];
        let situation = Situation {
            leader: None,
            ..following(1, start)
        };
        let mut terms = [5; 3];
        let vote = |term, node: usize| {
            Vote::from_leader_id(
                openraft::impls::leader_id_std::LeaderId::new(term, node as u64),
                false,
            )
        };
        let mut timers = [0, 1, 2].map(|node: usize| {
            let mut timer = Timer::new(ELECTION, StdRng::seed_from_u64(seed * 3 + node as u64), start);
            let stood = start + ELECTION / 4 * node as u32;
            (timer.fruitless, timer.undecided) = (100, 100);
            timer.observe_vote(&vote(5, node), stood);
            timer.stood(&situation, stood);
            timer
        });
        loop {
            let due = [0, 1, 2].map(|node| timers[node].due(&situation).unwrap());
            let candidate = (0..3).min_by_key(|node| due[*node]).unwrap();
            let now = due[candidate];
            let term = terms[candidate] + 1;
            terms[candidate] = term;
            timers[candidate].stood(&situation, now);
            timers[candidate].observe_vote(&vote(term, candidate), now);
            let mut granted = 1;
            for other in (0..3).filter(|other| *other != candidate) {
                if terms[other] < term && LOGS[other] <= LOGS[candidate] {
                    terms[other] = term;
                    timers[other].observe_vote(&vote(term, candidate), now);
                    granted += 1;
                }
            }
            if granted >= 2 {
                return now - start;
            }
            let in_a_taken_term = |other: usize| terms[other] == term && LOGS[other] < LOGS[candidate];
            if (0..3).any(in_a_taken_term) {
                timers[candidate].asked_in_a_taken_term(now);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_comes_late_is_no_reason_to_stand_against_a_leader() {
        let start = Instant::now();
        let mut timer = timer(start);
        timer.observe_vote(&vote(5, true), start);
        timer.asked_in_a_taken_term(start);
        assert!(timer.due(&following(1, start)).unwrap() >= start + ELECTION);
        let nobody = Situation {
            leader: None,
            ..following(1, start)
        };
        assert!(timer.due(&nobody).unwrap() < start + ELECTION / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_alone_does_not_wait_and_a_leader_or_learner_never_stands() {
        let start = Instant::now();
        let mut timer = timer(start);
        let mut situation = following(1, start);
        situation.alone = true;
        assert_eq!(timer.due(&situation), Some(start));
        situation.may_stand = false;
        assert_eq!(timer.due(&situation), None);
    }
}
