//! Starts that must fail: the exit code is 1, and the last line says why. These are rows 43 and 44 of the table of bad
//! input; the others are in `tests/api/bad_input`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::process::{Daemon, Ended, Ports, run_owned, run_without_space};

/// The `error` of the fatal line a start ends with.
async fn refusal(flags: &[String]) -> String {
    fatal_error(&run_owned(flags, &[]).await)
}

fn fatal_error(ended: &Ended) -> String {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let last: Value =
        serde_json::from_str(ended.stderr.lines().last().expect("a line")).expect("a line of JSON");
    assert_eq!(last["level"], "fatal");
    assert_eq!(last["msg"], "discovery failed");
    last["error"].as_str().expect("a text").to_owned()
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).expect("a directory").count()
}

#[tokio::test]
async fn a_second_process_cannot_have_the_same_data() {
    let scratch = tempfile::tempdir().unwrap();
    let daemon = Daemon::serving(Ports::free(), scratch.path()).await;
    let error = refusal(&Ports::free().flags(scratch.path())).await;
    assert!(error.contains("is locked by another process"), "{error}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_port_in_use_leaves_no_data_behind() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let scratch = tempfile::tempdir().unwrap();
    for ports in [
        Ports {
            client: port,
            ..Ports::free()
        },
        Ports {
            metrics: port,
            ..Ports::free()
        },
    ] {
        let error = refusal(&ports.flags(scratch.path())).await;
        assert_eq!(
            error,
            format!("listen tcp 127.0.0.1:{port}: bind: address already in use")
        );
        assert_eq!(entries(scratch.path()), 0);
    }
    let error = refusal(
        &Ports {
            peer: port,
            ..Ports::free()
        }
        .flags(scratch.path()),
    )
    .await;
    assert!(error.contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn etcds_own_data_is_refused_and_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("member/snap/db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, [&[0; 16][..], &[0xed, 0xda, 0x0c, 0xed]].concat()).unwrap();
    let error = refusal(&Ports::free().flags(scratch.path())).await;
    assert!(error.contains("belongs to etcd"), "{error}");
    assert_eq!(entries(&scratch.path().join("member")), 1);
}

#[tokio::test]
async fn a_member_without_its_log_or_database_does_not_come_back() {
    for part in ["member/snap/db", "member/wal"] {
        let scratch = tempfile::tempdir().unwrap();
        Daemon::serving(Ports::free(), scratch.path()).await.stop().await;
        let path = scratch.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let error = refusal(&Ports::free().flags(scratch.path())).await;
        assert!(error.contains("is missing"), "{part}: {error}");
    }
}

#[tokio::test]
async fn contradictory_founding_flags_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let mut flags = Ports::free().flags(scratch.path());
    flags.push("--initial-cluster=other=http://127.0.0.1:1".to_owned());
    let error = refusal(&flags).await;
    assert_eq!(
        error,
        "couldn't find local name \"m\" in the initial cluster configuration"
    );
}

#[tokio::test]
async fn one_name_twice_or_one_url_twice_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let own = format!("m=http://127.0.0.1:{}", ports.peer);
    for (others, reason) in [
        (
            format!("{own},x=http://127.0.0.1:{}", ports.peer),
            "has duplicate url",
        ),
        (
            format!("{own},m=http://127.0.0.1:1"),
            "but missing from --initial-advertise-peer-urls",
        ),
    ] {
        let mut flags = ports.flags(scratch.path());
        flags.push(format!("--initial-cluster={others}"));
        let error = refusal(&flags).await;
        assert!(error.contains(reason), "{others}: {error}");
        assert!(!scratch.path().join("member/identity").exists());
    }
}

/// The data directories of two clusters of one member each, both stopped.
async fn two_clusters() -> [(Ports, tempfile::TempDir); 2] {
    let mut clusters = Vec::new();
    for _ in 0..2 {
        let (ports, scratch) = (Ports::free(), tempfile::tempdir().expect("scratch space"));
        Daemon::serving(ports, scratch.path()).await.stop().await;
        clusters.push((ports, scratch));
    }
    clusters.try_into().expect("two")
}

#[tokio::test]
async fn another_clusters_log_or_database_is_refused() {
    for part in ["member/wal", "member/snap/db"] {
        let [(ports, ours), (_, theirs)] = two_clusters().await;
        let (own, foreign) = (ours.path().join(part), theirs.path().join(part));
        fs::rename(&own, ours.path().join("kept")).unwrap();
        fs::rename(&foreign, &own).unwrap();
        let error = refusal(&ports.flags(ours.path())).await;
        assert!(error.contains("belongs to"), "{part}: {error}");
        assert!(error.contains(own.to_str().unwrap()), "{part}: {error}");
    }
}

#[tokio::test]
async fn what_a_newer_release_wrote_is_refused() {
    let (ports, scratch) = (Ports::free(), tempfile::tempdir().unwrap());
    Daemon::serving(ports, scratch.path()).await.stop().await;
    let path = scratch.path().join("member/identity");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replace("\"format\":1", "\"format\":2");
    assert_ne!(newer, text);
    fs::write(&path, newer).unwrap();
    let error = refusal(&ports.flags(scratch.path())).await;
    assert!(error.contains("was written by a newer release"), "{error}");
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_or_written_to_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, b"").unwrap();
    for directory in [file.join("data"), file, Path::new("/proc/data").to_owned()] {
        let error = refusal(&Ports::free().flags(&directory)).await;
        let expected = format!("cannot access data directory: {}", directory.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_start() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let error = fatal_error(&run_without_space(&ports.flags(scratch.path())).await);
    assert!(error.contains(scratch.path().to_str().unwrap()), "{error}");
    // Nothing that is left of it stands in the way once there is room.
    Daemon::serving(ports, scratch.path()).await.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_open_to_all_is_served_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let lines = Daemon::serving(Ports::free(), scratch.path()).await.stop().await;
    let warned = lines.iter().any(|line| {
        let message = line["msg"].as_str().unwrap_or_default();
        line["level"] == "warn" && message.starts_with("check file permission")
    });
    assert!(warned, "{lines:#?}");
}
