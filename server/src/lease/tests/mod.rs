//! Tests of the countdown alone, and of keeper and task in a cluster of make-believe members on a paused clock.

mod cluster;
mod countdown;
mod keeping;
mod promise;

use std::time::Duration;

use super::minimum_ttl;

#[test]
fn minimum_ttl_is_one_and_a_half_election_timeouts_rounded_up() {
    for (election_ms, seconds) in [(1000, 2), (100, 1), (1334, 3), (2000, 3), (5000, 8)] {
        assert_eq!(minimum_ttl(Duration::from_millis(election_ms)), seconds);
    }
}
