//! The redb side of the tables: names and types, opening and closing, and errors as faults.

use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database, TableDefinition};

use super::block_file::{Backend, BlockFile};
use super::piece;
use crate::disk::Disk;
use crate::error::Fault;
use crate::limits::CacheBudget;
use crate::revision::Revision;

pub(super) type RevisionKey = &'static [u8; Revision::ENCODED_BYTES];
pub(super) const REVISIONS: TableDefinition<RevisionKey, &[u8]> = TableDefinition::new("rev");
pub(super) type PieceKey = &'static [u8; piece::KEY_BYTES];
pub(super) const PIECES: TableDefinition<PieceKey, &[u8]> = TableDefinition::new("piece");
pub(super) const LEASES: TableDefinition<i64, &[u8]> = TableDefinition::new("lease");
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Key of the only record of [`META`].
pub(super) const STATE: &str = "state";

/// An open database and the file below it.
pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) file: Arc<BlockFile>,
}

impl Engine {
    /// Starts an empty database in a file of its own.
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<Self, Fault> {
        let file = disk
            .open(path, true)
            .map_err(|error| Fault::io("create", path, error))?;
        Self::over(
            Arc::new(BlockFile::create(file, path)?),
            CacheBudget::default().tables,
        )
    }

    /// Opens a database, of whose pages `cache_bytes` are kept in memory, and takes its lock.
    pub(super) fn open(disk: &dyn Disk, path: &Path, cache_bytes: usize) -> Result<Self, Fault> {
        let file = disk
            .open(path, false)
            .map_err(|error| Fault::io("open", path, error))?;
        file.try_lock().map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Fault::Unusable {
                path: path.to_owned(),
                what: "another process has this database open".to_owned(),
            },
            _ => Fault::io("lock", path, error),
        })?;
        Self::over(Arc::new(BlockFile::open(file, path)?), cache_bytes)
    }

    /// Closes the file, and says if that failed. Dropping does the same in silence.
    pub(super) fn close(self) -> Result<(), Fault> {
        let Self { database, file } = self;
        drop(database);
        file.failure().map_or(Ok(()), Err)
    }

    fn over(file: Arc<BlockFile>, cache_bytes: usize) -> Result<Self, Fault> {
        let opened = Builder::new()
            .set_cache_size(cache_bytes)
            // Every durable commit is two-phase and carries the allocator's state, so a sound file never needs the
            // full repair; what asks for it is damaged, and the repair could fall back to an older state in silence.
            .set_repair_callback(|repair| repair.abort())
            .create_with_backend(Backend(file.clone()));
        match opened {
            Ok(database) => Ok(Self { database, file }),
            Err(error) => Err(fault(&file, error)),
        }
    }
}

/// What an error of redb means for the member.
///
/// The file below knows better what happened: redb says "previous I/O error" from the second call on.
pub(super) fn fault(file: &BlockFile, error: impl Into<redb::Error>) -> Fault {
    let path = file.path();
    if let Some(fault) = file.failure() {
        return fault;
    }
    match error.into() {
        redb::Error::Io(error) => Fault::io("access", path, error),
        redb::Error::Corrupted(what) => Fault::damaged(path, 0, what),
        // Of our own files no other version of redb's format is ever written.
        redb::Error::UpgradeRequired(version) => {
            Fault::damaged(path, 0, format!("a commit record claims engine format {version}"))
        }
        redb::Error::RepairAborted => Fault::damaged(path, 0, "the newest commit is not complete"),
        error @ (redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)) => Fault::damaged(path, 0, error.to_string()),
        error => Fault::Engine {
            path: path.to_owned(),
            what: error.to_string(),
        },
    }
}
