//! `piece`: what does not fit a row's page, in pieces that fill one each.
//!
//! ```text
//! Key:   main u64 | sub u32 | number u32 from 0, big-endian, so that a row's pieces lie one behind the other
//! Value: bytes of the row's KeyValue, PIECE_BYTES of them; the only piece of a row may be shorter
//! ```
//!
//! A piece has no checksum of its own: that of its row covers it.

use super::engine_format::{LEAF_HEAD_BYTES, PAGE_BYTES, VALUE_END_BYTES};
use crate::revision::Revision;

/// Bytes of a piece's key.
pub(super) const KEY_BYTES: usize = Revision::ENCODED_BYTES + 4;

/// Bytes of a piece: with its key, a page.
pub(super) const PIECE_BYTES: usize = PAGE_BYTES - LEAF_HEAD_BYTES - VALUE_END_BYTES - KEY_BYTES;

/// The key of a row's piece, of which the row's own key is the front.
pub(super) fn key(row: &[u8; Revision::ENCODED_BYTES], number: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..Revision::ENCODED_BYTES].copy_from_slice(row);
    key[Revision::ENCODED_BYTES..].copy_from_slice(&number.to_be_bytes());
    key
}
