//! [`LiveChanges`]: which keys came and went lately, so that a count at a recent revision need not walk the range.
//!
//! The index counts the present. The count at an older revision `r` is that count minus what
//! [`LiveChanges::count_delta_since`] says: keys created after `r` less keys deleted after `r`.

use std::collections::VecDeque;

use crate::revision::Revision;

/// Most changes remembered. A count looks at each change after its revision, so this also bounds a count's work.
pub const LIVE_CHANGES_MAX: usize = 64 * 1024;

/// Most bytes of keys remembered.
pub const LIVE_CHANGES_KEY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The newest creations and deletions of keys, in order. Knows every one after `complete_after`.
#[derive(Debug)]
pub struct LiveChanges {
    changes: VecDeque<Change>,
    /// Bytes of all keys in `changes`.
    key_bytes: usize,
    /// All changes with a main revision above this are here.
    complete_after: u64,
}

#[derive(Debug)]
struct Change {
    main: u64,
    created: bool,
    /// Our own copy: a slice of the log entry would keep the whole entry alive.
    key: Box<[u8]>,
}

impl LiveChanges {
    /// No changes after main revision `present`, where the store stands.
    pub fn new(present: u64) -> Self {
        Self {
            changes: VecDeque::new(),
            key_bytes: 0,
            complete_after: present,
        }
    }

    /// Adds the creation (or else the deletion) of `key` at `revision`. A put to a key that exists is neither.
    ///
    /// # Panics
    ///
    /// When `revision` is before the one pushed last.
    pub fn push(&mut self, revision: Revision, key: &[u8], created: bool) {
        let newest = self
            .changes
            .back()
            .map_or(self.complete_after, |change| change.main);
        assert!(
            revision.main >= newest,
            "change at {revision} after one at main {newest}"
        );
        self.key_bytes += key.len();
        self.changes.push_back(Change {
            main: revision.main,
            created,
            key: key.into(),
        });
        while self.changes.len() > LIVE_CHANGES_MAX || self.key_bytes > LIVE_CHANGES_KEY_BYTES_MAX {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.key_bytes -= oldest.key.len();
            // The other changes of this main revision are useless now: a count at the one before needs them all.
            self.complete_after = oldest.main;
        }
    }

    /// Changes a count at main revision `main` would look at; none when they are not all known.
    pub fn changes_since(&self, main: u64) -> Option<usize> {
        (main >= self.complete_after).then(|| self.changes.len() - self.position_after(main))
    }

    /// Keys of `[start, end)` created after main revision `main` less those deleted after it: the count at `main` is
    /// the present count minus this. None when the changes since `main` are not all known. `end` none is no end.
    pub fn count_delta_since(&self, main: u64, start: &[u8], end: Option<&[u8]>) -> Option<i64> {
        if main < self.complete_after {
            return None;
        }
        let mut delta = 0;
        for change in self.changes.range(self.position_after(main)..) {
            if *change.key >= *start && end.is_none_or(|end| *change.key < *end) {
                delta += if change.created { 1 } else { -1 };
            }
        }
        Some(delta)
    }

    fn position_after(&self, main: u64) -> usize {
        self.changes.partition_point(|change| change.main <= main)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_that_fell_out_make_older_counts_unknown() {
        let mut changes = LiveChanges::new(1);
        for main in 2..2 + LIVE_CHANGES_MAX as u64 {
            changes.push(Revision::new(main, 0), b"k", main % 2 == 0);
        }
        assert_eq!(changes.count_delta_since(1, b"", None), Some(0));
        assert_eq!(changes.changes_since(1), Some(LIVE_CHANGES_MAX));
        let next = 2 + LIVE_CHANGES_MAX as u64;
        changes.push(Revision::new(next, 0), b"k", true);
        assert_eq!(changes.count_delta_since(1, b"", None), None);
        assert_eq!(changes.changes_since(1), None);
        assert_eq!(changes.count_delta_since(2, b"", None), Some(0));
        assert_eq!(changes.count_delta_since(next, b"", None), Some(0));
        assert_eq!(changes.count_delta_since(next - 1, b"", None), Some(1));
    }

    #[test]
    fn large_keys_are_bounded_by_their_bytes() {
        let mut changes = LiveChanges::new(1);
        let key = vec![b'k'; 1024 * 1024];
        for main in 2..100 {
            changes.push(Revision::new(main, 0), &key, true);
        }
        assert_eq!(changes.changes_since(99 - 8), Some(8));
        assert_eq!(changes.changes_since(99 - 9), None);
    }

    #[test]
    fn a_key_larger_than_the_bound_leaves_nothing_known_before_it() {
        let mut changes = LiveChanges::new(1);
        changes.push(
            Revision::new(2, 0),
            &vec![0; LIVE_CHANGES_KEY_BYTES_MAX + 1],
            true,
        );
        assert_eq!(changes.count_delta_since(1, b"", None), None);
        assert_eq!(changes.count_delta_since(2, b"", None), Some(0));
        changes.push(Revision::new(3, 0), b"k", true);
        assert_eq!(changes.count_delta_since(2, b"", None), Some(1));
    }

    proptest! {
        #[test]
        fn older_counts_come_out_of_the_present_one(
            toggles in prop::collection::vec((0u8..6, any::<bool>()), 1..60),
            start in 0u8..7,
            end in prop::option::of(0u8..7),
        ) {
            let (mut changes, mut live, mut main) = (LiveChanges::new(1), BTreeSet::new(), 1);
            let mut counts = vec![(1, 0)];
            let in_range = |key: &u8| *key >= start && end.is_none_or(|end| *key < end);
            let mut sub = 0;
            for (key, new_main) in toggles {
                if new_main || main == 1 {
                    (main, sub) = (main + 1, 0);
                }
                let created = live.insert(key);
                if !created {
                    live.remove(&key);
                }
                changes.push(Revision::new(main, sub), &[key], created);
                sub += 1;
                let count = live.iter().filter(|key| in_range(key)).count() as i64;
                counts.retain(|(at, _)| *at != main);
                counts.push((main, count));
            }
            let present = counts.last().expect("at least one").1;
            for (at, count) in counts {
                let delta = changes.count_delta_since(at, &[start], end.as_ref().map(std::slice::from_ref));
                prop_assert_eq!(delta, Some(present - count));
            }
        }
    }
}
