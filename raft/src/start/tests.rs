use bytes::Bytes;
use kelson_storage::limits::CACHE_BYTES_DEFAULT;
use kelson_storage::revision::LogPosition;
use kelson_storage::wal::WalEntry;

use super::*;

fn config(data_dir: &Path) -> NodeConfig {
    NodeConfig {
        id: 1,
        cluster_id: 7,
        data_dir: data_dir.to_owned(),
        wal_dir: None,
        bootstrap: Vec::new(),
        listen_peer: Vec::new(),
        heartbeat: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5_000,
        max_wals: 5,
        cache_bytes: CACHE_BYTES_DEFAULT,
        max_request_bytes: 1_572_864,
        pre_vote: true,
        warning_apply_duration: Duration::from_secs(1),
        unsafe_no_fsync: true,
    }
}

fn at(index: u64) -> LogPosition {
    LogPosition { term: 1, index }
}

/// What a member leaves whose log has the entries below `log_end` and whose database has applied all up to `applied`,
/// written when the log was on disk up to `log_held`.
fn leave(config: &NodeConfig, log_end: u64, log_held: u64, applied: u64) {
    let mut opened = open(Environment::real(config), config).unwrap();
    for index in 0..log_end {
        let payload = Bytes::from_static(b"entry");
        let position = at(index);
        opened.wal.append(&WalEntry { position, payload }).unwrap();
    }
    opened.wal.flush(true).unwrap();
    for index in 0..=applied {
        opened.store.apply_blank(at(index)).unwrap();
    }
    let mut checkpointer = opened.store.checkpointer();
    checkpointer.log_ends(log_held);
    checkpointer.step(true).unwrap();
}

/// A machine lost its power after the database had been synced and before the log was, with entries in both that the
/// others had committed. The member had acknowledged none of them, and refused to start for good: found by seed 2 of
/// the simulation.
#[test]
fn a_database_ahead_of_a_log_that_has_lost_nothing_is_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let config = config(scratch.path());
    leave(&config, 4, 3, 5);
    let opened = open(Environment::real(&config), &config).unwrap();
    assert_eq!(opened.recovered.last, Some(at(5)));
    assert_eq!(opened.recovered.purged, Some(at(5)));
    assert!(!opened.is_new);
    drop(opened);
    let again = open(Environment::real(&config), &config).unwrap();
    assert_eq!(again.recovered.last, Some(at(5)), "the log has followed durably");
}

#[test]
fn a_log_that_has_lost_what_it_held_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let config = config(scratch.path());
    leave(&config, 3, 4, 5);
    let refusal = open(Environment::real(&config), &config).err().unwrap();
    assert!(
        refusal.to_string().contains("its newest segments are missing"),
        "{refusal}"
    );
}
