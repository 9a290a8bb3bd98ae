//! What the faulty disk holds at one moment, and the failure that is planned for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::faulty_disk::FaultyDisk;
use super::faulty_file::FileState;

/// A call that changes the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// A file that was not there was opened with `create`.
    Create,
    /// [`DiskFile::write_all_at`](crate::disk::DiskFile::write_all_at).
    Write,
    /// [`DiskFile::set_length`](crate::disk::DiskFile::set_length).
    SetLength,
    /// [`DiskFile::make_hole`](crate::disk::DiskFile::make_hole).
    MakeHole,
    /// [`DiskFile::sync`](crate::disk::DiskFile::sync).
    Sync,
    /// [`Disk::rename`](crate::disk::Disk::rename).
    Rename,
    /// [`Disk::remove`](crate::disk::Disk::remove).
    Remove,
    /// [`Disk::sync_directory`](crate::disk::Disk::sync_directory).
    SyncDirectory,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// EIO.
    Broken,
    /// ENOSPC.
    Full,
}

impl DiskError {
    pub(super) fn to_io(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Broken => libc::EIO,
            Self::Full => libc::ENOSPC,
        })
    }
}

/// Of which moments the disk keeps a copy, to crash at later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// None.
    #[default]
    Off,
    /// Before and after each sync of a file or directory.
    Syncs,
    /// Before each call that changes the disk, so also after each sync but the last.
    All,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<u64, Arc<FileState>>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync of their directory, oldest first.
    pub(super) name_changes: Vec<NameChange>,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) locks: BTreeSet<u64>,
    pub(super) next_file: u64,
    pub(super) operations: u64,
    pub(super) failure: Option<Failure>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) recording: Recording,
    pub(super) recorded: Vec<FaultyDisk>,
}

#[derive(Clone)]
pub(super) enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Copy)]
pub(super) struct Failure {
    pub(super) at: u64,
    pub(super) only: Option<DiskOperation>,
    pub(super) error: DiskError,
}

impl NameChange {
    pub(super) fn is_in(&self, directory: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) => path.parent() == Some(directory),
            Self::Rename(from, to) => from.parent() == Some(directory) || to.parent() == Some(directory),
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl State {
    /// Counts a call, keeps a copy of the moment before it, and says how it must fail, if it must.
    pub(super) fn begin(&mut self, operation: DiskOperation) -> Option<DiskError> {
        let keep = match self.recording {
            Recording::Off => false,
            Recording::Syncs => is_sync(operation),
            Recording::All => true,
        };
        if keep {
            self.record();
        }
        self.operations += 1;
        let failure = self.failure.as_mut()?;
        if failure.only.is_some_and(|only| only != operation) {
            return None;
        }
        failure.at -= 1;
        if failure.at > 0 {
            return None;
        }
        self.failure.take().map(|failure| failure.error)
    }

    /// Keeps a copy of the moment after a call, where that is not the moment before the next one.
    pub(super) fn end(&mut self) {
        if self.recording == Recording::Syncs {
            self.record();
        }
    }

    pub(super) fn record(&mut self) {
        let copy = self.copy();
        self.recorded.push(FaultyDisk {
            state: Arc::new(Mutex::new(copy)),
        });
    }

    /// The same files and names, nothing locked, nothing planned.
    pub(super) fn copy(&self) -> Self {
        Self {
            files: self.files.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            name_changes: self.name_changes.clone(),
            directories: self.directories.clone(),
            next_file: self.next_file,
            operations: self.operations,
            capacity_bytes: self.capacity_bytes,
            ..Self::default()
        }
    }

    pub(super) fn file(&self, id: u64) -> &FileState {
        self.files.get(&id).expect("a file is kept while it has a handle")
    }

    pub(super) fn file_mut(&mut self, id: u64) -> &mut FileState {
        Arc::make_mut(
            self.files
                .get_mut(&id)
                .expect("a file is kept while it has a handle"),
        )
    }

    pub(super) fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    /// Whether the file may grow to `length`.
    pub(super) fn has_room(&self, id: u64, length: u64) -> bool {
        let Some(capacity) = self.capacity_bytes else {
            return true;
        };
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let used: u64 = named
            .iter()
            .filter(|file| **file != id)
            .map(|file| self.file(*file).length())
            .sum();
        length <= self.file(id).length() || used + length <= capacity
    }
}

fn is_sync(operation: DiskOperation) -> bool {
    matches!(operation, DiskOperation::Sync | DiskOperation::SyncDirectory)
}
