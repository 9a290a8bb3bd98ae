//! Between history types and etcd's protobuf messages, for recorders that speak gRPC.

use kelson_proto::etcdserverpb as pb;
use kelson_proto::mvccpb;
use prost::{DecodeError, Message as _};
use tonic::{Code, Status};

use super::{
    Blob, Compact, Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeResponse, Event, EventKind,
    Header, HeaderResponse, KeyValue, LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse, Outcome, Put, PutResponse, Range, RangeResponse, Response, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, TxnResponse, WatchCreate, WatchResponse,
};

/// Sorts what a call returned into the three outcomes of promise P6.
///
/// Only errors that etcd's table calls rejections are failures: their text is the server's, and their code says that
/// the request was looked at and refused. Everything that may come from the way there or back is unknown.
pub fn outcome<T>(
    result: Result<T, Status>,
    response: impl FnOnce(T) -> Result<Response, DecodeError>,
) -> Outcome {
    match result.map(response) {
        Ok(Ok(response)) => Outcome::Ok(response),
        Ok(Err(error)) => Outcome::Unknown {
            code: -1,
            text: format!("undecodable reply: {error}"),
        },
        Err(status) => failure(&status),
    }
}

/// The outcome of a call that ended with an error status.
pub fn failure(status: &Status) -> Outcome {
    let (code, text) = (status.code() as i32, status.message().to_owned());
    let decided = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::OutOfRange
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
    );
    if decided && text.starts_with("etcdserver: ") {
        Outcome::Failed { code, text }
    } else {
        Outcome::Unknown { code, text }
    }
}

impl From<&Range> for pb::RangeRequest {
    fn from(range: &Range) -> Self {
        Self {
            key: range.key.0.clone(),
            range_end: range.range_end.0.clone(),
            limit: range.limit,
            revision: range.revision,
            sort_order: range.sort_order as i32,
            sort_target: range.sort_target as i32,
            serializable: range.serializable,
            keys_only: range.keys_only,
            count_only: range.count_only,
            min_mod_revision: range.min_mod_revision,
            max_mod_revision: range.max_mod_revision,
            min_create_revision: range.min_create_revision,
            max_create_revision: range.max_create_revision,
        }
    }
}

impl From<&Put> for pb::PutRequest {
    fn from(put: &Put) -> Self {
        Self {
            key: put.key.0.clone(),
            value: put.value.0.clone(),
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }
}

impl From<&DeleteRange> for pb::DeleteRangeRequest {
    fn from(delete: &DeleteRange) -> Self {
        Self {
            key: delete.key.0.clone(),
            range_end: delete.range_end.0.clone(),
            prev_kv: delete.prev_kv,
        }
    }
}

impl From<&Compare> for pb::Compare {
    fn from(compare: &Compare) -> Self {
        use pb::compare::{CompareTarget as Field, TargetUnion};
        let (target, operand) = match &compare.target {
            CompareTarget::Version(version) => (Field::Version, TargetUnion::Version(*version)),
            CompareTarget::Create(revision) => (Field::Create, TargetUnion::CreateRevision(*revision)),
            CompareTarget::Mod(revision) => (Field::Mod, TargetUnion::ModRevision(*revision)),
            CompareTarget::Value(value) => (Field::Value, TargetUnion::Value(value.0.clone())),
            CompareTarget::Lease(lease) => (Field::Lease, TargetUnion::Lease(*lease)),
        };
        Self {
            result: match compare.result {
                CompareResult::Equal => pb::compare::CompareResult::Equal as i32,
                CompareResult::Greater => pb::compare::CompareResult::Greater as i32,
                CompareResult::Less => pb::compare::CompareResult::Less as i32,
                CompareResult::NotEqual => pb::compare::CompareResult::NotEqual as i32,
            },
            target: target as i32,
            key: compare.key.0.clone(),
            range_end: compare.range_end.0.clone(),
            target_union: Some(operand),
        }
    }
}

impl From<&TxnOp> for pb::RequestOp {
    fn from(op: &TxnOp) -> Self {
        use pb::request_op::Request;
        let request = match op {
            TxnOp::Range(range) => Request::RequestRange(range.into()),
            TxnOp::Put(put) => Request::RequestPut(put.into()),
            TxnOp::DeleteRange(delete) => Request::RequestDeleteRange(delete.into()),
            TxnOp::Txn(txn) => Request::RequestTxn(txn.into()),
        };
        Self {
            request: Some(request),
        }
    }
}

impl From<&Txn> for pb::TxnRequest {
    fn from(txn: &Txn) -> Self {
        Self {
            compare: txn.compare.iter().map(Into::into).collect(),
            success: txn.success.iter().map(Into::into).collect(),
            failure: txn.failure.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Compact> for pb::CompactionRequest {
    fn from(compact: &Compact) -> Self {
        Self {
            revision: compact.revision,
            physical: compact.physical,
        }
    }
}

impl From<&LeaseGrant> for pb::LeaseGrantRequest {
    fn from(grant: &LeaseGrant) -> Self {
        Self {
            ttl: grant.ttl,
            id: grant.id,
        }
    }
}

impl From<&LeaseId> for pb::LeaseRevokeRequest {
    fn from(lease: &LeaseId) -> Self {
        Self { id: lease.id }
    }
}

impl From<&LeaseId> for pb::LeaseKeepAliveRequest {
    fn from(lease: &LeaseId) -> Self {
        Self { id: lease.id }
    }
}

impl From<&LeaseId> for pb::LeaseTimeToLiveRequest {
    fn from(lease: &LeaseId) -> Self {
        Self {
            id: lease.id,
            keys: lease.keys,
        }
    }
}

impl From<&WatchCreate> for pb::WatchCreateRequest {
    fn from(create: &WatchCreate) -> Self {
        use pb::watch_create_request::FilterType;
        let mut filters = Vec::new();
        if create.no_put {
            filters.push(FilterType::Noput as i32);
        }
        if create.no_delete {
            filters.push(FilterType::Nodelete as i32);
        }
        Self {
            key: create.key.0.clone(),
            range_end: create.range_end.0.clone(),
            start_revision: create.start_revision,
            progress_notify: create.progress_notify,
            filters,
            prev_kv: create.prev_kv,
            watch_id: create.watch_id,
            fragment: create.fragment,
        }
    }
}

fn header(header: Option<pb::ResponseHeader>) -> Header {
    header.map_or_else(Header::default, |header| Header {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    })
}

impl From<mvccpb::KeyValue> for KeyValue {
    fn from(pair: mvccpb::KeyValue) -> Self {
        Self {
            key: pair.key.into(),
            create_revision: pair.create_revision,
            mod_revision: pair.mod_revision,
            version: pair.version,
            value: pair.value.into(),
            lease: pair.lease,
        }
    }
}

fn pair(encoded: bytes::Bytes) -> Result<KeyValue, DecodeError> {
    mvccpb::KeyValue::decode(encoded).map(Into::into)
}

/// An absent pair arrives as no bytes; a present one has at least a key.
fn optional_pair(encoded: bytes::Bytes) -> Result<Option<KeyValue>, DecodeError> {
    if encoded.is_empty() {
        Ok(None)
    } else {
        pair(encoded).map(Some)
    }
}

/// Answer to a range.
pub fn range(reply: pb::RangeResponse) -> Result<RangeResponse, DecodeError> {
    Ok(RangeResponse {
        header: header(reply.header),
        kvs: reply.kvs.into_iter().map(pair).collect::<Result<_, _>>()?,
        more: reply.more,
        count: reply.count,
    })
}

/// Answer to a put.
pub fn put(reply: pb::PutResponse) -> Result<PutResponse, DecodeError> {
    Ok(PutResponse {
        header: header(reply.header),
        prev_kv: optional_pair(reply.prev_kv)?,
    })
}

/// Answer to a delete.
pub fn delete_range(reply: pb::DeleteRangeResponse) -> Result<DeleteRangeResponse, DecodeError> {
    Ok(DeleteRangeResponse {
        header: header(reply.header),
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.into_iter().map(pair).collect::<Result<_, _>>()?,
    })
}

/// Answer to a transaction. An answer without content cannot be told from an undecodable one and is an error.
pub fn txn(reply: pb::TxnResponse) -> Result<TxnResponse, DecodeError> {
    use pb::response_op::Response as Op;
    let op = |op: pb::ResponseOp| {
        Ok(match op.response {
            Some(Op::ResponseRange(reply)) => TxnOpResponse::Range(range(reply)?),
            Some(Op::ResponsePut(reply)) => TxnOpResponse::Put(put(reply)?),
            Some(Op::ResponseDeleteRange(reply)) => TxnOpResponse::DeleteRange(delete_range(reply)?),
            Some(Op::ResponseTxn(reply)) => TxnOpResponse::Txn(txn(reply)?),
            // The order checker compares with what the operation must return: an empty range response is never that.
            None => TxnOpResponse::Range(RangeResponse {
                count: -1,
                ..RangeResponse::default()
            }),
        })
    };
    Ok(TxnResponse {
        header: header(reply.header),
        succeeded: reply.succeeded,
        responses: reply
            .responses
            .into_iter()
            .map(op)
            .collect::<Result<_, DecodeError>>()?,
    })
}

/// Answer to a compaction.
pub fn compact(reply: pb::CompactionResponse) -> HeaderResponse {
    HeaderResponse {
        header: header(reply.header),
    }
}

/// Answer to a grant.
pub fn lease_grant(reply: pb::LeaseGrantResponse) -> LeaseGrantResponse {
    LeaseGrantResponse {
        header: header(reply.header),
        id: reply.id,
        ttl: reply.ttl,
    }
}

/// Answer to a revoke.
pub fn lease_revoke(reply: pb::LeaseRevokeResponse) -> HeaderResponse {
    HeaderResponse {
        header: header(reply.header),
    }
}

/// Answer to a keepalive.
pub fn lease_keep_alive(reply: pb::LeaseKeepAliveResponse) -> LeaseKeepAliveResponse {
    LeaseKeepAliveResponse {
        header: header(reply.header),
        id: reply.id,
        ttl: reply.ttl,
    }
}

/// Answer to a time-to-live question.
pub fn lease_time_to_live(reply: pb::LeaseTimeToLiveResponse) -> LeaseTimeToLiveResponse {
    LeaseTimeToLiveResponse {
        header: header(reply.header),
        id: reply.id,
        ttl: reply.ttl,
        granted_ttl: reply.granted_ttl,
        keys: reply.keys.into_iter().map(Blob::from).collect(),
    }
}

/// A message of a watch stream.
pub fn watch(reply: pb::WatchResponse) -> Result<WatchResponse, DecodeError> {
    Ok(WatchResponse {
        header: header(reply.header),
        watch_id: reply.watch_id,
        created: reply.created,
        canceled: reply.canceled,
        compact_revision: reply.compact_revision,
        cancel_reason: reply.cancel_reason,
        fragment: reply.fragment,
        events: reply.events.into_iter().map(event).collect::<Result<_, _>>()?,
    })
}

fn event(encoded: bytes::Bytes) -> Result<Event, DecodeError> {
    let event = mvccpb::Event::decode(encoded)?;
    let deleted = event.r#type == mvccpb::event::EventType::Delete as i32;
    Ok(Event {
        kind: if deleted {
            EventKind::Delete
        } else {
            EventKind::Put
        },
        kv: event.kv.unwrap_or_default().into(),
        prev_kv: event.prev_kv.map(Into::into),
    })
}

const _: () = {
    use pb::range_request::{SortOrder as Order, SortTarget as Target};
    assert!(
        SortOrder::None as i32 == Order::None as i32 && SortOrder::Descend as i32 == Order::Descend as i32
    );
    assert!(SortOrder::Ascend as i32 == Order::Ascend as i32 && SortTarget::Key as i32 == Target::Key as i32);
    assert!(
        SortTarget::Version as i32 == Target::Version as i32 && SortTarget::Mod as i32 == Target::Mod as i32
    );
    assert!(
        SortTarget::Create as i32 == Target::Create as i32
            && SortTarget::Value as i32 == Target::Value as i32
    );
};
