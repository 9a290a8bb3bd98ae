//! When writes succeeded: the longest time without one is what users feel of a fault.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Counts successes and remembers the longest pause between two of them.
pub struct Pulse {
    start: Instant,
    beats: AtomicU64,
    last_micros: AtomicU64,
    longest_micros: AtomicU64,
}

impl Pulse {
    pub fn new() -> Pulse {
        Pulse {
            start: Instant::now(),
            beats: AtomicU64::new(0),
            last_micros: AtomicU64::new(0),
            longest_micros: AtomicU64::new(0),
        }
    }

    fn now_micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).expect("tests are shorter than that")
    }

    /// A write succeeded just now.
    pub fn beat(&self) {
        let now = self.now_micros();
        let before = self.last_micros.swap(now, Ordering::SeqCst);
        self.longest_micros
            .fetch_max(now.saturating_sub(before), Ordering::SeqCst);
        self.beats.fetch_add(1, Ordering::SeqCst);
    }

    /// Measures from now on.
    pub fn restart(&self) {
        self.last_micros.store(self.now_micros(), Ordering::SeqCst);
        self.longest_micros.store(0, Ordering::SeqCst);
    }

    /// The longest pause since the measurement began, the present one included.
    pub fn longest(&self) -> Duration {
        let present = self
            .now_micros()
            .saturating_sub(self.last_micros.load(Ordering::SeqCst));
        Duration::from_micros(self.longest_micros.load(Ordering::SeqCst).max(present))
    }

    /// Successes so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::SeqCst)
    }
}

/// `min/median/p90/max` in ms.
pub fn distribution(mut samples: Vec<Duration>) -> String {
    if samples.is_empty() {
        return "no samples".to_owned();
    }
    samples.sort();
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100].as_millis();
    format!(
        "n={} min={} ms median={} ms p90={} ms max={} ms",
        samples.len(),
        at(0),
        at(50),
        at(90),
        at(100)
    )
}

#[tokio::test(start_paused = true)]
async fn a_pause_counts_between_beats_and_up_to_now() {
    let pulse = Pulse::new();
    pulse.restart();
    tokio::time::advance(Duration::from_millis(30)).await;
    pulse.beat();
    tokio::time::advance(Duration::from_millis(10)).await;
    pulse.beat();
    assert_eq!(pulse.longest(), Duration::from_millis(30));
    tokio::time::advance(Duration::from_millis(40)).await;
    assert_eq!((pulse.longest(), pulse.beats()), (Duration::from_millis(40), 2));
    pulse.restart();
    assert_eq!(pulse.longest(), Duration::ZERO);
}
