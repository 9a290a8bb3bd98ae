//! Power losses, failing calls and damaged bytes, against what must be left after a restart.
//!
//! `KELSON_CRASH_IMAGES` sets how many states of the disk are tried, about; `KELSON_CRASH_SEED` runs one seed only.
//! A failure prints its seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod tables;
mod wal;

/// About how many states of the disk the tests of one part try.
fn images() -> u64 {
    number("KELSON_CRASH_IMAGES").unwrap_or(4000)
}

/// The seeds to run: one if the environment names one, else as many as `count`.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match number("KELSON_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
