//! openraft's state machine over [`Store`]: apply, and snapshots as handles of the durable checkpoint.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use kelson_storage::applied::Outcome;
use kelson_storage::command::CommandId;
use kelson_storage::disk::Disk;
use kelson_storage::error::Fault;
use kelson_storage::fail_point;
use kelson_storage::limits::{CacheBudget, UNWRITTEN_BYTES_MAX};
use kelson_storage::reached;
use kelson_storage::revision::LogPosition;
use kelson_storage::snapshot;
use kelson_storage::store::{ApplySink, MemberRecord, Store};
use kelson_storage::tables::Tables;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agreement::StateHashes;
use crate::codec::{decode_membership, encode_membership};
use crate::environment::{Environment, Observer};
use crate::executor::{Blocked, Executor};
use crate::fault::FaultSignal;
use crate::log_storage::LogStorage;
use crate::meters::{Meters, Tally, UnderWay};
use crate::node::LeaseChange;
use crate::outbox::Outbox;
use crate::storage_thread::StorageThread;
use crate::type_config::{LogId, Membership, SnapshotMeta, StoredMembership, TypeConfig, log_id, position};

/// Entries applied before other tasks get their turn. One entry holds up to 1,024 commands, a millisecond or two.
const ENTRIES_PER_TURN: usize = 4;

/// What an entry says.
type Payload = EntryPayload<crate::type_config::Batch, u64, crate::type_config::PeerNode>;

/// What openraft passes around as a snapshot. The data itself never goes through openraft.
pub(crate) enum SnapshotData {
    /// This member's own durable checkpoint, whatever it is when the transfer begins.
    Checkpoint,
    /// A verified database file received from the leader, not yet in place.
    Received(PathBuf),
}

/// Where apply reports to.
pub(crate) struct Feeds {
    /// This member's waiting clients.
    pub(crate) outbox: Arc<Mutex<Outbox>>,
    /// The newest applied position and the main revision there.
    pub(crate) applied: watch::Sender<(Option<LogPosition>, u64)>,
    /// For the task that counts leases out.
    pub(crate) leases: mpsc::UnboundedSender<LeaseChange>,
    /// For the comparison with other members.
    pub(crate) hashes: Arc<StateHashes>,
}

/// See the module.
pub(crate) struct StateMachine {
    /// None only while a snapshot is being installed on another thread.
    store: Option<Store>,
    feeds: Feeds,
    log: LogStorage,
    storage: StorageThread,
    disk: Arc<dyn Disk>,
    executor: Executor,
    observer: Option<Arc<dyn Observer>>,
    database: PathBuf,
    cache: CacheBudget,
    fault: FaultSignal,
    warning_apply_duration: Duration,
    meters: Arc<Meters>,
    memberships: Memberships,
}

/// The memberships that were in force at positions a checkpoint may have, oldest first.
#[derive(Default)]
struct Memberships {
    known: Vec<StoredMembership>,
}

impl Memberships {
    fn add(&mut self, membership: StoredMembership) {
        self.known.push(membership);
    }

    /// The membership of a checkpoint at `at`. Older ones are forgotten: checkpoints only move on.
    fn at(&mut self, at: Option<LogPosition>) -> StoredMembership {
        let at = at.map(log_id);
        let later = self
            .known
            .iter()
            .position(|membership| *membership.log_id() > at)
            .unwrap_or(self.known.len());
        if later > 1 {
            self.known.drain(..later - 1);
        }
        self.known.first().cloned().unwrap_or_default()
    }

    fn newest(&self) -> StoredMembership {
        self.known.last().cloned().unwrap_or_default()
    }
}

/// Hands outcomes and lease changes on as apply produces them.
struct Sink<'a> {
    feeds: &'a Feeds,
    tally: Tally<'a>,
}

impl ApplySink for Sink<'_> {
    fn outcome(&mut self, id: CommandId, outcome: Outcome) {
        self.tally.outcome(id, &outcome);
        self.feeds.outbox.lock().complete(id, outcome);
    }

    fn lease_granted(&mut self, id: i64, ttl: i64) {
        // The receiver is gone only when the node is stopping.
        let _ = self.feeds.leases.send(LeaseChange::Granted { id, ttl });
    }

    fn lease_revoked(&mut self, id: i64) {
        let _ = self.feeds.leases.send(LeaseChange::Revoked { id });
    }
}

/// What the state machine is made of.
pub(crate) struct StateMachineParts {
    pub(crate) store: Store,
    pub(crate) feeds: Feeds,
    pub(crate) log: LogStorage,
    pub(crate) storage: StorageThread,
    pub(crate) environment: Environment,
    pub(crate) database: PathBuf,
    pub(crate) cache: CacheBudget,
    pub(crate) fault: FaultSignal,
    pub(crate) warning_apply_duration: Duration,
    pub(crate) meters: Arc<Meters>,
}

impl StateMachine {
    pub(crate) fn new(parts: StateMachineParts) -> Result<Self, Fault> {
        let StateMachineParts {
            store,
            feeds,
            log,
            storage,
            environment,
            database,
            cache,
            fault,
            warning_apply_duration,
            meters,
        } = parts;
        let mut memberships = Memberships::default();
        if let Some((at, bytes)) = store.membership() {
            let membership = decode_membership(bytes)
                .map_err(|error| Fault::damaged(&database, 0, format!("membership: {error}")))?;
            memberships.add(StoredMembership::new(at.map(log_id), membership));
        }
        feeds
            .applied
            .send_replace((store.applied(), store.reader().revision()));
        if let Some(at) = store.applied() {
            feeds.hashes.note(at, store.rolling_hash());
        }
        Ok(Self {
            store: Some(store),
            feeds,
            log,
            storage,
            disk: environment.disk,
            executor: environment.executor,
            observer: environment.observer,
            database,
            cache,
            fault,
            warning_apply_duration,
            meters,
            memberships,
        })
    }

    fn store(&mut self) -> &mut Store {
        self.store
            .as_mut()
            .expect("openraft calls one method at a time, and install_snapshot puts the store back")
    }

    fn apply_entry(&mut self, id: LogId, payload: Payload) -> Result<(), Fault> {
        let at = position(&id);
        let began = Instant::now();
        let store = self.store.as_mut().expect("as above");
        let proposals = match &payload {
            EntryPayload::Normal(batch) => batch.proposals(),
            _ => Bytes::new(),
        };
        let mut sink = Sink {
            feeds: &self.feeds,
            tally: Tally::of(&proposals),
        };
        let membership = apply_entry(store, id, payload, &mut sink)?;
        if let Some(membership) = membership {
            self.memberships.add(StoredMembership::new(Some(id), membership));
        }
        self.feeds.hashes.note(at, store.rolling_hash());
        let took = began.elapsed();
        self.meters.apply.observe(&sink.tally, took);
        if took > self.warning_apply_duration {
            self.meters.slow_applies.add(1);
            tracing::warn!(
                took = ?took,
                "expected-duration" = ?self.warning_apply_duration,
                index = at.index,
                "apply request took too long"
            );
        }
        if let Some(observer) = &self.observer {
            observer.applied(at, store.rolling_hash());
        }
        Ok(())
    }

    /// Tells everybody who waits for apply where it stands.
    fn publish(&mut self) {
        let store = self.store();
        let now = (store.applied(), store.reader().revision());
        self.feeds.applied.send_replace(now);
        self.storage.wake();
    }

    /// Records that the database does not hold yet cannot leave memory: past the budget apply waits for it.
    async fn wait_for_the_database(&mut self) -> Result<(), io::Error> {
        while self.store().reader().unwritten_bytes() > UNWRITTEN_BYTES_MAX {
            reached!("apply_waited_for_database");
            let stopped = || io::Error::other("the storage thread has stopped");
            self.storage.checkpoint().await.ok_or_else(stopped)?;
        }
        Ok(())
    }

    /// The fault ends the member; openraft hears of it too, and stops its core.
    fn stop(&self, fault: Fault) -> io::Error {
        let error = io::Error::other(fault.to_string());
        self.fault.raise(fault);
        error
    }

    fn snapshot_at(
        &mut self,
        at: Option<LogPosition>,
    ) -> Snapshot<
        openraft::alias::CommittedLeaderIdOf<TypeConfig>,
        u64,
        crate::type_config::PeerNode,
        SnapshotData,
    > {
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: at.map(log_id),
                last_membership: self.memberships.at(at),
            },
            snapshot: SnapshotData::Checkpoint,
        }
    }
}

/// Applies one committed entry; returns the membership if it is one.
pub(crate) fn apply_entry(
    store: &mut Store,
    id: LogId,
    payload: Payload,
    sink: &mut dyn ApplySink,
) -> Result<Option<Membership>, Fault> {
    let at = position(&id);
    match payload {
        EntryPayload::Blank => store.apply_blank(at)?,
        EntryPayload::Normal(batch) => {
            fail_point!("beforeApplyOneEntryNormal");
            store.apply_batch(at, &batch.proposals(), sink)?;
        }
        EntryPayload::Membership(membership) => {
            fail_point!("beforeApplyOneConfChange");
            store.apply_membership(at, encode_membership(&membership), member_records(&membership))?;
            return Ok(Some(membership));
        }
    }
    Ok(None)
}

fn member_records(membership: &Membership) -> Vec<MemberRecord> {
    let learners: Vec<u64> = membership.learner_ids().collect();
    membership
        .nodes()
        .map(|(id, node)| MemberRecord {
            id: *id,
            peer_urls: node.urls.clone(),
            is_learner: learners.contains(id),
            ..MemberRecord::default()
        })
        .collect()
}

/// Forces a durable checkpoint and names its position.
pub(crate) struct SnapshotBuilder {
    storage: StorageThread,
    known: Vec<StoredMembership>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let durable = self
            .storage
            .checkpoint()
            .await
            .ok_or_else(|| io::Error::other("the storage thread has stopped"))?;
        let mut memberships = Memberships {
            known: std::mem::take(&mut self.known),
        };
        let last_membership = memberships.at(Some(durable));
        Ok(Snapshot {
            meta: SnapshotMeta {
                last_log_id: Some(log_id(durable)),
                last_membership,
            },
            snapshot: SnapshotData::Checkpoint,
        })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.store().applied().map(log_id);
        Ok((applied, self.memberships.newest()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut since_turn = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let id = entry.log_id();
            self.apply_entry(id, entry.payload)
                .map_err(|fault| self.stop(fault))?;
            if let Some(responder) = responder {
                responder.send(());
            }
            since_turn += 1;
            if since_turn == ENTRIES_PER_TURN {
                since_turn = 0;
                self.publish();
                self.wait_for_the_database().await?;
                tokio::task::yield_now().await;
            }
        }
        self.publish();
        // Few entries at a time can be much, too.
        self.wait_for_the_database().await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder {
            storage: self.storage.clone(),
            known: self.memberships.known.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::Received(received) = data else {
            // openraft offers our own checkpoint back at start; the store was opened from it.
            return Ok(());
        };
        let meters = self.meters.clone();
        let _applying = UnderWay::new(&meters.snapshots_applying);
        let announced = meta.last_log_id.as_ref().map(position);
        if let Some(upto) = announced {
            self.log.announce(upto).await?;
        }
        let store = self.store.take().expect("as above");
        let storage = self.storage.clone();
        let disk = self.disk.clone();
        let database = self.database.clone();
        let cache = self.cache;
        let replacing = self.executor.blocking(move || {
            storage.replace(move || {
                let mut store = store;
                fail_point!("raftBeforeApplySnap");
                snapshot::install(disk.as_ref(), &received, &database)?;
                fail_point!("applyBeforeOpenSnapshot");
                let tables = Tables::open(disk.clone(), &database, cache.tables)?;
                store.replace(tables)?;
                fail_point!("raftAfterApplySnap");
                let durable = store.applied();
                let checkpointer = store.checkpointer();
                Ok((store, checkpointer, durable))
            })
        });
        let store = replacing.await.map_err(|blocked| match blocked {
            Blocked::Fault(fault) => self.stop(fault),
            Blocked::Interrupted(_) => io::Error::other(format!("snapshot installation: {blocked}")),
        })?;
        if let Some(upto) = store.applied() {
            // Before anything is applied on top: until the log knows, only the announcement explains the database.
            self.log.begin_after(upto).await?;
        }
        reached!("snapshot_installed");
        tracing::info!(applied = ?store.applied(), "installed a snapshot from the leader");
        self.feeds.hashes.forget();
        if let Some(at) = store.applied() {
            self.feeds.hashes.note(at, store.rolling_hash());
        }
        self.store = Some(store);
        self.memberships = Memberships::default();
        self.memberships.add(meta.last_membership.clone());
        let _ = self.feeds.leases.send(LeaseChange::Reset);
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let durable = *self.storage.durable().borrow();
        Ok(durable.map(|at| self.snapshot_at(Some(at))))
    }
}
