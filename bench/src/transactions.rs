//! Writes that hold only if nobody wrote before: what transactional memory and kube-apiserver send.

use bytes::Bytes;
use kelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kelson_proto::etcdserverpb::request_op::Request;
use kelson_proto::etcdserverpb::response_op::Response;
use kelson_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use kelson_proto::mvccpb::KeyValue;
use prost::Message;
use tonic::Status;

/// What is written if nobody wrote before.
#[derive(Clone, Debug)]
pub enum Write {
    /// This value, attached to this lease (0: to none).
    Put(Bytes, i64),
    /// The end of the key.
    Delete,
}

/// A put if the key is still as of `revision` (0: not there), otherwise a read of it.
pub fn put_if_unchanged(key: &Bytes, revision: i64, value: Bytes) -> TxnRequest {
    if_unchanged(key, revision, Write::Put(value, 0))
}

/// A write if the key is still as of `revision` (0: not there), otherwise a read of it.
pub fn if_unchanged(key: &Bytes, revision: i64, write: Write) -> TxnRequest {
    let op = |request| RequestOp {
        request: Some(request),
    };
    let write = match write {
        Write::Put(value, lease) => Request::RequestPut(PutRequest {
            key: key.clone(),
            value,
            lease,
            ..PutRequest::default()
        }),
        Write::Delete => Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        }),
    };
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Compare::default()
        }],
        success: vec![op(write)],
        failure: vec![op(Request::RequestRange(RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        }))],
    }
}

/// The revision at which the key stands after this reply, and whether the write held.
pub fn outcome(reply: &TxnResponse) -> Result<(bool, i64), Status> {
    let without = |what| Status::internal(format!("a reply without {what}"));
    if reply.succeeded {
        let header = reply.header.as_ref().ok_or_else(|| without("a header"))?;
        return Ok((true, header.revision));
    }
    let read = reply.responses.first().and_then(|op| op.response.as_ref());
    let Some(Response::ResponseRange(found)) = read else {
        return Err(without("the read of the failure branch"));
    };
    Ok((false, revision_of(&found.kvs)?))
}

/// The revision of the first of these pairs; 0 without any.
pub fn revision_of(pairs: &[Bytes]) -> Result<i64, Status> {
    let Some(pair) = pairs.first() else {
        return Ok(0);
    };
    let pair = KeyValue::decode(pair.clone()).map_err(|error| Status::internal(error.to_string()))?;
    Ok(pair.mod_revision)
}
