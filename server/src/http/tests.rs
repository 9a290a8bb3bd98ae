use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use kelson_storage::command::AlarmKind;

use super::metrics::Text;
use super::*;

#[derive(Clone, Default)]
struct Scripted {
    alarms: Vec<AlarmKind>,
    leader: bool,
    learner: bool,
    serializable: Option<&'static str>,
    linearizable: Option<&'static str>,
    cluster_version: Option<&'static str>,
}

impl Member for Scripted {
    fn alarms(&self) -> Vec<AlarmKind> {
        self.alarms.clone()
    }
    fn has_leader(&self) -> bool {
        self.leader
    }
    fn is_learner(&self) -> bool {
        self.learner
    }
    fn serializable_read(&self) -> Result<(), String> {
        self.serializable.map_or(Ok(()), |error| Err(error.to_owned()))
    }
    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        let outcome = self.linearizable.map_or(Ok(()), |error| Err(error.to_owned()));
        futures::future::ready(outcome).boxed()
    }
    fn cluster_version(&self) -> Option<String> {
        self.cluster_version.map(str::to_owned)
    }
    fn metrics(&self, text: &mut Text) {
        text.gauge("etcd_server_has_leader", "h", u8::from(self.leader));
    }
}

fn well() -> Scripted {
    Scripted {
        leader: true,
        ..Scripted::default()
    }
}

struct Answer {
    status: u16,
    body: String,
    headers: http::HeaderMap,
}

async fn ask(member: Scripted, surface: Surface, method: &str, uri: &str) -> Answer {
    let endpoints = Endpoints::new();
    endpoints.serve(member);
    ask_of(&endpoints, surface, method, uri).await
}

async fn ask_of(endpoints: &Endpoints, surface: Surface, method: &str, uri: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .body(())
        .expect("valid");
    let (parts, body) = endpoints.answer(surface, &request).await.into_parts();
    let bytes = body.collect().await.expect("whole").to_bytes();
    Answer {
        status: parts.status.as_u16(),
        body: String::from_utf8(bytes.to_vec()).expect("text"),
        headers: parts.headers,
    }
}

async fn get(member: Scripted, uri: &str) -> (u16, String) {
    let answer = ask(member, Surface::Metrics, "GET", uri).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn health_is_exact_to_the_byte() {
    const HEALTHY: &str = r#"{"health":"true","reason":""}"#;
    let unhealthy = |reason: &str| format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
    assert_eq!(get(well(), "/health").await, (200, HEALTHY.to_owned()));

    let full = Scripted {
        alarms: vec![AlarmKind::NoSpace],
        ..well()
    };
    assert_eq!(
        get(full.clone(), "/health").await,
        (503, unhealthy("ALARM NOSPACE"))
    );
    assert_eq!(
        get(full.clone(), "/health?exclude=NOSPACE").await,
        (200, HEALTHY.to_owned())
    );
    assert_eq!(get(full, "/health?exclude=CORRUPT&exclude=X").await.0, 503);

    let leaderless = Scripted {
        linearizable: Some("etcdserver: request timed out"),
        ..Scripted::default()
    };
    assert_eq!(
        get(leaderless.clone(), "/health").await,
        (503, unhealthy("RAFT NO LEADER"))
    );
    assert_eq!(get(leaderless.clone(), "/health?serializable=false").await.0, 503);
    assert_eq!(
        get(leaderless, "/health?serializable=true").await,
        (200, HEALTHY.to_owned())
    );

    let stuck = Scripted {
        linearizable: Some("etcdserver: request \"timed\" out"),
        ..well()
    };
    let answer = ask(stuck, Surface::Client, "GET", "/health").await;
    assert_eq!(
        answer.body,
        unhealthy("RANGE ERROR:etcdserver: request \\\"timed\\\" out")
    );
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn probes_are_exact_to_the_byte() {
    for (uri, body) in [
        ("/livez", "ok\n"),
        ("/readyz", "ok\n"),
        ("/livez?verbose", "[+]serializable_read ok\nok\n"),
        (
            "/readyz?verbose=0&exclude=data_corruption&exclude=bogus",
            "[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
        ),
        ("/readyz/data_corruption?verbose", "[+]data_corruption ok\nok\n"),
        // One check cannot be excluded from itself.
        (
            "/readyz/non_learner?verbose&exclude=non_learner",
            "[+]non_learner ok\nok\n",
        ),
    ] {
        assert_eq!(get(well(), uri).await, (200, body.to_owned()), "{uri}");
    }
    let sick = Scripted {
        alarms: vec![AlarmKind::NoSpace, AlarmKind::Corrupt],
        learner: true,
        linearizable: Some("etcdserver: request timed out"),
        ..well()
    };
    let lines = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                 [-]linearizable_read failed: etcdserver: request timed out\n\
                 [-]non_learner failed: not supported for learner\n";
    assert_eq!(get(sick.clone(), "/readyz").await, (503, lines.to_owned()));
    assert_eq!(get(sick.clone(), "/livez").await.0, 200);
    let rest = "/readyz?exclude=data_corruption&exclude=linearizable_read&exclude=non_learner";
    assert_eq!(get(sick, rest).await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn probes_name_their_type_and_forbid_sniffing() {
    let sick = Scripted {
        serializable: Some("x"),
        ..well()
    };
    for member in [well(), sick] {
        let answer = ask(member, Surface::Client, "GET", "/livez").await;
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn other_methods_are_refused_and_other_paths_unknown() {
    for uri in ["/health", "/livez", "/readyz/non_learner", "/version"] {
        for method in ["POST", "HEAD", "PUT"] {
            let answer = ask(well(), Surface::Client, method, uri).await;
            assert_eq!(
                (answer.status, &*answer.body),
                (405, "Method Not Allowed\n"),
                "{method} {uri}"
            );
            assert_eq!(answer.headers["allow"], "GET");
        }
    }
    for uri in [
        "/",
        "/livez/",
        "/livez/non_learner",
        "/readyz/bogus",
        "/healthz",
        "/v3/kv/range",
    ] {
        assert_eq!(
            ask(well(), Surface::Client, "GET", uri).await.status,
            404,
            "{uri}"
        );
    }
}

#[tokio::test]
async fn the_version_is_known_once_the_cluster_has_agreed() {
    let undecided = ask(well(), Surface::Client, "GET", "/version").await;
    assert_eq!(
        undecided.body,
        r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#
    );
    assert_eq!(undecided.headers["content-type"], "application/json");
    let agreed = Scripted {
        cluster_version: Some("3.7.0"),
        ..well()
    };
    let answer = ask(agreed.clone(), Surface::Client, "GET", "/version").await;
    assert_eq!(
        answer.body,
        r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#
    );
    assert_eq!(ask(agreed, Surface::Metrics, "GET", "/version").await.status, 404);
}

#[tokio::test]
async fn a_member_that_starts_is_neither_live_nor_ready_but_answers() {
    let endpoints = Endpoints::new();
    for uri in ["/livez", "/readyz", "/health"] {
        assert_eq!(
            ask_of(&endpoints, Surface::Metrics, "GET", uri).await.status,
            503,
            "{uri}"
        );
    }
    assert_eq!(
        ask_of(&endpoints, Surface::Metrics, "GET", "/metrics")
            .await
            .status,
        200
    );
    endpoints.serve(well());
    assert_eq!(
        ask_of(&endpoints, Surface::Metrics, "GET", "/readyz")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn metrics_are_families_with_types_and_count_the_checks() {
    let endpoints = Endpoints::new();
    endpoints.serve(well());
    ask_of(&endpoints, Surface::Metrics, "GET", "/readyz").await;
    let text = ask_of(&endpoints, Surface::Metrics, "GET", "/metrics").await.body;
    for line in [
        "# TYPE etcd_server_has_leader gauge",
        "etcd_server_has_leader 1",
        "# TYPE etcd_server_healthchecks_total counter",
        r#"etcd_server_healthcheck{type="readyz",name="non_learner"} 1"#,
        r#"etcd_server_healthchecks_total{type="readyz",name="linearizable_read",status="success"} 1"#,
        r#"etcd_server_healthchecks_total{type="livez",name="serializable_read",status="error"} 0"#,
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    assert!(
        text.lines()
            .any(|line| line.starts_with("process_resident_memory_bytes "))
    );
}
