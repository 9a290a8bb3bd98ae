//! The configuration of one member: etcd's flags, environment and file in, checked settings out.
//!
//! Nothing that was asked for is dropped in silence: a flag is served, or changes nothing harmful and is named in the
//! log, or ends the start.

mod build;
pub mod feature_gates;
pub mod file;
pub mod flags;
pub mod founding;
pub mod go_value;
pub mod grammar;
pub mod identity;
pub mod note;
pub mod security;
#[cfg(test)]
mod tests;
pub mod urls;
pub mod usage;
pub mod values;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use feature_gates::FeatureGates;
use note::Note;
use security::Security;
use urls::Url;

/// Checked settings of one member.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--name`.
    pub name: String,
    /// `--data-dir`, or `<name>.etcd`.
    pub data_dir: PathBuf,
    /// `--wal-dir`.
    pub wal_dir: Option<PathBuf>,
    /// What all members should agree on.
    pub cluster: ClusterSettings,
    /// Where this member listens.
    pub listen: Listen,
    /// TLS.
    pub security: Security,
    /// `--advertise-client-urls`: published to clients.
    pub advertise_client_urls: Vec<Url>,
    /// Bounds on what clients may ask.
    pub limits: Limits,
    /// HTTP/2 pings to clients.
    pub keepalive: Keepalive,
    /// `--snapshot-count`: applied entries between checkpoints.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: log entries kept behind a checkpoint.
    pub snapshot_catchup_entries: u64,
    /// Files of the log that may hold entries which a checkpoint covers; 0: any number.
    pub max_wals: u64,
    /// Bytes kept in memory so as not to be read again.
    pub cache_bytes: u64,
    /// `--watch-progress-notify-interval`, never zero.
    pub watch_progress_notify_interval: Duration,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
    /// `--warning-unary-request-duration`.
    pub warning_unary_request_duration: Duration,
    /// `--metrics=extensive`: how long calls take, too.
    pub extensive_metrics: bool,
    /// `--unsafe-no-fsync`.
    pub unsafe_no_fsync: bool,
    /// Where and how to log.
    pub log: LogSettings,
    /// `--feature-gates`.
    pub feature_gates: FeatureGates,
}

/// Settings that should be the same on every member.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// `--initial-cluster` as given, or this member alone. Read only when there is no data yet: see [`founding`].
    pub initial_cluster: String,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--initial-cluster-state=existing`.
    pub joins_existing: bool,
    /// `--initial-advertise-peer-urls`. Local, but part of the founding.
    pub advertise_peer_urls: Vec<Url>,
    /// `--heartbeat-interval`. Longer: fewer messages, failures are noticed later.
    pub heartbeat: Duration,
    /// `--election-timeout`. Shorter: failures are noticed earlier, slow networks lose leaders for nothing.
    pub election_timeout: Duration,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`; none: off.
    pub auto_compaction: Option<AutoCompaction>,
    /// `--quota-backend-bytes`; none: no quota.
    pub quota_backend_bytes: Option<u64>,
}

/// Where this member listens.
#[derive(Clone, Debug)]
pub struct Listen {
    /// `--listen-peer-urls`.
    pub peer: Vec<Url>,
    /// `--listen-client-urls`.
    pub client: Vec<Url>,
    /// `--listen-client-http-urls`; when not empty, `client` speaks gRPC alone.
    pub client_http: Vec<Url>,
    /// `--listen-metrics-urls`.
    pub metrics: Vec<Url>,
    /// `--socket-reuse-port`.
    pub reuse_port: bool,
}

/// What history is kept when nobody compacts by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// That of this time. Longer: more history for watchers that come back, more space.
    Periodic(Duration),
    /// So many revisions.
    Revisions(u64),
}

/// Bounds on what clients may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-concurrent-streams`, per client connection.
    pub max_concurrent_streams: u32,
}

/// HTTP/2 pings to clients that say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `--grpc-keepalive-interval`; none: no pings.
    pub interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`; none: an answer is never missed.
    pub timeout: Option<Duration>,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `--log-level`.
    pub level: LogLevel,
    /// `--log-format`.
    pub format: LogFormat,
    /// `--log-outputs`.
    pub outputs: Vec<LogOutput>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Json,
            outputs: vec![LogOutput::Stderr],
        }
    }
}

/// The least important line that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// Changes of state.
    Info,
    /// Odd, but coping.
    Warn,
    /// A person should look.
    Error,
    /// Only what ends the process (zap's `dpanic`, `panic` and `fatal`).
    Fatal,
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Tab-separated, fields as JSON.
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// A configuration, and what reading it had to say.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// To be logged once there is a log.
    pub notes: Vec<Note>,
}

/// Why no server is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Print the version, exit 0.
    Version,
    /// Print the usage, exit 0.
    Help,
    /// The command line cannot be read: the text and the usage on standard error, exit 2.
    Syntax(String),
    /// A variable and its flag were both given; exit 1.
    Shadowed {
        /// The variable.
        variable: String,
    },
    /// A setting is refused; exit 1.
    Invalid(String),
}

/// Reads a command line (without the program's name), an environment, and the file that they name. `default_host` is asked at most once, for
/// the address to advertise instead of an unspecified one.
pub fn load(
    arguments: &[String],
    environment: &[(String, String)],
    default_host: impl FnOnce() -> Option<IpAddr>,
) -> Result<Loaded, Ending> {
    if let Some(command @ ("gateway" | "grpc-proxy")) = arguments.first().map(String::as_str) {
        return Err(Ending::Invalid(format!(
            "the command {command} is not served by this server"
        )));
    }
    let mut values = values::Values::read(arguments, environment)?;
    let mut notes = values.take_notes();
    let config = build::config(&values, &mut notes, default_host).map_err(Ending::Invalid)?;
    Ok(Loaded { config, notes })
}

/// The address of the interface that the default route leaves by. Asks the kernel's routing table; sends nothing.
pub fn default_route_address() -> Option<IpAddr> {
    // 192.0.2.0/24 is reserved for documentation: connecting a datagram socket only looks the route up.
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}
