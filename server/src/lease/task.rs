//! [`ExpiryTask`]: feeds the countdown with what apply and elections do, and proposes what it has counted out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kelson_raft::node::{LeaseChange, ProposeError};
use kelson_storage::applied::Outcome;
use kelson_storage::command::Command;
use kelson_storage::error::Rejected;
use kelson_storage::limits::BATCH_COMMANDS_MAX;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info};

use super::host::Host;
use super::keeper::Shared;

/// Expiries that wait for their outcome at once: as many as fit one Raft entry. There is no bound per second; a
/// million leases that end together are gone after a thousand entries.
const PROPOSALS_MAX: usize = BATCH_COMMANDS_MAX;

/// Leases that end within this time of each other are expired together.
const EXPIRY_PERIOD: Duration = Duration::from_millis(100);

/// How often a new leader looks whether it has applied an entry of its own term.
const OWN_TERM_POLL: Duration = Duration::from_millis(20);

/// Lease changes handled before other tasks get the runtime.
const SLICE_CHANGES: usize = 1024;

/// One proposed expiry: the lease, the term it was counted in, and what became of it.
type Proposed = (i64, u64, Result<Outcome, ProposeError>);

/// See the module. Runs on every member; only the leader's countdown has anything in it.
pub(crate) struct ExpiryTask<H> {
    shared: Arc<Shared<H>>,
    changes: mpsc::UnboundedReceiver<LeaseChange>,
    leader: watch::Receiver<(u64, u64)>,
    proposals: FuturesUnordered<BoxFuture<'static, Proposed>>,
    /// When leases were expired last.
    expired_at: Instant,
}

impl<H: Host> ExpiryTask<H> {
    /// A task that hears of every change from now on.
    pub(crate) fn new(shared: Arc<Shared<H>>) -> Self {
        Self {
            changes: shared.host.lease_changes(),
            leader: shared.host.leader_changes(),
            shared,
            proposals: FuturesUnordered::new(),
            expired_at: Instant::now(),
        }
    }

    /// Runs until the node stops.
    pub(crate) async fn run(mut self) {
        loop {
            let in_doubt = self.follow_elections();
            self.take_changes();
            self.propose_due();
            let wake = self.next_wake(in_doubt);
            tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Some(change) => self.on_change(change),
                    None => return,
                },
                changed = self.leader.changed() => if changed.is_err() {
                    return;
                },
                Some(proposed) = self.proposals.next() => self.on_proposed(proposed),
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Starts or stops counting as elections demand. Returns whether this member leads but has not applied an entry
    /// of its own term: until then, leases of earlier terms may still be on their way out.
    ///
    /// Counting goes on while the term does not change, whatever is known about the leader: nobody else can lead in
    /// this term, and to count afresh could renew a lease whose expiry is on its way.
    fn follow_elections(&mut self) -> bool {
        self.leader.borrow_and_update();
        let status = self.shared.host.status();
        let mut desk = self.shared.desk.lock();
        if desk.expiry.term().is_some_and(|term| term != status.term) {
            info!(term = status.term, "leases are no longer counted here");
            desk.expiry.step_down();
            desk.wake_all();
            // Should one of them still get into the log, its term makes apply reject it.
            self.proposals.clear();
        }
        if !status.is_leader() || desk.expiry.term().is_some() {
            return false;
        }
        if self.shared.host.applied().map(|at| at.term) != Some(status.term) {
            return true;
        }
        let leases = self.shared.host.leases();
        info!(
            term = status.term,
            leases = leases.len(),
            "counting leases as the new leader"
        );
        let extension = self.shared.host.election_timeout();
        desk.expiry
            .become_leader(status.term, Instant::now(), leases, extension);
        false
    }

    fn take_changes(&mut self) {
        for _ in 0..SLICE_CHANGES {
            let Ok(change) = self.changes.try_recv() else {
                return;
            };
            self.on_change(change);
        }
    }

    fn on_change(&mut self, change: LeaseChange) {
        let counters = &self.shared.counters;
        let mut desk = self.shared.desk.lock();
        match change {
            LeaseChange::Granted { id, ttl } => {
                counters.granted.fetch_add(1, Ordering::Relaxed);
                desk.expiry.granted(id, ttl, Instant::now());
            }
            LeaseChange::Revoked { id } => {
                counters.revoked.fetch_add(1, Ordering::Relaxed);
                desk.expiry.revoked(id);
                desk.wake(id);
            }
            LeaseChange::Reset => {
                // Only a follower gets a snapshot. Should a leader have got one all the same, it counts every lease
                // that it now has and does not know; the others die as the log rejects or finds them gone.
                for (id, ttl) in self.shared.host.leases() {
                    desk.expiry.granted(id, ttl, Instant::now());
                }
                desk.wake_all();
            }
        }
    }

    fn propose_due(&mut self) {
        // A lease may have been revoked and granted again; its old deadline must not end the new one.
        if !self.changes.is_empty() {
            return;
        }
        let now = Instant::now();
        let room = PROPOSALS_MAX - self.proposals.len();
        let (ids, term) = {
            let mut desk = self.shared.desk.lock();
            let Some(term) = desk.expiry.term() else {
                return;
            };
            (desk.expiry.due(now, room), term)
        };
        if ids.is_empty() {
            return;
        }
        self.expired_at = now;
        debug!(count = ids.len(), term, "expiring leases");
        for id in ids {
            let host = self.shared.host.clone();
            let command = Command::LeaseRevoke {
                id,
                expiry_term: Some(term),
            };
            let proposing = async move { (id, term, host.propose(command).await) };
            self.proposals.push(proposing.boxed());
        }
    }

    fn on_proposed(&mut self, proposed: Proposed) {
        self.take_outcome(proposed);
        while let Some(Some(proposed)) = self.proposals.next().now_or_never() {
            self.take_outcome(proposed);
        }
    }

    fn take_outcome(&mut self, (id, term, result): Proposed) {
        let mut desk = self.shared.desk.lock();
        match result.map(|outcome| outcome.result) {
            Ok(Ok(_)) => {
                self.shared.counters.expired.fetch_add(1, Ordering::Relaxed);
                desk.expiry.decided(id, term);
                desk.wake(id);
            }
            Ok(Err(Rejected::LeaseNotFound)) => {
                desk.expiry.decided(id, term);
                desk.wake(id);
            }
            Ok(Err(rejected)) => {
                debug!(id, term, %rejected, "lease expiry rejected");
                desk.expiry.undecided(id, term, Instant::now());
            }
            Err(error) => {
                debug!(id, term, %error, "lease expiry has no outcome yet");
                desk.expiry.undecided(id, term, Instant::now());
            }
        }
    }

    fn next_wake(&self, in_doubt: bool) -> Option<Instant> {
        if in_doubt {
            return Some(Instant::now() + OWN_TERM_POLL);
        }
        // Without room, an outcome is what to wait for.
        if self.proposals.len() >= PROPOSALS_MAX {
            return None;
        }
        let due = self.shared.desk.lock().expiry.next_due()?;
        Some(due.max(self.expired_at + EXPIRY_PERIOD))
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
