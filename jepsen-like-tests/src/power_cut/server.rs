//! [`Server`]: a member under test, started and killed; it ends with the test, however that ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kelson_ports::free_ports;
use kelson_proto::etcdserverpb::RangeRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;

use super::load::connect;

/// How long a member may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one question may take before it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two questions.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Server {
    binary: PathBuf,
    flags: Vec<String>,
    client_port: u16,
    log: PathBuf,
    child: Option<Child>,
}

/// Members of one cluster, not started: one per data directory, with their logs in `logs`.
pub(super) fn cluster(binary: &Path, data: &[&Path], logs: &Path) -> anyhow::Result<Vec<Server>> {
    let ports = free_ports(2 * data.len())?;
    let (client_ports, peer_ports) = ports.split_at(data.len());
    let founders: Vec<String> = peer_ports
        .iter()
        .enumerate()
        .map(|(index, port)| format!("m{index}=http://127.0.0.1:{port}"))
        .collect();
    let server = |(index, data): (usize, &&Path)| {
        let client = format!("http://127.0.0.1:{}", client_ports[index]);
        let peer = format!("http://127.0.0.1:{}", peer_ports[index]);
        Server {
            binary: binary.to_owned(),
            flags: vec![
                format!("--name=m{index}"),
                format!("--data-dir={}", data.join("data").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", founders.join(",")),
                // Often enough for cuts to meet checkpoints and purges.
                "--snapshot-count=2000".to_owned(),
            ],
            client_port: client_ports[index],
            log: logs.join(format!("m{index}.log")),
            child: None,
        }
    };
    Ok(data.iter().enumerate().map(server).collect())
}

impl Server {
    /// Where clients reach it.
    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Starts the process and does not wait for it.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGSTOP: it does nothing any more from now on. A call to the kernel that is under way goes on, and whoever made it
    /// never learns how it ended.
    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the member runs")?;
        let pid = libc::pid_t::try_from(child.id())?;
        // SAFETY: a plain system call on a child that has not been waited for.
        let result = unsafe { libc::kill(pid, libc::SIGSTOP) };
        ensure!(result == 0, "SIGSTOP: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// SIGKILL, and waits for the end. One that has ended by itself meanwhile is as good.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Waits until it answers a linearizable read.
    pub(super) async fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut client = KvClient::new(connect(&self.endpoint())?);
        let log = self.log.display();
        loop {
            let request = RangeRequest {
                key: "serves?".into(),
                ..RangeRequest::default()
            };
            if let Ok(Ok(_)) = tokio::time::timeout(ANSWER_TIMEOUT, client.range(request)).await {
                return Ok(());
            }
            let child = self.child.as_mut().context("the member was not started")?;
            if let Some(status) = child.try_wait()? {
                bail!("the member did not start: {status}; its log is {log}");
            }
            if Instant::now() > deadline {
                bail!("the member does not serve after {START_TIMEOUT:?}; its log is {log}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("a member could not be killed: {error:#}");
        }
    }
}
