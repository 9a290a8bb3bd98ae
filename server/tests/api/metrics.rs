//! `/metrics`, as dashboards and alert rules of etcd read it (operations specification 4).

use std::collections::BTreeMap;

use kelson_proto::etcdserverpb::{self as pb, LeaseKeepAliveRequest, RangeRequest};
use tokio_stream::StreamExt;

use crate::harness::Cluster;
use crate::harness::client::put;
use crate::http::exchange;

/// Families that the official dashboard, the alert rules and common charts read: name, type.
const FAMILIES: [(&str, &str); 72] = [
    ("etcd_server_has_leader", "gauge"),
    ("etcd_server_leader_changes_seen_total", "counter"),
    ("etcd_server_proposals_committed_total", "gauge"),
    ("etcd_server_proposals_applied_total", "gauge"),
    ("etcd_server_proposals_pending", "gauge"),
    ("etcd_server_proposals_failed_total", "counter"),
    ("etcd_server_quota_backend_bytes", "gauge"),
    ("etcd_mvcc_db_total_size_in_bytes", "gauge"),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge"),
    ("etcd_disk_wal_fsync_duration_seconds", "histogram"),
    ("etcd_disk_backend_commit_duration_seconds", "histogram"),
    ("etcd_network_client_grpc_received_bytes_total", "counter"),
    ("etcd_network_client_grpc_sent_bytes_total", "counter"),
    ("grpc_server_started_total", "counter"),
    ("grpc_server_handled_total", "counter"),
    ("grpc_server_msg_received_total", "counter"),
    ("grpc_server_msg_sent_total", "counter"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_open_fds", "gauge"),
    ("process_max_fds", "gauge"),
    ("os_fd_used", "gauge"),
    ("os_fd_limit", "gauge"),
    ("etcd_server_is_leader", "gauge"),
    ("etcd_server_is_learner", "gauge"),
    ("etcd_server_snapshot_apply_in_progress_total", "gauge"),
    ("etcd_server_id", "gauge"),
    ("etcd_server_version", "gauge"),
    ("etcd_cluster_version", "gauge"),
    ("etcd_server_feature_enabled", "gauge"),
    ("etcd_server_slow_apply_total", "counter"),
    ("etcd_server_read_indexes_failed_total", "counter"),
    ("etcd_server_heartbeat_send_failures_total", "counter"),
    ("etcd_server_health_success", "counter"),
    ("etcd_server_health_failures", "counter"),
    ("etcd_server_healthcheck", "gauge"),
    ("etcd_server_healthchecks_total", "counter"),
    ("etcd_server_client_requests_total", "counter"),
    ("etcd_network_active_peers", "gauge"),
    ("etcd_network_known_peers", "gauge"),
    ("etcd_network_peer_received_bytes_total", "counter"),
    ("etcd_network_peer_sent_bytes_total", "counter"),
    ("etcd_debugging_mvcc_keys_total", "gauge"),
    ("etcd_debugging_mvcc_current_revision", "gauge"),
    ("etcd_debugging_mvcc_compact_revision", "gauge"),
    ("etcd_debugging_mvcc_watcher_total", "gauge"),
    ("etcd_debugging_mvcc_watch_stream_total", "gauge"),
    ("etcd_debugging_mvcc_slow_watcher_total", "gauge"),
    ("etcd_server_slow_read_indexes_total", "counter"),
    ("etcd_server_request_duration_seconds", "histogram"),
    ("etcd_server_range_duration_seconds", "histogram"),
    ("etcd_server_apply_duration_seconds", "histogram"),
    ("etcd_disk_wal_write_bytes_total", "gauge"),
    ("etcd_disk_wal_write_duration_seconds", "histogram"),
    ("etcd_snap_fsync_duration_seconds", "histogram"),
    ("etcd_snap_db_fsync_duration_seconds", "histogram"),
    ("etcd_snap_db_save_total_duration_seconds", "histogram"),
    ("etcd_debugging_snap_save_total_duration_seconds", "histogram"),
    (
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "histogram",
    ),
    ("etcd_mvcc_put_total", "counter"),
    ("etcd_mvcc_delete_total", "counter"),
    ("etcd_mvcc_txn_total", "counter"),
    ("etcd_mvcc_range_total", "counter"),
    ("etcd_mvcc_hash_duration_seconds", "histogram"),
    ("etcd_mvcc_hash_rev_duration_seconds", "histogram"),
    ("etcd_debugging_server_lease_expired_total", "counter"),
    ("etcd_debugging_lease_granted_total", "counter"),
    ("etcd_debugging_lease_revoked_total", "counter"),
    ("etcd_debugging_lease_renewed_total", "counter"),
    ("etcd_debugging_auth_revision", "gauge"),
];

/// One scrape: the type of each family and the value of each series, the series as it is written.
struct Scrape {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(cluster: &Cluster, member: usize) -> Self {
        let (code, _, body) = exchange(cluster, member, "GET", "/metrics").await;
        assert_eq!(code, 200);
        let mut scrape = Self {
            types: BTreeMap::new(),
            series: BTreeMap::new(),
        };
        for line in unchunked(&body).lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                let (name, kind) = described.split_once(' ').expect("a name and a type");
                let former = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(former, None, "{name} twice");
            } else if !line.starts_with('#') && !line.is_empty() {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
                let former = scrape.series.insert(series.to_owned(), value);
                assert_eq!(former, None, "{series} twice");
            }
        }
        scrape
    }

    fn value(&self, series: &str) -> f64 {
        *self
            .series
            .get(series)
            .unwrap_or_else(|| panic!("no {series} among {:#?}", self.series.keys()))
    }

    fn handled(&self, kind: &str, service: &str, method: &str, code: &str) -> f64 {
        let labels = [
            ("grpc_code", code),
            ("grpc_method", method),
            ("grpc_service", service),
            ("grpc_type", kind),
        ];
        let found = self.series.iter().find(|(series, _)| {
            series.starts_with("grpc_server_handled_total{")
                && labels
                    .iter()
                    .all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
        });
        *found
            .unwrap_or_else(|| panic!("no {service}/{method} with {code}"))
            .1
    }
}

/// Go sends a long body in chunks; HTTP/1.1 lets it.
fn unchunked(body: &str) -> String {
    if body.starts_with('#') {
        return body.to_owned();
    }
    let mut rest = body;
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    whole
}

#[tokio::test]
async fn what_dashboards_and_alerts_read_is_there_from_the_start() {
    let cluster = Cluster::fresh(3, &[]).await;
    // A call and a probe make the families whose labels come with them.
    cluster.client(0).get("nothing").await;
    exchange(&cluster, 0, "GET", "/readyz").await;
    let scrape = Scrape::of(&cluster, 0).await;
    for (name, kind) in FAMILIES {
        assert_eq!(scrape.types.get(name).map(String::as_str), Some(kind), "{name}");
    }
    for (kind, service, method) in [
        ("unary", "etcdserverpb.KV", "Put"),
        ("unary", "etcdserverpb.KV", "Compact"),
        ("bidi_stream", "etcdserverpb.Watch", "Watch"),
        ("bidi_stream", "etcdserverpb.Lease", "LeaseKeepAlive"),
        ("server_stream", "etcdserverpb.Maintenance", "Snapshot"),
        ("unary", "etcdserverpb.Auth", "UserAdd"),
    ] {
        for code in ["OK", "Unavailable", "DeadlineExceeded", "Unauthenticated"] {
            assert_eq!(
                scrape.handled(kind, service, method, code),
                0.0,
                "{method} {code}"
            );
        }
    }
    for bound in ["0.001", "8.192", "+Inf"] {
        let series = format!("etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"{bound}\"}}");
        scrape.value(&series);
    }
    assert!(scrape.value("etcd_disk_wal_fsync_duration_seconds_count") > 0.0);
    let peers = scrape.series.keys();
    let peers = peers.filter(|series| series.starts_with("etcd_network_peer_sent_bytes_total{To=\""));
    assert!(peers.count() > 0);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_outcome() {
    let cluster = Cluster::fresh(3, &[]).await;
    let client = cluster.client(0);
    let before = Scrape::of(&cluster, 0).await;
    client.put("k", "v").await;
    client.put("k", "w").await;
    let refused = client.kv().range(RangeRequest::default()).await;
    refused.expect_err("an empty key");
    let after = Scrape::of(&cluster, 0).await;
    let grown = |kind, service, method, code| {
        after.handled(kind, service, method, code) - before.handled(kind, service, method, code)
    };
    assert_eq!(grown("unary", "etcdserverpb.KV", "Put", "OK"), 2.0);
    assert_eq!(grown("unary", "etcdserverpb.KV", "Range", "InvalidArgument"), 1.0);
    for series in [
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_server_proposals_applied_total",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_current_revision",
    ] {
        assert!(after.value(series) > before.value(series), "{series}");
    }
}

#[tokio::test]
async fn an_open_stream_has_started_and_is_not_handled() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    requests
        .send(LeaseKeepAliveRequest { id: 77 })
        .await
        .expect("room");
    let replies = client.lease().lease_keep_alive(stream).await;
    let mut replies = replies.expect("a stream").into_inner();
    replies.next().await.expect("a reply").expect("it went well");
    let open = Scrape::of(&cluster, 0).await;
    let started = |scrape: &Scrape| {
        let found = scrape.series.iter().find(|(series, _)| {
            series.starts_with("grpc_server_started_total{") && series.contains("\"LeaseKeepAlive\"")
        });
        *found.expect("the series").1
    };
    assert_eq!(started(&open), 1.0);
    let codes = ["OK", "Canceled"];
    let handled = |scrape: &Scrape| -> f64 {
        let handled = |code| scrape.handled("bidi_stream", "etcdserverpb.Lease", "LeaseKeepAlive", code);
        codes.map(handled).iter().sum()
    };
    assert_eq!(handled(&open), 0.0);
    drop(requests);
    while replies.next().await.is_some() {}
    // The client sees the end of the stream when the server has sent it, a moment before it is counted.
    crate::harness::in_time("the end of the call", async {
        while handled(&Scrape::of(&cluster, 0).await) == 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Operations as the store counts them: each put of a transaction, and a transaction if it does more than one thing.
#[tokio::test]
async fn operations_and_requests_are_counted_by_kind() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let before = Scrape::of(&cluster, 0).await;
    client.put("a", "1").await;
    let put_op = |key| pb::request_op::Request::RequestPut(put(key, "2"));
    client.run(vec![put_op("b")]).await.expect("a txn of one");
    client
        .run(vec![put_op("c"), put_op("d")])
        .await
        .expect("a txn of two");
    client.delete("a").await;
    client.get("b").await;
    let after = Scrape::of(&cluster, 0).await;
    let grown = |series: &str| after.value(series) - before.series.get(series).copied().unwrap_or(0.0);
    assert_eq!(grown("etcd_mvcc_put_total"), 4.0);
    assert_eq!(grown("etcd_mvcc_delete_total"), 1.0);
    assert_eq!(grown("etcd_mvcc_txn_total"), 1.0);
    assert!(grown("etcd_mvcc_range_total") >= 1.0);
    for (kind, count) in [("Put", 1.0), ("Txn", 2.0), ("DeleteRange", 1.0), ("Range", 1.0)] {
        let series =
            format!("etcd_server_request_duration_seconds_count{{type=\"{kind}\",success=\"true\"}}");
        let sorted =
            format!("etcd_server_request_duration_seconds_count{{success=\"true\",type=\"{kind}\"}}");
        let value = |scrape: &Scrape| {
            let found = scrape.series.get(&series).or(scrape.series.get(&sorted));
            found.copied().unwrap_or(0.0)
        };
        assert_eq!(value(&after) - value(&before), count, "{kind}");
    }
}
