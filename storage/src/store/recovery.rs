//! Making the state in memory again from a checkpoint, and finding out whether the checkpoint is whole.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use bytes::Bytes;

use super::Operations;
use super::index_file::{Entry, Reader, Unfit};
use super::rolling_hash::RollingHash;
use super::state::{State, decode_extras};
use crate::error::Fault;
use crate::key_value::{KeyValue, RecordArena};
use crate::lease::Leases;
use crate::mutant;
use crate::mvcc::history::History;
use crate::mvcc::index::{Index, KeyMeta};
use crate::mvcc::live_changes::LiveChanges;
use crate::mvcc::overlay::Overlay;
use crate::revision::Revision;
use crate::tables::{LeaseRow, Meta, Row, Tables};

/// The newest record of each key, while rows come in.
type Newest = HashMap<Bytes, KeyMeta, BuildHasherDefault<DefaultHasher>>;

/// The revision of a fresh database, at which nothing was written.
const FIRST_REVISION: u64 = 1;

/// How the state came into memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Whether the index came from the index file.
    pub from_index_file: bool,
    /// Why the index file that was there was not taken.
    pub unfit: Option<String>,
    /// Rows that were read.
    pub rows: u64,
    /// Keys in the index, deleted ones included.
    pub keys: u64,
}

/// What is made again from rows, or from an index file and the rows after it.
struct Rebuilt {
    index: Index,
    history: History,
    leases: Leases,
    hash: RollingHash,
    /// The main revision of the newest live key.
    newest: u64,
    opening: Opening,
}

/// Why there is no state.
enum Failure {
    /// The member's own.
    Fault(Fault),
    /// Why what was read is not the state of the checkpoint.
    Unlike(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Unfit> for Failure {
    fn from(unfit: Unfit) -> Self {
        Self::Unlike(unfit.to_string())
    }
}

/// Builds the state that `tables` holds, with the help of the index file beside it, if one is given.
///
/// # Errors
/// [`Fault::Damaged`] if rows are missing or do not belong together (reliability rule R10).
pub(super) fn recover(
    tables: Arc<Tables>,
    index_file: Result<Option<Reader>, Unfit>,
    overlay_bytes: usize,
    generation: u64,
) -> Result<(State, Opening), Fault> {
    let meta = tables.meta()?;
    let damaged = |what: String| Fault::damaged(tables.path(), 0, what);
    let (sessions, log_hash) = decode_extras(&meta.sessions)
        .ok_or_else(|| damaged("the table of command ids is unreadable".into()))?;
    let checkpoint = Checkpoint {
        tables: &tables,
        meta: &meta,
        log_hash,
        leases: tables.leases()?,
    };
    let mut file_revision = None;
    let (from_file, unfit) = match index_file {
        Ok(Some(reader)) => {
            let revision = reader.revision();
            match checkpoint.read_index_file(reader) {
                Ok(rebuilt) => {
                    crate::reached!("index_file_taken");
                    file_revision = Some(revision);
                    (Some(rebuilt), None)
                }
                Err(Failure::Fault(fault)) => return Err(fault),
                Err(Failure::Unlike(why)) => (None, Some(why)),
            }
        }
        Ok(None) => (None, None),
        Err(unfit) => (None, Some(unfit.to_string())),
    };
    let rebuilt = match from_file {
        Some(rebuilt) => rebuilt,
        None => match checkpoint.read_all_rows() {
            Ok(rebuilt) => rebuilt,
            Err(Failure::Fault(fault)) => return Err(fault),
            Err(Failure::Unlike(what)) => return Err(damaged(what)),
        },
    };
    if unfit.is_some() {
        crate::reached!("index_file_refused");
    }
    if meta.compact_finished < meta.compact_scheduled {
        crate::reached!("compaction_began_again");
    }
    let mut revision = meta.revision;
    if mutant!("M29") {
        // What the newest live key says: too low if the last change was a delete.
        revision = rebuilt.newest.max(1);
    }
    let mut opening = rebuilt.opening;
    opening.unfit = unfit;
    let state = State {
        applied: meta.applied,
        membership: meta.membership,
        revision,
        compacted: meta.compact_scheduled,
        compact_finished: meta.compact_finished,
        index: rebuilt.index,
        history: rebuilt.history,
        live_changes: LiveChanges::new(meta.revision),
        overlay: Overlay::new(meta.revision, overlay_bytes),
        tables,
        arena: RecordArena::default(),
        events: Vec::new(),
        leases: rebuilt.leases,
        alarms: meta.alarms.into_iter().collect(),
        members: meta
            .members
            .into_iter()
            .map(|member| (member.id, member))
            .collect(),
        removed_members: meta.removed_members.into_iter().collect(),
        cluster_version: meta.cluster_version,
        sessions,
        hash: rebuilt.hash,
        operations: Operations::default(),
        index_file: file_revision,
        generation,
    };
    Ok((state, opening))
}

/// What a state is rebuilt from.
struct Checkpoint<'a> {
    tables: &'a Tables,
    meta: &'a Meta,
    /// The part of the rolling hash that only the checkpoint knows.
    log_hash: RollingHash,
    leases: Vec<LeaseRow>,
}

impl Checkpoint<'_> {
    /// From all rows.
    fn read_all_rows(&self) -> Result<Rebuilt, Failure> {
        let first_main = self.meta.compact_scheduled.unwrap_or(0) + 1;
        let rows = self.read_rows(Revision::default(), first_main)?;
        let opening = Opening {
            rows: rows.count,
            ..Opening::default()
        };
        self.rebuild(rows.newest.into_iter().map(Ok), opening, |_| Ok(rows.history))
    }

    /// From an index file and the rows after it.
    ///
    /// The file says what was true at its revision, in the history of which this checkpoint is a later point. What can have
    /// become of it since: keys have newer rows, which are read. Compaction has deleted older rows, of which the index does
    /// not speak, and links, which are cut off here. It has deleted tombstones and with them their keys, which is found out
    /// here. A key that was deleted since has that row still, as no compaction has reached beyond the file.
    fn read_index_file(&self, reader: Reader) -> Result<Rebuilt, Failure> {
        let compacted = self.meta.compact_scheduled.unwrap_or(0);
        let revision = reader.revision();
        if revision > self.meta.revision {
            return Err(reader
                .unfit(format!("revision {revision} is after the checkpoint"))
                .into());
        }
        if compacted > revision {
            return Err(reader
                .unfit(format!("a compaction has reached beyond revision {revision}"))
                .into());
        }
        let rows = self.read_rows(Revision::new(revision + 1, 0), revision + 1)?;
        let opening = Opening {
            from_index_file: true,
            rows: rows.count,
            ..Opening::default()
        };
        let merged = Merged {
            checkpoint: self,
            reader,
            older: Vec::new().into_iter(),
            newer: rows.newest.into_iter().peekable(),
        };
        self.rebuild(merged, opening, |merged| {
            let reader = merged.reader;
            let mut history = reader.history()?;
            // M45: reads at revisions whose links the file had lost already find nothing there.
            if history.first_main() > compacted.max(FIRST_REVISION) + 1 && !mutant!("M45") {
                return Err(Failure::Unlike(format!(
                    "the index file knows no links before revision {}",
                    history.first_main()
                )));
            }
            history.truncate_before(compacted + 1);
            history.append(&rows.history);
            Ok(history)
        })
    }

    /// Puts together what `entries` yields; `history` makes the history when they have been taken.
    fn rebuild<I: Iterator<Item = Result<Entry, Failure>>>(
        &self,
        mut entries: I,
        mut opening: Opening,
        history: impl FnOnce(I) -> Result<History, Failure>,
    ) -> Result<Rebuilt, Failure> {
        let mut hash = self.log_hash;
        let mut leases = Leases::restore(self.leases.iter().map(|lease| (lease.id, lease.ttl)));
        let mut newest = 0;
        let mut failure = None;
        let index = Index::bulk_load(std::iter::from_fn(|| {
            let (key, meta) = match entries.next()? {
                Ok(entry) => entry,
                Err(error) => {
                    failure = Some(error);
                    return None;
                }
            };
            opening.keys += 1;
            if meta.live {
                hash.replace_key(&key, None, Some(&meta));
                newest = newest.max(meta.modified.main);
                if !leases.move_key(&key, 0, meta.lease) {
                    failure = Some(Failure::Unlike(format!(
                        "lease {} of a key is missing",
                        meta.lease
                    )));
                    return None;
                }
            }
            Some((key, meta))
        }));
        if let Some(failure) = failure {
            return Err(failure);
        }
        add_the_rest(&mut hash, &leases, self.meta);
        if hash.value() != self.meta.hash {
            return Err(Failure::Unlike(
                "the rows are not the state that the checkpoint was made of".into(),
            ));
        }
        Ok(Rebuilt {
            index,
            history: history(entries)?,
            leases,
            hash,
            newest,
            opening,
        })
    }

    /// One pass over the rows from `from` on: newest record per key, in key order, and the links from `first_main` on.
    fn read_rows(&self, from: Revision, first_main: u64) -> Result<NewRows, Fault> {
        let mut newest = Newest::default();
        let mut history = History::new(first_main);
        let mut count = 0;
        self.tables.scan_from(from, |revision, row| {
            let (key, record) = read_row(self.tables, revision, &row)?;
            if revision.main > self.meta.revision {
                return Err(Fault::damaged(
                    self.tables.path(),
                    0,
                    format!("row {revision} is from the future"),
                ));
            }
            match newest.get_mut(key) {
                Some(known) => *known = record,
                None => {
                    newest.insert(Bytes::copy_from_slice(key), record);
                }
            }
            history.push(revision, row.previous);
            count += 1;
            Ok(())
        })?;
        let mut newest: Vec<_> = newest.into_iter().collect();
        newest.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(NewRows {
            newest,
            history,
            count,
        })
    }

    /// Whether the tombstone at `revision` has not been compacted.
    fn has_tombstone(&self, revision: Revision) -> Result<bool, Fault> {
        let compacted = self.meta.compact_scheduled;
        if Some(revision.main) > compacted {
            return Ok(true);
        }
        if Some(revision.main) < compacted && self.meta.compact_finished == compacted {
            return Ok(false);
        }
        Ok(self.tables.read(revision)?.is_some())
    }
}

/// What one pass over rows found.
struct NewRows {
    newest: Vec<Entry>,
    history: History,
    count: u64,
}

/// The entries of an index file, with newer records in their places.
struct Merged<'a> {
    checkpoint: &'a Checkpoint<'a>,
    reader: Reader,
    older: std::vec::IntoIter<Entry>,
    newer: std::iter::Peekable<std::vec::IntoIter<Entry>>,
}

impl Merged<'_> {
    fn next_entry(&mut self) -> Result<Option<Entry>, Failure> {
        loop {
            if self.older.as_slice().is_empty() {
                self.older = self.reader.entries()?.into_iter();
            }
            let order = match (self.older.as_slice().first(), self.newer.peek()) {
                (Some((old, _)), Some((new, _))) => new.cmp(old),
                (Some(_), None) => Ordering::Greater,
                (None, _) => Ordering::Less,
            };
            if order != Ordering::Greater {
                if order == Ordering::Equal {
                    self.older.next();
                }
                return Ok(self.newer.next());
            }
            if let Some((key, meta)) = self.older.next()
                && (meta.live || self.checkpoint.has_tombstone(meta.modified)?)
            {
                return Ok(Some((key, meta)));
            }
        }
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Entry, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

fn read_row<'a>(tables: &Tables, revision: Revision, row: &'a Row) -> Result<(&'a [u8], KeyMeta), Fault> {
    let kv = KeyValue::decode(&row.kv).filter(|kv| !kv.key.is_empty());
    let kv =
        kv.ok_or_else(|| Fault::damaged(tables.path(), 0, format!("row {revision} is no key-value pair")))?;
    let record = KeyMeta {
        create: kv.create_revision as u64,
        modified: revision,
        version: kv.version as u64,
        lease: kv.lease,
        bytes: u32::try_from(row.kv.len()).unwrap_or(u32::MAX),
        live: !row.tombstone,
    };
    Ok((kv.key, record))
}

/// Adds to the hash what the rows do not hold.
fn add_the_rest(hash: &mut RollingHash, leases: &Leases, meta: &Meta) {
    for (id, ttl) in leases.iter() {
        hash.add_lease(id, ttl);
    }
    for (member, kind) in &meta.alarms {
        hash.add_alarm(*member, *kind);
    }
    for member in &meta.members {
        hash.replace_member(None, Some(member));
    }
    for id in &meta.removed_members {
        hash.add_removed_member(*id);
    }
    hash.replace_version(None, meta.cluster_version.as_deref());
    hash.replace_compacted(None, meta.compact_scheduled);
}
