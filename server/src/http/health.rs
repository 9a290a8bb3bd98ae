//! `/health`, `/livez` and `/readyz`, byte for byte as kubelets and load balancers know them from etcd
//! (operations specification 3.2 and 3.3).

use std::fmt::Write;

use http::StatusCode;
use kelson_storage::command::AlarmKind;

use super::counters::Counters;
use super::member::Member;
use super::query::Query;
use super::{Reply, TEXT_PLAIN, plain_text, reply};

/// Answers `/health`.
pub(super) async fn health(member: &dyn Member, query: &Query, counters: &Counters) -> Reply {
    let serializable = query.first("serializable") == "true";
    match unhealthy(member, query, serializable).await {
        None => {
            counters.health(true);
            reply(StatusCode::OK, TEXT_PLAIN, r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            counters.health(false);
            tracing::warn!(output = reason, "/health error");
            // A JSON text with its quotes.
            let reason = serde_json::Value::from(reason);
            let body = format!("{{\"health\":\"false\",\"reason\":{reason}}}\n");
            plain_text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// The first reason not to be healthy.
async fn unhealthy(member: &dyn Member, query: &Query, serializable: bool) -> Option<String> {
    for alarm in member.alarms() {
        let name = match alarm {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
            AlarmKind::None => "UNKNOWN",
        };
        if !query.all("exclude").any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && !member.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = if serializable {
        member.serializable_read()
    } else {
        member.linearizable_read().await
    };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// One thing that a probe looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// No CORRUPT alarm.
    DataCorruption,
    /// A local read works.
    SerializableRead,
    /// A quorum read works.
    LinearizableRead,
    /// The member votes.
    NonLearner,
}

impl Check {
    /// As it is called in paths and bodies.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, member: &dyn Member) -> Result<(), String> {
        match self {
            Self::DataCorruption if member.alarms().contains(&AlarmKind::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if member.is_learner() => Err("not supported for learner".to_owned()),
            Self::DataCorruption | Self::NonLearner => Ok(()),
            Self::SerializableRead => member.serializable_read(),
            Self::LinearizableRead => member.linearizable_read().await,
        }
    }
}

/// The two probes with their checks.
pub(super) const PROBES: [(&str, &[Check]); 2] = [
    ("livez", &[Check::SerializableRead]),
    (
        "readyz",
        &[
            Check::DataCorruption,
            Check::SerializableRead,
            Check::LinearizableRead,
            Check::NonLearner,
        ],
    ),
];

/// A probe, or one check of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `livez` or `readyz`.
    pub name: &'static str,
    /// What to look at.
    pub checks: &'static [Check],
    /// Whether the path names one check; such a request cannot exclude.
    pub single: bool,
}

impl Probe {
    /// The probe that `path` asks for.
    pub fn find(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (root, check) = match path.split_once('/') {
            Some((root, check)) => (root, Some(check)),
            None => (path, None),
        };
        let &(name, checks) = PROBES.iter().find(|(name, _)| *name == root)?;
        let checks = match check {
            None => checks,
            Some(check) => std::slice::from_ref(checks.iter().find(|known| known.name() == check)?),
        };
        Some(Self {
            name,
            checks,
            single: check.is_some(),
        })
    }
}

/// Answers a probe.
pub(super) async fn probe(member: &dyn Member, probe: &Probe, query: &Query, counters: &Counters) -> Reply {
    let excluded: Vec<&str> = if probe.single {
        Vec::new()
    } else {
        query.all("exclude").collect()
    };
    for name in &excluded {
        if !probe.checks.iter().any(|check| check.name() == *name) {
            tracing::warn!(
                path = probe.name,
                "hc-exclude" = name,
                "some health checks cannot be excluded"
            );
        }
    }
    let mut lines = String::new();
    let mut well = true;
    for check in probe
        .checks
        .iter()
        .filter(|check| !excluded.contains(&check.name()))
    {
        let name = check.name();
        let outcome = check.run(member).await;
        counters.check(probe.name, *check, outcome.is_ok());
        let written = match outcome {
            Ok(()) => writeln!(lines, "[+]{name} ok"),
            Err(error) => {
                well = false;
                tracing::warn!(path = probe.name, name, error, "health check failed");
                writeln!(lines, "[-]{name} failed: {error}")
            }
        };
        written.expect("a String takes everything");
    }
    if !well {
        return plain_text(StatusCode::SERVICE_UNAVAILABLE, lines);
    }
    if !query.has("verbose") {
        lines.clear();
    }
    lines.push_str("ok\n");
    plain_text(StatusCode::OK, lines)
}
