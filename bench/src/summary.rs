//! Latencies of many requests, summed up.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use tonic::Status;

/// Longest latency that is told from longer ones, in microseconds: longer than any request may take.
const LONGEST_MICROS: u64 = 600_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// Latencies, and what failed.
pub struct Summary {
    /// In microseconds.
    latencies: Histogram<u64>,
    /// Requests that returned an error.
    pub errors: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            latencies: Histogram::new_with_max(LONGEST_MICROS, DIGITS).expect("the bounds are sound"),
            errors: 0,
            elapsed: Duration::ZERO,
        }
    }
}

impl Summary {
    /// A request was answered after this time.
    pub fn took(&mut self, latency: Duration) {
        self.latencies
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// A request failed. The first failure is shown.
    pub fn failed(&mut self, status: &Status) {
        if self.errors == 0 {
            eprintln!("first error of a client: {status}");
        }
        self.errors += 1;
    }

    /// Adds what another client saw.
    ///
    /// # Errors
    /// Never, as all have the same bounds.
    pub fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.errors += other.errors;
        self.latencies.add(other.latencies).context("latencies")
    }

    /// Successful requests.
    pub fn count(&self) -> u64 {
        self.latencies.len()
    }

    /// The latency that `share` (0 to 1) of the requests stayed at or below.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(share))
    }

    /// Successful requests per second.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    pub fn rate(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} requests/s, p50 {:.3?}, p99 {:.3?}, p99.9 {:.3?}, max {:.3?}, {} errors in {:.1?}",
            self.rate(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(0.999),
            self.quantile(1.0),
            self.errors,
            self.elapsed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(actual: Duration, expected: Duration) -> bool {
        actual >= expected && actual - expected <= expected / 500
    }

    #[test]
    fn quantiles_are_of_all_latencies() {
        let (mut one, mut other) = (Summary::default(), Summary::default());
        (1..=50).for_each(|millis| one.took(Duration::from_millis(millis)));
        (51..=101).for_each(|millis| other.took(Duration::from_millis(millis)));
        other.errors = 2;
        one.add(other).unwrap();
        assert_eq!((one.count(), one.errors), (101, 2));
        assert!(near(one.quantile(0.0), Duration::from_millis(1)));
        assert!(near(one.quantile(0.5), Duration::from_millis(51)));
        assert!(near(one.quantile(1.0), Duration::from_millis(101)));
        assert_eq!(Summary::default().quantile(0.5), Duration::ZERO);
    }
}
