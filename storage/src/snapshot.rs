//! The snapshot image: a whole checkpoint as a stream of frames, for a member that is too far behind the log, and for
//! backups. [`ImageWriter`] makes it, [`ImageReader`] builds a new database file from it, [`install`] puts that in place.
//!
//! ```text
//! Frame:  number u32, from 0 | crc32 u32 | part of the stream, so that a frame has at most SNAPSHOT_FRAME_BYTES
//! Stream: magic "KELSIMG\n" | version u32 | records
//! Record: kind u8 | length u32 | body
//!   1 state  the record of the `meta` table; the first one
//!   2 lease  id i64 | TTL i64; all leases, ascending
//!   3 row    main u64 | sub u32 | value as in the `rev` table; all rows, ascending
//!   4 end    leases u64 | rows u64 | bytes of the stream in front of this record u64; the last one
//! ```
//!
//! Integers are big-endian. The crc of a frame covers its number and everything in the stream so far, so that a frame
//! that is flipped, missing, repeated or from another image fails at once, and nothing is parsed before it is checked.
//! A stream without its end, or with anything behind it, is no image. Neither side holds more than a few frames and the
//! largest row.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use crate::tables::{install, remove_leftovers, temporary_beside};
pub use reader::ImageReader;
pub use writer::ImageWriter;

const MAGIC: [u8; 8] = *b"KELSIMG\n";
/// Version of the stream. The state record inside carries the version of rows and records.
const FORMAT_VERSION: u32 = 1;
/// Bytes in front of the first record.
const STREAM_HEADER_BYTES: usize = MAGIC.len() + 4;
/// Bytes of a frame in front of its part of the stream.
const FRAME_HEADER_BYTES: usize = 8;
/// Bytes of a record in front of its body.
const RECORD_HEADER_BYTES: usize = 5;
/// Most bytes of a record's body; a longer one is no image of ours. Far above any `--max-request-bytes` in use.
const RECORD_BYTES_MAX: usize = 256 * 1024 * 1024;

const STATE: u8 = 1;
const LEASE: u8 = 2;
const ROW: u8 = 3;
const END: u8 = 4;

/// The running checksum after `part` as frame `number`, given the one before.
fn advance(before: u32, number: u32, part: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&number.to_be_bytes());
    hasher.update(part);
    hasher.finalize()
}
