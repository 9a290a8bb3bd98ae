//! One episode: a cluster, load on it, the faults of a plan, healing, last reads. What it was like is in the history.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::Client;
use super::cluster::{Cluster, Settings};
use super::dump;
use super::fault::Fault;
use super::load::{self, KINDS, Shared};
use super::logs::{self, Counts};
use super::nemesis::Nemesis;
use super::network::Network;
use super::plan::Plan;
use super::probe;
use super::recorder::{Recorder, Tally, index};
use super::server::Server;
use super::summary;
use super::watchers::{BEGINNINGS, Watcher, watch_all};
use crate::history::{History, MEMBERS_FILE, MemberSummary, Phase, write_members};

/// Longest wait for all members to serve after the last fault.
const HEAL_PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for watchers of everything to see the last revision: twice what is promised, so that the checker and not
/// this line judges it.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between compactions while no fault hurries them, in ms.
const COMPACT_EVERY_MS: u64 = 1_500;

/// Where the distribution puts the library that fakes the clock.
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// What an episode left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that happened.
    pub history: History,
    /// Members at the end.
    pub members: Vec<MemberSummary>,
    /// What members' logs tell.
    pub logged: Counts,
    /// Calls of the calm phase.
    pub calm: Tally,
    /// Calls after the last fault.
    pub healed: Tally,
    /// Calls of all phases.
    pub total: Tally,
    /// What the driver saw that must not be.
    pub breaches: Vec<String>,
}

/// Runs an episode. The history and logs are in `directory`.
///
/// Must be called on a thread that lives as long as the members: they end with it.
///
/// # Errors
///
/// If the cluster does not start, or the driver fails. What the cluster did wrong is in the outcome.
pub async fn run(server: &Server, plan: &Plan, directory: &Path, with_network: bool) -> Result<Outcome> {
    let recorder = Arc::new(Recorder::new(directory)?);
    recorder.note(format!("{plan}{} ({})", server.version, server.binary.display()));
    let network = match with_network {
        true => Some(Arc::new(Network::build(plan.members)?)),
        false => None,
    };
    let settings = settings(server, plan, directory, with_network)?;
    let cluster = Arc::new(
        Cluster::start(settings, network)
            .await
            .context("the cluster does not start")?,
    );
    let ids = ids(&cluster).await?;
    for (member, id) in ids.iter().enumerate() {
        recorder.process(member, *id, true);
    }
    let episode = Episode {
        dumper: server.is_kelson().then(|| server.binary.clone()),
        ..Episode::new(cluster, recorder, plan, ids)
    };
    episode.run(directory).await
}

/// Whether this machine has what the plan's faults take: to be asked before a campaign, which would find out after hours.
///
/// # Errors
///
/// If it has not; says what to install.
pub fn check_tools(plan: &Plan) -> Result<()> {
    clock_library(plan).map(drop)
}

/// The library that fakes the clock, if the plan wants that.
fn clock_library(plan: &Plan) -> Result<Option<PathBuf>> {
    if !plan.any(|fault| matches!(fault, Fault::Clock { .. })) {
        return Ok(None);
    }
    let library = FAKETIME.iter().map(PathBuf::from).find(|path| path.exists());
    let library = library.with_context(|| {
        format!(
            "plan {} of seed {} wants clocks faked: install libfaketime",
            plan.name, plan.seed
        )
    })?;
    Ok(Some(library))
}

fn settings(server: &Server, plan: &Plan, directory: &Path, with_network: bool) -> Result<Settings> {
    let fake_clock = clock_library(plan)?;
    Ok(Settings {
        binary: server.binary.clone(),
        members: plan.members,
        directory: directory.to_owned(),
        flags: server.flags(plan),
        proxied: with_network && plan.any(|fault| matches!(fault, Fault::Delay { .. })),
        small_disks: with_network && plan.any(|fault| matches!(fault, Fault::FillDisk(_))),
        fake_clock,
    })
}

async fn ids(cluster: &Cluster) -> Result<Vec<u64>> {
    let statuses = cluster.statuses().await;
    let headers = statuses
        .into_iter()
        .map(|status| status.and_then(|status| status.header));
    headers
        .map(|header| header.map(|header| header.member_id))
        .collect::<Option<Vec<u64>>>()
        .context("a member that served does not answer")
}

struct Episode<'a> {
    cluster: Arc<Cluster>,
    recorder: Arc<Recorder>,
    plan: &'a Plan,
    /// What prints the logs of stopped members, if that can be done.
    dumper: Option<PathBuf>,
    ids: Vec<u64>,
    shared: Arc<Shared>,
    close_streams: Arc<AtomicBool>,
    breaches: Vec<String>,
}

impl<'a> Episode<'a> {
    fn new(cluster: Arc<Cluster>, recorder: Arc<Recorder>, plan: &'a Plan, ids: Vec<u64>) -> Episode<'a> {
        let shared = Shared {
            compact_every_ms: Arc::new(AtomicU64::new(COMPACT_EVERY_MS)),
            ..Shared::default()
        };
        Episode {
            cluster,
            recorder,
            plan,
            dumper: None,
            ids,
            shared: Arc::new(shared),
            close_streams: Arc::default(),
            breaches: Vec::new(),
        }
    }

    async fn run(mut self, directory: &Path) -> Result<Outcome> {
        let nemesis = Arc::new(Nemesis::new(
            Arc::clone(&self.cluster),
            Arc::clone(&self.recorder),
            self.ids.clone(),
            Arc::clone(&self.shared.compact_every_ms),
            Arc::clone(&self.shared.compactions),
        ));
        let mut clients = self.start_clients();
        let (mut watchers, seen) = self.start_watchers();

        self.recorder.phase(Phase::Calm);
        tokio::time::sleep(Duration::from_millis(self.plan.calm_ms)).await;
        let calm = self.recorder.tally();

        self.recorder.phase(Phase::Faults);
        nemesis.run(self.plan).await?;
        self.note_surprises();
        nemesis.heal()?;
        let mut healed = self.healed().await;

        self.recorder.phase(Phase::Healed);
        let before = self.recorder.tally();
        tokio::time::sleep(Duration::from_millis(self.plan.healed_ms)).await;
        healed = healed.and(Ok(()));
        let after = self.recorder.tally();
        self.shared.stop.store(true, Ordering::Relaxed);
        while clients.join_next().await.is_some() {}
        if let Err(error) = healed.and(self.restart(&nemesis).await) {
            self.breaches.push(format!("not healed: {error:#}"));
        }

        self.recorder.phase(Phase::Final);
        self.last_reads(&nemesis, &seen).await;
        self.close_streams.store(true, Ordering::Relaxed);
        while watchers.join_next().await.is_some() {}
        let mut members = self.summaries(&nemesis).await;
        self.note_surprises();
        self.add_logs(&mut members)?;
        write_members(&directory.join(MEMBERS_FILE), &members)?;
        let logged = self.read_logs();
        Ok(Outcome {
            total: self.recorder.tally(),
            history: self.recorder.finish()?,
            members,
            logged,
            calm,
            healed: after.since(before),
            breaches: self.breaches,
        })
    }

    /// Waits until all members serve.
    async fn healed(&self) -> Result<()> {
        let started = Instant::now();
        let result = self.cluster.wait_until_healthy(HEAL_PATIENCE).await;
        self.recorder
            .note(format!("healed after {:?}: {result:?}", started.elapsed()));
        result
    }

    /// Kills everybody and starts them again, so that what is read last was on disks. Members whose files were damaged
    /// are spared: what serves may still find the damage at its next start.
    async fn restart(&self, nemesis: &Nemesis) -> Result<()> {
        if self.plan.any(Fault::damages) {
            return Ok(());
        }
        nemesis.restart_all()?;
        self.healed().await
    }

    async fn summaries(&mut self, nemesis: &Nemesis) -> Vec<MemberSummary> {
        let members = (0..self.cluster.size()).filter(|member| !nemesis.is_retired(*member));
        let members: Vec<usize> = members.collect();
        let summaries = summary::agreed(&self.cluster, &self.recorder, &members).await;
        if summaries.len() < members.len() {
            let (told, asked) = (summaries.len(), members.len());
            self.breaches
                .push(format!("{told} of {asked} members tell their state"));
        }
        summaries
    }

    /// Stops the members and adds their logs. What was damaged and served for all that may be in the log.
    fn add_logs(&self, members: &mut [MemberSummary]) -> Result<()> {
        let Some(dumper) = self.dumper.as_ref().filter(|_| !self.plan.any(Fault::damages)) else {
            return Ok(());
        };
        for member in 0..self.cluster.size() {
            self.cluster.kill(member);
        }
        for summary in members {
            let member = usize::try_from(summary.member)?;
            let entries = dump::committed(dumper, &self.cluster.data(member));
            summary.wal = Some(entries.with_context(|| format!("the log of member {member}"))?);
        }
        Ok(())
    }

    fn endpoints(&self) -> Vec<std::net::SocketAddr> {
        (0..self.cluster.size())
            .map(|member| self.cluster.endpoint(member))
            .collect()
    }

    fn client(&self, id: u32, pinned: Option<usize>) -> Client {
        Client::new(
            id,
            self.plan.seed,
            Arc::clone(&self.recorder),
            self.endpoints(),
            pinned,
        )
    }

    /// Half of the clients know one member, the other half all; some of the former are patient.
    fn start_clients(&self) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..self.plan.clients {
            let pinned = (number % 2 == 1).then_some(number / 2 % self.cluster.size());
            let kind = KINDS[number % KINDS.len()];
            let client = self.client(index(number), pinned);
            let client = if number % 4 == 3 { client.patient() } else { client };
            clients.spawn(load::run(kind, client, Arc::clone(&self.shared)));
        }
        let compactor = self.client(index(self.plan.clients), None);
        clients.spawn(load::compactor(compactor, Arc::clone(&self.shared)));
        clients.spawn(probe::run(
            self.first_probe(),
            self.plan.seed,
            Arc::clone(&self.recorder),
            self.endpoints(),
            Arc::clone(&self.shared),
        ));
        clients
    }

    /// Returns also how far those that watch everything have come.
    fn start_watchers(&self) -> (JoinSet<()>, Vec<Arc<AtomicI64>>) {
        let mut watchers = JoinSet::new();
        let mut seen = Vec::new();
        for (number, beginning) in BEGINNINGS.iter().enumerate() {
            let watcher = Watcher::new(
                self.first_watcher() + index(number),
                self.plan.seed,
                *beginning,
                Arc::clone(&self.recorder),
                self.endpoints(),
                Arc::clone(&self.shared),
                Arc::clone(&self.close_streams),
            );
            if *beginning == super::watchers::Beginning::Everything {
                seen.push(Arc::clone(&watcher.seen));
            }
            watchers.spawn(watcher.run());
        }
        (watchers, seen)
    }

    fn first_probe(&self) -> u32 {
        index(self.plan.clients) + 1
    }

    fn first_watcher(&self) -> u32 {
        self.first_probe() + probe::CLIENTS
    }

    /// All keys, and all events, once at each member.
    async fn last_reads(&mut self, nemesis: &Nemesis, seen: &[Arc<AtomicI64>]) {
        let id = self.first_watcher() + index(BEGINNINGS.len());
        let mut client = self.client(id, None);
        for member in (0..self.cluster.size()).filter(|member| !nemesis.is_retired(*member)) {
            let Some(all) = load::read_all(&mut client, member).await else {
                self.breaches
                    .push(format!("member {member} does not answer the last read"));
                continue;
            };
            let newest = all.header.revision;
            let compacted = match self.cluster.admin(member).hash_kv(0).await {
                Ok(hash) => hash.compact_revision,
                Err(_) => self.shared.compacted.load(Ordering::Relaxed),
            };
            let watched = watch_all(
                &self.recorder,
                id + 1 + index(member),
                member,
                self.cluster.endpoint(member),
                compacted.max(1),
                newest,
                WATCH_PATIENCE,
            );
            if !watched.await {
                self.breaches.push(format!(
                    "member {member} does not show all events up to revision {newest}"
                ));
            }
            let deadline = Instant::now() + WATCH_PATIENCE;
            let behind = || {
                seen.iter()
                    .map(|seen| seen.load(Ordering::Relaxed))
                    .min()
                    .is_some_and(|seen| seen < newest)
            };
            while behind() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if behind() {
                self.breaches
                    .push(format!("a watcher did not get to revision {newest} in time"));
            }
        }
    }

    fn note_surprises(&mut self) {
        self.breaches.extend(self.cluster.take_surprises());
    }

    fn read_logs(&mut self) -> Counts {
        let mut counts = Counts::default();
        for member in 0..self.cluster.size() {
            let log = std::fs::read(self.cluster.log(member)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            counts.add(Counts::of(&log));
            if let Some(line) = logs::panic_in(&log) {
                self.breaches.push(format!("member {member} panicked: {line}"));
            }
        }
        counts
    }
}
