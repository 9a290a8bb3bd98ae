//! Makes the faults of a plan, undoes them, and says of each whether it took effect.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::barrier::{Barrier, Direction, Fate, Rule, Throttle};
use super::cluster::{Cluster, last_line};
use super::damage::{self, Damage};
use super::fault::{Fault, Shape, Target};
use super::impact::{UnderWay, halves_around, lost};
use super::network::CLIENTS;
use super::plan::{Plan, Track};
use super::recorder::{Recorder, index};
use crate::history::{Fault as Made, Record};

/// Longest wait for a new leader after one was asked to hand over.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for a start on damaged files to be decided.
const DAMAGE_PATIENCE: Duration = Duration::from_secs(20);

/// Longest that a member takes to end once its disk was full.
const ENDING_PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two looks.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Pause between two turns of a strobing clock.
const STROBE_EVERY: Duration = Duration::from_millis(100);

/// The one that makes trouble.
#[derive(Debug)]
pub struct Nemesis {
    cluster: Arc<Cluster>,
    recorder: Arc<Recorder>,
    /// Raft ids of the members.
    ids: Vec<u64>,
    /// Pause between the compactions of the load, in ms.
    compact_every_ms: Arc<AtomicU64>,
    /// Compactions that succeeded.
    compactions: Arc<AtomicU64>,
    next: AtomicU64,
    under_way: UnderWay,
    /// Members that a fault has put out of use for the rest of the episode.
    retired: Mutex<BTreeSet<usize>>,
}

/// What a fault did.
struct Effect {
    took: bool,
    detail: String,
}

impl Nemesis {
    /// For a running cluster whose members have these ids.
    #[must_use]
    pub fn new(
        cluster: Arc<Cluster>,
        recorder: Arc<Recorder>,
        ids: Vec<u64>,
        compact_every_ms: Arc<AtomicU64>,
        compactions: Arc<AtomicU64>,
    ) -> Nemesis {
        let size = cluster.size();
        Nemesis {
            cluster,
            recorder,
            ids,
            compact_every_ms,
            compactions,
            next: AtomicU64::new(0),
            under_way: UnderWay::new(size),
            retired: Mutex::default(),
        }
    }

    /// Makes all faults of a plan and returns when all are over. Problems of the driver itself are the error.
    ///
    /// # Errors
    ///
    /// If a fault could not be made or undone.
    pub async fn run(self: &Arc<Self>, plan: &Plan) -> Result<()> {
        let mut tracks = JoinSet::new();
        for track in &plan.tracks {
            let (nemesis, track) = (Arc::clone(self), track.clone());
            tracks.spawn(async move { nemesis.track(&track).await });
        }
        let started = Instant::now();
        while let Some(done) = tracks.join_next().await {
            done.context("a track panicked")??;
        }
        tokio::time::sleep_until(started + Duration::from_millis(plan.faults_ms)).await;
        Ok(())
    }

    /// Starts whatever does not run. Everything else was undone when its fault ended.
    ///
    /// # Errors
    ///
    /// If a process cannot be started.
    pub fn heal(&self) -> Result<()> {
        for member in 0..self.cluster.size() {
            if !self.cluster.is_running(member) && !self.is_retired(member) {
                self.up(member)?;
            }
        }
        Ok(())
    }

    /// Kills all members that are in use, and starts them at once.
    ///
    /// # Errors
    ///
    /// If a process cannot be started.
    pub fn restart_all(&self) -> Result<()> {
        for member in 0..self.cluster.size() {
            self.down(member);
        }
        self.heal()
    }

    /// Whether a member was put out of use by a fault that allows it.
    #[must_use]
    pub fn is_retired(&self, member: usize) -> bool {
        self.retired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&member)
    }

    async fn track(&self, track: &Track) -> Result<()> {
        for step in &track.steps {
            tokio::time::sleep(Duration::from_millis(step.rest_ms)).await;
            if step.fault.needs_namespaces() && self.cluster.network().is_none() {
                continue;
            }
            self.make(&step.fault, Duration::from_millis(step.lasts_ms))
                .await?;
        }
        Ok(())
    }

    async fn make(&self, fault: &Fault, lasts: Duration) -> Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let targets = self.targets(fault).await;
        let start = self.recorder.now();
        self.under_way
            .begin(id, lost(fault, &targets, self.cluster.size()));
        let effect = self
            .perform(id, fault, &targets, lasts)
            .await
            .with_context(|| fault.to_string());
        let majority_remains = self.under_way.end(id);
        let effect = effect?;
        let made = Made {
            kind: fault.kind().to_owned(),
            targets: targets.iter().map(|target| index(*target)).collect(),
            start,
            end: self.recorder.now(),
            took_effect: effect.took,
            majority_remains,
            slows: fault.slows(),
            detail: format!("{fault}: {}", effect.detail),
        };
        eprintln!(
            "    {:>6.2} s  {} {:?} for {:.2} s{}",
            start as f64 / 1e9,
            made.detail,
            targets,
            (made.end - start) as f64 / 1e9,
            if effect.took { "" } else { "  (NO EFFECT)" },
        );
        self.recorder.push(Record::Fault(made));
        Ok(())
    }

    async fn perform(&self, id: u64, fault: &Fault, targets: &[usize], lasts: Duration) -> Result<Effect> {
        match *fault {
            Fault::Kill(_) => self.kill(targets, lasts).await,
            Fault::Pause(_) => self.pause(targets, lasts).await,
            Fault::Cut(shape) => self.cut(id, shape, targets, lasts).await,
            Fault::Flap { period_ms, .. } => {
                self.flap(id, targets[0], Duration::from_millis(period_ms), lasts)
                    .await
            }
            Fault::Lose { percent, .. } => {
                self.block(id, vec![(targets[0], both(None, Fate::Lose(percent)))], lasts)
                    .await
            }
            Fault::Reset(_) => {
                self.block(id, vec![(targets[0], both(None, Fate::Reset))], lasts)
                    .await
            }
            Fault::Throttle { kilobytes, .. } => self.throttle(targets[0], kilobytes, lasts).await,
            Fault::Delay {
                least_ms, most_ms, ..
            } => self.delay(targets[0], least_ms, most_ms, lasts).await,
            Fault::Transfer(_) => self.transfer(targets[0]).await,
            Fault::Compact { every_ms } => self.compact(every_ms, lasts).await,
            Fault::Flip(_, chance) => self.damage(targets[0], Damage::Flip(chance), lasts).await,
            Fault::Truncate(_, chance) => self.damage(targets[0], Damage::Truncate(chance), lasts).await,
            Fault::FillDisk(_) => self.fill_disk(targets[0], lasts).await,
            Fault::Clock { by_s, strobe } => self.clock(by_s, strobe, lasts).await,
        }
    }

    async fn kill(&self, targets: &[usize], lasts: Duration) -> Result<Effect> {
        let killed: Vec<bool> = targets.iter().map(|target| self.down(*target)).collect();
        tokio::time::sleep(lasts).await;
        let down = targets.iter().all(|target| !self.cluster.is_running(*target));
        for target in targets {
            self.up(*target)?;
        }
        Ok(Effect {
            took: down && killed.iter().any(|killed| *killed),
            detail: format!(
                "{} ended by signal 9",
                killed.iter().filter(|killed| **killed).count()
            ),
        })
    }

    async fn pause(&self, targets: &[usize], lasts: Duration) -> Result<Effect> {
        for target in targets {
            self.cluster.signal(*target, libc::SIGSTOP);
        }
        let deadline = Instant::now() + lasts;
        // A thread in a system call stops when that ends.
        let mut stopped = false;
        while !stopped && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
            stopped = targets.iter().all(|target| self.cluster.is_paused(*target));
        }
        tokio::time::sleep_until(deadline).await;
        let still = targets
            .iter()
            .filter(|target| self.cluster.is_paused(**target))
            .count();
        for target in targets {
            self.cluster.signal(*target, libc::SIGCONT);
        }
        Ok(Effect {
            took: stopped,
            detail: format!("{still} stopped to the end"),
        })
    }

    async fn cut(&self, id: u64, shape: Shape, targets: &[usize], lasts: Duration) -> Result<Effect> {
        let size = self.cluster.size();
        let between = |member: usize, others: Vec<usize>, directions: &[Direction]| {
            let rules = others
                .into_iter()
                .filter(|other| *other != member)
                .flat_map(|other| directions.iter().map(move |direction| (other, *direction)));
            let rules = rules.map(|(other, direction)| Rule {
                direction,
                other: self.ipv4(other),
                fate: Fate::Drop,
            });
            (member, rules.collect::<Vec<Rule>>())
        };
        let both_ways = [Direction::In, Direction::Out];
        let target = targets[0];
        let walls = match shape {
            Shape::Isolate(_) => vec![(target, both(None, Fate::Drop))],
            Shape::Halves(_) => {
                let rest: Vec<usize> = (0..size).filter(|member| !targets.contains(member)).collect();
                targets
                    .iter()
                    .map(|member| between(*member, rest.clone(), &both_ways))
                    .collect()
            }
            Shape::Bridge(_) => {
                let (one, other) = halves_around(target, size);
                one.iter()
                    .map(|member| between(*member, other.clone(), &both_ways))
                    .collect()
            }
            Shape::PeersOnly(_) => vec![between(target, (0..size).collect(), &both_ways)],
            Shape::ClientsOnly(_) => vec![(target, both(Some(CLIENTS), Fate::Drop))],
            Shape::Deaf(_) => vec![between(target, (0..size).collect(), &[Direction::In])],
            Shape::Mute(_) => vec![between(target, (0..size).collect(), &[Direction::Out])],
        };
        self.block(id, walls, lasts).await
    }

    /// Rules in force for a while, at each member its own.
    async fn block(&self, id: u64, walls: Vec<(usize, Vec<Rule>)>, lasts: Duration) -> Result<Effect> {
        let barriers = self.raise(id, walls).await?;
        tokio::time::sleep(lasts).await;
        let matched = lower(barriers).await?;
        Ok(Effect {
            took: matched > 0,
            detail: format!("{matched} packets"),
        })
    }

    async fn raise(&self, id: u64, walls: Vec<(usize, Vec<Rule>)>) -> Result<Vec<Barrier>> {
        let network = Arc::clone(self.cluster.network().context("this needs namespaces")?);
        blocking(move || {
            walls
                .iter()
                .map(|(member, rules)| Barrier::raise(&network, *member, id, rules))
                .collect()
        })
        .await
    }

    async fn flap(&self, id: u64, target: usize, period: Duration, lasts: Duration) -> Result<Effect> {
        let deadline = Instant::now() + lasts;
        let (mut matched, mut turns) = (0, 0);
        while Instant::now() < deadline {
            let barriers = self.raise(id, vec![(target, both(None, Fate::Drop))]).await?;
            tokio::time::sleep(period).await;
            matched += lower(barriers).await?;
            turns += 1;
            tokio::time::sleep(period).await;
        }
        Ok(Effect {
            took: matched > 0,
            detail: format!("{turns} turns, {matched} packets"),
        })
    }

    async fn throttle(&self, target: usize, kilobytes: u32, lasts: Duration) -> Result<Effect> {
        let network = Arc::clone(self.cluster.network().context("this needs namespaces")?);
        let throttle = blocking(move || Throttle::tighten(&network, target, kilobytes)).await?;
        tokio::time::sleep(lasts).await;
        let held = blocking(move || throttle.loosen()).await?;
        Ok(Effect {
            took: held > 0,
            detail: format!("held back {held} times"),
        })
    }

    async fn delay(&self, target: usize, least_ms: u64, most_ms: u64, lasts: Duration) -> Result<Effect> {
        let delay = self.cluster.delay(target);
        let before = delay.held();
        delay.set(Duration::from_millis(least_ms), Duration::from_millis(most_ms));
        tokio::time::sleep(lasts).await;
        delay.set(Duration::ZERO, Duration::ZERO);
        let held = delay.held() - before;
        Ok(Effect {
            took: held > 0,
            detail: format!("{held} pieces held"),
        })
    }

    async fn transfer(&self, wanted: usize) -> Result<Effect> {
        let Some(leader) = self.cluster.leader().await else {
            return Ok(Effect {
                took: false,
                detail: "no leader".to_owned(),
            });
        };
        let wanted = if wanted == leader {
            (wanted + 1) % self.cluster.size()
        } else {
            wanted
        };
        let answer = self.cluster.admin(leader).move_leader(self.ids[wanted]).await;
        let deadline = Instant::now() + TRANSFER_PATIENCE;
        let mut now = self.cluster.leader().await;
        while (now.is_none() || now == Some(leader)) && Instant::now() < deadline {
            tokio::time::sleep(POLL_EVERY).await;
            now = self.cluster.leader().await;
        }
        let answer = answer.map_or_else(|status| status.message().to_owned(), |()| "ok".to_owned());
        Ok(Effect {
            took: now.is_some_and(|now| now != leader),
            detail: format!("from {leader} to {wanted}: {answer}; now {now:?}"),
        })
    }

    async fn compact(&self, every_ms: u64, lasts: Duration) -> Result<Effect> {
        let before = self.compactions.load(Ordering::Relaxed);
        let usual = self.compact_every_ms.swap(every_ms, Ordering::Relaxed);
        tokio::time::sleep(lasts).await;
        self.compact_every_ms.store(usual, Ordering::Relaxed);
        let done = self.compactions.load(Ordering::Relaxed) - before;
        Ok(Effect {
            took: done > 0,
            detail: format!("{done} done"),
        })
    }

    /// Damage to the files of a stopped member. It must refuse to start and say why, or come back none the worse, which
    /// the checkers see. One that refused gets its files back as they were when it was stopped; one that had already
    /// been in touch with the others may have promised them something since, and stays away.
    async fn damage(&self, target: usize, damage: Damage, lasts: Duration) -> Result<Effect> {
        let deadline = Instant::now() + lasts;
        let killed = self.down(target);
        let (data, copy) = (
            self.cluster.data(target),
            self.cluster.data(target).with_extension("copy"),
        );
        let log = self.cluster.log(target);
        let logged = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let done = {
            let (data, copy) = (data.clone(), copy.clone());
            blocking(move || {
                damage::copy(&data, &copy)?;
                damage.inflict(&data)
            })
            .await?
        };
        self.up(target)?;
        let healthy_by = Instant::now() + DAMAGE_PATIENCE;
        let mut healthy = false;
        while self.cluster.is_running(target) && Instant::now() < deadline.max(healthy_by) {
            healthy = healthy || self.cluster.admin(target).is_healthy().await;
            if healthy && Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        let ending = if self.cluster.is_running(target) {
            if !healthy {
                bail!("member {target} neither serves nor refuses after {done}");
            }
            "it serves".to_owned()
        } else {
            self.cluster.forgive(target);
            self.recorder.process(target, self.ids[target], false);
            let said = damage::text_from(&log, logged);
            let reason = last_line(&log);
            if said.contains(damage::IN_TOUCH) {
                self.retired
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(target);
                format!("it left for good: {reason}")
            } else {
                blocking(move || damage::restore(&copy, &data)).await?;
                self.up(target)?;
                format!("it refused: {reason}")
            }
        };
        Ok(Effect {
            took: killed,
            detail: format!("{done}; {ending}"),
        })
    }

    async fn fill_disk(&self, target: usize, lasts: Duration) -> Result<Effect> {
        let data = self.cluster.data(target);
        let filler = data.join("filler");
        let full = {
            let filler = filler.clone();
            blocking(move || damage::fill(&filler)).await?
        };
        let ended_before = self.ends_within(target, lasts, true).await;
        std::fs::remove_file(&filler)?;
        // Who met the full disk may still be about to end.
        let ended = ended_before || self.ends_within(target, ENDING_PATIENCE, false).await;
        let mut detail = format!("{full} bytes of filler");
        if ended {
            self.cluster.forgive(target);
            self.recorder.process(target, self.ids[target], false);
            detail += &format!("; it ended: {}", last_line(&self.cluster.log(target)));
            self.up(target)?;
        }
        Ok(Effect {
            took: full > 0,
            detail,
        })
    }

    /// Whether a member's process ends within this time. Returns as soon as it has ended, unless it `waits`.
    async fn ends_within(&self, target: usize, time: Duration, waits: bool) -> bool {
        let deadline = Instant::now() + time;
        let mut ended = !self.cluster.is_running(target);
        while Instant::now() < deadline && (waits || !ended) {
            tokio::time::sleep(POLL_EVERY).await;
            ended = ended || !self.cluster.is_running(target);
        }
        ended
    }

    async fn clock(&self, by_s: i64, strobe: bool, lasts: Duration) -> Result<Effect> {
        let deadline = Instant::now() + lasts;
        let set = |seconds: i64| std::fs::write(self.cluster.clock_file(), format!("{seconds:+}s\n"));
        let took = (0..self.cluster.size()).all(|member| self.cluster.has_fake_clock(member));
        if strobe {
            let mut sign = 1;
            while Instant::now() < deadline {
                set(by_s * sign)?;
                sign = -sign;
                tokio::time::sleep(STROBE_EVERY).await;
            }
        } else {
            set(by_s)?;
            tokio::time::sleep_until(deadline).await;
        }
        set(0)?;
        Ok(Effect {
            took,
            detail: if took {
                "clocks preloaded"
            } else {
                "no clock preloaded"
            }
            .to_owned(),
        })
    }

    fn down(&self, member: usize) -> bool {
        let killed = self.cluster.kill(member);
        if killed {
            self.recorder.process(member, self.ids[member], false);
        }
        killed
    }

    fn up(&self, member: usize) -> Result<()> {
        if self.is_retired(member) {
            return Ok(());
        }
        // Before the start, not after: what the process does may only be seen after this record.
        if !self.cluster.is_running(member) {
            self.recorder.process(member, self.ids[member], true);
        }
        self.cluster.spawn(member)
    }

    fn ipv4(&self, member: usize) -> Option<std::net::Ipv4Addr> {
        match self.cluster.address(member).ip() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        }
    }

    /// The members that a fault is aimed at, now.
    async fn targets(&self, fault: &Fault) -> Vec<usize> {
        let Some(target) = fault.target() else {
            return Vec::new();
        };
        let size = self.cluster.size();
        let minority = (size - 1) / 2;
        let from = |first: usize, count: usize| (first..first + count).map(|member| member % size).collect();
        match target {
            Target::One(member) => vec![member],
            Target::Minority(first) => from(first, minority.max(1)),
            Target::Majority(first) => from(first, minority + 1),
            Target::All => (0..size).collect(),
            // Without a leader, any will do.
            Target::Leader => vec![self.cluster.leader().await.unwrap_or(0)],
            Target::Follower => vec![(self.cluster.leader().await.unwrap_or(0) + 1) % size],
        }
    }
}

/// A rule for each way.
fn both(other: Option<std::net::Ipv4Addr>, fate: Fate) -> Vec<Rule> {
    [Direction::In, Direction::Out]
        .map(|direction| Rule {
            direction,
            other,
            fate,
        })
        .to_vec()
}

async fn lower(barriers: Vec<Barrier>) -> Result<u64> {
    blocking(move || barriers.into_iter().map(Barrier::lower).sum()).await
}

/// Runs what would block the clients on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("the thread panicked")?
}
