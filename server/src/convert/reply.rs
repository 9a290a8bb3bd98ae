//! Replies out: what commands did, as wire messages. Pairs and events pass through as the bytes they are stored as.

use bytes::{Buf, Bytes};
use kelson_proto::etcdserverpb as pb;
use kelson_storage::applied::{Applied, Deleted, RangeResult, TxnApplied, TxnOpApplied};
use kelson_storage::command::AlarmKind;
use kelson_storage::store::MemberRecord;

use crate::status::{ClientError, Code};

type Header = Option<pb::ResponseHeader>;

/// The answer of a range read.
pub fn range_reply(header: pb::ResponseHeader, result: RangeResult) -> pb::RangeResponse {
    range_with(Some(header), result)
}

fn range_with(header: Header, result: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: result.kvs,
        more: result.more,
        count: result.count.cast_signed(),
    }
}

/// The answer of a write.
pub fn put_reply(header: pb::ResponseHeader, prev_kv: Option<Bytes>) -> pb::PutResponse {
    put_with(Some(header), prev_kv)
}

fn put_with(header: Header, prev_kv: Option<Bytes>) -> pb::PutResponse {
    pb::PutResponse {
        header,
        // No pair encodes to nothing, so nothing means "no pair".
        prev_kv: prev_kv.unwrap_or_default(),
    }
}

/// The answer of a delete.
pub fn delete_range_reply(header: pb::ResponseHeader, deleted: Deleted) -> pb::DeleteRangeResponse {
    delete_range_with(Some(header), deleted)
}

fn delete_range_with(header: Header, deleted: Deleted) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: deleted.deleted.cast_signed(),
        prev_kvs: deleted.prev_kvs,
    }
}

/// The answer of a transaction.
pub fn txn_reply(header: pb::ResponseHeader, applied: TxnApplied) -> pb::TxnResponse {
    txn_with(header, applied)
}

fn txn_with(header: pb::ResponseHeader, applied: TxnApplied) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: applied.succeeded,
        responses: applied
            .responses
            .into_iter()
            .map(|response| pb::ResponseOp {
                response: Some(txn_op_reply(response)),
            })
            .collect(),
    }
}

fn txn_op_reply(applied: TxnOpApplied) -> pb::response_op::Response {
    use pb::response_op::Response;
    match applied {
        TxnOpApplied::Range { revision, result } => {
            Response::ResponseRange(range_with(inner_header(revision), result))
        }
        TxnOpApplied::Put { revision, prev_kv } => {
            Response::ResponsePut(put_with(inner_header(revision), prev_kv))
        }
        TxnOpApplied::DeleteRange { revision, deleted } => {
            Response::ResponseDeleteRange(delete_range_with(inner_header(revision), deleted))
        }
        TxnOpApplied::Txn(applied) => Response::ResponseTxn(txn_with(pb::ResponseHeader::default(), applied)),
    }
}

/// Inside of a transaction a header says the revision and nothing else.
fn inner_header(revision: u64) -> Header {
    Some(pb::ResponseHeader {
        revision: revision.cast_signed(),
        ..Default::default()
    })
}

/// The alarms listed, raised or cleared.
pub fn alarm_reply(header: pb::ResponseHeader, alarms: Vec<(u64, AlarmKind)>) -> pb::AlarmResponse {
    let alarms = alarms
        .into_iter()
        .map(|(member_id, kind)| pb::AlarmMember {
            member_id,
            alarm: wire_alarm(kind).into(),
        })
        .collect();
    pb::AlarmResponse {
        header: Some(header),
        alarms,
    }
}

fn wire_alarm(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::None => pb::AlarmType::None,
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

/// The members, by id.
pub fn members(mut records: Vec<MemberRecord>) -> Vec<pb::Member> {
    records.sort_unstable_by_key(|record| record.id);
    records
        .into_iter()
        .map(|record| pb::Member {
            id: record.id,
            name: record.name,
            peer_ur_ls: record.peer_urls,
            client_ur_ls: record.client_urls,
            is_learner: record.is_learner,
        })
        .collect()
}

/// The key of an encoded `mvccpb.KeyValue`, as a slice of it: field 1, which is always written first.
pub fn key_of(pair: &Bytes) -> Bytes {
    const KEY_TAG: u8 = 0x0a;
    let mut rest = pair.clone();
    if !rest.has_remaining() || rest.get_u8() != KEY_TAG {
        return Bytes::new();
    }
    match prost::encoding::decode_varint(&mut rest).map(usize::try_from) {
        Ok(Ok(length)) if length <= rest.len() => rest.split_to(length),
        _ => Bytes::new(),
    }
}

/// Apply answered a command with another command's answer: a bug, which must not take the member down.
pub fn unexpected(applied: &Applied) -> ClientError {
    tracing::error!(?applied, "apply answered with another command's answer");
    ClientError::other(Code::Internal, "etcdserver: unexpected answer of a command")
}
