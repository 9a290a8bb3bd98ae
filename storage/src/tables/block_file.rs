//! [`BlockFile`]: the file under the engine, with a checksum on every block that leaves the disk.
//!
//! redb trusts the pages it reads: a flipped bit comes back as another value, loses rows or trips an assertion. So each
//! of its 4,096-byte blocks is stored with a CRC-32 over the block's number and content, written in one piece with it
//! and checked on every read. Damage becomes an error that names the byte, before the engine has seen it.
//!
//! ```text
//! 0        superblock, written once: magic "KELSONDB" | format version u32 | block bytes u32 | crc32 of these 16 | zeros
//! 4,096    redb's own header (320 bytes, inside one sector), with a crc32 of its first 60 bytes in bytes 60..64
//! 8,192    blocks 1, 2, ... of 4,100 bytes each: 4,096 of content | crc32(number u64 | content)
//! ```
//!
//! Integers are little-endian, as redb's are. The header is the one thing that is written in place. redb protects its
//! two commit slots (bytes 64..320) with checksums of their own and leaves bytes 32..64 unused; the 64 bytes in front,
//! which it does not protect, say which slot counts and how long the file is. A crash may leave an unsynced block with the content of one write
//! and the checksum of another; no durable root refers to such a block, so nothing reads it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::disk::DiskFile;
use crate::error::Fault;

const MAGIC: [u8; 8] = *b"KELSONDB";
/// Version of the layout above; a file with a higher one is refused.
const FORMAT_VERSION: u32 = 1;
/// Bytes of a block as the engine sees it: redb's page size.
const BLOCK_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;
/// Bytes of a block in the file.
const STORED_BYTES: usize = BLOCK_BYTES + CRC_BYTES;
const SUPERBLOCK_BYTES: u64 = 4096;
/// Where block 1 starts.
const BLOCKS_START: u64 = SUPERBLOCK_BYTES + BLOCK_BYTES as u64;
/// The part of redb's header that its own checksums do not cover, our crc included.
const HEADER_PREFIX_BYTES: usize = 64;
const HEADER_CRC_AT: usize = HEADER_PREFIX_BYTES - CRC_BYTES;

/// A file of checked blocks, as redb's storage.
///
/// The first failure is the last thing that happens to it: everything after it fails too, so that no write or sync is
/// ever repeated, and the failure is kept, because redb reports it as "previous I/O error" from then on.
#[derive(Debug)]
pub(super) struct BlockFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Bytes the engine may address: whole blocks, the header's included. 0 until the engine has initialised itself.
    length: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// The first failure of a file; [`Fault`] holds an `io::Error`, which cannot be cloned.
#[derive(Debug, Clone)]
enum Failure {
    Io {
        operation: &'static str,
        kind: io::ErrorKind,
        code: Option<i32>,
        text: String,
    },
    Damaged {
        offset: u64,
        what: &'static str,
    },
}

impl BlockFile {
    /// Starts a file: writes the superblock into an empty one. Durable with the engine's first sync.
    pub(super) fn create(file: Arc<dyn DiskFile>, path: &Path) -> Result<Self, Fault> {
        let mut superblock = vec![0; SUPERBLOCK_BYTES as usize];
        superblock[..8].copy_from_slice(&MAGIC);
        superblock[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        superblock[12..16].copy_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        let crc = crc32fast::hash(&superblock[..16]);
        superblock[16..20].copy_from_slice(&crc.to_le_bytes());
        file.set_length(0)
            .and_then(|()| file.write_all_at(&superblock, 0))
            .map_err(|error| Fault::io("write", path, error))?;
        Ok(Self::over(file, path, 0))
    }

    /// Opens a file that the engine has initialised, and checks its superblock.
    ///
    /// # Errors
    /// [`Fault::Unusable`] for a newer format, [`Fault::Damaged`] for anything else that is not such a file.
    pub(super) fn open(file: Arc<dyn DiskFile>, path: &Path) -> Result<Self, Fault> {
        let stored = file.length().map_err(|error| Fault::io("measure", path, error))?;
        if stored < BLOCKS_START {
            let what = "the file is too short to be a database";
            return Err(Fault::damaged(path, stored, what));
        }
        let mut superblock = [0; 20];
        file.read_exact_at(&mut superblock, 0)
            .map_err(|error| Fault::io("read", path, error))?;
        if superblock[..8] != MAGIC {
            return Err(Fault::damaged(path, 0, "not a database: wrong magic"));
        }
        if u32_at(&superblock, 16) != crc32fast::hash(&superblock[..16]) {
            return Err(Fault::damaged(path, 0, "superblock checksum mismatch"));
        }
        if u32_at(&superblock, 8) != FORMAT_VERSION || u32_at(&superblock, 12) != BLOCK_BYTES as u32 {
            return Err(Fault::Unusable {
                path: path.to_owned(),
                what: format!(
                    "file format {} is not the format {FORMAT_VERSION} of this version; start the version that wrote it",
                    u32_at(&superblock, 8)
                ),
            });
        }
        let blocks = 1 + (stored - BLOCKS_START) / STORED_BYTES as u64;
        let opened = Self::over(file, path, blocks * BLOCK_BYTES as u64);
        opened.check_length()?;
        Ok(opened)
    }

    /// Refuses a file that has been cut. redb makes a longer file durable before its header says so, and a shorter
    /// one after; but after a crash it takes whatever length it finds for the right one.
    fn check_length(&self) -> Result<(), Fault> {
        let mut header = [0; HEADER_PREFIX_BYTES];
        let read = self.read_header(0, &mut header);
        if let Some(fault) = self.failure() {
            return Err(fault);
        }
        read.map_err(|error| Fault::io("read", &self.path, error))?;
        let [header_pages, region_pages, full_regions, last_region_pages] =
            [16, 20, 24, 28].map(|at| u64::from(u32_at(&header, at)));
        let last = match last_region_pages {
            0 => 0,
            pages => header_pages + pages,
        };
        let blocks = 1 + full_regions * (header_pages + region_pages) + last;
        if blocks * BLOCK_BYTES as u64 <= self.length() {
            return Ok(());
        }
        let what = format!("the file has been cut: it had {blocks} blocks");
        Err(Fault::damaged(
            &self.path,
            stored_offset(self.length() / BLOCK_BYTES as u64),
            what,
        ))
    }

    fn over(file: Arc<dyn DiskFile>, path: &Path, length: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            length: AtomicU64::new(length),
            failure: Mutex::new(None),
        }
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the engine may address.
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Fails if something has failed before.
    fn check(&self) -> io::Result<()> {
        match &*self.failure.lock() {
            None => Ok(()),
            Some(_) => Err(io::Error::other("an earlier access to the file failed")),
        }
    }

    /// The first failure, as the fault that stops the member.
    pub(super) fn failure(&self) -> Option<Fault> {
        Some(match self.failure.lock().clone()? {
            Failure::Io {
                operation,
                kind,
                code,
                text,
            } => {
                let error = match code {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(kind, text),
                };
                Fault::io(operation, &self.path, error)
            }
            Failure::Damaged { offset, what } => Fault::damaged(&self.path, offset, what),
        })
    }

    /// Notes a failed system call and hands the error on.
    fn failed(&self, operation: &'static str, error: io::Error) -> io::Error {
        self.failure.lock().get_or_insert_with(|| Failure::Io {
            operation,
            kind: error.kind(),
            code: error.raw_os_error(),
            text: error.to_string(),
        });
        error
    }

    fn damaged(&self, offset: u64, what: &'static str) -> io::Error {
        self.failure
            .lock()
            .get_or_insert(Failure::Damaged { offset, what });
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    fn read_header(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut prefix = [0; HEADER_PREFIX_BYTES];
        self.file
            .read_exact_at(&mut prefix, SUPERBLOCK_BYTES)
            .map_err(|error| self.failed("read", error))?;
        if u32_at(&prefix, HEADER_CRC_AT) != crc32fast::hash(&prefix[..HEADER_CRC_AT]) {
            return Err(self.damaged(SUPERBLOCK_BYTES, "header checksum mismatch"));
        }
        self.file
            .read_exact_at(out, SUPERBLOCK_BYTES + offset)
            .map_err(|error| self.failed("read", error))
    }

    fn write_header(&self, data: &[u8]) -> io::Result<()> {
        let mut header = data.to_vec();
        let crc = crc32fast::hash(&header[..HEADER_CRC_AT]);
        header[HEADER_CRC_AT..HEADER_PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.file
            .write_all_at(&header, SUPERBLOCK_BYTES)
            .map_err(|error| self.failed("write", error))
    }

    fn read_blocks(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let start = stored_offset(first);
        let mut stored = vec![0; out.len() / BLOCK_BYTES * STORED_BYTES];
        self.file
            .read_exact_at(&mut stored, start)
            .map_err(|error| self.failed("read", error))?;
        let blocks = stored
            .chunks_exact(STORED_BYTES)
            .zip(out.chunks_exact_mut(BLOCK_BYTES));
        for (number, (stored, out)) in (first..).zip(blocks) {
            let (content, crc) = stored.split_at(BLOCK_BYTES);
            if u32_at(crc, 0) != block_crc(number, content) {
                return Err(self.damaged(stored_offset(number), "block checksum mismatch"));
            }
            out.copy_from_slice(content);
        }
        Ok(())
    }

    fn write_blocks(&self, first: u64, data: &[u8]) -> io::Result<()> {
        let mut stored = Vec::with_capacity(data.len() / BLOCK_BYTES * STORED_BYTES);
        for (number, content) in (first..).zip(data.chunks_exact(BLOCK_BYTES)) {
            stored.extend_from_slice(content);
            stored.extend_from_slice(&block_crc(number, content).to_le_bytes());
        }
        self.file
            .write_all_at(&stored, stored_offset(first))
            .map_err(|error| self.failed("write", error))
    }

    /// Whether `offset..offset + length` is whole blocks behind the header and inside the file.
    fn covers_blocks(&self, offset: u64, length: usize) -> bool {
        offset >= BLOCK_BYTES as u64
            && offset.is_multiple_of(BLOCK_BYTES as u64)
            && length.is_multiple_of(BLOCK_BYTES)
            && offset + length as u64 <= self.length()
    }
}

/// What redb owns of a [`BlockFile`]; [`super::Tables`] keeps the other handle, to learn what went wrong.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<BlockFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.check()?;
        let end = offset + out.len() as u64;
        if end <= BLOCK_BYTES as u64 {
            self.0.read_header(offset, out)
        } else if self.0.covers_blocks(offset, out.len()) {
            self.0.read_blocks(offset / BLOCK_BYTES as u64, out)
        } else {
            // A page number from a sound block that points behind the end: the file has been cut.
            Err(self
                .0
                .damaged(stored_offset(offset / BLOCK_BYTES as u64), "a page is missing"))
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.check()?;
        let blocks = len.div_ceil(BLOCK_BYTES as u64);
        self.0
            .file
            .set_length(stored_offset(blocks.max(1)))
            .map_err(|error| self.0.failed("resize", error))?;
        self.0.length.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.check()?;
        self.0.file.sync().map_err(|error| self.0.failed("sync", error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.check()?;
        if offset == 0 && (HEADER_PREFIX_BYTES..=BLOCK_BYTES).contains(&data.len()) {
            self.0.write_header(data)
        } else if self.0.covers_blocks(offset, data.len()) {
            self.0.write_blocks(offset / BLOCK_BYTES as u64, data)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("write of {} bytes at {offset} is not whole blocks", data.len()),
            ))
        }
    }
}

/// Where block `number` (from 1) is in the file; for the number after the last one, the file's length.
fn stored_offset(number: u64) -> u64 {
    BLOCKS_START + number.saturating_sub(1) * STORED_BYTES as u64
}

fn block_crc(number: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into().expect("a slice of 4 bytes");
    u32::from_le_bytes(field)
}
