//! [`Tables`]: the checkpoint of the applied state, in redb over our own checked blocks.
//!
//! What it promises:
//! * A write is one transaction. After a crash the tables are exactly as one write left them: the last durable one,
//!   or a later one that was under way to become durable. Nothing of a non-durable write is seen without all of it.
//! * What was not written is never returned. Every block read from disk and every record in it is checked; damage is a
//!   [`Fault`] that names the file.
//! * A read sees the newest write and waits for none.
//!
//! One file per table: `row`, `piece`, `lease`, `meta`; `block_file`, `block_set` and `checksums` are what is below redb. `bulk` reads
//! many rows without it, and `free_space` its allocator's state, by what `engine_format` says of its files.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{Durability, ReadableTable, Table, WriteTransaction};

use crate::disk::Disk;
use crate::error::Fault;
use crate::mutant;
use crate::revision::Revision;
use crate::store::DatabaseSize;

mod block_file;
mod block_set;
mod bulk;
mod checksums;
mod counts;
mod engine;
mod engine_format;
pub(crate) mod fields;
mod free_space;
mod frozen;
mod lease;
pub(crate) mod meta;
mod piece;
mod place;
pub(crate) mod row;
#[cfg(test)]
mod tests;

use bulk::BulkReader;
use counts::Counts;
use engine::{Engine, LEASES, META, PIECES, PieceKey, REVISIONS, RevisionKey, STATE};
use free_space::FreeSpace;
pub(crate) use frozen::{Frozen, Leases, Rows};
pub use lease::LeaseRow;
pub use meta::Meta;
pub use place::{install, remove_leftovers, temporary_beside};
pub use row::Row;

/// Revisions that are walked over between two rows to delete, rather than to search for the second. Some pages' worth.
const WALKED_MAINS: u64 = 32;

/// Fewer rows than this are not looked up in bulk.
const BULK_ROWS_MIN: u64 = 64;

/// Nor are those of which each has so many bytes of the table to itself: a third of what is below one branch, which is
/// read for them alone. The engine has it in its cache.
const BULK_ROW_BYTES_MAX: u64 = 128 * 1024;

/// Durable commits after the last long list for which the newest is kept for the next.
const BULK_WANTED_FOR: u8 = 2;

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

/// How much the tables hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Rows of `rev`.
    pub rows: u64,
    /// Bytes of the keys and values of `rev` and `piece`.
    pub row_bytes: u64,
    /// Rows of `lease`.
    pub leases: u64,
}

/// The newest durable commit, for as long as it is worth the pages that it keeps from being reused.
#[derive(Default)]
struct Bulk {
    reader: Option<Arc<BulkReader>>,
    /// Durable commits for which it is kept up to date beside newer commits that are not durable.
    wanted_for: u8,
    /// Bytes of the leaves of the table of rows, as reckoned.
    leaf_bytes: u64,
}

/// What belongs to the one who writes.
#[derive(Debug)]
struct Turn {
    /// What the newest commit counts.
    counts: Counts,
    /// Whether the newest commit is durable.
    is_durable: bool,
    free_space: FreeSpace,
}

/// The database of one member. Shared between threads; writes take turns.
pub struct Tables {
    engine: Engine,
    /// The newest commit, opened once so that a point read need not open a transaction. Replaced after every write,
    /// because it keeps the pages it shows from being reused.
    newest: RwLock<Arc<Frozen>>,
    /// The newest durable commit, for long lists.
    bulk: Mutex<Bulk>,
    /// Its lock is the turn to write.
    turn: Mutex<Turn>,
    /// Apart, so that asking for it never waits for a write.
    size: Mutex<DatabaseSize>,
}

impl Tables {
    /// Opens the database at `path`, or makes one with a fresh [`Meta`] in an existing directory. Up to `cache_bytes` of its
    /// pages are kept in memory.
    ///
    /// # Errors
    /// [`Fault::Unusable`] if another process has it open or a later version wrote it; [`Fault::Damaged`] if it is not
    /// whole; [`Fault::Io`] for failed system calls.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, cache_bytes: usize) -> Result<Self, Fault> {
        if !Self::exists(&*disk, path) {
            let temporary = temporary_beside(&*disk, path);
            let fresh = Self::create(&*disk, &temporary)?;
            fresh.write(&WriteBatch::default(), true)?;
            fresh.close()?;
            install(&*disk, &temporary, path)?;
        }
        let opened = Self::over(Engine::open(&*disk, path, cache_bytes)?)?;
        opened.renew_bulk(&opened.turn.lock(), opened.newest(), true)?;
        Ok(opened)
    }

    /// Whether there is a database at `path`.
    pub fn exists(disk: &dyn Disk, path: &Path) -> bool {
        disk.exists(path)
    }

    /// Starts an empty database in a new file. It is worth nothing before a durable write.
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<Self, Fault> {
        let engine = Engine::create(disk, path)?;
        write_transaction(&engine, &WriteBatch::default(), Counts::default(), false)
            .map_err(|error| engine::fault(&engine.file, error))?;
        Self::over(engine)
    }

    fn over(engine: Engine) -> Result<Self, Fault> {
        let newest = Frozen::newest(&engine.database, &engine.file)?;
        let (_, counts) = newest.state()?;
        Ok(Self {
            bulk: Mutex::default(),
            newest: RwLock::new(Arc::new(newest)),
            turn: Mutex::new(Turn {
                counts,
                is_durable: false,
                free_space: FreeSpace::default(),
            }),
            size: Mutex::new(counts.size(engine.file.length())),
            engine,
        })
    }

    /// Makes what was written durable, closes the file, and says if that failed. Dropping does the same in silence.
    pub(crate) fn close(self) -> Result<(), Fault> {
        drop((self.newest, self.bulk));
        self.engine.close()
    }

    /// The state that the tables hold; of a fresh database, revision 1 and nothing else.
    pub fn meta(&self) -> Result<Meta, Fault> {
        Ok(self.newest().state()?.0)
    }

    /// All leases, by id. Fails if one is missing.
    pub fn leases(&self) -> Result<Vec<LeaseRow>, Fault> {
        let mut leases = self.newest().leases()?;
        let mut all = Vec::new();
        while let Some(lease) = leases.next()? {
            all.push(lease);
        }
        Ok(all)
    }

    /// Hands every row to `visit`, in history order, as the newest write left them. Fails if one is missing.
    pub fn scan(&self, visit: impl FnMut(Revision, Row) -> Result<(), Fault>) -> Result<(), Fault> {
        self.scan_from(Revision::default(), visit)
    }

    /// As [`Tables::scan`] for the rows from `from` on, of which it cannot know whether one is missing.
    pub fn scan_from(
        &self,
        from: Revision,
        mut visit: impl FnMut(Revision, Row) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut rows = self.newest().rows(from)?;
        while let Some((revision, row)) = rows.next()? {
            visit(revision, row)?;
        }
        Ok(())
    }

    /// The row of one revision; none if it was never written or compaction deleted it.
    pub fn read(&self, revision: Revision) -> Result<Option<Row>, Fault> {
        self.newest().row(revision)
    }

    /// The rows of `revisions`, which must ascend; none for those that were never written. One that a compaction has
    /// deleted since the newest durable commit may still be there.
    pub(crate) fn rows(&self, revisions: &[Revision]) -> Result<Vec<Option<Row>>, Fault> {
        let mut rows = vec![None; revisions.len()];
        if let Some(bulk) = self.bulk_for(revisions.len()) {
            bulk.rows(revisions, |place, row| rows[place] = Some(row))?;
        }
        // Written since that commit, or not at all.
        let newest = self.newest();
        for (row, revision) in rows.iter_mut().zip(revisions).filter(|(row, _)| row.is_none()) {
            *row = newest.row(*revision)?;
        }
        Ok(rows)
    }

    /// The reader of the newest durable commit, if so many rows are worth it.
    fn bulk_for(&self, rows: usize) -> Option<Arc<BulkReader>> {
        let rows = rows as u64;
        if rows < BULK_ROWS_MIN {
            return None;
        }
        let mut bulk = self.bulk.lock();
        if rows < bulk.leaf_bytes / BULK_ROW_BYTES_MAX {
            return None;
        }
        bulk.wanted_for = BULK_WANTED_FOR;
        bulk.reader.clone()
    }

    /// Rows from `from` (inclusive) on, in order: as many as have at most `max_bytes` of `kv` together, but at least
    /// one if there is one.
    pub fn read_from(&self, from: Revision, max_bytes: usize) -> Result<Vec<(Revision, Row)>, Fault> {
        let mut rows = self.newest().rows(from)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        while let Some((revision, row)) = rows.next()? {
            bytes += row.kv.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push((revision, row));
        }
        Ok(found)
    }

    /// Makes all changes of `batch` in one transaction; with `durable`, they and all earlier ones are on disk when it
    /// returns.
    ///
    /// # Errors
    /// After an error the tables are not to be used any more: it is unknown what is on disk.
    pub fn write(&self, batch: &WriteBatch, durable: bool) -> Result<(), Fault> {
        let mut turn = self.turn.lock();
        turn.is_durable = false;
        let counts = &mut turn.counts;
        if mutant!("M04") {
            // The rows come first, the position that they are of in a transaction of its own.
            let rows_alone = WriteBatch {
                meta: self.meta()?,
                ..batch.clone()
            };
            *counts = write_transaction(&self.engine, &rows_alone, *counts, durable)
                .map_err(|error| engine::fault(&self.engine.file, error))?;
        }
        *counts = write_transaction(&self.engine, batch, *counts, durable)
            .map_err(|error| engine::fault(&self.engine.file, error))?;
        if let Some(fault) = self.engine.file.failure() {
            return Err(fault);
        }
        *self.size.lock() = counts.size(self.engine.file.length());
        turn.is_durable = durable;
        let newest = Arc::new(Frozen::newest(&self.engine.database, &self.engine.file)?);
        *self.newest.write() = Arc::clone(&newest);
        self.renew_bulk(&turn, newest, durable)
    }

    /// Gives space that the engine has no use for back to the file system: some of it, if the last write was durable.
    /// Whether there is more to give back after the next durable one.
    ///
    /// # Errors
    /// As [`Tables::write`]. A file system that cannot do it is no error.
    pub fn give_back_space(&self) -> Result<bool, Fault> {
        let mut turn = self.turn.lock();
        if !turn.is_durable {
            return Ok(false);
        }
        turn.free_space.give_back(&self.engine.file)
    }

    /// `newest` is the newest commit now, of whoever's turn it is.
    fn renew_bulk(&self, turn: &Turn, newest: Arc<Frozen>, durable: bool) -> Result<(), Fault> {
        let reader = match durable {
            true => BulkReader::of(newest, &self.engine.file)?.map(Arc::new),
            false => None,
        };
        let mut bulk = self.bulk.lock();
        bulk.leaf_bytes = turn.counts.leaf_bytes();
        if durable {
            bulk.wanted_for = bulk.wanted_for.saturating_sub(1);
            bulk.reader = reader;
        } else if bulk.wanted_for == 0 {
            bulk.reader = None;
        }
        Ok(())
    }

    /// Sizes as of the newest write. `allocated` is reckoned, not counted: see `counts.rs`.
    pub fn size(&self) -> DatabaseSize {
        *self.size.lock()
    }

    /// How much the newest write left: rows of history, bytes of their keys and values, leases.
    pub fn contents(&self) -> Contents {
        let counts = self.turn.lock().counts;
        Contents {
            rows: counts.rows,
            row_bytes: counts.row_bytes,
            leases: counts.leases,
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        self.engine.file.path()
    }

    /// The newest commit, for as long as it is held.
    pub(crate) fn newest(&self) -> Arc<Frozen> {
        self.newest.read().clone()
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
    let mut pieces = transaction.open_table(PIECES)?;
    if appends(&table, &batch.rows)? {
        append_rows(&mut table, &mut pieces, &batch.rows, counts)?;
    } else {
        insert_rows(&mut table, &mut pieces, &batch.rows, counts)?;
    }
    delete_rows(&mut table, &mut pieces, &batch.deletes, counts)
}

/// Deletes rows. Those that lie close together, as what a compaction forgets mostly does, go in one walk, which writes
/// each page once; one by one each row would write its page anew.
fn delete_rows(
    table: &mut RevisionTable<'_>,
    pieces: &mut PieceTable<'_>,
    deletes: &[Revision],
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut deletes = deletes.to_vec();
    deletes.sort_unstable();
    deletes.dedup();
    let mut have_pieces = Vec::new();
    let mut deleted = |key: &RowKey, value: &[u8]| {
        counts.row_removed(value);
        if row::bytes_in_pieces(value) > 0 {
            have_pieces.push(*key);
        }
    };
    for run in deletes.chunk_by(|one, next| next.main - one.main <= WALKED_MAINS) {
        if let [alone] = run {
            let key = alone.to_bytes();
            if let Some(old) = table.remove(&key)? {
                deleted(&key, old.value());
            }
            continue;
        }
        let keys: Vec<_> = run.iter().map(|revision| revision.to_bytes()).collect();
        let mut wanted = keys.iter().peekable();
        table.retain_in::<&RowKey, _>(&keys[0]..=&keys[keys.len() - 1], |key, value| {
            while wanted.next_if(|wanted| *wanted < key).is_some() {}
            let is_kept = wanted.next_if_eq(&key).is_none();
            if !is_kept {
                deleted(key, value);
            }
            is_kept
        })?;
    }
    for key in have_pieces {
        // M47: a row's pieces stay behind.
        if mutant!("M47") {
            break;
        }
        let all = piece::key(&key, 0)..=piece::key(&key, u32::MAX);
        pieces.retain_in::<&[u8; piece::KEY_BYTES], _>(all.start()..=all.end(), |_, _| false)?;
    }
    Ok(())
}

type RowKey = [u8; Revision::ENCODED_BYTES];
type PieceTable<'txn> = Table<'txn, PieceKey, &'static [u8]>;
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
    pieces: &mut PieceTable<'_>,
    rows: &[(Revision, Arc<Row>)],
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut end = table.upper_bound_mut(Bound::<RevisionKey>::Unbounded)?;
    let mut pieces_end = pieces.upper_bound_mut(Bound::<PieceKey>::Unbounded)?;
    let mut value = Vec::new();
    for (revision, row) in rows {
        let key = revision.to_bytes();
        let in_pieces = row::encode_entry(*revision, row, &mut value);
        end.insert_before(&key, value.as_slice())?;
        for (number, piece) in (0..).zip(in_pieces) {
            pieces_end.insert_before(&piece::key(&key, number), piece)?;
        }
        counts.row_added(&value);
    }
    end.close()?;
    pieces_end.close()?;
    Ok(())
}

fn insert_rows(
    table: &mut RevisionTable<'_>,
    pieces: &mut PieceTable<'_>,
    rows: &[(Revision, Arc<Row>)],
    counts: &mut Counts,
) -> Result<(), redb::Error> {
    let mut value = Vec::new();
    for (revision, row) in rows {
        let key = revision.to_bytes();
        let in_pieces = row::encode_entry(*revision, row, &mut value);
        counts.row_added(&value);
        if let Some(old) = table.insert(&key, value.as_slice())? {
            counts.row_removed(old.value());
        }
        for (number, piece) in (0..).zip(in_pieces) {
            pieces.insert(&piece::key(&key, number), piece)?;
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
