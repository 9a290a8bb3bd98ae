//! A server process of the benchmark's own: one member on free ports in a fresh directory.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use kelson_proto::etcdserverpb::RangeRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load;

/// How long a server may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// One member, killed when dropped.
pub struct Server {
    binary: String,
    directory: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    child: Child,
}

impl Server {
    /// Starts `binary` with etcd's flags and waits until it answers a linearizable read.
    pub async fn start(binary: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let child = spawn(binary, directory.path().join("data"), client_port, peer_port)?;
        let server = Self {
            binary: binary.to_owned(),
            directory,
            client_port,
            peer_port,
            child,
        };
        server.wait().await?;
        Ok(server)
    }

    /// A connection to it.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let channels = load::connect(&[format!("127.0.0.1:{}", self.client_port)]).await?;
        channels
            .into_iter()
            .next()
            .context("one endpoint gives one connection")
    }

    /// Kills it as a power cut would kill the process, starts it again, and returns how long it took to answer.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.child.kill().await?;
        let started = Instant::now();
        self.child = spawn(
            &self.binary,
            self.directory.path().join("data"),
            self.client_port,
            self.peer_port,
        )?;
        self.wait().await?;
        Ok(started.elapsed())
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("the server has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    async fn wait(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(channel) = self.connect().await {
                let request = RangeRequest {
                    key: "ready".into(),
                    ..RangeRequest::default()
                };
                if KvClient::new(channel).range(request).await.is_ok() {
                    return Ok(());
                }
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{} did not serve within {START_TIMEOUT:?}",
                self.binary
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn spawn(binary: &str, data: PathBuf, client_port: u16, peer_port: u16) -> anyhow::Result<Child> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client_port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    Command::new(binary)
        .arg("--data-dir")
        .arg(data)
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--quota-backend-bytes", "17179869184", "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {binary}"))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
