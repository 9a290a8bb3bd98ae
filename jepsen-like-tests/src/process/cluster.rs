//! The members: child processes that are started, killed, paused, and asked how they are.
//!
//! A member that ends without being told to is noted with what it said last: for most faults that alone fails the
//! episode. Children die with the driver.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kelson_proto::etcdserverpb as pb;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::admin::Admin;
use super::damage;
use super::network::Network;
use super::proxy::Delay;
use super::shaping;

/// Longest that a whole cluster may take to serve, on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const POLL_EVERY: Duration = Duration::from_millis(25);

/// Clients' port of every member that has an address of its own.
const CLIENT_PORT: u16 = 2379;

/// Members' port.
const PEER_PORT: u16 = 2380;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server to run; it must take etcd's flags.
    pub binary: PathBuf,
    /// Number of members.
    pub members: usize,
    /// Data and logs are made below.
    pub directory: PathBuf,
    /// Flags added to the usual ones.
    pub flags: Vec<String>,
    /// Clients and members talk through proxies that can add latency. Needs a network.
    pub proxied: bool,
    /// Give each member a small disk of its own, so that it can be filled. Needs a mount namespace.
    pub small_disks: bool,
    /// Preload the wall clock of members from [`Cluster::clock_file`]. Needs libfaketime.
    pub fake_clock: Option<PathBuf>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    network: Option<Arc<Network>>,
    places: Vec<Place>,
    members: Vec<Mutex<Member>>,
    delays: Vec<Arc<Delay>>,
    _proxies: JoinSet<()>,
}

/// Where a member is reached.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The member's own client address.
    client: SocketAddr,
    peer: SocketAddr,
    /// The address clients are to use: the member's, or a proxy's.
    shown: SocketAddr,
}

#[derive(Debug, Default)]
struct Member {
    child: Option<Child>,
    /// Ends that nobody asked for.
    surprises: Vec<String>,
    starts: usize,
}

impl Cluster {
    /// Starts all members and waits until each serves.
    ///
    /// # Errors
    ///
    /// If a process cannot be started, ends, or does not serve in time.
    pub async fn start(settings: Settings, network: Option<Arc<Network>>) -> Result<Cluster> {
        let mut places = (0..settings.members)
            .map(|member| place(network.as_deref(), member))
            .collect::<Result<Vec<Place>>>()?;
        let mut proxies = JoinSet::new();
        let delays: Vec<Arc<Delay>> = places.iter().map(|_| Arc::default()).collect();
        if let (true, Some(network)) = (settings.proxied, &network) {
            for member in 0..places.len() {
                places[member].shown =
                    shaping::client_proxy(places[member].client, &delays[member], &mut proxies).await?;
            }
            let peers: Vec<SocketAddr> = places.iter().map(|place| place.peer).collect();
            for (member, delay) in delays.iter().enumerate() {
                shaping::peer_proxies(network, member, &peers, delay, &mut proxies)?;
            }
        }
        let cluster = Cluster {
            members: places.iter().map(|_| Mutex::default()).collect(),
            settings,
            network,
            places,
            delays,
            _proxies: proxies,
        };
        if cluster.settings.fake_clock.is_some() {
            std::fs::write(cluster.clock_file(), "+0s\n")?;
        }
        for member in 0..cluster.size() {
            if cluster.settings.small_disks {
                damage::mount_small_disk(&cluster.data(member))?;
            }
            cluster.spawn(member)?;
        }
        cluster.wait_until_healthy(START_PATIENCE).await?;
        Ok(cluster)
    }

    /// Number of members, running or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The namespaces, if there are any.
    #[must_use]
    pub fn network(&self) -> Option<&Arc<Network>> {
        self.network.as_ref()
    }

    /// `host:port` that clients of a member use.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> SocketAddr {
        self.places[member].shown
    }

    /// A member's address among members.
    #[must_use]
    pub fn address(&self, member: usize) -> SocketAddr {
        self.places[member].peer
    }

    /// Asks a member about itself.
    #[must_use]
    pub fn admin(&self, member: usize) -> Admin {
        Admin::of(self.places[member].client)
    }

    /// What delays everything that passes through a member's proxies.
    #[must_use]
    pub fn delay(&self, member: usize) -> &Arc<Delay> {
        &self.delays[member]
    }

    /// A member's data directory.
    #[must_use]
    pub fn data(&self, member: usize) -> PathBuf {
        self.settings.directory.join(format!("m{member}"))
    }

    /// A member's log, of all its processes.
    #[must_use]
    pub fn log(&self, member: usize) -> PathBuf {
        self.settings.directory.join(format!("m{member}.log"))
    }

    /// The file that members' preloaded clock reads, for clusters that have one.
    #[must_use]
    pub fn clock_file(&self) -> PathBuf {
        self.settings.directory.join("clock")
    }

    /// Starts a member that does not run, and does not wait for it. Nothing happens if it runs.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub fn spawn(&self, index: usize) -> Result<()> {
        let mut member = self.member(index);
        if member.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.log(index))?;
        let mut command = match &self.network {
            Some(network) => network.of(index).command(&self.settings.binary),
            None => Command::new(&self.settings.binary),
        };
        command
            .args(self.flags(index))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        if let Some(library) = &self.settings.fake_clock {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.clock_file())
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        // SAFETY: prctl is async-signal-safe. The signal comes when the thread that started the child ends: the
        // driver's main thread, see `episode`.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.settings.binary.display()))?;
        member.child = Some(child);
        member.starts += 1;
        Ok(())
    }

    fn flags(&self, index: usize) -> Vec<String> {
        let founders: Vec<String> = (0..self.size())
            .map(|member| format!("m{member}=http://{}", self.places[member].peer))
            .collect();
        let Place { client, peer, .. } = self.places[index];
        let mut flags = vec![
            format!("--name=m{index}"),
            format!("--data-dir={}", self.data(index).display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster={}", founders.join(",")),
            "--initial-cluster-token=kelson-jepsen".to_owned(),
        ];
        flags.extend(self.settings.flags.iter().cloned());
        flags
    }

    /// SIGKILL, and waits for the end. True if the member ran and that is what ended it.
    pub fn kill(&self, index: usize) -> bool {
        let mut member = self.member(index);
        let Some(mut child) = member.child.take() else {
            return false;
        };
        let ended_before = child.try_wait().ok().flatten();
        let _ = child.kill();
        let status = child.wait();
        if let Some(status) = ended_before {
            member.surprises.push(format!("member {index} ended: {status}"));
            return false;
        }
        status.is_ok_and(|status| status.signal() == Some(libc::SIGKILL))
    }

    /// SIGSTOP or SIGCONT. False if the member does not run.
    pub fn signal(&self, index: usize, signal: i32) -> bool {
        let member = self.member(index);
        let Some(child) = &member.child else { return false };
        let Ok(pid) = libc::pid_t::try_from(child.id()) else {
            return false;
        };
        // SAFETY: a plain system call on a child that has not been waited for.
        unsafe { libc::kill(pid, signal) == 0 }
    }

    /// Whether the kernel shows the member as stopped.
    #[must_use]
    pub fn is_paused(&self, index: usize) -> bool {
        let member = self.member(index);
        let Some(child) = &member.child else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    /// Whether a member's process lives. One that ended by itself is noted.
    pub fn is_running(&self, index: usize) -> bool {
        let mut member = self.member(index);
        let Some(child) = &mut member.child else {
            return false;
        };
        match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                let said = last_line(&self.log(index));
                member.child = None;
                member
                    .surprises
                    .push(format!("member {index} ended: {status}: {said}"));
                false
            }
            Err(_) => false,
        }
    }

    /// Ends of processes that nobody asked for, since the last call.
    pub fn take_surprises(&self) -> Vec<String> {
        let mut all = Vec::new();
        for index in 0..self.size() {
            self.is_running(index);
            all.append(&mut self.member(index).surprises);
        }
        all
    }

    /// Forgets how a member ended: a fault that allows it has seen it.
    pub fn forgive(&self, index: usize) {
        self.is_running(index);
        self.member(index).surprises.clear();
    }

    /// Whether the member runs with the preloaded clock.
    #[must_use]
    pub fn has_fake_clock(&self, index: usize) -> bool {
        let member = self.member(index);
        let Some(child) = &member.child else { return false };
        std::fs::read_to_string(format!("/proc/{}/maps", child.id()))
            .is_ok_and(|maps| maps.contains("libfaketime"))
    }

    /// Waits until every running member knows the leader and answers a linearizable read.
    ///
    /// # Errors
    ///
    /// If one does not within `patience`, or ends meanwhile.
    pub async fn wait_until_healthy(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for index in 0..self.size() {
            let admin = self.admin(index);
            loop {
                if !self.is_running(index) {
                    bail!("member {index} ended: {}", last_line(&self.log(index)));
                }
                if admin.is_healthy().await {
                    break;
                }
                if Instant::now() > deadline {
                    bail!(
                        "member {index} does not serve after {patience:?}: {}",
                        last_line(&self.log(index))
                    );
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    /// What every member that answers says of itself.
    pub async fn statuses(&self) -> Vec<Option<pb::StatusResponse>> {
        let asked = (0..self.size()).map(|index| {
            let admin = self.admin(index);
            async move { admin.status().await.ok() }
        });
        futures::future::join_all(asked).await
    }

    /// The member that leads, by the newest term that anybody knows of.
    pub async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let newest = statuses
            .iter()
            .flatten()
            .filter(|status| status.leader != 0)
            .max_by_key(|status| status.raft_term)?;
        statuses.iter().position(|status| {
            let header = status.as_ref().and_then(|status| status.header.as_ref());
            header.is_some_and(|header| header.member_id == newest.leader)
        })
    }

    fn member(&self, index: usize) -> MutexGuard<'_, Member> {
        self.members[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.size() {
            self.kill(index);
            if self.settings.small_disks {
                // What is still busy goes with the mount namespace.
                let _ = damage::unmount(&self.data(index));
            }
        }
    }
}

/// Addresses of a member: its own in a namespace, free ports of loopback elsewhere.
fn place(network: Option<&Network>, member: usize) -> Result<Place> {
    let (client, peer) = match network {
        Some(network) => {
            let address = network.of(member).address();
            (
                SocketAddr::from((address, CLIENT_PORT)),
                SocketAddr::from((address, PEER_PORT)),
            )
        }
        None => {
            let ports = kelson_ports::free_ports(2)?;
            let on_loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            (on_loopback(ports[0]), on_loopback(ports[1]))
        }
    };
    Ok(Place {
        client,
        peer,
        shown: client,
    })
}

/// The last line of a log, for messages.
#[must_use]
pub fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("(nothing logged)").to_owned()
}
