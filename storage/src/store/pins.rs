//! [`Pins`]: revisions whose records a long read still needs, so that a compaction waits a while before it deletes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// How many long reads there are at each revision.
#[derive(Debug, Default)]
pub(super) struct Pins {
    at: Mutex<BTreeMap<u64, usize>>,
}

/// One long read. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pin {
    pins: Arc<Pins>,
    revision: u64,
}

impl Pins {
    /// Pins what is alive at `revision`. To be called under the lock of the state that is at this revision: no compaction
    /// beyond it can have begun.
    pub fn pin(self: &Arc<Self>, revision: u64) -> Pin {
        *self.at.lock().entry(revision).or_default() += 1;
        Pin {
            pins: Arc::clone(self),
            revision,
        }
    }

    /// The oldest revision that is pinned.
    pub fn oldest(&self) -> Option<u64> {
        self.at.lock().first_key_value().map(|(revision, _)| *revision)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut at = self.pins.at.lock();
        if let Some(reads) = at.get_mut(&self.revision) {
            *reads -= 1;
            if *reads == 0 {
                at.remove(&self.revision);
            }
        }
    }
}
