//! The nemesis: draws faults of the plan's kinds, one after the other, each with its own end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kelson_storage::testing::{DiskError, Random};
use parking_lot::Mutex;

use super::cluster::{Cluster, Death};
use super::network::LinkQuality;
use super::plan::{FaultKind, Plan, chance};

/// How often each kind was done.
pub type Counts = Arc<Mutex<BTreeMap<FaultKind, u64>>>;

/// Longest pause between a death and the next start.
const DOWN_MILLIS: u64 = 10_000;
/// Longest time a process is stopped.
const STOP_MILLIS: u64 = 5_000;
/// Longest time a link is cut or slow.
const LINK_MILLIS: u64 = 12_000;
/// Calls to a disk among which a planned failure falls.
const CALLS: u64 = 120;

/// Harms the cluster until it is dropped.
pub async fn run(cluster: Cluster, plan: Plan, counts: Counts) {
    let mut random = chance(plan.seed, "nemesis");
    let kinds: Vec<FaultKind> = plan.faults.iter().copied().collect();
    if kinds.is_empty() {
        return std::future::pending().await;
    }
    loop {
        let pause = random.below(2 * plan.fault_every.as_millis() as u64 + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let kind = kinds[random.place(kinds.len())];
        *counts.lock().entry(kind).or_default() += 1;
        cluster.inner.trace.event("fault", &[kind as u64]);
        cluster.inner.trace.note(|| kind.to_string());
        // Each fault has its own chance, so that its end does not depend on the others.
        let own = Random::new(random.number());
        let harmed = cluster.clone();
        cluster.inner.tasks.spawn(async move {
            let recorder = &harmed.inner.recorder;
            let number = recorder.fault_begins(&kind.to_string());
            fault(&harmed, kind, own).await;
            recorder.fault_ends(number);
        });
    }
}

async fn fault(cluster: &Cluster, kind: FaultKind, mut random: Random) {
    let random = &mut random;
    let member = cluster.any_member(random);
    match kind {
        FaultKind::PowerCut => end(cluster, member, Death::PowerCut, random).await,
        FaultKind::Kill => end(cluster, member, Death::Kill, random).await,
        FaultKind::PowerCutInCall => cluster.cut_power_in_call(member, 1 + random.below(CALLS)),
        FaultKind::PowerCutAll => {
            for member in cluster.members() {
                cluster.end(member, Death::PowerCut);
            }
            let starts = cluster.members().map(|member| {
                let pause = millis(random, 3000);
                async move {
                    tokio::time::sleep(pause).await;
                    start(cluster, member, None);
                }
            });
            futures::future::join_all(starts).await;
        }
        FaultKind::Stop => {
            cluster.stop(member);
            tokio::time::sleep(millis(random, STOP_MILLIS)).await;
            cluster.go_on(member);
        }
        FaultKind::Partition => partition(cluster, random).await,
        FaultKind::OneWayCut => {
            let to = cluster.any_member(random);
            let network = &cluster.inner.network;
            network.cut(member, to);
            tokio::time::sleep(millis(random, LINK_MILLIS)).await;
            network.mend(member, to);
        }
        FaultKind::SlowLink | FaultKind::Loss => slow_link(cluster, kind, member, random).await,
        FaultKind::Reset => {
            let other = cluster.any_member(random);
            cluster.inner.network.reset(member, other);
        }
        FaultKind::SlowDisk => {
            let period = millis(random, LINK_MILLIS);
            cluster.slow_disk(member, period);
            tokio::time::sleep(period).await;
        }
        FaultKind::DiskError => {
            let error = if random.chance(1, 2) {
                DiskError::Broken
            } else {
                DiskError::Full
            };
            cluster.fail_disk(member, 1 + random.below(CALLS), error);
        }
        FaultKind::Transfer => transfer(cluster, member).await,
        FaultKind::Restart => restart(cluster, member, random).await,
    }
}

fn millis(random: &mut Random, most: u64) -> Duration {
    // Short times are as interesting as long ones.
    let most = if random.chance(1, 2) { most / 10 } else { most };
    Duration::from_millis(1 + random.below(most))
}

async fn end(cluster: &Cluster, member: u64, death: Death, random: &mut Random) {
    cluster.end(member, death);
    tokio::time::sleep(millis(random, DOWN_MILLIS)).await;
    let again = (death == Death::PowerCut && random.chance(1, 4)).then(|| 1 + random.below(CALLS));
    start(cluster, member, again);
}

/// Starts a member, maybe with another power cut on its way up.
fn start(cluster: &Cluster, member: u64, cut_at: Option<u64>) {
    let is_new = !cluster.is_alive(member);
    cluster.start(member);
    if let (true, Some(nth)) = (is_new, cut_at) {
        cluster.cut_power_in_call(member, nth);
    }
}

async fn partition(cluster: &Cluster, random: &mut Random) {
    let group = cluster.some_members(random);
    let network = &cluster.inner.network;
    // A bridge: one member hears both sides.
    let bridge = random.chance(1, 4).then(|| cluster.any_member(random));
    let pairs: Vec<(u64, u64)> = cluster
        .members()
        .flat_map(|from| cluster.members().map(move |to| (from, to)))
        .filter(|(from, to)| group.contains(from) != group.contains(to))
        .filter(|(from, to)| Some(*from) != bridge && Some(*to) != bridge)
        .collect();
    for (from, to) in &pairs {
        network.cut(*from, *to);
    }
    tokio::time::sleep(millis(random, LINK_MILLIS)).await;
    for (from, to) in &pairs {
        network.mend(*from, *to);
    }
}

async fn slow_link(cluster: &Cluster, kind: FaultKind, from: u64, random: &mut Random) {
    let to = cluster.any_member(random);
    let loss = if kind == FaultKind::Loss {
        random.below(300)
    } else {
        0
    };
    let quality = LinkQuality {
        delay: millis(random, 500),
        jitter: millis(random, 500),
        loss,
    };
    let network = &cluster.inner.network;
    network.set_quality(from, to, Some(quality));
    tokio::time::sleep(millis(random, LINK_MILLIS)).await;
    network.set_quality(from, to, None);
}

async fn transfer(cluster: &Cluster, target: u64) {
    let leader = cluster.members().find(|member| {
        let node = cluster.node(*member);
        node.is_some_and(|node| node.status().is_leader())
    });
    let Some(leader) = leader else { return };
    let Some((context, gone)) = cluster.member(leader) else {
        return;
    };
    tokio::select! {
        biased;
        () = gone.wait() => {}
        _ = cluster.within(leader, context.node.transfer_leader(target)) => {}
    }
}

/// Stops a member in order, as SIGTERM does it, and starts it again.
async fn restart(cluster: &Cluster, member: u64, random: &mut Random) {
    let Some((context, gone)) = cluster.member(member) else {
        return;
    };
    tokio::select! {
        biased;
        () = gone.wait() => return,
        () = cluster.within(member, context.node.shutdown()) => {}
    }
    end(cluster, member, Death::Kill, random).await;
}
