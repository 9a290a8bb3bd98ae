//! Every flag etcd 3.7 knows, as data: its type, its default, and what this server does with it.

use super::feature_gates::FeatureGates;
use super::go_value::{self, GoDuration};
use super::grammar::Arity;
use super::urls::Url;

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Go's `flag.Bool`.
    Bool,
    /// A signed 64-bit integer.
    Int,
    /// An unsigned 64-bit integer.
    Uint,
    /// An unsigned 32-bit integer.
    Uint32,
    /// A Go duration.
    Duration,
    /// Any text.
    Text,
    /// A list of URLs; sorted, each once.
    Urls,
    /// A list of URLs that may be empty.
    UrlsOrNone,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `Name=true,...`.
    Gates,
    /// Whatever follows is discarded.
    Discarded,
}

/// What becomes of a flag that is given a value other than its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does what it does in etcd.
    Served,
    /// It changes nothing, and this is why that is harmless.
    WithoutEffect(&'static str),
    /// The start ends with a message: going on would not be what was asked for.
    NotServed,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// The default, as one would write it.
    pub default: &'static str,
    /// What is done with it.
    pub standing: Standing,
    /// One sentence for `--help`; empty for flags that are only tolerated.
    pub usage: &'static str,
}

impl Flag {
    /// Whether it needs a value.
    pub fn arity(&self) -> Arity {
        match self.kind {
            // etcd's discarded flags are switches that put up with any attached value.
            Kind::Bool | Kind::Discarded => Arity::Boolean,
            _ => Arity::Valued,
        }
    }

    /// Reads a value; the error is the cause that Go's or etcd's flag type names.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        Ok(match self.kind {
            Kind::Bool => Value::Bool(go_value::parse_bool(text)?),
            Kind::Int => Value::Int(go_value::parse_int(text)?),
            Kind::Uint => Value::Uint(go_value::parse_uint(text)?),
            Kind::Uint32 => Value::Uint(go_value::parse_uint32(text)?.into()),
            Kind::Duration => Value::Duration(go_value::parse_duration(text)?),
            Kind::UrlsOrNone if text.is_empty() => Value::Urls(Vec::new()),
            Kind::Urls | Kind::UrlsOrNone => Value::Urls(Url::parse_list(text)?),
            Kind::OneOf(words) if !words.contains(&text) => return Err("invalid value".to_owned()),
            Kind::Gates => Value::Gates(FeatureGates::parse(text)?),
            Kind::Text | Kind::OneOf(_) | Kind::Discarded => Value::Text(text.to_owned()),
        })
    }

    /// The default as a value.
    pub fn default_value(&self) -> Value {
        self.read(self.default)
            .expect("a test reads every default of the table")
    }
}

/// The value of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Uint`] and [`Kind::Uint32`].
    Uint(u64),
    /// Of [`Kind::Duration`].
    Duration(GoDuration),
    /// Of [`Kind::Text`], [`Kind::OneOf`] and [`Kind::Discarded`].
    Text(String),
    /// Of [`Kind::Urls`] and [`Kind::UrlsOrNone`].
    Urls(Vec<Url>),
    /// Of [`Kind::Gates`].
    Gates(FeatureGates),
}

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    TABLE
        .iter()
        .flat_map(|(_, flags)| flags.iter())
        .find(|flag| flag.name == name)
}

/// All flags, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    TABLE.iter().flat_map(|(_, flags)| flags.iter())
}

/// The present name of a flag of etcd 3.5 and 3.6 that lost its `experimental-` prefix.
pub fn renamed(former: &str) -> Option<&'static Flag> {
    let name = former.strip_prefix("experimental-")?;
    FORMER_NAMES.contains(&name).then(|| find(name)).flatten()
}

/// Flags that were `--experimental-<name>` before etcd 3.7.
const FORMER_NAMES: &[&str] = &[
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

use Kind::{Bool, Discarded, Duration, Gates, Int, OneOf, Text, Uint, Uint32, Urls, UrlsOrNone};
use Standing::{NotServed, Served, WithoutEffect};

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    standing: Standing,
    usage: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        standing,
        usage,
    }
}

const OWN_LOG: Standing =
    WithoutEffect("log segments are recycled, and kept as --snapshot-catchup-entries says");
const OWN_CHECKPOINT: Standing = WithoutEffect("the state is written behind the log, on its own schedule");
const NO_MEMBERSHIP: Standing = WithoutEffect("membership changes are not served yet");
const NO_COMPACT_PACE: Standing = WithoutEffect("compaction deletes in small bites that delay nobody");
const NO_TRACING: Standing = WithoutEffect("distributed tracing is not enabled");
const LEGACY: Standing = WithoutEffect("the flag has done nothing since etcd 2");

/// The groups of `--help`, and their flags.
pub const TABLE: &[(&str, &[Flag])] = &[
    (
        "Member",
        &[
            flag(
                "name",
                Text,
                "default",
                Served,
                "Human-readable name of this member.",
            ),
            flag(
                "data-dir",
                Text,
                "",
                Served,
                "Directory of all persistent data; empty: '<name>.etcd'.",
            ),
            flag(
                "wal-dir",
                Text,
                "",
                Served,
                "Directory of the write-ahead log when it is not below --data-dir.",
            ),
            flag(
                "snapshot-count",
                Uint,
                "10000",
                Served,
                "Applied entries between checkpoints that let the log be purged.",
            ),
            flag(
                "snapshot-catchup-entries",
                Uint,
                "5000",
                Served,
                "Log entries kept behind a checkpoint for slow followers.",
            ),
            flag(
                "heartbeat-interval",
                Uint,
                "100",
                Served,
                "Time between heartbeats of the leader, in milliseconds.",
            ),
            flag(
                "election-timeout",
                Uint,
                "1000",
                Served,
                "Time without a leader before an election, in milliseconds.",
            ),
            flag(
                "initial-election-tick-advance",
                Bool,
                "true",
                WithoutEffect("the first election waits as long as any other"),
                "Shorten the first election timeout after the start.",
            ),
            flag(
                "listen-peer-urls",
                Urls,
                "http://localhost:2380",
                Served,
                "URLs to listen on for other members.",
            ),
            flag(
                "listen-client-urls",
                Urls,
                "http://localhost:2379",
                Served,
                "URLs to listen on for clients: gRPC and HTTP.",
            ),
            flag(
                "listen-client-http-urls",
                UrlsOrNone,
                "",
                Served,
                "URLs for HTTP alone; when set, --listen-client-urls serve gRPC alone.",
            ),
            flag(
                "listen-metrics-urls",
                UrlsOrNone,
                "",
                Served,
                "More URLs for /metrics, /health, /livez and /readyz.",
            ),
            flag("max-wals", Uint, "5", OWN_LOG, ""),
            flag("max-snapshots", Uint, "5", OWN_LOG, ""),
            flag(
                "memory-mlock",
                Bool,
                "false",
                WithoutEffect("no database file is mapped into memory"),
                "",
            ),
            flag(
                "quota-backend-bytes",
                Int,
                "0",
                Served,
                "Size of the database that raises the NOSPACE alarm; 0: 2 GiB; negative: none.",
            ),
            flag(
                "backend-bbolt-freelist-type",
                Text,
                "map",
                WithoutEffect("the storage engine is not bbolt"),
                "",
            ),
            flag("backend-batch-interval", Duration, "0s", OWN_CHECKPOINT, ""),
            flag("backend-batch-limit", Int, "0", OWN_CHECKPOINT, ""),
            flag(
                "max-txn-ops",
                Uint,
                "128",
                Served,
                "Most operations in one list of a transaction.",
            ),
            flag(
                "max-request-bytes",
                Uint,
                "1572864",
                Served,
                "Largest client request, in bytes.",
            ),
            flag(
                "max-concurrent-streams",
                Uint32,
                "4294967295",
                Served,
                "Most concurrent streams of one client connection.",
            ),
            flag(
                "grpc-keepalive-min-time",
                Duration,
                "5s",
                WithoutEffect("client pings are answered at any rate"),
                "Shortest time between pings of a client.",
            ),
            flag(
                "grpc-keepalive-interval",
                Duration,
                "2h",
                Served,
                "Time between pings to an idle client; 0: none.",
            ),
            flag(
                "grpc-keepalive-timeout",
                Duration,
                "20s",
                Served,
                "Time for a client to answer a ping; 0: no limit.",
            ),
            flag(
                "socket-reuse-port",
                Bool,
                "false",
                Served,
                "Set SO_REUSEPORT on listeners.",
            ),
            flag(
                "socket-reuse-address",
                Bool,
                "false",
                Served,
                "Set SO_REUSEADDR on listeners.",
            ),
            flag(
                "enable-grpc-gateway",
                Bool,
                "true",
                WithoutEffect("the JSON gateway is not served yet"),
                "Serve the JSON gateway below /v3/.",
            ),
            flag(
                "raft-read-timeout",
                Duration,
                "5s",
                WithoutEffect("peer connections have their own time-outs"),
                "",
            ),
            flag(
                "raft-write-timeout",
                Duration,
                "5s",
                WithoutEffect("peer connections have their own time-outs"),
                "",
            ),
            flag(
                "feature-gates",
                Gates,
                "",
                Served,
                "Feature gates: 'Name=true,Name2=false'.",
            ),
        ],
    ),
    (
        "Clustering",
        &[
            flag(
                "initial-advertise-peer-urls",
                Urls,
                "http://localhost:2380",
                Served,
                "This member's peer URLs as the others see them.",
            ),
            flag(
                "initial-cluster",
                Text,
                "",
                Served,
                "Founding members: 'name=url,...'; empty: this member alone.",
            ),
            flag(
                "initial-cluster-state",
                OneOf(&["new", "existing"]),
                "new",
                Served,
                "Found a new cluster or join one.",
            ),
            flag(
                "initial-cluster-token",
                Text,
                "etcd-cluster",
                Served,
                "Makes the ids of this cluster its own.",
            ),
            flag(
                "advertise-client-urls",
                Urls,
                "http://localhost:2379",
                Served,
                "This member's client URLs as clients see them.",
            ),
            flag(
                "strict-reconfig-check",
                Bool,
                "true",
                NO_MEMBERSHIP,
                "Refuse membership changes that endanger the quorum.",
            ),
            flag(
                "pre-vote",
                Bool,
                "true",
                Served,
                "Ask before an election whether it can be won.",
            ),
            flag(
                "auto-compaction-mode",
                Text,
                "periodic",
                Served,
                "'periodic' or 'revision'; without effect until --auto-compaction-retention is served.",
            ),
            flag(
                "auto-compaction-retention",
                Text,
                "0",
                NotServed,
                "History kept by automatic compaction; 0: off.",
            ),
            flag(
                "max-learners",
                Int,
                "1",
                NO_MEMBERSHIP,
                "Most learners at one time.",
            ),
            flag("discovery-endpoints", Text, "", NotServed, ""),
            flag("discovery-token", Text, "", NotServed, ""),
            flag("discovery-dial-timeout", Duration, "2s", NotServed, ""),
            flag("discovery-request-timeout", Duration, "5s", NotServed, ""),
            flag("discovery-keepalive-time", Duration, "2s", NotServed, ""),
            flag("discovery-keepalive-timeout", Duration, "6s", NotServed, ""),
            flag("discovery-insecure-transport", Bool, "true", NotServed, ""),
            flag("discovery-insecure-skip-tls-verify", Bool, "false", NotServed, ""),
            flag("discovery-cert", Text, "", NotServed, ""),
            flag("discovery-key", Text, "", NotServed, ""),
            flag("discovery-cacert", Text, "", NotServed, ""),
            flag("discovery-user", Text, "", NotServed, ""),
            flag("discovery-password", Text, "", NotServed, ""),
            flag(
                "discovery-fallback",
                OneOf(&["exit", "proxy"]),
                "exit",
                NotServed,
                "",
            ),
            flag("discovery-srv", Text, "", NotServed, ""),
            flag("discovery-srv-name", Text, "", NotServed, ""),
            flag(
                "v2-deprecation",
                OneOf(&["not-yet", "write-only", "write-only-drop-data", "gone"]),
                "write-only",
                WithoutEffect("there is no v2 store"),
                "",
            ),
        ],
    ),
    (
        "Security",
        &[
            flag("cert-file", Text, "", NotServed, ""),
            flag("key-file", Text, "", NotServed, ""),
            flag("client-cert-auth", Bool, "false", NotServed, ""),
            flag("trusted-ca-file", Text, "", NotServed, ""),
            flag("client-cert-file", Text, "", NotServed, ""),
            flag("client-key-file", Text, "", NotServed, ""),
            flag("client-crl-file", Text, "", NotServed, ""),
            flag("client-cert-allowed-hostname", Text, "", NotServed, ""),
            flag("auto-tls", Bool, "false", NotServed, ""),
            flag("peer-cert-file", Text, "", NotServed, ""),
            flag("peer-key-file", Text, "", NotServed, ""),
            flag("peer-client-cert-auth", Bool, "false", NotServed, ""),
            flag("peer-trusted-ca-file", Text, "", NotServed, ""),
            flag("peer-client-cert-file", Text, "", NotServed, ""),
            flag("peer-client-key-file", Text, "", NotServed, ""),
            flag("peer-crl-file", Text, "", NotServed, ""),
            flag("peer-cert-allowed-cn", Text, "", NotServed, ""),
            flag("peer-cert-allowed-hostname", Text, "", NotServed, ""),
            flag("peer-auto-tls", Bool, "false", NotServed, ""),
            flag("peer-skip-client-san-verification", Bool, "false", NotServed, ""),
            flag("self-signed-cert-validity", Uint, "1", NotServed, ""),
            flag("cipher-suites", Text, "", NotServed, ""),
            flag("tls-min-version", Text, "TLS1.2", NotServed, ""),
            flag("tls-max-version", Text, "", NotServed, ""),
            flag("cors", Text, "*", NotServed, ""),
            flag("host-whitelist", Text, "*", NotServed, ""),
            flag("auth-token", Text, "simple", NotServed, ""),
            flag(
                "bcrypt-cost",
                Uint,
                "10",
                WithoutEffect("authentication is not served yet"),
                "",
            ),
            flag(
                "auth-token-ttl",
                Uint,
                "300",
                WithoutEffect("authentication is not served yet"),
                "",
            ),
        ],
    ),
    (
        "Monitoring and logging",
        &[
            flag(
                "enable-pprof",
                Bool,
                "false",
                WithoutEffect("profiles are taken with the system's own tools"),
                "",
            ),
            flag(
                "metrics",
                OneOf(&["basic", "extensive"]),
                "basic",
                WithoutEffect("there is one set of metrics"),
                "",
            ),
            flag(
                "logger",
                Text,
                "zap",
                Served,
                "Only 'zap', for the format of the lines.",
            ),
            flag(
                "log-outputs",
                Text,
                "default",
                Served,
                "Comma-separated: 'default' (standard error), 'stderr', 'stdout', or paths of files.",
            ),
            flag(
                "log-level",
                Text,
                "info",
                Served,
                "'debug', 'info', 'warn', 'error', 'dpanic', 'panic' or 'fatal'.",
            ),
            flag("log-format", Text, "json", Served, "'json' or 'console'."),
            flag("enable-log-rotation", Bool, "false", NotServed, ""),
            flag(
                "log-rotation-config-json",
                Text,
                "",
                WithoutEffect("log rotation is not enabled"),
                "",
            ),
            flag(
                "warning-apply-duration",
                Duration,
                "100ms",
                Served,
                "Warn about requests that take longer to apply.",
            ),
            flag(
                "warning-unary-request-duration",
                Duration,
                "300ms",
                Served,
                "Warn about unary requests that take longer.",
            ),
            flag("enable-distributed-tracing", Bool, "false", NotServed, ""),
            flag(
                "distributed-tracing-address",
                Text,
                "localhost:4317",
                NO_TRACING,
                "",
            ),
            flag("distributed-tracing-service-name", Text, "etcd", NO_TRACING, ""),
            flag("distributed-tracing-instance-id", Text, "", NO_TRACING, ""),
            flag("distributed-tracing-sampling-rate", Int, "0", NO_TRACING, ""),
        ],
    ),
    (
        "Checks and the rest",
        &[
            flag("corrupt-check-time", Duration, "0s", NotServed, ""),
            flag(
                "compact-hash-check-time",
                Duration,
                "1m",
                WithoutEffect("compaction hashes are not compared between members"),
                "",
            ),
            flag("compaction-batch-limit", Int, "0", NO_COMPACT_PACE, ""),
            flag("compaction-sleep-interval", Duration, "0s", NO_COMPACT_PACE, ""),
            flag(
                "watch-progress-notify-interval",
                Duration,
                "0s",
                Served,
                "Time between progress notifications of idle watchers; 0: 10 minutes.",
            ),
            flag(
                "downgrade-check-time",
                Duration,
                "5s",
                WithoutEffect("there is no older version to go back to"),
                "",
            ),
            flag(
                "bootstrap-defrag-threshold-megabytes",
                Uint,
                "0",
                WithoutEffect("free space is used again without defragmentation"),
                "",
            ),
            flag("force-new-cluster", Bool, "false", NotServed, ""),
            flag(
                "unsafe-no-fsync",
                Bool,
                "false",
                Served,
                "Never sync to disk: data does not survive a crash. Tests only.",
            ),
            flag("config-file", Text, "", NotServed, ""),
            flag("version", Bool, "false", Served, "Print the version and exit."),
            flag("cluster-active-size", Discarded, "", LEGACY, ""),
            flag("cluster-remove-delay", Discarded, "", LEGACY, ""),
            flag("cluster-sync-interval", Discarded, "", LEGACY, ""),
            flag("config", Discarded, "", LEGACY, ""),
            flag("force", Discarded, "", LEGACY, ""),
            flag("max-result-buffer", Discarded, "", LEGACY, ""),
            flag("max-retry-attempts", Discarded, "", LEGACY, ""),
            flag("peer-heartbeat-interval", Discarded, "", LEGACY, ""),
            flag("peer-election-timeout", Discarded, "", LEGACY, ""),
            flag("retry-interval", Discarded, "", LEGACY, ""),
            flag("snapshot", Discarded, "", LEGACY, ""),
            flag("v", Discarded, "", LEGACY, ""),
            flag("vv", Discarded, "", LEGACY, ""),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_readable_and_every_name_is_there_once() {
        let mut names = BTreeSet::new();
        for flag in all() {
            flag.read(flag.default)
                .unwrap_or_else(|cause| panic!("{}: {cause}", flag.name));
            assert!(names.insert(flag.name), "{} twice", flag.name);
        }
        assert!(FORMER_NAMES.iter().all(|name| find(name).is_some()));
    }

    #[test]
    fn former_names_lead_to_present_flags() {
        let found = |name| renamed(name).map(|flag| flag.name);
        assert_eq!(
            found("experimental-watch-progress-notify-interval"),
            Some("watch-progress-notify-interval")
        );
        assert_eq!(found("experimental-name"), None);
        assert_eq!(found("watch-progress-notify-interval"), None);
    }

    #[test]
    fn served_flags_explain_themselves() {
        for flag in all().filter(|flag| flag.standing == Served) {
            assert!(!flag.usage.is_empty(), "{}", flag.name);
        }
    }
}
