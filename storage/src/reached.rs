//! [`reached!`](crate::reached!): marks on paths that are taken rarely, so that a test campaign can say which of them
//! it has taken at all. A path that no campaign takes is a path that nothing tests.
//!
//! Each mark counts in memory ([`counts`]); with `KELSON_REACHED` in the environment each hit is also a line with the
//! mark's name at the end of that file, at once, so that the count outlives a `kill -9`, and members and runs can share
//! the file. Builds without debug assertions count nothing.

/// Every mark and where it is.
pub const MARKS: &[(&str, &str)] = &[
    (
        "apply_second_copy_dropped",
        "a command that had been applied came again",
    ),
    (
        "apply_waited_for_database",
        "more rows were in memory than may be, and apply waited",
    ),
    (
        "campaign_on_evidence",
        "a member stood because the leader's connection broke",
    ),
    ("campaign_on_silence", "a member stood because it heard no leader"),
    (
        "checkpoint_of_replaced_state",
        "a checkpoint was under way while a snapshot replaced the state",
    ),
    (
        "commands_sent_again",
        "commands without an outcome were sent again",
    ),
    (
        "compaction_began_again",
        "a start found a compaction that was not finished",
    ),
    (
        "compaction_in_bites",
        "a compaction needed more than one transaction",
    ),
    (
        "compaction_looked_without_commit",
        "a bite of a compaction only read",
    ),
    (
        "compaction_of_tombstone_at_target",
        "a compaction kept a tombstone that stood at its revision",
    ),
    (
        "compaction_waited_for_read",
        "a compaction deleted nothing for a while because a long read needed it",
    ),
    ("damage_refused", "bytes on disk were not as written"),
    (
        "free_space_given_back",
        "blocks that the engine had no use for became holes in its file",
    ),
    (
        "index_file_bitten_without_commit",
        "a bite of an index file left the database as it was",
    ),
    (
        "index_file_given_up",
        "an index file could not be written and was done without",
    ),
    (
        "index_file_refused",
        "a start did not trust the index file and read all rows",
    ),
    ("index_file_taken", "a start took the index from the index file"),
    ("index_file_written", "an index file was written"),
    (
        "leader_counts_leases_afresh",
        "a new leader took over leases that exist",
    ),
    (
        "lease_ended_with_keys",
        "a lease that had keys was counted out and they went with it",
    ),
    (
        "lease_expiry_of_former_term",
        "the expiry of a leader that was replaced was rejected",
    ),
    (
        "lease_expiry_undecided",
        "an expiry was refused or its fate is unknown, and will be proposed again",
    ),
    (
        "lease_renewal_too_late",
        "a keepalive met an expiry that was on its way",
    ),
    ("log_purged", "a durable checkpoint let the log forget entries"),
    (
        "member_differs",
        "another member holds another state at the same position",
    ),
    ("nospace_refused_at_apply", "an alarm made apply refuse a write"),
    (
        "outcome_unknown",
        "a client was told that the fate of its command is unknown",
    ),
    (
        "peer_refused",
        "a peer of another cluster, member or version was turned away",
    ),
    (
        "read_confirmed_by_word",
        "a follower's vote alone confirmed its reads",
    ),
    (
        "read_of_compacted",
        "a read below the compacted revision was refused",
    ),
    ("read_of_future", "a read above the present revision was refused"),
    (
        "read_of_the_past",
        "a read below the present revision was answered",
    ),
    (
        "read_round_late",
        "a read barrier took too long and was asked for again",
    ),
    (
        "read_round_not_confirmed",
        "a leader could not confirm that it leads",
    ),
    (
        "read_round_refused",
        "a leader that hands over, or that nobody hears, refused a round at once",
    ),
    ("read_waited_for_apply", "a confirmed read had to wait for apply"),
    (
        "replication_from_file",
        "a follower was so far behind that its entries came from the log file",
    ),
    (
        "rows_checked_after_start",
        "all rows were read after a start from the index file",
    ),
    (
        "snapshot_installed",
        "a received database replaced this member's state",
    ),
    (
        "snapshot_leftover_removed",
        "a start found a snapshot file that was never put in place",
    ),
    (
        "snapshot_refused",
        "a received image was not one, or its transfer broke",
    ),
    (
        "snapshot_sent",
        "a follower was so far behind that it was sent the database",
    ),
    (
        "start_replays_entries",
        "a start found committed entries above its checkpoint",
    ),
    ("txn_of_nested_branches", "a transaction within a transaction ran"),
    (
        "wal_closed_segment_read",
        "a start read a log of several segments",
    ),
    (
        "wal_disk_full",
        "a spare segment could not be filled for want of space",
    ),
    (
        "wal_group_split",
        "a group of records was so large that it was synced in parts",
    ),
    (
        "wal_purge_beyond_end",
        "everything in the log was forgotten, as after a snapshot",
    ),
    (
        "wal_segment_larger_than_usual",
        "a record needed a segment of its own size",
    ),
    ("wal_segment_recycled", "an old segment became a spare"),
    ("wal_segment_removed", "an old segment was removed"),
    ("wal_segment_rolled", "a segment was full and the next one began"),
    (
        "wal_torn_tail_cut",
        "a start found a write that had not fully reached the disk",
    ),
    ("wal_truncated", "entries of a former leader were taken back"),
    (
        "wal_truncation_overtook_flush",
        "entries were taken back before they were in the file",
    ),
    ("watch_compacted", "a watcher needed history that is gone"),
    (
        "watch_fell_behind",
        "a watcher's queue was full, and it went back to history",
    ),
    ("watch_fragmented", "a watch response was sent in parts"),
    (
        "watch_from_future",
        "a watcher asked for a revision that does not exist yet",
    ),
    ("watch_from_past", "a watcher asked for history"),
    (
        "watch_progress_withheld",
        "a progress request met watchers that are behind",
    ),
    (
        "watch_ring_lost",
        "the ring of new events did not reach back, and all watchers went back to history",
    ),
];

/// Counts that a rare path was taken; nothing in builds without debug assertions.
#[cfg(debug_assertions)]
#[macro_export]
macro_rules! reached {
    ($name:literal) => {
        $crate::reached::hit(const { $crate::reached::place_of($name) });
    };
}

/// Counts that a rare path was taken; nothing in builds without debug assertions.
#[cfg(not(debug_assertions))]
#[macro_export]
macro_rules! reached {
    ($name:literal) => {
        const { $crate::reached::place_of($name) };
    };
}

/// The place of a mark in the list. A mark that is not there does not compile.
pub const fn place_of(name: &str) -> usize {
    let mut place = 0;
    while place < MARKS.len() {
        if crate::fail_point::same(MARKS[place].0, name) {
            return place;
        }
        place += 1;
    }
    panic!("storage/src/reached.rs does not list this mark");
}

#[cfg(debug_assertions)]
pub use counting::{counts, hit};

#[cfg(debug_assertions)]
mod counting {
    use std::fs::File;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::MARKS;

    /// Names the file that gets a line per hit.
    const FILE: &str = "KELSON_REACHED";
    /// Lines that one process writes per mark at most: what is hit so often need not be counted exactly.
    const LINES_MAX: u64 = 1000;

    static COUNTS: [AtomicU64; MARKS.len()] = [const { AtomicU64::new(0) }; MARKS.len()];

    /// What [`reached!`](crate::reached!) does.
    pub fn hit(place: usize) {
        let before = COUNTS[place].fetch_add(1, Ordering::Relaxed);
        if before < LINES_MAX
            && let Some(file) = file()
        {
            let line = format!("{}\n", MARKS[place].0);
            // One short write to a file that is open for appending is whole. A campaign that lacks it counts less.
            let _ = (&mut &*file).write_all(line.as_bytes());
        }
    }

    fn file() -> Option<&'static File> {
        static OPEN: OnceLock<Option<File>> = OnceLock::new();
        OPEN.get_or_init(|| {
            let path = std::env::var_os(FILE)?;
            File::options().create(true).append(true).open(path).ok()
        })
        .as_ref()
    }

    /// How often each mark was hit by this process, in the order of [`MARKS`].
    pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
        MARKS
            .iter()
            .zip(&COUNTS)
            .map(|((name, _), count)| (*name, count.load(Ordering::Relaxed)))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn marks_count_what_passes_them() {
            let of = |wanted: &str| counts().find(|(name, _)| *name == wanted).map(|(_, count)| count);
            // Nothing in this crate's tests passes it.
            assert_eq!(of("member_differs"), Some(0));
            crate::reached!("member_differs");
            crate::reached!("member_differs");
            assert_eq!(of("member_differs"), Some(2));
            assert_eq!(of("nothing"), None);
        }

        #[test]
        fn the_list_is_sorted_and_names_each_mark_once() {
            assert!(MARKS.is_sorted_by(|one, other| one.0 < other.0));
            assert!(super::super::super::fail_point::POINTS.is_sorted_by(|one, other| one.0 < other.0));
        }
    }
}
