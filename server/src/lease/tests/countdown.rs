//! The countdown against a plain list of deadlines.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::lease::expiry::{Expiry, Renewal};

const EXTENSION: Duration = Duration::from_secs(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn leading(leases: &[(i64, i64)]) -> (Expiry, Instant) {
    let now = Instant::now();
    let mut expiry = Expiry::default();
    expiry.become_leader(1, now, leases.to_vec(), EXTENSION);
    (expiry, now)
}

#[test]
fn new_leader_gives_full_ttl_and_an_election_timeout() {
    let (mut expiry, now) = leading(&[(7, 5), (-3, 2)]);
    assert_eq!(expiry.next_due(), Some(now + seconds(3)));
    assert!(expiry.due(now + Duration::from_millis(2999), 10).is_empty());
    assert_eq!(expiry.due(now + seconds(3), 10), [-3]);
    assert_eq!(expiry.due(now + seconds(60), 10), [7]);
}

#[test]
fn member_that_does_not_lead_counts_nothing() {
    let mut expiry = Expiry::default();
    let now = Instant::now();
    expiry.granted(1, 2, now);
    assert_eq!((expiry.next_due(), expiry.term()), (None, None));
    let (mut expiry, now) = leading(&[(1, 2)]);
    expiry.step_down();
    assert!(expiry.due(now + seconds(60), 10).is_empty());
}

#[test]
fn renewal_starts_the_ttl_anew_but_not_after_the_deadline() {
    let (mut expiry, now) = leading(&[]);
    expiry.granted(1, 5, now);
    assert_eq!(expiry.renew(1, 5, now + seconds(4)), Renewal::Renewed);
    assert_eq!(expiry.remaining(1, now + seconds(6)), Some(seconds(3)));
    assert_eq!(expiry.renew(1, 5, now + seconds(9)), Renewal::Ending);
    assert_eq!(expiry.due(now + seconds(9), 10), [1]);
    assert_eq!(expiry.renew(1, 5, now + seconds(9)), Renewal::Ending);
    assert_eq!(expiry.remaining(1, now + seconds(11)), Some(Duration::ZERO));
}

#[test]
fn undecided_expiry_is_proposed_again_and_never_renewed() {
    let (mut expiry, now) = leading(&[]);
    expiry.granted(1, 5, now);
    assert_eq!(expiry.due(now + seconds(5), 10), [1]);
    assert!(
        expiry.due(now + seconds(6), 10).is_empty(),
        "one proposal at a time"
    );
    expiry.undecided(1, 1, now + seconds(6));
    assert_eq!(expiry.renew(1, 5, now + seconds(6)), Renewal::Ending);
    assert_eq!(expiry.due(now + seconds(7), 10), [1]);
    expiry.decided(1, 1);
    assert_eq!((expiry.remaining(1, now), expiry.next_due()), (None, None));
}

#[test]
fn outcome_of_a_former_life_or_term_is_ignored() {
    let (mut expiry, now) = leading(&[]);
    expiry.granted(1, 5, now);
    assert_eq!(expiry.due(now + seconds(5), 10), [1]);
    expiry.revoked(1);
    expiry.granted(1, 5, now + seconds(5));
    expiry.decided(1, 1);
    assert_eq!(expiry.remaining(1, now + seconds(5)), Some(seconds(5)));
    assert_eq!(expiry.due(now + seconds(10), 10), [1]);
    expiry.step_down();
    expiry.become_leader(2, now + seconds(10), vec![(1, 5)], EXTENSION);
    expiry.decided(1, 1);
    expiry.undecided(1, 1, now + seconds(10));
    assert_eq!(expiry.next_due(), Some(now + seconds(16)));
}

#[test]
fn longest_ttl_does_not_overflow() {
    let (mut expiry, now) = leading(&[(1, 9_000_000_000), (2, i64::MAX)]);
    assert!(expiry.due(now + seconds(1_000_000), 10).is_empty());
    assert_eq!(expiry.renew(1, i64::MAX, now), Renewal::Renewed);
}

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    Revoke(i64),
    Renew(i64),
    Pass(u64),
    Expire(usize),
    Decide(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6i64, 1..10i64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        (0..6i64).prop_map(Step::Revoke),
        (0..6i64).prop_map(Step::Renew),
        (0..4000u64).prop_map(Step::Pass),
        (1..4usize).prop_map(Step::Expire),
        (0..6usize, any::<bool>()).prop_map(|(nth, decided)| Step::Decide(nth, decided)),
    ]
}

proptest! {
    /// The model: for each lease the earliest time it may end at, and whether its end is on its way.
    #[test]
    fn leases_end_when_and_only_when_their_time_has_come(steps in prop::collection::vec(step(), 1..100)) {
        let (mut expiry, mut now) = leading(&[]);
        let mut alive: BTreeMap<i64, (i64, Instant, bool)> = BTreeMap::new();
        let mut proposed: Vec<i64> = Vec::new();
        for step in steps {
            match step {
                Step::Grant(id, ttl) if !alive.contains_key(&id) && !proposed.contains(&id) => {
                    expiry.granted(id, ttl, now);
                    alive.insert(id, (ttl, now + seconds(ttl as u64), false));
                }
                Step::Grant(..) => {}
                Step::Revoke(id) => {
                    expiry.revoked(id);
                    alive.remove(&id);
                }
                Step::Renew(id) => if let Some((ttl, deadline, ending)) = alive.get_mut(&id) {
                    let late = *ending || now >= *deadline;
                    let renewal = expiry.renew(id, *ttl, now);
                    prop_assert_eq!(renewal == Renewal::Ending, late);
                    if !late {
                        *deadline = now + seconds(*ttl as u64);
                    }
                },
                Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Expire(room) => {
                    let due = expiry.due(now, room);
                    prop_assert!(due.len() <= room);
                    for id in due {
                        let (_, deadline, ending) = alive.get_mut(&id).expect("only living leases end");
                        prop_assert!(*deadline <= now, "lease {} ends early", id);
                        *ending = true;
                        proposed.push(id);
                    }
                }
                Step::Decide(nth, decided) => if !proposed.is_empty() {
                    let id = proposed.remove(nth % proposed.len());
                    if decided {
                        alive.remove(&id);
                        expiry.decided(id, 1);
                    } else {
                        expiry.undecided(id, 1, now);
                    }
                },
            }
        }
        // In the end everything ends.
        now += seconds(1000);
        for id in proposed {
            expiry.undecided(id, 1, now);
        }
        let mut ended = expiry.due(now + seconds(1), usize::MAX);
        ended.sort_unstable();
        prop_assert_eq!(ended, alive.into_keys().collect::<Vec<_>>());
    }
}
