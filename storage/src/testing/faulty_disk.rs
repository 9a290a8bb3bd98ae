//! A disk in memory that keeps what was written apart from what was synced, and fails when told to.
//!
//! It is as bad as disks are allowed to be: a file's name is durable only after its directory was synced, even when
//! the file was; unsynced renames are lost one by one; after a failed sync the data still reads as written but no
//! later sync writes it. Directories themselves are durable at once.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Random;
use super::disk_state::{DiskError, DiskOperation, Failure, NameChange, Recording, State};
use super::faulty_file::FileState;
use crate::disk::{Disk, DiskFile};

/// A disk in memory. Clones are the same disk; [`FaultyDisk::crash`] and [`FaultyDisk::restart`] make another one.
#[derive(Clone)]
pub struct FaultyDisk {
    pub(super) state: Arc<Mutex<State>>,
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.files()).finish()
    }
}

impl FaultyDisk {
    /// An empty disk on which nothing fails.
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
        }
    }

    /// The disk after a power loss now: unsynced sectors, lengths and names may each be there or not, as `seed` has
    /// it. This disk does not change.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let state = self.state.lock();
        let mut names = state.durable_names.clone();
        if random.chance(1, 2) {
            // As a journal does it: in order up to some point.
            let kept = random.place(state.name_changes.len() + 1);
            for change in &state.name_changes[..kept] {
                change.apply(&mut names);
            }
        } else {
            for change in &state.name_changes {
                if random.chance(1, 2) {
                    change.apply(&mut names);
                }
            }
        }
        let named: BTreeSet<u64> = names.values().copied().collect();
        let files = state
            .files
            .iter()
            .filter(|(id, _)| named.contains(id))
            .map(|(id, file)| (*id, Arc::new(file.crash(&mut random))))
            .collect();
        let left = State {
            files,
            durable_names: names.clone(),
            names,
            name_changes: Vec::new(),
            ..state.copy()
        };
        Self {
            state: Arc::new(Mutex::new(left)),
        }
    }

    /// The disk after the process was killed now: nothing is lost, nothing is locked, what was not synced still may
    /// be lost by a later crash. This disk does not change.
    #[must_use]
    pub fn restart(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(self.state.lock().copy())),
        }
    }

    /// Calls so far that change the disk, over the whole history of this disk and those it was made from.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Makes the `nth` call from now that changes the disk fail, counted from 1, of one sort or of all. Only that
    /// one: later calls succeed. A failing write leaves its first half; a failing sync loses what it should write.
    pub fn fail_nth(&self, nth: u64, only: Option<DiskOperation>, error: DiskError) {
        self.state.lock().failure = Some(Failure {
            at: nth.max(1),
            only,
            error,
        });
    }

    /// Whether a failure that was asked for is still to come.
    pub fn failure_is_pending(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Bounds the bytes of all files; what would grow past it fails with ENOSPC. `None` lifts the bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Starts or stops keeping copies of the disk at those moments.
    pub fn record(&self, recording: Recording) {
        self.state.lock().recording = recording;
    }

    /// The copies kept since the last call, oldest first.
    pub fn take_recorded(&self) -> Vec<Self> {
        std::mem::take(&mut self.state.lock().recorded)
    }

    /// Paths and lengths of all files.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state.lock();
        let named = state.names.iter();
        named
            .map(|(path, id)| (path.clone(), state.file(*id).length()))
            .collect()
    }

    /// The bytes of a file as a read sees them; `None` when there is no such file.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let id = state.names.get(path)?;
        Some(state.file(*id).bytes())
    }

    /// Bytes that a file takes: sectors of zeros take none. `None` when there is no such file.
    pub fn bytes_taken(&self, path: &Path) -> Option<u64> {
        let state = self.state.lock();
        let id = state.names.get(path)?;
        Some(state.file(*id).bytes_taken())
    }

    /// Changes a file's bytes behind everyone's back, durably. False when there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(mut bytes) = self.bytes(path) else {
            return false;
        };
        change(&mut bytes);
        let mut state = self.state.lock();
        let id = state.names[path];
        state.files.insert(id, Arc::new(FileState::with_bytes(&bytes)));
        true
    }

    /// Flips one bit (0 to 7) of one byte, durably. False when there is no such byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> bool {
        let mut flipped = false;
        self.damage(path, |bytes| {
            let byte = usize::try_from(byte).ok().and_then(|byte| bytes.get_mut(byte));
            if let Some(byte) = byte {
                *byte ^= 1 << bit;
                flipped = true;
            }
        });
        flipped
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let id = match state.names.get(path) {
            Some(id) => *id,
            None if create => {
                let parent_is_there = path
                    .parent()
                    .is_some_and(|parent| state.directories.contains(parent));
                if !parent_is_there {
                    return Err(io::ErrorKind::NotFound.into());
                }
                if let Some(error) = state.begin(DiskOperation::Create) {
                    return Err(error.to_io());
                }
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, Arc::default());
                state.change_names(NameChange::Create(path.to_owned(), id));
                id
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(FaultyFile {
            disk: self.clone(),
            id,
            has_lock: AtomicBool::new(false),
        }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if !state.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = state.names.keys().chain(&state.directories);
        let mut names: Vec<String> = paths
            .filter(|path| path.parent() == Some(directory))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(error) = state.begin(DiskOperation::Rename) {
            return Err(error.to_io());
        }
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(error) = state.begin(DiskOperation::Remove) {
            return Err(error.to_io());
        }
        state.change_names(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let made = path.ancestors().map(Path::to_owned);
        self.state.lock().directories.extend(made);
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(error) = state.begin(DiskOperation::SyncDirectory) {
            return Err(error.to_io());
        }
        let (synced, left) = std::mem::take(&mut state.name_changes)
            .into_iter()
            .partition(|change| change.is_in(directory));
        state.name_changes = left;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut state.durable_names);
        }
        state.end();
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state.lock();
        state.names.contains_key(path) || state.directories.contains(path)
    }
}

/// A handle of a file; the file stays while it is open, whatever its name.
struct FaultyFile {
    disk: FaultyDisk,
    id: u64,
    has_lock: AtomicBool,
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyFile")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl DiskFile for FaultyFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.disk.state.lock().file(self.id).read(buffer, offset) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if let Some(error) = state.begin(DiskOperation::Write) {
            state.file_mut(self.id).write(&data[..data.len() / 2], offset);
            return Err(error.to_io());
        }
        if !state.has_room(self.id, offset + data.len() as u64) {
            return Err(DiskError::Full.to_io());
        }
        state.file_mut(self.id).write(data, offset);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().file(self.id).length())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if let Some(error) = state.begin(DiskOperation::SetLength) {
            return Err(error.to_io());
        }
        if !state.has_room(self.id, length) {
            return Err(DiskError::Full.to_io());
        }
        state.file_mut(self.id).set_length(length);
        Ok(())
    }

    fn make_hole(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if let Some(error) = state.begin(DiskOperation::MakeHole) {
            return Err(error.to_io());
        }
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        state.file_mut(self.id).make_hole(offset, bytes);
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.disk.state.lock().file(self.id).next_data(from))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if let Some(error) = state.begin(DiskOperation::Sync) {
            state.file_mut(self.id).fail_sync();
            return Err(error.to_io());
        }
        state.file_mut(self.id).sync();
        state.end();
        Ok(())
    }

    fn try_lock(&self) -> io::Result<()> {
        if self.has_lock.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.disk.state.lock().locks.insert(self.id) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.has_lock.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        if self.has_lock.load(Ordering::Relaxed) {
            self.disk.state.lock().locks.remove(&self.id);
        }
    }
}
