//! Clusters of one or three members, started for a test or lent by the environment.

use std::path::PathBuf;

use kelson_ports::free_ports;
use kelson_proto::etcdserverpb as pb;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use super::client::Client;
use super::process::Process;
use super::{PATIENCE, eventually};

/// Times a cluster is started anew because another process took one of its ports.
const START_ATTEMPTS: usize = 5;

/// Tests that share the cluster of `KELSON_API_ENDPOINTS` take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// A running cluster that belongs to one test for as long as it lives.
pub struct Cluster {
    members: Vec<Running>,
    _turn: Option<MutexGuard<'static, ()>>,
    _directory: Option<TempDir>,
}

struct Running {
    endpoint: String,
    flags: Vec<String>,
    log: PathBuf,
    /// None for a member we did not start, and for one that was killed.
    process: Option<Process>,
}

impl Cluster {
    /// One member without keys or leases; its revision may be any.
    pub async fn single() -> Cluster {
        Cluster::shared(1).await
    }

    /// Three members without keys or leases; their revision may be any.
    pub async fn three() -> Cluster {
        Cluster::shared(3).await
    }

    async fn shared(size: usize) -> Cluster {
        let endpoints = std::env::var("KELSON_API_ENDPOINTS").unwrap_or_default();
        let endpoints: Vec<&str> = endpoints
            .split(',')
            .filter(|endpoint| !endpoint.is_empty())
            .collect();
        if endpoints.len() < size {
            return Cluster::fresh(size, &[]).await;
        }
        let turn = TURN.lock().await;
        let lent = |endpoint: &str| Running {
            endpoint: endpoint.to_owned(),
            flags: Vec::new(),
            log: PathBuf::new(),
            process: None,
        };
        let members = endpoints.into_iter().map(lent).collect();
        let mut cluster = Cluster {
            members,
            _turn: Some(turn),
            _directory: None,
        };
        // The leader first: a test of one member expects one that leads.
        let leader = cluster.leader(0).await;
        cluster.members.swap(0, leader);
        cluster.members.truncate(size);
        cluster.client(0).wipe().await;
        cluster
    }

    /// `size` members on an empty store, started for this test with `flags` added to the usual ones.
    pub async fn fresh(size: usize, flags: &[&str]) -> Cluster {
        for _ in 0..START_ATTEMPTS {
            if let Some(cluster) = Cluster::try_start(size, flags).await {
                return cluster;
            }
        }
        panic!("no cluster after {START_ATTEMPTS} attempts");
    }

    async fn try_start(size: usize, extra: &[&str]) -> Option<Cluster> {
        let directory = TempDir::with_prefix("kelson-api-").expect("scratch space is writable");
        let ports = free_ports(2 * size).expect("a machine has free ports");
        let (client_ports, peer_ports) = ports.split_at(size);
        let initial_cluster: Vec<String> = peer_ports
            .iter()
            .enumerate()
            .map(|(index, port)| format!("m{index}=http://127.0.0.1:{port}"))
            .collect();
        let members = (0..size).map(|index| {
            let client_url = format!("http://127.0.0.1:{}", client_ports[index]);
            let peer_url = format!("http://127.0.0.1:{}", peer_ports[index]);
            let name = format!("m{index}");
            let mut flags = vec![
                format!("--name={name}"),
                format!("--data-dir={}", directory.path().join(&name).display()),
                format!("--listen-client-urls={client_url}"),
                format!("--advertise-client-urls={client_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster={}", initial_cluster.join(",")),
            ];
            flags.extend(extra.iter().map(|flag| (*flag).to_owned()));
            let log = directory.path().join(format!("{name}.log"));
            let process = Some(Process::start(&flags, &log));
            Running {
                endpoint: format!("127.0.0.1:{}", client_ports[index]),
                flags,
                log,
                process,
            }
        });
        let mut cluster = Cluster {
            members: members.collect(),
            _turn: None,
            _directory: Some(directory),
        };
        cluster.wait_until_ready().await.then_some(cluster)
    }

    /// Waits until every running member knows the leader and every member has published its name. False if
    /// a process ended meanwhile.
    async fn wait_until_ready(&mut self) -> bool {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for index in 0..self.members.len() {
            if self.members[index].process.is_none() {
                continue;
            }
            let client = self.client(index);
            let mut pause = std::time::Duration::from_millis(10);
            while !is_ready(&client).await {
                let process = self.members[index].process.as_mut().expect("checked above");
                if process.has_ended() {
                    eprintln!("member {index} ended at start:\n{}", process.log_tail());
                    return false;
                }
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "member {index} is not ready:\n{}",
                    process.log_tail()
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(std::time::Duration::from_millis(200));
            }
        }
        true
    }

    /// Number of members, running or not.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// `host:port` of a member.
    pub fn endpoint(&self, index: usize) -> &str {
        &self.members[index].endpoint
    }

    /// `host:port` that a member listens on for its peers; none if the test did not start it.
    pub fn peer_endpoint(&self, index: usize) -> Option<&str> {
        let flags = &self.members[index].flags;
        flags
            .iter()
            .find_map(|flag| flag.strip_prefix("--listen-peer-urls=http://"))
    }

    /// Memory that a member's process holds, in bytes; none if it has ended, or the test did not start it.
    pub fn resident_bytes(&self, index: usize) -> Option<u64> {
        self.members[index].process.as_ref()?.resident_bytes()
    }

    /// What a member logged; nothing if the test did not start it.
    pub fn log(&self, index: usize) -> String {
        let process = self.members[index].process.as_ref();
        process.map(Process::log).unwrap_or_default()
    }

    /// The end of it.
    pub fn log_tail(&self, index: usize) -> String {
        let process = self.members[index].process.as_ref();
        process.map(Process::log_tail).unwrap_or_default()
    }

    /// A client that talks to one member only.
    pub fn client(&self, index: usize) -> Client {
        Client::of(&self.members[index].endpoint)
    }

    /// Ends a member without warning.
    pub fn kill(&mut self, index: usize) {
        let process = self.members[index].process.take();
        assert!(
            process.is_some(),
            "only a member started by this test can be killed"
        );
    }

    /// Starts a killed member again and waits until it serves.
    pub async fn restart(&mut self, index: usize) {
        let member = &mut self.members[index];
        assert!(member.process.is_none(), "the member runs");
        member.process = Some(Process::start(&member.flags, &member.log));
        assert!(self.wait_until_ready().await, "a member did not come back");
    }

    /// Starts every killed member and waits until all serve.
    pub async fn restart_all(&mut self) {
        for member in &mut self.members {
            if member.process.is_none() {
                member.process = Some(Process::start(&member.flags, &member.log));
            }
        }
        assert!(self.wait_until_ready().await, "a member did not come back");
    }

    /// Index of the member that leads, asked of member `of`, once it knows one.
    pub async fn leader(&self, of: usize) -> usize {
        let leader = eventually("a leader", || async {
            let status = self.client(of).status().await.ok()?;
            (status.leader != 0).then_some(status.leader)
        })
        .await;
        for index in 0..self.members.len() {
            if let Ok(status) = self.client(index).status().await
                && status.header.expect("header").member_id == leader
            {
                return index;
            }
        }
        panic!("leader {leader:x} is not among the members that answer");
    }

    /// Index of a member that does not lead.
    pub async fn follower(&self) -> usize {
        (self.leader(0).await + 1) % self.members.len()
    }

    /// Flags of a member, to start another one like it.
    pub fn flags(&self, index: usize) -> &[String] {
        &self.members[index].flags
    }
}

async fn is_ready(client: &Client) -> bool {
    let Ok(status) = client.status().await else {
        return false;
    };
    let Ok(members) = client
        .cluster()
        .member_list(pb::MemberListRequest { linearizable: true })
        .await
    else {
        return false;
    };
    status.leader != 0
        && members
            .into_inner()
            .members
            .iter()
            .all(|member| !member.name.is_empty())
}
