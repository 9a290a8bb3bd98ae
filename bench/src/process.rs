//! Server processes of the benchmark's own: members on free ports of this machine, in fresh directories, and what they
//! use of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use kelson_ports::free_ports;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kelson_proto::etcdserverpb::{RangeRequest, StatusRequest, StatusResponse};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load;

/// How long a server may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// What files are counted in.
const BLOCK_BYTES: u64 = 512;

/// One member, killed when dropped.
pub struct Server {
    binary: String,
    data: PathBuf,
    _directory: Option<tempfile::TempDir>,
    name: String,
    ports: Ports,
    initial_cluster: String,
    child: Child,
}

#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    peer: u16,
}

/// What a member has used since it was started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, in the program and in the system for it.
    pub cpu: Duration,
    /// Memory that it has resident, in bytes.
    pub resident_bytes: u64,
    /// The most that it ever had, or since [`Cluster::forget_peaks`].
    pub peak_resident_bytes: u64,
}

impl Server {
    /// Starts one member alone and waits until it answers a linearizable read.
    pub async fn start_one(binary: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut servers = start(binary, directory.path(), 1)?;
        let mut server = servers.pop().context("one was started")?;
        server._directory = Some(directory);
        server.wait().await?;
        Ok(server)
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// A connection to it.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let channels = load::connect(&[self.endpoint()], 1).await?;
        channels
            .into_iter()
            .next()
            .context("one endpoint gives one connection")
    }

    /// Kills it as a power cut would kill the process, starts it again, and returns how long it took to answer.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.child.kill().await?;
        let started = Instant::now();
        self.child = self.spawn()?;
        self.wait().await?;
        Ok(started.elapsed())
    }

    /// Stops it in order, starts it again, and returns how long it took from the signal until it answered.
    pub async fn stop_and_start(&mut self) -> anyhow::Result<Duration> {
        let pid = self.child.id().context("the member has ended")?;
        let stopped = Instant::now();
        // The standard library has no other signal than SIGKILL.
        let asked = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        anyhow::ensure!(asked.success(), "kill -TERM {pid} ended with {asked}");
        self.child.wait().await?;
        self.child = self.spawn()?;
        self.wait().await?;
        Ok(stopped.elapsed())
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// What it has used so far. Linux only.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Ok(Usage {
            cpu: cpu_of(&self.proc("stat")?, OWN_TICKS)?,
            resident_bytes: self.memory("VmRSS:")?,
            peak_resident_bytes: self.memory("VmHWM:")?,
        })
    }

    fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find(|line| line.starts_with(field));
        let line = line.with_context(|| format!("no {field}"))?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let pid = self
            .child
            .id()
            .with_context(|| format!("{} {} has ended", self.binary, self.name))?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    async fn status(&self) -> anyhow::Result<StatusResponse> {
        let mut client = MaintenanceClient::new(self.connect().await?);
        Ok(client.status(StatusRequest {}).await?.into_inner())
    }

    /// What its database takes of the disk, and what of that it says it has in use; both in bytes.
    async fn database_bytes(&self) -> anyhow::Result<(u64, u64)> {
        let in_use = self.status().await?.db_size_in_use;
        let file = std::fs::metadata(self.data.join("member/snap/db"))?;
        Ok((file.blocks() * BLOCK_BYTES, in_use.try_into()?))
    }

    async fn leads(&self) -> anyhow::Result<bool> {
        let status = self.status().await?;
        let id = status.header.context("a reply without a header")?.member_id;
        Ok(status.leader == id)
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

    fn spawn(&self) -> anyhow::Result<Child> {
        spawn(
            &self.binary,
            &self.data,
            &self.name,
            self.ports,
            &self.initial_cluster,
        )
    }
}

/// Linux counts a hundred ticks a second towards programs, on every machine.
const MILLIS_PER_TICK: u64 = 10;

/// The 14th to 17th fields of stat are ticks in a program and in the system for it, and those of its children that have
/// ended.
const OWN_TICKS: usize = 2;
const OWN_AND_CHILDRENS_TICKS: usize = 4;

/// Processor time so far of this process and of the tools that it ran to their end.
pub fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of(
        &std::fs::read_to_string("/proc/self/stat")?,
        OWN_AND_CHILDRENS_TICKS,
    )
}

/// Bytes written so far to the disk that holds `directory`, by whomever: what the system counts towards programs is
/// whole folios of its cache, a thousand times what a small write into a large file comes to. None where the directory
/// is on no disk of its own, as in memory.
pub fn disk_written(directory: &Path) -> anyhow::Result<Option<u64>> {
    const SECTOR_BYTES: u64 = 512;
    let device = std::fs::metadata(directory)?.dev();
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let Ok(stat) = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")) else {
        return Ok(None);
    };
    let sectors = stat.split_whitespace().nth(6).context("no sectors written")?;
    Ok(Some(sectors.parse::<u64>()? * SECTOR_BYTES))
}

/// Blocks taken by all files below a directory, in bytes. A file that goes meanwhile counts for nothing.
fn bytes_below(directory: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += bytes_below(&entry.path())?,
            Ok(metadata) => sum += metadata.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sum)
}

fn cpu_of(stat: &str, fields: usize) -> anyhow::Result<Duration> {
    let wanted = fields;
    // The second field is the program's name in parentheses.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut millis = 0;
    for ticks in fields.split_whitespace().skip(11).take(wanted) {
        millis += ticks.parse::<u64>()? * MILLIS_PER_TICK;
    }
    Ok(Duration::from_millis(millis))
}

/// A cluster of members with equal flags, in one directory, killed when dropped.
pub struct Cluster {
    members: Vec<Server>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// Starts `members` of them below `parent`, and waits until each answers a linearizable read.
    pub async fn start(binary: &str, members: usize, parent: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(parent)?;
        let members = start(binary, directory.path(), members)?;
        for member in &members {
            member.wait().await?;
        }
        Ok(Self {
            members,
            _directory: directory,
        })
    }

    /// Where clients find the members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Server::endpoint).collect()
    }

    /// The number of the member that leads.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            for (number, member) in self.members.iter().enumerate() {
                if member.leads().await.unwrap_or(false) {
                    return Ok(number);
                }
            }
            anyhow::ensure!(Instant::now() < deadline, "nobody led within {START_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills a member as kill -9 does.
    pub async fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        Ok(self.members[member].child.kill().await?)
    }

    /// Starts a killed member again and waits until it serves.
    pub async fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        let member = &mut self.members[member];
        member.child = member.spawn()?;
        member.wait().await
    }

    /// From here on peaks of memory are counted anew.
    pub fn forget_peaks(&self) -> anyhow::Result<()> {
        const PEAK: &str = "5";
        for member in &self.members {
            let pid = member.child.id().context("the member has ended")?;
            std::fs::write(format!("/proc/{pid}/clear_refs"), PEAK)?;
        }
        Ok(())
    }

    /// What the files of all members take of the disk, in bytes.
    pub fn file_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for member in &self.members {
            sum += bytes_below(&member.data)?;
        }
        Ok(sum)
    }

    /// How many times the bytes in use the database of a member takes of the disk, of the one where that is most.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
    pub async fn database_over_used(&self) -> anyhow::Result<f64> {
        let mut most = 0.0;
        for member in &self.members {
            let (file, in_use) = member.database_bytes().await?;
            most = f64::max(most, file as f64 / in_use.max(1) as f64);
        }
        Ok(most)
    }

    /// What all members have used together; of memory, what the one with the most had.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for member in &self.members {
            let usage = member.usage()?;
            sum.cpu += usage.cpu;
            sum.resident_bytes = sum.resident_bytes.max(usage.resident_bytes);
            sum.peak_resident_bytes = sum.peak_resident_bytes.max(usage.peak_resident_bytes);
        }
        Ok(sum)
    }
}

fn start(binary: &str, directory: &Path, members: usize) -> anyhow::Result<Vec<Server>> {
    let ports = free_ports(2 * members)?;
    let ports: Vec<Ports> = ports
        .chunks_exact(2)
        .map(|pair| Ports {
            client: pair[0],
            peer: pair[1],
        })
        .collect();
    let name = |number: usize| format!("m{number}");
    let all: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(number, ports)| format!("{}=http://127.0.0.1:{}", name(number), ports.peer))
        .collect();
    let initial_cluster = all.join(",");
    let servers = ports.iter().enumerate().map(|(number, ports)| {
        let (name, data) = (name(number), directory.join(name(number)));
        Ok(Server {
            child: spawn(binary, &data, &name, *ports, &initial_cluster)?,
            binary: binary.to_owned(),
            data,
            _directory: None,
            name,
            ports: *ports,
            initial_cluster: initial_cluster.clone(),
        })
    });
    servers.collect()
}

fn spawn(
    binary: &str,
    data: &Path,
    name: &str,
    ports: Ports,
    initial_cluster: &str,
) -> anyhow::Result<Child> {
    let (client, peer) = (
        format!("http://127.0.0.1:{}", ports.client),
        format!("http://127.0.0.1:{}", ports.peer),
    );
    Command::new(binary)
        .args(["--name", name, "--data-dir"])
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
        .args(["--initial-cluster", initial_cluster])
        .args(["--quota-backend-bytes", "17179869184", "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {binary}"))
}
