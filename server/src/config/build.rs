//! From values to a [`Config`]: every rule that relates settings to each other, in etcd's words.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kelson_storage::limits::CACHE_BYTES_DEFAULT;

use super::go_value::parse_duration;
use super::note::Note;
use super::security::Security;
use super::urls::Url;
use super::values::Values;
use super::{
    AutoCompaction, ClusterSettings, Config, Keepalive, Limits, Listen, LogFormat, LogLevel, LogOutput,
    LogSettings,
};

/// Longest election timeout, in milliseconds. Source: etcd `maxElectionMs`.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// Heartbeats that must fit into an election timeout. Source: etcd's validation.
const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;
/// Quota when the flag is 0, in bytes. Source: etcd `DefaultQuotaBytes`.
const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// Progress notifications when the flag is 0. Source: etcd `WatchProgressReportInterval`.
const WATCH_PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);
/// Shortest time between progress notifications. Source: etcd `minWatchProgressInterval`.
const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// `--snapshot-count` and `--snapshot-catchup-entries` when set to 0. Source: etcd's defaults.
const SNAPSHOT_COUNT_DEFAULT: u64 = 10_000;
const SNAPSHOT_CATCHUP_ENTRIES_DEFAULT: u64 = 5_000;

/// Checks `values` and makes the configuration of them.
pub(super) fn config(
    values: &Values,
    notes: &mut Vec<Note>,
    default_host: impl FnOnce() -> Option<IpAddr>,
) -> Result<Config, String> {
    let log = log(values)?;
    let name = values.text("name");
    if name == "default" {
        notes.push(Note::NameIsDefault);
    }
    let listen = listen(values)?;
    let security = Security::new(values, notes)?;
    security.fit(
        &[
            ("listen-peer-urls", &listen.peer),
            ("listen-client-urls", &listen.client),
            ("listen-client-http-urls", &listen.client_http),
            ("listen-metrics-urls", &listen.metrics),
        ],
        notes,
    )?;
    let mut advertise = Advertise::new(values)?;
    advertise.replace_unspecified(&listen, notes, default_host);
    let feature_gates = values.feature_gates();
    feature_gates.validate()?;
    for (gate, value) in feature_gates.iter() {
        if let Some(reason) = gate.without_effect.filter(|_| value != gate.default) {
            notes.push(Note::WithoutEffect {
                setting: format!("feature gate {}={value}", gate.name),
                reason,
            });
        }
    }
    Ok(Config {
        data_dir: data_dir(values, &name, notes),
        wal_dir: Some(values.text("wal-dir"))
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        cluster: cluster(values, &name, advertise.peer)?,
        listen,
        security,
        advertise_client_urls: advertise.client,
        limits: limits(values),
        keepalive: Keepalive {
            interval: non_zero(values.duration("grpc-keepalive-interval").length()),
            timeout: non_zero(values.duration("grpc-keepalive-timeout").length()),
        },
        snapshot_count: or_default(values.uint("snapshot-count"), SNAPSHOT_COUNT_DEFAULT),
        snapshot_catchup_entries: or_default(
            values.uint("snapshot-catchup-entries"),
            SNAPSHOT_CATCHUP_ENTRIES_DEFAULT,
        ),
        max_wals: values.uint("max-wals"),
        cache_bytes: or_default(values.uint("cache-bytes"), CACHE_BYTES_DEFAULT),
        watch_progress_notify_interval: non_zero(values.duration("watch-progress-notify-interval").length())
            .unwrap_or(WATCH_PROGRESS_INTERVAL_DEFAULT)
            .max(WATCH_PROGRESS_INTERVAL_MIN),
        warning_apply_duration: values.duration("warning-apply-duration").length(),
        warning_unary_request_duration: values.duration("warning-unary-request-duration").length(),
        extensive_metrics: values.text("metrics") == "extensive",
        unsafe_no_fsync: values.bool("unsafe-no-fsync"),
        log,
        feature_gates,
        name,
    })
}

fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn non_zero(length: Duration) -> Option<Duration> {
    (!length.is_zero()).then_some(length)
}

fn data_dir(values: &Values, name: &str, notes: &mut Vec<Note>) -> PathBuf {
    let given = values.text("data-dir");
    if !given.is_empty() {
        return given.into();
    }
    let data_dir = format!("{name}.etcd");
    notes.push(Note::DataDirDefaulted {
        data_dir: data_dir.clone(),
    });
    data_dir.into()
}

fn limits(values: &Values) -> Limits {
    let size = |name| usize::try_from(values.uint(name)).unwrap_or(usize::MAX);
    Limits {
        max_txn_ops: size("max-txn-ops"),
        max_request_bytes: size("max-request-bytes"),
        max_concurrent_streams: u32::try_from(values.uint("max-concurrent-streams")).unwrap_or(u32::MAX),
    }
}

fn listen(values: &Values) -> Result<Listen, String> {
    let bindable = |flag: &str| -> Result<Vec<Url>, String> {
        let urls = values.urls(flag);
        for url in urls.iter().filter(|url| url.is_tcp()) {
            url.bind_address()?;
        }
        Ok(urls)
    };
    let peer = bindable("listen-peer-urls")?;
    require_tcp("listen-peer-urls", &peer)?;
    let listen = Listen {
        peer,
        client: bindable("listen-client-urls")?,
        client_http: bindable("listen-client-http-urls")?,
        metrics: bindable("listen-metrics-urls")?,
        reuse_port: values.bool("socket-reuse-port"),
    };
    if let Some(url) = listen.client_http.iter().find(|url| listen.client.contains(url)) {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }
    if values.is_given("listen-client-urls") && !values.is_given("advertise-client-urls") {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".into());
    }
    Ok(listen)
}

/// Members reach each other over TCP.
fn require_tcp(flag: &str, urls: &[Url]) -> Result<(), String> {
    match urls.iter().find(|url| !url.is_tcp()) {
        None => Ok(()),
        Some(url) => Err(format!(
            "members do not talk over Unix sockets: --{flag} has {url}"
        )),
    }
}

/// What this member says about itself.
struct Advertise {
    peer: Vec<Url>,
    client: Vec<Url>,
    peer_is_default: bool,
    client_is_default: bool,
}

impl Advertise {
    fn new(values: &Values) -> Result<Self, String> {
        let advertise = |flag: &str, form: &str| -> Result<Vec<Url>, String> {
            let urls = values.urls(flag);
            if let Some(url) = urls.iter().find(|url| url.is_tcp() && url.host().is_empty()) {
                let list = super::urls::join(&urls);
                return Err(format!(
                    "--{flag} {list:?} must be {form} (unexpected empty host ({url}))"
                ));
            }
            Ok(urls)
        };
        let peer = advertise("initial-advertise-peer-urls", r#""host:port""#)?;
        require_tcp("initial-advertise-peer-urls", &peer)?;
        let forms = r#"in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket""#;
        let client = advertise("advertise-client-urls", forms)?;
        Ok(Self {
            peer_is_default: super::urls::join(&peer) == "http://localhost:2380",
            client_is_default: super::urls::join(&client) == "http://localhost:2379",
            peer,
            client,
        })
    }

    /// Puts the default route's address where an unspecified address is listened on and localhost would be advertised.
    fn replace_unspecified(
        &mut self,
        listen: &Listen,
        notes: &mut Vec<Note>,
        default_host: impl FnOnce() -> Option<IpAddr>,
    ) {
        let everywhere = |urls: &[Url]| {
            urls.first()
                .filter(|url| matches!(url.host(), "0.0.0.0" | "::"))
                .cloned()
        };
        let peer = everywhere(&listen.peer).filter(|_| self.peer_is_default);
        let client = everywhere(&listen.client).filter(|_| self.client_is_default);
        if peer.is_none() && client.is_none() {
            return;
        }
        let Some(host) = default_host() else { return };
        if let Some(url) = peer {
            self.peer = vec![url.with_host(host)];
        }
        if let Some(url) = client {
            self.client = vec![url.with_host(host)];
        }
        notes.push(Note::HostDetected {
            host: host.to_string(),
        });
    }
}

fn cluster(values: &Values, name: &str, advertise_peer_urls: Vec<Url>) -> Result<ClusterSettings, String> {
    let heartbeat_ms = values.uint("heartbeat-interval");
    let election_ms = values.uint("election-timeout");
    check_intervals(heartbeat_ms, election_ms)?;
    let auto_compaction = auto_compaction(
        &values.text("auto-compaction-mode"),
        &values.text("auto-compaction-retention"),
    )?;
    let given = values.text("initial-cluster");
    let initial_cluster = if given.is_empty() {
        let own: Vec<String> = advertise_peer_urls
            .iter()
            .map(|url| format!("{name}={url}"))
            .collect();
        own.join(",")
    } else {
        given
    };
    Ok(ClusterSettings {
        initial_cluster,
        token: values.text("initial-cluster-token"),
        joins_existing: values.text("initial-cluster-state") == "existing",
        advertise_peer_urls,
        heartbeat: Duration::from_millis(heartbeat_ms),
        election_timeout: Duration::from_millis(election_ms),
        pre_vote: values.bool("pre-vote"),
        auto_compaction,
        quota_backend_bytes: match values.int("quota-backend-bytes") {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        },
    })
}

/// A bare number counts hours or revisions; anything else is a duration, which for revisions counts nanoseconds, as
/// in etcd.
fn auto_compaction(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, String> {
    let retention = if retention.is_empty() { "0" } else { retention };
    let number = retention.parse::<u64>().ok();
    let retention = match number {
        Some(number) => number,
        None => {
            let duration = parse_duration(retention)
                .map_err(|cause| format!("error parsing CompactionRetention: {cause}"))?;
            u64::try_from(duration.0).unwrap_or(0)
        }
    };
    let settings = match (mode, number) {
        ("periodic", Some(hours)) => {
            AutoCompaction::Periodic(Duration::from_secs(hours.saturating_mul(3600)))
        }
        ("periodic", None) => AutoCompaction::Periodic(Duration::from_nanos(retention)),
        ("revision", _) => AutoCompaction::Revisions(retention),
        _ => return Err(format!("unknown auto-compaction-mode {mode:?}")),
    };
    Ok((retention > 0).then_some(settings))
}

fn check_intervals(heartbeat_ms: u64, election_ms: u64) -> Result<(), String> {
    if heartbeat_ms == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election_ms == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat_ms.saturating_mul(HEARTBEATS_PER_ELECTION_MIN) > election_ms {
        return Err(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > ELECTION_TIMEOUT_MS_MAX {
        return Err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
        ));
    }
    Ok(())
}

fn log(values: &Values) -> Result<LogSettings, String> {
    match values.text("logger").as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let level = match values.text("log-level").as_str() {
        "debug" => LogLevel::Debug,
        "info" | "" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "dpanic" | "panic" | "fatal" => LogLevel::Fatal,
        other => return Err(format!("unrecognized level: {other:?}")),
    };
    let format = match values.text("log-format").as_str() {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => {
            return Err(format!(
                "unknown log format: {other}, supported values json, console"
            ));
        }
    };
    let named = values.text("log-outputs");
    let mut outputs: Vec<LogOutput> = Vec::new();
    for name in named.split(',').map(str::trim) {
        let output = match name {
            "default" if named != "default" => {
                return Err("multi logoutput for \"default\" is not supported yet".into());
            }
            "systemd/journal" => {
                return Err("--log-outputs=systemd/journal is not served yet; \
                            under systemd standard error goes to the journal"
                    .into());
            }
            "" => return Err("--log-outputs has an empty name".into()),
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(path.into()),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(LogSettings {
        level,
        format,
        outputs,
    })
}
