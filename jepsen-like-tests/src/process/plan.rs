//! What will happen in an episode, drawn from a seed before anything starts: same name, seed and size, same plan.
//!
//! The plan fixes kinds, order, lengths and targets of faults. It does not fix the timing of threads, nor who leads.

use std::fmt;

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::fault::{Fault, Shape, Target};

/// How long the phases of an episode are.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Load without faults before the first one, in ms.
    calm_ms: u64,
    /// The phase of faults, in ms.
    faults_ms: std::ops::RangeInclusive<u64>,
    /// Load after the last fault was undone, in ms.
    healed_ms: u64,
}

/// What the ladder's longer runs take.
pub const USUAL: Lengths = Lengths {
    calm_ms: 3_000,
    faults_ms: 15_000..=30_000,
    healed_ms: 5_000,
};

/// What the Gate has time for.
pub const SHORT: Lengths = Lengths {
    calm_ms: 2_000,
    faults_ms: 10_000..=14_000,
    healed_ms: 4_000,
};

/// Plans of the Gate, one episode each.
pub const GATE: &[&str] = &[
    "kill",
    "partition",
    "pause",
    "mixed",
    "damage",
    "disk-full",
    "left-behind",
    "mixed",
    "kill-all",
];

/// Plans by name, each with what it does. `mixed` comes on top.
pub const NAMES: &[(&str, &str)] = &[
    ("calm", "no fault at all"),
    (
        "kill",
        "kill -9 of the leader, one, a minority, a majority or all; restart after 0-10 s",
    ),
    ("kill-leader", "kill -9 of the leader, restart after 2-4 s"),
    ("kill-all", "kill -9 of all members, restart at once"),
    ("pause", "SIGSTOP of the leader, one, or all, for 0.1-10 s"),
    ("pause-leader", "SIGSTOP of the leader for 4-6 s"),
    (
        "partition",
        "isolated leader or member, halves, a bridge, cut between members only or from clients only",
    ),
    (
        "isolate-leader",
        "the leader cut off from members and clients for 4-6 s",
    ),
    (
        "cut-follower",
        "a follower cut off from members and clients for 30 s",
    ),
    (
        "left-behind",
        "a follower killed or cut off for 4 s while the log is purged past it",
    ),
    ("one-way", "a member that hears nothing, or is not heard"),
    (
        "flapping",
        "a member's network that goes and comes every 100-500 ms",
    ),
    ("loss", "5-30 % of a member's packets lost"),
    ("reset", "all TCP connections of a member reset"),
    ("bandwidth", "10-500 kB/s out of a member"),
    ("latency", "20-400 ms with jitter on everything a member sends"),
    ("transfer", "the leader asked to hand over, every 0.3-2 s"),
    ("compact", "a compaction every 200 ms"),
    (
        "damage",
        "a flipped bit or a cut tail in a stopped member's files",
    ),
    ("disk-full", "a member's disk full for 1-5 s"),
    (
        "clock",
        "a member's wall clock jumps by up to an hour, or strobes by 5 s",
    ),
];

/// Families that `mixed` draws from. Damage is left out: a lost disk and a fault elsewhere may lose a quorum's data.
pub const MIXABLE: &[&str] = &[
    "kill",
    "pause",
    "partition",
    "one-way",
    "flapping",
    "loss",
    "reset",
    "bandwidth",
    "latency",
    "transfer",
    "compact",
];

/// Plans that show the figures of section 8 of the reliability design.
const FIGURES: &[&str] = &[
    "kill-leader",
    "isolate-leader",
    "pause-leader",
    "kill-all",
    "cut-follower",
];

/// One fault of a track.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Rest since the step before has ended, in ms.
    pub rest_ms: u64,
    /// What happens.
    pub fault: Fault,
    /// How long it lasts, in ms.
    pub lasts_ms: u64,
}

/// Faults of one family, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Name of the family.
    pub family: &'static str,
    /// In order.
    pub steps: Vec<Step>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name it was made by.
    pub name: String,
    /// Seed it was made from.
    pub seed: u64,
    /// Members of the cluster.
    pub members: usize,
    /// Load without faults, in ms.
    pub calm_ms: u64,
    /// Length of the phase of faults, in ms.
    pub faults_ms: u64,
    /// Load after the last fault, in ms.
    pub healed_ms: u64,
    /// Applied entries between checkpoints; small ones make members that fall behind get snapshots.
    pub snapshot_count: u64,
    /// Clients that call; watchers come on top.
    pub clients: usize,
    /// Whether it is of the Gate's length: part of the way to repeat it.
    pub short: bool,
    /// What happens, each track beside the others.
    pub tracks: Vec<Track>,
}

impl Plan {
    /// The plan of this name, seed and size, of the usual length.
    ///
    /// # Errors
    ///
    /// If there is no such plan.
    pub fn new(name: &str, seed: u64, members: usize) -> Result<Plan> {
        Plan::with_lengths(name, seed, members, &USUAL)
    }

    /// The plan of this name, seed and size.
    ///
    /// # Errors
    ///
    /// If there is no such plan.
    pub fn with_lengths(name: &str, seed: u64, members: usize, lengths: &Lengths) -> Result<Plan> {
        let mut rng = StdRng::seed_from_u64(seed);
        let families = families(name, &mut rng)?;
        let faults_ms = match name {
            "cut-follower" => 40_000,
            _ => rng.random_range(lengths.faults_ms.clone()),
        };
        let snapshot_count = *[100, 1_000, 10_000].choose(&mut rng).expect("not empty");
        let snapshot_count = match name {
            "left-behind" => 20,
            _ => snapshot_count,
        };
        let clients = rng.random_range(8..=16);
        // A track has four or five faults, so that the next seed goes on about where this one ends.
        let first = (seed % 1_000) as usize * 4;
        let tracks = families
            .into_iter()
            .map(|family| track(family, first, faults_ms, members, &mut rng))
            .collect();
        Ok(Plan {
            name: name.to_owned(),
            seed,
            members,
            calm_ms: lengths.calm_ms,
            faults_ms,
            healed_ms: lengths.healed_ms,
            snapshot_count,
            clients,
            short: *lengths == SHORT,
            tracks,
        })
    }

    /// `count` plans for as many episodes, with seeds from `seed` on: all of one name, or of every name in turn for
    /// `every`, those of the Gate for `gate`, those that measure for `figures`.
    ///
    /// # Errors
    ///
    /// If there is no such plan.
    pub fn several(
        name: &str,
        seed: u64,
        count: usize,
        members: usize,
        lengths: &Lengths,
    ) -> Result<Vec<Plan>> {
        let every: Vec<&str> = NAMES.iter().map(|(name, _)| *name).chain(["mixed"]).collect();
        let names = match name {
            "every" => every.as_slice(),
            "gate" => GATE,
            "figures" => FIGURES,
            one => &[one],
        };
        (0_u64..)
            .zip(names.iter().cycle().take(count))
            .map(|(number, name)| Plan::with_lengths(name, seed.wrapping_add(number), members, lengths))
            .collect()
    }

    /// Whether any fault of the plan satisfies `wanted`.
    pub fn any(&self, wanted: impl Fn(&Fault) -> bool) -> bool {
        self.tracks
            .iter()
            .flat_map(|track| &track.steps)
            .any(|step| wanted(&step.fault))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan {} seed {}: {} members, {} clients, a checkpoint every {} entries; {} s calm, {:.1} s faults, {} s healed",
            self.name,
            self.seed,
            self.members,
            self.clients,
            self.snapshot_count,
            self.calm_ms / 1000,
            self.faults_ms as f64 / 1000.0,
            self.healed_ms / 1000,
        )?;
        for track in &self.tracks {
            writeln!(f, "  {}", track.family)?;
            for step in &track.steps {
                writeln!(
                    f,
                    "    after {:>5} ms for {:>5} ms: {}",
                    step.rest_ms, step.lasts_ms, step.fault
                )?;
            }
        }
        Ok(())
    }
}

/// The families of a plan.
fn families(name: &str, rng: &mut StdRng) -> Result<Vec<&'static str>> {
    if name == "mixed" {
        let count = rng.random_range(2..=4);
        return Ok(MIXABLE.choose_multiple(rng, count).copied().collect());
    }
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some(("calm", _)) => Ok(Vec::new()),
        Some((known, _)) => Ok(vec![known]),
        None => bail!(
            "no plan {name:?}; there are: mixed, {}",
            NAMES
                .iter()
                .map(|(known, _)| *known)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// Fills the phase of faults with those of one family.
///
/// `first`: the turn of the first fault, see [`step`].
fn track(family: &'static str, first: usize, faults_ms: u64, members: usize, rng: &mut StdRng) -> Track {
    let mut steps = Vec::new();
    let mut at = 0;
    loop {
        let step = step(family, first + steps.len(), faults_ms, members, rng);
        at += step.rest_ms + step.lasts_ms;
        // The first one always happens, cut to fit.
        if at > faults_ms && !steps.is_empty() {
            return Track { family, steps };
        }
        let lasts_ms = step.lasts_ms.min(faults_ms - step.rest_ms);
        steps.push(Step { lasts_ms, ..step });
    }
}

/// `turn`: the fault's number in its track, counted from anywhere. Kinds come in turn, so that a few episodes try them all.
fn step(family: &str, turn: usize, faults_ms: u64, members: usize, rng: &mut StdRng) -> Step {
    let one = Target::One(rng.random_range(0..members));
    let leader_or_one = if rng.random_bool(0.5) { Target::Leader } else { one };
    let shift = rng.random_range(0..members);
    let (rest, lasts, fault) = match family {
        "kill" => {
            let targets = [
                Target::Leader,
                one,
                Target::Minority(shift),
                Target::Majority(shift),
                Target::All,
            ];
            let target = targets[turn % targets.len()];
            let lasts = [0, rng.random_range(0..2_000), rng.random_range(0..10_000)];
            (
                500..3_000,
                *lasts.choose(rng).expect("not empty"),
                Fault::Kill(target),
            )
        }
        "kill-leader" => (
            3_000..4_000,
            rng.random_range(2_000..4_000),
            Fault::Kill(Target::Leader),
        ),
        "kill-all" => (3_000..5_000, 0, Fault::Kill(Target::All)),
        "pause" => {
            let target = *[Target::Leader, one, Target::All].choose(rng).expect("not empty");
            let lasts = if rng.random_bool(0.7) {
                rng.random_range(100..3_000)
            } else {
                rng.random_range(100..10_000)
            };
            (500..3_000, lasts, Fault::Pause(target))
        }
        "pause-leader" => (
            2_000..4_000,
            rng.random_range(4_000..6_000),
            Fault::Pause(Target::Leader),
        ),
        "partition" => {
            let shapes = [
                Shape::Isolate(leader_or_one),
                Shape::Halves(shift),
                Shape::Bridge(shift),
                Shape::PeersOnly(leader_or_one),
                Shape::ClientsOnly(leader_or_one),
            ];
            let shape = shapes[turn % shapes.len()];
            // Now and then beyond the time after which servers give a request up.
            let lasts = if rng.random_bool(0.1) {
                rng.random_range(8_000..10_000)
            } else {
                rng.random_range(1_000..4_000)
            };
            (500..1_500, lasts, Fault::Cut(shape))
        }
        "isolate-leader" => (
            3_000..4_000,
            rng.random_range(4_000..6_000),
            Fault::Cut(Shape::Isolate(Target::Leader)),
        ),
        "cut-follower" => (1_000..2_000, 30_000, Fault::Cut(Shape::Isolate(Target::Follower))),
        "left-behind" => {
            let fault = if rng.random_bool(0.5) {
                Fault::Kill(Target::Follower)
            } else {
                Fault::Cut(Shape::Isolate(Target::Follower))
            };
            (300..600, rng.random_range(3_500..4_400), fault)
        }
        "one-way" => {
            let shape = if rng.random_bool(0.5) {
                Shape::Deaf(leader_or_one)
            } else {
                Shape::Mute(leader_or_one)
            };
            (500..3_000, rng.random_range(1_000..6_000), Fault::Cut(shape))
        }
        "flapping" => {
            let period_ms = rng.random_range(100..=500);
            (
                500..2_000,
                rng.random_range(2_000..8_000),
                Fault::Flap {
                    target: leader_or_one,
                    period_ms,
                },
            )
        }
        "loss" => {
            let percent = rng.random_range(5..=30);
            (
                500..2_000,
                rng.random_range(2_000..10_000),
                Fault::Lose {
                    target: leader_or_one,
                    percent,
                },
            )
        }
        "reset" => (
            500..3_000,
            rng.random_range(200..2_000),
            Fault::Reset(leader_or_one),
        ),
        "bandwidth" => {
            let kilobytes = *[10, 30, 100, 500].choose(rng).expect("not empty");
            (
                500..2_000,
                rng.random_range(2_000..8_000),
                Fault::Throttle {
                    target: leader_or_one,
                    kilobytes,
                },
            )
        }
        "latency" => {
            let least_ms = rng.random_range(20..200);
            let most_ms = least_ms + rng.random_range(0..200);
            (
                500..2_000,
                rng.random_range(2_000..8_000),
                Fault::Delay {
                    target: leader_or_one,
                    least_ms,
                    most_ms,
                },
            )
        }
        "transfer" => (300..2_000, 0, Fault::Transfer(one)),
        "compact" => (0..1, faults_ms, Fault::Compact { every_ms: 200 }),
        "damage" => {
            let fault = if rng.random_bool(0.5) {
                Fault::Flip(one, rng.random())
            } else {
                Fault::Truncate(one, rng.random())
            };
            (1_000..3_000, rng.random_range(500..3_000), fault)
        }
        "disk-full" => (
            1_000..3_000,
            rng.random_range(1_000..5_000),
            Fault::FillDisk(leader_or_one),
        ),
        "clock" => {
            let strobe = rng.random_bool(0.3);
            let by_s = if strobe {
                5
            } else {
                rng.random_range(-3_600..=3_600)
            };
            (
                500..2_000,
                rng.random_range(1_000..6_000),
                Fault::Clock { by_s, strobe },
            )
        }
        other => unreachable!("{other} is not in the list of plans"),
    };
    Step {
        rest_ms: rng.random_range(rest),
        fault,
        lasts_ms: lasts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fault::KINDS;

    #[test]
    fn same_seed_same_plan() {
        for (name, _) in NAMES.iter().chain([&("mixed", "")]) {
            for seed in 0..50 {
                let plan = Plan::new(name, seed, 3).expect("the plan exists");
                assert_eq!(plan, Plan::new(name, seed, 3).expect("the plan exists"));
            }
        }
    }

    #[test]
    fn seeds_differ() {
        let plans: std::collections::HashSet<String> = (0..100)
            .map(|seed| Plan::new("mixed", seed, 5).expect("the plan exists").to_string())
            .collect();
        assert_eq!(plans.len(), 100);
    }

    #[test]
    fn every_plan_but_calm_has_a_fault_and_ends_in_time() {
        for (name, _) in NAMES.iter().chain([&("mixed", "")]) {
            for seed in 0..200 {
                let plan = Plan::new(name, seed, 3).expect("the plan exists");
                assert_eq!(plan.tracks.is_empty(), *name == "calm");
                for track in &plan.tracks {
                    let length: u64 = track.steps.iter().map(|step| step.rest_ms + step.lasts_ms).sum();
                    assert!(!track.steps.is_empty());
                    assert!(length <= plan.faults_ms, "{plan}");
                }
            }
        }
    }

    #[test]
    fn all_kinds_of_faults_are_in_the_plans() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, _) in NAMES {
            for seed in 0..100 {
                let plan = Plan::new(name, seed, 3).expect("the plan exists");
                let steps = plan.tracks.iter().flat_map(|track| &track.steps);
                seen.extend(steps.map(|step| step.fault.kind()));
            }
        }
        assert_eq!(seen, KINDS.iter().copied().collect());
    }

    /// Shapes used to be drawn, and two campaigns of 105 episodes in which nothing failed had tried one shape twice and not
    /// three times.
    #[test]
    fn eight_episodes_have_each_shape_of_partition_three_times() {
        let strides = [1, NAMES.len() as u64 + 1];
        for (first, stride) in (0..50).flat_map(|first| strides.map(|stride| (first, stride))) {
            let mut times = std::collections::BTreeMap::<&str, u32>::new();
            for seed in (0..8).map(|nth| first + nth * stride) {
                let plan = Plan::new("partition", seed, 3).expect("the plan exists");
                for step in plan.tracks.iter().flat_map(|track| &track.steps) {
                    *times.entry(step.fault.kind()).or_default() += 1;
                }
            }
            assert!(
                times.len() >= 5 && times.values().all(|times| *times >= 3),
                "{times:?}"
            );
        }
    }

    #[test]
    fn mixed_draws_two_to_four_families_and_in_time_all() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..200 {
            let plan = Plan::new("mixed", seed, 3).expect("the plan exists");
            assert!((2..=4).contains(&plan.tracks.len()));
            seen.extend(plan.tracks.iter().map(|track| track.family));
        }
        assert_eq!(seen.len(), MIXABLE.len());
    }

    #[test]
    fn several_plans_have_seeds_in_a_row_and_names_in_turn() {
        let said = |name: &str, count| -> Vec<(String, u64)> {
            let plans = Plan::several(name, 7, count, 3, &SHORT).expect("the plans exist");
            plans.into_iter().map(|plan| (plan.name, plan.seed)).collect()
        };
        assert_eq!(said("kill", 2), [("kill".to_owned(), 7), ("kill".to_owned(), 8)]);
        assert_eq!(said("gate", GATE.len() + 1)[GATE.len()].0, GATE[0]);
        let every = said("every", NAMES.len() + 1);
        assert_eq!(
            (every[0].0.as_str(), every[NAMES.len()].0.as_str()),
            ("calm", "mixed")
        );
    }

    #[test]
    fn a_short_plan_says_so_and_ends_in_time() {
        for seed in 0..50 {
            let plan = Plan::with_lengths("mixed", seed, 3, &SHORT).expect("the plan exists");
            assert!(plan.short && plan.faults_ms <= 14_000);
        }
    }

    #[test]
    fn a_plan_says_what_it_does() {
        let plan = Plan::new("kill-leader", 7, 3)
            .expect("the plan exists")
            .to_string();
        assert!(plan.starts_with("plan kill-leader seed 7: 3 members"), "{plan}");
        assert!(plan.contains("kill -9 of the leader"), "{plan}");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = Plan::new("nonsense", 1, 3)
            .expect_err("there is none")
            .to_string();
        assert!(
            error.contains("mixed, calm, kill") && error.contains("clock"),
            "{error}"
        );
    }
}
