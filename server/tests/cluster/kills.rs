//! kill -9 under load, again and again: nothing acknowledged is lost, nothing is done twice, all members agree.

use std::path::Path;
use std::time::Duration;

use crate::load::{Load, Route, Shared, errors, fresh_writers};
use crate::members::Members;
use crate::pulse::distribution;
use crate::settings::{MEMBERS, etcd, kelson, number};
use crate::verdict::judge;

/// Writes before a kill, and after it, that make a round worth its name.
const WRITES_AROUND: u64 = 1_000;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Follower,
    All,
}

#[tokio::test]
async fn a_killed_leader_loses_nothing() {
    rounds_of("kelson", &kelson(), Victim::Leader).await;
    if let Some(etcd) = etcd() {
        rounds_of("etcd", &etcd, Victim::Leader).await;
    }
}

#[tokio::test]
async fn a_killed_follower_loses_nothing() {
    rounds_of("kelson", &kelson(), Victim::Follower).await;
}

#[tokio::test]
async fn all_members_killed_at_once_lose_nothing() {
    rounds_of("kelson", &kelson(), Victim::All).await;
}

async fn rounds_of(name: &str, binary: &Path, victim: Victim) {
    let rounds = number("KELSON_KILL_ROUNDS", 2);
    let mut cluster = Members::start(binary, &[]).await;
    let mut writers = fresh_writers();
    let mut gaps = Vec::new();
    let mut found = (0, 0);
    for round in 0..rounds {
        let load = Load::start(&cluster, writers, round, Route::Roaming);
        load.shared.progress(WRITES_AROUND).await;
        gaps.push(kill(&mut cluster, victim, &load.shared).await);
        cluster.wait_until_healthy().await;
        load.shared.progress(WRITES_AROUND).await;
        writers = load.stop().await.writers;
        let reader = usize::try_from(round).expect("few rounds") % MEMBERS;
        let (revision, tally) = judge(&cluster.client(reader), &writers, round..=round).await;
        found = (found.0 + tally.acknowledged, found.1 + tally.unknown);
        cluster.assert_equal_hashes(revision).await;
    }
    for member in 0..MEMBERS {
        judge(&cluster.client(member), &writers, 0..=rounds.saturating_sub(1)).await;
    }
    println!(
        "{name}: {victim:?} killed {rounds} times: {} acknowledged unique puts, 0 lost; {} of unknown outcome had happened",
        found.0, found.1
    );
    println!(
        "{name}: {victim:?} killed: longest time without an OK write: {}",
        distribution(gaps)
    );
    println!("{name}: {victim:?} killed: errors: {}", errors(&writers));
}

/// Kills, waits until writes go on, and starts the killed again. Returns the longest time without a write meanwhile;
/// when all members are killed it includes their start.
async fn kill(cluster: &mut Members, victim: Victim, shared: &Shared) -> Duration {
    let leader = cluster.leader(0, None).await;
    let victims: Vec<usize> = match victim {
        Victim::Leader => vec![leader],
        Victim::Follower => vec![(leader + 1) % MEMBERS],
        Victim::All => (0..MEMBERS).collect(),
    };
    shared.pulse.restart();
    victims.iter().for_each(|&index| cluster.kill(index));
    if victim == Victim::All {
        victims.iter().for_each(|&index| cluster.spawn(index));
        cluster.wait_until_healthy().await;
    } else if victim == Victim::Leader {
        // Answers that were on their way do not count as going on.
        cluster.leader((leader + 1) % MEMBERS, Some(leader)).await;
    }
    shared.progress(WRITES_AROUND).await;
    let gap = shared.pulse.longest();
    if victim != Victim::All {
        victims.iter().for_each(|&index| cluster.spawn(index));
    }
    gap
}
