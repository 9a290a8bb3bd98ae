//! The catch-up group: watchers that re-read history, in bounded bites and fair turns, until they meet the ring.
//!
//! Streams take turns, and the watchers of a stream take turns. One bite serves every watcher whose position lies in
//! it, so ten thousand watchers that resume together read history once, not ten thousand times. A stream whose queue
//! is full loses its turn until its client has taken half of the queue.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use kelson_proto::etcdserverpb::WatchResponse;
use kelson_storage::error::Fault;
use kelson_storage::store::HistoryBite;

use super::encode::{Encoder, Past};
use super::hub::{Hub, Present, header, push};
use super::index::GroupIndex;
use super::range::WatchedRange;
use super::roster::{Place, Selected, Slot};
use super::stream::StreamId;

/// About how many bytes of history are read at once: the runtime is not kept from other work for longer.
pub(crate) const BITE_BYTES: usize = 64 * 1024;

/// The same while there are events for those who are level: they wait for no more than this.
pub(crate) const BITE_BYTES_BESIDE_EVENTS: usize = 16 * 1024;

/// Most distinct revisions in one response. Source: etcd `watchBatchMaxRevs`.
pub(crate) const RESPONSE_REVISIONS_MAX: usize = 1000;

/// Most watchers that one bite serves. Source: etcd `maxWatchersPerSync`.
const BITE_WATCHERS_MAX: usize = 512;

/// Who is behind, and whose turn it is.
pub(super) struct CatchUp {
    index: GroupIndex,
    /// By the first revision that is still needed.
    positions: BTreeSet<(u64, Slot)>,
    /// Streams that have watchers behind and room for responses; closed ones are skipped when their turn comes.
    turns: VecDeque<StreamId>,
    next_turn: u64,
}

impl CatchUp {
    /// Nobody is behind.
    pub(super) fn new() -> Self {
        Self {
            index: GroupIndex::new(),
            positions: BTreeSet::new(),
            turns: VecDeque::new(),
            next_turn: 0,
        }
    }

    /// Number of watchers that are behind.
    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    fn insert(&mut self, range: &WatchedRange, slot: Slot, position: u64) {
        self.index.insert(range, slot);
        self.positions.insert((position, slot));
    }

    /// Forgets a watcher that stood at `position`.
    pub(super) fn remove(&mut self, range: &WatchedRange, slot: Slot, position: u64) {
        self.index.remove(range, slot);
        self.positions.remove(&(position, slot));
    }

    fn take_turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }
}

/// A watcher that a bite serves.
struct Guest {
    slot: Slot,
    /// The first revision that it still needs.
    position: u64,
}

impl Hub {
    /// Number of watchers that are behind.
    pub(crate) fn behind_count(&self) -> usize {
        self.catch_up.len()
    }

    /// Puts a watcher that is in no group into the catch-up group; it needs history from `position` on.
    pub(super) fn fall_behind(&mut self, slot: Slot, position: u64) {
        let turn = self.catch_up.take_turn();
        let watcher = self.roster.at_mut(slot);
        watcher.place = Place::Behind { position, turn };
        let stream = watcher.stream;
        self.catch_up.insert(&watcher.range, slot, position);
        if let Some(state) = self.streams.get_mut(&stream) {
            state.behind.insert((turn, slot));
        }
        self.queue_for_turn(stream);
    }

    /// A queue that was full has room again.
    pub(crate) fn drained(&mut self, stream: StreamId) {
        self.queue_for_turn(stream);
    }

    /// Puts a stream in line if it has watchers behind; if its queue is full, asks to be told when it has drained.
    fn queue_for_turn(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if state.in_turn || state.behind.is_empty() || state.outbox.wait_for_room() {
            return;
        }
        state.in_turn = true;
        self.catch_up.turns.push_back(stream);
    }

    /// The revision from which somebody wants to read history next, and it is that somebody's turn; none if nobody
    /// is behind who could be served. The answer goes to [`Hub::history`] or [`Hub::history_compacted`].
    pub(crate) fn wants_history(&mut self) -> Option<u64> {
        while let Some(stream) = self.catch_up.turns.pop_front() {
            let Some(state) = self.streams.get_mut(&stream) else {
                continue;
            };
            state.in_turn = false;
            let has_room = state.outbox.has_room();
            let first = state.behind.first().copied();
            self.queue_for_turn(stream);
            if let (true, Some((turn, slot))) = (has_room, first) {
                return Some(self.rotate(slot, turn));
            }
        }
        None
    }

    /// Moves a watcher to the end of its stream's line and returns its position.
    fn rotate(&mut self, slot: Slot, former: u64) -> u64 {
        let turn = self.catch_up.take_turn();
        let watcher = self.roster.at_mut(slot);
        let Place::Behind { position, .. } = watcher.place else {
            unreachable!("only watchers that are behind stand in line");
        };
        watcher.place = Place::Behind { position, turn };
        if let Some(state) = self.streams.get_mut(&watcher.stream) {
            state.behind.remove(&(former, slot));
            state.behind.insert((turn, slot));
        }
        position
    }

    /// A bite of history from `from` on has been read. Returns whether it was of use: a store that fills its ring
    /// before it publishes the revision has, for a moment, no history at the hub's newest revision.
    pub(crate) fn history(
        &mut self,
        from: u64,
        bite: &HistoryBite,
        present: Present,
        past: &impl Past,
    ) -> Result<bool, Fault> {
        if bite.next <= from {
            return Ok(false);
        }
        let current = self.current(present);
        let guests = self.guests(from..bite.next);
        self.select_behind(&guests, bite, past)?;
        let mut selected = std::mem::take(&mut self.selected);
        selected.sort_by_key(|one| one.watcher);
        let header_revision = current.max(bite.next - 1);
        let mut rest = selected.as_slice();
        for guest in &guests {
            let own = rest.partition_point(|one| one.watcher <= guest.slot);
            let (events, others) = rest.split_at(own);
            rest = others;
            let position = self
                .push_history(guest.slot, events, header_revision, present.term)
                .unwrap_or(bite.next);
            self.move_on(guest, position, current);
        }
        selected.clear();
        self.selected = selected;
        Ok(true)
    }

    /// Watchers with room for responses whose position is in `positions`, by slot.
    fn guests(&self, positions: Range<u64>) -> Vec<Guest> {
        let mut guests: Vec<Guest> = self
            .catch_up
            .positions
            .range((positions.start, 0)..(positions.end, 0))
            .map(|(position, slot)| Guest {
                slot: *slot,
                position: *position,
            })
            .filter(|guest| self.has_room(guest.slot))
            .take(BITE_WATCHERS_MAX)
            .collect();
        guests.sort_by_key(|guest| guest.slot);
        guests
    }

    fn has_room(&self, slot: Slot) -> bool {
        let stream = self.streams.get(&self.roster.at(slot).stream);
        stream.is_some_and(|stream| stream.outbox.has_room())
    }

    fn select_behind(&mut self, guests: &[Guest], bite: &HistoryBite, past: &impl Past) -> Result<(), Fault> {
        for batch in &bite.batches {
            for event in &batch.events {
                self.catch_up.index.matches(&event.key, &mut self.matched);
                let mut encoder = Encoder::new(batch, event);
                for slot in &self.matched {
                    let Ok(at) = guests.binary_search_by_key(slot, |guest| guest.slot) else {
                        continue;
                    };
                    let watcher = self.roster.at(*slot);
                    if guests[at].position <= batch.revision && watcher.filters.pass(event.kind) {
                        self.selected.push(Selected {
                            watcher: *slot,
                            revision: batch.revision,
                            event: encoder.bytes(watcher.prev_kv, past)?,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Pushes a watcher's events of one bite. Returns the first revision that found no room.
    fn push_history(
        &mut self,
        slot: Slot,
        events: &[Selected],
        header_revision: u64,
        term: u64,
    ) -> Option<u64> {
        let mut rest = events;
        while let Some(first) = rest.first() {
            let end = end_of_response(rest);
            if !self.push_events(slot, &rest[..end], header_revision, term) {
                return Some(first.revision);
            }
            rest = &rest[end..];
        }
        None
    }

    /// The watcher needs nothing below `position` any more. If that is the end of history, it is level.
    fn move_on(&mut self, guest: &Guest, position: u64, current: u64) {
        assert!(position >= guest.position, "a watcher went back in history");
        if position > current {
            self.leave_groups(guest.slot);
            self.become_level(guest.slot, position);
            return;
        }
        self.catch_up.positions.remove(&(guest.position, guest.slot));
        self.catch_up.positions.insert((position, guest.slot));
        let watcher = self.roster.at_mut(guest.slot);
        if let Place::Behind { turn, .. } = watcher.place {
            watcher.place = Place::Behind { position, turn };
        }
    }

    /// History could not be read because everything below `compacted` is gone: ends the watchers that need it.
    pub(crate) fn history_compacted(&mut self, compacted: u64, present: Present) {
        for guest in self.guests(0..compacted) {
            kelson_storage::reached!("watch_compacted");
            self.leave_groups(guest.slot);
            let watcher = self.roster.at(guest.slot);
            let Some(stream) = self.streams.get(&watcher.stream) else {
                continue;
            };
            let response = WatchResponse {
                // API specification 6.6: the revision is 0, only `compact_revision` has a meaning.
                header: Some(header(self.identity, 0, present.term)),
                watch_id: watcher.id,
                canceled: true,
                compact_revision: i64::try_from(compacted).unwrap_or(i64::MAX),
                ..WatchResponse::default()
            };
            push(&stream.outbox, response, false, None);
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Hub {
    /// What must stay true, checked watcher by watcher.
    pub(crate) fn assert_consistent(&self) {
        let mut behind = 0;
        for (slot, watcher) in self.roster.iter() {
            let key = match &watcher.range {
                WatchedRange::Key(key) | WatchedRange::Range { start: key, .. } => key,
            };
            let is_in = |index: &GroupIndex| {
                let mut found = Vec::new();
                index.matches(key, &mut found);
                found.contains(&slot)
            };
            let groups = (is_in(&self.level), is_in(&self.catch_up.index));
            let stream = &self.streams[&watcher.stream];
            match watcher.place {
                Place::Level { floor } => {
                    assert_eq!(groups, (true, false));
                    assert!(floor > 0);
                }
                Place::Behind { position, turn } => {
                    assert_eq!(groups, (false, true));
                    assert!(self.catch_up.positions.contains(&(position, slot)));
                    assert!(stream.behind.contains(&(turn, slot)));
                    behind += 1;
                }
                Place::Ended => assert_eq!(groups, (false, false)),
            }
        }
        assert_eq!(behind, self.catch_up.positions.len());
        let queued = |stream: &StreamId| self.catch_up.turns.contains(stream);
        assert!(self.streams.iter().all(|(id, state)| state.in_turn == queued(id)));
        let lines: usize = self.streams.values().map(|state| state.behind.len()).sum();
        assert_eq!(behind, lines);
    }
}

/// How many of `events` go into one response: at most [`RESPONSE_REVISIONS_MAX`] revisions, all of them whole.
fn end_of_response(events: &[Selected]) -> usize {
    events
        .chunk_by(|a, b| a.revision == b.revision)
        .take(RESPONSE_REVISIONS_MAX)
        .map(<[Selected]>::len)
        .sum()
}
