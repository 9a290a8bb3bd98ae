//! A leader whose peer link goes dead while its clients still reach it: the majority goes on, the old leader neither
//! answers from the past nor acknowledges what it cannot replicate, and comes back by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::client::{put, single};
use crate::harness::kv_pairs;
use crate::load::{Load, Route, errors, fresh_writers};
use crate::members::{Members, wait_for};
use crate::netns::Networks;
use crate::settings::{MEMBERS, kelson};
use crate::verdict::judge;

/// How long the link stays dead: several election timeouts, and longer than a client's request may take.
const CUT_FOR: Duration = Duration::from_secs(9);

/// Writes that show that the majority goes on.
const WRITES: u64 = 500;

#[tokio::test]
async fn a_partitioned_leader_is_replaced_and_never_answers_from_the_past() {
    let networks = match Networks::make() {
        Ok(networks) => networks,
        Err(why) => {
            return println!("skipped: no network namespaces here, so no partition was tested ({why})");
        }
    };
    let cluster = Members::start_apart(&kelson(), networks).await;
    let old = cluster.leader(0, None).await;
    let survivor = (old + 1) % MEMBERS;
    cluster.client(old).put("z/marker", "before").await;
    let load = Load::start(&cluster, fresh_writers(), 0, Route::Pinned);
    load.shared.progress(WRITES).await;

    load.shared.fault_begins(old);
    load.shared.pulse.restart();
    let cut_at = Instant::now();
    cluster.cut(old);
    // Asked of the old leader from the first moment on, while it may still believe that it leads.
    let doubtful = cluster.client(old);
    let mut asked_early = tokio::task::JoinSet::new();
    asked_early.spawn(async move { doubtful.put_request(put("z/lonely", "x")).await });
    let new = cluster.leader(survivor, Some(old)).await;
    load.shared.progress(WRITES).await;
    let gap = load.shared.pulse.longest();
    let marked_at = cluster.client(survivor).put("z/marker", "after").await;

    let lonely = asked_early
        .join_next()
        .await
        .expect("one was asked")
        .expect("no panic");
    let refused = lonely.expect_err("nobody but the old leader has seen this put");
    let stale = cluster.client(old).range(single("z/marker")).await;
    assert!(stale.is_err(), "a linearizable read without a quorum: {stale:?}");
    let mut serializable = single("z/marker");
    serializable.serializable = true;
    let local = cluster
        .client(old)
        .range(serializable)
        .await
        .expect("needs no quorum");
    let found = kv_pairs(&local.kvs).pop().expect("the key exists");
    assert_eq!(found.value.as_ref(), b"before");
    // The length of the fault, not a wait for anything.
    tokio::time::sleep_until(cut_at + CUT_FOR).await;

    cluster.heal(old);
    let healed_at = Instant::now();
    let client = cluster.client(old);
    let answer = wait_for("a read through the old leader", || async {
        client.range(single("z/marker")).await.ok()
    })
    .await;
    let back_after = healed_at.elapsed();
    let pair = kv_pairs(&answer.kvs).pop().expect("the key exists");
    assert_eq!(
        (pair.value.as_ref(), pair.mod_revision),
        (b"after".as_slice(), marked_at),
        "a read from the past"
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
        "leader {old} cut off for {} s: {new} leads, {} ms without an OK write, {} ms from healing to a read through it, \
         its lonely put: {} {:?}; {} writes OK, {} failed at the others, {} at the one cut off ({})",
        CUT_FOR.as_secs(),
        gap.as_millis(),
        back_after.as_millis(),
        refused.code(),
        refused.message(),
        summary.succeeded,
        summary.unexcused,
        summary.excused,
        errors(&summary.writers)
    );
}
