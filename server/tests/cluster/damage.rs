//! Damaged data: a member says which file and stays away, or it is none the worse. It never comes back different.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use tokio::time::Instant;

use crate::harness::client::put;
use crate::members::{Members, PATIENCE, wait_for};
use crate::settings::{MEMBERS, kelson, number};

/// Writes before the member is stopped.
const WRITES: usize = 400;

/// Longest that one question may take before it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What a member logs when it hears the leader.
const IN_TOUCH: &str = "leader changed";

/// How a start on damaged data ended.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// Refused; the reason.
    Refused(String),
    /// Refused after it had been in touch with the others; the reason.
    Noticed(String),
    /// It serves, and its hash is that of the others.
    Equal,
}

/// A cluster of which one member is stopped, with a copy of the files it left.
///
/// Whenever the member has been in touch with the others, the copy is made anew: it may have acknowledged something that
/// an older copy would take back, and that is another illness than the one under test.
struct Patient {
    cluster: Members,
    member: usize,
    /// The newest revision, and the hash of all members there.
    revision: i64,
    hash: u32,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Patient {
    async fn new() -> Patient {
        let mut cluster = Members::start(&kelson(), &[]).await;
        let member = (cluster.leader(0, None).await + 1) % MEMBERS;
        let client = cluster.client(member);
        for n in 0..WRITES {
            let request = put(&format!("k/{:03}", n % 100), &format!("{n:0>200}"));
            client.put_request(request).await.expect("a calm cluster writes");
        }
        let revision = client.revision().await;
        let hash = cluster.assert_equal_hashes(revision).await;
        cluster.kill(member);
        let files = files_below(&cluster.data(member).join("member"));
        Patient {
            cluster,
            member,
            revision,
            hash,
            files,
        }
    }

    /// The file whose path ends so.
    fn file(&self, end: &str) -> (PathBuf, Vec<u8>) {
        let found = self.files.iter().find(|(path, _)| path.ends_with(end));
        found.unwrap_or_else(|| panic!("no {end} was left")).clone()
    }

    /// The segment that records were written to.
    fn segment(&self) -> (PathBuf, Vec<u8>) {
        let segments = self
            .files
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "wal"));
        segments
            .max_by_key(|(_, bytes)| bytes.len())
            .expect("a segment was left")
            .clone()
    }

    /// Starts the member and waits until it has refused, or holds what the others hold.
    async fn start(&mut self) -> Start {
        let logged = self.cluster.log(self.member).len();
        self.cluster.spawn(self.member);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.cluster.ended(self.member) {
                let log = self.cluster.log(self.member).split_off(logged);
                assert!(!log.contains("panic"), "{log}");
                assert_eq!(status.code(), Some(1), "{status}: {log}");
                let last = log.lines().last().unwrap_or_default().to_owned();
                return if log.contains(IN_TOUCH) {
                    Start::Noticed(last)
                } else {
                    Start::Refused(last)
                };
            }
            let client = self.cluster.client(self.member);
            match tokio::time::timeout(ANSWER_TIMEOUT, client.hash_kv(self.revision)).await {
                Ok(Ok(found)) => {
                    assert_eq!(found.hash, self.hash, "the member came back different");
                    if self.cluster.is_healthy(self.member).await {
                        self.cluster.kill(self.member);
                        self.files = files_below(&self.cluster.data(self.member).join("member"));
                        return Start::Equal;
                    }
                }
                // It does not listen yet, or is behind.
                Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            let log = || self.cluster.log(self.member).split_off(logged);
            assert!(Instant::now() < deadline, "neither serves nor ends:\n{}", log());
        }
    }

    /// Starts the member on its own files: it must serve, and follow what the others write.
    async fn recovers(mut self) {
        self.heal();
        self.cluster.spawn(self.member);
        self.cluster.wait_until_healthy().await;
        let other = self.cluster.client((self.member + 1) % MEMBERS);
        let revision = other.put("k/000", "after the damage").await;
        self.cluster.assert_equal_hashes(revision).await;
    }

    /// Puts all files back.
    fn heal(&self) {
        let root = self.cluster.data(self.member).join("member");
        fs::remove_dir_all(&root).expect("own data can be removed");
        for (path, bytes) in &self.files {
            fs::create_dir_all(path.parent().expect("in a directory")).expect("writable");
            let file = fs::File::create(path).expect("writable");
            // The zeros at the end of a segment take no room as a hole.
            file.write_all_at(bytes, 0).expect("writable");
            file.set_len(length_of(path, bytes)).expect("writable");
        }
    }
}

/// Bytes of a segment: what is kept of it here has no zeros at the end.
fn length_of(path: &Path, bytes: &[u8]) -> u64 {
    const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
    let is_segment = path.extension().is_some_and(|extension| extension == "wal");
    if is_segment {
        SEGMENT_BYTES
    } else {
        bytes.len() as u64
    }
}

/// Every file below a directory, with what is in it up to the last byte that is not zero.
fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("own data can be read") {
        let path = entry.expect("own data can be read").path();
        if path.is_dir() {
            files.extend(files_below(&path));
            continue;
        }
        let mut bytes = fs::read(&path).expect("own data can be read");
        if path.extension().is_some_and(|extension| extension == "wal") {
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            bytes.truncate(used);
        }
        files.push((path, bytes));
    }
    files
}

fn flip(path: &Path, bit: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("own data can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8)
        .expect("inside of the file");
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).expect("writable");
}

#[tokio::test]
async fn a_damaged_or_missing_file_keeps_the_member_away() {
    let mut patient = Patient::new().await;
    let (segment, bytes) = patient.segment();
    let middle = bytes.len() as u64 / 2;
    flip(&segment, 8 * middle);
    let Start::Refused(line) = patient.start().await else {
        panic!(
            "a log that is damaged at byte {middle} of {} was accepted",
            bytes.len()
        );
    };
    assert!(line.contains(&segment.display().to_string()), "{line}");
    assert!(line.contains("is damaged at byte"), "{line}");
    println!("damage: a flipped bit at byte {middle} of the log: {line}");

    patient.heal();
    let (database, _) = patient.file("snap/db");
    fs::remove_file(&database).expect("own data can be removed");
    let Start::Refused(line) = patient.start().await else {
        panic!("a log without its database was accepted");
    };
    assert!(line.contains(&database.display().to_string()), "{line}");
    println!("damage: no database: {line}");

    patient.recovers().await;
}

#[tokio::test]
async fn a_flipped_bit_is_refused_by_name_or_does_no_harm() {
    let flips = number("KELSON_MEMBER_FLIPS", 12);
    let seed = number("KELSON_SEED", 1);
    let mut patient = Patient::new().await;
    for kind in ["log", "database"] {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut refused, mut noticed, mut equal) = (0, 0, 0);
        for _ in 0..flips {
            patient.heal();
            let (path, bytes) = match kind {
                "log" => patient.segment(),
                _ => patient.file("snap/db"),
            };
            let bit = random.random_range(0..8 * bytes.len() as u64);
            flip(&path, bit);
            let line = match patient.start().await {
                Start::Equal => {
                    equal += 1;
                    continue;
                }
                Start::Refused(line) => {
                    refused += 1;
                    line
                }
                Start::Noticed(line) => {
                    noticed += 1;
                    // One cluster at a time.
                    drop(patient);
                    patient = Patient::new().await;
                    line
                }
            };
            let name = path.file_name().expect("a file").to_string_lossy();
            assert!(
                line.contains(name.as_ref()),
                "bit {bit} of the {kind} (seed {seed}): {line}"
            );
        }
        println!(
            "damage: {flips} flips in the {kind}: {refused} refused by name at the start, {noticed} later, {equal} did no harm, 0 came back different"
        );
    }
    patient.recovers().await;
}

#[tokio::test]
async fn a_member_that_lost_what_it_had_acknowledged_harms_nobody_else() {
    let mut patient = Patient::new().await;
    let member = patient.member;
    let others = [(member + 1) % MEMBERS, (member + 2) % MEMBERS];
    patient.cluster.spawn(member);
    patient.cluster.wait_until_healthy().await;
    let leader = patient.cluster.leader(member, None).await;
    patient
        .cluster
        .client(member)
        .put("k/000", "acknowledged by all")
        .await;
    let revision = patient.cluster.client(member).revision().await;
    patient.cluster.assert_equal_hashes(revision).await;
    patient.cluster.kill(member);
    // An old copy, as of a backup, while the leader that knows better still leads.
    patient.heal();
    patient.cluster.spawn(member);
    wait_for("the leader to notice", || async {
        let log = patient.cluster.log(leader);
        log.contains("the log of a remote peer went back").then_some(())
    })
    .await;
    for n in 0..100 {
        let client = patient.cluster.client(others[n % 2]);
        client.put(&format!("k/{n:03}"), "without the member").await;
    }
    for other in others {
        assert!(
            patient.cluster.ended(other).is_none(),
            "a member in good health ended"
        );
        assert_eq!(patient.cluster.leader(other, None).await, leader);
    }
    let log = patient.cluster.log(leader);
    assert_eq!(
        log.matches("the log of a remote peer went back").count(),
        1,
        "told once"
    );
    println!("damage: a member restored from an old copy was noticed by the leader, and the others went on");
}
