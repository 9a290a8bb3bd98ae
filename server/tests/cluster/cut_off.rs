//! A leader that is cut off while it lives: the others go on without it, and it never answers from the past.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::client::single;
use crate::harness::kv_pairs;
use crate::load::{Load, Route, errors, fresh_writers};
use crate::members::Members;
use crate::settings::{MEMBERS, kelson};
use crate::verdict::judge;

/// How long the leader does nothing: several election timeouts.
const STOPPED_FOR: Duration = Duration::from_secs(5);

/// Writes that show that the majority goes on.
const WRITES: u64 = 500;

#[tokio::test]
async fn a_stopped_leader_is_replaced_and_never_answers_from_the_past() {
    let cluster = Members::start(&kelson(), &[]).await;
    let old = cluster.leader(0, None).await;
    let survivor = (old + 1) % MEMBERS;
    cluster.client(old).put("z/marker", "before").await;
    let load = Load::start(&cluster, fresh_writers(), 0, Route::Pinned);
    load.shared.progress(WRITES).await;

    load.shared.fault_begins(old);
    load.shared.pulse.restart();
    let stopped_at = Instant::now();
    cluster.stop(old);
    let new = cluster.leader(survivor, Some(old)).await;
    load.shared.progress(WRITES).await;
    let gap = load.shared.pulse.longest();
    let marked_at = cluster.client(survivor).put("z/marker", "after").await;
    // A connection of its own: what is asked here waits in the socket and is read first of all after the pause.
    let witness = cluster.client(old);
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { witness.range(single("z/marker")).await });
    // The length of the fault, not a wait for anything.
    tokio::time::sleep_until(stopped_at + STOPPED_FOR).await;
    cluster.resume(old);

    let mut answers = Vec::new();
    while !cluster.is_healthy(old).await || answers.is_empty() {
        answers.push(cluster.client(old).range(single("z/marker")).await);
    }
    answers.extend(waiting.join_all().await);
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    assert!(!answers.is_empty(), "the old leader never answered");
    for answer in answers {
        let pair = kv_pairs(&answer.kvs).pop().expect("the key exists");
        assert_eq!(
            (pair.value.as_ref(), pair.mod_revision),
            (b"after".as_slice(), marked_at),
            "a read from the past"
        );
    }
    assert_eq!(
        cluster.leader(old, None).await,
        cluster.leader(survivor, None).await
    );
    load.shared.fault_ends(old);
    load.shared.progress(WRITES).await;
    let summary = load.stop().await;
    assert_eq!(summary.unexcused, 0, "{}", errors(&summary.writers));
    let mut revision = 0;
    for member in 0..MEMBERS {
        (revision, _) = judge(&cluster.client(member), &summary.writers, 0..=0).await;
    }
    cluster.assert_equal_hashes(revision).await;
    println!(
        "leader {old} stopped for {} s: {new} leads, {} ms without an OK write, {} writes OK, {} failed at the others, {} at the stopped one ({})",
        STOPPED_FOR.as_secs(),
        gap.as_millis(),
        summary.succeeded,
        summary.unexcused,
        summary.excused,
        errors(&summary.writers)
    );
}
