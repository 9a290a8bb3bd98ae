//! Waiting in line below a key prefix: what locks and elections share (API specification 13.2).
//!
//! Who wants a turn puts a key of its own below the prefix, attached to its lease. The oldest key has the turn; every
//! other one waits for the key just before its own to be deleted. Everything is built on the KV, Watch and Lease
//! handlers, so it sees the same limits and answers as a client that did it by hand.

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use kelson_proto::etcdserverpb as pb;
use kelson_proto::mvccpb::KeyValue;
use prost::Message;

use super::{ServiceContext, kv, lease};
use crate::status::{ClientError, Code};
use crate::watch::WatchResponses;

/// TTL in seconds of the lease that is granted to who brings none. Source: etcd `concurrency.defaultSessionTTL`.
const SESSION_TTL_SECONDS: i64 = 60;

/// One lease's place in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `<name>/`: all places of the line.
    pub prefix: Bytes,
    /// `<name>/<lease in hexadecimal>`.
    pub key: Bytes,
    /// What the key is attached to.
    pub lease: i64,
}

impl Place {
    /// The place of `lease` in the line `name`; without a lease, one is granted.
    pub async fn of(context: &ServiceContext, name: &[u8], lease: i64) -> Result<Self, ClientError> {
        let lease = if lease == 0 {
            let request = pb::LeaseGrantRequest {
                id: 0,
                ttl: SESSION_TTL_SECONDS,
            };
            lease::grant(context, request).await?.id
        } else {
            lease
        };
        let prefix = prefix_of(name);
        let mut key = BytesMut::from(&prefix[..]);
        key.put_slice(hexadecimal(lease).as_bytes());
        Ok(Self {
            prefix,
            key: key.freeze(),
            lease,
        })
    }

    /// "My key does not exist yet."
    pub fn is_free(&self) -> pb::Compare {
        created_at(&self.key, 0)
    }

    /// Writes the key.
    pub fn put(&self, value: Bytes) -> pb::RequestOp {
        put_op(self.key.clone(), value, self.lease)
    }
}

/// `<name>/`.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.put_slice(name);
    prefix.put_u8(b'/');
    prefix.freeze()
}

/// As Go prints a signed number with `%x`.
fn hexadecimal(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.unsigned_abs())
}

/// The end of the range of all keys with this prefix; a prefix from [`prefix_of`] ends with a slash.
fn end_of(prefix: &Bytes) -> Bytes {
    let mut end = BytesMut::from(&prefix[..]);
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.freeze()
}

/// "`key` was created at this revision"; 0: it does not exist.
pub(super) fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        key: key.clone(),
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Create.into(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

pub(super) fn put_op(key: Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key,
            value,
            lease,
            ..Default::default()
        })),
    }
}

pub(super) fn range_op(range: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestRange(range)),
    }
}

pub(super) fn delete_op(key: Bytes) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestDeleteRange(
            pb::DeleteRangeRequest {
                key,
                ..Default::default()
            },
        )),
    }
}

/// Reads one key.
pub(super) fn single(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.clone(),
        ..Default::default()
    }
}

/// Reads the oldest key below `prefix`.
pub(super) fn oldest(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        ..Default::default()
    }
}

/// Waits until no key below `prefix` is left that was created before `revision`.
pub(super) async fn wait_for_turn(
    context: &ServiceContext,
    prefix: &Bytes,
    revision: i64,
) -> Result<(), ClientError> {
    loop {
        let newest_before = pb::RangeRequest {
            max_create_revision: revision - 1,
            sort_order: pb::range_request::SortOrder::Descend.into(),
            ..oldest(prefix)
        };
        let read = kv::range(context, newest_before).await?;
        let Some(predecessor) = read.kvs.first() else {
            return Ok(());
        };
        let key = pair(predecessor)?.key;
        let after = read.header.map_or(0, |header| header.revision) + 1;
        wait_for_deletion(context, key, after).await?;
    }
}

/// Waits until `key` is deleted at or after revision `from`. May return early: the caller looks again.
async fn wait_for_deletion(context: &ServiceContext, key: Bytes, from: i64) -> Result<(), ClientError> {
    let mut responses = watch_from(
        context,
        pb::WatchCreateRequest {
            key,
            start_revision: from,
            filters: vec![pb::watch_create_request::FilterType::Noput.into()],
            ..Default::default()
        },
    )?;
    while let Some(response) = responses.next().await {
        if !response.events.is_empty() || response.canceled {
            return Ok(());
        }
    }
    Err(ClientError::Stopped)
}

/// Watches all keys below `prefix` for puts, from revision `from` on.
pub(super) fn watch_puts_below(
    context: &ServiceContext,
    prefix: &Bytes,
    from: i64,
) -> Result<WatchResponses, ClientError> {
    watch_from(
        context,
        pb::WatchCreateRequest {
            key: prefix.clone(),
            range_end: end_of(prefix),
            start_revision: from,
            filters: vec![pb::watch_create_request::FilterType::Nodelete.into()],
            ..Default::default()
        },
    )
}

/// Watches as `create` says, on a stream of its own.
pub(super) fn watch_from(
    context: &ServiceContext,
    create: pb::WatchCreateRequest,
) -> Result<WatchResponses, ClientError> {
    let stream = context.watch_hub.open_stream();
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    stream.request(request).map_err(|_stopped| ClientError::Stopped)?;
    Ok(stream.into_responses())
}

/// Decodes a pair of a reply.
pub(super) fn pair(encoded: &Bytes) -> Result<KeyValue, ClientError> {
    KeyValue::decode(encoded.clone()).map_err(|error| {
        tracing::error!(%error, "a pair of a reply does not decode");
        ClientError::other(Code::Internal, "etcdserver: unreadable key-value pair")
    })
}

/// The pairs that operation `index` of a transaction read.
pub(super) fn pairs_read(txn: &pb::TxnResponse, index: usize) -> &[Bytes] {
    use pb::response_op::Response;
    match txn.responses.get(index).and_then(|op| op.response.as_ref()) {
        Some(Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// The revision in a header.
pub(super) fn revision_of(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ids_print_as_in_go() {
        assert_eq!(hexadecimal(0x1234_abcd), "1234abcd");
        assert_eq!(hexadecimal(-255), "-ff");
        assert_eq!(hexadecimal(i64::MIN), "-8000000000000000");
    }

    #[test]
    fn range_below_a_prefix_ends_behind_it() {
        let prefix = prefix_of(b"lock");
        assert_eq!(prefix, "lock/");
        assert_eq!(end_of(&prefix), "lock0");
    }
}
