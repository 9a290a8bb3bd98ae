//! `/metrics` in Prometheus' text format: what this member can say truthfully, under etcd's names and types.

mod grpc;
mod node;
mod requests;

use std::fmt::{Display, Write};
use std::sync::Arc;

use bytes::Bytes;
use kelson_raft::meters::Histogram;
use kelson_raft::node::{Node, NodeStatus};
use kelson_storage::command::{AlarmKind, Range};
use kelson_storage::store::StoreReader;

use crate::config::feature_gates::{FeatureGates, Stage};
use crate::lease::LeaseKeeper;
use crate::services::grpc::meter::GrpcMeters;
use crate::services::request_meters::RequestMeters;
use crate::tls::{Endpoint, Rejections};
use crate::version::SERVER_VERSION;
use crate::watch::WatchCounts;

/// What the configuration contributes.
pub struct Facts {
    /// The effective quota, in bytes; 0: none.
    pub quota_backend_bytes: u64,
    /// The feature gates.
    pub feature_gates: FeatureGates,
    /// Handshakes that failed.
    pub rejections: Arc<Rejections>,
    /// Calls.
    pub grpc: Arc<GrpcMeters>,
    /// Requests.
    pub requests: Arc<RequestMeters>,
    /// Leases.
    pub leases: LeaseKeeper,
    /// `--metrics=extensive`.
    pub extensive: bool,
}

/// Metrics being written, family by family.
#[derive(Default)]
pub struct Text {
    text: String,
}

impl Text {
    /// Opens a family: its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes everything");
    }

    /// One sample of the open family. Label values must need no escapes.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (at, (label, content)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            write!(self.text, "{open}{label}=\"{content}\"").expect("a String takes everything");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        writeln!(self.text, " {value}").expect("a String takes everything");
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A gauge that is 1 and says what it says in one label.
    fn info(&mut self, name: &str, help: &str, label: &str, content: &str) {
        self.family(name, "gauge", help);
        self.sample(name, &[(label, content)], 1);
    }

    /// A histogram without labels.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        self.histogram_samples(name, &[], histogram);
    }

    /// One histogram of the open family.
    pub fn histogram_samples(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let (buckets, all) = histogram.cumulative();
        let mut bucket = |bound: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&format!("{name}_bucket"), &labels, count);
        };
        for (bound, count) in buckets {
            bucket(&bound.as_secs_f64().to_string(), count);
        }
        bucket("+Inf", all);
        self.sample(&format!("{name}_sum"), labels, histogram.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), labels, all);
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Writes what a running member knows.
pub(super) fn member(text: &mut Text, node: &Node, watching: WatchCounts, facts: &Facts) {
    let (status, reader) = (&node.status(), node.reader());
    raft(text, status);
    node::write(text, node);
    grpc::write(text, &facts.grpc, facts.extensive);
    requests::write(text, &facts.requests);
    leases(text, &facts.leases);
    alarms(text, reader);
    store(text, status, reader, facts);
    self::watching(text, watching);
}

fn store(text: &mut Text, status: &NodeStatus, reader: &StoreReader, facts: &Facts) {
    let size = reader.size();
    text.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the database's pages.",
        size.allocated,
    );
    text.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes in use inside the database's pages.",
        size.in_use,
    );
    operations(text, reader);
    text.gauge(
        "etcd_debugging_mvcc_current_revision",
        "Current revision of the store.",
        reader.revision(),
    );
    text.gauge("etcd_debugging_mvcc_keys_total", "Living keys.", keys(reader));
    text.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "Revision of the last compaction.",
        reader.compacted().unwrap_or(0),
    );
    text.gauge(
        "etcd_server_quota_backend_bytes",
        "Database size that raises the NOSPACE alarm.",
        facts.quota_backend_bytes,
    );
    let id = format!("{:x}", status.id);
    text.info("etcd_server_id", "This member's id.", "server_id", &id);
    text.info(
        "etcd_server_version",
        "Version of the API served.",
        "server_version",
        SERVER_VERSION,
    );
    if let Some(version) = reader.cluster_version() {
        text.info(
            "etcd_cluster_version",
            "Version all members speak.",
            "cluster_version",
            &version,
        );
    }
    text.family(
        "kelson_tls_rejected_connections_total",
        "counter",
        "TLS handshakes that failed.",
    );
    for endpoint in [Endpoint::Client, Endpoint::Peer] {
        text.sample(
            "kelson_tls_rejected_connections_total",
            &[("endpoint", endpoint.name())],
            facts.rejections.count(endpoint),
        );
    }
    text.family(
        "etcd_server_feature_enabled",
        "gauge",
        "Whether a feature gate is on.",
    );
    for (gate, value) in facts.feature_gates.iter() {
        let stage = match gate.stage {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        };
        let labels = [("name", gate.name), ("stage", stage)];
        text.sample("etcd_server_feature_enabled", &labels, u8::from(value));
    }
}

/// Number of living keys; read from the index's counts.
fn keys(reader: &StoreReader) -> u64 {
    let all = Range {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        count_only: true,
        ..Range::default()
    };
    reader.view().range(&all).map_or(0, |result| result.count)
}

fn operations(text: &mut Text, reader: &StoreReader) {
    let counts = reader.operations();
    for (name, help, count) in [
        ("etcd_mvcc_put_total", "Keys written.", counts.puts),
        ("etcd_mvcc_delete_total", "Deletions of ranges.", counts.deletes),
        (
            "etcd_mvcc_txn_total",
            "Transactions of more than one operation.",
            counts.txns,
        ),
        ("etcd_mvcc_range_total", "Ranges read.", counts.ranges),
    ] {
        text.counter(name, help, count);
    }
}

fn leases(text: &mut Text, leases: &LeaseKeeper) {
    let counts = leases.counts();
    for (name, help, count) in [
        (
            "etcd_debugging_server_lease_expired_total",
            "Leases that this member ended as their time was over.",
            counts.expired,
        ),
        (
            "etcd_debugging_lease_granted_total",
            "Leases granted.",
            counts.granted,
        ),
        (
            "etcd_debugging_lease_revoked_total",
            "Leases ended.",
            counts.revoked,
        ),
        (
            "etcd_debugging_lease_renewed_total",
            "Leases renewed by this member as the leader.",
            counts.renewed,
        ),
    ] {
        text.counter(name, help, count);
    }
}

fn alarms(text: &mut Text, reader: &StoreReader) {
    let name = "etcd_debugging_server_alarms";
    text.family(name, "gauge", "Alarms that are raised.");
    for (member, kind) in reader.alarms() {
        let kind = match kind {
            AlarmKind::None => continue,
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        let member = format!("{member:x}");
        text.sample(name, &[("server_id", member.as_str()), ("alarm_type", kind)], 1);
    }
    text.gauge(
        "etcd_debugging_auth_revision",
        "Revision of users and roles, of which there are none yet.",
        1,
    );
}

fn watching(text: &mut Text, counts: WatchCounts) {
    for (name, help, value) in [
        (
            "etcd_debugging_mvcc_watch_stream_total",
            "Open watch streams.",
            counts.streams,
        ),
        ("etcd_debugging_mvcc_watcher_total", "Watchers.", counts.watchers),
        (
            "etcd_debugging_mvcc_slow_watcher_total",
            "Watchers that read history.",
            counts.slow_watchers,
        ),
    ] {
        text.gauge(name, help, value);
    }
    text.counter(
        "etcd_debugging_mvcc_events_total",
        "Events sent to watchers.",
        counts.events,
    );
}

fn raft(text: &mut Text, status: &NodeStatus) {
    text.gauge(
        "etcd_server_has_leader",
        "Whether a leader is known.",
        u8::from(status.leader != 0),
    );
    text.gauge(
        "etcd_server_is_leader",
        "Whether this member is the leader.",
        u8::from(status.is_leader()),
    );
    text.gauge(
        "etcd_server_is_learner",
        "Whether this member does not vote.",
        u8::from(status.is_learner),
    );
    text.counter(
        "etcd_server_leader_changes_seen_total",
        "Leaders seen since the process started.",
        status.leader_changes,
    );
    // Gauges in spite of their names, as in etcd.
    text.gauge(
        "etcd_server_proposals_committed_total",
        "Index of the last committed entry.",
        status.committed,
    );
    text.gauge(
        "etcd_server_proposals_applied_total",
        "Index of the last applied entry.",
        status.applied,
    );
}
