//! The command lines that kubeadm writes for etcd's static pod, verbatim but for addresses, ports and directories, and
//! the probes that its manifest asks (operations specification 1.6).

use std::path::Path;

use crate::process::{Daemon, Ports, get};
use crate::secure::{Authority, Pair, channel, connector, put};

/// What kubeadm writes for etcd 3.5 (Kubernetes 1.29 to 1.33).
const BEFORE_ETCD_3_6: [&str; 2] = [
    "--experimental-initial-corrupt-check=true",
    "--experimental-watch-progress-notify-interval=5s",
];
/// What it writes since.
const SINCE_ETCD_3_6: [&str; 2] = [
    "--feature-gates=InitialCorruptCheck=true",
    "--watch-progress-notify-interval=5s",
];

/// The arguments of one generation. `pki` holds what kubeadm's certificate phase leaves in /etc/kubernetes/pki/etcd.
fn arguments(ports: Ports, data_dir: &Path, pki: &Path, of_their_time: [&str; 2]) -> Vec<String> {
    let Ports {
        client,
        peer,
        metrics,
    } = ports;
    let pki = pki.display();
    let common = [
        format!("--advertise-client-urls=https://127.0.0.1:{client}"),
        format!("--cert-file={pki}/server.crt"),
        "--client-cert-auth=true".to_owned(),
        format!("--data-dir={}", data_dir.display()),
        format!("--initial-advertise-peer-urls=https://127.0.0.1:{peer}"),
        format!("--initial-cluster=control-plane-1=https://127.0.0.1:{peer}"),
        format!("--key-file={pki}/server.key"),
        format!("--listen-client-urls=https://127.0.0.1:{client},https://[::1]:{client}"),
        format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
        format!("--listen-peer-urls=https://127.0.0.1:{peer}"),
        "--name=control-plane-1".to_owned(),
        format!("--peer-cert-file={pki}/peer.crt"),
        "--peer-client-cert-auth=true".to_owned(),
        format!("--peer-key-file={pki}/peer.key"),
        format!("--peer-trusted-ca-file={pki}/ca.crt"),
        "--snapshot-count=10000".to_owned(),
        format!("--trusted-ca-file={pki}/ca.crt"),
    ];
    let of_their_time = of_their_time.map(str::to_owned);
    common.into_iter().chain(of_their_time).collect()
}

#[tokio::test]
async fn its_static_pods_of_all_generations_start_and_pass_their_probes() {
    for of_their_time in [BEFORE_ETCD_3_6, SINCE_ETCD_3_6] {
        let scratch = tempfile::tempdir().unwrap();
        let authority = Authority::new(scratch.path(), "ca");
        for name in ["server", "peer", "healthcheck-client"] {
            authority.issue(name);
        }
        let ports = Ports::free();
        let data_dir = scratch.path().join("etcd");
        let mut daemon = Daemon::start(&arguments(ports, &data_dir, scratch.path(), of_their_time), &[]);
        daemon.line("ready to serve client requests").await;
        for probe in [
            "/readyz",
            "/livez",
            "/health?serializable=false",
            "/health?exclude=NOSPACE&serializable=true",
            "/health",
        ] {
            let (status, body) = get(ports.metrics, probe).await;
            assert_eq!(status, 200, "{of_their_time:?} {probe}: {body}");
        }
        let client = Pair {
            certificate: scratch.path().join("healthcheck-client.crt"),
            key: scratch.path().join("healthcheck-client.key"),
        };
        let channel = channel(ports.client, connector(&authority, Some(&client)))
            .await
            .expect("to be let in");
        put(&channel, "registry/health".to_owned())
            .await
            .expect("written");
        let lines = daemon.stop().await;
        let refusals = lines.iter().filter(|line| line["level"] == "error");
        assert_eq!(refusals.count(), 0, "{lines:#?}");
    }
}
