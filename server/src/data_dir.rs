//! The data directory before anything is opened in it: may we write there, is it ours alone, whose data is it, and who
//! are we according to it.
//!
//! `member/identity` remembers the ids that the founding flags led to, so that a member with data never asks its flags
//! who it is. It is written before the log and the database are made, and marked once they are; a marked identity
//! without a log is a member that has forgotten its votes, and is refused.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_storage::disk::{Disk, DiskFile};
use kelson_storage::real_disk::RealDisk;
use serde_json::{Value, json};

use crate::config::Config;

/// Version of the layout of the whole directory. A larger one was written by a newer release.
const FORMAT: u64 = 1;
/// Largest identity file that is read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 4096;
/// bbolt's magic number, and where it stands in either of the two first pages.
const BBOLT_MAGIC: [u8; 4] = [0xed, 0xda, 0x0c, 0xed];
const BBOLT_MAGIC_AT: [u64; 2] = [16, 4096 + 16];
/// What etcd and we put directly into a data directory.
const KNOWN_ENTRIES: [&str; 3] = ["member", "proxy", "fixtures"];
/// The mode nobody needs to worry about.
const PRIVATE_MODE: u32 = 0o700;

/// Who a member is, for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
}

/// What the identity file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The ids.
    pub identity: Identity,
    /// Whether log and database have been made.
    pub started: bool,
}

/// A data directory that this process has to itself until it ends.
#[derive(Debug)]
pub struct DataDir {
    disk: RealDisk,
    member: PathBuf,
    recorded: Option<Recorded>,
    _lock: Arc<dyn DiskFile>,
}

impl DataDir {
    /// Makes the directory if need be, locks it, and looks at what is in it. The error says which path, why, and what
    /// to do.
    pub fn claim(config: &Config) -> Result<Self, String> {
        let disk = if config.unsafe_no_fsync {
            RealDisk::without_sync()
        } else {
            RealDisk::new()
        };
        let member = config.data_dir.join("member");
        let wal = config.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        prepare(&disk, &config.data_dir, "cannot access data directory")?;
        warn_of_entries(&config.data_dir);
        // Before anything is made inside, so that a refused directory stays as it was.
        refuse_etcd(&member.join("snap").join("db"), &wal)?;
        prepare(&disk, &member, "cannot access member directory")?;
        let lock = lock(&disk, &member.join("lock"), &config.data_dir)?;
        prepare(&disk, &wal, "cannot write to WAL directory")?;
        let recorded = read_identity(&member.join("identity"))?;
        check_whole(recorded, &member, &wal)?;
        Ok(Self {
            disk,
            member,
            recorded,
            _lock: lock,
        })
    }

    /// Who the member is, if that has been decided here before.
    pub fn recorded(&self) -> Option<Recorded> {
        self.recorded
    }

    /// Remembers who the member is, durably. `started`: log and database have been made.
    pub fn record(&self, identity: Identity, started: bool) -> Result<(), String> {
        let path = self.member.join("identity");
        let value = json!({
            "format": FORMAT,
            "member_id": format!("{:x}", identity.member_id),
            "cluster_id": format!("{:x}", identity.cluster_id),
            "started": started,
        });
        let text = format!("{value}\n");
        let write = || -> std::io::Result<()> {
            let fresh = self.member.join("identity.tmp");
            let file = self.disk.open(&fresh, true)?;
            file.set_length(0)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync()?;
            self.disk.rename(&fresh, &path)?;
            self.disk.sync_directory(&self.member)
        };
        write().map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// Makes `directory` if it is missing, warns when others may look into it, and tries to write there.
fn prepare(disk: &RealDisk, directory: &Path, failure: &str) -> Result<(), String> {
    let attempt = || -> std::io::Result<()> {
        disk.create_directory(directory)?;
        let mode = fs::metadata(directory)?.permissions().mode() & 0o777;
        if mode != PRIVATE_MODE {
            tracing::warn!(
                path = %directory.display(),
                mode = format_args!("{mode:o}"),
                recommended = format_args!("{PRIVATE_MODE:o}"),
                "check file permission: others may read the data"
            );
        }
        let probe = directory.join(".touch");
        fs::write(&probe, b"")?;
        fs::remove_file(&probe)
    };
    attempt().map_err(|error| format!("{failure}: {}: {error}", directory.display()))
}

fn warn_of_entries(data_dir: &Path) {
    let Ok(entries) = fs::read_dir(data_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        // The log may be kept in a directory beside.
        let known = KNOWN_ENTRIES.iter().any(|known| name == *known) || name == "wal" || name == "lost+found";
        if !known {
            tracing::warn!(
                filename = %name.display(),
                "data-dir" = %data_dir.display(),
                "found invalid file under data directory"
            );
        }
    }
}

fn lock(disk: &RealDisk, path: &Path, data_dir: &Path) -> Result<Arc<dyn DiskFile>, String> {
    let file = disk
        .open(path, true)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    file.try_lock().map_err(|error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            format!(
                "data directory {} is in use: {} is locked by another process; stop it, or use another --data-dir",
                data_dir.display(),
                path.display()
            )
        } else {
            format!("cannot lock {}: {error}", path.display())
        }
    })?;
    Ok(file)
}

/// etcd's own files are recognised, because the flags that lead here are the same.
fn refuse_etcd(database: &Path, wal: &Path) -> Result<(), String> {
    let foreign = is_bbolt(database).then(|| database.to_owned()).or_else(|| {
        names(wal)
            .iter()
            .find(|name| is_etcd_segment(name))
            .map(|name| wal.join(name))
    });
    match foreign {
        None => Ok(()),
        Some(path) => Err(format!(
            "{} belongs to etcd, whose files this server cannot read; start with an empty --data-dir, and bring the \
             keys over through the client API",
            path.display()
        )),
    }
}

fn is_bbolt(path: &Path) -> bool {
    let Ok(mut file) = fs::File::open(path) else {
        return false;
    };
    BBOLT_MAGIC_AT.iter().any(|at| {
        let mut magic = [0; 4];
        let read = file
            .seek(SeekFrom::Start(*at))
            .and_then(|_| file.read_exact(&mut magic));
        read.is_ok() && magic == BBOLT_MAGIC
    })
}

/// `<16 hex>-<16 hex>.wal`.
fn is_etcd_segment(name: &str) -> bool {
    let hex = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.strip_suffix(".wal")
        .and_then(|stem| stem.split_once('-'))
        .is_some_and(|(sequence, index)| hex(sequence) && hex(index))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Who the member is whose data directory this is; none if there is no identity in it. The error says what is wrong.
pub fn identity_in(data_dir: &Path) -> Result<Option<Identity>, String> {
    let recorded = read_identity(&data_dir.join("member").join("identity"))?;
    Ok(recorded.map(|recorded| recorded.identity))
}

fn read_identity(path: &Path) -> Result<Option<Recorded>, String> {
    let mut text = String::new();
    match fs::File::open(path) {
        Ok(file) => file
            .take(IDENTITY_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let damaged = || {
        format!(
            "{} is damaged; restore it, or remove this member and add it again with an empty data directory",
            path.display()
        )
    };
    let value: Value = serde_json::from_str(&text).map_err(|_| damaged())?;
    let format = value["format"].as_u64().ok_or_else(damaged)?;
    if format > FORMAT {
        return Err(format!(
            "{} was written by a newer release (format {format}, this one knows {FORMAT}); start that release",
            path.display()
        ));
    }
    let id = |key: &str| {
        let id = value[key]
            .as_str()
            .and_then(|text| u64::from_str_radix(text, 16).ok());
        id.filter(|id| *id != 0).ok_or_else(damaged)
    };
    let identity = Identity {
        member_id: id("member_id")?,
        cluster_id: id("cluster_id")?,
    };
    let started = value["started"].as_bool().ok_or_else(damaged)?;
    Ok(Some(Recorded { identity, started }))
}

/// Refuses a directory of which a part is missing: what is left must not come back as a member that forgot what it
/// promised.
fn check_whole(recorded: Option<Recorded>, member: &Path, wal: &Path) -> Result<(), String> {
    let database = member.join("snap").join("db");
    let has_log = names(wal).iter().any(|name| is_segment(name));
    let remedy = "restore it, or remove this member and add it again with an empty data directory";
    match recorded {
        Some(Recorded { started: true, .. }) if !database.exists() => Err(format!(
            "database file ({}) of the backend is missing; {remedy}",
            database.display()
        )),
        Some(Recorded { started: true, .. }) if !has_log => Err(format!(
            "the write-ahead log in {} is missing; {remedy}",
            wal.display()
        )),
        None if database.exists() || has_log => Err(format!(
            "{} is missing although there is data beside it; {remedy}",
            member.join("identity").display()
        )),
        _ => Ok(()),
    }
}

/// Names of our own segments: `<16 hex>.wal`.
fn is_segment(name: &str) -> bool {
    name.strip_suffix(".wal")
        .is_some_and(|stem| stem.len() == 16 && stem.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const IDENTITY: Identity = Identity {
        member_id: 0x8e9e_05c5_2164_694d,
        cluster_id: 0xcdf8_1819_4e3a_8c32,
    };

    fn config(directory: &Path) -> Config {
        let arguments = ["--name", "m", "--data-dir", directory.to_str().expect("text")].map(str::to_owned);
        crate::config::load(&arguments, &[], || None::<IpAddr>)
            .expect("valid")
            .config
    }

    fn refusal(directory: &Path) -> String {
        DataDir::claim(&config(directory)).expect_err("to be refused")
    }

    /// A directory as a member leaves it that has run before.
    fn lived_in() -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        let claimed = DataDir::claim(&config(scratch.path())).unwrap();
        fs::create_dir(scratch.path().join("member/snap")).unwrap();
        fs::write(scratch.path().join("member/snap/db"), b"redb").unwrap();
        fs::write(scratch.path().join("member/wal/0000000000000001.wal"), b"").unwrap();
        claimed.record(IDENTITY, true).unwrap();
        scratch
    }

    #[test]
    fn an_identity_is_remembered() {
        let scratch = tempfile::tempdir().unwrap();
        let claimed = DataDir::claim(&config(scratch.path())).unwrap();
        assert_eq!(claimed.recorded(), None);
        claimed.record(IDENTITY, false).unwrap();
        drop(claimed);
        let recorded = DataDir::claim(&config(scratch.path())).unwrap().recorded();
        assert_eq!(
            recorded,
            Some(Recorded {
                identity: IDENTITY,
                started: false
            })
        );
    }

    #[test]
    fn a_directory_belongs_to_one_process_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let first = DataDir::claim(&config(scratch.path())).unwrap();
        let message = refusal(scratch.path());
        assert!(message.contains("is locked by another process"), "{message}");
        drop(first);
        DataDir::claim(&config(scratch.path())).unwrap();
    }

    #[test]
    fn etcds_own_files_are_recognised_and_left_alone() {
        for (path, bytes) in [
            ("member/snap/db", [&[0; 16][..], &BBOLT_MAGIC].concat()),
            ("member/snap/db", [&[0; 4096 + 16][..], &BBOLT_MAGIC].concat()),
            ("member/wal/0000000000000000-0000000000000000.wal", vec![0; 8]),
        ] {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            let message = refusal(scratch.path());
            assert!(
                message.contains("belongs to etcd") && message.contains(path.to_str().unwrap()),
                "{message}"
            );
            assert!(!scratch.path().join("member/lock").exists());
        }
    }

    #[test]
    fn a_directory_with_a_missing_part_is_refused() {
        for (part, words) in [
            ("member/snap/db", "of the backend is missing"),
            ("member/wal/0000000000000001.wal", "the write-ahead log in"),
            ("member/identity", "is missing although there is data beside it"),
        ] {
            let scratch = lived_in();
            DataDir::claim(&config(scratch.path())).unwrap();
            fs::remove_file(scratch.path().join(part)).unwrap();
            let message = refusal(scratch.path());
            assert!(message.contains(words), "{part}: {message}");
        }
    }

    #[test]
    fn newer_and_damaged_identities_are_refused() {
        for (text, words) in [
            (r#"{"format":2}"#, "newer release (format 2"),
            (
                r#"{"format":1,"member_id":"0","cluster_id":"1","started":true}"#,
                "is damaged",
            ),
            ("", "is damaged"),
        ] {
            let scratch = lived_in();
            fs::write(scratch.path().join("member/identity"), text).unwrap();
            let message = refusal(scratch.path());
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
