//! [`BlockFile`]: the file under the engine, with a checksum on every block that leaves the disk.
//!
//! redb trusts the pages it reads: a flipped bit comes back as another value, loses rows or trips an assertion. So for
//! each of its 4,096-byte blocks a CRC-32 over the block's number and content is kept, and checked on every read. Damage
//! becomes an error that names the byte, before the engine has seen it.
//!
//! ```text
//! 0        superblock, written once: magic "KELSONDB" | format version u32 | block bytes u32 | crc32 of these 16 | zeros
//! 4,096    redb's own header (320 bytes, inside one sector), with a crc32 of its first 60 bytes in bytes 60..64
//! 8,192    groups: a page with the crc32(number u64 | content) of 1,024 blocks, then these blocks (numbers from 1)
//! ```
//!
//! Integers are little-endian, as redb's are. Blocks lie at whole pages, so that writing one neither reads nor clears
//! anything else of the system's cache. Checksums are kept in memory, a thousandth of the file, and go out before each
//! sync; a block that is written without one after it may be left with the checksum of what was there before. So may
//! one whose sync a crash cut short. No durable root refers to such a block, so nothing reads it; those that one refers
//! to are not written again, so that their checksums are the same in each version of a page of them.
//!
//! The header is the one thing that is written in place. redb protects its two commit slots (bytes 64..320) with
//! checksums of their own and leaves bytes 32..64 unused; the 64 bytes in front, which it does not protect, say which
//! slot counts and how long the file is.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::StorageBackend;

use super::block_set::BlockSet;
use super::checksums::{self, Checksums, GROUP_BLOCKS, Group};
use crate::disk::DiskFile;
use crate::error::Fault;
use crate::mutant;

const MAGIC: [u8; 8] = *b"KELSONDB";
/// Version of the layout above; a file of another one is refused.
const FORMAT_VERSION: u32 = 2;
/// Bytes of a block: redb's page size.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Bytes of redb's header.
pub(super) const HEADER_BYTES: usize = 320;
const CRC_BYTES: usize = 4;
const SUPERBLOCK_BYTES: u64 = 4096;
/// Where the first group starts.
const GROUPS_START: u64 = SUPERBLOCK_BYTES + BLOCK_BYTES as u64;
const GROUP_BYTES: u64 = (checksums::PAGE_BYTES + GROUP_BLOCKS * BLOCK_BYTES) as u64;
/// The part of redb's header that its own checksums do not cover, our crc included.
const HEADER_PREFIX_BYTES: usize = 64;
const HEADER_CRC_AT: usize = HEADER_PREFIX_BYTES - CRC_BYTES;
/// Scattered blocks come by one call if no more than so many that nobody asked for lie between two of them.
const SKIPPED_BLOCKS_MAX: u64 = 3;
/// Blocks that come by one call at most.
const RUN_BLOCKS_MAX: u64 = 32;
/// A sync of more blocks than this sends so many at a time before it, see [`DiskFile::write_back_in_parts`]: a device takes
/// some milliseconds for them if they are scattered.
const PART_BLOCKS: u64 = 16;
/// More parts than so many cost more than they bring: they become larger.
const PARTS_MAX: u64 = 64;
/// A sync of more blocks than this has no parts. So many are not scattered, and what writes so much waits for the device anyway.
const PARTED_BLOCKS_MAX: u64 = 4096;

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
    checksums: Checksums,
    /// None if the file system cannot make holes.
    space: Mutex<Option<Space>>,
    failure: Mutex<Option<Failure>>,
}

/// Which blocks can become holes.
#[derive(Debug, Default)]
struct Space {
    /// Those that take no space.
    holes: BlockSet,
    /// Whether those are in it that there were when the file was opened.
    holes_are_found: bool,
    /// Those written since the last sync.
    unsynced: BlockSet,
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
        if stored < GROUPS_START {
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
        let opened = Self::over(file, path, blocks_of(stored) * BLOCK_BYTES as u64);
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
            file_length(self.length() / BLOCK_BYTES as u64),
            what,
        ))
    }

    fn over(file: Arc<dyn DiskFile>, path: &Path, length: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            length: AtomicU64::new(length),
            checksums: Checksums::default(),
            space: Mutex::new(Some(Space::default())),
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
        let all = first..first + (out.len() / BLOCK_BYTES) as u64;
        self.read_run(first, std::slice::from_ref(&all), out)
    }

    /// redb's header, whose commit slots only redb can check.
    pub(super) fn read_commits(&self, header: &mut [u8; HEADER_BYTES]) -> Result<(), Fault> {
        let read = self.check().and_then(|()| self.read_header(0, header));
        read.map_err(|error| self.fault(error))
    }

    /// The content of these blocks; none if there are not so many.
    pub(super) fn read_range(&self, blocks: Range<u64>) -> Result<Option<Vec<u8>>, Fault> {
        let mut content = None;
        self.read_scattered(&[blocks], &mut Vec::new(), |_, read| {
            content = Some(read.to_vec())
        })?;
        Ok(content)
    }

    /// Hands each of `wanted`, which must ascend, to `visit` with its place among them; none that is not in the file.
    /// What lies close together comes by one call, by way of `buffer`.
    pub(super) fn read_scattered(
        &self,
        wanted: &[Range<u64>],
        buffer: &mut Vec<u8>,
        mut visit: impl FnMut(usize, &[u8]),
    ) -> Result<(), Fault> {
        self.check().map_err(|error| self.fault(error))?;
        let mut at = 0;
        while let Some(first) = wanted.get(at) {
            let mut run = first.clone();
            let mut next = at + 1;
            while let Some(blocks) = wanted.get(next)
                && blocks.start >= run.end
                && blocks.start - run.end <= SKIPPED_BLOCKS_MAX
                && blocks.end - run.start <= RUN_BLOCKS_MAX
                && group_of(blocks.end - 1) == group_of(run.start)
            {
                run.end = blocks.end;
                next += 1;
            }
            let length =
                usize::try_from(run.end - run.start).map_or(usize::MAX, |blocks| blocks * BLOCK_BYTES);
            if self.covers_blocks(run.start * BLOCK_BYTES as u64, length) {
                buffer.resize(buffer.len().max(length), 0);
                self.read_run(run.start, &wanted[at..next], &mut buffer[..length])
                    .map_err(|error| self.fault(error))?;
                for (place, blocks) in (at..).zip(&wanted[at..next]) {
                    visit(place, &buffer[bytes_within(run.start, blocks)]);
                }
            }
            at = next;
        }
        Ok(())
    }

    /// Fills `out` with the blocks from `first` on, and checks those of them that are `wanted`.
    fn read_run(&self, first: u64, wanted: &[Range<u64>], out: &mut [u8]) -> io::Result<()> {
        for (number, run) in runs(first, out.len()) {
            self.file
                .read_exact_at(&mut out[run], block_offset(number))
                .map_err(|error| self.failed("read", error))?;
        }
        for blocks in wanted {
            let content = &out[bytes_within(first, blocks)];
            for (number, block) in blocks.clone().zip(content.chunks_exact(BLOCK_BYTES)) {
                if self.group(number)?.get(place_in_group(number)) != block_crc(number, block) {
                    return Err(self.damaged(block_offset(number), "block checksum mismatch"));
                }
            }
        }
        Ok(())
    }

    /// Whether the file system takes blocks back.
    pub(super) fn makes_holes(&self) -> bool {
        self.space.lock().is_some()
    }

    /// Takes those out of `blocks` that are holes or have been written since the last sync. Belongs to the one who writes.
    pub(super) fn keep_idle(&self, blocks: &mut BlockSet) -> Result<(), Fault> {
        if let Some(space) = &mut *self.space.lock() {
            if !space.holes_are_found {
                let found = self.find_holes();
                space.holes.insert_all(&found.map_err(|error| self.fault(error))?);
                space.holes_are_found = true;
            }
            blocks.remove_all(&space.holes);
            // M46: what was written after the durable commit is taken for free.
            if !mutant!("M46") {
                blocks.remove_all(&space.unsynced);
            }
        }
        Ok(())
    }

    /// The blocks that take no space, by the file system.
    fn find_holes(&self) -> io::Result<BlockSet> {
        let mut holes = BlockSet::default();
        holes.insert(1..self.length() / BLOCK_BYTES as u64);
        let mut from = GROUPS_START;
        while let Some(data) = self
            .file
            .next_data(from)
            .map_err(|error| self.failed("look for holes in", error))?
        {
            holes.remove(blocks_touched(&data));
            from = data.end;
        }
        Ok(holes)
    }

    /// Gives these blocks back to the file system until they are written again. Nothing may refer to them. False if the
    /// file system cannot do it, now or at all.
    pub(super) fn make_hole(&self, blocks: Range<u64>) -> Result<bool, Fault> {
        self.check().map_err(|error| self.fault(error))?;
        let bytes = (blocks.end - blocks.start) as usize * BLOCK_BYTES;
        for (number, run) in runs(blocks.start, bytes) {
            let Err(error) = self.file.make_hole(block_offset(number), run.len() as u64) else {
                continue;
            };
            return match error.kind() {
                // To note what is free takes space, too.
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Interrupted => {
                    Ok(false)
                }
                io::ErrorKind::Unsupported => {
                    *self.space.lock() = None;
                    Ok(false)
                }
                _ => {
                    let error = self.failed("make a hole in", error);
                    Err(self.fault(error))
                }
            };
        }
        if let Some(space) = &mut *self.space.lock() {
            space.holes.insert(blocks);
        }
        Ok(true)
    }

    fn fault(&self, error: io::Error) -> Fault {
        let first = self.failure();
        first.unwrap_or_else(|| Fault::io("read", &self.path, error))
    }

    fn write_blocks(&self, first: u64, data: &[u8]) -> io::Result<()> {
        if let Some(space) = &mut *self.space.lock() {
            let blocks = first..first + (data.len() / BLOCK_BYTES) as u64;
            space.holes.remove(blocks.clone());
            space.unsynced.insert(blocks);
        }
        for (number, run) in runs(first, data.len()) {
            let content = &data[run];
            let group = self.group(number)?;
            self.file
                .write_all_at(content, block_offset(number))
                .map_err(|error| self.failed("write", error))?;
            for (number, block) in (number..).zip(content.chunks_exact(BLOCK_BYTES)) {
                group.set(place_in_group(number), block_crc(number, block));
            }
            self.checksums.changed(group_of(number));
        }
        Ok(())
    }

    /// The checksums of the group of block `number`.
    fn group(&self, number: u64) -> io::Result<Arc<Group>> {
        let group = group_of(number);
        if let Some(group) = self.checksums.get(group) {
            return Ok(group);
        }
        let mut page = [0; checksums::PAGE_BYTES];
        self.file
            .read_exact_at(&mut page, group_offset(group))
            .map_err(|error| self.failed("read", error))?;
        Ok(self.checksums.load(group, &page))
    }

    fn resize(&self, length: u64) -> io::Result<()> {
        let blocks = length.div_ceil(BLOCK_BYTES as u64);
        self.file
            .set_length(file_length(blocks))
            .map_err(|error| self.failed("resize", error))?;
        self.checksums.cut(groups_for(blocks));
        let before = self.length.swap(length, Ordering::AcqRel) / BLOCK_BYTES as u64;
        if let Some(space) = &mut *self.space.lock() {
            // What a file grows by takes no space before it is written.
            space.holes.insert(before.min(blocks)..blocks);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        for (group, page) in self.checksums.take_changed() {
            self.file
                .write_all_at(&page, group_offset(group))
                .map_err(|error| self.failed("write", error))?;
        }
        let parts = match &*self.space.lock() {
            Some(space) => parts(&space.unsynced),
            // What has been written is not kept either: all of it is left to the sync.
            None => Vec::new(),
        };
        self.file
            .write_back_in_parts(&parts)
            .and_then(|()| self.file.sync())
            .map_err(|error| self.failed("sync", error))?;
        if let Some(space) = &mut *self.space.lock() {
            space.unsynced = BlockSet::default();
        }
        Ok(())
    }

    /// Whether `offset..offset + length` is whole blocks behind the header and inside the file.
    fn covers_blocks(&self, offset: u64, length: usize) -> bool {
        offset >= BLOCK_BYTES as u64
            && offset.is_multiple_of(BLOCK_BYTES as u64)
            && length.is_multiple_of(BLOCK_BYTES)
            && offset + length as u64 <= self.length()
    }
}

/// The file in parts with as many of `blocks` in each, at least [`PART_BLOCKS`], as far as they go; what is left of them makes
/// no part.
fn parts(blocks: &BlockSet) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let all = blocks.len();
    if all > PARTED_BLOCKS_MAX {
        return parts;
    }
    let blocks_each = PART_BLOCKS.max(all.div_ceil(PARTS_MAX));
    let (mut from, mut wanting) = (0, blocks_each);
    for run in blocks.runs() {
        let mut next = run.start;
        while next < run.end {
            let taken = wanting.min(run.end - next);
            next += taken;
            wanting -= taken;
            if wanting == 0 {
                let end = block_offset(next - 1) + BLOCK_BYTES as u64;
                parts.push(from..end);
                (from, wanting) = (end, blocks_each);
            }
        }
    }
    parts
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
                .damaged(block_offset(offset / BLOCK_BYTES as u64), "a page is missing"))
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.check()?;
        self.0.resize(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.check()?;
        self.0.sync()
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

/// The group of block `number`.
fn group_of(number: u64) -> usize {
    usize::try_from(number.saturating_sub(1) / GROUP_BLOCKS as u64).expect("as many pages fit into memory")
}

/// Which one of its group block `number` is.
fn place_in_group(number: u64) -> usize {
    (number.saturating_sub(1) % GROUP_BLOCKS as u64) as usize
}

/// Where the checksums of a group are.
fn group_offset(group: usize) -> u64 {
    GROUPS_START + group as u64 * GROUP_BYTES
}

/// Where block `number` (from 1) is.
fn block_offset(number: u64) -> u64 {
    let before = checksums::PAGE_BYTES + place_in_group(number) * BLOCK_BYTES;
    group_offset(group_of(number)) + before as u64
}

/// Length of a file of so many blocks, the header's included.
fn file_length(blocks: u64) -> u64 {
    match blocks {
        0 | 1 => GROUPS_START,
        blocks => block_offset(blocks - 1) + BLOCK_BYTES as u64,
    }
}

/// How many blocks a file of this length has, the header's included.
fn blocks_of(file_length: u64) -> u64 {
    let groups = file_length.saturating_sub(GROUPS_START);
    let rest = (groups % GROUP_BYTES).saturating_sub(checksums::PAGE_BYTES as u64);
    1 + groups / GROUP_BYTES * GROUP_BLOCKS as u64 + rest / BLOCK_BYTES as u64
}

/// The blocks that have some of these bytes of the file.
fn blocks_touched(bytes: &Range<u64>) -> Range<u64> {
    let (first, last) = (blocks_of(bytes.start), blocks_of(bytes.end));
    first..last + u64::from(block_offset(last) < bytes.end)
}

/// How many groups so many blocks take, the header's included.
fn groups_for(blocks: u64) -> usize {
    match blocks {
        0 | 1 => 0,
        blocks => group_of(blocks - 1) + 1,
    }
}

/// Cuts `bytes` of blocks from `first` on where their groups end: the number of each part's first block, and its bytes.
fn runs(first: u64, bytes: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let number = first + (at / BLOCK_BYTES) as u64;
        let in_group = (GROUP_BLOCKS - place_in_group(number)) * BLOCK_BYTES;
        let run = at..bytes.min(at + in_group);
        at = run.end;
        (!run.is_empty()).then_some((number, run))
    })
}

/// Where `blocks` are in what was read from block `first` on.
fn bytes_within(first: u64, blocks: &Range<u64>) -> Range<usize> {
    let at = |number: u64| (number - first) as usize * BLOCK_BYTES;
    at(blocks.start)..at(blocks.end)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::testing::FaultyDisk;

    #[test]
    fn blocks_and_checksums_share_no_byte_and_leave_no_gap() {
        let mut next = GROUPS_START;
        for number in 1..=3 * GROUP_BLOCKS as u64 {
            if place_in_group(number) == 0 {
                assert_eq!(group_offset(group_of(number)), next);
                next += checksums::PAGE_BYTES as u64;
            }
            assert_eq!(block_offset(number), next);
            next += BLOCK_BYTES as u64;
            assert_eq!(file_length(number + 1), next);
            assert_eq!(groups_for(number + 1), group_of(number) + 1);
            // A cut block does not count.
            assert_eq!(blocks_of(next), number + 1);
            assert_eq!(blocks_of(next - 1), number);
        }
        assert_eq!(blocks_of(GROUPS_START), 1);
        assert_eq!(groups_for(1), 0);
    }

    #[test]
    fn runs_end_where_groups_do() {
        let last = GROUP_BLOCKS as u64;
        let page = BLOCK_BYTES;
        let of = |first, blocks: usize| runs(first, blocks * page).collect::<Vec<_>>();
        assert_eq!(of(1, 2), [(1, 0..2 * page)]);
        assert_eq!(of(last, 1), [(last, 0..page)]);
        assert_eq!(of(last, 3), [(last, 0..page), (last + 1, page..3 * page)]);
        assert_eq!(of(1, 2 * GROUP_BLOCKS).len(), 2);
        assert_eq!(of(1, 0), []);
    }

    #[test]
    fn parts_follow_each_other_and_have_as_many_blocks_each() {
        let mut blocks = BlockSet::default();
        for number in 1..PART_BLOCKS {
            blocks.insert(number * 40..number * 40 + 1);
        }
        assert_eq!(parts(&blocks), [], "the sync alone will do");
        blocks.insert(5000..5000 + 2 * PART_BLOCKS + 5);
        let in_each = |blocks: &BlockSet| {
            let mut next = 0;
            let count = |part: Range<u64>| {
                assert_eq!(part.start, next);
                next = part.end;
                let inside = |number: &u64| part.contains(&block_offset(*number));
                blocks.runs().flatten().filter(inside).count() as u64
            };
            parts(blocks).into_iter().map(count).collect::<Vec<u64>>()
        };
        assert_eq!(in_each(&blocks), [PART_BLOCKS; 3]);
        blocks.insert(10_000..10_000 + 2 * PART_BLOCKS * PARTS_MAX - blocks.len());
        assert_eq!(in_each(&blocks), [2 * PART_BLOCKS; PARTS_MAX as usize]);
        blocks.insert(20_000..20_000 + PARTED_BLOCKS_MAX);
        assert_eq!(in_each(&blocks), []);
    }

    /// redb frees pages once more when a commit is durable, and writes that down in pages that are free in that commit.
    #[test]
    fn what_was_written_after_the_sync_is_not_idle_and_neither_are_holes() {
        let disk = FaultyDisk::new();
        let path = Path::new("/d/db");
        disk.create_directory(Path::new("/d")).unwrap();
        let file = BlockFile::create(disk.open(path, true).unwrap(), path).unwrap();
        file.resize(100 * BLOCK_BYTES as u64).unwrap();
        let idle = || {
            let mut blocks = BlockSet::default();
            blocks.insert(10..20);
            file.keep_idle(&mut blocks).unwrap();
            blocks.runs().flatten().collect::<Vec<_>>()
        };
        assert_eq!(idle(), [], "never written");
        let write = |first| file.write_blocks(first, &[7; 2 * BLOCK_BYTES]).unwrap();
        file.write_blocks(10, &[7; 10 * BLOCK_BYTES]).unwrap();
        file.sync().unwrap();
        write(11);
        assert_eq!(idle(), [10, 13, 14, 15, 16, 17, 18, 19]);
        file.sync().unwrap();
        write(18);
        assert_eq!(idle(), [10, 11, 12, 13, 14, 15, 16, 17]);
        assert!(file.make_hole(12..15).unwrap());
        assert_eq!(idle(), [10, 11, 15, 16, 17]);
        // Filled again.
        write(13);
        file.sync().unwrap();
        assert_eq!(idle(), [10, 11, 13, 14, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn holes_are_found_when_a_file_is_opened() {
        let disk = FaultyDisk::new();
        let path = Path::new("/d/db");
        disk.create_directory(Path::new("/d")).unwrap();
        let file = BlockFile::create(disk.open(path, true).unwrap(), path).unwrap();
        // The last blocks of a group and the first of the next one, between which there are checksums.
        let end = GROUP_BLOCKS as u64 + 5;
        file.resize((end + 10) * BLOCK_BYTES as u64).unwrap();
        let last = end - 10;
        file.write_blocks(last, &[7; 10 * BLOCK_BYTES]).unwrap();
        file.sync().unwrap();
        assert!(file.make_hole(last + 7..last + 9).unwrap());
        let idle = |file: &BlockFile| {
            let mut blocks = BlockSet::default();
            blocks.insert(1..end + 10);
            file.keep_idle(&mut blocks).unwrap();
            blocks.runs().collect::<Vec<_>>()
        };
        let expected = [last..last + 7, last + 9..end];
        assert_eq!(idle(&file), expected);
        drop(file);
        let file = BlockFile::over(
            disk.open(path, false).unwrap(),
            path,
            (end + 10) * BLOCK_BYTES as u64,
        );
        assert_eq!(idle(&file), expected);
    }

    #[test]
    fn the_blocks_that_bytes_touch_are_found() {
        let at = |number: u64| block_offset(number);
        assert_eq!(blocks_touched(&(at(5)..at(7))), 5..7);
        assert_eq!(blocks_touched(&(at(5) + 1..at(7) + 1)), 5..8);
        let first = GROUP_BLOCKS as u64 + 1;
        let checksums = at(first) - 1;
        assert_eq!(blocks_touched(&(checksums - 1..checksums)), first..first);
        assert_eq!(blocks_touched(&(checksums..at(first) + 1)), first..first + 1);
        assert_eq!(blocks_touched(&(at(first - 1)..checksums)), first - 1..first);
    }

    #[test]
    fn blocks_of_two_groups_are_read_as_written_and_found_when_damaged() {
        let disk = FaultyDisk::new();
        let path = Path::new("/d/db");
        disk.create_directory(Path::new("/d")).unwrap();
        let stored = disk.open(path, true).unwrap();
        let file = BlockFile::create(stored.clone(), path).unwrap();
        let blocks = GROUP_BLOCKS as u64 + 10;
        file.resize(blocks * BLOCK_BYTES as u64).unwrap();
        let data: Vec<u8> = (0..4 * BLOCK_BYTES).map(|at| (at / 7) as u8).collect();
        let first = GROUP_BLOCKS as u64 - 1;
        file.write_blocks(first, &data).unwrap();
        file.sync().unwrap();

        // Another one, that has the checksums from the file alone.
        let again = BlockFile::over(stored.clone(), path, file.length());
        let mut read = vec![0; data.len()];
        again.read_blocks(first, &mut read).unwrap();
        assert_eq!(read, data);
        for damaged in [block_offset(first + 2) + 9, group_offset(1) + 5] {
            let mut byte = [0];
            stored.read_exact_at(&mut byte, damaged).unwrap();
            stored.write_all_at(&[byte[0] ^ 4], damaged).unwrap();
            let after = BlockFile::over(stored.clone(), path, file.length());
            after.read_blocks(first, &mut read[..2 * BLOCK_BYTES]).unwrap();
            after.read_blocks(first, &mut read).unwrap_err();
            assert!(matches!(after.failure(), Some(Fault::Damaged { .. })));
            stored.write_all_at(&byte, damaged).unwrap();
        }
    }
}
