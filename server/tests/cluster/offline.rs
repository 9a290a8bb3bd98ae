//! `kelson wal-dump` and `kelson db-hash` on what killed members left: equal on all of them, the same as the members
//! themselves said, damage refused, and not one byte changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kelson_proto::etcdserverpb as pb;
use serde_json::Value;

use crate::harness::client::{delete, put};
use crate::members::Members;
use crate::settings::{MEMBERS, kelson};

/// Writes before the members are killed.
const WRITES: usize = 300;

fn tool(name: &str, data: &Path, flags: &[String]) -> Output {
    Command::new(kelson())
        .arg(name)
        .arg(format!("--data-dir={}", data.display()))
        .args(flags)
        .output()
        .expect("the binary can be started")
}

/// What a tool printed, line by line.
fn lines(name: &str, data: &Path, flags: &[String]) -> Vec<Value> {
    let output = tool(name, data, flags);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let parse = |line| serde_json::from_str(line).expect("a line of JSON");
    text.lines().map(parse).collect()
}

fn by_index(dump: Vec<Value>) -> BTreeMap<u64, Value> {
    let index = |line: &Value| line["index"].as_u64().expect("an index");
    dump.into_iter().map(|line| (index(&line), line)).collect()
}

/// All files below a directory, with what they hold.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

/// Changes one bit in place.
fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[offset] ^= 1;
    fs::write(path, bytes).expect("writable");
}

/// Three members with some of everything in them, all killed; and their HashKV at the newest revision.
async fn killed() -> (Members, pb::HashKvResponse) {
    let mut cluster = Members::start(&kelson(), &["--snapshot-count=50"]).await;
    let client = cluster.client(0);
    client.grant_request(600, 77).await.expect("a lease");
    for n in 0..WRITES {
        let mut request = put(&format!("k/{:03}", n % 50), &format!("{n:0>200}"));
        request.lease = if n % 3 == 0 { 77 } else { 0 };
        client.put_request(request).await.expect("a calm cluster writes");
    }
    client.delete_request(delete("k/001")).await.expect("deletes");
    client.compact(100).await.expect("compacts");
    let revision = client.revision().await;
    cluster.assert_equal_hashes(revision).await;
    let hash = client.hash_kv(revision).await.expect("hashes");
    // How far the log is committed is written with later entries, or after a quiet second. Entries that change no key see
    // to it: whoever has the last of them on disk had heard, and written with it, that the first was committed.
    for id in 78..81 {
        client.grant_request(600, id).await.expect("a lease");
    }
    let running = tool("db-hash", cluster.data(0), &[]);
    assert_eq!(running.status.code(), Some(1), "a running member was read");
    for member in 0..MEMBERS {
        cluster.kill(member);
    }
    (cluster, hash)
}

#[tokio::test]
async fn dumps_and_hashes_of_killed_members_are_equal_and_change_nothing() {
    let (cluster, live) = killed().await;
    let before: Vec<_> = (0..MEMBERS)
        .map(|member| files(&cluster.data(member).join("member")))
        .collect();

    let dumps: Vec<_> = (0..MEMBERS)
        .map(|member| by_index(lines("wal-dump", cluster.data(member), &[])))
        .collect();
    let last = |dump: &BTreeMap<u64, Value>| *dump.keys().next_back().expect("entries");
    let common = dumps.iter().map(last).min().expect("three");
    let first = &dumps[0];
    assert!(first.len() > 10, "{} entries", first.len());
    for dump in &dumps[1..] {
        assert!(dump.range(..=common).eq(first.range(..=common)));
    }
    let commands = first.values().flat_map(|line| line["commands"].as_array());
    let puts = commands
        .flatten()
        .filter(|command| command["kind"] == "put")
        .count();
    assert_eq!(puts, WRITES);
    let tail = lines("wal-dump", cluster.data(1), &[format!("--from-index={common}")]);
    assert_eq!(tail[0], first[&common]);

    // A follower may not have known that the newest entries were committed; all are compared where all are.
    let at = [format!("--to-index={common}")];
    let hashes: Vec<_> = (0..MEMBERS)
        .map(|member| lines("db-hash", cluster.data(member), &at).remove(0))
        .collect();
    for hash in &hashes {
        assert_eq!(hash["applied"]["index"], common);
        for key in [
            "revision",
            "hash",
            "compact_revision",
            "rolling_hash",
            "tables",
            "leases",
        ] {
            assert_eq!(hash[key], hashes[0][key], "{key}");
        }
    }
    assert_eq!(hashes[0]["leases"][0]["id"], 77);
    let newest = (0..MEMBERS).map(|member| lines("db-hash", cluster.data(member), &[]).remove(0));
    let newest = newest
        .max_by_key(|hash| hash["applied"]["index"].as_u64())
        .expect("three");
    assert_eq!(newest["revision"], live.hash_revision);
    assert_eq!(newest["hash"], live.hash);
    assert_eq!(newest["compact_revision"], live.compact_revision);

    for (member, before) in before.iter().enumerate() {
        assert!(
            files(&cluster.data(member).join("member")) == *before,
            "member {member}"
        );
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_by_file_and_offset() {
    let (cluster, _) = killed().await;
    let member = cluster.data(0).join("member");
    let segment = member.join("wal").join(format!("{:016x}.wal", 1));
    // Inside the first records, which later groups vouch for.
    flip(&segment, 4_000);
    for name in ["wal-dump", "db-hash"] {
        let refused = tool(name, cluster.data(0), &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&segment.display().to_string()) && said.contains("damaged at byte"),
            "{said}"
        );
    }
    flip(&segment, 4_000);

    let database = member.join("snap").join("db");
    let sound = fs::read(&database).expect("a database");
    let block = 4_100;
    let start = 8_192;
    let mut refused = 0;
    for number in 0..(sound.len() - start) / block {
        flip(&database, start + number * block + 100);
        let output = tool("db-hash", cluster.data(0), &[]);
        fs::write(&database, &sound).expect("writable");
        if output.status.success() {
            // No commit refers to the block.
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&database.display().to_string()), "{said}");
        refused += 1;
        if refused == 3 {
            return;
        }
    }
    panic!("{refused} blocks matter");
}
