//! The generated clients of one member, and the few calls nearly every test makes.

use bytes::Bytes;
use kelson_proto::etcdserverpb::{self as pb, request_op::Request as Op};
use kelson_proto::health::health_client::HealthClient;
use kelson_proto::mvccpb::KeyValue;
use kelson_proto::v3electionpb::election_client::ElectionClient;
use kelson_proto::v3lockpb::lock_client::LockClient;
use pb::{
    cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::PATIENCE;
use super::watching::Watching;

/// A lazily connected client of one member.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// A client of `endpoint` (`host:port`). Every unary call fails after [`PATIENCE`].
    pub fn of(endpoint: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("host:port is a valid URI");
        Client {
            channel: endpoint
                .connect_timeout(PATIENCE)
                .timeout(PATIENCE)
                .connect_lazy(),
        }
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub fn watch_service(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }

    pub fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel())
    }

    pub fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel())
    }

    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel())
    }

    /// Opens a watch stream.
    pub fn watch(&self) -> Watching {
        Watching::open(self)
    }

    /// Puts a pair and returns the new revision.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        self.put_request(put(key, value))
            .await
            .expect("put succeeds")
            .header
            .expect("header")
            .revision
    }

    pub async fn put_request(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.kv().put(request).await.map(Response::into_inner)
    }

    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.kv().range(request).await.map(Response::into_inner)
    }

    /// The newest pair of one key.
    pub async fn get(&self, key: &str) -> Option<KeyValue> {
        let reply = self.range(single(key)).await.expect("range succeeds");
        kv_pairs(&reply.kvs).pop()
    }

    /// Deletes one key and returns the revision after.
    pub async fn delete(&self, key: &str) -> i64 {
        self.delete_request(delete(key))
            .await
            .expect("delete succeeds")
            .header
            .expect("header")
            .revision
    }

    pub async fn delete_request(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        self.kv().delete_range(request).await.map(Response::into_inner)
    }

    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.kv().txn(request).await.map(Response::into_inner)
    }

    /// Runs `ops` unconditionally.
    pub async fn run(&self, ops: Vec<Op>) -> Result<pb::TxnResponse, Status> {
        self.txn(pb::TxnRequest {
            success: ops.into_iter().map(request_op).collect(),
            ..Default::default()
        })
        .await
    }

    pub async fn compact(&self, revision: i64) -> Result<pb::CompactionResponse, Status> {
        self.kv()
            .compact(pb::CompactionRequest {
                revision,
                physical: false,
            })
            .await
            .map(Response::into_inner)
    }

    /// The newest revision of the cluster.
    pub async fn revision(&self) -> i64 {
        self.range(single("no such key"))
            .await
            .expect("range succeeds")
            .header
            .expect("header")
            .revision
    }

    /// Grants a lease for `ttl` seconds with an id of the server's choice, and returns that.
    pub async fn grant(&self, ttl: i64) -> i64 {
        self.grant_request(ttl, 0).await.expect("grant succeeds").id
    }

    pub async fn grant_request(&self, ttl: i64, id: i64) -> Result<pb::LeaseGrantResponse, Status> {
        self.lease()
            .lease_grant(pb::LeaseGrantRequest { ttl, id })
            .await
            .map(Response::into_inner)
    }

    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Status> {
        self.lease()
            .lease_revoke(pb::LeaseRevokeRequest { id })
            .await
            .map(Response::into_inner)
    }

    /// What is left of a lease, with its keys.
    pub async fn time_to_live(&self, id: i64) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        self.lease()
            .lease_time_to_live(request)
            .await
            .map(Response::into_inner)
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        self.maintenance()
            .status(pb::StatusRequest {})
            .await
            .map(Response::into_inner)
    }

    pub async fn member_list(&self) -> pb::MemberListResponse {
        let request = pb::MemberListRequest { linearizable: true };
        self.cluster()
            .member_list(request)
            .await
            .expect("member list succeeds")
            .into_inner()
    }

    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Status> {
        self.maintenance()
            .hash_kv(pb::HashKvRequest { revision })
            .await
            .map(Response::into_inner)
    }

    /// Empties a store that other tests have used.
    pub async fn wipe(&self) {
        self.delete_request(delete_all()).await.expect("delete succeeds");
        let leases = self
            .lease()
            .lease_leases(pb::LeaseLeasesRequest {})
            .await
            .expect("leases are listed");
        for lease in leases.into_inner().leases {
            let _expired_meanwhile = self.revoke(lease.id).await;
        }
    }
}

/// A put of a pair without any option.
pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

/// A read of one key.
pub fn single(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// A read of every key `from <= key < to`.
pub fn between(from: &str, to: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(from),
        range_end: bytes(to),
        ..Default::default()
    }
}

/// A read of every key.
pub fn everything() -> pb::RangeRequest {
    between("\0", "\0")
}

/// A deletion of one key.
pub fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// A deletion of every key `from <= key < to`.
pub fn delete_between(from: &str, to: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes(from),
        range_end: bytes(to),
        ..Default::default()
    }
}

/// A deletion of every key.
pub fn delete_all() -> pb::DeleteRangeRequest {
    delete_between("\0", "\0")
}

/// An operation as a transaction carries it.
pub fn request_op(op: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(op) }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The pairs of a reply.
pub fn kv_pairs(encoded: &[Bytes]) -> Vec<KeyValue> {
    encoded
        .iter()
        .map(|pair| KeyValue::decode(pair.clone()).expect("a reply holds valid pairs"))
        .collect()
}

/// The keys of a reply, as text.
pub fn keys(reply: &pb::RangeResponse) -> Vec<String> {
    kv_pairs(&reply.kvs).iter().map(|pair| text(&pair.key)).collect()
}

pub fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("tests use text")
}

/// One optional pair of a reply.
pub fn pair(encoded: &Bytes) -> Option<KeyValue> {
    (!encoded.is_empty()).then(|| KeyValue::decode(encoded.clone()).expect("a reply holds valid pairs"))
}

/// A call with one piece of metadata, or none.
pub fn with_metadata<T>(message: T, metadata: Option<(&'static str, &str)>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some((name, value)) = metadata {
        request
            .metadata_mut()
            .insert(name, value.parse().expect("tests use ASCII metadata"));
    }
    request
}

/// Asserts that a call was refused with exactly this code and text.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    match result {
        Ok(reply) => panic!("expected {code:?} \"{text}\", got a reply: {reply:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, text)),
    }
}
