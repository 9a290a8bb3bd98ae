//! [`Api`]: requests as kube-apiserver sends them, with what its cache knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::lease_client::LeaseClient;
use kelson_proto::etcdserverpb::{LeaseGrantRequest, RangeRequest, TxnRequest, TxnResponse};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::Plan;
use crate::scenes;
use crate::summary::Summary;
use crate::transactions::{self, Write};

/// Prefixes of what there is much of.
pub const RESOURCES: [&str; 4] = [
    "/registry/leases/",
    "/registry/minions/",
    "/registry/pods/",
    "/registry/events/",
];

/// Bytes of an object.
const LEASE_BYTES: usize = 800;
const NODE_BYTES: usize = 10_000;
const POD_BYTES: usize = 4_000;
const EVENT_BYTES: usize = 1_000;
/// Events that share a lease, and for how long at most it is given to new ones: that or a twentieth of their time, by which
/// it lives longer.
const EVENTS_PER_LEASE: u32 = 1_000;
const REUSE_MAX: Duration = Duration::from_secs(60);
/// Objects written at once while the cluster is filled.
const FILLERS: usize = 64;

/// What latencies are told apart by; in the order of [`KINDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Lease,
    Node,
    Pod,
    Event,
    Get,
    Probe,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Lease, "node lease renewals"),
    (Kind::Node, "node status"),
    (Kind::Pod, "pod writes"),
    (Kind::Event, "events"),
    (Kind::Get, "gets"),
    (Kind::Probe, "probes of the revision"),
];

/// An apiserver, as the store sees it.
pub struct Api {
    channels: Vec<Channel>,
    turn: AtomicUsize,
    start: Mutex<Instant>,
    filler: Bytes,
    /// The revisions that the cache has of leases, nodes and pods that come and go.
    leases: Vec<AtomicI64>,
    nodes: Vec<AtomicI64>,
    lives: Vec<AtomicI64>,
    staying_pods: u64,
    event_lease: tokio::sync::Mutex<Option<EventLease>>,
    event_ttl: Duration,
    summaries: [Mutex<Summary>; KINDS.len()],
}

/// The lease that new events get.
struct EventLease {
    id: i64,
    granted: Instant,
    left: u32,
}

impl Api {
    /// An apiserver that knows nothing yet, for a run in which `lives` pods come and go.
    pub fn new(channels: Vec<Channel>, plan: &Plan, lives: u64) -> Self {
        let unknown = |count: u64| (0..count).map(|_| AtomicI64::new(0)).collect();
        Self {
            channels,
            turn: AtomicUsize::new(0),
            start: Mutex::new(Instant::now()),
            filler: vec![b'k'; NODE_BYTES].into(),
            leases: unknown(plan.nodes),
            nodes: unknown(plan.nodes),
            lives: unknown(lives + 1),
            staying_pods: plan.pods,
            event_lease: tokio::sync::Mutex::new(None),
            event_ttl: plan.event_ttl,
            summaries: Default::default(),
        }
    }

    /// From now on is measured.
    pub fn start(&self) -> Instant {
        let now = Instant::now();
        *self.start.lock() = now;
        now
    }

    /// Some connection.
    pub fn channel(&self) -> &Channel {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.channels[turn % self.channels.len()]
    }

    /// A request that was due then has been answered.
    pub fn note(&self, kind: Kind, due: Instant, answered: Result<(), Status>) {
        let mut summary = self.summaries[kind as usize].lock();
        match answered {
            Ok(()) => summary.took(due.elapsed()),
            Err(status) => summary.failed(&status),
        }
    }

    /// Requests so far.
    pub fn answered(&self) -> u64 {
        let summaries = self.summaries.iter().map(|summary| summary.lock());
        summaries.map(|summary| summary.count() + summary.errors).sum()
    }

    /// What each kind of request took.
    pub fn summaries(&self) -> Vec<(&'static str, Summary)> {
        let kinds = KINDS.into_iter().zip(&self.summaries);
        kinds
            .map(|((_, name), summary)| (name, std::mem::take(&mut *summary.lock())))
            .collect()
    }

    /// Writes what is there before: leases, nodes, and the pods that stay.
    pub async fn fill(self: &Arc<Self>, plan: &Plan) -> anyhow::Result<()> {
        let due = self.start();
        let next = Arc::new(AtomicU64::new(0));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let (api, next, nodes, pods) = (self.clone(), next.clone(), plan.nodes, plan.pods);
            fillers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= nodes.max(pods) {
                        return Ok::<(), Status>(());
                    }
                    if number < nodes {
                        api.renew_lease(number, due).await?;
                        api.tell_status(number, due).await?;
                    }
                    if number < pods {
                        let create = Write::Put(api.value(POD_BYTES, due), 0);
                        api.send(transactions::if_unchanged(&staying_pod(number), 0, create))
                            .await?;
                    }
                }
            });
        }
        while let Some(done) = fillers.join_next().await {
            done??;
        }
        Ok(())
    }

    /// A node says that it is alive.
    pub async fn renew_lease(&self, number: u64, due: Instant) -> Result<(), Status> {
        let node = number % self.leases.len() as u64;
        let key = format!("/registry/leases/kube-node-lease/node-{node:06}");
        self.update(
            key.into(),
            &self.leases[node as usize],
            self.value(LEASE_BYTES, due),
        )
        .await
    }

    /// A node says how it is.
    pub async fn tell_status(&self, number: u64, due: Instant) -> Result<(), Status> {
        let node = number % self.nodes.len() as u64;
        let key = format!("/registry/minions/node-{node:06}");
        self.update(
            key.into(),
            &self.nodes[node as usize],
            self.value(NODE_BYTES, due),
        )
        .await
    }

    /// A pod begins.
    pub async fn create_pod(&self, number: u64, due: Instant) -> Result<(), Status> {
        let create = Write::Put(self.value(POD_BYTES, due), 0);
        let request = TxnRequest {
            failure: Vec::new(),
            ..transactions::if_unchanged(&living_pod(number), 0, create)
        };
        let reply = self.send(request).await?;
        let revision = reply.header.as_ref().map_or(0, |header| header.revision);
        self.life(number).store(revision, Ordering::Relaxed);
        match reply.succeeded {
            true => Ok(()),
            false => Err(Status::already_exists("a pod that was never created is there")),
        }
    }

    /// A pod is bound, or something else has become of it.
    pub async fn update_pod(&self, number: u64, due: Instant) -> Result<(), Status> {
        self.update(living_pod(number), self.life(number), self.value(POD_BYTES, due))
            .await
    }

    /// A pod is gone.
    pub async fn delete_pod(&self, number: u64) -> Result<(), Status> {
        self.write(&living_pod(number), self.life(number), || Write::Delete)
            .await
    }

    /// Something is told of a pod, and forgotten after a while.
    pub async fn create_event(&self, number: u64, event: usize, due: Instant) -> Result<(), Status> {
        let lease = self.lease_of_events().await?;
        let key = Bytes::from(format!("/registry/events/default/pod-{number:08}.{event}"));
        let create = Write::Put(self.value(EVENT_BYTES, due), lease);
        self.send(transactions::if_unchanged(&key, 0, create))
            .await
            .map(drop)
    }

    /// A pod is read that the cache must not answer.
    pub async fn get(&self, number: u64) -> Result<(), Status> {
        if self.staying_pods == 0 {
            return self.probe().await;
        }
        let request = RangeRequest {
            key: staying_pod(number.wrapping_mul(7_368_787) % self.staying_pods),
            limit: 1,
            ..RangeRequest::default()
        };
        self.kv().range(request).await.map(drop)
    }

    /// The present revision, by reading a key that is never there.
    pub async fn probe(&self) -> Result<(), Status> {
        let request = RangeRequest {
            key: "/registry/pods".into(),
            limit: 1,
            ..RangeRequest::default()
        };
        self.kv().range(request).await.map(drop)
    }

    /// The present revision.
    pub async fn revision(&self) -> anyhow::Result<i64> {
        scenes::revision(self.channel()).await
    }

    /// Reads all of a resource in pages; returns how many objects there are.
    pub async fn list(&self, resource: &str) -> anyhow::Result<u64> {
        scenes::paged(&mut self.kv(), &range_of(resource)).await
    }

    /// A value that tells when its write was due: microseconds after the start, in its first eight bytes.
    fn value(&self, bytes: usize, due: Instant) -> Bytes {
        let micros = due.saturating_duration_since(*self.start.lock()).as_micros();
        let mut value = BytesMut::with_capacity(bytes);
        value.put_u64(u64::try_from(micros).unwrap_or(u64::MAX));
        value.extend_from_slice(&self.filler[8..bytes]);
        value.freeze()
    }

    /// How long ago a value's write was due. None if that was before the start.
    pub fn age(&self, value: &[u8]) -> Option<Duration> {
        let due = Duration::from_micros(u64::from_be_bytes(*value.first_chunk()?));
        (!due.is_zero()).then(|| self.start.lock().elapsed().saturating_sub(due))
    }

    fn life(&self, number: u64) -> &AtomicI64 {
        &self.lives[(number as usize).min(self.lives.len() - 1)]
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().clone()).max_decoding_message_size(usize::MAX)
    }

    async fn send(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.kv().txn(request).await?.into_inner())
    }

    async fn update(&self, key: Bytes, cached: &AtomicI64, value: Bytes) -> Result<(), Status> {
        self.write(&key, cached, || Write::Put(value.clone(), 0)).await
    }

    /// Writes over what the cache knows, or, if it is late, over what is there.
    async fn write(&self, key: &Bytes, cached: &AtomicI64, write: impl Fn() -> Write) -> Result<(), Status> {
        let mut known = cached.load(Ordering::Relaxed);
        loop {
            let reply = self.send(transactions::if_unchanged(key, known, write())).await?;
            let (held, revision) = transactions::outcome(&reply)?;
            cached.store(revision, Ordering::Relaxed);
            if held {
                return Ok(());
            }
            known = revision;
        }
    }

    async fn lease_of_events(&self) -> Result<i64, Status> {
        let reuse = REUSE_MAX.min(self.event_ttl / 20);
        let mut lease = self.event_lease.lock().await;
        if let Some(lease) = &mut *lease
            && lease.left > 0
            && lease.granted.elapsed() < reuse
        {
            lease.left -= 1;
            return Ok(lease.id);
        }
        let request = LeaseGrantRequest {
            ttl: i64::try_from((self.event_ttl + reuse).as_secs()).unwrap_or(i64::MAX),
            ..LeaseGrantRequest::default()
        };
        let granted = LeaseClient::new(self.channel().clone())
            .lease_grant(request)
            .await?
            .into_inner();
        *lease = Some(EventLease {
            id: granted.id,
            granted: Instant::now(),
            left: EVENTS_PER_LEASE - 1,
        });
        Ok(granted.id)
    }
}

/// All keys below a prefix that ends with a slash.
pub fn range_of(prefix: &str) -> RangeRequest {
    let (before, _) = prefix.split_at(prefix.len() - 1);
    RangeRequest {
        key: prefix.to_owned().into(),
        range_end: format!("{before}0").into(),
        ..RangeRequest::default()
    }
}

fn staying_pod(number: u64) -> Bytes {
    let namespace = number / 3_000;
    format!("/registry/pods/namespace-{namespace:04}/pod-{number:08}").into()
}

fn living_pod(number: u64) -> Bytes {
    format!("/registry/pods/default/pod-{number:08}").into()
}
