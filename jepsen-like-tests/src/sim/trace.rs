//! [`Trace`]: the hash of everything that happened, in order, with its virtual time. Two runs of one seed are the same
//! run exactly if their hashes are the same.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// See the module. Clones are the same trace.
#[derive(Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    start: Instant,
    hash: u64,
    events: u64,
    print: bool,
}

impl Trace {
    /// An empty trace that begins now. `print`: also write each event to standard error.
    pub fn new(print: bool) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                start: Instant::now(),
                hash: 0xcbf2_9ce4_8422_2325,
                events: 0,
                print,
            })),
        }
    }

    /// Adds an event: a name and numbers that say all about it.
    pub fn event(&self, name: &'static str, numbers: &[u64]) {
        let mut inner = self.inner.lock();
        let at = inner.start.elapsed();
        inner.events += 1;
        inner.mix(at.as_nanos() as u64);
        for byte in name.bytes() {
            inner.mix(u64::from(byte));
        }
        for number in numbers {
            inner.mix(*number);
        }
        if inner.print {
            eprintln!("{:>16.9} {name} {numbers:x?}", at.as_secs_f64());
        }
    }

    /// Writes a line if events are written; it is not a part of the trace.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let inner = self.inner.lock();
        if inner.print {
            eprintln!("{:>12.3} # {}", inner.start.elapsed().as_secs_f64(), line());
        }
    }

    /// The hash so far, and the number of events.
    pub fn hash(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.hash, inner.events)
    }
}

impl Inner {
    /// One round of a multiply-and-rotate hash; good enough to tell two runs apart.
    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
