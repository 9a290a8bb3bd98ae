//! What the health endpoints count about themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::health::{Check, PROBES};
use super::metrics::Text;

/// Outcomes of one check of one probe.
#[derive(Default)]
struct Outcomes {
    ok: AtomicU64,
    failed: AtomicU64,
    /// 1 if the latest was good.
    latest: AtomicU64,
}

/// Counters of `/health` and the probes, since the process started.
pub(super) struct Counters {
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    /// In the order of [`PROBES`] and their checks.
    checks: Vec<(&'static str, Check, Outcomes)>,
}

impl Default for Counters {
    fn default() -> Self {
        let checks = PROBES.iter().flat_map(|&(probe, checks)| {
            checks
                .iter()
                .map(move |check| (probe, *check, Outcomes::default()))
        });
        Self {
            healthy: AtomicU64::new(0),
            unhealthy: AtomicU64::new(0),
            checks: checks.collect(),
        }
    }
}

impl Counters {
    /// Counts an answer of `/health`.
    pub(super) fn health(&self, well: bool) {
        let counter = if well { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the outcome of a check.
    pub(super) fn check(&self, probe: &str, check: Check, well: bool) {
        let Some((_, _, outcomes)) = self
            .checks
            .iter()
            .find(|(known, name, _)| *known == probe && *name == check)
        else {
            return;
        };
        let counter = if well { &outcomes.ok } else { &outcomes.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        outcomes.latest.store(u64::from(well), Ordering::Relaxed);
    }

    /// Writes them as metrics.
    pub(super) fn write(&self, text: &mut Text) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.counter(
            "etcd_server_health_success",
            "Healthy answers of /health.",
            read(&self.healthy),
        );
        text.counter(
            "etcd_server_health_failures",
            "Unhealthy answers of /health.",
            read(&self.unhealthy),
        );
        text.family(
            "etcd_server_healthcheck",
            "gauge",
            "Latest outcome of a check of /livez or /readyz.",
        );
        for (probe, check, outcomes) in &self.checks {
            let labels = [("type", *probe), ("name", check.name())];
            text.sample("etcd_server_healthcheck", &labels, read(&outcomes.latest));
        }
        text.family(
            "etcd_server_healthchecks_total",
            "counter",
            "Outcomes of the checks of /livez and /readyz.",
        );
        for (probe, check, outcomes) in &self.checks {
            for (status, counter) in [("success", &outcomes.ok), ("error", &outcomes.failed)] {
                let labels = [("type", *probe), ("name", check.name()), ("status", status)];
                text.sample("etcd_server_healthchecks_total", &labels, read(counter));
            }
        }
    }
}
