//! Members that start, serve and stop.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::watch_client::WatchClient;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest, WatchRequest};
use kelson_proto::mvccpb::KeyValue;
use prost::Message;
use serde_json::Value;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::process::{Daemon, PATIENCE, Ports, get};

async fn client(ports: Ports) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", ports.client)).expect("a URI");
    endpoint.timeout(PATIENCE).connect().await.expect("to connect")
}

async fn put(channel: &Channel, key: &'static str, value: &'static str) {
    let request = PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    };
    KvClient::new(channel.clone())
        .put(request)
        .await
        .expect("to be written");
}

async fn value(channel: &Channel, key: &'static str) -> Option<String> {
    let request = RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    };
    let reply = KvClient::new(channel.clone())
        .range(request)
        .await
        .expect("to be read")
        .into_inner();
    let encoded = reply.kvs.first()?;
    let pair = KeyValue::decode(encoded.clone()).expect("a pair");
    Some(String::from_utf8(pair.value.to_vec()).expect("text"))
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["msg"].as_str()).collect()
}

#[tokio::test]
async fn data_and_identity_outlive_the_process() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let daemon = Daemon::serving(ports, scratch.path()).await;
    let channel = client(ports).await;
    put(&channel, "k", "v").await;
    let lines = daemon.stop().await;
    let identity = |lines: &[Value]| {
        let line = lines
            .iter()
            .find(|line| line["msg"] == "starting local member")
            .expect("a line");
        (line["local-member-id"].clone(), line["cluster-id"].clone())
    };
    let messages = messages(&lines);
    for message in [
        "starting an etcd server",
        "published local member to cluster through raft",
        "serving client traffic insecurely; this is strongly discouraged!",
        "received signal; shutting down",
        "closing etcd server",
        "closed etcd server",
    ] {
        assert!(messages.contains(&message), "{message}: {messages:?}");
    }

    // The founding flags no longer count.
    let mut flags = ports.flags(scratch.path());
    flags.push("--initial-cluster=nobody=http://127.0.0.1:1".to_owned());
    flags.push("--initial-cluster-token=another".to_owned());
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("ready to serve client requests").await;
    assert_eq!(value(&client(ports).await, "k").await.as_deref(), Some("v"));
    assert_eq!(identity(&daemon.seen), identity(&lines));
    daemon.stop().await;
}

#[tokio::test]
async fn one_port_speaks_grpc_and_http() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let daemon = Daemon::serving(ports, scratch.path()).await;
    put(&client(ports).await, "k", "v").await;
    for port in [ports.client, ports.metrics] {
        assert_eq!(
            get(port, "/health").await,
            (200, r#"{"health":"true","reason":""}"#.to_owned())
        );
        assert_eq!(get(port, "/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(get(port, "/readyz").await, (200, "ok\n".to_owned()));
        let (status, metrics) = get(port, "/metrics").await;
        assert_eq!(status, 200);
        for line in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_debugging_mvcc_current_revision 2",
        ] {
            assert!(metrics.lines().any(|known| known == line), "{line}\n{metrics}");
        }
    }
    assert_eq!(get(ports.metrics, "/version").await.0, 404);
    let (status, version) = get(ports.client, "/version").await;
    assert_eq!(status, 200);
    assert!(
        version.starts_with(r#"{"etcdserver":"3.7.1","etcdcluster":""#),
        "{version}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn http_can_have_ports_of_its_own() {
    let scratch = tempfile::tempdir().unwrap();
    let (ports, http) = (Ports::free(), Ports::free().client);
    let mut flags = ports.flags(scratch.path());
    flags.push(format!("--listen-client-http-urls=http://127.0.0.1:{http}"));
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("ready to serve client requests").await;
    assert_eq!(get(http, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(get(http, "/version").await.0, 200);
    assert_eq!(get(ports.client, "/livez").await.0, 405);
    put(&client(ports).await, "k", "v").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_ends_watches_at_once_and_tells_them_why() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut daemon = Daemon::serving(ports, scratch.path()).await;
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: "k".into(),
            ..WatchCreateRequest::default()
        })),
    };
    let requests = tokio_stream::once(create).chain(tokio_stream::pending());
    let channel = client(ports).await;
    let mut responses = WatchClient::new(channel)
        .watch(requests)
        .await
        .expect("a stream")
        .into_inner();
    let created = responses
        .message()
        .await
        .expect("a response")
        .expect("a response");
    assert!(created.created);

    #[expect(clippy::disallowed_methods, reason = "measures a process")]
    let asked = Instant::now();
    daemon.signal(libc::SIGTERM);
    let ended = tokio::time::timeout(PATIENCE, responses.message())
        .await
        .expect("in time");
    let ended = ended.expect_err("the stream to end");
    assert_eq!(
        (ended.code(), ended.message()),
        (tonic::Code::Unavailable, "etcdserver: server stopped")
    );
    assert_eq!(daemon.end().await.code(), Some(0));
    // Nothing waited for the stream, or for the request timeout of 5.5 s.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_failed_write_ends_the_process_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut daemon = Daemon::serving(ports, scratch.path()).await;
    let mut client = KvClient::new(client(ports).await);
    daemon.refuse_writes();
    let request = PutRequest {
        key: "k".into(),
        ..PutRequest::default()
    };
    #[expect(clippy::disallowed_methods, reason = "measures a process")]
    let asked = Instant::now();
    client
        .put(request)
        .await
        .expect_err("no answer for what is not on disk");
    assert_eq!(daemon.end().await.code(), Some(1), "{:#?}", daemon.seen);
    // The promise is a second; the bound leaves room for a busy machine, but not for the request timeout.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    let last = daemon
        .seen
        .iter()
        .rfind(|line| line["level"] == "fatal")
        .expect("a fatal line");
    let error = last["error"].as_str().expect("a text");
    assert!(
        error.contains("member/wal/") || error.contains("member/snap/db"),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_quorum_probes_answer_and_clients_wait() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut flags = ports.flags(scratch.path());
    let others = [Ports::free().peer, Ports::free().peer];
    flags.push(format!(
        "--initial-cluster=m=http://127.0.0.1:{},a=http://127.0.0.1:{},b=http://127.0.0.1:{}",
        ports.peer, others[0], others[1]
    ));
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("starting local member").await;
    // A leaderless member is unready, but it answers.
    assert_eq!(get(ports.metrics, "/readyz/linearizable_read").await.0, 503);
    assert_eq!(get(ports.metrics, "/health").await.0, 503);
    // The client port takes connections and serves none of them.
    let asked = tokio::time::timeout(Duration::from_millis(200), get(ports.client, "/health"));
    assert!(asked.await.is_err());
    daemon.signal(libc::SIGINT);
    assert_eq!(daemon.end().await.code(), Some(0), "{:#?}", daemon.seen);
    assert!(!messages(&daemon.seen).contains(&"ready to serve client requests"));
}

#[tokio::test]
async fn the_service_manager_is_told_once_clients_are_served() {
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_nonblocking(true).unwrap();
    let manager = tokio::net::UnixDatagram::from_std(manager).unwrap();
    let mut daemon = Daemon::start(
        &Ports::free().flags(&scratch.path().join("data")),
        &[("NOTIFY_SOCKET", socket)],
    );
    daemon.line("successfully notified init daemon").await;
    assert!(messages(&daemon.seen).contains(&"ready to serve client requests"));
    let mut buffer = [0; 32];
    let length = tokio::time::timeout(PATIENCE, manager.recv(&mut buffer))
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(&buffer[..length], b"READY=1");
    daemon.stop().await;
}

/// Both thresholds were parsed once and then forgotten.
#[tokio::test]
async fn calls_and_entries_that_take_longer_than_the_flags_allow_are_logged() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut flags = ports.flags(scratch.path());
    flags.push("--warning-unary-request-duration=1ns".to_owned());
    flags.push("--warning-apply-duration=1ns".to_owned());
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("ready to serve client requests").await;
    put(&client(ports).await, "k", "v").await;
    let lines = daemon.stop().await;
    let slow = lines
        .iter()
        .find(|line| line["msg"] == "request stats")
        .expect("a line");
    assert_eq!(slow["response type"], "/etcdserverpb.KV/Put");
    assert_eq!(slow["level"], "warn");
    assert!(messages(&lines).contains(&"apply request took too long"));
}

#[tokio::test]
async fn history_is_compacted_without_being_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut flags = ports.flags(scratch.path());
    flags.push("--auto-compaction-retention=1s".to_owned());
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("ready to serve client requests").await;
    let channel = client(ports).await;
    for value in ["1", "2", "3"] {
        put(&channel, "k", value).await;
    }
    let old = RangeRequest {
        key: "k".into(),
        revision: 2,
        ..RangeRequest::default()
    };
    daemon.line("completed auto periodic compaction").await;
    while let Ok(reply) = KvClient::new(channel.clone()).range(old.clone()).await {
        // The first sample may be from before the puts.
        assert_eq!(reply.into_inner().count, 1);
        daemon.line("completed auto periodic compaction").await;
    }
    assert_eq!(value(&channel, "k").await.as_deref(), Some("3"));
    daemon.stop().await;
}

/// Puts of 16 KiB made gigabytes of log before the first purge, which counted entries alone: one of ours holds many
/// commands.
#[tokio::test]
async fn a_log_of_large_values_is_bounded_by_its_files() {
    let scratch = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let mut flags = ports.flags(scratch.path());
    flags.push("--max-wals=1".to_owned());
    flags.push("--unsafe-no-fsync".to_owned());
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("ready to serve client requests").await;
    let mut kv = KvClient::new(client(ports).await);
    let large = PutRequest {
        key: "k".into(),
        value: vec![b'v'; 1024 * 1024].into(),
        ..PutRequest::default()
    };
    // Three files of 64 MiB; far fewer entries than are kept by number.
    for _ in 0..150 {
        kv.put(large.clone()).await.expect("to be written");
    }
    daemon.line("purging the log below a durable checkpoint").await;
    assert_eq!(
        value(&client(ports).await, "k").await.map(|value| value.len()),
        Some(1024 * 1024)
    );
    daemon.stop().await;
    let daemon = Daemon::serving(ports, scratch.path()).await;
    assert_eq!(
        value(&client(ports).await, "k").await.map(|value| value.len()),
        Some(1024 * 1024)
    );
    daemon.stop().await;
}
