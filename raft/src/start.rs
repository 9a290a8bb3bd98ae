//! From a data directory to a running node.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kelson_storage::error::Fault;
use kelson_storage::revision::LogPosition;
use kelson_storage::snapshot::{self, ImageWriter};
use kelson_storage::store::{Opening, Store, StoreOptions};
use kelson_storage::tables::Tables;
use kelson_storage::wal::{Recovered, Wal, WalOptions};
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agreement::{Agreement, StateHashes};
use crate::campaign::{self, LeaderSigns, campaign};
use crate::checkpoint::{Retention, purge_log};
use crate::codec::decode_membership;
use crate::environment::Environment;
use crate::executor::{Blocked, Tasks};
use crate::fault::FaultSignal;
use crate::heartbeat::send_heartbeats;
use crate::images::Images;
use crate::leadership::{Leadership, LeadershipHistory, watch_leadership};
use crate::log_storage::LogStorage;
use crate::meters::Meters;
use crate::network::client::Network;
use crate::network::link::Identity;
use crate::network::server::PeerService;
use crate::network::transport::{Listener, Transport};
use crate::node::{Inner, NodeConfig, Raft, Threads};
use crate::outbox::Outbox;
use crate::propose::Sequencer;
use crate::read_index::LeaderReads;
use crate::state_machine::{Feeds, StateMachine, StateMachineParts};
use crate::storage_thread::StorageThread;
use crate::to_leader::{ToLeader, ToLeaderParts, Watched};
use crate::type_config::PeerNode;

/// Bound on dialling a peer, beyond the election timeout. Source: etcd's peer dial timeout.
const DIAL_EXTRA: Duration = Duration::from_secs(1);

/// What was found in, or made in, the data directory.
struct Opened {
    wal: Wal,
    recovered: Recovered,
    store: Store,
    is_new: bool,
}

pub(crate) async fn start(environment: Environment, config: NodeConfig) -> Result<Inner, Fault> {
    let executor = environment.executor.clone();
    let transport = environment.transport.clone();
    // Ports first: a port in use must not leave half a data directory behind.
    let listeners = listen(&config, transport.as_ref()).await?;
    let opened = {
        let (environment, settings) = (environment.clone(), config.clone());
        let opening = executor.blocking(move || open(environment, &settings));
        opening.await.map_err(|blocked| match blocked {
            Blocked::Fault(fault) => fault,
            Blocked::Interrupted(_) => unusable(&config.data_dir, format!("opening: {blocked}")),
        })?
    };
    let Opened {
        wal,
        recovered,
        store,
        is_new,
    } = opened;

    let fault = FaultSignal::default();
    let meters = Arc::new(Meters::default());
    let tasks = executor.tasks();
    let (log, log_thread) = LogStorage::start(
        wal,
        &recovered,
        config.cache().log,
        fault.clone(),
        meters.clone(),
        &executor,
    )?;
    let incarnation = recovered.incarnation + 1;
    log.save_incarnation(incarnation)
        .await
        .map_err(|source| Fault::io("write", &config.log_directory(), source))?;

    let reader = store.reader();
    let mut checkpointer = store.checkpointer();
    if store.opening().from_index_file {
        checkpointer.check_rows()?;
    }
    let (storage, storage_thread) = StorageThread::start(
        checkpointer,
        store.applied(),
        fault.clone(),
        log.clone(),
        meters.clone(),
        environment.index_files,
        &executor,
    )?;
    let outbox = Arc::new(Mutex::new(Outbox::new(config.id, incarnation)));
    let (applied_sender, applied) = watch::channel((store.applied(), reader.revision()));
    let (lease_sender, lease_changes) = mpsc::unbounded_channel();
    let hashes = Arc::new(StateHashes::default());
    let state_machine = StateMachine::new(StateMachineParts {
        store,
        log: log.clone(),
        feeds: Feeds {
            outbox: outbox.clone(),
            applied: applied_sender,
            leases: lease_sender,
            hashes: hashes.clone(),
        },
        storage: storage.clone(),
        environment: environment.clone(),
        database: config.database(),
        cache: config.cache(),
        fault: fault.clone(),
        warning_apply_duration: config.warning_apply_duration,
        meters: meters.clone(),
    })?;

    let identity = Arc::new(Identity {
        cluster_id: config.cluster_id,
        id: config.id,
        transport,
        meters: meters.clone(),
        dial_timeout: config.election_timeout / 2,
        connect_timeout: config.election_timeout + DIAL_EXTRA,
        reply_timeout: 3 * config.election_timeout,
    });
    let image_reader = reader.clone();
    let images = Images::new(
        storage.clone(),
        executor.clone(),
        Arc::new(move || ImageWriter::new(&image_reader.tables())),
    );
    let signs = Arc::new(LeaderSigns::default());
    let network = Network {
        identity: identity.clone(),
        images,
        acknowledged: Arc::default(),
        questions: Arc::default(),
        signs: signs.clone(),
    };
    let log_to_purge = log.clone();
    let raft = Raft::new(
        config.id,
        Arc::new(raft_config(&config)?),
        network,
        log,
        state_machine,
    )
    .await
    .map_err(|error| unusable(&config.data_dir, format!("consensus did not start: {error}")))?;
    if is_new {
        initialize(&raft, &config).await?;
    }

    let sequencer = Arc::new(Sequencer::new());
    let leader_reads = Arc::new(LeaderReads::new());
    let leader_service = Arc::new(Mutex::new(None));
    let history = Arc::new(Mutex::new(LeadershipHistory::default()));
    let (leadership_sender, leadership) = watch::channel(Leadership::default());
    let to_leader = Arc::new(ToLeader::new(ToLeaderParts {
        outbox: outbox.clone(),
        raft: raft.clone(),
        identity: identity.clone(),
        sequencer: sequencer.clone(),
        leader_reads: leader_reads.clone(),
        leader_service: leader_service.clone(),
        request_timeout: config.request_timeout(),
        election_timeout: config.election_timeout,
    }));
    let agreement = Agreement {
        raft: raft.clone(),
        identity: identity.clone(),
        hashes: hashes.clone(),
        fault: fault.clone(),
        data_dir: config.data_dir.clone(),
    };
    let service = Arc::new(PeerService {
        identity,
        raft: raft.clone(),
        sequencer: sequencer.clone(),
        reads: leader_reads.clone(),
        leader_service: leader_service.clone(),
        disk: environment.disk,
        executor: executor.clone(),
        snapshot_directory: parent(&config.database()).to_owned(),
        signs: signs.clone(),
        hashes: hashes.clone(),
    });

    for listener in listeners {
        tasks.spawn(service.clone().listen(listener, tasks.clone()));
    }
    spawn_loops(&tasks, &raft, &sequencer, &leader_reads);
    tasks.spawn(watch_leadership(
        raft.clone(),
        signs.clone(),
        history.clone(),
        leadership_sender,
        config.election_timeout,
    ));
    tasks.spawn(campaign(
        raft.clone(),
        signs,
        config.election_timeout,
        config.pre_vote,
        executor.random(),
    ));
    tasks.spawn(send_heartbeats(raft.clone(), config.heartbeat));
    tasks.spawn(purge_log(
        raft.clone(),
        log_to_purge,
        storage.durable(),
        Retention {
            snapshot_count: config.snapshot_count,
            catchup_entries: config.snapshot_catchup_entries,
            files_max: config.max_wals,
        },
    ));
    tasks.spawn(agreement.run());
    tasks.spawn(watch_core(raft.clone(), fault.clone(), config.data_dir.clone()));
    let metrics = raft.server_metrics();
    let watched = Watched {
        leadership: leadership.clone(),
        history: history.clone(),
        applied: applied.clone(),
        membership: Arc::new(move || metrics.borrow_watched().membership_config.clone()),
    };
    let route = to_leader.clone();
    tasks.spawn(async move { route.run(watched).await });
    let leader_changes = derive(&tasks, leadership.clone(), |now| (now.leader, now.term));
    let applied_revisions = derive(&tasks, applied.clone(), |now| now.1);

    Ok(Inner {
        config,
        raft,
        meters,
        reader,
        outbox,
        to_leader,
        leader_reads,
        leadership,
        history,
        leader_changes,
        applied,
        applied_revisions,
        lease_changes: Mutex::new(Some(lease_changes)),
        leader_service,
        fault,
        tasks,
        storage,
        threads: Mutex::new(Some(Threads {
            log: log_thread,
            storage: storage_thread,
        })),
        stopping: AtomicBool::new(false),
    })
}

async fn listen(config: &NodeConfig, transport: &dyn Transport) -> Result<Vec<Box<dyn Listener>>, Fault> {
    let mut listeners = Vec::new();
    for address in &config.listen_peer {
        let listener = transport
            .listen(address)
            .await
            .map_err(|source| Fault::io("listen tcp", Path::new(address), source))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Opens what is there, or makes it when nothing is. Half of it is refused: a log without its database, or a database
/// without its log, would come back as a member that forgot what it promised.
fn open(environment: Environment, config: &NodeConfig) -> Result<Opened, Fault> {
    let disk = environment.disk;
    let database = config.database();
    let log_directory = config.log_directory();
    let snapshots = parent(&database);
    for directory in [snapshots, &log_directory] {
        disk.create_directory(directory)
            .map_err(|source| Fault::io("create directory", directory, source))?;
    }
    snapshot::remove_leftovers(disk.as_ref(), snapshots)?;
    // A received database may have got its name without a sync. What follows relies on it. Simulation seed 832761: the log was
    // purged for it, and the power went.
    disk.sync_directory(snapshots)
        .map_err(|source| Fault::io("sync directory", snapshots, source))?;
    let has_database = Tables::exists(disk.as_ref(), &database);
    let has_log = Wal::exists(disk.as_ref(), &log_directory);
    let store_options = StoreOptions {
        database: database.clone(),
        cache: config.cache(),
    };
    if has_log && !has_database {
        return Err(unusable(
            &database,
            "database file of the backend is missing; restore it, or remove this member and add it again"
                .to_owned(),
        ));
    }
    let began = Instant::now();
    let store = Store::open(disk.clone(), store_options)?;
    tell_opening(store.opening(), began.elapsed());
    check_owner(&store, config)?;
    if !has_log && store.applied().is_some() {
        return Err(unusable(
            &log_directory,
            "the log is missing although the database has been used; restore it, or remove this member and add it again"
                .to_owned(),
        ));
    }
    let options = WalOptions {
        directory: log_directory.clone(),
        cluster_id: config.cluster_id,
        member_id: config.id,
        segment_bytes: environment.wal_segment_bytes,
    };
    let (mut wal, mut recovered) = Wal::open(disk, options, !has_log)?;
    if let Some(upto) = store.applied()
        && recovered.last < Some(upto)
        && (recovered.committed == Some(upto) || has_all_it_held(&recovered, &store))
    {
        follow(&mut wal, &mut recovered, upto)?;
    }
    if recovered.last < store.applied() {
        return Err(unusable(
            &log_directory,
            format!(
                "the log ends at {:?}, before what the database holds ({:?}): its newest segments are missing",
                recovered.last,
                store.applied()
            ),
        ));
    }
    if let Some((path, offset, bytes)) = &recovered.tail_cut {
        tracing::warn!(path = %path.display(), offset, bytes, "cut a torn tail that was never acknowledged");
    }
    if recovered.last > store.applied() {
        kelson_storage::reached!("start_replays_entries");
    }
    let is_new = recovered.last.is_none() && recovered.vote.is_none() && store.applied().is_none();
    Ok(Opened {
        wal,
        recovered,
        store,
        is_new,
    })
}

fn tell_opening(opening: &Opening, took: Duration) {
    let Opening {
        from_index_file,
        unfit,
        rows,
        keys,
    } = opening;
    if let Some(why) = unfit {
        tracing::warn!(why, "did not use the index file, and read all rows instead");
    }
    tracing::info!(keys, rows, from_index_file, ?took, "opened the database");
}

/// Whether the log still has all that was on disk when the database was written. The others may have committed what
/// this member had not synced, and so never acknowledged: it is applied, and durable in the database first when the
/// power goes at that moment.
fn has_all_it_held(recovered: &Recovered, store: &Store) -> bool {
    recovered.last.map_or(0, |last| last.index) >= store.log_end()
}

/// Lets a log that ends before the database go on after it. What the log holds is below that state, or was never
/// committed. Either a snapshot had replaced the database and the log had only heard of its coming, or see
/// [`has_all_it_held`].
fn follow(wal: &mut Wal, recovered: &mut Recovered, upto: LogPosition) -> Result<(), Fault> {
    tracing::info!(end = ?recovered.last, state = ?upto, "the log ends before the database, and goes on after it");
    wal.truncate_after(recovered.purged)?;
    wal.purge(upto)?;
    wal.flush(true)?;
    recovered.purged = Some(upto);
    recovered.last = Some(upto);
    Ok(())
}

/// The log names its cluster and its member; the database tells by the members that it knows.
fn check_owner(store: &Store, config: &NodeConfig) -> Result<(), Fault> {
    let database = config.database();
    let Some((_, encoded)) = store.membership() else {
        return Ok(());
    };
    let membership = decode_membership(encoded)
        .map_err(|error| Fault::damaged(&database, 0, format!("membership: {error}")))?;
    if membership.get_node(&config.id).is_some() {
        return Ok(());
    }
    let members: Vec<String> = membership.nodes().map(|(id, _)| format!("{id:x}")).collect();
    Err(unusable(
        &database,
        format!(
            "the database belongs to a cluster of members {}, and this is member {:x}; restore the member's own, or \
             start with an empty data directory",
            members.join(", "),
            config.id
        ),
    ))
}

fn raft_config(config: &NodeConfig) -> Result<Config, Fault> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // The lease is the only part of openraft's election clock that is used: `campaign` says when to stand.
    let lease = millis(campaign::lease(config.election_timeout)).max(4);
    let raft = Config {
        cluster_name: format!("{:x}", config.cluster_id),
        // Not when heartbeats are sent, which `heartbeat` says, but how long their answers may take.
        heartbeat_interval: lease - 2,
        enable_elect: false,
        // No longer an election's clock, but still openraft's bound on how long a vote may be asked for: on a new
        // connection that is three round trips and a sync. The lease is the longest that openraft takes.
        election_timeout_min: lease - 1,
        election_timeout_max: lease,
        // Checkpoints are the storage thread's; this crate tells openraft of them and purges (reliability R7).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(config.pre_vote),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        backoff: "50ms 100ms ..200ms".to_owned(),
        ..Config::default()
    };
    raft.validate()
        .map_err(|error| unusable(&config.data_dir, format!("consensus settings: {error}")))
}

async fn initialize(raft: &Raft, config: &NodeConfig) -> Result<(), Fault> {
    let members: BTreeMap<u64, PeerNode> = config
        .bootstrap
        .iter()
        .map(|member| {
            (
                member.id,
                PeerNode {
                    urls: member.peer_urls.clone(),
                },
            )
        })
        .collect();
    raft.initialize(members)
        .await
        .map_err(|error| unusable(&config.data_dir, format!("cannot bootstrap the cluster: {error}")))
}

fn spawn_loops(tasks: &Tasks, raft: &Raft, sequencer: &Arc<Sequencer>, reads: &Arc<LeaderReads>) {
    let (raft_, sequencer) = (raft.clone(), sequencer.clone());
    tasks.spawn(async move { sequencer.run(&raft_).await });
    let (raft_, reads) = (raft.clone(), reads.clone());
    tasks.spawn(async move { reads.run(&raft_).await });
}

/// A dead core is a fault: a member without one must not linger (reliability P16).
async fn watch_core(raft: Raft, fault: FaultSignal, data_dir: std::path::PathBuf) {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_and_update().running_state.clone();
        if let Err(fatal) = state {
            fault.raise(unusable(&data_dir, format!("consensus has stopped: {fatal}")));
            return;
        }
        if metrics.changed().await.is_err() {
            fault.raise(unusable(&data_dir, "consensus has stopped".to_owned()));
            return;
        }
    }
}

/// A watch channel that shows a part of another and wakes only when that part changes.
fn derive<T, U>(
    tasks: &Tasks,
    mut from: watch::Receiver<T>,
    part: impl Fn(&T) -> U + Send + 'static,
) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: PartialEq + Send + Sync + 'static,
{
    let (sender, receiver) = watch::channel(part(&from.borrow_and_update()));
    tasks.spawn(async move {
        while from.changed().await.is_ok() {
            let now = part(&from.borrow_and_update());
            sender.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
    });
    receiver
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn unusable(path: &Path, what: String) -> Fault {
    Fault::Unusable {
        path: path.to_owned(),
        what,
    }
}
