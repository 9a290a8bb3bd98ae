//! What is counted of gRPC calls, under the names that Go's gRPC middleware gave them: dashboards and alerts of etcd
//! read these.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use kelson_raft::meters::{Counter, Histogram};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::PREFIX_BYTES;
use crate::status::Code;

/// How the two sides of a method speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one reply.
    Unary,
    /// One request, many replies.
    ServerStream,
    /// Many of both.
    BidiStream,
}

impl Shape {
    /// As the label `grpc_type` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// One method that is registered, whether it is offered or not.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// With its package.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// How it speaks.
    pub shape: Shape,
}

const fn unary(service: &'static str, name: &'static str) -> Method {
    method(service, name, Shape::Unary)
}

const fn method(service: &'static str, name: &'static str, shape: Shape) -> Method {
    Method { service, name, shape }
}

const KV: &str = "etcdserverpb.KV";
const WATCH: &str = "etcdserverpb.Watch";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";
const HEALTH: &str = "grpc.health.v1.Health";

/// Every method, most frequent ones first.
pub const METHODS: [Method; 52] = [
    unary(KV, "Put"),
    unary(KV, "Range"),
    unary(KV, "Txn"),
    unary(KV, "DeleteRange"),
    unary(KV, "Compact"),
    method(KV, "RangeStream", Shape::ServerStream),
    method(WATCH, "Watch", Shape::BidiStream),
    unary(LEASE, "LeaseGrant"),
    unary(LEASE, "LeaseRevoke"),
    method(LEASE, "LeaseKeepAlive", Shape::BidiStream),
    unary(LEASE, "LeaseTimeToLive"),
    unary(LEASE, "LeaseLeases"),
    unary(CLUSTER, "MemberList"),
    unary(CLUSTER, "MemberAdd"),
    unary(CLUSTER, "MemberRemove"),
    unary(CLUSTER, "MemberUpdate"),
    unary(CLUSTER, "MemberPromote"),
    unary(MAINTENANCE, "Status"),
    unary(MAINTENANCE, "Alarm"),
    unary(MAINTENANCE, "Defragment"),
    unary(MAINTENANCE, "Hash"),
    unary(MAINTENANCE, "HashKV"),
    method(MAINTENANCE, "Snapshot", Shape::ServerStream),
    unary(MAINTENANCE, "MoveLeader"),
    unary(MAINTENANCE, "Downgrade"),
    unary(AUTH, "AuthEnable"),
    unary(AUTH, "AuthDisable"),
    unary(AUTH, "AuthStatus"),
    unary(AUTH, "Authenticate"),
    unary(AUTH, "UserAdd"),
    unary(AUTH, "UserGet"),
    unary(AUTH, "UserList"),
    unary(AUTH, "UserDelete"),
    unary(AUTH, "UserChangePassword"),
    unary(AUTH, "UserGrantRole"),
    unary(AUTH, "UserRevokeRole"),
    unary(AUTH, "RoleAdd"),
    unary(AUTH, "RoleGet"),
    unary(AUTH, "RoleList"),
    unary(AUTH, "RoleDelete"),
    unary(AUTH, "RoleGrantPermission"),
    unary(AUTH, "RoleRevokePermission"),
    unary(LOCK, "Lock"),
    unary(LOCK, "Unlock"),
    unary(ELECTION, "Campaign"),
    unary(ELECTION, "Proclaim"),
    unary(ELECTION, "Leader"),
    method(ELECTION, "Observe", Shape::ServerStream),
    unary(ELECTION, "Resign"),
    unary(HEALTH, "Check"),
    method(HEALTH, "Watch", Shape::ServerStream),
    unary(HEALTH, "List"),
];

/// Go's names of the status codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Bounds of how long calls take, in milliseconds. Source: Prometheus' default buckets.
const HANDLING_BOUNDS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// API versions of clients that are told apart; clients choose the text, and memory is bounded.
const CLIENT_VERSIONS_MAX: usize = 64;

/// Counters of one method.
#[derive(Debug)]
pub struct MethodMeters {
    /// Calls that began.
    pub started: Counter,
    /// Calls that ended, by number of the status code.
    pub handled: [AtomicU64; CODES.len()],
    /// Messages from clients.
    pub received: Counter,
    /// Messages to clients.
    pub sent: Counter,
    /// How long calls took.
    pub handling: Histogram,
}

/// Counters of all calls.
#[derive(Debug)]
pub struct GrpcMeters {
    /// In the order of [`METHODS`].
    pub methods: Vec<MethodMeters>,
    /// Bytes of messages from clients.
    pub received_bytes: Counter,
    /// Bytes of messages to clients.
    pub sent_bytes: Counter,
    /// Unary calls and streams, by API version of the client.
    clients: [Mutex<BTreeMap<String, u64>>; 2],
}

impl Default for GrpcMeters {
    fn default() -> Self {
        let bounds = HANDLING_BOUNDS_MS.map(Duration::from_millis);
        let methods = METHODS.iter().map(|_| MethodMeters {
            started: Counter::default(),
            handled: Default::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handling: Histogram::with_bounds(bounds.to_vec()),
        });
        Self {
            methods: methods.collect(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            clients: Default::default(),
        }
    }
}

impl GrpcMeters {
    /// A call begins. None: there is no such method.
    pub fn begin(self: &Arc<Self>, path: &str, headers: &HeaderMap) -> Option<CallMeter> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        let method = METHODS
            .iter()
            .position(|known| known.name == name && known.service == service)?;
        self.methods[method].started.add(1);
        self.count_client(METHODS[method].shape, headers);
        Some(CallMeter {
            tally: Tally {
                meters: self.clone(),
                method,
            },
            began: Instant::now(),
            ended: false,
        })
    }

    fn count_client(&self, shape: Shape, headers: &HeaderMap) {
        let version = headers
            .get("client-api-version")
            .and_then(|value| value.to_str().ok());
        let version = version.filter(|version| !version.contains(['"', '\\']));
        let version = version.unwrap_or("unknown");
        let mut clients = self.clients[usize::from(shape != Shape::Unary)].lock();
        if let Some(count) = clients.get_mut(version) {
            *count += 1;
        } else if clients.len() < CLIENT_VERSIONS_MAX {
            clients.insert(version.to_owned(), 1);
        }
    }

    /// Calls by kind (`unary` or `stream`) and API version of the client.
    pub fn clients(&self) -> Vec<(&'static str, String, u64)> {
        let mut rows = Vec::new();
        for (kind, clients) in ["unary", "stream"].into_iter().zip(&self.clients) {
            let clients = clients.lock();
            rows.extend(
                clients
                    .iter()
                    .map(|(version, count)| (kind, version.clone(), *count)),
            );
        }
        rows
    }
}

/// Counts the messages of one call.
#[derive(Clone, Debug)]
pub struct Tally {
    meters: Arc<GrpcMeters>,
    method: usize,
}

impl Tally {
    /// A message of `bytes` has come in.
    pub fn received(&self, bytes: usize) {
        self.meters.methods[self.method].received.add(1);
        self.meters.received_bytes.add(bytes as u64);
    }

    /// `messages` have gone out in a frame of `bytes`.
    pub fn sent(&self, messages: usize, bytes: usize) {
        self.meters.methods[self.method].sent.add(messages as u64);
        let prefixes = messages * PREFIX_BYTES;
        self.meters.sent_bytes.add(bytes.saturating_sub(prefixes) as u64);
    }
}

/// Counts one call. Dropped before its end: the client has gone away.
#[derive(Debug)]
pub struct CallMeter {
    tally: Tally,
    began: Instant,
    ended: bool,
}

impl CallMeter {
    /// Counts the call's messages.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The call has ended well, or with a code.
    pub fn end(mut self, code: Option<Code>) {
        self.note(code);
    }

    fn note(&mut self, code: Option<Code>) {
        self.ended = true;
        let method = &self.tally.meters.methods[self.tally.method];
        let number = code.map_or(0, |code| usize::from(code.number()));
        method.handled[number].fetch_add(1, Ordering::Relaxed);
        method.handling.observe(self.began.elapsed());
    }
}

impl Drop for CallMeter {
    fn drop(&mut self) {
        if !self.ended {
            self.note(Some(Code::Canceled));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handled(meters: &GrpcMeters, method: usize) -> Vec<u64> {
        let codes = meters.methods[method].handled.iter();
        codes.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    #[tokio::test]
    async fn each_call_ends_once_whatever_becomes_of_it() {
        let meters = Arc::new(GrpcMeters::default());
        let begin = || {
            meters
                .begin("/etcdserverpb.KV/Put", &HeaderMap::new())
                .expect("a method")
        };
        begin().end(None);
        begin().end(Some(Code::Unavailable));
        drop(begin());
        assert_eq!(meters.methods[0].started.get(), 3);
        let mut expected = vec![0; CODES.len()];
        expected[0] = 1;
        expected[1] = 1;
        expected[14] = 1;
        assert_eq!(handled(&meters, 0), expected);
        assert_eq!(meters.methods[0].handling.cumulative().1, 3);
    }

    #[test]
    fn what_is_no_method_is_not_counted() {
        let meters = Arc::new(GrpcMeters::default());
        for path in ["/etcdserverpb.KV/Nothing", "/Put", "", "/etcdserverpb.KV/Put/"] {
            assert!(meters.begin(path, &HeaderMap::new()).is_none(), "{path}");
        }
    }

    #[test]
    fn texts_of_clients_take_bounded_room() {
        let meters = Arc::new(GrpcMeters::default());
        for number in 0..1000 {
            let mut headers = HeaderMap::new();
            let version = http::HeaderValue::from_str(&number.to_string()).expect("digits");
            headers.insert("client-api-version", version);
            meters.count_client(Shape::Unary, &headers);
        }
        assert_eq!(meters.clients().len(), CLIENT_VERSIONS_MAX);
    }
}
