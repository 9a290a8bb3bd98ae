//! [`EventRing`]: the newest events, encoded once, shared by all watchers that keep up.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::applied::EventBatch;

/// A queue of the newest revisions, bounded in bytes. Apply pushes and never waits; what falls out of the ring is
/// read from history instead.
pub struct EventRing {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

struct Inner {
    batches: VecDeque<Arc<EventBatch>>,
    bytes: usize,
}

/// What a reader of the ring gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingRead {
    /// All batches from the asked revision on; empty when there are none yet.
    Batches(Vec<Arc<EventBatch>>),
    /// The ring does not go back that far: read history.
    Behind,
}

impl EventRing {
    /// An empty ring that holds at most `bytes_max` bytes, and always the newest batch.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                batches: VecDeque::new(),
                bytes: 0,
            }),
            bytes_max,
        }
    }

    /// Adds the next revision. Called by apply alone, in order.
    pub fn push(&self, batch: Arc<EventBatch>) {
        let mut inner = self.inner.lock();
        if let Some(last) = inner.batches.back() {
            assert_eq!(
                batch.revision,
                last.revision + 1,
                "events out of order in the ring"
            );
        }
        inner.bytes += batch_bytes(&batch);
        inner.batches.push_back(batch);
        while inner.bytes > self.bytes_max && inner.batches.len() > 1 {
            if let Some(dropped) = inner.batches.pop_front() {
                inner.bytes -= batch_bytes(&dropped);
            }
        }
    }

    /// Forgets everything: the store was replaced by a snapshot, and its readers must go back to history.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.batches.clear();
        inner.bytes = 0;
    }

    /// All batches from revision `from` (inclusive) on. `present` is the store's revision as the caller knows it:
    /// with an empty ring it decides between "nothing new" and "behind".
    pub fn read_from(&self, from: u64, present: u64) -> RingRead {
        let inner = self.inner.lock();
        let Some(first) = inner.batches.front().map(|batch| batch.revision) else {
            return if from > present {
                RingRead::Batches(Vec::new())
            } else {
                RingRead::Behind
            };
        };
        if from < first {
            return RingRead::Behind;
        }
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        RingRead::Batches(inner.batches.iter().skip(skip).cloned().collect())
    }
}

fn batch_bytes(batch: &EventBatch) -> usize {
    const OVERHEAD_BYTES: usize = 64;
    batch
        .events
        .iter()
        .map(|event| event.kv.len() + OVERHEAD_BYTES)
        .sum::<usize>()
        + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(revision: u64) -> Arc<EventBatch> {
        Arc::new(EventBatch {
            revision,
            events: Vec::new(),
        })
    }

    #[test]
    fn reader_gets_everything_from_its_position_or_learns_that_it_is_behind() {
        let ring = EventRing::new(64 * 3);
        assert_eq!(ring.read_from(2, 1), RingRead::Batches(vec![]));
        assert_eq!(ring.read_from(2, 5), RingRead::Behind);
        for revision in 2..=6 {
            ring.push(batch(revision));
        }
        assert_eq!(ring.read_from(3, 6), RingRead::Behind);
        assert_eq!(ring.read_from(5, 6), RingRead::Batches(vec![batch(5), batch(6)]));
        assert_eq!(ring.read_from(7, 6), RingRead::Batches(vec![]));
        ring.clear();
        assert_eq!(ring.read_from(5, 6), RingRead::Behind);
    }
}
