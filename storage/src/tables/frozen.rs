//! [`Frozen`]: the tables as one commit left them. All reads go through it, and check what they return.

use std::sync::Arc;

use redb::{Database, OwnedRange, ReadOnlyTable, ReadableDatabase, TableError};

use super::block_file::BlockFile;
use super::counts::Counts;
use super::engine::{LEASES, META, PIECES, PieceKey, REVISIONS, RevisionKey, STATE, fault};
use super::lease::{self, LeaseRow};
use super::meta::{self, BadMeta, Meta};
use super::piece;
use super::row::{self, Entry, Row};
use crate::error::Fault;
use crate::revision::Revision;

type RevisionTable = ReadOnlyTable<RevisionKey, &'static [u8]>;
type PieceTable = ReadOnlyTable<PieceKey, &'static [u8]>;
type LeaseTable = ReadOnlyTable<i64, &'static [u8]>;
type MetaTable = ReadOnlyTable<&'static str, &'static [u8]>;

/// The tables as one commit left them. While it is held, the pages of that commit are not reused.
pub(crate) struct Frozen {
    file: Arc<BlockFile>,
    revisions: RevisionTable,
    /// A database of format 1 has none before its first write by this version.
    pieces: Option<PieceTable>,
    leases: LeaseTable,
    meta: MetaTable,
}

impl Frozen {
    /// The newest commit.
    pub(super) fn newest(database: &Database, file: &Arc<BlockFile>) -> Result<Self, Fault> {
        let open = || -> Result<_, redb::Error> {
            let transaction = database.begin_read()?;
            let pieces = match transaction.open_table(PIECES) {
                Err(TableError::TableDoesNotExist(_)) => None,
                opened => Some(opened?),
            };
            Ok((
                transaction.open_table(REVISIONS)?,
                pieces,
                transaction.open_table(LEASES)?,
                transaction.open_table(META)?,
            ))
        };
        let (revisions, pieces, leases, meta) = open().map_err(|error| fault(file, error))?;
        Ok(Self {
            file: file.clone(),
            revisions,
            pieces,
            leases,
            meta,
        })
    }

    /// The state that the tables hold, and how much of it there is.
    pub(crate) fn state(&self) -> Result<(Meta, Counts), Fault> {
        let record = self
            .meta
            .get(STATE)
            .map_err(|error| fault(&self.file, error))?
            .ok_or_else(|| self.damaged("the state record is missing"))?;
        meta::decode(record.value()).map_err(|bad| match bad {
            BadMeta::Damaged => self.damaged("the state record is damaged"),
            BadMeta::Newer(version) => Fault::Unusable {
                path: self.file.path().to_owned(),
                what: format!(
                    "data format {version} is newer than the format {} of this version; start the version that wrote it",
                    meta::FORMAT_VERSION
                ),
            },
        })
    }

    /// The row of one revision.
    pub(crate) fn row(&self, revision: Revision) -> Result<Option<Row>, Fault> {
        let key = revision.to_bytes();
        match self.revisions.get(&key) {
            Ok(None) => Ok(None),
            Ok(Some(value)) => self.row_of(&key, value.value()).map(Some),
            Err(error) => Err(fault(&self.file, error)),
        }
    }

    /// The row with this key and value.
    fn row_of(&self, key: &[u8; Revision::ENCODED_BYTES], value: &[u8]) -> Result<Row, Fault> {
        let row = match row::decode_entry(key, value) {
            Some(Entry::Whole(row)) => Some(row),
            Some(Entry::InPieces(mut row)) => {
                let range = piece::key(key, 0)..piece::key(key, row.pieces());
                if let Some(pieces) = &self.pieces {
                    let found = pieces
                        .range::<&[u8; piece::KEY_BYTES]>(&range.start..&range.end)
                        .map_err(|error| fault(&self.file, error))?;
                    for (number, found) in (0..).zip(found) {
                        let (_, content) = found.map_err(|error| fault(&self.file, error))?;
                        // One that is not the row's own fails its checksum.
                        let _ = row.put(number, content.value());
                    }
                }
                row.finish()
            }
            None => None,
        };
        row.ok_or_else(|| self.damaged_row(Revision::from_bytes(*key)))
    }

    /// The rows from `from` on. Having counted all of them, it fails if there were not as many as had been written.
    pub(crate) fn rows(self: &Arc<Self>, from: Revision) -> Result<Rows, Fault> {
        let expected = match from {
            Revision { main: 0, sub: 0 } => Some(self.state()?.1.rows),
            _ => None,
        };
        let first = from.to_bytes();
        let range = self
            .revisions
            .range_owned::<&[u8; Revision::ENCODED_BYTES]>(&first..)
            .map_err(|error| fault(&self.file, error))?;
        Ok(Rows {
            tables: self.clone(),
            range,
            found: 0,
            expected,
        })
    }

    /// All leases, by id. Fails like [`Frozen::rows`].
    pub(crate) fn leases(self: &Arc<Self>) -> Result<Leases, Fault> {
        let expected = self.state()?.1.leases;
        let range = self
            .leases
            .range_owned::<i64>(..)
            .map_err(|error| fault(&self.file, error))?;
        Ok(Leases {
            tables: self.clone(),
            range,
            found: 0,
            expected,
        })
    }

    fn check_count(&self, what: &str, found: u64, expected: u64) -> Result<(), Fault> {
        if found == expected {
            return Ok(());
        }
        Err(self.damaged(&format!("{found} {what} found where {expected} were written")))
    }

    /// The row of this revision is not what was written.
    pub(super) fn damaged_row(&self, revision: Revision) -> Fault {
        self.damaged(&format!("row {revision} fails its checksum"))
    }

    fn damaged(&self, what: &str) -> Fault {
        Fault::damaged(self.file.path(), 0, what)
    }
}

/// Rows in history order. After an error it must not be asked again.
pub(crate) struct Rows {
    tables: Arc<Frozen>,
    range: OwnedRange<RevisionKey, &'static [u8]>,
    found: u64,
    /// How many there must be in the end, if the range is the whole table.
    expected: Option<u64>,
}

impl Rows {
    /// The next row; none behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<(Revision, Row)>, Fault> {
        let Some(entry) = self.range.next() else {
            let expected = self.expected.unwrap_or(self.found);
            self.tables.check_count("rows", self.found, expected)?;
            return Ok(None);
        };
        let (key, value) = entry.map_err(|error| fault(&self.tables.file, error))?;
        let revision = Revision::from_bytes(*key.value());
        self.found += 1;
        let row = self.tables.row_of(key.value(), value.value())?;
        Ok(Some((revision, row)))
    }
}

/// Leases by id. After an error it must not be asked again.
pub(crate) struct Leases {
    tables: Arc<Frozen>,
    range: OwnedRange<i64, &'static [u8]>,
    found: u64,
    expected: u64,
}

impl Leases {
    /// The next lease; none behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<LeaseRow>, Fault> {
        let Some(entry) = self.range.next() else {
            self.tables.check_count("leases", self.found, self.expected)?;
            return Ok(None);
        };
        let (id, value) = entry.map_err(|error| fault(&self.tables.file, error))?;
        let id = id.value();
        self.found += 1;
        match lease::decode(id, value.value()) {
            Some(lease) => Ok(Some(lease)),
            None => Err(self.tables.damaged(&format!("lease {id} fails its checksum"))),
        }
    }
}
