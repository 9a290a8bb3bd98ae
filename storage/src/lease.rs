//! [`Leases`]: which leases exist and which keys they hold. Time to live is data here, never a timer.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::BuildHasherDefault;

use bytes::Bytes;

use crate::error::Rejected;
use crate::limits::LEASE_TTL_SECONDS_MAX;

/// Hashing without chance, so that two runs of the same commands do the same work.
type FixedHasher = BuildHasherDefault<DefaultHasher>;

/// All leases. Every attached key belongs to exactly one lease, which exists.
#[derive(Debug, Default)]
pub struct Leases {
    by_id: BTreeMap<i64, Lease>,
    /// Ids granted or revoked since the last [`Leases::take_changed`].
    changed: BTreeSet<i64>,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    keys: HashSet<Bytes, FixedHasher>,
}

impl Leases {
    /// Leases as a checkpoint holds them, without keys.
    pub fn restore(leases: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let by_id = leases
            .into_iter()
            .map(|(id, ttl)| (id, Lease::new(ttl)))
            .collect();
        Self {
            by_id,
            changed: BTreeSet::new(),
        }
    }

    /// Creates a lease of `ttl` seconds. The TTL is checked before the id (API specification 7.1).
    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<(), Rejected> {
        if ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Rejected::LeaseTtlTooLarge);
        }
        if self.by_id.contains_key(&id) {
            return Err(Rejected::LeaseExists);
        }
        self.by_id.insert(id, Lease::new(ttl));
        self.changed.insert(id);
        Ok(())
    }

    /// Removes a lease that holds no keys any more and returns its TTL.
    pub fn remove(&mut self, id: i64) -> Option<i64> {
        let lease = self.by_id.remove(&id)?;
        assert!(lease.keys.is_empty(), "lease {id} is removed while it holds keys");
        self.changed.insert(id);
        Some(lease.ttl)
    }

    /// Granted TTL in seconds.
    pub fn ttl(&self, id: i64) -> Option<i64> {
        self.by_id.get(&id).map(|lease| lease.ttl)
    }

    /// Attached keys, in no order; none if there is no such lease.
    pub fn keys_unordered(&self, id: i64) -> Option<Vec<Bytes>> {
        Some(self.by_id.get(&id)?.keys.iter().cloned().collect())
    }

    /// Attached keys in order; none if there is no such lease.
    pub fn keys(&self, id: i64) -> Option<Vec<Bytes>> {
        let mut keys = self.keys_unordered(id)?;
        keys.sort_unstable();
        Some(keys)
    }

    /// All leases: id and TTL, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    /// Moves a key from one lease to another; 0 stands for none. `false` if the new one does not exist.
    pub fn move_key(&mut self, key: &[u8], from: i64, to: i64) -> bool {
        if from == to {
            return true;
        }
        if from != 0 {
            let lease = self.by_id.get_mut(&from).expect("an attached key's lease exists");
            assert!(
                lease.keys.remove(key),
                "a key was not attached to its lease {from}"
            );
        }
        if to == 0 {
            return true;
        }
        // A copy: a slice of a log entry or a record would keep all of its buffer in memory.
        let key = Bytes::copy_from_slice(key);
        self.by_id
            .get_mut(&to)
            .map(|lease| lease.keys.insert(key))
            .is_some()
    }

    /// What changed since the last call: id, and the TTL unless the lease is gone.
    pub fn take_changed(&mut self) -> Vec<(i64, Option<i64>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| (id, self.ttl(id))).collect()
    }
}

impl Lease {
    fn new(ttl: i64) -> Self {
        Self {
            ttl,
            keys: HashSet::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_is_checked_before_the_id() {
        let mut leases = Leases::default();
        assert_eq!(leases.grant(7, LEASE_TTL_SECONDS_MAX), Ok(()));
        assert_eq!(
            leases.grant(7, LEASE_TTL_SECONDS_MAX + 1),
            Err(Rejected::LeaseTtlTooLarge)
        );
        assert_eq!(leases.grant(7, 5), Err(Rejected::LeaseExists));
        assert_eq!(leases.grant(i64::MIN, -5), Ok(()));
        assert_eq!(
            leases.iter().collect::<Vec<_>>(),
            [(i64::MIN, -5), (7, LEASE_TTL_SECONDS_MAX)]
        );
    }

    #[test]
    fn key_belongs_to_the_lease_it_was_moved_to() {
        let mut leases = Leases::restore([(1, 10), (2, 20)]);
        assert!(leases.move_key(b"b", 0, 1));
        assert!(leases.move_key(b"a", 0, 1));
        assert_eq!(leases.keys(1).unwrap(), ["a", "b"]);
        assert!(leases.move_key(b"a", 1, 2));
        assert!(leases.move_key(b"b", 1, 0));
        assert!(!leases.move_key(b"c", 0, 3));
        assert_eq!(leases.keys(1).unwrap(), [""; 0]);
        assert_eq!(leases.keys(2).unwrap(), ["a"]);
        assert_eq!(leases.keys(3), None);
    }

    #[test]
    fn changes_are_told_once() {
        let mut leases = Leases::restore([(1, 10)]);
        assert_eq!(leases.take_changed(), []);
        leases.grant(2, 20).unwrap();
        leases.grant(3, 30).unwrap();
        leases.remove(3).unwrap();
        leases.remove(1).unwrap();
        assert_eq!(leases.take_changed(), [(1, None), (2, Some(20)), (3, None)]);
        assert_eq!(leases.take_changed(), []);
    }
}
