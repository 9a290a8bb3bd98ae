//! [`MemberDisk`]: the faulty disk as one life of one member sees it, with a power cut planned for one of its calls.
//!
//! A member's steps take no virtual time, so a power cut from outside would always fall between a write and the next
//! one, never between a write and its sync. Planned by the number of the call, it falls anywhere.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_storage::disk::{Disk, DiskFile};
use kelson_storage::testing::FaultyDisk;
use parking_lot::Mutex;

use super::trace::Trace;

/// See the module. Clones are the same disk in the same life.
#[derive(Clone)]
pub struct MemberDisk {
    inner: Arc<Inner>,
}

struct Inner {
    disk: FaultyDisk,
    member: u64,
    trace: Trace,
    power: Mutex<Power>,
    /// Numbers of paths in the trace, by first use. Temporary names differ from run to run.
    numbers: Mutex<BTreeMap<PathBuf, u64>>,
}

#[derive(Default)]
struct Power {
    /// Calls until the cut, and the seed of what it leaves.
    cut_in: Option<(u64, u64)>,
    /// What the cut left.
    left: Option<FaultyDisk>,
    /// Told when the cut happens.
    on_cut: Option<Box<dyn FnOnce() + Send>>,
}

impl MemberDisk {
    /// `disk` during one life of `member`.
    pub fn new(disk: FaultyDisk, member: u64, trace: Trace) -> Self {
        Self {
            inner: Arc::new(Inner {
                disk,
                member,
                trace,
                power: Mutex::default(),
                numbers: Mutex::default(),
            }),
        }
    }

    /// Plans a power cut just before the `nth` call from now that changes the disk. `on_cut` is called in the midst of
    /// that call.
    pub fn cut_power(&self, nth: u64, seed: u64, on_cut: impl FnOnce() + Send + 'static) {
        let mut power = self.inner.power.lock();
        power.cut_in = Some((nth.max(1), seed));
        power.on_cut = Some(Box::new(on_cut));
    }

    /// What is on the disk for the next life: what the cut left, if there was one; else all of it after a kill, or
    /// what a power cut of `seed` now leaves.
    pub fn leave(&self, power_cut: Option<u64>) -> FaultyDisk {
        let mut power = self.inner.power.lock();
        power.cut_in = None;
        power.on_cut = None;
        match (&power.left, power_cut) {
            (Some(left), _) => left.clone(),
            (None, Some(seed)) => {
                let left = self.inner.disk.crash(seed);
                power.left = Some(left.clone());
                left
            }
            (None, None) => self.inner.disk.restart(),
        }
    }

    /// Takes back a power cut that has not come yet.
    pub fn spare(&self) {
        let mut power = self.inner.power.lock();
        power.cut_in = None;
        power.on_cut = None;
    }

    /// Whether the power has been cut.
    pub fn power_is_off(&self) -> bool {
        self.inner.power.lock().left.is_some()
    }

    /// The disk below.
    pub fn faulty(&self) -> &FaultyDisk {
        &self.inner.disk
    }
}

impl Inner {
    fn number(&self, path: &Path) -> u64 {
        let mut numbers = self.numbers.lock();
        let next = numbers.len() as u64;
        *numbers.entry(path.to_owned()).or_insert(next)
    }

    /// Counts a call that changes the disk, and refuses it after a power cut.
    fn change(&self, name: &'static str, numbers: &[u64]) -> io::Result<()> {
        let on_cut = {
            let mut power = self.power.lock();
            if power.left.is_some() {
                return Err(io::Error::other("the power is off"));
            }
            match &mut power.cut_in {
                Some((1, seed)) => {
                    let seed = *seed;
                    power.cut_in = None;
                    power.left = Some(self.disk.crash(seed));
                    power.on_cut.take()
                }
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(on_cut) = on_cut {
            self.trace.event("power cut in a call", &[self.member]);
            on_cut();
            return Err(io::Error::other("the power is off"));
        }
        let mut all = vec![self.member];
        all.extend(numbers);
        self.trace.event(name, &all);
        Ok(())
    }
}

impl Disk for MemberDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let inner = &self.inner;
        if create && !inner.disk.exists(path) {
            inner.change("create", &[inner.number(path)])?;
        }
        Ok(Arc::new(MemberFile {
            file: inner.disk.open(path, create)?,
            path: inner.number(path),
            disk: inner.clone(),
        }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.inner.disk.list(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let inner = &self.inner;
        inner.change("rename", &[inner.number(from), inner.number(to)])?;
        self.inner.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let inner = &self.inner;
        inner.change("remove", &[inner.number(path)])?;
        self.inner.disk.remove(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.disk.create_directory(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let inner = &self.inner;
        inner.change("sync directory", &[inner.number(directory)])?;
        self.inner.disk.sync_directory(directory)
    }

    fn exists(&self, path: &Path) -> bool {
        self.inner.disk.exists(path)
    }
}

struct MemberFile {
    file: Arc<dyn DiskFile>,
    path: u64,
    disk: Arc<Inner>,
}

impl std::fmt::Debug for MemberFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl DiskFile for MemberFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let crc = u64::from(crc32fast::hash(data));
        self.disk
            .change("write", &[self.path, offset, data.len() as u64, crc])?;
        self.file.write_all_at(data, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.change("set length", &[self.path, length])?;
        self.file.set_length(length)
    }

    fn make_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.disk.change("make hole", &[self.path, offset, bytes])?;
        self.file.make_hole(offset, bytes)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(from)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change("sync", &[self.path])?;
        self.file.sync()
    }

    fn try_lock(&self) -> io::Result<()> {
        self.file.try_lock()
    }
}
