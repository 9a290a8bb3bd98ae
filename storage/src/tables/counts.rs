//! [`Counts`]: how much the tables hold, kept up with every change and stored with every commit.
//!
//! redb can count its pages only by reading all of them (1.4 s for 800 MB), and the file is up to twice as long as what
//! is used, because redb doubles it. So the pages are reckoned. A row's pieces have a page each. What is in the table of
//! rows shares leaves: appending fills one leaf after the other, which is followed exactly; deleting leaves holes, and redb
//! joins leaves before they are less than half full on average, so what is left takes at most twice its bytes.

use super::engine_format::{self, LEAF_HEAD_BYTES, VALUE_END_BYTES};
use super::fields::{Fields, PutFields};
use super::piece::{self, PIECE_BYTES};
use super::row;
use crate::revision::Revision;
use crate::store::DatabaseSize;

const PAGE_BYTES: u64 = engine_format::PAGE_BYTES as u64;
/// What an empty database has allocated: the engine's own tables, mostly the state of its allocator.
const EMPTY_BYTES: u64 = 1024 * 1024;
/// One byte of inner pages for so many bytes of leaves.
const LEAF_BYTES_PER_INNER_BYTE: u64 = 100;

/// How much the tables beside `meta` hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows of `rev`.
    pub(crate) rows: u64,
    /// Bytes of the keys and values of `rev` and `piece`.
    pub(crate) row_bytes: u64,
    /// Rows of `lease`.
    pub(crate) leases: u64,
    /// Bytes of rows that share leaves.
    shared_bytes: u64,
    /// Bytes of the leaves that they share, as reckoned.
    leaf_bytes: u64,
    /// Bytes used in the leaf that is appended to.
    last_leaf_used: u64,
    /// Bytes of the pages of rows that have pages of their own: of pieces, and of what format 1 wrote beyond a page.
    own_page_bytes: u64,
}

impl Counts {
    /// A row with this value was written, and its pieces.
    pub(super) fn row_added(&mut self, value: &[u8]) {
        let bytes = RowBytes::of(value);
        self.rows += 1;
        self.row_bytes += bytes.entry + bytes.pieces;
        self.own_page_bytes += bytes.own_pages;
        if !bytes.shares_leaf {
            return;
        }
        self.shared_bytes += bytes.entry;
        let needed = bytes.entry + VALUE_END_BYTES as u64;
        if self.leaf_bytes == 0 || self.last_leaf_used + needed > PAGE_BYTES {
            self.leaf_bytes += PAGE_BYTES;
            self.last_leaf_used = LEAF_HEAD_BYTES as u64;
        }
        self.last_leaf_used += needed;
    }

    /// A row with this value was deleted, and its pieces.
    pub(super) fn row_removed(&mut self, value: &[u8]) {
        let bytes = RowBytes::of(value);
        self.rows = self.rows.saturating_sub(1);
        self.row_bytes = self.row_bytes.saturating_sub(bytes.entry + bytes.pieces);
        self.own_page_bytes = self.own_page_bytes.saturating_sub(bytes.own_pages);
        if bytes.shares_leaf {
            self.shared_bytes = self.shared_bytes.saturating_sub(bytes.entry);
            self.leaf_bytes = self.leaf_bytes.min(2 * self.shared_bytes);
        }
    }

    /// Sizes, in a file of `file_bytes`.
    pub(super) fn size(&self, file_bytes: u64) -> DatabaseSize {
        let leaves = self.leaf_bytes + self.own_page_bytes;
        let reckoned = EMPTY_BYTES + leaves + leaves / LEAF_BYTES_PER_INNER_BYTE;
        let allocated = reckoned.min(file_bytes).max(PAGE_BYTES);
        DatabaseSize {
            allocated,
            // The state record's page is in use in every database, also before the first row is written behind apply.
            in_use: (PAGE_BYTES + self.row_bytes).min(allocated),
        }
    }

    /// Bytes of the leaves of `rev`, as reckoned.
    pub(super) fn leaf_bytes(&self) -> u64 {
        self.leaf_bytes
    }

    pub(super) fn encode(&self, record: &mut Vec<u8>) {
        for count in [
            self.rows,
            self.row_bytes,
            self.leases,
            self.shared_bytes,
            self.leaf_bytes,
            self.last_leaf_used,
            self.own_page_bytes,
        ] {
            record.put_u64(count);
        }
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            rows: fields.u64()?,
            row_bytes: fields.u64()?,
            leases: fields.u64()?,
            shared_bytes: fields.u64()?,
            leaf_bytes: fields.u64()?,
            last_leaf_used: fields.u64()?,
            own_page_bytes: fields.u64()?,
        })
    }
}

/// What one row takes.
struct RowBytes {
    /// Key and value in the table of rows.
    entry: u64,
    /// Keys and values of its pieces.
    pieces: u64,
    /// Pages that it has for itself.
    own_pages: u64,
    /// Whether the entry is in a page with others.
    shares_leaf: bool,
}

impl RowBytes {
    fn of(value: &[u8]) -> Self {
        let entry = (Revision::ENCODED_BYTES + value.len()) as u64;
        let in_pieces = row::bytes_in_pieces(value);
        let pieces = in_pieces.div_ceil(PIECE_BYTES);
        let leaf = (LEAF_HEAD_BYTES + VALUE_END_BYTES) as u64 + entry;
        let shares_leaf = leaf <= PAGE_BYTES;
        let entry_pages = match shares_leaf {
            true => 0,
            false => leaf.div_ceil(PAGE_BYTES).next_power_of_two(),
        };
        Self {
            entry,
            pieces: (in_pieces + pieces * piece::KEY_BYTES) as u64,
            own_pages: (pieces as u64 + entry_pages) * PAGE_BYTES,
            shares_leaf,
        }
    }
}
