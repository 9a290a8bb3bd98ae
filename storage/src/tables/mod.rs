//! [`Tables`]: the checkpoint of the applied state, in redb over our own checked blocks.
//!
//! What it promises:
//! * A write is one transaction. After a crash the tables are exactly as one write left them: the last durable one,
//!   or a later one that was under way to become durable. Nothing of a non-durable write is seen without all of it.
//! * What was not written is never returned. Every block read from disk and every record in it is checked; damage is a
//!   [`Fault`] that names the file.
//! * A read sees the newest write and waits for none.
//!
//! One file per table: `row`, `lease`, `meta`; `block_file` is the layout below redb.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{Durability, ReadableTable, Table, WriteTransaction};

use crate::disk::Disk;
use crate::error::Fault;
use crate::revision::Revision;
use crate::store::DatabaseSize;

mod block_file;
mod engine;
mod fields;
mod lease;
mod meta;
mod place;
mod row;
#[cfg(test)]
mod tests;

use engine::{Engine, LEASES, META, OpenRead, REVISIONS, RevisionKey, STATE};
pub use lease::LeaseRow;
use meta::Counts;
pub use meta::Meta;
pub use place::{install, remove_leftovers, temporary_beside};
pub use row::Row;

/// What one write changes.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// New rows, in ascending order.
    pub rows: Vec<(Revision, Arc<Row>)>,
    /// Rows to delete; those that are not there are skipped. Applied after `rows`.
    pub deletes: Vec<Revision>,
    /// Leases granted.
    pub leases_put: Vec<LeaseRow>,
    /// Leases ended; those that are not there are skipped. Applied after `leases_put`.
    pub leases_removed: Vec<i64>,
    /// The state that the tables hold after this write.
    pub meta: Meta,
}

/// The database of one member. Shared between threads; writes take turns.
pub struct Tables {
    path: PathBuf,
    engine: Engine,
    /// The newest commit, opened once so that a point read need not open a transaction. Replaced after every write,
    /// because it keeps the pages it shows from being reused.
    newest: RwLock<Arc<OpenRead>>,
    /// What the newest commit counts. Its lock is the turn to write.
    counts: Mutex<Counts>,
}

impl Tables {
    /// Opens the database at `path`, or makes one with a fresh [`Meta`] in an existing directory.
    ///
    /// # Errors
    /// [`Fault::Unusable`] if another process has it open or a later version wrote it; [`Fault::Damaged`] if it is not
    /// whole; [`Fault::Io`] for failed system calls.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, Fault> {
        if !Self::exists(&*disk, path) {
            let temporary = temporary_beside(&*disk, path);
            let fresh = Self::create(&*disk, &temporary)?;
            fresh.write(&WriteBatch::default(), true)?;
            fresh.close()?;
            install(&*disk, &temporary, path)?;
        }
        Self::over(Engine::open(&*disk, path)?, path)
    }

    /// Whether there is a database at `path`.
    pub fn exists(disk: &dyn Disk, path: &Path) -> bool {
        disk.exists(path)
    }

    /// Starts an empty database in a new file. It is worth nothing before a durable write.
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<Self, Fault> {
        let engine = Engine::create(disk, path)?;
        write_transaction(&engine, &WriteBatch::default(), Counts::default(), false)
            .map_err(|error| engine::fault(&engine.file, path, error))?;
        Self::over(engine, path)
    }

    fn over(engine: Engine, path: &Path) -> Result<Self, Fault> {
        let newest =
            OpenRead::newest(&engine.database).map_err(|error| engine::fault(&engine.file, path, error))?;
        let (_, counts) = newest.state(&engine.file, path)?;
        Ok(Self {
            path: path.to_owned(),
            engine,
            newest: RwLock::new(Arc::new(newest)),
            counts: Mutex::new(counts),
        })
    }

    /// Closes the file, and says if that failed. Dropping does the same in silence.
    pub(crate) fn close(self) -> Result<(), Fault> {
        let Self { engine, newest, .. } = self;
        let Engine { database, file } = engine;
        drop(newest);
        drop(database);
        file.failure().map_or(Ok(()), Err)
    }

    /// The state that the tables hold; of a fresh database, revision 1 and nothing else.
    pub fn meta(&self) -> Result<Meta, Fault> {
        Ok(self.state(&self.newest())?.0)
    }

    /// All leases, by id.
    pub fn leases(&self) -> Result<Vec<LeaseRow>, Fault> {
        let newest = self.newest();
        let (_, counts) = self.state(&newest)?;
        let mut leases = Vec::new();
        for entry in newest.leases.iter().map_err(|error| self.fault(error))? {
            let (id, value) = entry.map_err(|error| self.fault(error))?;
            let lease = lease::decode(id.value(), value.value())
                .ok_or_else(|| self.damaged(format!("lease {}", id.value())))?;
            leases.push(lease);
        }
        self.check_count("leases", leases.len() as u64, counts.leases)?;
        Ok(leases)
    }

    /// Hands every row to `visit`, in history order, as the newest write left them. Fails if one is missing.
    pub fn scan(&self, mut visit: impl FnMut(Revision, Row) -> Result<(), Fault>) -> Result<(), Fault> {
        let newest = self.newest();
        let (_, counts) = self.state(&newest)?;
        let mut rows = 0;
        for entry in newest.revisions.iter().map_err(|error| self.fault(error))? {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            let (revision, row) = self.row(key.value(), value.value())?;
            visit(revision, row)?;
            rows += 1;
        }
        self.check_count("rows", rows, counts.rows)
    }

    /// The row of one revision; none if it was never written or compaction deleted it.
    pub fn read(&self, revision: Revision) -> Result<Option<Row>, Fault> {
        let newest = self.newest();
        let key = revision.to_bytes();
        match newest.revisions.get(&key) {
            Ok(None) => Ok(None),
            Ok(Some(value)) => Ok(Some(self.row(&key, value.value())?.1)),
            Err(error) => Err(self.fault(error)),
        }
    }

    /// Rows from `from` (inclusive) on, in order: as many as have at most `max_bytes` of `kv` together, but at least
    /// one if there is one.
    pub fn read_from(&self, from: Revision, max_bytes: usize) -> Result<Vec<(Revision, Row)>, Fault> {
        let newest = self.newest();
        let first = from.to_bytes();
        let range = newest
            .revisions
            .range::<&[u8; Revision::ENCODED_BYTES]>(&first..)
            .map_err(|error| self.fault(error))?;
        let mut rows = Vec::new();
        let mut bytes = 0;
        for entry in range {
            let (key, value) = entry.map_err(|error| self.fault(error))?;
            let (revision, row) = self.row(key.value(), value.value())?;
            bytes += row.kv.len();
            if bytes > max_bytes && !rows.is_empty() {
                break;
            }
            rows.push((revision, row));
        }
        Ok(rows)
    }

    /// Makes all changes of `batch` in one transaction; with `durable`, they and all earlier ones are on disk when it
    /// returns.
    ///
    /// # Errors
    /// After an error the tables are not to be used any more: it is unknown what is on disk.
    pub fn write(&self, batch: &WriteBatch, durable: bool) -> Result<(), Fault> {
        let mut counts = self.counts.lock();
        *counts =
            write_transaction(&self.engine, batch, *counts, durable).map_err(|error| self.fault(error))?;
        let newest = OpenRead::newest(&self.engine.database).map_err(|error| self.fault(error))?;
        *self.newest.write() = Arc::new(newest);
        Ok(())
    }

    /// Sizes as of the newest write.
    pub fn size(&self) -> DatabaseSize {
        let counts = *self.counts.lock();
        DatabaseSize {
            allocated: self.engine.file.length(),
            in_use: counts.row_bytes,
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest commit, for as long as it is held.
    pub(crate) fn newest(&self) -> Arc<OpenRead> {
        self.newest.read().clone()
    }

    fn state(&self, read: &OpenRead) -> Result<(Meta, Counts), Fault> {
        read.state(&self.engine.file, &self.path)
    }

    fn row(&self, key: &[u8; Revision::ENCODED_BYTES], value: &[u8]) -> Result<(Revision, Row), Fault> {
        let revision = Revision::from_bytes(*key);
        match row::decode(key, value) {
            Some(row) => Ok((revision, row)),
            None => Err(self.damaged(format!("row {revision}"))),
        }
    }

    fn check_count(&self, what: &str, found: u64, counted: u64) -> Result<(), Fault> {
        if found == counted {
            return Ok(());
        }
        let what = format!("{found} {what} found where {counted} were written");
        Err(Fault::damaged(&self.path, 0, what))
    }

    fn damaged(&self, what: String) -> Fault {
        Fault::damaged(&self.path, 0, format!("{what} fails its checksum"))
    }

    fn fault(&self, error: impl Into<redb::Error>) -> Fault {
        engine::fault(&self.engine.file, &self.path, error)
    }
}

/// Writes `batch` on top of a commit that counted `counts`, and returns what the new one counts.
fn write_transaction(
    engine: &Engine,
    batch: &WriteBatch,
    mut counts: Counts,
    durable: bool,
) -> Result<Counts, redb::Error> {
    let mut transaction = engine.database.begin_write()?;
    if durable {
        // Two-phase, and with the allocator's state, so that opening after a crash takes milliseconds.
        transaction.set_quick_repair(true);
    } else {
        transaction.set_durability(Durability::None)?;
    }
    write_rows(&transaction, batch, &mut counts)?;
    write_leases(&transaction, batch, &mut counts)?;
    let record = meta::encode(&batch.meta, counts);
    transaction.open_table(META)?.insert(STATE, record.as_slice())?;
    transaction.commit()?;
    Ok(counts)
}

fn write_rows(
    transaction: &WriteTransaction,
    batch: &WriteBatch,
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(REVISIONS)?;
    if appends(&table, &batch.rows)? {
        append_rows(&mut table, &batch.rows, counts)?;
    } else {
        insert_rows(&mut table, &batch.rows, counts)?;
    }
    for revision in &batch.deletes {
        if let Some(old) = table.remove(&revision.to_bytes())? {
            counts.row_removed(old.value().len());
        }
    }
    Ok(())
}

type RevisionTable<'txn> = Table<'txn, RevisionKey, &'static [u8]>;

/// Whether all rows are new and belong behind the last one in the order given, as they do but for a repeated write.
fn appends(table: &RevisionTable<'_>, rows: &[(Revision, Arc<Row>)]) -> Result<bool, redb::Error> {
    let Some((first, _)) = rows.first() else {
        return Ok(true);
    };
    let behind_last = match table.last()? {
        Some((last, _)) => Revision::from_bytes(*last.value()) < *first,
        None => true,
    };
    Ok(behind_last && rows.is_sorted_by(|(a, _), (b, _)| a < b))
}

/// Appends through a cursor at the end, at about a third of the cost of inserting by key.
fn append_rows(
    table: &mut RevisionTable<'_>,
    rows: &[(Revision, Arc<Row>)],
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut end = table.upper_bound_mut(std::ops::Bound::<RevisionKey>::Unbounded)?;
    let mut value = Vec::new();
    for (revision, row) in rows {
        row::encode(*revision, row, &mut value);
        end.insert_before(&revision.to_bytes(), value.as_slice())?;
        counts.row_added(value.len());
    }
    end.close()?;
    Ok(())
}

fn insert_rows(
    table: &mut RevisionTable<'_>,
    rows: &[(Revision, Arc<Row>)],
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut value = Vec::new();
    for (revision, row) in rows {
        row::encode(*revision, row, &mut value);
        counts.row_added(value.len());
        if let Some(old) = table.insert(&revision.to_bytes(), value.as_slice())? {
            counts.row_removed(old.value().len());
        }
    }
    Ok(())
}

fn write_leases(
    transaction: &WriteTransaction,
    batch: &WriteBatch,
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(LEASES)?;
    for lease in &batch.leases_put {
        if table
            .insert(lease.id, lease::encode(*lease).as_slice())?
            .is_none()
        {
            counts.leases += 1;
        }
    }
    for id in &batch.leases_removed {
        if table.remove(id)?.is_some() {
            counts.leases = counts.leases.saturating_sub(1);
        }
    }
    Ok(())
}
