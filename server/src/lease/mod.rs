//! Leases: counting them out on the leader, and answering keepalives from its memory (promise P11).
//!
//! A lease's existence and TTL are replicated; its remaining time is not. The leader counts on its monotonic clock
//! and proposes the revoke; nobody else does. A new leader starts every lease afresh.
//!
//! ```text
//! apply ──> LeaseChange ──> task ──> Expiry <── keepalive, time to live (this member's or forwarded)
//!                             └─ LeaseRevoke{expiry_term} ──> log
//! ```

mod confirm;
mod expiry;
mod host;
mod keeper;
mod task;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use bytes::Bytes;

pub use self::keeper::LeaseKeeper;

/// Smallest TTL granted, in seconds: 1.5 election timeouts, rounded up, so that a lease outlives a leader change.
/// Source: etcd `minTTL`.
pub fn minimum_ttl(election_timeout: Duration) -> i64 {
    let seconds = election_timeout.as_millis().saturating_mul(3).div_ceil(2 * 1000);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Answer of a keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAliveAnswer {
    /// The granted TTL in seconds, counted from now; 0: there is no such lease (any more).
    pub ttl: i64,
}

/// Answer of a question for the time to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLiveAnswer {
    /// Whole seconds left, not below 0; -1: there is no such lease.
    pub ttl_left: i64,
    /// The granted TTL in seconds; 0: there is no such lease.
    pub granted_ttl: i64,
    /// Attached keys, sorted; empty if they were not asked for.
    pub keys: Vec<Bytes>,
}

/// Why a lease question was not answered. In brackets: the error of the API specification, 11.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No leader until the deadline (Unavailable, "no leader").
    #[error("no leader")]
    NoLeader,
    /// The leader has committed entries that it did not apply in time (Unavailable, "request timed out, waiting for
    /// the applied index took too long").
    #[error("waiting for the applied index took too long")]
    ApplyTimeout,
    /// The outcome of an expiry was not known at the deadline (Unavailable, "request timed out").
    #[error("request timed out")]
    Timeout,
    /// The leader could not prove until the deadline that it is one (Unknown, "not a primary lessor").
    #[error("not a primary lessor")]
    NotPrimary,
    /// This member is stopping (Unavailable, "server stopped").
    #[error("server stopped")]
    Stopped,
}

/// What happened to leases on this member since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Leases granted, by whichever member.
    pub granted: u64,
    /// Leases revoked, by clients or by expiry.
    pub revoked: u64,
    /// Keepalives that this member, as leader, answered with a TTL.
    pub renewed: u64,
    /// Leases that this member, as leader, counted out.
    pub expired: u64,
}
