//! Latencies of many requests, summed up.

use std::fmt;
use std::time::Duration;

/// Sorted latencies, and what failed.
#[derive(Default)]
pub struct Summary {
    latencies: Vec<Duration>,
    /// Requests that returned an error.
    pub errors: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Summary {
    /// Of these latencies, in any order.
    pub fn of(mut latencies: Vec<Duration>, errors: usize, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        Self {
            latencies,
            errors,
            elapsed,
        }
    }

    /// The latency that `share` (0 to 1) of the requests stayed at or below.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let index = ((last as f64) * share).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    /// Successful requests per second.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
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

    #[test]
    fn quantiles_are_of_the_sorted_latencies() {
        let latencies = (1..=101).rev().map(Duration::from_millis).collect();
        let summary = Summary::of(latencies, 2, Duration::from_secs(1));
        assert_eq!(summary.quantile(0.0), Duration::from_millis(1));
        assert_eq!(summary.quantile(0.5), Duration::from_millis(51));
        assert_eq!(summary.quantile(1.0), Duration::from_millis(101));
        assert_eq!(Summary::default().quantile(0.5), Duration::ZERO);
    }
}
