//! A member that was away for longer than the log remembers comes back through a snapshot.

use kelson_proto::etcdserverpb as pb;

use crate::harness::client::put;
use crate::harness::watching::{events, on_range};
use crate::members::{Members, wait_for};
use crate::settings::{MEMBERS, kelson};

/// Writes before it is looked whether the log has been purged. One at a time, so that each is an entry of its own.
const WRITES_AWAY: usize = 500;

/// So many times at most. A durable checkpoint, and the purge with it, comes about once a second.
const PARTS_MAX: usize = 100;

/// What a leader logs when it lets go of entries, before the last index of which it does.
const PURGED: &str = "\"purge_index\":";

/// Purges past the member's place that make sure: one waits while entries are on their way to the member, which they
/// are until the next attempt to reach it has failed.
const PURGES: usize = 3;

/// What a member logs when it takes the leader's state for its own. Tests of the process may read its log: nothing
/// else tells a snapshot from a long catch-up.
const INSTALLED: &str = "installed a snapshot from the leader";

/// Flags of members whose log reaches back for a moment only.
pub const SHORT_LOG: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=50"];

/// What a watcher from the first revision saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Revisions(Vec<i64>),
    CompactedAt(i64),
}

#[tokio::test]
async fn a_member_left_behind_comes_back_through_a_snapshot() {
    let mut cluster = Members::start(&kelson(), &SHORT_LOG).await;
    let away = (cluster.leader(0, None).await + 1) % MEMBERS;
    let writer = cluster.client((away + 1) % MEMBERS);
    let first = writer.put("k/before", "").await;
    write_past(&mut cluster, away, "k/away").await;

    let last = come_back(&mut cluster, away).await;
    println!(
        "left behind: {} entries behind: back through a snapshot, hashes equal at {last}",
        last - first
    );
    let seen = watch(&cluster, away, first, last).await;
    assert_eq!(seen, Seen::Revisions((first..=last).collect()));
    println!(
        "left behind: a watcher on the member from revision {first} saw all {} events",
        last - first + 1
    );

    // Once more, with a compaction that the member has not seen.
    write_past(&mut cluster, away, "k/again").await;
    let survivor = cluster.client((away + 1) % MEMBERS);
    let compacted = survivor.revision().await - 10;
    survivor.compact(compacted).await.expect("compaction succeeds");
    write(&survivor, "k/later").await;
    let last = come_back(&mut cluster, away).await;
    let seen = watch(&cluster, away, first, last).await;
    assert_eq!(seen, Seen::CompactedAt(compacted));
    println!(
        "left behind: after a compaction the watcher from {first} was cancelled with compact revision {compacted}"
    );
    let seen = watch(&cluster, away, compacted + 1, last).await;
    assert_eq!(seen, Seen::Revisions((compacted + 1..=last).collect()));
}

/// Kills the member and writes until the leader's log does not reach back to where it stood.
pub async fn write_past(cluster: &mut Members, away: usize, prefix: &str) {
    let stood = cluster
        .status(away)
        .await
        .expect("a member in good health answers")
        .raft_index;
    cluster.kill(away);
    let leader = cluster.leader((away + 1) % MEMBERS, Some(away)).await;
    let client = cluster.client(leader);
    for part in 0.. {
        assert!(part < PARTS_MAX, "the log is never purged");
        write(&client, &format!("{prefix}/{part}")).await;
        if purges(&cluster.log(leader), stood) >= PURGES {
            return;
        }
    }
}

/// How often a leader let go of entries past `index`, by its log.
fn purges(log: &str, index: u64) -> usize {
    let purged = log.split(PURGED).skip(1).map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<u64>().expect("the index is a number")
    });
    purged.filter(|purged| *purged > index).count()
}

async fn write(client: &crate::harness::Client, prefix: &str) {
    for n in 0..WRITES_AWAY {
        let request = put(&format!("{prefix}/{n:05}"), "v");
        client
            .put_request(request)
            .await
            .expect("two of three are a majority");
    }
}

/// Starts the member again; returns the newest revision, at which all hash alike.
async fn come_back(cluster: &mut Members, away: usize) -> i64 {
    let installed = |cluster: &Members| cluster.log(away).matches(INSTALLED).count();
    let before = installed(cluster);
    cluster.spawn(away);
    cluster.wait_until_healthy().await;
    wait_for("a snapshot to be installed", || async {
        (installed(cluster) > before).then_some(())
    })
    .await;
    let revision = cluster.client(away).revision().await;
    cluster.assert_equal_hashes(revision).await;
    revision
}

/// Watches `k/` on one member from a revision on, up to `last` or a cancel.
async fn watch(cluster: &Members, member: usize, from: i64, last: i64) -> Seen {
    let mut watching = cluster.client(member).watch();
    let request = pb::WatchCreateRequest {
        start_revision: from,
        ..on_range("k/", "k0")
    };
    let reply = watching.create(request).await;
    assert!(reply.created, "{reply:?}");
    let mut revisions = Vec::new();
    while revisions.last() != Some(&last) {
        let reply = watching.next().await;
        if reply.canceled {
            assert!(revisions.is_empty(), "cancelled after {revisions:?}");
            return Seen::CompactedAt(reply.compact_revision);
        }
        let seen = events(&reply);
        revisions.extend(
            seen.iter()
                .map(|event| event.kv.as_ref().expect("a pair").mod_revision),
        );
    }
    Seen::Revisions(revisions)
}
