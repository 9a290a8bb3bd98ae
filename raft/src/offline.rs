//! The log of a member that does not run: its entries one by one, and its state replayed from them. Nothing here needs a
//! runtime; over a [`kelson_storage::read_only_disk::ReadOnlyDisk`] nothing is written either.

use std::path::Path;
use std::sync::Arc;

use kelson_storage::codec;
use kelson_storage::command::Proposal;
use kelson_storage::disk::Disk;
use kelson_storage::error::Fault;
use kelson_storage::limits::{CacheBudget, UNWRITTEN_BYTES_MAX, WAL_SEGMENT_BYTES};
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{Store, StoreOptions};
use kelson_storage::wal::{Recovered, Wal, WalEntry, WalOptions, WalReader};
use openraft::EntryPayload;

use crate::codec::{decode_vote, entry_of};
use crate::log_storage::committed_in;
use crate::state_machine::apply_entry;
use crate::type_config::log_id;

/// Bytes of entries read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// What an entry of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a leader's first entry.
    Blank,
    /// Commands of clients and members, in order.
    Commands(Vec<Proposal>),
    /// Who the members are.
    Membership {
        /// The ids that vote; more than one set while a change is under way.
        voters: Vec<Vec<u64>>,
        /// All members, learners included, and where their peers reach them.
        peers: Vec<(u64, Vec<String>)>,
    },
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub position: LogPosition,
    /// What it says.
    pub content: Content,
    /// CRC-32 of the entry's bytes, the same on every member that has the entry.
    pub crc: u32,
}

/// The log as it was left.
pub struct Log {
    directory: std::path::PathBuf,
    recovered: Recovered,
    committed: Option<LogPosition>,
    reader: WalReader,
    _wal: Wal,
}

impl Log {
    /// Reads and checks the whole log in `directory`.
    ///
    /// # Errors
    /// Those of [`Wal::open`]: there is none, it is damaged, it is of another member, it is in use.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        cluster_id: u64,
        member_id: u64,
    ) -> Result<Self, Fault> {
        let options = WalOptions {
            directory: directory.to_owned(),
            cluster_id,
            member_id,
            segment_bytes: WAL_SEGMENT_BYTES,
        };
        let (wal, recovered) = Wal::open(disk, options, false)?;
        let reader = wal.reader();
        Ok(Self {
            directory: directory.to_owned(),
            committed: committed_in(&recovered, &reader)?,
            reader,
            recovered,
            _wal: wal,
        })
    }

    /// Index of the oldest entry that has not been purged.
    pub fn first(&self) -> u64 {
        self.recovered.purged.map_or(0, |purged| purged.index + 1)
    }

    /// The newest entry, or what was purged if there is none.
    pub fn last(&self) -> Option<LogPosition> {
        self.recovered.last
    }

    /// The newest entry that this member knew to be committed. Saved without a sync of its own, so after a power cut
    /// entries behind it may be committed too.
    pub fn committed(&self) -> Option<LogPosition> {
        self.committed
    }

    /// Term and candidate of the last vote.
    ///
    /// # Errors
    /// [`Fault::Damaged`] if it does not decode.
    pub fn vote(&self) -> Result<Option<(u64, u64)>, Fault> {
        let Some(bytes) = self.recovered.vote.clone() else {
            return Ok(None);
        };
        let vote = decode_vote(bytes).map_err(|error| self.unreadable(&error.to_string()))?;
        Ok(Some((vote.leader_id.term, vote.leader_id.voted_for)))
    }

    /// File, offset and bytes of a write that had not fully reached the disk; a start would cut it.
    pub fn torn_tail(&self) -> Option<&(std::path::PathBuf, u64, u64)> {
        self.recovered.tail_cut.as_ref()
    }

    /// Hands the entries from index `from` up to but not including `to` to `visit`, in order. It returns whether to go on.
    ///
    /// # Errors
    /// [`Fault::Damaged`] for bytes that are not what was written, and those of `visit`.
    pub fn for_each(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(Entry) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        self.for_each_raw(from, to, |entry| {
            let crc = crc32fast::hash(&entry.payload);
            let position = entry.position;
            let content = self.content(entry)?;
            visit(Entry {
                position,
                content,
                crc,
            })
        })
    }

    /// Opens the database and applies to it the committed entries it lacks, up to but not including index `to`. Returns
    /// the state and the position that the database itself was at. What is applied is written to the database as the
    /// server does, so `disk` is one that keeps writes to itself.
    ///
    /// # Errors
    /// Those of [`Store::open`] and of apply; [`Fault::Unusable`] if log and database do not fit each other.
    pub fn replay(
        &self,
        disk: Arc<dyn Disk>,
        database: &Path,
        to: u64,
    ) -> Result<(Store, Option<LogPosition>), Fault> {
        let options = StoreOptions {
            database: database.to_owned(),
            cache: CacheBudget::default(),
        };
        if !disk.exists(database) {
            return Err(self.unusable("there is no database beside this log".to_owned()));
        }
        let mut store = Store::open(disk, options)?;
        let checkpoint = store.applied();
        let next = checkpoint.map_or(0, |at| at.index + 1);
        if checkpoint > self.last() || next < self.first() {
            return Err(self.unusable(format!(
                "the log holds entries {} to {:?}, the database is at {checkpoint:?}: they do not fit",
                self.first(),
                self.last()
            )));
        }
        let mut checkpointer = store.checkpointer();
        let committed = self.committed().map_or(0, |at| at.index + 1);
        self.for_each_raw(next, committed.min(to), |entry| {
            let id = log_id(entry.position);
            let payload = self.payload(entry)?;
            apply_entry(&mut store, id, payload, &mut ())?;
            if store.reader().unwritten_bytes() > UNWRITTEN_BYTES_MAX {
                checkpointer.step(false)?;
            }
            Ok(true)
        })?;
        while checkpointer.step(true)?.compaction_pending {}
        Ok((store, checkpoint))
    }

    fn for_each_raw(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(WalEntry) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut next = from;
        while next < to {
            let entries = self.reader.read(next, to, READ_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                next = entry.position.index + 1;
                if !visit(entry)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn payload(
        &self,
        entry: WalEntry,
    ) -> Result<EntryPayload<crate::type_config::Batch, u64, crate::type_config::PeerNode>, Fault> {
        let decoded = entry_of(log_id(entry.position), entry.payload);
        decoded
            .map(|entry| entry.payload)
            .map_err(|error| self.unreadable(&error.to_string()))
    }

    fn content(&self, entry: WalEntry) -> Result<Content, Fault> {
        let position = entry.position;
        Ok(match self.payload(entry)? {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(batch) => {
                let proposals: Result<Vec<_>, _> = codec::decode_batch(&batch.proposals()).collect();
                let unreadable = |error| self.unreadable(&format!("entry {position}: {error}"));
                Content::Commands(proposals.map_err(unreadable)?)
            }
            EntryPayload::Membership(membership) => {
                let voters = membership.get_joint_config().iter();
                let peers = membership.nodes();
                Content::Membership {
                    voters: voters.map(|voters| voters.iter().copied().collect()).collect(),
                    peers: peers.map(|(id, node)| (*id, node.urls.clone())).collect(),
                }
            }
        })
    }

    /// Sound bytes that this version cannot read: a newer one wrote them.
    fn unreadable(&self, what: &str) -> Fault {
        self.unusable(format!("{what}; use the version that wrote it"))
    }

    fn unusable(&self, what: String) -> Fault {
        Fault::Unusable {
            path: self.directory.clone(),
            what,
        }
    }
}
