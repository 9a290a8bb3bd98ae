//! What the simulation once found, each as small as it could be made.

use std::collections::BTreeSet;
use std::time::Duration;

use kelson_jepsen::sim;
use kelson_jepsen::sim::network::LinkQuality;
use kelson_jepsen::sim::plan::{FaultKind, Plan};

/// A cluster of three that nobody harms, with clients that ask for everything but leases.
fn calm(links: LinkQuality) -> Plan {
    let all = BTreeSet::from(FaultKind::ALL);
    let plan = Plan::of(13, Duration::from_secs(20)).without(&all);
    Plan {
        members: 3,
        clock_rates: vec![100; 3],
        links,
        election_timeout: Duration::from_secs(1),
        disk_latency: Duration::from_millis(1),
        clients: 3,
        leases: false,
        ..plan
    }
}

/// Seed 13: a link to a peer was made within the time of the first heartbeat on it, 100 ms, and given up with it. Over
/// links of 20 ms that is three round trips of 40 ms: no heartbeat ever came through, no read was ever confirmed, and
/// leaders that had nothing to write were voted out again and again.
#[test]
fn heartbeats_get_through_when_a_connection_takes_longer_than_their_interval() {
    let links = LinkQuality {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        loss: 0,
    };
    let report = sim::run(&calm(links), false);
    assert_eq!(report.violation, None);
    let (ok, refused, unknown) = report.operations;
    // Each client may have been asking something when the load was taken away.
    assert!(unknown <= 3, "{unknown} unknown, {ok} ok, {refused} refused");
    assert_eq!(report.elections, 1);
}
