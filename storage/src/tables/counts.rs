//! [`Counts`]: how much the tables hold, kept up with every change and stored with every commit.
//!
//! redb can count its pages only by reading all of them (1.4 s for 800 MB), and the file is up to twice as long as what
//! is used, because redb doubles it. So the pages are reckoned. A row larger than a page has pages of its own, a power
//! of two. Smaller ones share leaves: appending fills one leaf after the other, which is followed exactly; deleting
//! leaves holes, and redb joins leaves before they are less than half full on average, so what is left takes at most
//! twice its bytes.

use super::fields::{Fields, PutFields};
use crate::revision::Revision;
use crate::store::DatabaseSize;

/// redb's page.
const PAGE_BYTES: u64 = 4096;
/// What a leaf needs beside its rows.
const LEAF_HEADER_BYTES: u64 = 4;
/// What a row needs in its leaf beside key and value: where the value ends.
const ROW_OFFSET_BYTES: u64 = 4;
/// What an empty database has allocated: the engine's own tables, mostly the state of its allocator.
const EMPTY_BYTES: u64 = 1024 * 1024;
/// One byte of inner pages for so many bytes of leaves.
const LEAF_BYTES_PER_INNER_BYTE: u64 = 100;

/// How much the tables beside `meta` hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows of `rev`.
    pub(crate) rows: u64,
    /// Bytes of the keys and values of `rev`.
    pub(crate) row_bytes: u64,
    /// Rows of `lease`.
    pub(crate) leases: u64,
    /// Bytes of rows that share leaves.
    shared_bytes: u64,
    /// Bytes of the leaves that they share, as reckoned.
    leaf_bytes: u64,
    /// Bytes used in the leaf that is appended to.
    last_leaf_used: u64,
    /// Bytes of the pages of rows that have pages of their own.
    own_page_bytes: u64,
}

impl Counts {
    /// A row with a value of so many bytes was written.
    pub(super) fn row_added(&mut self, value_bytes: usize) {
        let bytes = row_bytes(value_bytes);
        self.rows += 1;
        self.row_bytes += bytes;
        if let Some(pages) = own_pages(bytes) {
            self.own_page_bytes += pages;
            return;
        }
        self.shared_bytes += bytes;
        let needed = bytes + ROW_OFFSET_BYTES;
        if self.leaf_bytes == 0 || self.last_leaf_used + needed > PAGE_BYTES {
            self.leaf_bytes += PAGE_BYTES;
            self.last_leaf_used = LEAF_HEADER_BYTES;
        }
        self.last_leaf_used += needed;
    }

    /// A row with a value of so many bytes was deleted.
    pub(super) fn row_removed(&mut self, value_bytes: usize) {
        let bytes = row_bytes(value_bytes);
        self.rows = self.rows.saturating_sub(1);
        self.row_bytes = self.row_bytes.saturating_sub(bytes);
        if let Some(pages) = own_pages(bytes) {
            self.own_page_bytes = self.own_page_bytes.saturating_sub(pages);
            return;
        }
        self.shared_bytes = self.shared_bytes.saturating_sub(bytes);
        self.leaf_bytes = self.leaf_bytes.min(2 * self.shared_bytes);
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

/// Bytes of the pages that a row has to itself, if it does not fit one that it shares.
fn own_pages(row_bytes: u64) -> Option<u64> {
    let leaf = LEAF_HEADER_BYTES + row_bytes + ROW_OFFSET_BYTES;
    (leaf > PAGE_BYTES).then(|| leaf.div_ceil(PAGE_BYTES).next_power_of_two() * PAGE_BYTES)
}

fn row_bytes(value_bytes: usize) -> u64 {
    (Revision::ENCODED_BYTES + value_bytes) as u64
}
