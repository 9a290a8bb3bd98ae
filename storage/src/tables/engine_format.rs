//! redb's file format 3, as its design.md tells it: as much of it as is read beside the engine.
//!
//! Integers are little-endian.
//!
//! ```text
//! header  byte 9: bit 0, the slot that counts | 16: header pages of a region u32 | 20: other pages of a region u32 |
//!         64: slots of 128 bytes
//! slot    format u8 | has tables u8 | has system tables u8 | - 5 bytes | root of the table of tables |
//!         root of the table of system tables | - 32 bytes | transaction u64
//! root    page u64 | checksum 16 bytes | entries u64
//! page    bits 0..20: number in its region, in pages of its size | 20..40: region | 59..64: log2 of the blocks that it has
//! leaf    1 u8 | - u8 | entries u16 | ends of keys u32, unless all keys have one size | ends of values u32 | keys | values
//! branch  2 u8 | - u8 | keys u16 | - u32 | checksums of children, 16 bytes | pages of children u64 | keys
//! table   kind u8 | rows u64 | has a root u8 | root, its value in the table of tables
//! ```
//!
//! What is not as expected is nothing: whoever reads beside the engine can do without.

use std::ops::Range;

use super::block_file::{BlockFile, HEADER_BYTES};
use super::fields::Fields;
use crate::error::Fault;

const FORMAT: u8 = 3;
/// The smallest page; others are powers of two of it.
pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const LEAF: u8 = 1;
pub(super) const BRANCH: u8 = 2;
/// Bytes in front of the entries of a leaf.
pub(super) const LEAF_HEAD_BYTES: usize = 4;
/// Bytes of what says where a value of a leaf ends.
pub(super) const VALUE_END_BYTES: usize = 4;
/// Bytes in front of the children of a branch.
pub(super) const BRANCH_HEAD_BYTES: usize = 8;
pub(super) const CHECKSUM_BYTES: usize = 16;
pub(super) const PAGE_NUMBER_BYTES: usize = 8;
const ROOT_BYTES: usize = PAGE_NUMBER_BYTES + CHECKSUM_BYTES + 8;

/// A page number as redb writes it.
pub(super) type PageNumber = u64;

/// How redb divides the file into regions, in blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    header_blocks: u64,
    page_blocks: u64,
}

impl Regions {
    /// Where a page is.
    pub(super) fn blocks(&self, page: PageNumber) -> Range<u64> {
        let order = page >> 59;
        let number = page & (0xf_ffff >> order);
        let region = (page >> 20) & 0xf_ffff;
        let first = self.first_block(region) + (number << order);
        first..first + (1 << order)
    }

    /// Where the pages of a region begin.
    pub(super) fn first_block(&self, region: u64) -> u64 {
        1 + region * (self.header_blocks + self.page_blocks) + self.header_blocks
    }

    /// How many blocks of pages a whole region has.
    pub(super) fn page_blocks(&self) -> u64 {
        self.page_blocks
    }
}

/// What redb's header says of the newest durable commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    pub(super) regions: Regions,
    /// Root of the table of tables.
    pub(super) tables: PageNumber,
    /// Root of the table of redb's own tables.
    pub(super) system_tables: PageNumber,
    /// Number of the transaction.
    pub(super) transaction: u64,
}

impl Commit {
    /// None if there are no tables, or if something is not as expected.
    pub(super) fn newest_durable(file: &BlockFile) -> Result<Option<Self>, Fault> {
        let mut header = [0; HEADER_BYTES];
        file.read_commits(&mut header)?;
        Ok(Self::of_header(&header))
    }

    fn of_header(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        const SLOTS: usize = 64;
        const SLOT_BYTES: usize = 128;
        const ROOTS: usize = 8;
        let slot = header.get(SLOTS + SLOT_BYTES * usize::from(header[9] & 1)..)?;
        let mut fields = Fields(slot);
        let is_whole = fields.byte()? == FORMAT && fields.byte()? == 1 && fields.byte()? == 1;
        let commit = Self {
            regions: Regions {
                header_blocks: u32_at(header, 16)?.into(),
                page_blocks: u32_at(header, 20)?.into(),
            },
            tables: u64_at(slot, ROOTS)?,
            system_tables: u64_at(slot, ROOTS + ROOT_BYTES)?,
            transaction: u64_at(slot, ROOTS + 3 * ROOT_BYTES)?,
        };
        is_whole.then_some(commit)
    }
}

/// The root of the table `name`, by the leaf at `tables` that is the whole table of tables.
pub(super) fn root_of_table(
    file: &BlockFile,
    regions: Regions,
    tables: PageNumber,
    name: &str,
) -> Result<Option<PageNumber>, Fault> {
    let leaf = file.read_range(regions.blocks(tables))?;
    Ok(leaf.as_deref().and_then(|leaf| root_in_leaf(leaf, name)))
}

fn root_in_leaf(leaf: &[u8], name: &str) -> Option<PageNumber> {
    const ROOT_AT: usize = 1 + 8 + 1;
    if leaf[0] != LEAF {
        return None;
    }
    let entries = entries_of(leaf)?;
    let ends = |list: usize, place: usize| {
        let at = LEAF_HEAD_BYTES + 4 * (list * entries + place);
        u32_at(leaf, at).map(|end| end as usize)
    };
    let mut key_start = LEAF_HEAD_BYTES + 2 * 4 * entries;
    let mut value_start = ends(0, entries.checked_sub(1)?)?;
    for place in 0..entries {
        let (key_end, value_end) = (ends(0, place)?, ends(1, place)?);
        let key = leaf.get(key_start..key_end)?;
        let value = leaf.get(value_start..value_end)?;
        if key == name.as_bytes() {
            let has_root = *value.get(ROOT_AT - 1)? == 1;
            return u64_at(value, ROOT_AT).filter(|_| has_root);
        }
        (key_start, value_start) = (key_end, value_end);
    }
    None
}

/// Entries of a leaf, or keys of a branch.
pub(super) fn entries_of(page: &[u8]) -> Option<usize> {
    let (bytes, _) = page.get(2..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*bytes).into())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}
