//! Which members faults put out of reach, and whether a majority was left: what decides if a bound on pauses holds.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::{Fault, Shape};

/// The faults that are under way.
#[derive(Debug)]
pub struct UnderWay {
    members: usize,
    faults: Mutex<Vec<Impact>>,
}

#[derive(Debug)]
struct Impact {
    id: u64,
    /// Members that can not take part in a majority, or not be reached.
    lost: BTreeSet<usize>,
    /// Whether those that were left were enough at all times.
    majority_remains: bool,
}

impl UnderWay {
    /// None yet, in a cluster of `members`.
    #[must_use]
    pub fn new(members: usize) -> UnderWay {
        UnderWay {
            members,
            faults: Mutex::default(),
        }
    }

    /// A fault begins that loses these members.
    pub fn begin(&self, id: u64, lost: BTreeSet<usize>) {
        let mut faults = self.lock();
        faults.push(Impact {
            id,
            lost,
            majority_remains: true,
        });
        let lost: BTreeSet<usize> = faults
            .iter()
            .flat_map(|fault| fault.lost.iter().copied())
            .collect();
        if self.members - lost.len() <= self.members / 2 {
            for fault in &mut *faults {
                fault.majority_remains = false;
            }
        }
    }

    /// A fault has ended. Returns whether a majority was left all the time.
    pub fn end(&self, id: u64) -> bool {
        let mut faults = self.lock();
        let place = faults.iter().position(|fault| fault.id == id);
        place.is_some_and(|place| faults.swap_remove(place).majority_remains)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Impact>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The members that a fault with these targets keeps from being part of a majority, or from clients.
#[must_use]
pub fn lost(fault: &Fault, targets: &[usize], members: usize) -> BTreeSet<usize> {
    match fault {
        Fault::Transfer(_) | Fault::Compact { .. } | Fault::Clock { .. } => BTreeSet::new(),
        Fault::Cut(Shape::Bridge(shared)) => halves_around(*shared, members).0.into_iter().collect(),
        _ => targets.iter().copied().collect(),
    }
}

/// The members other than `shared`, in two halves.
#[must_use]
pub fn halves_around(shared: usize, members: usize) -> (Vec<usize>, Vec<usize>) {
    let others: Vec<usize> = (1..members).map(|step| (shared + step) % members).collect();
    let (one, other) = others.split_at(others.len() / 2);
    (one.to_vec(), other.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fault::Target;

    #[test]
    fn a_bridge_shares_one_member() {
        assert_eq!(halves_around(1, 3), (vec![2], vec![0]));
        assert_eq!(halves_around(4, 5), (vec![0, 1], vec![2, 3]));
    }

    #[test]
    fn faults_that_overlap_may_leave_no_majority() {
        let faults = UnderWay::new(3);
        let pause = Fault::Pause(Target::One(0));
        faults.begin(1, lost(&pause, &[0], 3));
        faults.begin(2, lost(&pause, &[1], 3));
        assert!(!faults.end(1));
        faults.begin(3, lost(&pause, &[1], 3));
        assert!(!faults.end(2), "it began while the first was under way");
        assert!(faults.end(3));
    }
}
