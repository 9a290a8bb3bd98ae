//! `rev`: what one change wrote. Append-only, but for compaction.
//!
//! ```text
//! Key:   main u64 | sub u32, big-endian, so that rows lie in history order
//! Value: crc32 u32 | flags u8 | [previous main u64 | previous sub u32] | encoded mvccpb.KeyValue
//! Flags: 1 tombstone, 2 the key had a previous revision (the bracket is there)
//! ```
//!
//! The crc covers the key and the value behind it, so a row that turns up under another revision is found too.

use bytes::{Bytes, BytesMut};

use super::fields::{Fields, PutFields};
use crate::revision::Revision;

const TOMBSTONE: u8 = 1;
const HAS_PREVIOUS: u8 = 2;
const CRC_BYTES: usize = 4;
/// Rows that are decoded together share pieces of memory of so many bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// One change of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Whether the change deleted the key.
    pub tombstone: bool,
    /// The revision of the same key before this one, unless it was the key's first or compaction had forgotten it.
    pub previous: Option<Revision>,
    /// The encoded `mvccpb.KeyValue`; of a tombstone, the key and the revision of the deletion.
    pub kv: Bytes,
}

/// Writes the value of `row` under `revision` into `value`, which is cleared first.
pub(crate) fn encode(revision: Revision, row: &Row, value: &mut Vec<u8>) {
    value.clear();
    value.extend_from_slice(&[0; CRC_BYTES]);
    let mut flags = 0;
    if row.tombstone {
        flags |= TOMBSTONE;
    }
    if row.previous.is_some() {
        flags |= HAS_PREVIOUS;
    }
    value.push(flags);
    if let Some(previous) = row.previous {
        value.put_u64(previous.main);
        value.put_u32(previous.sub);
    }
    value.extend_from_slice(&row.kv);
    let crc = crc(&revision.to_bytes(), &value[CRC_BYTES..]);
    value[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
}

/// Reads what [`encode`] wrote; `None` if it is not that.
pub(crate) fn decode(key: &[u8; Revision::ENCODED_BYTES], value: &[u8]) -> Option<Row> {
    decode_by(key, value, Bytes::copy_from_slice)
}

/// As [`decode`]; many rows, one after the other, share the memory of `chunk`, which is kept until all are gone.
pub(crate) fn decode_into(
    chunk: &mut BytesMut,
    key: &[u8; Revision::ENCODED_BYTES],
    value: &[u8],
) -> Option<Row> {
    decode_by(key, value, |kv| {
        if chunk.capacity() < kv.len() {
            *chunk = BytesMut::with_capacity(CHUNK_BYTES.max(kv.len()));
        }
        chunk.extend_from_slice(kv);
        chunk.split().freeze()
    })
}

fn decode_by(
    key: &[u8; Revision::ENCODED_BYTES],
    value: &[u8],
    copy: impl FnOnce(&[u8]) -> Bytes,
) -> Option<Row> {
    let mut fields = Fields(value);
    if fields.u32()? != crc(key, fields.0) {
        return None;
    }
    let flags = fields.byte()?;
    if flags & !(TOMBSTONE | HAS_PREVIOUS) != 0 {
        return None;
    }
    let previous = if flags & HAS_PREVIOUS == 0 {
        None
    } else {
        Some(Revision::new(fields.u64()?, fields.u32()?))
    };
    Some(Row {
        tombstone: flags & TOMBSTONE != 0,
        previous,
        kv: copy(fields.0),
    })
}

fn crc(key: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(rest);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_written_and_only_under_their_revision() {
        let revision = Revision::new(7, 3);
        for tombstone in [false, true] {
            for previous in [None, Some(Revision::new(5, 1))] {
                for kv in [Bytes::new(), Bytes::from_static(b"\x0a\x01k")] {
                    let row = Row {
                        tombstone,
                        previous,
                        kv,
                    };
                    let mut value = vec![9; 3];
                    encode(revision, &row, &mut value);
                    assert_eq!(decode(&revision.to_bytes(), &value), Some(row));
                    assert_eq!(decode(&Revision::new(7, 2).to_bytes(), &value), None);
                }
            }
        }
    }

    #[test]
    fn a_flipped_or_cut_row_is_refused() {
        let revision = Revision::new(2, 0);
        let row = Row {
            tombstone: false,
            previous: Some(Revision::new(1, 0)),
            kv: Bytes::from_static(b"value"),
        };
        let mut value = Vec::new();
        encode(revision, &row, &mut value);
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&revision.to_bytes(), &flipped), None, "bit {bit}");
        }
        for length in 0..value.len() {
            assert_eq!(decode(&revision.to_bytes(), &value[..length]), None);
        }
    }
}
