//! Metrics of the log, the database and the ways to the other members.

use kelson_raft::meters::{Counter, Gauge, Histogram, PeerMeters};
use kelson_raft::node::Node;

use super::Text;

/// A family with one series per member: name, label, help, and where its values are.
type PerPeer<T> = (&'static str, &'static str, &'static str, fn(&PeerMeters) -> &T);

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
    text.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "Snapshots being installed.",
        meters.snapshots_applying.get(),
    );
    text.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "Writes to the log that ended with a sync.",
        &meters.wal_fsync,
    );
    text.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Transactions on the database.",
        &meters.backend_commit,
    );
    peers(text, node);
}

fn peers(text: &mut Text, node: &Node) {
    let own = format!("{:x}", node.id());
    let peers: Vec<_> = node
        .peer_meters()
        .into_iter()
        .map(|(id, meters)| (format!("{id:x}"), meters))
        .collect();
    let counters: [PerPeer<Counter>; 5] = [
        (
            "etcd_network_peer_received_bytes_total",
            "From",
            "Bytes from a member.",
            |peer| &peer.received_bytes,
        ),
        (
            "etcd_network_peer_sent_bytes_total",
            "To",
            "Bytes to a member.",
            |peer| &peer.sent_bytes,
        ),
        (
            "etcd_network_peer_sent_failures_total",
            "To",
            "Attempts to reach a member that failed.",
            |peer| &peer.send_failures,
        ),
        (
            "etcd_network_snapshot_send_failures",
            "To",
            "Snapshots that a member did not install.",
            |peer| &peer.snapshot_failures,
        ),
        (
            "etcd_network_snapshot_receive_failures",
            "From",
            "Snapshots from a member that were not installed.",
            |peer| &peer.snapshot_receive_failures,
        ),
    ];
    for (name, label, help, counter) in counters {
        text.family(name, "counter", help);
        for (id, meters) in &peers {
            text.sample(name, &[(label, id)], counter(meters).get());
        }
    }
    let histograms: [PerPeer<Histogram>; 3] = [
        (
            "etcd_network_peer_round_trip_time_seconds",
            "To",
            "Time of a question to a member and its answer.",
            |peer| &peer.round_trip,
        ),
        (
            "etcd_network_snapshot_send_total_duration_seconds",
            "To",
            "Snapshots that a member installed.",
            |peer| &peer.snapshots_sent,
        ),
        (
            "etcd_network_snapshot_receive_total_duration_seconds",
            "From",
            "Snapshots from a member that were installed.",
            |peer| &peer.snapshots_received,
        ),
    ];
    for (name, label, help, histogram) in histograms {
        text.family(name, "histogram", help);
        for (id, meters) in &peers {
            text.histogram_samples(name, &[(label, id)], histogram(meters));
        }
    }
    let gauges: [PerPeer<Gauge>; 2] = [
        (
            "etcd_network_snapshot_send_inflights_total",
            "To",
            "Snapshots on the way to a member.",
            |peer| &peer.snapshots_on_the_way,
        ),
        (
            "etcd_network_snapshot_receive_inflights_total",
            "From",
            "Snapshots on the way from a member.",
            |peer| &peer.snapshots_arriving,
        ),
    ];
    for (name, label, help, gauge) in gauges {
        text.family(name, "gauge", help);
        for (id, meters) in &peers {
            text.sample(name, &[(label, id)], gauge(meters).get());
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
