//! What clients are told, case by case.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, ELECTION_TIMEOUT, REQUEST_TIMEOUT};
use crate::lease::{KeepAliveAnswer, LeaseError, TimeToLiveAnswer};

const SECOND: Duration = Duration::from_secs(1);

async fn keep_alive(cluster: &Cluster, member: usize, id: i64) -> Result<i64, LeaseError> {
    let answer = cluster.keepers[member - 1].keep_alive(id).await;
    answer.map(|KeepAliveAnswer { ttl }| ttl)
}

async fn left(cluster: &Cluster, member: usize, id: i64) -> (i64, i64) {
    let answer = cluster.keepers[member - 1].time_to_live(id, false).await;
    let TimeToLiveAnswer {
        ttl_left,
        granted_ttl,
        ..
    } = answer.expect("a leader answers");
    (ttl_left, granted_ttl)
}

#[tokio::test(start_paused = true)]
async fn lease_without_keepalive_ends_soon_after_its_ttl() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 5);
    sleep(10 * SECOND).await;
    let life = cluster.lives()[0];
    let lasted = life.ended.expect("it ended") - life.granted;
    assert!((5 * SECOND..6 * SECOND).contains(&lasted), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn keepalive_through_any_member_renews() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(-7, 5);
    for round in 0..9 {
        sleep(4 * SECOND).await;
        assert_eq!(keep_alive(&cluster, round % 3 + 1, -7).await, Ok(5));
    }
    assert_eq!(cluster.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_lease_has_ttl_zero_and_time_to_live_minus_one() {
    let cluster = Cluster::start(3);
    for member in 1..=3 {
        assert_eq!(keep_alive(&cluster, member, 5).await, Ok(0));
        assert_eq!(left(&cluster, member, 5).await, (-1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn time_to_live_counts_down_in_whole_seconds_and_gives_keys_when_asked() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 10);
    sleep(SECOND / 10).await;
    assert_eq!(left(&cluster, 2, 1).await, (9, 10));
    sleep(4 * SECOND).await;
    assert_eq!(left(&cluster, 1, 1).await, (5, 10));
    let answer = cluster.keepers[2].time_to_live(1, true).await;
    assert_eq!(answer.map(|answer| answer.keys.len()), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn keepalive_right_after_a_grant_or_a_revoke_sees_it() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    for member in [1, 2] {
        cluster.grant(1, 5);
        assert_eq!(keep_alive(&cluster, member, 1).await, Ok(5));
        cluster.revoke(1);
        assert_eq!(keep_alive(&cluster, member, 1).await, Ok(0));
    }
}

#[tokio::test(start_paused = true)]
async fn keepalive_that_meets_a_proposed_expiry_waits_for_its_outcome() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.lose_expiry(false);
    cluster.grant(1, 2);
    sleep(3 * SECOND).await;
    assert_eq!(cluster.alive(), 1, "its expiry got lost");
    let asked = Instant::now();
    // The fate of the lost one is unknown for the whole request timeout; then it is proposed again.
    let (here, there) = tokio::join!(keep_alive(&cluster, 1, 1), keep_alive(&cluster, 2, 1));
    assert_eq!((here, there), (Ok(0), Ok(0)));
    assert!(asked.elapsed() > 5 * SECOND);
    assert_eq!(cluster.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn expiry_whose_outcome_got_lost_is_not_mistaken_for_a_living_lease() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.lose_expiry(true);
    cluster.grant(1, 2);
    sleep(3 * SECOND).await;
    assert_eq!(keep_alive(&cluster, 2, 1).await, Ok(0));
    // The id may be used again, and the new lease is not hurt by what is left of the old one.
    cluster.grant(1, 60);
    sleep(30 * SECOND).await;
    assert_eq!(left(&cluster, 2, 1).await.1, 60);
}

#[tokio::test(start_paused = true)]
async fn new_leader_gives_full_ttl_and_an_election_timeout() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 5);
    sleep(4 * SECOND).await;
    cluster.elect(2);
    let elected = Instant::now();
    sleep(20 * SECOND).await;
    let lasted = cluster.lives()[0].ended.expect("it ended") - elected;
    let least = 5 * SECOND + ELECTION_TIMEOUT;
    assert!((least..least + SECOND).contains(&lasted), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn former_leader_neither_renews_nor_expires() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 3);
    sleep(SECOND).await;
    cluster.elect_secretly(2, 1);
    let elected = Instant::now();
    // Asked at the one who does not know, answered by the one who leads.
    let asking = keep_alive(&cluster, 1, 1);
    let learning = async {
        sleep(5 * SECOND).await;
        assert!(
            cluster.stale_expiries() > 0,
            "the log rejected what it counted out"
        );
        cluster.enlighten();
    };
    let (answer, ()) = tokio::join!(asking, learning);
    assert_eq!(answer, Ok(0));
    let ended = cluster.lives()[0].ended.expect("it ended");
    assert!(ended - elected >= 3 * SECOND + ELECTION_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn leader_counts_only_after_an_entry_of_its_own_term() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 2);
    cluster.elect_without_applying(2);
    sleep(5 * SECOND).await;
    assert_eq!(cluster.alive(), 1);
    let applying = async {
        sleep(SECOND).await;
        cluster.advance();
    };
    let (answer, ()) = tokio::join!(keep_alive(&cluster, 2, 1), applying);
    assert_eq!(answer, Ok(2));
    sleep(5 * SECOND).await;
    assert_eq!(cluster.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_there_is_an_answer_at_the_deadline() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 60);
    cluster.elect(0);
    for member in [1, 2] {
        let asked = Instant::now();
        assert_eq!(keep_alive(&cluster, member, 1).await, Err(LeaseError::NoLeader));
        assert!(asked.elapsed() >= REQUEST_TIMEOUT && asked.elapsed() < REQUEST_TIMEOUT + SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn leader_without_quorum_is_not_primary() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    cluster.grant(1, 60);
    cluster.elect_secretly(0, 1);
    let answer = keep_alive(&cluster, 1, 1).await;
    assert!(
        matches!(answer, Err(LeaseError::NotPrimary | LeaseError::Timeout)),
        "{answer:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn many_leases_that_end_together_are_gone_within_a_second() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    for id in 0..20_000 {
        cluster.grant(id, 5);
    }
    sleep(5 * SECOND).await;
    assert_eq!(cluster.alive(), 20_000);
    sleep(SECOND).await;
    assert_eq!(cluster.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn leader_lists_leases_by_remaining_time() {
    let cluster = Cluster::start(3);
    sleep(SECOND).await;
    for (id, ttl) in [(1, 30), (2, 10), (3, 20)] {
        cluster.grant(id, ttl);
    }
    sleep(SECOND).await;
    assert_eq!(cluster.keepers[0].leases_ordered(), [2, 3, 1]);
    assert_eq!(cluster.keepers[1].leases_ordered().len(), 3);
}
