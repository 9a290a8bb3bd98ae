//! Compaction without being asked (`--auto-compaction-mode`, `--auto-compaction-retention`): the leader compacts, all
//! others only take note of revisions, so that whoever leads next knows what is old.

use std::collections::VecDeque;
use std::time::Duration;

use kelson_raft::node::Node;
use kelson_storage::command::Command;
use kelson_storage::error::Rejected;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::AutoCompaction;

/// Longest time between two periodic compactions. Source: etcd `Periodic.getCompactInterval`.
const COMPACT_EVERY_MAX: Duration = Duration::from_secs(3600);
/// Samples that are taken between two periodic compactions. Source: etcd `retryDivisor`.
const SAMPLES_PER_COMPACTION: u32 = 10;
/// How often compaction by revision looks. Source: etcd `revInterval`.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// When to compact, and to which revision. Knows no clock but what it is told.
#[derive(Debug)]
struct Schedule {
    settings: AutoCompaction,
    /// Revisions at the newest samples, oldest first; of a period's length once it has passed.
    samples: VecDeque<u64>,
    /// Target of the last compaction that went well.
    compacted: u64,
    /// When that was, or the start.
    since: Instant,
    /// Time to the next one.
    pause: Duration,
}

impl Schedule {
    fn new(settings: AutoCompaction, now: Instant) -> Self {
        Self {
            settings,
            samples: VecDeque::new(),
            compacted: 0,
            since: now,
            // A whole period passes before the first.
            pause: match settings {
                AutoCompaction::Periodic(period) => period,
                AutoCompaction::Revisions(_) => Duration::ZERO,
            },
        }
    }

    /// Time between two looks at the revision.
    fn step(&self) -> Duration {
        match self.settings {
            AutoCompaction::Periodic(period) => period.min(COMPACT_EVERY_MAX) / SAMPLES_PER_COMPACTION,
            AutoCompaction::Revisions(_) => LOOK_EVERY,
        }
    }

    /// Takes note of the revision at the beginning of a step.
    fn sample(&mut self, revision: u64) {
        let kept = match self.settings {
            AutoCompaction::Periodic(period) => {
                let steps = period.as_nanos() / self.step().as_nanos().max(1);
                usize::try_from(steps).unwrap_or(usize::MAX).saturating_add(1)
            }
            AutoCompaction::Revisions(_) => 1,
        };
        self.samples.push_back(revision);
        while self.samples.len() > kept {
            self.samples.pop_front();
        }
    }

    /// What to compact to at the end of a step, if anything.
    fn due(&self, now: Instant, revision: u64) -> Option<u64> {
        let target = match self.settings {
            AutoCompaction::Periodic(_) => *self.samples.front()?,
            AutoCompaction::Revisions(kept) => revision.saturating_sub(kept),
        };
        let rested = now.duration_since(self.since) >= self.pause;
        (rested && target > 0 && target != self.compacted).then_some(target)
    }

    /// A compaction to `target` went well.
    fn done(&mut self, target: u64, now: Instant) {
        self.compacted = target;
        self.since = now;
        if let AutoCompaction::Periodic(period) = self.settings {
            self.pause = period.min(COMPACT_EVERY_MAX);
        }
    }
}

/// Compacts for as long as it is run.
pub(super) async fn run(node: Node, settings: AutoCompaction) {
    let mut schedule = Schedule::new(settings, Instant::now());
    loop {
        schedule.sample(node.reader().revision());
        tokio::time::sleep(schedule.step()).await;
        if !node.status().is_leader() {
            continue;
        }
        if let Some(target) = schedule.due(Instant::now(), node.reader().revision())
            && compact(&node, target, settings).await
        {
            schedule.done(target, Instant::now());
        }
    }
}

/// Returns whether `target` has been compacted, now or before.
async fn compact(node: &Node, target: u64, settings: AutoCompaction) -> bool {
    let mode = match settings {
        AutoCompaction::Periodic(_) => "periodic",
        AutoCompaction::Revisions(_) => "revision",
    };
    info!(revision = target, "starting auto {mode} compaction");
    let began = Instant::now();
    let revision = i64::try_from(target).unwrap_or(i64::MAX);
    let failure = match node.propose(Command::Compact { revision }).await {
        Ok(outcome) => match outcome.result {
            Ok(_) | Err(Rejected::Compacted) => None,
            Err(rejected) => Some(rejected.to_string()),
        },
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = failure {
        warn!(revision = target, error, "failed auto {mode} compaction");
        return false;
    }
    info!(revision = target, took = ?began.elapsed(), "completed auto {mode} compaction");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Runs a schedule over a store that moves `per_step` revisions in each step, and returns when it compacted, in
    /// steps, and to what.
    fn compactions(settings: AutoCompaction, per_step: u64, steps: u32) -> Vec<(u32, u64)> {
        let start = Instant::now();
        let mut schedule = Schedule::new(settings, start);
        let step = schedule.step();
        let mut done = Vec::new();
        let mut revision = 1;
        for number in 1..=steps {
            schedule.sample(revision);
            revision += per_step;
            let now = start + step * number;
            if let Some(target) = schedule.due(now, revision) {
                schedule.done(target, now);
                done.push((number, target));
            }
        }
        done
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_period_is_compacted_once_it_has_passed_and_then_each_period() {
        let period = AutoCompaction::Periodic(5 * MINUTE);
        assert_eq!(
            compactions(period, 100, 30),
            [(10, 1), (20, 901), (30, 1901)],
            "ten steps are a period; what was then is kept"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_period_is_compacted_each_hour() {
        let period = AutoCompaction::Periodic(120 * MINUTE);
        assert_eq!(compactions(period, 10, 40), [(20, 1), (30, 91), (40, 191)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_store_is_left_alone() {
        let period = AutoCompaction::Periodic(5 * MINUTE);
        assert_eq!(compactions(period, 0, 100), [(10, 1)]);
        assert_eq!(compactions(AutoCompaction::Revisions(1000), 0, 100), []);
    }

    #[tokio::test(start_paused = true)]
    async fn by_revision_so_many_are_kept() {
        let kept = AutoCompaction::Revisions(250);
        assert_eq!(compactions(kept, 100, 5), [(3, 51), (4, 151), (5, 251)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_compaction_that_failed_is_tried_again_a_step_later() {
        let start = Instant::now();
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE), start);
        for number in 0..10 {
            schedule.sample(10 + number);
        }
        assert_eq!(schedule.due(start + 10 * MINUTE, 20), Some(10));
        schedule.sample(20);
        assert_eq!(schedule.due(start + 11 * MINUTE, 20), Some(10));
    }
}
