//! What a node counts and measures about itself, for metrics. Nothing here decides anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

mod apply;

pub use apply::ApplyMeters;
pub(crate) use apply::Tally;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `amount`, and returns the sum.
    pub fn add(&self, amount: i64) -> i64 {
        self.0.fetch_add(amount, Ordering::Relaxed) + amount
    }

    /// The present value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something took how long, in buckets with upper bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: Vec<Duration>,
    /// One per bound, and one for what is above all.
    counts: Vec<AtomicU64>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// `count` buckets whose bounds double from `first`. Source: Prometheus' `ExponentialBuckets(first, 2, count)`.
    pub fn doubling(first: Duration, count: u32) -> Self {
        Self::with_bounds((0..count).map(|doublings| first * (1 << doublings)).collect())
    }

    /// Buckets with these upper bounds, in order.
    pub fn with_bounds(bounds: Vec<Duration>) -> Self {
        Self {
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            bounds,
            nanoseconds: AtomicU64::new(0),
        }
    }

    /// Something took `length`.
    pub fn observe(&self, length: Duration) {
        self.observe_times(length, 1);
    }

    /// So many things took `length` each.
    pub fn observe_times(&self, length: Duration, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < length);
        self.counts[bucket].fetch_add(times, Ordering::Relaxed);
        let nanoseconds = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let nanoseconds = nanoseconds.saturating_mul(times);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// For each bound, how many were at most that long; then how many there were at all.
    pub fn cumulative(&self) -> (Vec<(Duration, u64)>, u64) {
        let mut sum = 0;
        let mut upto = |count: &AtomicU64| {
            sum += count.load(Ordering::Relaxed);
            sum
        };
        let buckets = self.bounds.iter().zip(&self.counts);
        let buckets = buckets.map(|(bound, count)| (*bound, upto(count))).collect();
        let all = upto(&self.counts[self.bounds.len()]);
        (buckets, all)
    }

    /// The sum of all lengths.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }
}

/// Bounds of durations of disk work. Source: etcd's `0.001 x 2^14` seconds.
fn disk_work() -> Histogram {
    Histogram::doubling(Duration::from_millis(1), 14)
}

/// Bounds of whole snapshot transfers. Source: etcd's `0.1 x 2^10` seconds.
fn transfers() -> Histogram {
    Histogram::doubling(Duration::from_millis(100), 10)
}

/// See the module.
#[derive(Debug)]
pub struct Meters {
    /// Writes of records to the log, without the sync.
    pub wal_write: Histogram,
    /// Syncs of the log, without the write before them.
    pub wal_fsync: Histogram,
    /// Commands being applied.
    pub apply: ApplyMeters,
    /// Databases from other members, from the first byte until they are durable.
    pub database_save: Histogram,
    /// The last part of that: the sync of the file, with what was still to write.
    pub database_fsync: Histogram,
    /// Transactions on the database.
    pub backend_commit: Histogram,
    /// Commands whose outcome this member gave up on.
    pub proposals_failed: Counter,
    /// Entries whose apply took longer than the configured warning.
    pub slow_applies: Counter,
    /// Linearizable reads that were not confirmed in time.
    pub read_indexes_failed: Counter,
    /// Quorum rounds for reads that were given up for another one.
    pub slow_read_indexes: Counter,
    /// Bytes of records written to the log.
    pub wal_bytes: Counter,
    /// Snapshots being installed here.
    pub snapshots_applying: Gauge,
    /// By member id.
    peers: Mutex<BTreeMap<u64, Arc<PeerMeters>>>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            wal_write: disk_work(),
            wal_fsync: disk_work(),
            apply: ApplyMeters::default(),
            database_save: transfers(),
            database_fsync: disk_work(),
            backend_commit: disk_work(),
            proposals_failed: Counter::default(),
            slow_applies: Counter::default(),
            read_indexes_failed: Counter::default(),
            slow_read_indexes: Counter::default(),
            wal_bytes: Counter::default(),
            snapshots_applying: Gauge::default(),
            peers: Mutex::default(),
        }
    }
}

/// What is measured about one peer.
#[derive(Debug)]
pub struct PeerMeters {
    /// Bytes sent to it.
    pub sent_bytes: Counter,
    /// Bytes that came from it.
    pub received_bytes: Counter,
    /// Messages from it that broke off or were damaged.
    pub receive_failures: Counter,
    /// Attempts to send to it that failed.
    pub send_failures: Counter,
    /// Heartbeats among them.
    pub heartbeat_failures: Counter,
    /// Time of a question and its answer.
    pub round_trip: Histogram,
    /// Connections to it that are open.
    pub links: Gauge,
    /// How often the last of them broke.
    pub disconnections: Counter,
    /// Snapshots that it installed, and how long each transfer took.
    pub snapshots_sent: Histogram,
    /// Snapshots that it did not install.
    pub snapshot_failures: Counter,
    /// Snapshots on the way to it.
    pub snapshots_on_the_way: Gauge,
    /// Snapshots from it that were installed, and how long each transfer took.
    pub snapshots_received: Histogram,
    /// Snapshots from it that were not installed.
    pub snapshot_receive_failures: Counter,
    /// Snapshots on the way from it.
    pub snapshots_arriving: Gauge,
}

impl Default for PeerMeters {
    fn default() -> Self {
        Self {
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            receive_failures: Counter::default(),
            send_failures: Counter::default(),
            heartbeat_failures: Counter::default(),
            // Source: etcd's `0.0001 x 2^16` seconds.
            round_trip: Histogram::doubling(Duration::from_micros(100), 16),
            links: Gauge::default(),
            disconnections: Counter::default(),
            snapshots_sent: transfers(),
            snapshot_failures: Counter::default(),
            snapshots_on_the_way: Gauge::default(),
            snapshots_received: transfers(),
            snapshot_receive_failures: Counter::default(),
            snapshots_arriving: Gauge::default(),
        }
    }
}

impl Meters {
    /// What is measured about the peer `id`; made when first asked for.
    pub fn peer(&self, id: u64) -> Arc<PeerMeters> {
        self.peers.lock().entry(id).or_default().clone()
    }
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenLink(Arc<PeerMeters>);

impl OpenLink {
    pub(crate) fn new(peer: Arc<PeerMeters>) -> Self {
        peer.links.add(1);
        Self(peer)
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        if self.0.links.add(-1) == 0 {
            self.0.disconnections.add(1);
        }
    }
}

/// Counts something under way for as long as it lives.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Gauge);

impl<'a> UnderWay<'a> {
    pub(crate) fn new(gauge: &'a Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_buckets_add_up() {
        let histogram = Histogram::doubling(Duration::from_millis(1), 3);
        for milliseconds in [1, 2, 3, 4, 5] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let (buckets, all) = histogram.cumulative();
        let counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!((counts, all), (vec![1, 2, 4], 5));
        assert_eq!(histogram.sum(), Duration::from_millis(15));
    }

    #[test]
    fn only_the_last_link_to_break_is_a_disconnection() {
        let peer = Arc::new(PeerMeters::default());
        let (first, second) = (OpenLink::new(peer.clone()), OpenLink::new(peer.clone()));
        drop(first);
        assert_eq!((peer.links.get(), peer.disconnections.get()), (1, 0));
        drop(second);
        assert_eq!((peer.links.get(), peer.disconnections.get()), (0, 1));
    }
}
