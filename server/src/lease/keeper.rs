//! [`LeaseKeeper`]: answers questions about leases, from this member's countdown if it leads, else from the leader's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use kelson_raft::node::{AskLeaderError, LeaderService, Node};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::confirm::{self, Asking};
use super::expiry::{Expiry, Renewal};
use super::host::Host;
use super::task::ExpiryTask;
use super::wire::{Question, Reply};
use super::{KeepAliveAnswer, LeaseCounts, LeaseError, TimeToLiveAnswer};

/// Time between attempts while leadership is in doubt. Source: etcd's pause between tries of a lease renewal.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The countdown, shared between the task that expires leases and the calls that renew them. Locked for a few lines
/// that never await.
#[derive(Default)]
pub(crate) struct Desk {
    /// The countdown.
    pub(crate) expiry: Expiry,
    /// Keepalives that came too late, by lease: they wait for its end.
    waiting: HashMap<i64, Vec<oneshot::Sender<()>>>,
}

impl Desk {
    /// Resolves when `id` has ended, or may have because this member leads no more.
    fn end_of(&mut self, id: i64) -> oneshot::Receiver<()> {
        let (ended, end) = oneshot::channel();
        let waiting = self.waiting.entry(id).or_default();
        waiting.retain(|other| !other.is_closed());
        waiting.push(ended);
        end
    }

    /// Wakes those who wait for the end of `id`.
    pub(crate) fn wake(&mut self, id: i64) {
        // Waking is dropping: the receivers resolve either way.
        self.waiting.remove(&id);
    }

    /// Wakes everybody: this member leads no more.
    pub(crate) fn wake_all(&mut self) {
        self.waiting.clear();
    }
}

/// [`LeaseCounts`] as they are counted.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) granted: AtomicU64,
    pub(crate) revoked: AtomicU64,
    pub(crate) renewed: AtomicU64,
    pub(crate) expired: AtomicU64,
}

/// What handles, the task and the leader service share.
pub(crate) struct Shared<H> {
    /// The node around.
    pub(crate) host: H,
    /// The countdown.
    pub(crate) desk: Mutex<Desk>,
    /// See [`Counters`].
    pub(crate) counters: Counters,
    asking: Asking,
}

/// Handle of the lease keeper. Cheap to clone.
#[derive(Clone)]
pub struct LeaseKeeper {
    shared: Arc<Shared<Node>>,
}

impl LeaseKeeper {
    /// A keeper over `node`, registered as what answers other members' lease questions, and the task that counts
    /// leases out. The task ends when the node stops.
    pub fn start(node: Node) -> (Self, impl Future<Output = ()>) {
        let (shared, task) = start(node);
        (Self { shared }, task)
    }

    /// Renews a lease, on whichever member the leader is. A lease whose expiry is on its way is waited for.
    pub async fn keep_alive(&self, id: i64) -> Result<KeepAliveAnswer, LeaseError> {
        self.shared.keep_alive(id).await
    }

    /// Asks the leader how long a lease has left, and for its keys if `keys`.
    pub async fn time_to_live(&self, id: i64, keys: bool) -> Result<TimeToLiveAnswer, LeaseError> {
        self.shared.time_to_live(id, keys).await
    }

    /// Ids of all leases this member knows; on the leader those that end first come first.
    pub fn leases_ordered(&self) -> Vec<i64> {
        self.shared.leases_ordered()
    }

    /// See [`LeaseCounts`].
    pub fn counts(&self) -> LeaseCounts {
        let counters = &self.shared.counters;
        LeaseCounts {
            granted: counters.granted.load(Ordering::Relaxed),
            revoked: counters.revoked.load(Ordering::Relaxed),
            renewed: counters.renewed.load(Ordering::Relaxed),
            expired: counters.expired.load(Ordering::Relaxed),
        }
    }
}

/// [`LeaseKeeper::start`] on any host.
pub(crate) fn start<H: Host>(host: H) -> (Arc<Shared<H>>, impl Future<Output = ()>) {
    let (asking, questions) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        host,
        desk: Mutex::new(Desk::default()),
        counters: Counters::default(),
        asking,
    });
    let service = Service {
        shared: Arc::downgrade(&shared),
    };
    shared.host.serve_leader(Arc::new(service));
    let expiring = ExpiryTask::new(shared.clone());
    let host = shared.host.clone();
    let task = async move {
        tokio::select! {
            biased;
            () = expiring.run() => {}
            () = confirm::run_rounds(&host, questions) => {}
        }
    };
    (shared, task)
}

impl<H: Host> Shared<H> {
    /// See [`LeaseKeeper::keep_alive`].
    pub(crate) async fn keep_alive(&self, id: i64) -> Result<KeepAliveAnswer, LeaseError> {
        let question = Question {
            id,
            look: false,
            keys: false,
        };
        let reply = self.ask(question).await?;
        Ok(KeepAliveAnswer { ttl: reply.ttl })
    }

    /// See [`LeaseKeeper::time_to_live`].
    pub(crate) async fn time_to_live(&self, id: i64, keys: bool) -> Result<TimeToLiveAnswer, LeaseError> {
        let question = Question { id, look: true, keys };
        let reply = self.ask(question).await?;
        Ok(TimeToLiveAnswer {
            ttl_left: reply.ttl,
            granted_ttl: reply.granted_ttl,
            keys: reply.keys,
        })
    }

    /// See [`LeaseKeeper::leases_ordered`].
    pub(crate) fn leases_ordered(&self) -> Vec<i64> {
        let leases = self.host.leases();
        let mut ids: Vec<i64> = leases.into_iter().map(|(id, _ttl)| id).collect();
        let desk = self.desk.lock();
        if desk.expiry.term().is_some() {
            let now = Instant::now();
            ids.sort_by_cached_key(|id| desk.expiry.remaining(*id, now).unwrap_or(Duration::MAX));
        }
        ids
    }

    /// Asks whoever leads, again and again while leadership is in doubt, until the deadline. Both questions may be
    /// asked twice: a renewal that counts twice counts once.
    async fn ask(&self, question: Question) -> Result<Reply, LeaseError> {
        let deadline = Instant::now() + self.host.request_timeout();
        loop {
            let attempt = async {
                if self.host.status().is_leader() {
                    self.answer(&question).await
                } else {
                    self.ask_other(&question).await
                }
            };
            match timeout_at(deadline, attempt).await {
                Ok(Err(LeaseError::NotPrimary)) if Instant::now() + RETRY_DELAY < deadline => {
                    sleep(RETRY_DELAY).await;
                }
                Ok(result) => return result,
                Err(_elapsed) if self.host.status().leader == 0 => return Err(LeaseError::NoLeader),
                Err(_elapsed) => return Err(LeaseError::Timeout),
            }
        }
    }

    async fn ask_other(&self, question: &Question) -> Result<Reply, LeaseError> {
        let asked = self.host.ask_leader(question.encode_to_vec().into()).await;
        match asked {
            Ok(bytes) => Reply::decode_result(bytes),
            Err(AskLeaderError::NoLeader) => Err(LeaseError::NoLeader),
            Err(AskLeaderError::Refused(_)) => Err(LeaseError::NotPrimary),
            Err(AskLeaderError::Stopped) => Err(LeaseError::Stopped),
        }
    }

    /// Answers as the leader. [`LeaseError::NotPrimary`] if this member is not, or not any more.
    async fn answer(&self, question: &Question) -> Result<Reply, LeaseError> {
        let term = confirm::ask(&self.asking).await?;
        if question.look {
            return self.look(question, term);
        }
        loop {
            match self.renew(question.id, term)? {
                Renewing::Answered(ttl) => return Ok(Reply::renewed(ttl)),
                // It is woken by being dropped, hence the error that says nothing.
                Renewing::Ending(end) => drop(end.await),
            }
        }
    }

    fn renew(&self, id: i64, term: u64) -> Result<Renewing, LeaseError> {
        let mut desk = self.desk.lock();
        if desk.expiry.term() != Some(term) {
            return Err(LeaseError::NotPrimary);
        }
        // The store decides whether there is such a lease; the countdown may not have heard yet.
        let Some(ttl) = self.host.lease_ttl(id) else {
            return Ok(Renewing::Answered(0));
        };
        Ok(match desk.expiry.renew(id, ttl, Instant::now()) {
            Renewal::Renewed => {
                self.counters.renewed.fetch_add(1, Ordering::Relaxed);
                Renewing::Answered(ttl)
            }
            Renewal::Ending => Renewing::Ending(desk.end_of(id)),
        })
    }

    fn look(&self, question: &Question, term: u64) -> Result<Reply, LeaseError> {
        let remaining = {
            let desk = self.desk.lock();
            if desk.expiry.term() != Some(term) {
                return Err(LeaseError::NotPrimary);
            }
            desk.expiry.remaining(question.id, Instant::now())
        };
        let Some(granted_ttl) = self.host.lease_ttl(question.id) else {
            return Ok(Reply {
                ttl: -1,
                ..Reply::default()
            });
        };
        let keys = match question.keys {
            true => self.host.lease_keys(question.id).unwrap_or_default(),
            false => Vec::new(),
        };
        let seconds = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        Ok(Reply {
            ttl: remaining.map_or(granted_ttl, seconds),
            granted_ttl,
            keys,
            ..Reply::default()
        })
    }
}

/// What became of a renewal.
enum Renewing {
    /// The granted TTL, or 0: there is no such lease.
    Answered(i64),
    /// The lease is about to end; look again when this resolves.
    Ending(oneshot::Receiver<()>),
}

/// Answers other members, as long as the keeper lives. Weak, because the node would otherwise keep itself alive.
struct Service<H> {
    shared: Weak<Shared<H>>,
}

impl<H: Host> LeaderService for Service<H> {
    fn answer(&self, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let shared = self.shared.upgrade();
        async move {
            let question = Question::decode(request).map_err(|damaged| damaged.to_string())?;
            let shared = shared.ok_or("server stopped")?;
            let limit = shared.host.request_timeout();
            let answering = timeout(limit, shared.answer(&question)).await;
            let result = answering.unwrap_or(Err(LeaseError::Timeout));
            Ok(Reply::encode_result(result))
        }
        .boxed()
    }
}
