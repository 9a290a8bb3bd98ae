//! The index file: a copy of the index and of the history's links, written from time to time beside the database, so that
//! a start need not read every row.
//!
//! It is a cache. What it says is taken only if it can still be true of the checkpoint (see [`super::recovery`]), and its
//! live keys must add up to the checkpoint's rolling hash; in any doubt the rows are read, as if there were no such file.
//! It is written under a temporary name, a bite at a time, and gets its name when it is whole and on disk.
//!
//! It is the state at one revision R, that of a durable checkpoint:
//!
//! ```text
//! frame    kind u8 | 0 u8 * 3 | payload bytes u32 | crc32(number of the frame u64 | the 8 bytes before | payload) u32 | payload
//! header   "KELSNIDX" | format version u32 | R u64
//! entries  keys with their newest records, tombstones included, in key order:
//!          bytes shared with the key before, in this frame | bytes of the rest | rest | created | modified, main and sub |
//!          version | lease | record bytes * 2 + live
//! links    first main revision u64, then for each main revision from there on: number of its records, and for each the
//!          record of the same key before it: 0, or main revisions back + 1 and sub. Behind a gap the history begins anew
//! end      R u64 | entries u64 | first main revision of the history u64
//! ```
//!
//! One header frame, entries, links, one end frame. Integers are big-endian; those without a width are varints, seven bits
//! a byte, the lowest first.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::Fault;

pub(super) use reader::{Entry, Reader, Unfit};
pub(super) use writer::Writer;

const MAGIC: [u8; 8] = *b"KELSNIDX";

/// Version of the layout above. A file with another one is not read.
const FORMAT_VERSION: u32 = 1;

const FRAME_HEADER_BYTES: usize = 12;

/// Bytes of a frame, about. A reader holds one. In tests, a few entries.
const FRAME_BYTES: usize = if cfg!(test) { 48 } else { 256 * 1024 };

const HEADER: u8 = 1;
const ENTRIES: u8 = 2;
const LINKS: u8 = 3;
const END: u8 = 4;

/// Where the index file of the database at `database` is.
pub(super) fn path_beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".index");
    PathBuf::from(name)
}

/// Removes the index file of the database at `database`, if there is one: it is about to be another database's.
pub(super) fn remove(disk: &dyn Disk, database: &Path) -> Result<(), Fault> {
    let path = path_beside(database);
    if !disk.exists(&path) {
        return Ok(());
    }
    disk.remove(&path)
        .map_err(|source| Fault::io("remove", &path, source))
}

/// The checksum of a frame.
fn checksum(number: u64, head: [u8; 8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(&head);
    hasher.update(payload);
    hasher.finalize()
}
