//! Metrics of requests and of what the store does for them.

use super::Text;
use crate::services::request_meters::{ByFate, RequestMeters};

/// Writes them. Every series is there from the start.
pub(super) fn write(text: &mut Text, meters: &RequestMeters) {
    let name = "etcd_server_request_duration_seconds";
    text.family(name, "histogram", "How long requests took, by kind.");
    for (kind, fates) in meters.requests() {
        let kind = format!("{kind:?}");
        by_fate(text, name, &[("type", kind.as_str())], fates);
    }
    let name = "etcd_server_range_duration_seconds";
    text.family(name, "histogram", "How long ranges took to read.");
    by_fate(text, name, &[], &meters.ranges);
    text.histogram(
        "etcd_mvcc_hash_duration_seconds",
        "Hashes of the live state.",
        &meters.hash,
    );
    text.histogram(
        "etcd_mvcc_hash_rev_duration_seconds",
        "Hashes of the history.",
        &meters.hash_kv,
    );
}

fn by_fate(text: &mut Text, name: &str, labels: &[(&str, &str)], fates: &ByFate) {
    for (succeeded, histogram) in fates.labelled() {
        let labels: Vec<_> = labels.iter().copied().chain([("success", succeeded)]).collect();
        text.histogram_samples(name, &labels, histogram);
    }
}
