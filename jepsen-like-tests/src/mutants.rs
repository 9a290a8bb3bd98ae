//! The planted bugs: what each breaks, whether it is planted, and which checker must find it in how much time.
//!
//! A bug stands in the sources as `mutant!("M07")` (see `kelson_storage::mutant`). `cargo xtask mutants` switches on one
//! at a time and sends out its checker. One that survives is a missing test. The numbers are never used again.

/// One planted bug, or one that waits for the code that it would be in.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// `M` and two digits.
    pub number: &'static str,
    /// What it does wrong.
    pub breaks: &'static str,
    /// Who must find it.
    pub hunt: Hunt,
}

/// Who must find a bug.
#[derive(Clone, Copy, Debug)]
pub enum Hunt {
    /// This checker, within this many seconds.
    By(Checker, u64),
    /// The bug cannot be planted: the code that it would be in does not exist.
    NotPlanted(&'static str),
}

/// Tests of one test binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checker {
    /// The cargo target: `kelson_storage` is that crate's unit tests, `crash` an integration test.
    pub binary: &'static str,
    /// Part of the names of the tests to run.
    pub tests: &'static str,
    /// Environment that says how long to look, as `NAME=value`.
    pub settings: &'static [&'static str],
}

impl Mutant {
    /// Whether it stands in the sources.
    pub fn is_planted(&self) -> bool {
        !matches!(self.hunt, Hunt::NotPlanted(_))
    }
}

impl Checker {
    /// Whether it hunts with whole members, which must then be built with the bugs too.
    pub fn takes_members(&self) -> bool {
        [LEFT_ALONE.binary, SIMULATION.binary].contains(&self.binary)
    }
}

const fn tests(binary: &'static str, tests: &'static str) -> Checker {
    Checker {
        binary,
        tests,
        settings: &[],
    }
}

/// The store beside a plain model of it.
const MODEL: Checker = tests("model", "store_answers_as_the_model_does");
/// The log on a disk that loses power at any moment.
const LOG_CRASHES: Checker = Checker {
    settings: &["KELSON_CRASH_IMAGES=2000"],
    ..tests("crash", "what_was_acknowledged_survives_a_crash_at_any_call")
};
/// The log on a disk that fails.
const LOG_FAILURES: Checker = tests("crash", "a_call_that_fails_stops_the_log");
/// The log on a disk that changes what it holds.
const LOG_DAMAGE: Checker = Checker {
    settings: &["KELSON_FLIPS=300"],
    ..tests("crash", "wal::damage")
};
/// The database on a disk that loses power at any moment.
const TABLES_CRASHES: Checker = tests("crash", "a_crash_leaves_what_one_write_left");
/// What is said of the log before its thread has done anything.
const LOG_QUEUE: Checker = tests("kelson_raft", "log_storage::");
/// The bookkeeping of linearizable reads.
const READ_QUEUE: Checker = tests("kelson_raft", "read_index::");
/// The watch hub beside a plain model of it, and its quirks.
const WATCH: Checker = tests("kelson_server", "watch::");
/// Leases under make-believe elections.
const LEASE: Checker = tests("kelson_server", "lease::");
/// A real leader whose followers are dead.
const LEFT_ALONE: Checker = tests("api", "a_leader_without_its_followers");

/// Whole members on make-believe machines whose leaders die.
const SIMULATION: Checker = tests("sim", "reads_at_new_leaders");

const fn by(number: &'static str, breaks: &'static str, checker: Checker, seconds: u64) -> Mutant {
    Mutant {
        number,
        breaks,
        hunt: Hunt::By(checker, seconds),
    }
}

const fn not_planted(number: &'static str, breaks: &'static str, why: &'static str) -> Mutant {
    Mutant {
        number,
        breaks,
        hunt: Hunt::NotPlanted(why),
    }
}

const NO_MEMBER_CHANGES: &str = "membership cannot be changed yet";

/// All of them, in order.
pub const MUTANTS: &[Mutant] = &[
    by(
        "M01",
        "an append is acknowledged before the log is synced",
        LOG_QUEUE,
        20,
    ),
    by("M02", "a vote is promised before it is synced", LOG_QUEUE, 20),
    by(
        "M03",
        "a later append acknowledges an earlier one that is not synced",
        LOG_QUEUE,
        20,
    ),
    by(
        "M04",
        "the applied position has a transaction of its own",
        TABLES_CRASHES,
        60,
    ),
    by(
        "M05",
        "the entry of an alarm leaves the applied position behind",
        MODEL,
        60,
    ),
    by(
        "M06",
        "the log is purged above what the database holds durably",
        tests("kelson_storage", "a_position_said_to_be_durable"),
        20,
    ),
    by(
        "M07",
        "damage in the middle of the log is taken for a torn tail",
        LOG_DAMAGE,
        60,
    ),
    by(
        "M08",
        "what a recycled segment held before is taken for new",
        LOG_CRASHES,
        60,
    ),
    by(
        "M09",
        "the directory is not synced when a segment is begun",
        LOG_CRASHES,
        60,
    ),
    by("M10", "a failed sync is tried again", LOG_FAILURES, 60),
    by(
        "M11",
        "the vote is forgotten on restart",
        tests("kelson_storage", "wal::tests"),
        20,
    ),
    by("M12", "half of the members are a quorum", LEFT_ALONE, 60),
    not_planted(
        "M13",
        "a joint change counts only the new voters",
        NO_MEMBER_CHANGES,
    ),
    not_planted("M14", "a learner counts", NO_MEMBER_CHANGES),
    by(
        "M15",
        "a wiped member is accepted again under its old id",
        tests("kelson_raft", "network::acknowledged::"),
        20,
    ),
    not_planted(
        "M16",
        "updating a member drops its learner flag",
        NO_MEMBER_CHANGES,
    ),
    by("M17", "a read asks no quorum", LEFT_ALONE, 60),
    by(
        "M18",
        "a read joins a round that is already under way",
        READ_QUEUE,
        20,
    ),
    by("M19", "a read does not wait for apply", READ_QUEUE, 20),
    by(
        "M20",
        "a new leader reads before it has committed an entry of its term",
        SIMULATION,
        240,
    ),
    by("M21", "reads inside a transaction are skipped", MODEL, 60),
    not_planted(
        "M22",
        "cached permissions outlive the auth revision",
        "there is no auth yet",
    ),
    by(
        "M23",
        "a transaction with an unknown lease takes a revision",
        MODEL,
        60,
    ),
    by("M24", "a failed transaction keeps its first write", MODEL, 60),
    by(
        "M25",
        "compares of a nested transaction see what its siblings wrote",
        MODEL,
        60,
    ),
    by("M26", "a delete of nothing takes a revision", MODEL, 60),
    by("M27", "compaction drops the tombstone at its revision", MODEL, 60),
    by(
        "M28",
        "compaction drops the newest version of a live key",
        MODEL,
        60,
    ),
    by(
        "M29",
        "the revision is made up from the newest key at start",
        MODEL,
        60,
    ),
    by("M30", "progress overtakes queued events", WATCH, 60),
    by("M31", "a revision is split over two responses", WATCH, 60),
    by("M32", "a slow watcher loses its oldest batch", WATCH, 60),
    by("M33", "resuming begins one revision late", WATCH, 60),
    by("M34", "a watcher of the future gets earlier events", WATCH, 60),
    by(
        "M35",
        "installing a snapshot forgets watchers that were level",
        WATCH,
        60,
    ),
    by("M36", "prev_kv is read from the present", WATCH, 60),
    by("M37", "leases are counted on the wall clock", LEASE, 60),
    by("M38", "the expiry of a deposed leader is applied", MODEL, 60),
    by("M39", "a stale leader answers keepalives", LEASE, 60),
    by("M40", "a failed expiry is never tried again", LEASE, 60),
    by("M41", "a command whose fate was unknown happens twice", MODEL, 60),
    by(
        "M42",
        "a timeout is reported as a definite failure",
        tests("kelson_server", "status::"),
        20,
    ),
    by(
        "M43",
        "a snapshot lacks leases",
        tests("kelson_storage", "snapshot::tests"),
        20,
    ),
    by(
        "M44",
        "two snapshot transfers share a file",
        tests("kelson_raft", "network::server::"),
        20,
    ),
    by(
        "M45",
        "an index file without links that can still be read is taken",
        tests("kelson_storage", "store::index_file"),
        60,
    ),
    by(
        "M46",
        "what was written after the durable commit is given back as free space",
        tests("kelson_storage", "tables::"),
        60,
    ),
    by(
        "M47",
        "the pieces of a row that is deleted stay behind",
        tests("kelson_storage", "tables::"),
        60,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// How often each number stands in the sources below `directory`.
    fn count(directory: &Path, planted: &mut BTreeMap<String, usize>) {
        for entry in std::fs::read_dir(directory).expect("sources are there") {
            let path = entry.expect("sources can be listed").path();
            if path.is_dir() {
                count(&path, planted);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are text");
                for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                    for rest in line.split("mutant!(\"").skip(1) {
                        *planted.entry(rest[..3].to_owned()).or_default() += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn the_list_and_the_sources_agree() {
        let mut planted = BTreeMap::new();
        for sources in ["storage/src", "raft/src", "server/src"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            count(&root.join(sources), &mut planted);
        }
        for (index, mutant) in MUTANTS.iter().enumerate() {
            assert_eq!(mutant.number, format!("M{:02}", index + 1));
            let places = planted.remove(mutant.number).unwrap_or_default();
            assert_eq!(places > 0, mutant.is_planted(), "{}", mutant.number);
        }
        assert!(planted.is_empty(), "not in the list: {planted:?}");
    }
}
