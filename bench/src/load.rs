//! Load on a key-value endpoint: so many clients, each with one request under way, in a closed loop or at a fixed rate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::lease_client::LeaseClient;
use kelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeRequest, RequestOp,
    TxnRequest, request_op,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::summary::Summary;
use crate::transactions;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One key each time.
    Put,
    /// One key each time.
    Get {
        /// From the member asked alone.
        serializable: bool,
    },
    /// So many puts in one transaction without compares.
    Txn {
        /// How many.
        puts: u64,
    },
    /// Each client keeps a lease of its own alive, on a stream of its own.
    KeepAlive,
    /// A read of one key and a write over what was read, again if somebody else wrote meanwhile: etcd's STM.
    Stm,
    /// What renews the lease of a Kubernetes node: a write over the object that the apiserver's cache holds. Each key is a
    /// node, and all have their turn.
    NodeLeases,
    /// Of ten requests six linearizable reads of a key, one of a hundred keys, two puts and one write over what was read.
    Mixed,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many requests.
    Requests(u64),
    /// After this time.
    Time(Duration),
}

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Load {
    /// What clients ask for.
    pub work: Work,
    /// Requests under way at once.
    pub clients: usize,
    /// Keys are drawn in an order that is scattered but always the same; each once before any comes again.
    pub keys: u64,
    /// Bytes of each value written.
    pub value_bytes: usize,
    /// Requests per second over all clients; none: each client asks again as soon as it is answered.
    pub rate: Option<f64>,
    /// When it ends.
    pub length: Length,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.work {
            Work::Put => write!(f, "puts of {} B", self.value_bytes),
            Work::Get { serializable: false } => write!(f, "linearizable gets"),
            Work::Get { serializable: true } => write!(f, "serializable gets"),
            Work::Txn { puts } => write!(f, "transactions of {puts} puts of {} B", self.value_bytes),
            Work::KeepAlive => write!(f, "lease keepalives"),
            Work::Stm => write!(f, "STM read and write of {} B", self.value_bytes),
            Work::NodeLeases => write!(f, "Kubernetes node lease renewals of {} B", self.value_bytes),
            Work::Mixed => write!(
                f,
                "of ten requests 6 gets, 1 of 100 keys, 2 puts and 1 STM of {} B",
                self.value_bytes
            ),
        }?;
        match self.work {
            Work::KeepAlive => {}
            Work::NodeLeases => write!(f, " of {} nodes", self.keys)?,
            _ => write!(f, " over {} keys", self.keys)?,
        }
        write!(f, ", {} clients", self.clients)?;
        match self.rate {
            None => write!(f, ", closed loop"),
            Some(rate) => write!(f, ", {rate:.0}/s"),
        }
    }
}

/// One connection to each endpoint, and again from the first, until there are `connections`.
pub async fn connect(endpoints: &[String], connections: usize) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for endpoint in endpoints.iter().cycle().take(connections) {
        let url = format!("http://{endpoint}");
        let channel = Endpoint::from_shared(url)?
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .connect()
            .await
            .with_context(|| format!("cannot connect to {endpoint}"))?;
        channels.push(channel);
    }
    anyhow::ensure!(!channels.is_empty(), "no endpoint");
    Ok(channels)
}

/// The key of a number: all below one prefix, so that a range over it counts them.
pub fn key(number: u64) -> String {
    format!("bench/{number:012}")
}

/// Puts all of the first `keys` keys, many in a transaction: what is there counts, not how it came.
pub async fn fill(channels: &[Channel], keys: u64, value_bytes: usize) -> anyhow::Result<Summary> {
    // Below what a request may be, and what etcd allows of operations.
    const TXN_BYTES_MAX: u64 = 1 << 18;
    const TXN_PUTS_MAX: u64 = 100;
    // With 256 of them etcd's requests timed out.
    const CLIENTS: usize = 32;
    let puts = TXN_BYTES_MAX / (value_bytes as u64).max(1);
    let puts = puts.min(keys).clamp(1, TXN_PUTS_MAX);
    // The last one may meet the first keys once more.
    prepare(
        channels,
        Work::Txn { puts },
        CLIENTS,
        keys,
        value_bytes,
        keys.div_ceil(puts),
    )
    .await
}

/// Puts keys of the first `keys` `times` times, a revision each.
pub async fn rewrite(
    channels: &[Channel],
    keys: u64,
    value_bytes: usize,
    times: u64,
) -> anyhow::Result<Summary> {
    prepare(channels, Work::Put, 256, keys, value_bytes, times).await
}

async fn prepare(
    channels: &[Channel],
    work: Work,
    clients: usize,
    keys: u64,
    value_bytes: usize,
    requests: u64,
) -> anyhow::Result<Summary> {
    let load = Load {
        work,
        clients,
        keys,
        value_bytes,
        rate: None,
        length: Length::Requests(requests),
    };
    let summary = run(channels, &load).await?;
    anyhow::ensure!(
        summary.errors == 0,
        "{} requests failed while filling",
        summary.errors
    );
    Ok(summary)
}

/// What the apiserver's cache knows: the revision of each node's lease.
pub type Nodes = Arc<Vec<AtomicI64>>;

/// Makes the leases of all nodes of `load`, and says what is known of them then.
pub async fn make_nodes(channels: &[Channel], load: &Load) -> anyhow::Result<Nodes> {
    let nodes = unknown_nodes(load);
    let all = Load {
        length: Length::Requests(load.keys),
        rate: None,
        ..load.clone()
    };
    let summary = run_knowing(channels, &all, nodes.clone()).await?;
    anyhow::ensure!(summary.errors == 0, "{} leases were not made", summary.errors);
    Ok(nodes)
}

fn unknown_nodes(load: &Load) -> Nodes {
    let nodes = match load.work {
        Work::NodeLeases => load.keys,
        _ => 0,
    };
    Arc::new((0..nodes).map(|_| AtomicI64::new(0)).collect())
}

/// What all clients of a run share.
struct Shared {
    load: Load,
    value: Bytes,
    /// Number of the next request.
    next: AtomicU64,
    nodes: Nodes,
    started: Instant,
}

/// Runs a load. With a fixed rate latencies count from when a request was due, so that stalls are not hidden.
pub async fn run(channels: &[Channel], load: &Load) -> anyhow::Result<Summary> {
    run_knowing(channels, load, unknown_nodes(load)).await
}

/// As [`run`], with what is known of the nodes of this load.
pub async fn run_knowing(channels: &[Channel], load: &Load, nodes: Nodes) -> anyhow::Result<Summary> {
    let shared = Arc::new(Shared {
        load: load.clone(),
        value: bytes_of(load.value_bytes),
        next: AtomicU64::new(0),
        nodes,
        started: Instant::now(),
    });
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..load.clients {
        let channel = channels[number % channels.len()].clone();
        clients.spawn(shared.clone().client(channel));
    }
    let mut sum = Summary::default();
    while let Some(done) = clients.join_next().await {
        sum.add(done?)?;
    }
    sum.elapsed = shared.started.elapsed();
    Ok(sum)
}

impl Shared {
    async fn client(self: Arc<Self>, channel: Channel) -> Summary {
        let mut sum = Summary::default();
        let opened = match self.load.work {
            Work::KeepAlive => Lease::grant(channel.clone()).await.map(Some),
            _ => Ok(None),
        };
        let mut lease = match opened {
            Ok(lease) => lease,
            Err(status) => {
                sum.failed(&status);
                return sum;
            }
        };
        let mut client = KvClient::new(channel);
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
            let due = match self.load.rate {
                None => Instant::now(),
                Some(rate) => self.started + Duration::from_secs_f64(number as f64 / rate),
            };
            let over = match self.load.length {
                Length::Requests(total) => number >= total,
                Length::Time(time) => due >= self.started + time,
            };
            if over {
                return sum;
            }
            if self.load.rate.is_some() {
                tokio::time::sleep_until(due).await;
            }
            let answered = match &mut lease {
                Some(lease) => lease.keep_alive().await,
                None => self.ask(&mut client, number).await,
            };
            match answered {
                Ok(()) => sum.took(due.elapsed()),
                Err(status) => sum.failed(&status),
            }
        }
    }

    async fn ask(&self, client: &mut KvClient<Channel>, number: u64) -> Result<(), Status> {
        match self.load.work {
            Work::Put => {
                client.put(self.put(number)).await?;
            }
            Work::Get { serializable } => self.get(client, number, serializable).await?,
            Work::Mixed => match number % 10 {
                0..6 => self.get(client, number, false).await?,
                6 => {
                    let from = self.scattered(number);
                    let request = RangeRequest {
                        key: key(from).into(),
                        range_end: key(from + 100).into(),
                        ..RangeRequest::default()
                    };
                    client.range(request).await?;
                }
                7 | 8 => {
                    client.put(self.put(number)).await?;
                }
                _ => self.read_and_write(client, number).await?,
            },
            Work::Txn { puts } => {
                let success = (0..puts).map(|place| RequestOp {
                    request: Some(request_op::Request::RequestPut(self.put(number * puts + place))),
                });
                let request = TxnRequest {
                    success: success.collect(),
                    ..TxnRequest::default()
                };
                client.txn(request).await?;
            }
            Work::Stm => self.read_and_write(client, number).await?,
            Work::NodeLeases => self.renew_node(client, number).await?,
            Work::KeepAlive => {}
        }
        Ok(())
    }

    async fn get(
        &self,
        client: &mut KvClient<Channel>,
        number: u64,
        serializable: bool,
    ) -> Result<(), Status> {
        let request = RangeRequest {
            key: key(self.scattered(number)).into(),
            serializable,
            ..RangeRequest::default()
        };
        client.range(request).await.map(drop)
    }

    async fn read_and_write(&self, client: &mut KvClient<Channel>, number: u64) -> Result<(), Status> {
        let key = Bytes::from(key(self.scattered(number)));
        let read = RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        };
        let found = client.range(read).await?.into_inner();
        let mut revision = transactions::revision_of(&found.kvs)?;
        loop {
            let request = transactions::put_if_unchanged(&key, revision, self.value.clone());
            let reply = client.txn(request).await?.into_inner();
            match transactions::outcome(&reply)? {
                (true, _) => return Ok(()),
                (false, newer) => revision = newer,
            }
        }
    }

    async fn renew_node(&self, client: &mut KvClient<Channel>, number: u64) -> Result<(), Status> {
        let node = number % self.load.keys;
        let key = Bytes::from(format!("/registry/leases/kube-node-lease/node-{node:06}"));
        let cached = &self.nodes[node as usize];
        loop {
            let expected = cached.load(Ordering::Relaxed);
            let request = transactions::put_if_unchanged(&key, expected, self.value.clone());
            let reply = client.txn(request).await?.into_inner();
            let (held, revision) = transactions::outcome(&reply)?;
            cached.store(revision, Ordering::Relaxed);
            if held {
                return Ok(());
            }
        }
    }

    fn put(&self, number: u64) -> PutRequest {
        PutRequest {
            key: key(self.scattered(number)).into(),
            value: self.value.clone(),
            ..PutRequest::default()
        }
    }

    /// Some key; all of them in as many requests.
    fn scattered(&self, number: u64) -> u64 {
        // A step that has no factor in common with the number of keys meets all of them.
        const STEPS: [u64; 3] = [7_368_787, 15_485_863, 32_452_843];
        let keys = self.load.keys;
        let step = STEPS.into_iter().find(|step| !keys.is_multiple_of(*step));
        (number % keys).wrapping_mul(step.unwrap_or(1)) % keys
    }
}

/// A lease and the stream that keeps it alive.
struct Lease {
    id: i64,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    replies: Streaming<LeaseKeepAliveResponse>,
}

impl Lease {
    /// Seconds; longer than any run.
    const TTL: i64 = 3600;

    async fn grant(channel: Channel) -> Result<Self, Status> {
        let mut client = LeaseClient::new(channel);
        let request = LeaseGrantRequest {
            ttl: Self::TTL,
            ..LeaseGrantRequest::default()
        };
        let id = client.lease_grant(request).await?.into_inner().id;
        let (requests, outgoing) = mpsc::channel(1);
        let first = LeaseKeepAliveRequest { id };
        // Some servers answer a stream only once something has come on it.
        let _ = requests.send(first).await;
        let replies = client.lease_keep_alive(ReceiverStream::new(outgoing)).await?;
        let mut lease = Self {
            id,
            requests,
            replies: replies.into_inner(),
        };
        lease.reply().await?;
        Ok(lease)
    }

    async fn keep_alive(&mut self) -> Result<(), Status> {
        let request = LeaseKeepAliveRequest { id: self.id };
        self.requests
            .send(request)
            .await
            .map_err(|_| Status::unavailable("the stream has ended"))?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<(), Status> {
        match self.replies.message().await? {
            Some(reply) if reply.ttl > 0 => Ok(()),
            Some(_) => Err(Status::not_found("the lease is gone")),
            None => Err(Status::unavailable("the stream has ended")),
        }
    }
}

/// Bytes that do not compress to nothing.
fn bytes_of(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect::<Vec<u8>>()
        .into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_is_met_once_before_any_comes_again() {
        for keys in [1, 2, 999, 10_000, 7_368_787] {
            let shared = Shared {
                load: Load {
                    work: Work::Put,
                    clients: 1,
                    keys,
                    value_bytes: 0,
                    rate: None,
                    length: Length::Requests(0),
                },
                value: Bytes::new(),
                next: AtomicU64::new(0),
                nodes: Nodes::default(),
                started: Instant::now(),
            };
            let some = keys.min(10_000);
            let met: BTreeSet<u64> = (0..some).map(|number| shared.scattered(number)).collect();
            assert_eq!(met.len() as u64, some, "of {keys}");
            assert!(met.iter().all(|key| *key < keys));
        }
    }
}
