//! [`Invariants`]: what must hold at every moment, whatever was done to the cluster.
//!
//! * One leader per term: nobody ever sees two.
//! * Log matching and leader completeness, as far as they matter to anybody: what one member has applied at an index,
//!   every member that ever applies that index has applied too, in the same term and with the same state after it. So
//!   nothing committed is ever rolled back or lost by a leader, not over crashes either.
//! * Apply makes no gaps and does not go back while a member lives; a restart goes back no further than its own log.
//! * Revisions and the committed index do not go back while a member lives.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use kelson_raft::environment::Observer;
use kelson_raft::node::NodeStatus;
use kelson_storage::revision::LogPosition;
use parking_lot::Mutex;

use super::trace::Trace;

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Invariants {
    shared: Arc<Mutex<Shared>>,
    trace: Trace,
}

#[derive(Default)]
struct Shared {
    violation: Option<String>,
    leaders: BTreeMap<u64, u64>,
    /// Term and hash after each entry, by index.
    applied: BTreeMap<u64, (u64, u64)>,
    elections: u64,
    snapshot_installs: u64,
}

impl Invariants {
    /// Nothing has happened yet.
    pub fn new(trace: Trace) -> Self {
        Self {
            shared: Arc::default(),
            trace,
        }
    }

    /// Notes what must not be. The first one counts.
    pub fn violated(&self, what: String) {
        let mut shared = self.shared.lock();
        self.trace.note(|| format!("VIOLATION: {what}"));
        shared.violation.get_or_insert(what);
    }

    /// What must not be and was.
    pub fn violation(&self) -> Option<String> {
        self.shared.lock().violation.clone()
    }

    /// Terms that had a leader.
    pub fn elections(&self) -> u64 {
        self.shared.lock().elections
    }

    /// Snapshots that members have installed and applied entries after.
    pub fn snapshot_installs(&self) -> u64 {
        self.shared.lock().snapshot_installs
    }

    /// Somebody takes `leader` for the leader of `term`. Whether that is news.
    pub fn leader(&self, witness: u64, term: u64, leader: u64) -> bool {
        if leader == 0 {
            return false;
        }
        let mut shared = self.shared.lock();
        let known = shared.leaders.get(&term).copied();
        if known.is_none() {
            shared.elections += 1;
            shared.leaders.insert(term, leader);
            self.trace.event("leader", &[term, leader]);
        }
        drop(shared);
        if let Some(known) = known.filter(|known| *known != leader) {
            self.violated(format!(
                "term {term} has two leaders: {known}, and {leader} as member {witness} sees it"
            ));
        }
        known.is_none()
    }

    /// Who hears what `member` applies during one life.
    pub fn observer(&self, member: u64) -> Arc<dyn Observer> {
        Arc::new(Witness {
            invariants: self.clone(),
            member,
            last: Mutex::new(None),
        })
    }
}

struct Witness {
    invariants: Invariants,
    member: u64,
    last: Mutex<Option<u64>>,
}

impl Observer for Witness {
    fn applied(&self, at: LogPosition, rolling_hash: u64) {
        let invariants = &self.invariants;
        invariants
            .trace
            .event("apply", &[self.member, at.term, at.index, rolling_hash]);
        let mut wrong = String::new();
        let last = self.last.lock().replace(at.index);
        if last.is_some_and(|last| at.index <= last) {
            let _ = write!(wrong, "entry {} applied after {last:?}", at.index);
        }
        let mut shared = invariants.shared.lock();
        // Entries are left out where a snapshot was installed, but none comes twice.
        shared.snapshot_installs += u64::from(last.is_some_and(|last| at.index > last + 1));
        let known = *shared.applied.entry(at.index).or_insert((at.term, rolling_hash));
        drop(shared);
        if known != (at.term, rolling_hash) {
            let _ = write!(
                wrong,
                "entry {} is of term {} with hash {rolling_hash:x} afterwards; elsewhere it is of term {} with {:x}",
                at.index, at.term, known.0, known.1
            );
        }
        if !wrong.is_empty() {
            invariants.violated(format!("member {}: {wrong}", self.member));
        }
    }
}

/// What must not go back while a member lives.
#[derive(Default)]
pub struct Marks {
    committed: u64,
    applied: u64,
    term: u64,
    revision: u64,
}

impl Marks {
    /// Compares with what was seen before.
    pub fn look(&mut self, invariants: &Invariants, status: &NodeStatus, revision: u64) {
        let pairs = [
            ("committed index", self.committed, status.committed),
            ("applied index", self.applied, status.applied),
            ("term", self.term, status.term),
            ("revision", self.revision, revision),
        ];
        for (name, before, now) in pairs {
            if now < before {
                invariants.violated(format!(
                    "member {}: {name} went from {before} to {now}",
                    status.id
                ));
            }
        }
        if status.applied > status.committed {
            invariants.violated(format!(
                "member {}: applied {} is past committed {}",
                status.id, status.applied, status.committed
            ));
        }
        (self.committed, self.applied, self.term, self.revision) =
            (status.committed, status.applied, status.term, revision);
    }
}
