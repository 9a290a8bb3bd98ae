//! What the simulation once found, each as small as it could be made.

use std::collections::BTreeSet;
use std::time::Duration;

use kelson_jepsen::sim;
use kelson_jepsen::sim::network::LinkQuality;
use kelson_jepsen::sim::plan::{FaultKind, Plan};

/// Links that lose nothing; both times in milliseconds.
fn delayed(delay: u64, jitter: u64) -> LinkQuality {
    LinkQuality {
        delay: Duration::from_millis(delay),
        jitter: Duration::from_millis(jitter),
        loss: 0,
    }
}

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
    let links = delayed(20, 5);
    let report = sim::run(&calm(links), false);
    assert_eq!(report.violation, None);
    let (ok, refused, unknown) = report.operations;
    // Each client may have been asking something when the load was taken away.
    assert!(unknown <= 3, "{unknown} unknown, {ok} ok, {refused} refused");
    assert_eq!(report.elections, 1);
}

/// Seed 1016: a leader that hands over refuses to confirm reads, at once. They came back as quickly, and went round and
/// round for as long as the transfer took: a member burned its core, and here no virtual time ever passed.
#[test]
fn reads_wait_while_a_leader_hands_over() {
    let (ended, end) = std::sync::mpsc::channel();
    #[expect(
        clippy::disallowed_methods,
        reason = "a test must not hang with what it tests"
    )]
    std::thread::spawn(move || {
        let links = delayed(1, 1);
        let plan = Plan {
            faults: BTreeSet::from([FaultKind::Transfer]),
            fault_every: Duration::from_millis(300),
            client_pause: Duration::from_millis(5),
            ..calm(links)
        };
        ended.send(sim::run(&plan, false)).expect("the test waits");
    });
    let report = end
        .recv_timeout(Duration::from_secs(300))
        .expect("the simulation ends");
    assert_eq!(report.violation, None);
    assert!(report.elections > 10, "{} elections", report.elections);
}

/// Seed 1015: openraft names the leader of a new term before that term is saved, and next to it the term that is. A
/// follower with a slow disk said for seconds that the new leader leads in the old term.
#[test]
fn a_leader_is_named_with_its_own_term() {
    let links = delayed(10, 10);
    let plan = Plan {
        members: 5,
        clock_rates: vec![100; 5],
        faults: BTreeSet::from([FaultKind::Transfer, FaultKind::SlowDisk]),
        fault_every: Duration::from_millis(300),
        disk_latency: Duration::from_millis(25),
        ..calm(links)
    };
    let report = sim::run(&plan, false);
    assert_eq!(report.violation, None);
}

/// Seed 44046: openraft waits for a vote for less than a third of the election timeout. Each question dialled anew, and
/// dial, hello and question are three round trips and a sync: over links on which heartbeats came back in time nobody was
/// elected.
#[test]
fn a_leader_is_elected_over_links_almost_as_slow_as_heartbeats_allow() {
    let links = delayed(49, 5);
    let plan = Plan {
        disk_latency: Duration::from_millis(100),
        ..calm(links)
    };
    let report = sim::run(&plan, false);
    assert_eq!(report.violation, None);
    assert!(report.operations.0 > 0, "nobody was answered");
}

/// openraft waits for the answer to a heartbeat as long as for the next one: where a round trip took longer than that, no
/// read was ever confirmed. etcd's rule for timers allows heartbeats twice in a round trip.
#[test]
fn reads_are_confirmed_where_a_round_trip_takes_two_heartbeats() {
    let links = delayed(90, 10);
    let report = sim::run(&calm(links), false);
    assert_eq!(report.violation, None);
    let (ok, refused, unknown) = report.operations;
    assert!(unknown <= 3, "{unknown} unknown, {ok} ok, {refused} refused");
    assert_eq!(report.elections, 1);
}
