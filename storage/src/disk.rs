//! The disk, as far as Kelson touches it: a small trait, so that tests can own every byte and every sync.
//!
//! What is assumed of a disk: a sync makes durable what was written to that file before; a directory sync makes
//! durable its creations, renames and removals; a 512-byte sector is written whole or not at all (a half-written one
//! is found by its checksum); a failed sync may have dropped what it should have written.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files and directories below some root. Paths are whole paths.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing; with `create`, makes an empty one when it is missing.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Names (not paths) of the files and directories in `directory`, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Renames within one file system, replacing `to`. Durable after `sync_directory`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after `sync_directory`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and its missing parents, mode 0700.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `directory` durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Whether something of that name is there.
    fn exists(&self, path: &Path) -> bool;
}

/// One open file. Methods take `&self`: the owner decides who writes.
pub trait DiskFile: Send + Sync + std::fmt::Debug + 'static {
    /// Fills `buffer` from `offset`; an end of file before that is an error of kind `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`, growing the file as needed.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts or grows (with zeros) to `length`.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes data and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Brings what has been written on its way to the device and waits until it is there, so that the next sync has little to
    /// do and other files' syncs need not wait behind it. Promises nothing: only a sync makes durable.
    fn write_back(&self) -> io::Result<()> {
        Ok(())
    }
    /// As [`DiskFile::write_back`] for these bytes, part after part, and leaves the device to others after each part for as
    /// long as it took, within reason.
    fn write_back_in_parts(&self, _parts: &[Range<u64>]) -> io::Result<()> {
        Ok(())
    }
    /// Gives the file system back what these bytes take; they read as zeros from then on, or as before after a crash without a
    /// sync. `Unsupported` where that cannot be done.
    fn make_hole(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The first bytes from `from` on that take space, as far as the file system can tell; none if there are none.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let length = self.length()?;
        Ok((from < length).then_some(from..length))
    }
    /// Takes an exclusive lock without waiting; `WouldBlock` when another process has it. Held until the file closes.
    fn try_lock(&self) -> io::Result<()>;
}

/// Where a file stands, for messages: the path a [`Disk`] was asked for.
pub type DiskPath = PathBuf;
