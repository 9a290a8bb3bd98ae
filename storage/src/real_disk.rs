//! The disk of the operating system behind [`Disk`]: positioned reads and writes, `fdatasync`, `flock`.
//!
//! Files are made with mode 0600 and directories with 0700, because they hold every key and value of the cluster.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{Disk, DiskFile};

/// Mode of a new directory: its owner only.
const DIRECTORY_MODE: u32 = 0o700;
/// Mode of a new file: its owner only.
const FILE_MODE: u32 = 0o600;

/// How long all pauses between the parts of a write-back take at most.
const PAUSES_MAX: Duration = Duration::from_millis(250);

/// The disk of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk {
    syncs: bool,
}

impl RealDisk {
    /// The disk as it should be used: a sync waits for the device.
    pub const fn new() -> Self {
        Self { syncs: true }
    }

    /// A disk whose syncs do nothing, for `--unsafe-no-fsync`: a power loss or a crash of the kernel can lose
    /// acknowledged writes, and what is left may not start.
    pub const fn without_sync() -> Self {
        Self { syncs: false }
    }
}

impl Default for RealDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(RealFile {
            file,
            syncs: self.syncs,
        }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|ancestor| !names_something(ancestor))
            .collect();
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)?;
        // Each new name is an entry in its parent, which is durable only after the parent's sync.
        for made in missing {
            if let Some(parent) = made.parent() {
                self.sync_directory(if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                })?;
            }
        }
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        File::open(directory)?.sync_all()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// Whether a path is there already; the empty path stands for the working directory.
fn names_something(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

/// An open file of the operating system.
#[derive(Debug)]
struct RealFile {
    file: File,
    syncs: bool,
}

impl DiskFile for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn write_back(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        write_back(&self.file, 0..0)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "how long the device takes is known here alone, and decides nothing but when it is asked again"
    )]
    fn write_back_in_parts(&self, parts: &[Range<u64>]) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        let mut pauses_left = PAUSES_MAX;
        for part in parts {
            let began = Instant::now();
            write_back(&self.file, part.clone())?;
            let pause = began.elapsed().min(pauses_left);
            pauses_left -= pause;
            std::thread::sleep(pause);
        }
        Ok(())
    }

    fn make_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        make_hole(&self.file, offset, bytes)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        next_data(&self.file, from)
    }

    fn try_lock(&self) -> io::Result<()> {
        lock_exclusively(&self.file)
    }
}

#[cfg(target_os = "linux")]
fn make_hole(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (offset, bytes) = (
        offset.try_into().map_err(too_large)?,
        bytes.try_into().map_err(too_large)?,
    );
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call touches no memory of ours.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        // Kernels and file systems that cannot do it say so in several ways.
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM) => {
            io::ErrorKind::Unsupported.into()
        }
        _ => error,
    })
}

#[cfg(not(target_os = "linux"))]
fn make_hole(_file: &File, _offset: u64, _bytes: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// As [`DiskFile::next_data`]. Moves the place in the file that reads without an offset begin at, of which there are none.
#[cfg(target_os = "linux")]
fn next_data(file: &File, from: u64) -> io::Result<Option<Range<u64>>> {
    let seek = |from: u64, whence| {
        let from = libc::off64_t::try_from(from).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the descriptor is open for as long as `file` is borrowed; the call touches no memory of ours.
        let place = unsafe { libc::lseek64(file.as_raw_fd(), from, whence) };
        u64::try_from(place).map_err(|_| io::Error::last_os_error())
    };
    let data = seek(from, libc::SEEK_DATA).and_then(|start| Ok(start..seek(start, libc::SEEK_HOLE)?));
    match data {
        Ok(data) => Ok(Some(data)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENXIO) => Ok(None),
            // File systems that cannot tell.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => all_from(file, from),
            _ => Err(error),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn next_data(file: &File, from: u64) -> io::Result<Option<Range<u64>>> {
    all_from(file, from)
}

/// All bytes from `from` on, if there are any.
fn all_from(file: &File, from: u64) -> io::Result<Option<Range<u64>>> {
    let length = file.metadata()?.len();
    Ok((from < length).then_some(from..length))
}

/// Writes the file's dirty pages among these bytes to the device, without the flush of its cache that a sync ends with;
/// `0..0` is all of them.
#[cfg(target_os = "linux")]
fn write_back(file: &File, bytes: Range<u64>) -> io::Result<()> {
    let offset = |at: u64| libc::off64_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput);
    let (start, length) = (offset(bytes.start)?, offset(bytes.end - bytes.start)?);
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call touches no memory of ours.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, all) };
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // What the next sync might not say again.
        Some(libc::EIO | libc::ENOSPC | libc::EDQUOT) if result != 0 => Err(error),
        // File systems that cannot do it leave all to the sync.
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn write_back(_file: &File, _bytes: Range<u64>) -> io::Result<()> {
    Ok(())
}

/// Takes the lock of an open file without waiting; the system gives it back however the process ends.
pub(crate) fn lock_exclusively(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; flock touches no memory of ours.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_to_the_device_in_parts_is_still_read() {
        let scratch = tempfile::tempdir().unwrap();
        let file = RealDisk::new().open(&scratch.path().join("file"), true).unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        file.write_back_in_parts(&[0..4096, 4096..8192]).unwrap();
        file.write_all_at(&[8; 4096], 4096).unwrap();
        file.sync().unwrap();
        let mut bytes = [0; 10_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..4096].iter().all(|&byte| byte == 7));
        assert!(bytes[4096..8192].iter().all(|&byte| byte == 8));
        // No place that a file can have.
        let error = file
            .write_back_in_parts(&[0..1, u64::MAX - 1..u64::MAX])
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_written_is_read_and_files_keep_their_modes() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        let directory = scratch.path().join("a/b");
        disk.create_directory(&directory).unwrap();
        let path = directory.join("file");
        assert!(!disk.exists(&path));
        assert_eq!(
            disk.open(&path, false).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );

        let file = disk.open(&path, true).unwrap();
        file.write_all_at(b"after a gap", 10).unwrap();
        file.sync().unwrap();
        disk.sync_directory(&directory).unwrap();
        assert_eq!(file.length().unwrap(), 21);
        let mut bytes = [1; 12];
        file.read_exact_at(&mut bytes, 8).unwrap();
        assert_eq!(&bytes, b"\0\0after a ga");
        let past = file.read_exact_at(&mut bytes, 10).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);

        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&directory)), (0o600, 0o700));
        disk.rename(&path, &directory.join("renamed")).unwrap();
        assert_eq!(disk.list(&directory).unwrap(), ["renamed"]);
        disk.remove(&directory.join("renamed")).unwrap();
        assert!(disk.list(&directory).unwrap().is_empty());
    }

    #[test]
    fn a_hole_reads_as_zeros_and_takes_no_space() {
        use std::os::unix::fs::MetadataExt;
        const MIB: u64 = 1 << 20;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let file = RealDisk::new().open(&path, true).unwrap();
        file.write_all_at(&vec![7; 4 * MIB as usize], 0).unwrap();
        file.sync().unwrap();
        let taken = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let before = taken();
        match file.make_hole(MIB, 2 * MIB) {
            Ok(()) => {}
            // Some file systems cannot.
            Err(error) => return assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
        file.sync().unwrap();
        assert!(taken() + 2 * MIB <= before, "{before} bytes, then {}", taken());
        assert_eq!(file.length().unwrap(), 4 * MIB);
        for (offset, byte) in [(0, 7), (MIB - 1, 7), (MIB, 0), (3 * MIB - 1, 0), (3 * MIB, 7)] {
            let mut read = [1];
            file.read_exact_at(&mut read, offset).unwrap();
            assert_eq!(read, [byte], "at {offset}");
        }
        let data = [0, MIB, 3 * MIB, 4 * MIB].map(|from| file.next_data(from).unwrap());
        let end = Some(3 * MIB..4 * MIB);
        assert_eq!(data, [Some(0..MIB), end.clone(), end, None]);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_file_closes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        let first = RealDisk::new().open(&path, true).unwrap();
        first.try_lock().unwrap();
        let second = RealDisk::new().open(&path, true).unwrap();
        assert_eq!(second.try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        second.try_lock().unwrap();
    }
}
