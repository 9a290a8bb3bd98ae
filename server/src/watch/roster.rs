//! [`Roster`]: all watchers of the hub, in reusable slots.

use bytes::Bytes;
use kelson_storage::applied::EventKind;

use super::range::WatchedRange;
use super::stream::StreamId;

/// Where a watcher is kept; used again after the watcher is gone.
pub(crate) type Slot = u32;

/// One watcher.
pub(crate) struct Watcher {
    /// The stream it belongs to.
    pub(crate) stream: StreamId,
    /// Its id on that stream.
    pub(crate) id: i64,
    /// What it watches.
    pub(crate) range: WatchedRange,
    /// As asked for; 0: from now on.
    pub(crate) start_revision: u64,
    /// Which events it does not want.
    pub(crate) filters: Filters,
    /// Whether it wants pairs as they were before.
    pub(crate) prev_kv: bool,
    /// Whether large responses are split.
    pub(crate) fragment: bool,
    /// Whether it wants to hear that nothing happened.
    pub(crate) progress_notify: bool,
    /// Whether it got no events since the last progress tick.
    pub(crate) quiet: bool,
    /// Where it stands.
    pub(crate) place: Place,
}

/// Where a watcher stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the level group: it has been offered all events below the hub's next revision, and wants none below `floor`.
    Level {
        /// See above.
        floor: u64,
    },
    /// In the catch-up group: it needs history from `position` on. `turn` orders the watchers of a stream.
    Behind {
        /// See above.
        position: u64,
        /// See above.
        turn: u64,
    },
    /// Ended by a compaction; keeps its id until the client cancels it.
    Ended,
}

/// Which events a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    /// Source: etcd `NOPUT`.
    pub(crate) no_put: bool,
    /// Source: etcd `NODELETE`.
    pub(crate) no_delete: bool,
}

impl Filters {
    /// Whether events of this kind pass.
    pub(crate) fn pass(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// Events for one watcher, still in one list with other watchers' events.
pub(crate) struct Selected {
    /// For whom.
    pub(crate) watcher: Slot,
    /// Main revision.
    pub(crate) revision: u64,
    /// Encoded `mvccpb.Event`.
    pub(crate) event: Bytes,
}

/// Watchers by slot.
#[derive(Default)]
pub(crate) struct Roster {
    slots: Vec<Option<Watcher>>,
    free: Vec<Slot>,
}

impl Roster {
    /// Keeps a watcher and says where.
    pub(crate) fn add(&mut self, watcher: Watcher) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(watcher);
            return slot;
        }
        self.slots.push(Some(watcher));
        Slot::try_from(self.slots.len() - 1).expect("memory ends before four billion watchers")
    }

    /// Takes a watcher out.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Watcher> {
        let watcher = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(watcher)
    }

    /// The watcher in a slot that an index or a stream names.
    pub(crate) fn at(&self, slot: Slot) -> &Watcher {
        self.slots[slot as usize]
            .as_ref()
            .expect("a watcher leaves every index before it leaves the roster")
    }

    /// As [`Roster::at`].
    pub(crate) fn at_mut(&mut self, slot: Slot) -> &mut Watcher {
        self.slots[slot as usize]
            .as_mut()
            .expect("a watcher leaves every index before it leaves the roster")
    }

    /// All watchers, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Watcher)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(slot, watcher)| Some((slot, watcher.as_ref()?)))
    }

    /// Number of watchers.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
