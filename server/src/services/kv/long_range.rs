//! A long answer of Range, sent in pieces: one gRPC message whose length the index knows before any record is read. Nothing
//! of it is held but a window of records and the piece that is on its way, however long the list and however slow its
//! client.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use kelson_proto::etcdserverpb as pb;
use kelson_storage::command::Range;
use kelson_storage::store::{ReadError, ReadView};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::OwnedSemaphorePermit;

use super::WINDOW_BYTES;
use super::range_stream::{has_filters, is_in_key_order, key_after};
use crate::services::ServiceContext;
use crate::status::ClientError;

/// Records that are sent in pieces if they have more bytes than this together. Less is quicker in one.
const PIECES_FROM_BYTES: u64 = 1024 * 1024;

/// Records of a piece have at most so many bytes together; a longer one is a piece of its own.
const PIECE_BYTES: usize = 256 * 1024;

/// A limit up to this is answered at once.
const SMALL_LIMIT: i64 = 1024;

/// `kvs` of `RangeResponse`.
const KVS_FIELD: u32 = 2;

/// An answer that is not in memory.
pub struct LongReply {
    /// Bytes of the message.
    pub length: usize,
    /// The message.
    pub pieces: BoxStream<'static, Result<Bytes, ClientError>>,
}

/// Whether the answer of `range` on `view` is long, and simple enough to be told from the index.
pub(super) fn is_long(view: &ReadView, range: &Range) -> bool {
    let is_of_view = range.revision <= 0 || range.revision.cast_unsigned() == view.revision();
    let is_plain = is_in_key_order(range) && !has_filters(range) && !range.keys_only && !range.count_only;
    let limit_is_small = (1..=SMALL_LIMIT).contains(&range.limit);
    is_of_view && is_plain && !limit_is_small && view.record_bytes(range) > PIECES_FROM_BYTES
}

/// What is still to be sent.
struct Rest {
    context: Arc<ServiceContext>,
    /// Pinned: nothing of it is deleted meanwhile.
    view: ReadView,
    /// Its key moves on, and its limit counts down.
    range: Range,
    /// Records that have been read, and are still to be sent.
    window: std::vec::IntoIter<Bytes>,
    /// To hold as many of them.
    leave: Option<OwnedSemaphorePermit>,
    /// Records that are still to be read.
    keys: u64,
    /// What comes behind them.
    tail: Bytes,
    ended: bool,
}

/// What an answer will be.
#[derive(Clone, Copy, Default)]
struct Shape {
    keys: u64,
    /// Bytes of the `kvs` fields.
    bytes: usize,
}

/// Answers `range` on `view`, which must be pinned.
pub(super) async fn answer(
    context: &Arc<ServiceContext>,
    view: ReadView,
    range: Range,
) -> Result<LongReply, ClientError> {
    // Named or not, it is the view's revision. By its name it could not be read any more once a compaction has passed it,
    // whatever is pinned.
    let range = Range { revision: 0, ..range };
    let (view, range, shape, count) = context
        .long_read(move || {
            let shape = shape(&view, &range);
            let all = Range {
                count_only: true,
                ..range.clone()
            };
            let count = view.range(&all)?.count;
            Ok((view, range, shape, count))
        })
        .await?;
    let head = pb::RangeResponse {
        header: Some(context.header_at(view.revision())),
        ..Default::default()
    };
    let tail = pb::RangeResponse {
        more: count > shape.keys,
        count: count.cast_signed(),
        ..Default::default()
    };
    let head = Bytes::from(head.encode_to_vec());
    let tail = Bytes::from(tail.encode_to_vec());
    let length = head.len() + shape.bytes + tail.len();
    let rest = Rest {
        context: context.clone(),
        view,
        range,
        window: Vec::new().into_iter(),
        leave: None,
        keys: shape.keys,
        tail,
        ended: false,
    };
    let pieces = futures::stream::unfold(rest, next_piece);
    let pieces = futures::stream::once(async { Ok(head) }).chain(pieces).boxed();
    Ok(LongReply { length, pieces })
}

fn shape(view: &ReadView, range: &Range) -> Shape {
    let limit = u64::try_from(range.limit).ok().filter(|limit| *limit > 0);
    let limit = limit.unwrap_or(u64::MAX);
    let mut shape = Shape::default();
    view.for_each_size(range, |bytes| {
        if shape.keys == limit {
            return ControlFlow::Break(());
        }
        shape.keys += 1;
        shape.bytes += key_len(KVS_FIELD) + encoded_len_varint(bytes.into()) + bytes as usize;
        ControlFlow::Continue(())
    });
    shape
}

async fn next_piece(mut rest: Rest) -> Option<(Result<Bytes, ClientError>, Rest)> {
    if rest.ended {
        return None;
    }
    if rest.window.as_slice().is_empty() && rest.keys > 0 {
        // Given back first, or this list would stand in its own way.
        rest.leave = None;
        rest.leave = rest.context.window();
        let bytes = match rest.leave {
            Some(_) => WINDOW_BYTES,
            None => PIECE_BYTES,
        };
        let (view, range, keys) = (rest.view.clone(), rest.range.clone(), rest.keys);
        let read = rest
            .context
            .long_read(move || read_window(&view, range, keys, bytes));
        match read.await {
            Ok(window) => {
                rest.keys -= window.len() as u64;
                rest.range.key = key_after(&window).unwrap_or(rest.range.key);
                rest.window = window.into_iter();
            }
            Err(error) => {
                rest.ended = true;
                return Some((Err(error), rest));
            }
        }
    }
    let piece = next_of(&mut rest.window);
    if !piece.is_empty() {
        return Some((Ok(piece), rest));
    }
    rest.ended = true;
    Some((Ok(rest.tail.clone()), rest))
}

/// The next records: as many as have at most `bytes_max` together, but at least one.
fn read_window(
    view: &ReadView,
    mut range: Range,
    keys: u64,
    bytes_max: usize,
) -> Result<Vec<Bytes>, ReadError> {
    range.limit = keys_within(view, &range, keys, bytes_max).max(1);
    let result = view.range(&range)?;
    let found = result.kvs.len() as u64;
    assert!(
        found > 0 && found <= keys,
        "the index has {keys} more keys, and {found} of them were found"
    );
    Ok(result.kvs)
}

/// The next of these records, as they are sent.
fn next_of(window: &mut std::vec::IntoIter<Bytes>) -> Bytes {
    let mut piece = BytesMut::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
    while let Some(kv) = window.as_slice().first()
        && (piece.is_empty() || piece.len() + kv.len() <= PIECE_BYTES)
    {
        encode_key(KVS_FIELD, WireType::LengthDelimited, &mut piece);
        encode_varint(kv.len() as u64, &mut piece);
        piece.put_slice(kv);
        window.next();
    }
    piece.freeze()
}

/// How many of the next keys can be read at once, so that their records have at most `bytes_max` together.
pub(super) fn keys_within(view: &ReadView, range: &Range, keys_left: u64, bytes_max: usize) -> i64 {
    let keys_max = i64::try_from(keys_left).unwrap_or(i64::MAX);
    let (mut keys, mut bytes) = (0, 0);
    view.for_each_size(range, |record| {
        bytes += record as usize;
        if keys == keys_max || bytes > bytes_max {
            return ControlFlow::Break(());
        }
        keys += 1;
        ControlFlow::Continue(())
    });
    keys
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kelson_storage::codec::encode_batch;
    use kelson_storage::command::{Command, CommandId, Proposal, Put};
    use kelson_storage::key_value::KeyValue;
    use kelson_storage::limits::CacheBudget;
    use kelson_storage::real_disk::RealDisk;
    use kelson_storage::revision::LogPosition;
    use kelson_storage::store::{Store, StoreOptions};

    use super::*;

    /// A store with a key for each of these lengths of values.
    fn store_of(directory: &std::path::Path, value_bytes: &[usize]) -> Store {
        let options = StoreOptions {
            database: directory.join("db"),
            cache: CacheBudget::default(),
        };
        let mut store = Store::open(Arc::new(RealDisk::default()), options).expect("a scratch directory");
        for (index, bytes) in (0..).zip(value_bytes) {
            let put = Put {
                key: format!("k{index:06}").into(),
                value: vec![b'v'; *bytes].into(),
                ..Put::default()
            };
            let proposal = Proposal {
                id: CommandId {
                    origin: 1,
                    session: 1,
                    seq: index + 1,
                },
                low: index + 1,
                command: Command::Put(put),
            };
            let at = LogPosition { term: 1, index };
            store
                .apply_batch(at, &encode_batch([&proposal]), &mut ())
                .expect("a scratch directory");
        }
        store
    }

    fn value_bytes(kv: &Bytes) -> usize {
        KeyValue::decode(kv).map_or(0, |kv| kv.value.len())
    }

    /// A piece once held 512 records, however long they were: half a gigabyte of a list of the largest values.
    #[test]
    fn a_piece_is_short_whatever_its_records_are() {
        for window_bytes in [PIECE_BYTES, WINDOW_BYTES, 1] {
            pieces_of_windows_are_short(window_bytes);
        }
    }

    fn pieces_of_windows_are_short(window_bytes: usize) {
        let mut lengths = vec![40; 3_000];
        lengths.extend([1 << 20; 6]);
        lengths.extend([100_000; 20]);
        lengths.extend([0, PIECE_BYTES, 0, PIECE_BYTES - 64, 64, 64]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = store_of(directory.path(), &lengths);
        let view = store.reader().view();
        let mut range = Range {
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(b"l"),
            ..Range::default()
        };
        let shape = shape(&view, &range);
        assert_eq!(shape.keys, lengths.len() as u64);
        let (mut keys, mut pieces) = (shape.keys, Vec::new());
        while keys > 0 {
            let records =
                read_window(&view, range.clone(), keys, window_bytes).expect("the view is the newest");
            let bytes: usize = records.iter().map(Bytes::len).sum();
            assert!(
                bytes <= window_bytes || records.len() == 1,
                "a window of {bytes} bytes"
            );
            keys -= records.len() as u64;
            range.key = key_after(&records).expect("a record");
            let mut records = records.into_iter();
            while records.len() > 0 {
                let before = records.len();
                pieces.push((next_of(&mut records), before - records.len()));
            }
        }
        let framing = 16;
        for (piece, records) in &pieces {
            assert!(
                piece.len() < PIECE_BYTES + framing || *records == 1,
                "a piece of {records} records has {} bytes",
                piece.len()
            );
        }
        let message: Vec<u8> = pieces
            .iter()
            .flat_map(|(piece, _)| piece.iter().copied())
            .collect();
        assert_eq!(message.len(), shape.bytes);
        let answer = pb::RangeResponse::decode(&*message).expect("an answer");
        let found: Vec<usize> = answer.kvs.iter().map(value_bytes).collect();
        assert_eq!(found, lengths);
        let all: usize = lengths.iter().sum();
        assert!(
            window_bytes < PIECE_BYTES || pieces.len() < 2 * (6 + all / PIECE_BYTES),
            "pieces are filled: {}",
            pieces.len()
        );
    }
}
