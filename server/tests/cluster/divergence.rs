//! A member whose state is not the others': it finds out by itself and stops, and the others go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kelson_storage::limits::{CacheBudget, WAL_SEGMENT_BYTES};
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{Store, StoreOptions};
use kelson_storage::wal::{Wal, WalOptions};
use tokio::time::Instant;

use crate::load::{Load, Route, errors, fresh_writers};
use crate::members::{Members, wait_for};
use crate::settings::{MEMBERS, kelson};
use crate::verdict::judge;

/// Writes before the fault go on for longer than the database may lag behind, so that there is a checkpoint, however
/// quick they are. It used to be a number of writes, and a faster server was killed before its first checkpoint each time.
const LOADED: Duration = Duration::from_secs(3);
/// Writes between two looks at the clock.
const WRITES: u64 = 500;

/// Longest until a member that differs has stopped. Source: reliability G7.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// Times a member is killed in the hope that its log is ahead of its checkpoint.
const ATTEMPTS: u64 = 20;

#[tokio::test]
async fn a_member_whose_state_differs_stops_and_the_others_go_on() {
    let mut cluster = Members::start(&kelson(), &[]).await;
    let victim = (cluster.leader(0, None).await + 1) % MEMBERS;
    let header = cluster.status(victim).await.and_then(|status| status.header);
    let ids = header
        .map(|header| (header.cluster_id, header.member_id))
        .expect("a member of a healthy cluster answers");
    let mut writers = fresh_writers();
    let mut skipped = None;
    for round in 0..ATTEMPTS {
        let load = Load::start(&cluster, writers, round, Route::Pinned);
        let loaded = Instant::now();
        while loaded.elapsed() < LOADED {
            load.shared.progress(WRITES).await;
        }
        load.shared.fault_begins(victim);
        cluster.kill(victim);
        // Nobody may ask the member that is made to differ: until it has found out, it answers wrongly.
        let summary = load.stop().await;
        assert_eq!(summary.unexcused, 0, "{}", errors(&summary.writers));
        writers = summary.writers;
        skipped = skip_one_entry(cluster.data(victim), ids);
        if skipped.is_some() {
            break;
        }
        cluster.spawn(victim);
        cluster.wait_until_healthy().await;
    }
    let skipped = skipped.expect("a killed member's checkpoint is behind its log");
    cluster.spawn(victim);
    let started = Instant::now();
    let status = wait_for("the member that differs to stop", || {
        let ended = cluster.ended(victim);
        async move { ended }
    })
    .await;
    let found_after = started.elapsed();
    assert!(!status.success(), "{status}");
    assert!(found_after < FOUND_WITHIN, "it went on for {found_after:?}");
    let said = cluster.log(victim);
    assert!(said.contains("is not the one of member"), "{said}");

    let mut revision = 0;
    for member in (0..MEMBERS).filter(|&member| member != victim) {
        (revision, _) = judge(&cluster.client(member), &writers, 0..=ATTEMPTS).await;
    }
    cluster.assert_equal_hashes(revision).await;
    println!(
        "a member that skipped log entry {} stopped {} ms after its start",
        skipped.index,
        found_after.as_millis()
    );
}

/// Makes the database of a dead member hold one log entry as applied that it has not applied. None if the log has no
/// entry beyond the checkpoint: then the member would be refused at its start instead.
fn skip_one_entry(data: &Path, ids: (u64, u64)) -> Option<LogPosition> {
    let options = StoreOptions {
        database: data.join("member/snap/db"),
        cache: CacheBudget::default(),
    };
    let mut store =
        Store::open(Arc::new(RealDisk::new()), options).expect("a killed member's database opens");
    let applied = store.applied()?;
    let next = LogPosition {
        index: applied.index + 1,
        ..applied
    };
    (next <= newest_of_log(data, ids)?).then(|| {
        store.apply_blank(next).expect("the position follows");
        store.checkpointer().step(true).expect("the disk is sound");
        next
    })
}

/// The newest position in a dead member's log.
fn newest_of_log(data: &Path, (cluster_id, member_id): (u64, u64)) -> Option<LogPosition> {
    let options = WalOptions {
        directory: data.join("member/wal"),
        cluster_id,
        member_id,
        segment_bytes: WAL_SEGMENT_BYTES,
    };
    let (_log, recovered) =
        Wal::open(Arc::new(RealDisk::new()), options, false).expect("a killed member's log opens");
    recovered.last
}
