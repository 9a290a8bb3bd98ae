//! A change of leader is no error: writers that talk to a member which lives see a pause, and nothing else.

use std::path::Path;
use std::time::Duration;

use kelson_proto::etcdserverpb::MoveLeaderRequest;
use tokio::time::Instant;

use crate::harness::watching::on_key;
use crate::load::{Load, Route, Summary, errors, fresh_writers};
use crate::members::{Members, wait_for};
use crate::pulse::distribution;
use crate::settings::{MEMBERS, WRITERS, etcd, kelson, number};
use crate::verdict::judge;

/// Time between two moves. Part of the load, not a wait for anything.
const MOVE_EVERY: Duration = Duration::from_secs(2);

/// Writes between two faults.
const WRITES_BETWEEN: u64 = 1_000;

#[tokio::test]
async fn a_moved_leader_fails_no_write() {
    let summary = move_leaders("kelson", &kelson()).await;
    assert_eq!(summary.unexcused, 0, "{}", errors(&summary.writers));
    if let Some(etcd) = etcd() {
        move_leaders("etcd", &etcd).await;
    }
}

async fn move_leaders(name: &str, binary: &Path) -> Summary {
    let length = Duration::from_secs(number("KELSON_MOVE_SECONDS", 8));
    let mut cluster = Members::start(binary, &[]).await;
    let load = Load::start(&cluster, fresh_writers(), 0, Route::Pinned);
    let end = Instant::now() + length;
    let (mut moves, mut refused, mut gaps) = (0, Vec::new(), Vec::new());
    while Instant::now() < end {
        let next = Instant::now() + MOVE_EVERY;
        load.shared.pulse.restart();
        match move_leader(&cluster).await {
            Ok(()) => moves += 1,
            Err(text) => refused.push(text),
        }
        load.shared.progress(WRITES_BETWEEN).await;
        gaps.push(load.shared.pulse.longest());
        tokio::time::sleep_until(next).await;
    }
    let summary = finish(&mut cluster, load).await;
    println!(
        "{name}: leader moved {moves} times in {} s under {WRITERS} writers: {} writes OK, {} failed, moves refused: {refused:?}",
        length.as_secs(),
        summary.succeeded,
        summary.unexcused
    );
    println!(
        "{name}: leader moved: longest time without an OK write: {}",
        distribution(gaps)
    );
    println!("{name}: leader moved: errors: {}", errors(&summary.writers));
    assert!(moves > 0, "the leader never moved");
    summary
}

/// Moves leadership to the next member and waits until that one knows it.
async fn move_leader(cluster: &Members) -> Result<(), String> {
    let leader = cluster.leader(0, None).await;
    let heir = (leader + 1) % MEMBERS;
    let target_id = wait_for("the id of a member", || async {
        Some(cluster.status(heir).await?.header?.member_id)
    })
    .await;
    let request = MoveLeaderRequest { target_id };
    let reply = cluster.client(leader).maintenance().move_leader(request).await;
    reply.map_err(|status| status.message().to_owned())?;
    cluster.leader(heir, Some(leader)).await;
    Ok(())
}

/// Its clients come back to a cluster that has a leader. A leader that was stopped dropped them first, and the caches among
/// them, whose streams need a leader, were refused for as long as there was none.
#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_before_it_drops_its_clients() {
    let mut cluster = Members::start(&kelson(), &[]).await;
    let leader = cluster.leader(0, None).await;
    let mut watching = cluster.client(leader).watch();
    watching.created(on_key("k")).await;
    let before = cluster.status(leader).await.expect("a status").leader;
    cluster.terminate(leader);
    while let Some(Ok(_)) = watching.next_or_end().await {}
    let mut leaders = Vec::new();
    for other in (0..MEMBERS).filter(|index| *index != leader) {
        leaders.push(cluster.status(other).await.expect("a status").leader);
    }
    assert!(
        leaders.iter().all(|id| *id != 0) && leaders.iter().any(|id| *id != before),
        "the others follow {leaders:x?} when {before:x} has dropped its clients"
    );
    wait_for("its end", || std::future::ready(cluster.ended(leader))).await;
}

#[tokio::test]
async fn a_killed_leader_fails_no_write_of_the_other_members_clients() {
    let summary = kill_leaders("kelson", &kelson()).await;
    assert_eq!(summary.unexcused, 0, "{}", errors(&summary.writers));
    if let Some(etcd) = etcd() {
        kill_leaders("etcd", &etcd).await;
    }
}

async fn kill_leaders(name: &str, binary: &Path) -> Summary {
    let kills = number("KELSON_LEADER_KILLS", 2);
    let mut cluster = Members::start(binary, &[]).await;
    let load = Load::start(&cluster, fresh_writers(), 0, Route::Pinned);
    let mut gaps = Vec::new();
    for _ in 0..kills {
        load.shared.progress(WRITES_BETWEEN).await;
        let leader = cluster.leader(0, None).await;
        load.shared.fault_begins(leader);
        load.shared.pulse.restart();
        cluster.kill(leader);
        cluster.leader((leader + 1) % MEMBERS, Some(leader)).await;
        load.shared.progress(WRITES_BETWEEN).await;
        gaps.push(load.shared.pulse.longest());
        cluster.spawn(leader);
        cluster.wait_until_healthy().await;
        load.shared.fault_ends(leader);
    }
    let summary = finish(&mut cluster, load).await;
    println!(
        "{name}: leader killed {kills} times under {WRITERS} pinned writers: {} writes OK, {} failed at living members, {} at killed ones",
        summary.succeeded, summary.unexcused, summary.excused
    );
    println!(
        "{name}: leader killed, pinned: longest time without an OK write: {}",
        distribution(gaps)
    );
    println!(
        "{name}: leader killed, pinned: errors: {}",
        errors(&summary.writers)
    );
    summary
}

/// Stops the writers and compares what they were told with what every member holds.
async fn finish(cluster: &mut Members, load: Load) -> Summary {
    load.shared.progress(WRITES_BETWEEN).await;
    let summary = load.stop().await;
    cluster.wait_until_healthy().await;
    let mut revision = 0;
    for member in 0..MEMBERS {
        (revision, _) = judge(&cluster.client(member), &summary.writers, 0..=0).await;
    }
    cluster.assert_equal_hashes(revision).await;
    summary
}
