//! `rev`: what one change wrote. Append-only, but for compaction.
//!
//! ```text
//! Key:   main u64 | sub u32, big-endian, so that rows lie in history order
//! Value: crc32 u32 | flags u8 | [previous main u64 | previous sub u32] | [bytes in pieces u32] | encoded mvccpb.KeyValue
//! Flags: 1 tombstone, 2 the key had a previous revision, 4 the KeyValue ends in pieces (their brackets are there)
//! ```
//!
//! The crc covers the key and the value behind it, pieces and all, so a row that turns up under another revision is found
//! too. What does not fit a page is in pieces (`piece`) that fill one each: redb would give it a power of two of pages.

use std::slice::Chunks;

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

use super::engine_format::{LEAF_HEAD_BYTES, PAGE_BYTES, VALUE_END_BYTES};
use super::fields::{Fields, PutFields};
use super::piece::PIECE_BYTES;
use crate::revision::Revision;

const TOMBSTONE: u8 = 1;
const HAS_PREVIOUS: u8 = 2;
const HAS_PIECES: u8 = 4;
const CRC_BYTES: usize = 4;
/// The most that is in front of the KeyValue.
const HEAD_BYTES_MAX: usize = CRC_BYTES + 1 + Revision::ENCODED_BYTES + 4;
/// As much of a KeyValue fits a page with all that is in front of it.
const IN_PAGE_MAX: usize =
    PAGE_BYTES - LEAF_HEAD_BYTES - VALUE_END_BYTES - Revision::ENCODED_BYTES - HEAD_BYTES_MAX;
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

/// What the table has of a row.
pub(super) enum Entry {
    Whole(Row),
    InPieces(Unfinished),
}

/// A row whose pieces are still to come, in any order.
pub(super) struct Unfinished {
    row: Row,
    /// What is there of the KeyValue, and room for the pieces.
    kv: Vec<u8>,
    in_entry: usize,
    missing: usize,
    expected_crc: u32,
    /// Of everything in front of the pieces.
    crc: Hasher,
}

impl Unfinished {
    /// How many pieces the row has, numbered from 0.
    pub(super) fn pieces(&self) -> u32 {
        let pieces = (self.kv.len() - self.in_entry).div_ceil(PIECE_BYTES);
        u32::try_from(pieces).expect("their bytes are a u32")
    }

    /// Takes a piece. None if it is not one of this row.
    pub(super) fn put(&mut self, number: u32, piece: &[u8]) -> Option<()> {
        let place = self.kv[self.in_entry..]
            .chunks_mut(PIECE_BYTES)
            .nth(number as usize)?;
        if place.len() != piece.len() {
            return None;
        }
        place.copy_from_slice(piece);
        self.missing = self.missing.checked_sub(piece.len())?;
        Some(())
    }

    /// Whether all pieces have come.
    pub(super) fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// None if it is not the row that was written.
    pub(super) fn finish(mut self) -> Option<Row> {
        self.crc.update(&self.kv[self.in_entry..]);
        let is_sound = self.is_whole() && self.crc.finalize() == self.expected_crc;
        is_sound.then(|| Row {
            kv: self.kv.into(),
            ..self.row
        })
    }
}

/// Writes the value of `row` under `revision`, without pieces, into `value`, which is cleared first.
pub(crate) fn encode(revision: Revision, row: &Row, value: &mut Vec<u8>) {
    encode_front(revision, row, row.kv.len(), value);
}

/// As [`encode`], as much as is in the table, and what is in pieces.
pub(super) fn encode_entry<'r>(revision: Revision, row: &'r Row, value: &mut Vec<u8>) -> Chunks<'r, u8> {
    let too_many = row.kv.len().saturating_sub(IN_PAGE_MAX);
    let in_pieces = too_many.div_ceil(PIECE_BYTES) * PIECE_BYTES;
    let in_entry = row.kv.len().saturating_sub(in_pieces);
    encode_front(revision, row, in_entry, value);
    row.kv[in_entry..].chunks(PIECE_BYTES)
}

/// Writes the value up to and with the first `in_entry` bytes of the KeyValue.
fn encode_front(revision: Revision, row: &Row, in_entry: usize, value: &mut Vec<u8>) {
    let (front, pieces) = row.kv.split_at(in_entry);
    value.clear();
    value.extend_from_slice(&[0; CRC_BYTES]);
    let mut flags = 0;
    for (flag, is_set) in [
        (TOMBSTONE, row.tombstone),
        (HAS_PREVIOUS, row.previous.is_some()),
        (HAS_PIECES, !pieces.is_empty()),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    value.push(flags);
    if let Some(previous) = row.previous {
        value.put_u64(previous.main);
        value.put_u32(previous.sub);
    }
    if !pieces.is_empty() {
        value.put_u32(u32::try_from(pieces.len()).expect("a request is far below 4 GiB"));
    }
    value.extend_from_slice(front);
    let mut crc = crc(&revision.to_bytes(), &value[CRC_BYTES..]);
    crc.update(pieces);
    value[..CRC_BYTES].copy_from_slice(&crc.finalize().to_be_bytes());
}

/// Reads what [`encode`] wrote; `None` if it is not that.
pub(crate) fn decode(key: &[u8; Revision::ENCODED_BYTES], value: &[u8]) -> Option<Row> {
    match decode_entry(key, value)? {
        Entry::Whole(row) => Some(row),
        Entry::InPieces(_) => None,
    }
}

/// Reads what [`encode_entry`] wrote; `None` if it is not that.
pub(super) fn decode_entry(key: &[u8; Revision::ENCODED_BYTES], value: &[u8]) -> Option<Entry> {
    decode_by(key, value, Bytes::copy_from_slice)
}

/// As [`decode_entry`]; many rows, one after the other, share the memory of `chunk`, which is kept until all are gone.
pub(super) fn decode_into(
    chunk: &mut BytesMut,
    key: &[u8; Revision::ENCODED_BYTES],
    value: &[u8],
) -> Option<Entry> {
    decode_by(key, value, |kv| {
        if chunk.capacity() < kv.len() {
            *chunk = BytesMut::with_capacity(CHUNK_BYTES.max(kv.len()));
        }
        chunk.extend_from_slice(kv);
        chunk.split().freeze()
    })
}

/// How many bytes of the row with this value are in pieces.
pub(super) fn bytes_in_pieces(value: &[u8]) -> usize {
    let bytes = Front::of(value).map_or(0, |front| front.in_pieces);
    bytes as usize
}

/// The fields of a value.
struct Front<'a> {
    crc: u32,
    covered: &'a [u8],
    tombstone: bool,
    previous: Option<Revision>,
    in_pieces: u32,
    kv: &'a [u8],
}

impl<'a> Front<'a> {
    fn of(value: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(value);
        let crc = fields.u32()?;
        let covered = fields.0;
        let flags = fields.byte()?;
        if flags & !(TOMBSTONE | HAS_PREVIOUS | HAS_PIECES) != 0 {
            return None;
        }
        let previous = match flags & HAS_PREVIOUS {
            0 => None,
            _ => Some(Revision::new(fields.u64()?, fields.u32()?)),
        };
        let in_pieces = match flags & HAS_PIECES {
            0 => 0,
            _ => Some(fields.u32()?).filter(|bytes| *bytes > 0)?,
        };
        Some(Self {
            crc,
            covered,
            tombstone: flags & TOMBSTONE != 0,
            previous,
            in_pieces,
            kv: fields.0,
        })
    }
}

fn decode_by(
    key: &[u8; Revision::ENCODED_BYTES],
    value: &[u8],
    copy: impl FnOnce(&[u8]) -> Bytes,
) -> Option<Entry> {
    let front = Front::of(value)?;
    let crc = crc(key, front.covered);
    let mut row = Row {
        tombstone: front.tombstone,
        previous: front.previous,
        kv: Bytes::new(),
    };
    if front.in_pieces == 0 {
        row.kv = copy(front.kv);
        return (crc.finalize() == front.crc).then_some(Entry::Whole(row));
    }
    let missing = front.in_pieces as usize;
    // Zeros that nobody has written take no memory: a length that is wrong costs none.
    let mut kv = vec![0; front.kv.len() + missing];
    kv[..front.kv.len()].copy_from_slice(front.kv);
    Some(Entry::InPieces(Unfinished {
        row,
        kv,
        in_entry: front.kv.len(),
        missing,
        expected_crc: front.crc,
        crc,
    }))
}

fn crc(key: &[u8], rest: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher.update(rest);
    hasher
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

    fn unfinished(key: &[u8; Revision::ENCODED_BYTES], value: &[u8]) -> Unfinished {
        match decode_entry(key, value) {
            Some(Entry::InPieces(row)) => row,
            Some(Entry::Whole(_)) => panic!("it has no pieces"),
            None => panic!("it is no row"),
        }
    }

    #[test]
    fn what_does_not_fit_a_page_comes_back_from_pieces_that_come_in_any_order() {
        let key = Revision::new(7, 3).to_bytes();
        for length in [4_056, 4_072, 4_073, 8_127, 8_128, 16_500, 1 << 20] {
            let row = Row {
                tombstone: false,
                previous: Some(Revision::new(5, 1)),
                kv: (0..length).map(|at| (at % 251) as u8).collect(),
            };
            let mut value = Vec::new();
            let pieces: Vec<_> = encode_entry(Revision::new(7, 3), &row, &mut value).collect();
            let page = LEAF_HEAD_BYTES + VALUE_END_BYTES + key.len() + value.len();
            assert!(page <= PAGE_BYTES, "{length}: {page}");
            assert_eq!(pieces.len(), (length - IN_PAGE_MAX).div_ceil(PIECE_BYTES));
            assert_eq!(
                bytes_in_pieces(&value),
                pieces.iter().map(|piece| piece.len()).sum()
            );
            assert_eq!(decode(&key, &value), None, "an image has whole rows");
            let mut read = unfinished(&key, &value);
            assert_eq!(read.pieces() as usize, pieces.len());
            for (number, piece) in (0u32..).zip(&pieces).collect::<Vec<_>>().into_iter().rev() {
                assert!(!read.is_whole());
                read.put(number, piece).unwrap();
            }
            assert!(read.is_whole());
            assert_eq!(read.finish(), Some(row));
        }
        let row = Row {
            kv: Bytes::from(vec![1; IN_PAGE_MAX]),
            ..Row::default()
        };
        let mut value = Vec::new();
        assert_eq!(encode_entry(Revision::new(7, 3), &row, &mut value).len(), 0);
        assert_eq!(decode(&key, &value), Some(row));
    }

    #[test]
    fn pieces_that_are_missing_or_not_as_written_are_refused() {
        let key = Revision::new(7, 3).to_bytes();
        let row = Row {
            kv: (0..13_000).map(|at| (at % 251) as u8).collect(),
            ..Row::default()
        };
        let mut value = Vec::new();
        let pieces: Vec<_> = encode_entry(Revision::new(7, 3), &row, &mut value).collect();
        let [one, two, three] = pieces[..] else {
            panic!("{} pieces", pieces.len());
        };
        let put = |pieces: &[&[u8]]| {
            let mut read = unfinished(&key, &value);
            for (number, piece) in (0..).zip(pieces) {
                let _ = read.put(number, piece);
            }
            read.finish()
        };
        assert_eq!(put(&[one, two, three]).as_ref(), Some(&row));
        assert_eq!(put(&[one, two]), None);
        assert_eq!(put(&[one, two, &three[1..]]), None);
        assert_eq!(put(&[one, three, two]), None);
        let mut flipped = two.to_vec();
        flipped[4_000] ^= 1;
        assert_eq!(put(&[one, &flipped, three]), None);
        let mut other = unfinished(&Revision::new(7, 2).to_bytes(), &value);
        for (number, piece) in (0..).zip([one, two, three]) {
            other.put(number, piece).unwrap();
        }
        assert_eq!(other.finish(), None, "it is another revision's");
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
