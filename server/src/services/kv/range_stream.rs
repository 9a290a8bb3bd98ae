//! RangeStream: the answer of a range read in chunks, all of one revision (API specification 3.7).
//!
//! Merged, the chunks are the answer of Range: header, count and `more` come with the last one, which also carries the
//! last keys. The view of the first chunk serves all of them, so later writes are invisible; a compaction beyond its
//! revision ends the stream, as it would end a read.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use kelson_proto::etcdserverpb as pb;
use kelson_storage::applied::RangeResult;
use kelson_storage::command::{Range, SortOrder, SortTarget};
use kelson_storage::store::ReadView;
use tokio::sync::OwnedSemaphorePermit;

use super::WINDOW_BYTES;
use super::long_range::keys_within;
use crate::convert;
use crate::services::ServiceContext;
use crate::status::ClientError;

/// Keys in the first chunk. Source: etcd.
const FIRST_CHUNK_KEYS: i64 = 10;

/// Most keys in one chunk, however small they are: a bite the runtime can take.
const CHUNK_KEYS_MAX: i64 = 8192;

/// Chunks of more keys are read beside the runtime: each key can cost a page of the database.
const INLINE_KEYS_MAX: i64 = 100;

/// Chunks that are read at once when there are many: records of about [`WINDOW_BYTES`].
const WINDOW_CHUNKS: i64 = 4;

/// Whether the answer is in key order, ascending.
pub(super) fn is_in_key_order(range: &Range) -> bool {
    range.sort_target == SortTarget::Key && range.sort_order != SortOrder::Descend
}

/// Whether a revision filter is set.
pub(super) fn has_filters(range: &Range) -> bool {
    range.min_mod_revision != 0
        || range.max_mod_revision != 0
        || range.min_create_revision != 0
        || range.max_create_revision != 0
}

/// Opens the stream. Refused: what Range refuses, custom sort orders, revision filters.
pub async fn range_stream(
    context: Arc<ServiceContext>,
    request: pb::RangeRequest,
) -> Result<BoxStream<'static, Result<pb::RangeStreamResponse, ClientError>>, ClientError> {
    let serializable = request.serializable;
    let mut range = convert::range(request)?;
    if !is_in_key_order(&range) {
        // etcd takes an unsorted order of any target, and sorts inside of each chunk.
        if range.sort_order != SortOrder::None {
            return Err(ClientError::RangeStreamSort);
        }
        range.sort_target = SortTarget::Key;
    }
    if has_filters(&range) {
        return Err(ClientError::RangeStreamFilter);
    }
    if !serializable {
        context.node.read_index().await?;
    }
    let view = context.reader().view();
    let chunks = Chunks {
        left: range.limit,
        range,
        view,
        context,
        count: None,
        chunk_keys: FIRST_CHUNK_KEYS,
        window: Vec::new().into_iter(),
        more_behind: false,
        leave: None,
        ended: false,
    };
    Ok(futures::stream::unfold(chunks, |mut chunks| async move {
        if chunks.ended {
            return None;
        }
        let chunk = chunks.next_chunk().await;
        chunks.ended |= chunk.is_err();
        Some((chunk, chunks))
    })
    .boxed())
}

/// The smallest key above the last one of `kvs`.
pub(super) fn key_after(kvs: &[Bytes]) -> Option<Bytes> {
    let last = convert::key_of(kvs.last()?);
    let mut next = BytesMut::with_capacity(last.len() + 1);
    next.put_slice(&last);
    next.put_u8(0);
    Some(next.freeze())
}

struct Chunks {
    context: Arc<ServiceContext>,
    view: ReadView,
    /// What is still to be read; its key moves on.
    range: Range,
    /// Keys the limit still allows; 0 or less: no limit.
    left: i64,
    /// Keys in the whole range; none before the first chunk.
    count: Option<u64>,
    chunk_keys: i64,
    /// Records that have been read, and are still to be sent.
    window: std::vec::IntoIter<Bytes>,
    /// Whether there are more behind them.
    more_behind: bool,
    /// To hold as many of them.
    leave: Option<OwnedSemaphorePermit>,
    ended: bool,
}

impl Chunks {
    async fn next_chunk(&mut self) -> Result<pb::RangeStreamResponse, ClientError> {
        let result = self.read_chunk().await?;
        let count = *self.count.get_or_insert(result.count);
        let taken = i64::try_from(result.kvs.len()).unwrap_or(i64::MAX);
        self.adapt(&result);
        let limit_reached = self.left > 0 && taken >= self.left;
        if self.left > 0 {
            self.left -= taken.min(self.left);
        }
        self.ended = self.range.count_only || !result.more || limit_reached;
        let reply = if self.ended {
            let whole = RangeResult { count, ..result };
            convert::range_reply(self.context.header_at(self.view.revision()), whole)
        } else {
            // A chunk with more behind it is not empty; without a key there is nothing to go on from.
            self.range.key = key_after(&result.kvs).unwrap_or_else(|| self.range.range_end.clone());
            pb::RangeResponse {
                kvs: result.kvs,
                ..Default::default()
            }
        };
        Ok(pb::RangeStreamResponse {
            range_response: Some(reply),
        })
    }

    async fn read_chunk(&mut self) -> Result<RangeResult, ClientError> {
        let pinned = if self.range.revision > 0 {
            self.range.revision.cast_unsigned()
        } else {
            self.view.revision()
        };
        if self
            .context
            .reader()
            .compacted()
            .is_some_and(|compacted| pinned < compacted)
        {
            return Err(ClientError::Compacted);
        }
        if self.window.as_slice().is_empty() {
            let read = self.read_window().await?;
            self.count.get_or_insert(read.count);
            self.more_behind = read.more;
            self.window = read.kvs.into_iter();
        }
        let kvs = self.next_of_window();
        let is_last = self.window.as_slice().is_empty();
        if is_last {
            self.leave = None;
        }
        Ok(RangeResult {
            kvs,
            count: self.count.unwrap_or_default(),
            more: !is_last || self.more_behind,
        })
    }

    /// Records for a chunk: at least one, if there is one.
    fn next_of_window(&mut self) -> Vec<Bytes> {
        let keys_max = usize::try_from(self.chunk_keys).unwrap_or(usize::MAX);
        let bytes_max = self.chunk_bytes_max();
        let (mut kvs, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.window.as_slice().first()
            && (kvs.is_empty() || (kvs.len() < keys_max && bytes + next.len() <= bytes_max))
        {
            bytes += next.len();
            kvs.extend(self.window.next());
        }
        kvs
    }

    /// Records of a chunk have at most so many bytes together; a longer one is a chunk of its own.
    fn chunk_bytes_max(&self) -> usize {
        self.context.limits.max_request_bytes.saturating_mul(2)
    }

    /// Reads the next chunk, or many if they are large.
    async fn read_window(&mut self) -> Result<RangeResult, ClientError> {
        let (mut keys, mut bytes) = (self.chunk_keys, self.chunk_bytes_max());
        if keys > INLINE_KEYS_MAX {
            self.leave = self.context.window();
        }
        if self.leave.is_some() {
            (keys, bytes) = (keys * WINDOW_CHUNKS, WINDOW_BYTES.max(bytes));
        }
        if self.left > 0 {
            keys = self.left.min(keys);
        }
        let mut chunk = self.range.clone();
        chunk.limit = keys;
        // How long the records of an older revision were is not known.
        let is_known = chunk.revision <= 0 || chunk.revision.cast_unsigned() == self.view.revision();
        if is_known && !chunk.keys_only && !chunk.count_only {
            chunk.limit = keys_within(&self.view, &chunk, keys.unsigned_abs(), bytes).max(1);
        }
        if keys <= INLINE_KEYS_MAX && !self.range.count_only {
            let read = self.view.range(&chunk);
            return read.map_err(|error| self.context.read_failed(error));
        }
        let view = self.view.clone();
        self.context.long_read(move || view.range(&chunk)).await
    }

    /// Steers towards chunks of about the largest request, as etcd does.
    fn adapt(&mut self, result: &RangeResult) {
        let bytes: usize = result.kvs.iter().map(Bytes::len).sum();
        let aim = self.context.limits.max_request_bytes;
        if bytes < aim / 2 {
            self.chunk_keys = (self.chunk_keys * 2).min(CHUNK_KEYS_MAX);
        } else if bytes > aim * 2 {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
    }
}
