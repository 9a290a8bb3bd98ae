//! The server: everything a member runs is built, wired, owned and ended here.
//!
//! Order of a start: ports, data directory, node, watch hub and lease keeper, publication, client listeners. The
//! metrics listener serves from the first moment; client listeners accept connections at once and serve them once the
//! member is in the cluster's list. Order of an end: client calls, node, log.

mod auto_compaction;
mod listeners;
mod tasks;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kelson_raft::environment::Environment;
use kelson_raft::node::{Node, NodeConfig};
use kelson_storage::error::Fault;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::config::founding::Founding;
use crate::config::urls;
use crate::data_dir::{DataDir, Identity, Recorded};
use crate::http::connection::{Http2Settings, Site, Stop};
use crate::http::listener::Listener;
use crate::http::member::Running;
use crate::http::metrics::Facts;
use crate::http::{Endpoints, Surface};
use crate::lease::LeaseKeeper;
use crate::logging::FATAL;
use crate::services::front::Front;
use crate::services::{Limits, ServiceContext, quota};
use crate::signals::Signals;
use crate::tls::{Policy, Rejections};
use crate::version::{KELSON_VERSION, SERVER_VERSION};
use crate::watch::{WatchHub, WatchOptions};

use self::listeners::Listeners;

/// How long the last tasks may take once clients have been served and before the node is stopped.
const LAST_TASKS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node may take to hand over leadership and write its checkpoint. Its data is safe without.
const NODE_STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a server ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It never started; the text says why, and what to do.
    #[error("{0}")]
    Start(String),
    /// The member failed: its disk, its data, or its consensus.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A task that the server lives from panicked; the log has the panic.
    #[error("a task of the server panicked")]
    TaskPanicked,
}

/// Runs a member until it is told to stop, or fails. Says all there is to say in the log; the code is for the shell.
pub async fn run(config: Config) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(cause) => return failed(&ServerError::Start(format!("cannot listen for signals: {cause}"))),
    };
    match Server::start(config, &mut signals).await {
        Ok(Some(server)) => server.serve(&mut signals).await,
        Ok(None) => ExitCode::SUCCESS,
        Err(cause) => failed(&cause),
    }
}

fn failed(cause: &ServerError) -> ExitCode {
    match cause {
        // etcd's words for whatever goes wrong before a member has joined.
        ServerError::Start(_) => error!(target: FATAL, error = %cause, "discovery failed"),
        cause => error!(target: FATAL, error = %cause, "this member cannot go on"),
    }
    ExitCode::FAILURE
}

/// A member that is in the cluster and serves clients.
struct Server {
    config: Arc<Config>,
    node: Node,
    /// Held until the node has stopped: nobody else may open the data.
    _data_dir: DataDir,
    stop: Stop,
    /// Connections.
    connections: TaskTracker,
    /// Work of services that outlives its call.
    service_tasks: TaskTracker,
    /// Accept loops.
    accepting: JoinSet<()>,
    /// Tasks that live as long as the server; whoever ends first ends it.
    vital: JoinSet<ServerError>,
    faults: mpsc::UnboundedReceiver<Fault>,
}

impl Server {
    /// None: told to stop while starting.
    async fn start(config: Config, signals: &mut Signals) -> Result<Option<Self>, ServerError> {
        let config = Arc::new(config);
        log_configuration(&config);
        let (policy, _) = Policy::new(&config.security.policy).map_err(ServerError::Start)?;
        let rejections = Arc::new(Rejections::default());
        let listeners = Listeners::bind(&config, &policy, &rejections).map_err(ServerError::Start)?;
        let data_dir = DataDir::claim(&config).map_err(ServerError::Start)?;
        let (identity, node_config) = plan(&config, data_dir.recorded()).map_err(ServerError::Start)?;
        if !data_dir.recorded().is_some_and(|recorded| recorded.started) {
            data_dir.record(identity, false).map_err(ServerError::Start)?;
        }

        let stop = Stop::default();
        let connections = TaskTracker::new();
        let endpoints = Endpoints::new();
        let site = Site {
            grpc: None::<Front>,
            endpoints: Some((Surface::Metrics, endpoints.clone())),
            http2: Http2Settings {
                max_concurrent_streams: config.limits.max_concurrent_streams,
                keepalive: config.keepalive,
            },
            stop: stop.clone(),
            tasks: connections.clone(),
        };
        let mut accepting = JoinSet::new();
        for listener in listeners.metrics {
            accepting.spawn(site.clone().serve(listener));
        }

        let transport = listeners::peers(&config, &policy, rejections.clone()).map_err(ServerError::Start)?;
        let environment = Environment {
            transport: Arc::new(transport),
            ..Environment::real(&node_config)
        };
        let starting = Node::start_in(environment, node_config);
        let Some(started) = unless_stopped(signals, starting).await else {
            return Ok(None);
        };
        let node = started.map_err(|fault| ServerError::Start(fault.to_string()))?;
        if !data_dir.recorded().is_some_and(|recorded| recorded.started) {
            data_dir.record(identity, true).map_err(ServerError::Start)?;
        }
        let mut vital = JoinSet::new();
        let (context, faults) = services(&config, &node, &mut vital);
        endpoints.serve(Running {
            node: node.clone(),
            watch_hub: context.watch_hub.clone(),
            facts: Facts {
                quota_backend_bytes: config.cluster.quota_backend_bytes.unwrap_or(0),
                feature_gates: config.feature_gates.clone(),
                rejections,
                grpc: context.grpc.clone(),
                requests: context.requests.clone(),
                leases: context.leases.clone(),
                extensive: config.extensive_metrics,
            },
        });
        let mut server = Self {
            service_tasks: context.tasks.clone(),
            config,
            node,
            _data_dir: data_dir,
            stop,
            connections,
            accepting,
            vital,
            faults,
        };
        if !server.join(signals).await? {
            server.end().await;
            return Ok(None);
        }
        let context = Arc::new(context);
        let watching = quota::watch(context.clone());
        server
            .service_tasks
            .spawn(server.stop.drain.clone().run_until_cancelled_owned(watching));
        server.open(
            site,
            Front::new(context),
            listeners.client,
            listeners.client_http,
            endpoints,
        );
        notify_systemd();
        Ok(Some(server))
    }

    /// Waits until the cluster knows this member by name; false: told to stop first.
    async fn join(&mut self, signals: &mut Signals) -> Result<bool, ServerError> {
        let publication = tasks::publish(self.node.clone(), self.config.clone());
        tokio::select! {
            () = publication => Ok(true),
            cause = first_failure(&self.node, &mut self.vital, &mut self.faults) => Err(cause),
            signal = signals.next() => {
                info!(signal, "received signal; shutting down");
                Ok(false)
            }
        }
    }

    /// Starts to serve clients.
    fn open(
        &mut self,
        metrics_site: Site<Front>,
        front: Front,
        client: Vec<Listener>,
        client_http: Vec<Listener>,
        endpoints: Endpoints,
    ) {
        info!("ready to serve client requests");
        let endpoints = Some((Surface::Client, endpoints));
        let separate_http = !client_http.is_empty();
        let grpc_site = Site {
            grpc: Some(front),
            endpoints: endpoints.clone().filter(|_| !separate_http),
            ..metrics_site.clone()
        };
        let http_site = Site {
            endpoints,
            ..metrics_site
        };
        for (traffic, site, listeners) in [
            (
                if separate_http { "grpc" } else { "grpc+http" },
                grpc_site,
                client,
            ),
            ("http", http_site, client_http),
        ] {
            for listener in listeners {
                let address = listener.address();
                if listener.is_secure() {
                    info!(traffic, address, "serving client traffic securely");
                } else {
                    warn!(
                        traffic,
                        address, "serving client traffic insecurely; this is strongly discouraged!"
                    );
                }
                self.accepting.spawn(site.clone().serve(listener));
            }
        }
        if let Some(settings) = self.config.cluster.auto_compaction {
            let compacting = auto_compaction::run(self.node.clone(), settings);
            self.service_tasks
                .spawn(self.stop.drain.clone().run_until_cancelled_owned(compacting));
        }
        let agreement = tasks::agree_on_version(self.node.clone());
        self.service_tasks
            .spawn(self.stop.drain.clone().run_until_cancelled_owned(agreement));
    }

    /// Serves until told to stop, or until something fails.
    async fn serve(mut self, signals: &mut Signals) -> ExitCode {
        tokio::select! {
            signal = signals.next() => info!(signal, "received signal; shutting down"),
            cause = first_failure(&self.node, &mut self.vital, &mut self.faults) => return failed(&cause),
        }
        self.end().await
    }

    /// Ends everything in order. A fault while clients are still being served cuts it short.
    async fn end(mut self) -> ExitCode {
        let (name, data_dir) = (
            self.config.name.clone(),
            self.config.data_dir.display().to_string(),
        );
        info!(name, "data-dir" = data_dir, "closing etcd server");
        let node = self.node.clone();
        let mut faults = std::mem::replace(&mut self.faults, mpsc::unbounded_channel().1);
        let in_order = async {
            // First: clients that are dropped come back to members that know a leader.
            self.node.hand_over().await;
            self.drain().await;
        };
        tokio::select! {
            () = in_order => {}
            fault = node.fault() => return failed(&fault.into()),
            Some(fault) = faults.recv() => return failed(&fault.into()),
        }
        if tokio::time::timeout(NODE_STOP_TIMEOUT, node.shutdown())
            .await
            .is_err()
        {
            error!(took = ?NODE_STOP_TIMEOUT, "the node did not stop in time; its log is safe on disk");
            return ExitCode::FAILURE;
        }
        info!(name, "data-dir" = data_dir, "closed etcd server");
        ExitCode::SUCCESS
    }

    /// Lets clients finish, for as long as a request may take; then drops them.
    async fn drain(&mut self) {
        self.stop.drain.cancel();
        // The accept loops end at once, and their listeners with them.
        while self.accepting.join_next().await.is_some() {}
        self.connections.close();
        if tokio::time::timeout(self.node.request_timeout(), self.connections.wait())
            .await
            .is_err()
        {
            warn!(
                connections = self.connections.len(),
                "dropping connections that did not finish in time"
            );
            self.stop.cut.cancel();
            self.connections.wait().await;
        }
        self.service_tasks.close();
        // What is left is courtesy to other clients, such as giving up a place in a queue for a lock.
        let _ = tokio::time::timeout(LAST_TASKS_TIMEOUT, self.service_tasks.wait()).await;
    }
}

/// Who this member is, and what its node must know. Flags about the founding count only until there is data.
fn plan(config: &Config, recorded: Option<Recorded>) -> Result<(Identity, NodeConfig), String> {
    let (identity, bootstrap) = match recorded {
        Some(Recorded {
            identity,
            started: true,
        }) => (identity, Vec::new()),
        _ if config.cluster.joins_existing => {
            return Err(
                "joining an existing cluster (--initial-cluster-state=existing) is not served yet".into(),
            );
        }
        _ => {
            let founding = Founding::new(&config.name, &config.cluster)?;
            let identity = Identity {
                member_id: founding.member_id,
                cluster_id: founding.cluster_id,
            };
            (identity, founding.members)
        }
    };
    let listen_peer = config
        .listen
        .peer
        .iter()
        .map(|url| url.bind_address().map(|address| address.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    info!(
        "local-member-id" = format_args!("{:x}", identity.member_id),
        "cluster-id" = format_args!("{:x}", identity.cluster_id),
        founding = !bootstrap.is_empty(),
        "starting local member"
    );
    Ok((
        identity,
        NodeConfig {
            id: identity.member_id,
            cluster_id: identity.cluster_id,
            data_dir: config.data_dir.clone(),
            wal_dir: config.wal_dir.clone(),
            bootstrap,
            listen_peer,
            heartbeat: config.cluster.heartbeat,
            election_timeout: config.cluster.election_timeout,
            snapshot_count: config.snapshot_count,
            snapshot_catchup_entries: config.snapshot_catchup_entries,
            max_wals: config.max_wals,
            cache_bytes: config.cache_bytes,
            max_request_bytes: config.limits.max_request_bytes,
            pre_vote: config.cluster.pre_vote,
            warning_apply_duration: config.warning_apply_duration,
            unsafe_no_fsync: config.unsafe_no_fsync,
        },
    ))
}

/// Builds what clients talk to, and starts the tasks it lives from.
fn services(
    config: &Config,
    node: &Node,
    vital: &mut JoinSet<ServerError>,
) -> (ServiceContext, mpsc::UnboundedReceiver<Fault>) {
    let watch_options = WatchOptions::new(
        config.watch_progress_notify_interval,
        config.limits.max_request_bytes,
    );
    let (watch_hub, watching) = WatchHub::start(node.clone(), watch_options);
    // Both end well only when the node has stopped or nobody is left to serve; neither is a failure.
    vital.spawn(async move {
        match watching.await {
            Ok(()) => std::future::pending().await,
            Err(fault) => fault.into(),
        }
    });
    let (leases, expiring) = LeaseKeeper::start(node.clone());
    vital.spawn(async move {
        expiring.await;
        std::future::pending().await
    });
    let limits = Limits {
        max_request_bytes: config.limits.max_request_bytes,
        max_txn_ops: config.limits.max_txn_ops,
        quota_backend_bytes: config
            .cluster
            .quota_backend_bytes
            .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        warning_unary_request_duration: config.warning_unary_request_duration,
    };
    ServiceContext::new(node.clone(), watch_hub, leases, limits, rand::random())
}

/// Resolves with the first thing that must not happen.
async fn first_failure(
    node: &Node,
    vital: &mut JoinSet<ServerError>,
    faults: &mut mpsc::UnboundedReceiver<Fault>,
) -> ServerError {
    tokio::select! {
        fault = node.fault() => fault.into(),
        Some(fault) = faults.recv() => fault.into(),
        Some(ended) = vital.join_next() => ended.unwrap_or(ServerError::TaskPanicked),
    }
}

/// Runs `start`, unless a signal comes first.
async fn unless_stopped<T>(signals: &mut Signals, start: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        started = start => Some(started),
        signal = signals.next() => {
            info!(signal, "received signal; shutting down");
            None
        }
    }
}

fn log_configuration(config: &Config) {
    info!(
        "etcd-version" = SERVER_VERSION,
        "kelson-version" = KELSON_VERSION,
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "wal-dir" = %config.wal_dir.clone().unwrap_or_default().display(),
        "snapshot-count" = config.snapshot_count,
        "snapshot-catchup-entries" = config.snapshot_catchup_entries,
        "max-wals" = config.max_wals,
        "cache-bytes" = config.cache_bytes,
        "heartbeat-interval" = ?config.cluster.heartbeat,
        "election-timeout" = ?config.cluster.election_timeout,
        "pre-vote" = config.cluster.pre_vote,
        "initial-cluster" = config.cluster.initial_cluster,
        "initial-cluster-token" = config.cluster.token,
        "quota-backend-bytes" = config.cluster.quota_backend_bytes.unwrap_or(0),
        "max-request-bytes" = config.limits.max_request_bytes,
        "max-txn-ops" = config.limits.max_txn_ops,
        "max-concurrent-streams" = config.limits.max_concurrent_streams,
        "unsafe-no-fsync" = config.unsafe_no_fsync,
        "starting an etcd server"
    );
    if config.unsafe_no_fsync {
        warn!("syncs are switched off (--unsafe-no-fsync): a crash of this machine loses data");
    }
    info!(
        "initial-advertise-peer-urls" = urls::join(&config.cluster.advertise_peer_urls),
        "listen-peer-urls" = urls::join(&config.listen.peer),
        "advertise-client-urls" = urls::join(&config.advertise_client_urls),
        "listen-client-urls" = urls::join(&config.listen.client),
        "listen-client-http-urls" = urls::join(&config.listen.client_http),
        "listen-metrics-urls" = urls::join(&config.listen.metrics),
        "now serving peer/client/metrics"
    );
}

fn notify_systemd() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    info!("notifying init daemon");
    match crate::notify::ready(&socket) {
        Ok(()) => info!("successfully notified init daemon"),
        Err(error) => error!(%error, "failed to notify systemd for readiness"),
    }
}
