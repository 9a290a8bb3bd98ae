//! [`Expiry`]: the leader's countdown. Pure: time comes in as an argument, proposals go out as a list.
//!
//! What must stay true: a lease whose expiry has been proposed is never renewed (its revoke may commit at any time),
//! and is proposed again until its fate is known. Leases of a former term are forgotten: the log rejects the expiry of
//! a leader that was replaced.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use kelson_storage::mutant;
use kelson_storage::reached;
use tokio::time::Instant;

/// How long to wait before an expiry is proposed again that was refused or whose fate is unknown.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A deadline further away than this is not told from one that never comes.
const FAR_AWAY: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// See the module.
#[derive(Default)]
pub(crate) struct Expiry {
    /// The term this member counts for; none: it counts nothing.
    term: Option<u64>,
    /// Looked up, never iterated: the order of the map is seen by nobody.
    leases: HashMap<i64, Counted>,
    /// When something is to be done about a lease: propose its expiry for the first time, or again.
    due: BTreeSet<(Instant, i64)>,
}

struct Counted {
    deadline: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In `due` at its deadline.
    Counting,
    /// Proposed, waiting for the outcome; not in `due`.
    Proposed,
    /// In `due` at this time, to be proposed again.
    Retrying(Instant),
}

/// What a renewal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The lease counts from now.
    Renewed,
    /// Too late: the lease's end is due or on its way. Its outcome decides.
    Ending,
}

impl Expiry {
    /// The term this member counts for.
    pub(crate) fn term(&self) -> Option<u64> {
        self.term
    }

    /// This member leads `term` and has applied an entry of it. All leases get their full TTL (API specification 7.6)
    /// and `extension` on top, because clients lost time looking for the new leader.
    pub(crate) fn become_leader(
        &mut self,
        term: u64,
        now: Instant,
        leases: Vec<(i64, i64)>,
        extension: Duration,
    ) {
        assert!(
            self.term.is_none_or(|former| former < term),
            "counting afresh within one term could renew a lease whose revoke is on its way"
        );
        self.step_down();
        self.term = Some(term);
        if !leases.is_empty() {
            reached!("leader_counts_leases_afresh");
        }
        let from = now + extension;
        let counted = |(id, ttl): &(i64, i64)| (deadline(from, *ttl), *id);
        self.due = leases.iter().map(counted).collect();
        self.leases = self
            .due
            .iter()
            .map(|(deadline, id)| (*id, Counted::until(*deadline)))
            .collect();
    }

    /// This member leads no more.
    pub(crate) fn step_down(&mut self) {
        *self = Self::default();
    }

    /// A lease was granted. If it is counted already, because the leases were read when its grant had been applied
    /// and not yet reported, it only gets more time.
    pub(crate) fn granted(&mut self, id: i64, ttl: i64, now: Instant) {
        if self.term.is_none() {
            return;
        }
        let granted_until = deadline(now, ttl);
        match self.leases.get(&id) {
            None => self.count(id, granted_until),
            Some(counted) if counted.stage == Stage::Counting && counted.deadline < granted_until => {
                self.count(id, granted_until);
            }
            Some(_) => {}
        }
    }

    /// A lease is gone.
    pub(crate) fn revoked(&mut self, id: i64) {
        if let Some(counted) = self.leases.remove(&id) {
            self.due.remove(&(counted.due(), id));
        }
    }

    /// A client wants its lease, which exists, to go on.
    pub(crate) fn renew(&mut self, id: i64, ttl: i64, now: Instant) -> Renewal {
        match self.leases.get(&id) {
            Some(counted) if counted.stage != Stage::Counting || counted.deadline <= now => {
                reached!("lease_renewal_too_late");
                Renewal::Ending
            }
            _ => {
                self.count(id, deadline(now, ttl));
                Renewal::Renewed
            }
        }
    }

    /// Time a counted lease has left.
    pub(crate) fn remaining(&self, id: i64, now: Instant) -> Option<Duration> {
        let counted = self.leases.get(&id)?;
        Some(counted.deadline.saturating_duration_since(now))
    }

    /// When [`Expiry::due`] will have something.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _id)| *at)
    }

    /// At most `room` leases whose expiry is to be proposed now. Each is followed by one [`Expiry::decided`] or
    /// [`Expiry::undecided`].
    pub(crate) fn due(&mut self, now: Instant, room: usize) -> Vec<i64> {
        let mut proposed = Vec::new();
        while proposed.len() < room
            && let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            let counted = self.leases.get_mut(&id);
            counted.expect("what is due is counted").stage = Stage::Proposed;
            proposed.push(id);
        }
        proposed
    }

    /// The expiry proposed for `term` was applied, or found no lease.
    pub(crate) fn decided(&mut self, id: i64, term: u64) {
        // A lease that counts again was granted after the expiry.
        if self.is_proposed(id, term) {
            self.leases.remove(&id);
        }
    }

    /// The expiry proposed for `term` was refused, or its fate is unknown.
    pub(crate) fn undecided(&mut self, id: i64, term: u64, now: Instant) {
        // M40: an expiry whose fate is unknown is never proposed again.
        if self.is_proposed(id, term)
            && !mutant!("M40")
            && let Some(counted) = self.leases.get_mut(&id)
        {
            reached!("lease_expiry_undecided");
            let again = now + RETRY_DELAY;
            counted.stage = Stage::Retrying(again);
            self.due.insert((again, id));
        }
    }

    fn is_proposed(&self, id: i64, term: u64) -> bool {
        let stage = self.leases.get(&id).map(|counted| counted.stage);
        self.term == Some(term) && stage == Some(Stage::Proposed)
    }

    fn count(&mut self, id: i64, deadline: Instant) {
        if let Some(former) = self.leases.insert(id, Counted::until(deadline)) {
            self.due.remove(&(former.due(), id));
        }
        self.due.insert((deadline, id));
    }
}

impl Counted {
    fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            stage: Stage::Counting,
        }
    }

    fn due(&self) -> Instant {
        match self.stage {
            Stage::Counting | Stage::Proposed => self.deadline,
            Stage::Retrying(at) => at,
        }
    }
}

fn deadline(now: Instant, ttl: i64) -> Instant {
    // M37: an administrator who sets the clock ends leases, or makes them last.
    #[cfg(feature = "mutants")]
    let now = if mutant!("M37") {
        on_the_wall_clock(now)
    } else {
        now
    };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    now + ttl.min(FAR_AWAY)
}

/// `now` as the wall clock has it, given that both agreed when this was first asked.
#[cfg(feature = "mutants")]
#[expect(
    clippy::disallowed_methods,
    reason = "the planted bug M37 is to use this very clock"
)]
fn on_the_wall_clock(now: Instant) -> Instant {
    use std::time::SystemTime;
    static AGREED: std::sync::OnceLock<(Instant, SystemTime)> = std::sync::OnceLock::new();
    let (instant, time) = AGREED.get_or_init(|| (now, SystemTime::now()));
    *instant + time.elapsed().unwrap_or_default()
}
