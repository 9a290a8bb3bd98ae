//! The level group: events of the ring, one response per revision and watcher.

use bytes::Bytes;
use kelson_proto::etcdserverpb::WatchResponse;
use kelson_storage::applied::EventBatch;
use kelson_storage::error::Fault;
use kelson_storage::mutant;

use super::encode::{Encoder, Past};
use super::hub::{Hub, Present, header, push};
use super::roster::{Place, Selected, Slot};

impl Hub {
    /// The next revision of the ring. Watchers whose queue is full fall behind; nothing is dropped.
    pub(crate) fn applied(
        &mut self,
        batch: &EventBatch,
        present: Present,
        past: &impl Past,
    ) -> Result<(), Fault> {
        assert_eq!(batch.revision, self.next, "the ring skipped a revision");
        self.select_level(batch, past)?;
        self.next += 1;
        let mut selected = std::mem::take(&mut self.selected);
        selected.sort_by_key(|one| one.watcher);
        for of_one in selected.chunk_by(|a, b| a.watcher == b.watcher) {
            self.deliver_level(of_one, batch.revision, present);
        }
        selected.clear();
        self.selected = selected;
        Ok(())
    }

    fn select_level(&mut self, batch: &EventBatch, past: &impl Past) -> Result<(), Fault> {
        for event in &batch.events {
            self.level.matches(&event.key, &mut self.matched);
            let mut encoder = Encoder::new(batch, event);
            for slot in &self.matched {
                let watcher = self.roster.at(*slot);
                let begun = matches!(watcher.place, Place::Level { floor } if floor <= batch.revision);
                if begun && watcher.filters.pass(event.kind) {
                    self.selected.push(Selected {
                        watcher: *slot,
                        revision: batch.revision,
                        event: encoder.bytes(watcher.prev_kv, past)?,
                    });
                }
            }
        }
        Ok(())
    }

    fn deliver_level(&mut self, events: &[Selected], revision: u64, present: Present) {
        let slot = events[0].watcher;
        let mut missed_from = revision;
        if mutant!("M32") {
            // What found no room is not read from history either.
            missed_from += 1;
        }
        let mut events = events;
        if mutant!("M31") && events.len() > 1 && self.push_events(slot, &events[..1], revision, present.term)
        {
            // The rest of the revision goes into a response of its own.
            events = &events[1..];
        }
        if !self.push_events(slot, events, revision, present.term) {
            kelson_storage::reached!("watch_fell_behind");
            self.leave_groups(slot);
            self.fall_behind(slot, missed_from);
        }
    }

    /// Pushes one response with all `events`, unless the queue is full.
    pub(super) fn push_events(
        &mut self,
        slot: Slot,
        events: &[Selected],
        header_revision: u64,
        term: u64,
    ) -> bool {
        let watcher = self.roster.at_mut(slot);
        let Some(stream) = self.streams.get(&watcher.stream) else {
            return false;
        };
        if !stream.outbox.has_room() {
            return false;
        }
        kelson_storage::fail_point!("beforeSendWatchResponse");
        watcher.quiet = false;
        self.events += events.len() as u64;
        let events: Vec<Bytes> = events.iter().map(|one| one.event.clone()).collect();
        let response = WatchResponse {
            header: Some(header(self.identity, header_revision, term)),
            watch_id: watcher.id,
            events,
            ..WatchResponse::default()
        };
        push(&stream.outbox, response, watcher.fragment, None);
        true
    }

    /// The ring does not reach back to `next`: it was outrun, or cleared because a snapshot replaced the store. All
    /// level watchers that have missed something go back to history.
    pub(crate) fn ring_lost(&mut self, present: Present) {
        kelson_storage::reached!("watch_ring_lost");
        let missed_from = self.next;
        let current = self.current(present);
        self.next = current + 1;
        if mutant!("M35") {
            // Whoever was level goes on behind the gap.
            return;
        }
        for (slot, floor) in self.level_watchers() {
            let position = floor.max(missed_from);
            if position <= current {
                self.leave_groups(slot);
                self.fall_behind(slot, position);
            }
        }
    }

    fn level_watchers(&self) -> Vec<(Slot, u64)> {
        self.roster
            .iter()
            .filter_map(|(slot, watcher)| match watcher.place {
                Place::Level { floor } => Some((slot, floor)),
                Place::Behind { .. } | Place::Ended => None,
            })
            .collect()
    }
}
