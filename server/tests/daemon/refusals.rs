//! Starts that must fail: the exit code is 1, and the last line says why.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::process::{Daemon, Ports, run_owned};

/// The `error` of the fatal line a start ends with.
async fn refusal(flags: &[String]) -> String {
    let ended = run_owned(flags, &[]).await;
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
