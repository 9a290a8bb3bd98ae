//! Members under TLS: who is let in, who is not, and certificates that change while clients are served.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::{PutRequest, RangeRequest};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RevokedCertParams,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::process::{Daemon, PATIENCE, Ports, get};

/// A certificate authority and the directory where it puts what it issues.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

/// A certificate and its key on disk.
#[derive(Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("well made");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("well made");
        let certificate = directory.join(format!("{name}.crt"));
        fs::write(&certificate, params.self_signed(&key).expect("well made").pem()).expect("writable");
        Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub fn issue(&self, name: &str) -> Pair {
        self.issue_with(name, |_| {})
    }

    /// A certificate for 127.0.0.1 and localhost, with `name` as its common name.
    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(hosts).expect("well made");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().expect("well made");
        let pair = Pair {
            certificate: self.directory.join(format!("{name}.crt")),
            key: self.directory.join(format!("{name}.key")),
        };
        // The certificate last and both anew, as tools that rotate certificates do.
        replace(&pair.key, &key.serialize_pem());
        replace(
            &pair.certificate,
            &params.signed_by(&key, &self.issuer).expect("well made").pem(),
        );
        pair
    }

    /// A list with the one serial number.
    fn revoke(&self, serial: u64) -> PathBuf {
        let revoked = RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let file = self.directory.join("revoked.crl");
        fs::write(&file, list.signed_by(&self.issuer).expect("well made").der()).expect("writable");
        file
    }
}

fn replace(file: &Path, text: &str) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, text).expect("writable");
    fs::rename(&fresh, file).expect("writable");
}

/// The flags of a client listener under mutual TLS, instead of those in the clear.
fn client_tls(flags: &mut [String], server: &Pair, authority: &Authority) -> Vec<String> {
    for flag in flags.iter_mut() {
        if flag.starts_with("--listen-client-urls") || flag.starts_with("--advertise-client-urls") {
            *flag = flag.replace("http://", "https://");
        }
    }
    vec![
        format!("--cert-file={}", server.certificate.display()),
        format!("--key-file={}", server.key.display()),
        format!("--trusted-ca-file={}", authority.certificate.display()),
        "--client-cert-auth=true".to_owned(),
    ]
}

pub fn connector(authority: &Authority, pair: Option<&Pair>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&authority.certificate).expect("well made"))
        .expect("well made");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("well made")
        .with_root_certificates(roots);
    let mut config = match pair {
        Some(pair) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&pair.certificate).expect("well made")],
                PrivateKeyDer::from_pem_file(&pair.key).expect("well made"),
            )
            .expect("well made"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn shake_hands(port: u16, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    connector
        .connect(ServerName::try_from("127.0.0.1").expect("well made"), stream)
        .await
}

pub async fn channel(port: u16, connector: TlsConnector) -> Result<Channel, tonic::transport::Error> {
    let connect = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move { shake_hands(port, &connector).await.map(TokioIo::new) }
    });
    Endpoint::from_static("https://127.0.0.1")
        .timeout(PATIENCE)
        .connect_with_connector(connect)
        .await
}

pub async fn put(channel: &Channel, key: String) -> Result<(), tonic::Status> {
    let request = PutRequest {
        key: key.into_bytes().into(),
        value: "v".into(),
        ..PutRequest::default()
    };
    KvClient::new(channel.clone()).put(request).await.map(|_| ())
}

/// Whether a client with this certificate gets a put through. TLS 1.3 tells a client that its certificate was refused
/// only after its handshake.
async fn is_let_in(port: u16, authority: &Authority, pair: Option<&Pair>) -> bool {
    match channel(port, connector(authority, pair)).await {
        Ok(channel) => put(&channel, "let-in".to_owned()).await.is_ok(),
        Err(_) => false,
    }
}

async fn rejections(ports: Ports, endpoint: &str) -> u64 {
    let (_, text) = get(ports.metrics, "/metrics").await;
    let name = format!("kelson_tls_rejected_connections_total{{endpoint=\"{endpoint}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
    line.expect("the counter").parse().expect("a number")
}

#[tokio::test]
async fn only_clients_of_the_trusted_authority_are_let_in() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let foreign = Authority::new(scratch.path(), "foreign");
    let ports = Ports::free();
    let mut flags = secured(ports, &scratch.path().join("data"), &ours);
    let revoked = ours.issue_with("revoked", |params| params.serial_number = Some(77.into()));
    flags.push(format!("--client-crl-file={}", ours.revoke(77).display()));
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("serving client traffic securely").await;

    assert!(is_let_in(ports.client, &ours, Some(&ours.issue("client"))).await);
    assert_eq!(rejections(ports, "client").await, 0);

    let expired = ours.issue_with("expired", |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let stranger = foreign.issue("stranger");
    for (who, pair) in [
        ("nobody", None),
        ("an expired one", Some(&expired)),
        ("a foreign one", Some(&stranger)),
        ("a revoked one", Some(&revoked)),
    ] {
        let before = rejections(ports, "client").await;
        assert!(!is_let_in(ports.client, &ours, pair).await, "{who}");
        daemon.line("rejected connection on client endpoint").await;
        assert!(rejections(ports, "client").await > before, "{who}");
    }

    // In the clear, and garbage: an end, never a wait.
    let (status, _) = get(ports.metrics, "/health").await;
    assert_eq!(status, 200);
    let mut plain = TcpStream::connect(("127.0.0.1", ports.client)).await.unwrap();
    let garbage = tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n");
    garbage.await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut answer);
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("an end");
    daemon.line("rejected connection on client endpoint").await;
    daemon.stop().await;
}

/// A client may not go round the list by taking up a session from before it was revoked: with TLS that shows no
/// certificate again, and nobody would look at one.
#[tokio::test]
async fn a_revoked_client_does_not_come_back_by_resuming_its_session() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let ports = Ports::free();
    let mut flags = secured(ports, &scratch.path().join("data"), &ours);
    let client = ours.issue_with("client", |params| params.serial_number = Some(77.into()));
    flags.push(format!("--client-crl-file={}", ours.revoke(1).display()));
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("serving client traffic securely").await;
    // It remembers its sessions.
    let connector = connector(&ours, Some(&client));
    let before = channel(ports.client, connector.clone()).await.unwrap();
    put(&before, "before".to_owned()).await.unwrap();

    ours.revoke(77);
    assert!(
        !is_let_in(ports.client, &ours, Some(&client)).await,
        "without a session"
    );
    let again = match channel(ports.client, connector).await {
        Ok(channel) => put(&channel, "again".to_owned())
            .await
            .map_err(|status| status.to_string()),
        Err(error) => Err(error.to_string()),
    };
    assert!(again.is_err(), "with a session");
    daemon.stop().await;
}

#[tokio::test]
async fn a_name_list_decides_among_trusted_clients() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let ports = Ports::free();
    let mut flags = secured(ports, &scratch.path().join("data"), &ours);
    flags.push("--client-cert-allowed-hostname=admin.example".to_owned());
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("serving client traffic securely").await;

    let admin = ours.issue_with("admin", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("admin.example".try_into().unwrap())];
    });
    assert!(is_let_in(ports.client, &ours, Some(&admin)).await);
    assert!(!is_let_in(ports.client, &ours, Some(&ours.issue("other"))).await);
    let line = daemon.line("rejected connection on client endpoint").await;
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("client certificate authentication failed"),
        "{line}"
    );
    daemon.stop().await;
}

/// Flags of a lone member that serves clients under mutual TLS.
fn secured(ports: Ports, data_dir: &Path, authority: &Authority) -> Vec<String> {
    let mut flags = ports.flags(data_dir);
    let more = client_tls(&mut flags, &authority.issue("server"), authority);
    flags.extend(more);
    flags
}

/// The operator's nightly job replaces certificates; nobody may notice. Connections that are there stay, new ones see
/// the new certificate, and a half-replaced pair is not used.
#[tokio::test]
async fn certificates_rotate_while_clients_are_served() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let ports = Ports::free();
    let mut daemon = Daemon::start(&secured(ports, &scratch.path().join("data"), &ours), &[]);
    daemon.line("serving client traffic securely").await;
    let client = ours.issue("client");
    let connector = connector(&ours, Some(&client));
    let former = channel(ports.client, connector.clone()).await.unwrap();
    put(&former, "before".to_owned()).await.unwrap();
    let before = certificate(ports.client, &connector).await;

    let spare = ours.issue("spare");
    let key = scratch.path().join("server.key");
    let good_key = fs::read_to_string(&key).unwrap();
    replace(&key, &fs::read_to_string(&spare.key).unwrap());
    assert_eq!(
        certificate(ports.client, &connector).await,
        before,
        "the pair does not fit"
    );
    daemon
        .line("cannot use the certificate that is there now; the former one stays in use")
        .await;
    replace(&key, &good_key);

    ours.issue("server");
    let after = certificate(ports.client, &connector).await;
    assert_ne!(after, before);
    put(&former, "after".to_owned()).await.unwrap();
    daemon.stop().await;
}

async fn certificate(port: u16, connector: &TlsConnector) -> Vec<u8> {
    let stream = shake_hands(port, connector).await.expect("well made");
    let (_, session) = stream.get_ref();
    session.peer_certificates().expect("shown")[0].to_vec()
}

/// Three members that talk to each other and to clients under mutual TLS, each with a pair of its own for either.
struct SecureCluster {
    ports: [Ports; 3],
    flags: Vec<Vec<String>>,
    members: Vec<Daemon>,
}

impl SecureCluster {
    const NAMES: [&str; 3] = ["a", "b", "c"];

    async fn start(scratch: &Path, authority: &Authority) -> Self {
        let ports = [(); 3].map(|()| Ports::free());
        let names = Self::NAMES.iter().zip(ports);
        let cluster: Vec<String> = names
            .clone()
            .map(|(name, ports)| format!("{name}=https://127.0.0.1:{}", ports.peer))
            .collect();
        let flags = names.map(|(name, ports)| {
            let (server, peer) = Self::issue(authority, name);
            let mut flags = ports.flags(&scratch.join(name));
            let more = client_tls(&mut flags, &server, authority);
            flags.extend(more);
            for flag in &mut flags {
                if flag.contains("peer-urls=") {
                    *flag = flag.replace("http://", "https://");
                }
            }
            flags[0] = format!("--name={name}");
            flags.extend([
                format!("--initial-cluster={}", cluster.join(",")),
                format!("--peer-cert-file={}", peer.certificate.display()),
                format!("--peer-key-file={}", peer.key.display()),
                format!("--peer-trusted-ca-file={}", authority.certificate.display()),
                "--peer-client-cert-auth=true".to_owned(),
            ]);
            flags
        });
        let flags: Vec<_> = flags.collect();
        let mut members: Vec<_> = flags.iter().map(|flags| Daemon::start(flags, &[])).collect();
        for member in &mut members {
            member.line("serving client traffic securely").await;
        }
        Self {
            ports,
            flags,
            members,
        }
    }

    /// A member's pairs for clients and for peers, in place of those that are there.
    fn issue(authority: &Authority, name: &str) -> (Pair, Pair) {
        (
            authority.issue(&format!("server-{name}")),
            authority.issue(&format!("peer-{name}")),
        )
    }

    async fn stop(self) {
        for member in self.members {
            member.stop().await;
        }
    }
}

#[tokio::test]
async fn three_members_talk_over_mutual_tls_and_refuse_a_stranger() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let mut cluster = SecureCluster::start(scratch.path(), &ours).await;
    let all = cluster.ports;
    let connector = connector(&ours, Some(&ours.issue("client")));
    let first = channel(all[0].client, connector.clone()).await.unwrap();
    put(&first, "through-a".to_owned()).await.unwrap();
    let last = channel(all[2].client, connector).await.unwrap();
    let read = RangeRequest {
        key: "through-a".into(),
        ..RangeRequest::default()
    };
    let reply = KvClient::new(last).range(read).await.unwrap().into_inner();
    assert_eq!(reply.count, 1);

    // A busy machine may have made members wait for each other in the beginning.
    let before = rejections(all[1], "peer").await;
    let foreign = Authority::new(scratch.path(), "foreign");
    let stranger = self::connector(&ours, Some(&foreign.issue("stranger")));
    // TLS 1.3 lets the client believe it is in; the member knows better.
    let _ = shake_hands(all[1].peer, &stranger).await;
    cluster.members[1]
        .line("rejected connection on peer endpoint")
        .await;
    assert!(rejections(all[1], "peer").await > before);
    cluster.stop().await;
}

/// How often all pairs are replaced, and how many puts each writer must have made after each time.
const ROTATIONS: usize = 4;
const PUTS_PER_ROTATION: u64 = 5;

/// The operator's nightly job on a busy cluster: all pairs of all members are replaced several times, under writers that
/// keep their connections and writers that make one for each put. No put fails; and members that have to dial each other
/// anew do so with the new pairs.
#[tokio::test]
async fn all_certificates_rotate_under_load_without_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let mut cluster = SecureCluster::start(scratch.path(), &ours).await;
    let ports = cluster.ports;
    let connector = connector(&ours, Some(&ours.issue("client")));
    let round = watch::Sender::new(0);
    let mut writers = JoinSet::new();
    let mut progress = Vec::new();
    for (number, keeps) in [true, false, true, false, true, false].into_iter().enumerate() {
        let puts = watch::Sender::new([0; ROTATIONS + 1]);
        progress.push(puts.subscribe());
        let port = ports[number % ports.len()].client;
        writers.spawn(write_on(port, connector.clone(), keeps, round.subscribe(), puts));
    }
    for rotation in 0..=ROTATIONS {
        let mut served = Vec::new();
        for (name, ports) in SecureCluster::NAMES.iter().zip(ports) {
            let addresses = [ports.client, ports.peer];
            for port in addresses {
                served.push((port, certificate(port, &connector).await));
            }
            if rotation > 0 {
                SecureCluster::issue(&ours, name);
            }
        }
        for (port, before) in served {
            let is_new = certificate(port, &connector).await != before;
            assert_eq!(is_new, rotation > 0, "rotation {rotation}, port {port}");
        }
        round.send_replace(rotation);
        for puts in &mut progress {
            // Closed: the writer has ended, and says why below.
            let _ = puts.wait_for(|puts| puts[rotation] >= PUTS_PER_ROTATION).await;
        }
    }
    round.send_replace(ROTATIONS + 1);
    while let Some(ended) = writers.join_next().await {
        assert_eq!(ended.unwrap(), Ok(()));
    }

    let last = cluster.members.pop().unwrap();
    last.stop().await;
    let mut last = Daemon::start(&cluster.flags[2], &[]);
    last.line("serving client traffic securely").await;
    put(
        &channel(ports[2].client, connector).await.unwrap(),
        "anew".to_owned(),
    )
    .await
    .unwrap();
    cluster.members.push(last);
    cluster.stop().await;
}

/// Puts until the rounds are over, on one connection or on one for each put; counts the puts of each round.
async fn write_on(
    port: u16,
    connector: TlsConnector,
    keeps: bool,
    round: watch::Receiver<usize>,
    puts: watch::Sender<[u64; ROTATIONS + 1]>,
) -> Result<(), String> {
    let connect = || channel(port, connector.clone());
    let mut connection = connect().await.map_err(|error| format!("{error:?}"))?;
    loop {
        let current = *round.borrow();
        if current > ROTATIONS {
            return Ok(());
        }
        let told =
            |what: &dyn std::fmt::Debug| format!("round {current}, a connection kept: {keeps}: {what:?}");
        if !keeps {
            connection = connect().await.map_err(|error| told(&error))?;
        }
        put(&connection, format!("through-{port}"))
            .await
            .map_err(|status| told(&status))?;
        puts.send_modify(|puts| puts[current] += 1);
    }
}

#[tokio::test]
async fn certificates_of_their_own_making_are_enough_to_encrypt() {
    let scratch = tempfile::tempdir().unwrap();
    let data_dir = scratch.path().join("data");
    let ports = Ports::free();
    let mut flags = ports.flags(&data_dir);
    for flag in &mut flags {
        if flag.contains("client-urls=") || flag.contains("peer-urls=") {
            *flag = flag.replace("http://", "https://");
        }
    }
    flags.extend(["--auto-tls".to_owned(), "--peer-auto-tls".to_owned()]);
    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("serving client traffic securely").await;
    let made = Pair {
        certificate: data_dir.join("fixtures/client/cert.pem"),
        key: data_dir.join("fixtures/client/key.pem"),
    };
    assert!(data_dir.join("fixtures/peer/cert.pem").exists());
    let itself = Authority {
        certificate: made.certificate.clone(),
        ..Authority::new(scratch.path(), "unused")
    };
    // A certificate that is its own authority cannot be verified by this client; that it is shown is enough.
    let shown = shake_hands(ports.client, &connector(&itself, None)).await;
    let text = shown
        .map(|_| String::new())
        .unwrap_or_else(|error| error.to_string());
    assert!(text.is_empty() || text.contains("CaUsedAsEndEntity"), "{text}");
    let before = fs::read(&made.certificate).unwrap();
    daemon.stop().await;

    let mut daemon = Daemon::start(&flags, &[]);
    daemon.line("serving client traffic securely").await;
    assert_eq!(fs::read(&made.certificate).unwrap(), before, "it is used again");
    daemon.stop().await;
}

#[tokio::test]
async fn a_unix_socket_serves_clients_and_goes_with_the_member() {
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("kelson.sock");
    // A file that a killed process left.
    fs::write(&socket, "").unwrap();
    let ports = Ports::free();
    let mut flags = ports.flags(&scratch.path().join("data"));
    for flag in &mut flags {
        if flag.contains("client-urls=") {
            flag.push_str(&format!(",unix://{}", socket.display()));
        }
    }
    let daemon = {
        let mut daemon = Daemon::start(&flags, &[]);
        daemon.line("ready to serve client requests").await;
        daemon
    };
    let path = socket.clone();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .unwrap();
    put(&channel, "over-a-socket".to_owned()).await.unwrap();
    daemon.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_start_without_usable_certificates_says_what_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let ours = Authority::new(scratch.path(), "ours");
    let server = ours.issue("server");
    let other = ours.issue("other");
    let ports = Ports::free();
    let https: Vec<String> = ports
        .flags(&scratch.path().join("data"))
        .into_iter()
        .map(|flag| match flag.contains("client-urls=") {
            true => flag.replace("http://", "https://"),
            false => flag,
        })
        .collect();
    let cert = format!("--cert-file={}", server.certificate.display());
    let key = format!("--key-file={}", server.key.display());
    for (more, words) in [
        (
            vec![],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1",
        ),
        (
            vec![cert.clone()],
            "KeyFile and CertFile must both be present[key: , cert: ",
        ),
        (
            vec![cert.clone(), format!("--key-file={}", other.key.display())],
            "keys may not be consistent",
        ),
        (
            vec![
                cert.clone(),
                key.clone(),
                "--trusted-ca-file=/nowhere/ca.crt".to_owned(),
            ],
            "/nowhere/ca.crt",
        ),
        (
            vec![cert.clone(), key.clone(), "--tls-min-version=TLS1.1".to_owned()],
            r#"unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"#,
        ),
        (
            vec![cert.clone(), key.clone(), "--cipher-suites=ROT13".to_owned()],
            r#"unexpected TLS cipher suite \"ROT13\""#,
        ),
        (
            vec![cert, key, "--client-cert-auth".to_owned()],
            "--client-cert-auth needs --trusted-ca-file",
        ),
    ] {
        let flags: Vec<String> = https.iter().chain(&more).cloned().collect();
        let ended = crate::process::run_owned(&flags, &[]).await;
        assert_eq!(ended.code, Some(1), "{more:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{more:?}: {}", ended.stderr);
    }
}
