//! [`GroupIndex`]: which watchers of a group an event concerns.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::interval_tree::IntervalTree;
use super::range::WatchedRange;
use super::roster::Slot;

/// Watchers by what they watch. An event costs its matches, not the number of watchers.
pub(crate) struct GroupIndex {
    /// Looked up, never iterated: the order of the map is seen by nobody.
    keys: HashMap<Bytes, BTreeSet<Slot>>,
    ranges: IntervalTree,
}

impl GroupIndex {
    /// A group of no watchers.
    pub(crate) fn new() -> Self {
        Self {
            keys: HashMap::new(),
            ranges: IntervalTree::new(),
        }
    }

    /// Adds a watcher of `range`.
    pub(crate) fn insert(&mut self, range: &WatchedRange, watcher: Slot) {
        match range {
            WatchedRange::Key(key) => {
                self.keys.entry(key.clone()).or_default().insert(watcher);
            }
            WatchedRange::Range { start, end } => self.ranges.insert(start, end.as_ref(), watcher),
        }
    }

    /// Removes a watcher of `range`, if it is there.
    pub(crate) fn remove(&mut self, range: &WatchedRange, watcher: Slot) {
        match range {
            WatchedRange::Key(key) => {
                if let Some(watchers) = self.keys.get_mut(key) {
                    watchers.remove(&watcher);
                    if watchers.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            WatchedRange::Range { start, end } => self.ranges.remove(start, end.as_ref(), watcher),
        }
    }

    /// Replaces the contents of `found` by the watchers that `key` concerns, each once.
    pub(crate) fn matches(&self, key: &[u8], found: &mut Vec<Slot>) {
        found.clear();
        if let Some(watchers) = self.keys.get(key) {
            found.extend(watchers);
        }
        self.ranges.stab(key, &mut |watcher| found.push(watcher));
    }
}
