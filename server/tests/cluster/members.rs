//! A cluster of real processes: started, killed, stopped, continued, asked how it is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use kelson_ports::free_ports;
use kelson_proto::etcdserverpb as pb;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::harness::Client;
use crate::harness::client::single;
use crate::netns::Networks;
use crate::settings::{MEMBERS, keeps_data, scratch};

/// Longest that anything a test waits for may take, on a busy machine with an unoptimised build.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Longest that one question to a member may take before it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between two questions.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Times a cluster is started anew because another process took one of its ports.
const START_ATTEMPTS: usize = 5;

/// The machine carries one cluster under load at a time, or figures would mean nothing.
static TURN: Mutex<()> = Mutex::const_new(());

/// A cluster that belongs to one test. Its processes end with it.
pub struct Members {
    members: Vec<Member>,
    networks: Option<Networks>,
    _directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Where a member listens.
struct Place {
    /// `host:port` for clients and for peers.
    client: String,
    peer: String,
    /// `host:port` of its fail points, inside its namespace.
    fail_points: String,
    /// Network namespace it runs in; none: the test's own.
    namespace: Option<String>,
}

struct Member {
    binary: PathBuf,
    namespace: Option<String>,
    endpoint: String,
    flags: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    /// `host:port` of its fail points.
    fail_points: String,
    child: Option<Child>,
}

impl Members {
    /// Starts a new cluster and waits until every member serves.
    pub async fn start(binary: &Path, flags: &[&str]) -> Members {
        let mut turn = TURN.lock().await;
        for _ in 0..START_ATTEMPTS {
            let mut cluster = Members::prepare(binary, flags, &on_loopback(), turn);
            if cluster.start_all().await {
                return cluster;
            }
            turn = cluster.into_turn();
        }
        panic!("no cluster after {START_ATTEMPTS} attempts");
    }

    /// Starts a new cluster with each member in a network namespace of its own.
    pub async fn start_apart(binary: &Path, networks: Networks) -> Members {
        let turn = TURN.lock().await;
        let places: Vec<Place> = (0..MEMBERS)
            .map(|index| Place {
                client: networks.client(index),
                peer: networks.peer(index),
                fail_points: "127.0.0.1:22381".to_owned(),
                namespace: Some(networks.namespace(index)),
            })
            .collect();
        let mut cluster = Members::prepare(binary, &[], &places, turn);
        cluster.networks = Some(networks);
        assert!(cluster.start_all().await, "a member ended instead of serving");
        cluster
    }

    async fn start_all(&mut self) -> bool {
        for index in 0..MEMBERS {
            self.spawn(index);
        }
        self.are_healthy_in_time().await
    }

    fn prepare(binary: &Path, extra: &[&str], places: &[Place], turn: MutexGuard<'static, ()>) -> Members {
        let mut directory =
            TempDir::with_prefix_in("cluster-", scratch()).expect("scratch space is writable");
        directory.disable_cleanup(keeps_data());
        let founders: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(index, place)| format!("m{index}=http://{}", place.peer))
            .collect();
        let members = places.iter().enumerate().map(|(index, place)| {
            let data = directory.path().join(format!("m{index}"));
            let mut flags = vec![
                format!("--name=m{index}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls=http://{}", place.client),
                format!("--advertise-client-urls=http://{}", place.client),
                format!("--listen-peer-urls=http://{}", place.peer),
                format!("--initial-advertise-peer-urls=http://{}", place.peer),
                format!("--initial-cluster={}", founders.join(",")),
            ];
            flags.extend(extra.iter().map(|&flag| flag.to_owned()));
            Member {
                binary: binary.to_owned(),
                namespace: place.namespace.clone(),
                endpoint: place.client.clone(),
                flags,
                data,
                log: directory.path().join(format!("m{index}.log")),
                fail_points: place.fail_points.clone(),
                child: None,
            }
        });
        Members {
            members: members.collect(),
            networks: None,
            _directory: directory,
            _turn: turn,
        }
    }

    fn into_turn(mut self) -> MutexGuard<'static, ()> {
        self.members.clear();
        self._turn
    }

    /// Prepares a new cluster of which no member runs yet.
    pub async fn prepared(binary: &Path, flags: &[&str]) -> Members {
        let turn = TURN.lock().await;
        Members::prepare(binary, flags, &on_loopback(), turn)
    }

    /// Starts a member that does not run, and does not wait for it.
    pub fn spawn(&mut self, index: usize) {
        self.spawn_armed(index, "");
    }

    /// As [`Members::spawn`], with fail points that are armed from the start: `name=terms`, separated by `;`.
    pub fn spawn_armed(&mut self, index: usize, fail_points: &str) {
        let member = &mut self.members[index];
        assert!(member.child.is_none(), "the member runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&member.log)
            .expect("scratch space is writable");
        let mut command = member.command();
        command
            .args(&member.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command
            .env("KELSON_REACHED", member.marks())
            .env("GOFAIL_HTTP", &member.fail_points)
            .env("GOFAIL_FAILPOINTS", fail_points);
        member.child = Some(command.spawn().expect("the binary can be started"));
    }

    /// Whether a member has reached this mark of `kelson_storage::reached`.
    pub fn has_reached(&self, mark: &str) -> bool {
        let marks = std::fs::read_to_string(self.members[0].marks()).unwrap_or_default();
        marks.lines().any(|line| line == mark)
    }

    /// SIGKILL, also to a member that is stopped.
    pub fn kill(&mut self, index: usize) {
        self.members[index].end();
    }

    /// SIGTERM: the member ends in order.
    pub fn terminate(&self, index: usize) {
        self.signal(index, libc::SIGTERM);
    }

    /// The member's peer link goes dead, without a word to either side. Only for members started apart.
    pub fn cut(&self, index: usize) {
        self.networks.as_ref().expect("members apart").cut(index);
    }

    /// The member's peer link works again.
    pub fn heal(&self, index: usize) {
        self.networks.as_ref().expect("members apart").heal(index);
    }

    /// SIGSTOP: the process keeps its memory and its connections and does nothing.
    pub fn stop(&self, index: usize) {
        self.signal(index, libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) {
        self.signal(index, libc::SIGCONT);
    }

    fn signal(&self, index: usize, signal: i32) {
        let child = self.members[index].child.as_ref().expect("the member runs");
        let pid = libc::pid_t::try_from(child.id()).expect("a process id");
        // SAFETY: plain system call on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// How the member's process ended, if it has.
    pub fn ended(&mut self, index: usize) -> Option<ExitStatus> {
        let child = self.members[index].child.as_mut()?;
        let status = child.try_wait().expect("own child can be waited for")?;
        self.members[index].child = None;
        Some(status)
    }

    /// Waits until every running member knows the leader and answers a linearizable read.
    pub async fn wait_until_healthy(&mut self) {
        assert!(
            self.are_healthy_in_time().await,
            "a member ended instead of serving"
        );
    }

    async fn are_healthy_in_time(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        for index in 0..MEMBERS {
            while self.members[index].child.is_some() && !self.is_healthy(index).await {
                if let Some(status) = self.ended(index) {
                    eprintln!("member {index} ended ({status}):\n{}", self.log_tail(index));
                    return false;
                }
                assert!(
                    Instant::now() < deadline,
                    "member {index} does not serve:\n{}",
                    self.log_tail(index)
                );
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        true
    }

    /// Whether a member knows the leader and answers a linearizable read.
    pub async fn is_healthy(&self, index: usize) -> bool {
        let client = self.client(index);
        let healthy = async {
            client.status().await.is_ok_and(|status| status.leader != 0)
                && client.range(single("any")).await.is_ok()
        };
        tokio::time::timeout(ANSWER_TIMEOUT, healthy)
            .await
            .unwrap_or(false)
    }

    /// The member that leads, once `of` knows one other than `not`.
    pub async fn leader(&self, of: usize, not: Option<usize>) -> usize {
        wait_for("a leader", || async {
            let leader = self.status(of).await?.leader;
            let leader = self.index_of(leader).await?;
            (Some(leader) != not).then_some(leader)
        })
        .await
    }

    async fn index_of(&self, id: u64) -> Option<usize> {
        for index in 0..MEMBERS {
            if self.members[index].child.is_some()
                && let Some(status) = self.status(index).await
                && status.header?.member_id == id
            {
                return Some(index);
            }
        }
        None
    }

    /// What a member says of itself; none if it does not answer soon.
    pub async fn status(&self, index: usize) -> Option<pb::StatusResponse> {
        let client = self.client(index);
        tokio::time::timeout(ANSWER_TIMEOUT, client.status())
            .await
            .ok()?
            .ok()
    }

    /// Fails unless all running members hash the history up to `revision` alike. Returns the hash.
    pub async fn assert_equal_hashes(&self, revision: i64) -> u32 {
        let mut hashes = Vec::new();
        for index in 0..MEMBERS {
            if self.members[index].child.is_none() {
                continue;
            }
            let client = self.client(index);
            // A member that has not applied the revision yet refuses.
            let reply = wait_for("a hash", || async { client.hash_kv(revision).await.ok() }).await;
            hashes.push((index, reply.hash, reply.hash_revision, reply.compact_revision));
        }
        let (_, hash, at, compacted) = hashes[0];
        assert!(
            hashes
                .iter()
                .all(|found| (found.1, found.2, found.3) == (hash, at, compacted)),
            "members differ at revision {revision}: {hashes:?}"
        );
        hash
    }

    /// A client that talks to one member only.
    pub fn client(&self, index: usize) -> Client {
        Client::of(&self.members[index].endpoint)
    }

    /// `host:port` of the member's fail points.
    pub fn fail_points(&self, index: usize) -> &str {
        &self.members[index].fail_points
    }

    /// `host:port` of each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.endpoint.clone())
            .collect()
    }

    /// The member's data directory.
    pub fn data(&self, index: usize) -> &Path {
        &self.members[index].data
    }

    /// All the member has logged.
    pub fn log(&self, index: usize) -> String {
        std::fs::read_to_string(&self.members[index].log).unwrap_or_default()
    }

    fn log_tail(&self, index: usize) -> String {
        const TAIL_LINES: usize = 15;
        let log = self.log(index);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Free ports of this machine.
fn on_loopback() -> Vec<Place> {
    let ports = free_ports(3 * MEMBERS).expect("a machine has free ports");
    let place = |ports: &[u16]| Place {
        client: format!("127.0.0.1:{}", ports[0]),
        peer: format!("127.0.0.1:{}", ports[1]),
        fail_points: format!("127.0.0.1:{}", ports[2]),
        namespace: None,
    };
    ports.chunks_exact(3).map(place).collect()
}

impl Member {
    /// Where members write down which marks they reach: all of a cluster into one file, or where the caller collects them.
    fn marks(&self) -> PathBuf {
        std::env::var_os("KELSON_REACHED").map_or_else(|| self.log.with_file_name("marks"), PathBuf::from)
    }

    fn command(&self) -> Command {
        let Some(namespace) = &self.namespace else {
            return Command::new(&self.binary);
        };
        // `ip netns exec` becomes the member: its process id is the member's.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(&self.binary);
        command
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _already_ended = child.kill();
            let _status = child.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks until there is an answer, for [`PATIENCE`] in all.
pub async fn wait_for<T, F>(what: &str, mut question: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}
