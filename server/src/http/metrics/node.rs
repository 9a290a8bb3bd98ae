//! Metrics of the log, the database and the ways to the other members.

use std::time::Duration;

use kelson_raft::meters::{Counter, Gauge, Histogram, Meters, PeerMeters};
use kelson_raft::node::Node;

use super::Text;

/// Where a family with one series per member has its values.
enum Measure {
    Counter(fn(&PeerMeters) -> &Counter),
    /// How often something was measured.
    Times(fn(&PeerMeters) -> &Histogram),
    Gauge(fn(&PeerMeters) -> &Gauge),
    Histogram(fn(&PeerMeters) -> &Histogram),
}

/// Name, label, help and values of the families with one series per member.
const PER_PEER: [(&str, &str, &str, Measure); 13] = [
    (
        "etcd_network_peer_received_bytes_total",
        "From",
        "Bytes from a member.",
        Measure::Counter(|peer| &peer.received_bytes),
    ),
    (
        "etcd_network_peer_received_failures_total",
        "From",
        "Messages from a member that broke off or were damaged.",
        Measure::Counter(|peer| &peer.receive_failures),
    ),
    (
        "etcd_network_peer_sent_bytes_total",
        "To",
        "Bytes to a member.",
        Measure::Counter(|peer| &peer.sent_bytes),
    ),
    (
        "etcd_network_peer_sent_failures_total",
        "To",
        "Attempts to reach a member that failed.",
        Measure::Counter(|peer| &peer.send_failures),
    ),
    (
        "etcd_network_snapshot_send_success",
        "To",
        "Snapshots that a member installed.",
        Measure::Times(|peer| &peer.snapshots_sent),
    ),
    (
        "etcd_network_snapshot_receive_success",
        "From",
        "Snapshots from a member that were installed.",
        Measure::Times(|peer| &peer.snapshots_received),
    ),
    (
        "etcd_network_snapshot_send_failures",
        "To",
        "Snapshots that a member did not install.",
        Measure::Counter(|peer| &peer.snapshot_failures),
    ),
    (
        "etcd_network_snapshot_receive_failures",
        "From",
        "Snapshots from a member that were not installed.",
        Measure::Counter(|peer| &peer.snapshot_receive_failures),
    ),
    (
        "etcd_network_peer_round_trip_time_seconds",
        "To",
        "Time of a question to a member and its answer.",
        Measure::Histogram(|peer| &peer.round_trip),
    ),
    (
        "etcd_network_snapshot_send_total_duration_seconds",
        "To",
        "Snapshots that a member installed.",
        Measure::Histogram(|peer| &peer.snapshots_sent),
    ),
    (
        "etcd_network_snapshot_receive_total_duration_seconds",
        "From",
        "Snapshots from a member that were installed.",
        Measure::Histogram(|peer| &peer.snapshots_received),
    ),
    (
        "etcd_network_snapshot_send_inflights_total",
        "To",
        "Snapshots on the way to a member.",
        Measure::Gauge(|peer| &peer.snapshots_on_the_way),
    ),
    (
        "etcd_network_snapshot_receive_inflights_total",
        "From",
        "Snapshots on the way from a member.",
        Measure::Gauge(|peer| &peer.snapshots_arriving),
    ),
];

/// Writes them.
pub(super) fn write(text: &mut Text, node: &Node) {
    let meters = node.meters();
    text.gauge(
        "etcd_server_proposals_pending",
        "Commands of this member's clients without an outcome yet.",
        node.proposals_pending(),
    );
    text.counter(
        "etcd_server_proposals_failed_total",
        "Commands of this member's clients that were given up on.",
        meters.proposals_failed.get(),
    );
    text.counter(
        "etcd_server_slow_apply_total",
        "Entries that took longer than --warning-apply-duration to apply.",
        meters.slow_applies.get(),
    );
    text.counter(
        "etcd_server_read_indexes_failed_total",
        "Linearizable reads that were not confirmed in time.",
        meters.read_indexes_failed.get(),
    );
    text.counter(
        "etcd_server_slow_read_indexes_total",
        "Quorum rounds for reads that took so long that they were begun again.",
        meters.slow_read_indexes.get(),
    );
    // A gauge in spite of its name, as in etcd.
    text.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Bytes of records written to the log.",
        meters.wal_bytes.get(),
    );
    text.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "Snapshots being installed.",
        meters.snapshots_applying.get(),
    );
    text.histogram(
        "etcd_disk_wal_write_duration_seconds",
        "Writes of records to the log, each of all that waited.",
        &meters.wal_write,
    );
    text.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "Syncs of the log.",
        &meters.wal_fsync,
    );
    text.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Transactions on the database.",
        &meters.backend_commit,
    );
    apply(text, meters);
    snapshots(text, meters);
    peers(text, node);
}

/// As in etcd, a series is there from its first command on.
fn apply(text: &mut Text, meters: &Meters) {
    let name = "etcd_server_apply_duration_seconds";
    text.family(
        name,
        "histogram",
        "Commands being applied, each with an equal share of its entry's time.",
    );
    for (operation, succeeded, histogram) in meters.apply.labelled() {
        if histogram.cumulative().1 > 0 {
            let succeeded = if succeeded { "true" } else { "false" };
            let labels = [("version", "v3"), ("op", operation), ("success", succeeded)];
            text.histogram_samples(name, &labels, histogram);
        }
    }
}

fn snapshots(text: &mut Text, meters: &Meters) {
    text.histogram(
        "etcd_snap_db_save_total_duration_seconds",
        "Databases from other members, from their first byte until they were durable.",
        &meters.database_save,
    );
    text.histogram(
        "etcd_snap_db_fsync_duration_seconds",
        "Syncs of databases from other members.",
        &meters.database_fsync,
    );
    let never = Histogram::doubling(Duration::from_millis(1), 14);
    for name in [
        "etcd_snap_fsync_duration_seconds",
        "etcd_debugging_snap_save_total_duration_seconds",
        "etcd_debugging_snap_save_marshalling_duration_seconds",
    ] {
        text.histogram(
            name,
            "Nothing: there is no file of a snapshot beside the database.",
            &never,
        );
    }
}

fn peers(text: &mut Text, node: &Node) {
    let own = format!("{:x}", node.id());
    let peers: Vec<_> = node
        .peer_meters()
        .into_iter()
        .map(|(id, meters)| (format!("{id:x}"), meters))
        .collect();
    for (name, label, help, measure) in PER_PEER {
        let kind = match measure {
            Measure::Counter(_) | Measure::Times(_) => "counter",
            Measure::Gauge(_) => "gauge",
            Measure::Histogram(_) => "histogram",
        };
        text.family(name, kind, help);
        for (id, meters) in &peers {
            let labels = [(label, id.as_str())];
            match measure {
                Measure::Counter(of) => text.sample(name, &labels, of(meters).get()),
                Measure::Times(of) => text.sample(name, &labels, of(meters).cumulative().1),
                Measure::Gauge(of) => text.sample(name, &labels, of(meters).get()),
                Measure::Histogram(of) => text.histogram_samples(name, &labels, of(meters)),
            }
        }
    }
    reachable(text, &own, &peers);
    text.counter(
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that could not be sent.",
        peers
            .iter()
            .map(|(_, meters)| meters.heartbeat_failures.get())
            .sum::<u64>(),
    );
}

fn reachable<P: AsRef<PeerMeters>>(text: &mut Text, own: &str, peers: &[(String, P)]) {
    let active = |peer: &PeerMeters| u64::from(peer.links.get() > 0);
    let families = [
        (
            "etcd_network_known_peers",
            "gauge",
            "Members this one knows.",
            (|_| 1) as fn(&PeerMeters) -> u64,
        ),
        (
            "etcd_network_active_peers",
            "gauge",
            "Members this one is connected to.",
            active,
        ),
        (
            "etcd_network_disconnected_peers_total",
            "counter",
            "Times the last connection to a member broke.",
            |peer| peer.disconnections.get(),
        ),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (id, meters) in peers {
            text.sample(name, &[("Local", own), ("Remote", id)], value(meters.as_ref()));
        }
    }
}
