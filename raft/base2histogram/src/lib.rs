//! Histograms of numbers, in the place of the registry's library of this name.
//!
//! openraft always keeps sixteen histograms, of batch sizes and the like, and reads them only with its feature
//! `runtime-stats`, which Kelson does not switch on. The registry's 0.2.3 lays out 25 MiB of tables at the first of
//! them, two thirds of what an idle member had in memory. This crate has no tables, and of the interface what openraft
//! compiles against without that feature; with it, the build fails.
//!
//! Buckets are linear within each power of two: [`BUCKETS_PER_OCTAVE`] equal ones, so values below 16 are exact and any
//! other is known to a sixteenth of itself. A histogram takes 8 bytes for each bucket up to the highest one used, 4 KiB
//! for the whole of `u64`, and nothing before its first value.

use std::fmt;
use std::marker::PhantomData;

const BUCKET_BITS: u32 = 3;
/// Buckets for the values from one power of two to the next.
pub const BUCKETS_PER_OCTAVE: usize = 1 << BUCKET_BITS;

/// How often values were recorded, by bucket.
///
/// The last counter is never zero: histograms of the same counts are equal.
///
/// The registry's type keeps a `T` for each of several time windows. openraft has no windows, and `()` for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    window: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// One without values; allocates nothing.
    pub fn new() -> Self {
        Self {
            counts: Vec::new(),
            window: PhantomData,
        }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `times` times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        let bucket = bucket_of(value);
        if bucket >= self.counts.len() {
            self.counts.reserve_exact(bucket + 1 - self.counts.len());
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
    }

    /// The number of values, and what most of them stay below.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples(),
            p50: self.at_per_mille(500),
            p90: self.at_per_mille(900),
            p99: self.at_per_mille(990),
            p99_9: self.at_per_mille(999),
        }
    }

    fn samples(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The smallest value that at least so many thousandths of all values do not exceed, to a sixteenth of itself; 0 of
    /// an empty histogram.
    fn at_per_mille(&self, per_mille: u64) -> u64 {
        let rank = (u128::from(self.samples()) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= rank
        });
        found.map_or(0, middle_of)
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// How many powers of two above the exact ones a value is; its bucket is as wide as 2 to this power.
fn octave_of(value: u64) -> u32 {
    value.checked_ilog2().unwrap_or(0).saturating_sub(BUCKET_BITS)
}

fn bucket_of(value: u64) -> usize {
    let octave = octave_of(value);
    octave as usize * BUCKETS_PER_OCTAVE + (value >> octave) as usize
}

/// The value that stands for all in a bucket: none of them is further from it than half the bucket's width.
fn middle_of(bucket: usize) -> u64 {
    let octave = (bucket / BUCKETS_PER_OCTAVE).saturating_sub(1);
    let first = ((bucket - octave * BUCKETS_PER_OCTAVE) as u64) << octave;
    first + (1 << octave) / 2
}

/// What the values of a [`Histogram`] were, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// What half of them do not exceed, the median.
    pub p50: u64,
    /// What 90 in 100 do not exceed.
    pub p90: u64,
    /// What 99 in 100 do not exceed.
    pub p99: u64,
    /// What 999 in 1000 do not exceed.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            samples,
            p50,
            p90,
            p99,
            p99_9,
        } = self;
        write!(
            f,
            "{samples} values, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}"
        )
    }
}

/// Named histograms below each other, one line each. A chart only by name: nothing that is built shows one.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// One without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more row.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.rows.push((name.to_owned(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.rows {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
