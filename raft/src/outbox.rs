//! [`Outbox`]: the commands of this member's clients that have no outcome yet.
//!
//! Pure bookkeeping: who waits for which sequence number, what must be sent (again), who has waited too long. All
//! waits are equally long, so they end in the order in which they began.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kelson_storage::applied::Outcome;
use kelson_storage::command::CommandId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::node::ProposeError;

/// Most commands of one member that may wait at once. Beyond it clients are told "too many requests".
pub(crate) const OUTSTANDING_COMMANDS_MAX: usize = 64 * 1024;

/// Most bytes of commands of one member that may wait at once.
pub(crate) const OUTSTANDING_BYTES_MAX: usize = 256 * 1024 * 1024;

type Answer = oneshot::Sender<Result<Outcome, ProposeError>>;

/// One command between its proposal and its outcome.
struct Slot {
    /// None once answered: the slot only waits for older ones to be answered too.
    answer: Option<Answer>,
    bytes: Bytes,
    since: Instant,
}

/// See the module.
pub(crate) struct Outbox {
    origin: u64,
    session: u64,
    /// Sequence number of the first slot: the lowest one without an outcome.
    low: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
    /// Sequence number of the next command to send; everything below has been sent to the present leader.
    unsent: u64,
    /// Whether apply has brought an outcome of ours since [`Outbox::is_stuck`] was last asked.
    progressed: bool,
    last_progress: Option<Instant>,
}

impl Outbox {
    pub(crate) fn new(origin: u64, session: u64) -> Self {
        Self {
            origin,
            session,
            low: 1,
            slots: VecDeque::new(),
            bytes: 0,
            unsent: 1,
            progressed: false,
            last_progress: None,
        }
    }

    /// The id of the next command and the low mark to send with it.
    pub(crate) fn next_id(&self) -> (CommandId, u64) {
        let seq = self.low + self.slots.len() as u64;
        (
            CommandId {
                origin: self.origin,
                session: self.session,
                seq,
            },
            self.low,
        )
    }

    /// Whether one more command of `bytes` fits the bounds.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.slots.len() < OUTSTANDING_COMMANDS_MAX && self.bytes + bytes <= OUTSTANDING_BYTES_MAX
    }

    /// Adds the command that [`Outbox::next_id`] named.
    pub(crate) fn push(
        &mut self,
        bytes: Bytes,
        now: Instant,
    ) -> oneshot::Receiver<Result<Outcome, ProposeError>> {
        let (answer, wait) = oneshot::channel();
        self.bytes += bytes.len();
        self.slots.push_back(Slot {
            answer: Some(answer),
            bytes,
            since: now,
        });
        wait
    }

    /// Number of commands without an outcome.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Delivers an outcome that this member's apply computed. Not ours, or given up: nothing happens.
    pub(crate) fn complete(&mut self, id: CommandId, outcome: Outcome) {
        if id.origin != self.origin || id.session != self.session || id.seq < self.low {
            return;
        }
        let Ok(index) = usize::try_from(id.seq - self.low) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(index)
            && let Some(answer) = slot.answer.take()
        {
            self.bytes -= slot.bytes.len();
            slot.bytes = Bytes::new();
            self.progressed = true;
            // The client may have gone; the command stands.
            let _ = answer.send(Ok(outcome));
        }
        self.drop_answered();
    }

    /// Takes up to `commands` commands and about `bytes` bytes that have not been sent to the present leader.
    pub(crate) fn take_unsent(&mut self, commands: usize, bytes: usize) -> Vec<Bytes> {
        self.unsent = self.unsent.max(self.low);
        let mut taken = Vec::new();
        let mut total = 0;
        let skip = usize::try_from(self.unsent - self.low).unwrap_or(usize::MAX);
        for slot in self.slots.iter().skip(skip) {
            if taken.len() >= commands || (total >= bytes && !taken.is_empty()) {
                break;
            }
            self.unsent += 1;
            if slot.answer.is_some() {
                total += slot.bytes.len();
                taken.push(slot.bytes.clone());
            }
        }
        taken
    }

    /// Everything without an outcome must be sent again: the leader is another, or the way to it was interrupted.
    pub(crate) fn resend_all(&mut self) {
        if !self.slots.is_empty() {
            kelson_storage::reached!("commands_sent_again");
        }
        self.unsent = self.low;
    }

    /// Whether something has waited for longer than `patience` while apply brought none of ours. Once it has said so,
    /// the patience begins anew.
    pub(crate) fn is_stuck(&mut self, now: Instant, patience: Duration) -> bool {
        if std::mem::take(&mut self.progressed) {
            self.last_progress = Some(now);
        }
        let Some(oldest) = self.slots.front() else {
            return false;
        };
        let quiet = self
            .last_progress
            .is_none_or(|last| now.duration_since(last) > patience);
        let stuck = quiet && now.duration_since(oldest.since) > patience;
        if stuck {
            self.last_progress = Some(now);
        }
        stuck
    }

    /// Gives up on commands older than `timeout`. `why` gets the time the command was proposed at and whether it was
    /// ever sent to a leader. Returns how many there were.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        timeout: Duration,
        why: impl Fn(Instant) -> ProposeError,
    ) -> usize {
        let mut expired = 0;
        for slot in &mut self.slots {
            if now.duration_since(slot.since) < timeout {
                break;
            }
            if let Some(answer) = slot.answer.take() {
                kelson_storage::reached!("outcome_unknown");
                self.bytes -= slot.bytes.len();
                slot.bytes = Bytes::new();
                let _ = answer.send(Err(why(slot.since)));
                expired += 1;
            }
        }
        self.drop_answered();
        expired
    }

    /// Gives up on everything: the node is stopping.
    pub(crate) fn fail_all(&mut self, error: &ProposeError) {
        for slot in &mut self.slots {
            if let Some(answer) = slot.answer.take() {
                let _ = answer.send(Err(error.clone()));
            }
        }
        self.bytes = 0;
        self.low += self.slots.len() as u64;
        self.slots.clear();
    }

    fn drop_answered(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.answer.is_none()) {
            self.slots.pop_front();
            self.low += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(revision: u64) -> Outcome {
        Outcome {
            revision,
            term: 1,
            result: Ok(kelson_storage::applied::Applied::Done),
        }
    }

    fn propose(
        outbox: &mut Outbox,
        now: Instant,
    ) -> (CommandId, oneshot::Receiver<Result<Outcome, ProposeError>>) {
        let (id, _) = outbox.next_id();
        (id, outbox.push(Bytes::from(id.seq.to_string()), now))
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_reach_their_waiters_and_the_low_mark_follows_the_oldest_open_one() {
        let now = Instant::now();
        let mut outbox = Outbox::new(7, 1);
        let (first, mut first_wait) = propose(&mut outbox, now);
        let (second, mut second_wait) = propose(&mut outbox, now);
        outbox.complete(second, outcome(3));
        assert_eq!(second_wait.try_recv().unwrap(), Ok(outcome(3)));
        assert_eq!(outbox.next_id().1, first.seq, "the first one is still open");
        outbox.complete(first, outcome(2));
        assert_eq!(first_wait.try_recv().unwrap(), Ok(outcome(2)));
        assert_eq!(outbox.next_id().1, 3);
        assert_eq!((outbox.len(), outbox.bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn only_open_commands_are_sent_again() {
        let now = Instant::now();
        let mut outbox = Outbox::new(7, 1);
        let waits: Vec<_> = (0..4).map(|_| propose(&mut outbox, now)).collect();
        assert_eq!(outbox.take_unsent(3, 1000), ["1", "2", "3"]);
        assert_eq!(outbox.take_unsent(3, 1000), ["4"]);
        outbox.complete(waits[1].0, outcome(2));
        outbox.resend_all();
        assert_eq!(outbox.take_unsent(9, 1000), ["1", "3", "4"]);
        assert!(outbox.take_unsent(9, 1000).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn foreign_sessions_and_late_outcomes_are_ignored() {
        let now = Instant::now();
        let mut outbox = Outbox::new(7, 2);
        let (id, mut wait) = propose(&mut outbox, now);
        outbox.complete(CommandId { session: 1, ..id }, outcome(2));
        outbox.complete(CommandId { origin: 8, ..id }, outcome(2));
        assert!(wait.try_recv().is_err());
        outbox.expire(now + Duration::from_secs(7), Duration::from_secs(7), |_| {
            ProposeError::Timeout
        });
        assert_eq!(wait.try_recv().unwrap(), Err(ProposeError::Timeout));
        outbox.complete(id, outcome(2));
        assert_eq!(outbox.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stream_of_outcomes_is_not_taken_for_a_lost_one() {
        let patience = Duration::from_secs(1);
        let start = Instant::now();
        let mut outbox = Outbox::new(7, 1);
        let (_oldest, _wait) = propose(&mut outbox, start);
        let (second, _wait) = propose(&mut outbox, start);
        outbox.complete(second, outcome(2));
        assert!(
            !outbox.is_stuck(start + 3 * patience, patience),
            "apply has just brought one"
        );
        assert!(outbox.is_stuck(start + 5 * patience, patience));
        assert!(!outbox.is_stuck(start + 5 * patience, patience), "said once");
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_hold() {
        let mut outbox = Outbox::new(7, 1);
        assert!(outbox.has_room(OUTSTANDING_BYTES_MAX));
        let _wait = propose(&mut outbox, Instant::now());
        assert!(!outbox.has_room(OUTSTANDING_BYTES_MAX));
    }
}
