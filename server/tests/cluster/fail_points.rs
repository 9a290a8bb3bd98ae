//! Members that die at a chosen instruction: between a write and its sync, between a sync and its answer, in the middle
//! of a checkpoint, of a compaction, of a snapshot. Nothing acknowledged is lost, and every start succeeds.

use std::time::Duration;

use kelson_storage::fail_point::POINTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::client::put;
use crate::harness::watching::on_range;
use crate::left_behind::{SHORT_LOG, write_past};
use crate::load::{Load, Route, fresh_writers};
use crate::members::{Members, PATIENCE, wait_for};
use crate::settings::{MEMBERS, kelson};
use crate::verdict::judge;

/// Writes before a point is armed and after its member is back.
const WRITES_AROUND: u64 = 300;

/// Revisions that compactions leave.
const HISTORY_KEPT: i64 = 100;

/// Values that fill log segments quickly, and how many of them fill one for certain.
const LARGE_VALUE_BYTES: usize = 1024 * 1024;
const LARGE_VALUES: usize = 70;

/// What leads to a point, besides the load of writes that is there anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing else.
    Writes,
    /// Nothing else, on the leader.
    Leading,
    /// A compaction.
    Compaction,
    /// A watcher on the member.
    Watcher,
    /// So many bytes that a log segment is full.
    Bytes,
}

/// Points that a member passes while it serves, how often it passes them before it dies, and what leads there.
const WHILE_SERVING: &[(&str, u32, Way)] = &[
    ("raftBeforeSave", 20, Way::Writes),
    ("walBeforeSync", 20, Way::Leading),
    ("walAfterSync", 20, Way::Writes),
    ("raftAfterSave", 20, Way::Leading),
    ("raftBeforeLeaderSend", 20, Way::Leading),
    ("raftBeforeFollowerSend", 20, Way::Writes),
    ("beforeApplyOneEntryNormal", 20, Way::Writes),
    ("backendBeforeCommit", 5, Way::Leading),
    ("backendAfterCommit", 5, Way::Writes),
    ("raftAfterWALRelease", 0, Way::Writes),
    ("compactBeforeCommitScheduledCompact", 0, Way::Compaction),
    ("compactAfterCommitScheduledCompact", 0, Way::Compaction),
    ("compactBeforeCommitBatch", 0, Way::Compaction),
    ("compactAfterCommitBatch", 0, Way::Compaction),
    ("compactBeforeSetFinishedCompact", 0, Way::Compaction),
    ("compactAfterSetFinishedCompact", 0, Way::Compaction),
    ("beforeSendWatchResponse", 10, Way::Watcher),
    ("walBeforeRoll", 0, Way::Bytes),
    ("walAfterRoll", 0, Way::Bytes),
];

/// Points on the way of a snapshot into a member, in order.
const DURING_A_SNAPSHOT: &[&str] = &[
    "raftBeforeSaveSnap",
    "raftAfterSaveSnap",
    "raftBeforeApplySnap",
    "applyBeforeOpenSnapshot",
    "raftAfterApplySnap",
];

/// Points that a member passes when its cluster is founded.
const AT_THE_FOUNDING: &[&str] = &["beforeApplyOneConfChange"];

/// One HTTP request to a member's fail points: status and body.
async fn ask(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("fail points listen");
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("fail points read");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("fail points answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// Waits until the member has died at this point.
async fn dies_at(cluster: &mut Members, victim: usize, point: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = cluster.ended(victim) {
            break status;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the member lives; {point} was met {} times",
            ask(cluster.fail_points(victim), "GET", &format!("{point}/count"), "")
                .await
                .1
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(!status.success(), "{point}: {status}");
    let died_of = format!("failpoint panic: {point}");
    assert!(
        cluster.log(victim).contains(&died_of),
        "it did not die of {point}: {status}"
    );
}

#[tokio::test]
async fn a_member_that_dies_at_any_point_loses_nothing() {
    let mut cluster = Members::start(&kelson(), &SHORT_LOG).await;
    let mut writers = fresh_writers();
    for (round, &(point, passes, way)) in WHILE_SERVING.iter().enumerate() {
        let round = round as u64;
        let load = Load::start(&cluster, writers, round, Route::Roaming);
        load.shared.progress(WRITES_AROUND).await;
        let leader = cluster.leader(0, None).await;
        let victim = match way {
            Way::Leading => leader,
            _ => (leader + 1) % MEMBERS,
        };
        let witness = (victim + 1) % MEMBERS;
        let mut watching = cluster.client(victim).watch();
        if way == Way::Watcher {
            watching.created(on_range("u/", "u0")).await;
        }
        let terms = match passes {
            0 => "panic".to_owned(),
            passes => format!("{passes}*off->panic"),
        };
        assert_eq!(
            ask(cluster.fail_points(victim), "PUT", point, &terms).await.0,
            204
        );
        match way {
            Way::Compaction => compact(&cluster, witness).await,
            Way::Bytes => write_much(&cluster, witness).await,
            Way::Writes | Way::Leading | Way::Watcher => {}
        }
        dies_at(&mut cluster, victim, point).await;
        cluster.spawn(victim);
        cluster.wait_until_healthy().await;
        load.shared.progress(WRITES_AROUND).await;
        writers = load.stop().await.writers;
        if way == Way::Bytes {
            // Or all of it would be hashed.
            compact(&cluster, witness).await;
        }
        let (revision, tally) = judge(&cluster.client(victim), &writers, round..=round).await;
        cluster.assert_equal_hashes(revision).await;
        println!(
            "{point}: member {victim} died of it and came back; {} acknowledged puts, 0 lost; {} of unknown outcome \
             had happened",
            tally.acknowledged, tally.unknown
        );
    }
}

async fn compact(cluster: &Members, through: usize) {
    let client = cluster.client(through);
    let revision = client.revision().await - HISTORY_KEPT;
    client.compact(revision).await.expect("compaction succeeds");
}

/// Fills a log segment. Puts may fail: a member is about to die.
async fn write_much(cluster: &Members, through: usize) {
    let client = cluster.client(through);
    let value = "x".repeat(LARGE_VALUE_BYTES);
    for _ in 0..LARGE_VALUES {
        let _ = client.put_request(put("x/large", &value)).await;
    }
}

/// The member is so far behind that it is sent a snapshot, and dies on each step of it in turn.
#[tokio::test]
async fn a_member_that_dies_while_it_takes_a_snapshot_takes_it_the_next_time() {
    let mut cluster = Members::start(&kelson(), &SHORT_LOG).await;
    let away = (cluster.leader(0, None).await + 1) % MEMBERS;
    for point in DURING_A_SNAPSHOT {
        write_past(&mut cluster, away, &format!("k/{point}")).await;
        cluster.spawn_armed(away, &format!("{point}=panic"));
        dies_at(&mut cluster, away, point).await;
        cluster.spawn(away);
        cluster.wait_until_healthy().await;
        let revision = cluster.client(away).revision().await;
        cluster.assert_equal_hashes(revision).await;
        let left = unfinished(&cluster.data(away).join("member/snap"));
        assert!(left.is_empty(), "{point} left {left:?} behind");
        println!("{point}: the member died of it and came back, hashes equal at {revision}");
    }
}

/// Names of files that are on their way to become something.
fn unfinished(directory: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).expect("the directory of the database");
    names
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name != "db")
        .collect()
}

#[tokio::test]
async fn a_founder_that_dies_joins_the_others_when_it_is_back() {
    for point in AT_THE_FOUNDING {
        let mut cluster = Members::prepared(&kelson(), &[]).await;
        cluster.spawn_armed(0, &format!("{point}=panic"));
        (1..MEMBERS).for_each(|index| cluster.spawn(index));
        dies_at(&mut cluster, 0, point).await;
        cluster.spawn(0);
        cluster.wait_until_healthy().await;
        let revision = cluster.client(0).put("k", "v").await;
        cluster.assert_equal_hashes(revision).await;
    }
}

/// While a write to the database takes its time, more comes than memory may hold (128 MiB): apply waits for it, and
/// everything is there in the end.
#[tokio::test]
async fn apply_waits_for_a_database_that_does_not_keep_up() {
    const MARK: &str = "apply_waited_for_database";
    const PUTS_MAX: usize = 1000;
    let cluster = Members::start(&kelson(), &[]).await;
    let each_commit = async |action: &'static str| {
        for member in 0..MEMBERS {
            let address = cluster.fail_points(member);
            assert_eq!(ask(address, "PUT", "backendBeforeCommit", action).await.0, 204);
        }
    };
    each_commit("sleep(12000)").await;
    let client = cluster.client(0);
    let value = "x".repeat(1_500_000);
    let (mut puts, mut revision) = (0, 0);
    while !cluster.has_reached(MARK) {
        assert!(puts < PUTS_MAX, "{PUTS_MAX} puts, and apply never waited");
        revision = client.put(&format!("x/{puts}"), &value).await;
        puts += 1;
    }
    each_commit("off").await;
    cluster.assert_equal_hashes(revision).await;
    for n in 0..puts {
        assert!(client.get(&format!("x/{n}")).await.is_some(), "x/{n}");
    }
}

#[test]
fn every_point_is_died_at() {
    let mut died: Vec<&str> = WHILE_SERVING.iter().map(|(point, ..)| *point).collect();
    died.extend(DURING_A_SNAPSHOT);
    died.extend(AT_THE_FOUNDING);
    died.sort_unstable();
    let all: Vec<&str> = POINTS.iter().map(|(point, _)| *point).collect();
    assert_eq!(died, all);
}

#[tokio::test]
async fn fail_points_speak_the_language_of_gofail() {
    let cluster = Members::start(&kelson(), &[]).await;
    let address = cluster.fail_points(0);
    let (status, list) = ask(address, "GET", "", "").await;
    assert_eq!(status, 200);
    assert_eq!(list.lines().count(), POINTS.len());
    assert!(list.lines().any(|line| line == "walBeforeSync="), "{list}");

    assert_eq!(ask(address, "GET", "walBeforeSync", "").await.0, 404, "not armed");
    assert_eq!(ask(address, "PUT", "walBeforeSync", "sleep(1)").await.0, 204);
    assert_eq!(
        ask(address, "GET", "walBeforeSync", "").await,
        (200, "sleep(1)\n".to_owned())
    );
    cluster.client(0).put("k", "v").await;
    wait_for("the point to be met", || async {
        let (_, count) = ask(address, "GET", "walBeforeSync/count", "").await;
        (count != "0").then_some(())
    })
    .await;
    assert_eq!(ask(address, "DELETE", "walBeforeSync", "").await.0, 204);
    assert_eq!(ask(address, "GET", "walBeforeSync", "").await.0, 404);
    assert_eq!(ask(address, "PUT", "walBeforeSync", "explode").await.0, 400);
    assert_eq!(ask(address, "PUT", "nowhere", "panic").await.0, 404);
}
