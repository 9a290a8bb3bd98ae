//! KV: Range, RangeStream, Put, DeleteRange, Txn, Compact.

mod deep_txn;
mod long_range;
mod range_stream;
mod read_txn;

use std::sync::Arc;
use std::time::Duration;

use kelson_proto::etcdserverpb as pb;
use kelson_storage::applied::Applied;
use kelson_storage::command::{Command, Range, Txn};
use kelson_storage::store::{ReadError, ReadView};
use prost::Message;
use tokio::time::Instant;

pub use self::deep_txn::explain_undecodable_txn;
pub use self::long_range::LongReply;
pub use self::range_stream::range_stream;
use self::read_txn::ReadPath;
use super::request_meters::RequestKind;
use super::{ServiceContext, quota};
use crate::convert;
use crate::status::ClientError;

/// Reads of more keys than this leave the runtime, so that a big list delays nobody's small call.
const INLINE_KEYS_MAX: u64 = 1000;

/// Records of a long list that are looked up at once have so many bytes together. The more, the more of them share a page
/// of the database: of a million records of 300 B, each takes 0.95 of a page with 2 MiB, 0.85 with 8. With 8 a member grew by
/// up to 48 MiB, with 4 by 15.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// How often a physical compaction looks whether its rows are gone. Nothing waits for this but its caller.
const COMPACTION_POLL: Duration = Duration::from_millis(10);

/// What a range read comes to.
pub enum RangeReply {
    /// In memory.
    Whole(pb::RangeResponse),
    /// To be read while it is sent.
    Long(LongReply),
}

/// Reads a range of keys at one revision, for a client.
pub async fn range_call(
    context: &Arc<ServiceContext>,
    request: pb::RangeRequest,
) -> Result<RangeReply, ClientError> {
    let began = Instant::now();
    let answered = answer_range(context, request).await;
    // A long answer has only been begun.
    let requests = &context.requests;
    requests.observe(RequestKind::Range, answered.is_ok(), began.elapsed());
    answered
}

async fn answer_range(
    context: &Arc<ServiceContext>,
    request: pb::RangeRequest,
) -> Result<RangeReply, ClientError> {
    let range = begin_range(context, request).await?;
    if !range.range_end.is_empty() && long_range::is_long(&context.reader().view(), &range) {
        let view = context.reader().pinned_view();
        // The revision that was asked for may be of the past by now.
        if long_range::is_long(&view, &range) {
            return long_range::answer(context, view, range)
                .await
                .map(RangeReply::Long);
        }
    }
    read_range(context, range).await.map(RangeReply::Whole)
}

/// Reads a range of keys at one revision.
pub async fn range(
    context: &ServiceContext,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, ClientError> {
    let range = begin_range(context, request).await?;
    read_range(context, range).await
}

/// Checks the request, and waits until it may be answered here.
async fn begin_range(context: &ServiceContext, request: pb::RangeRequest) -> Result<Range, ClientError> {
    let serializable = request.serializable;
    let range = convert::range(request)?;
    if !serializable {
        context.node.read_index().await?;
    }
    context.reader().count_range();
    Ok(range)
}

async fn read_range(context: &ServiceContext, range: Range) -> Result<pb::RangeResponse, ClientError> {
    let began = Instant::now();
    let answered = read(context, &range, is_big, ReadView::range).await;
    context.requests.ranges.observe(answered.is_ok(), began.elapsed());
    let (revision, result) = answered?;
    Ok(convert::range_reply(context.header_at(revision), result))
}

/// Answers `query` from one view of the store, beside the runtime if that `is_big`; and the view's revision.
async fn read<Q, T>(
    context: &ServiceContext,
    query: &Q,
    is_big: fn(&ReadView, &Q) -> bool,
    answer: fn(&ReadView, &Q) -> Result<T, ReadError>,
) -> Result<(u64, T), ClientError>
where
    Q: Clone + Send + 'static,
    T: Send + 'static,
{
    loop {
        let view = context.reader().view();
        let revision = view.revision();
        let answered = if is_big(&view, query) {
            let query = query.clone();
            context.long_read(move || answer(&view, &query)).await
        } else {
            answer(&view, query).map_err(|error| context.read_failed(error))
        };
        match answered {
            // A compaction has overtaken the view while it was read: what was asked for may well be there on a new one.
            Err(ClientError::Compacted) if context.reader().compacted() > Some(revision) => {}
            answered => return Ok((revision, answered?)),
        }
    }
}

/// Whether answering may touch many keys. Counting the present keys of a range is cheap, whatever their number.
fn is_big(view: &ReadView, range: &Range) -> bool {
    let one_key = range.range_end.is_empty();
    let cut_by_limit = limits_the_scan(range) && (1..=INLINE_KEYS_MAX.cast_signed()).contains(&range.limit);
    let counted_only = range.count_only && range.revision <= 0;
    if one_key || cut_by_limit || counted_only {
        return false;
    }
    keys_in(view, range) > INLINE_KEYS_MAX
}

/// Whether a scan in key order can stop at the limit (API specification 3.4).
fn limits_the_scan(range: &Range) -> bool {
    range_stream::is_in_key_order(range) && !range_stream::has_filters(range)
}

fn keys_in(view: &ReadView, range: &Range) -> u64 {
    let count = Range {
        key: range.key.clone(),
        range_end: range.range_end.clone(),
        count_only: true,
        ..Range::default()
    };
    // A read that fails is made again, small, and fails for the client to see.
    view.range(&count).map_or(0, |result| result.count)
}

/// Writes one key.
pub async fn put(context: &ServiceContext, request: pb::PutRequest) -> Result<pb::PutResponse, ClientError> {
    quota::admit(context, quota::put_cost(&request)).await?;
    let encoded_bytes = request.encoded_len();
    let put = convert::put(request)?;
    context.check_request_size(encoded_bytes)?;
    match context.propose(Command::Put(put)).await? {
        (header, Applied::Put { prev_kv }) => Ok(convert::put_reply(header, prev_kv)),
        (_, other) => Err(convert::unexpected(&other)),
    }
}

/// Deletes a range of keys. Works with the quota used up.
pub async fn delete_range(
    context: &ServiceContext,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, ClientError> {
    let encoded_bytes = request.encoded_len();
    let delete = convert::delete_range(request)?;
    context.check_request_size(encoded_bytes)?;
    match context.propose(Command::DeleteRange(delete)).await? {
        (header, Applied::DeleteRange(deleted)) => Ok(convert::delete_range_reply(header, deleted)),
        (_, other) => Err(convert::unexpected(&other)),
    }
}

/// Compares, then runs one of two branches. What only reads does not enter the log.
pub async fn txn(context: &ServiceContext, request: pb::TxnRequest) -> Result<pb::TxnResponse, ClientError> {
    quota::admit(context, quota::txn_cost(&request)).await?;
    let path = ReadPath::of(&request);
    let encoded_bytes = if path == ReadPath::Log {
        request.encoded_len()
    } else {
        0
    };
    let txn = convert::txn(request, context.limits.max_txn_ops)?;
    match path {
        ReadPath::Local | ReadPath::ReadIndex => {
            let began = Instant::now();
            let answered = answer_read_txn(context, path, txn).await;
            let requests = &context.requests;
            requests.observe(RequestKind::ReadonlyTxn, answered.is_ok(), began.elapsed());
            answered
        }
        ReadPath::Log => {
            context.check_request_size(encoded_bytes)?;
            match context.propose(Command::Txn(txn)).await? {
                (header, Applied::Txn(applied)) => Ok(convert::txn_reply(header, applied)),
                (_, other) => Err(convert::unexpected(&other)),
            }
        }
    }
}

async fn answer_read_txn(
    context: &ServiceContext,
    path: ReadPath,
    txn: Txn,
) -> Result<pb::TxnResponse, ClientError> {
    if path == ReadPath::ReadIndex {
        context.node.read_index().await?;
    }
    read_txn(context, txn).await
}

async fn read_txn(context: &ServiceContext, txn: Txn) -> Result<pb::TxnResponse, ClientError> {
    let is_big = |view: &ReadView, txn: &Txn| read_txn::ranges(txn).any(|range| is_big(view, &range));
    let (revision, applied) = read(context, &txn, is_big, ReadView::txn).await?;
    Ok(convert::txn_reply(context.header_at(revision), applied))
}

/// Forgets history below a revision; with `physical`, answers once the rows are gone from this member's database.
pub async fn compact(
    context: &ServiceContext,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, ClientError> {
    let proposed = context
        .propose(Command::Compact {
            revision: request.revision,
        })
        .await;
    // A compaction that is refused because its revision is compacted already waits for that one, as in etcd.
    if request.physical && matches!(proposed, Ok(_) | Err(ClientError::Compacted)) {
        wait_for_compaction(context).await;
    }
    match proposed? {
        (header, Applied::Compact) => Ok(pb::CompactionResponse { header: Some(header) }),
        (_, other) => Err(convert::unexpected(&other)),
    }
}

async fn wait_for_compaction(context: &ServiceContext) {
    let Some(revision) = context.reader().compacted() else {
        return;
    };
    while !context.reader().compaction_finished(revision) {
        tokio::time::sleep(COMPACTION_POLL).await;
    }
}
