//! [`ReadOnlyDisk`]: the disk of the operating system with every write kept in memory, for tools that look at the files
//! of a member that does not run.
//!
//! Recovery writes: it cuts torn tails, begins segments, finishes commits. Over this disk it does all that, so that a
//! tool sees what a start would see and refuses what a start would refuse, while no byte, name or length on the real
//! disk changes: files are opened for reading only. Zeros take no memory, so a spare segment costs nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::real_disk::{RealDisk, lock_exclusively};

/// Bytes that are kept or not kept together.
const PAGE_BYTES: usize = 4096;

/// See the module. One instance is one view: what is written through it is read through it.
#[derive(Debug, Default)]
pub struct ReadOnlyDisk {
    /// What differs from the real disk, or has been opened; none for what was removed or renamed.
    files: Mutex<BTreeMap<PathBuf, Option<Arc<KeptFile>>>>,
}

impl ReadOnlyDisk {
    /// A view of the real disk as it is.
    pub fn new() -> Self {
        Self::default()
    }

    fn file(&self, path: &Path, create: bool) -> io::Result<Arc<KeptFile>> {
        let mut files = self.files.lock();
        let missing = match files.get(path) {
            Some(Some(file)) => return Ok(Arc::clone(file)),
            Some(None) => io::Error::from(io::ErrorKind::NotFound),
            None => match File::open(path) {
                Ok(file) => {
                    let file = Arc::new(KeptFile::over(file)?);
                    files.insert(path.to_owned(), Some(Arc::clone(&file)));
                    return Ok(file);
                }
                Err(error) => error,
            },
        };
        if !create || missing.kind() != io::ErrorKind::NotFound {
            return Err(missing);
        }
        let file = Arc::new(KeptFile::default());
        files.insert(path.to_owned(), Some(Arc::clone(&file)));
        Ok(file)
    }
}

impl Disk for ReadOnlyDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, create)?)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock();
        let mut names = RealDisk::new().list(directory)?;
        names.retain(|name| !matches!(files.get(&directory.join(name)), Some(None)));
        for (path, file) in files.iter() {
            let name = path.file_name().and_then(|name| name.to_str());
            if let (Some(name), true, true) = (name, file.is_some(), path.parent() == Some(directory)) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.file(from, false)?;
        let mut files = self.files.lock();
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.file(path, false)?;
        self.files.lock().insert(path.to_owned(), None);
        Ok(())
    }

    /// What is looked at is there already.
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::read_dir(path).map(drop)
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        match self.files.lock().get(path) {
            Some(file) => file.is_some(),
            None => path.exists(),
        }
    }
}

/// A file of which the changed pages are in memory.
#[derive(Debug, Default)]
struct KeptFile {
    /// None for a file that exists in memory only.
    real: Option<File>,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    length: u64,
    /// Bytes at the front of the real file that still count where no page is kept.
    real_length: u64,
    /// Pages written, by number; none is a page of zeros.
    pages: BTreeMap<u64, Option<Box<[u8; PAGE_BYTES]>>>,
}

impl KeptFile {
    fn over(real: File) -> io::Result<Self> {
        let length = real.metadata()?.len();
        Ok(Self {
            real: Some(real),
            changes: Mutex::new(Changes {
                length,
                real_length: length,
                pages: BTreeMap::new(),
            }),
        })
    }

    /// Fills `buffer`, with zeros where nothing is.
    fn read(&self, changes: &Changes, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let real_bytes = changes
            .real_length
            .saturating_sub(offset)
            .min(buffer.len() as u64);
        let (front, rest) = buffer.split_at_mut(usize::try_from(real_bytes).unwrap_or(usize::MAX));
        match &self.real {
            Some(real) => real.read_exact_at(front, offset)?,
            None => front.fill(0),
        }
        rest.fill(0);
        let end = offset + buffer.len() as u64;
        for (number, page) in changes.pages.range(offset / PAGE_BYTES as u64..) {
            let start = number * PAGE_BYTES as u64;
            if start >= end {
                break;
            }
            let (from, to) = (start.max(offset), (start + PAGE_BYTES as u64).min(end));
            let target = &mut buffer[place(from - offset)..place(to - offset)];
            match page {
                Some(page) => target.copy_from_slice(&page[place(from - start)..place(to - start)]),
                None => target.fill(0),
            }
        }
        Ok(())
    }
}

/// An offset within something that is in memory.
fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("lies within a buffer")
}

impl DiskFile for KeptFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let changes = self.changes.lock();
        if offset + buffer.len() as u64 > changes.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read(&changes, buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let mut changes = self.changes.lock();
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let number = at / PAGE_BYTES as u64;
            let start = place(at % PAGE_BYTES as u64);
            let (part, after) = rest.split_at(rest.len().min(PAGE_BYTES - start));
            let mut page = Box::new([0; PAGE_BYTES]);
            self.read(&changes, &mut page[..], number * PAGE_BYTES as u64)?;
            page[start..start + part.len()].copy_from_slice(part);
            let is_zero = page.iter().all(|byte| *byte == 0);
            changes.pages.insert(number, (!is_zero).then_some(page));
            at += part.len() as u64;
            rest = after;
        }
        changes.length = changes.length.max(at);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.changes.lock().length)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut changes = self.changes.lock();
        if length < changes.length {
            changes.real_length = changes.real_length.min(length);
            let boundary = length / PAGE_BYTES as u64;
            let kept = place(length % PAGE_BYTES as u64);
            // What is cut off must read as zeros if the file grows again.
            changes.pages.split_off(&(boundary + 1));
            if let Some(Some(page)) = changes.pages.get_mut(&boundary) {
                page[kept..].fill(0);
            }
        }
        changes.length = length;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// The real file's lock: a member that runs has it, and none can start while it is held here.
    fn try_lock(&self) -> io::Result<()> {
        self.real.as_ref().map_or(Ok(()), lock_exclusively)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn read(file: &dyn DiskFile, offset: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![1; bytes];
        file.read_exact_at(&mut buffer, offset).unwrap();
        buffer
    }

    #[test]
    fn random_writes_read_like_those_of_a_real_file_and_leave_the_original_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let (original, copy) = (scratch.path().join("original"), scratch.path().join("copy"));
        let content: Vec<u8> = (0..30_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&original, &content).unwrap();
        std::fs::write(&copy, &content).unwrap();
        let real = RealDisk::new().open(&copy, false).unwrap();
        let kept = ReadOnlyDisk::new().open(&original, false).unwrap();
        let mut random = Random::new(1);
        for step in 0..2_000_u64 {
            let offset = random.below(40_000);
            if random.below(10) == 0 {
                real.set_length(offset).unwrap();
                kept.set_length(offset).unwrap();
            } else {
                let fill = if random.below(3) == 0 { 0 } else { step as u8 };
                let data = vec![fill; random.below(9_000) as usize];
                real.write_all_at(&data, offset).unwrap();
                kept.write_all_at(&data, offset).unwrap();
            }
            let length = real.length().unwrap();
            assert_eq!(kept.length().unwrap(), length, "step {step}");
            let bytes = length as usize;
            assert!(read(&*kept, 0, bytes) == read(&*real, 0, bytes), "step {step}");
        }
        assert!(std::fs::read(&original).unwrap() == content);
    }

    #[test]
    fn names_change_in_the_view_only() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        std::fs::write(path("a"), b"a").unwrap();
        std::fs::write(path("b"), b"b").unwrap();
        let disk = ReadOnlyDisk::new();
        disk.rename(&path("a"), &path("c")).unwrap();
        disk.remove(&path("b")).unwrap();
        disk.open(&path("d"), true).unwrap();
        assert_eq!(disk.list(scratch.path()).unwrap(), ["c", "d"]);
        assert!(!disk.exists(&path("a")) && disk.exists(&path("c")));
        assert_eq!(read(&*disk.open(&path("c"), false).unwrap(), 0, 1), b"a");
        let gone = disk.open(&path("b"), false).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert_eq!(RealDisk::new().list(scratch.path()).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_file_in_use_cannot_be_locked() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        let owner = RealDisk::new().open(&path, true).unwrap();
        owner.try_lock().unwrap();
        let kept = ReadOnlyDisk::new().open(&path, false).unwrap();
        assert_eq!(kept.try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
