//! [`State`]: the replicated state in memory, and what of it a checkpoint keeps besides rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::rolling_hash::RollingHash;
use super::sessions::Sessions;
use super::{MemberRecord, Operations};
use crate::applied::Event;
use crate::codec::DecodeError;
use crate::command::{AlarmKind, Command, TxnOp};
use crate::error::Fault;
use crate::key_value::RecordArena;
use crate::lease::Leases;
use crate::mvcc::history::History;
use crate::mvcc::index::Index;
use crate::mvcc::live_changes::LiveChanges;
use crate::mvcc::overlay::Overlay;
use crate::mvcc::range::{Reading, Records, Span};
use crate::revision::{LogPosition, Revision};
use crate::tables::{Meta, Row, Tables};

/// Everything that apply changes. At most one revision is under way (in `events`); while it is, the lock is held.
pub(super) struct State {
    pub applied: Option<LogPosition>,
    pub membership: Option<(Option<LogPosition>, Bytes)>,
    /// Main revision; never goes back.
    pub revision: u64,
    /// The compact revision; at most `revision`, never goes back.
    pub compacted: Option<u64>,
    /// The compact revision whose dead rows are gone from the disk for good.
    pub compact_finished: Option<u64>,

    pub index: Index,
    pub history: History,
    pub live_changes: LiveChanges,
    pub overlay: Overlay,
    pub tables: Arc<Tables>,
    pub arena: RecordArena,
    /// Changes of the revision under way.
    pub events: Vec<Event>,

    pub leases: Leases,
    pub alarms: BTreeSet<(u64, AlarmKind)>,
    pub members: BTreeMap<u64, MemberRecord>,
    pub removed_members: BTreeSet<u64>,
    pub cluster_version: Option<String>,
    pub sessions: Sessions,
    pub hash: RollingHash,
    /// Counted since the process started; no part of the replicated state.
    pub operations: Operations,

    /// The revision that the index file on disk is of.
    pub index_file: Option<u64>,
    /// Grows whenever the state is replaced by a snapshot.
    pub generation: u64,
}

impl State {
    /// # Panics
    /// When `at` does not follow what has been applied: the log has a gap, and going on would split the cluster.
    pub fn check_follows(&self, at: LogPosition) {
        match self.applied {
            Some(applied) => assert!(
                at.index == applied.index + 1 && at.term >= applied.term,
                "entry {at} does not follow {applied}"
            ),
            None => assert_eq!(at.index, 0, "the first entry is {at}"),
        }
    }

    /// A committed entry that cannot be decoded: written by a later version, or damaged.
    pub fn unreadable(&self, at: LogPosition, error: &DecodeError) -> Fault {
        Fault::Unusable {
            path: self.tables.path().to_owned(),
            what: format!("log entry {at} cannot be applied: {error}"),
        }
    }

    /// A row that must be there is not.
    pub fn row_missing(&self, revision: Revision) -> Fault {
        row_missing(&self.tables, revision)
    }

    /// The members as a membership entry lists them; what members have published about themselves is kept.
    pub fn set_members(&mut self, members: Vec<MemberRecord>) {
        let mut before = std::mem::take(&mut self.members);
        for mut member in members {
            let old = before.remove(&member.id);
            if let Some(old) = &old {
                member.name.clone_from(&old.name);
                member.client_urls.clone_from(&old.client_urls);
            }
            self.hash.replace_member(old.as_ref(), Some(&member));
            self.members.insert(member.id, member);
        }
        for (id, gone) in before {
            self.hash.replace_member(Some(&gone), None);
            if self.removed_members.insert(id) {
                self.hash.add_removed_member(id);
            }
        }
    }

    /// Gets ready for these commands: see [`IndexRoot::warm`](crate::mvcc::index::IndexRoot::warm).
    pub fn warm<'c>(&self, commands: impl Iterator<Item = &'c Command>) {
        let mut keys: Vec<&[u8]> = Vec::new();
        for command in commands {
            match command {
                Command::Put(put) => keys.push(&put.key),
                Command::Txn(txn) => {
                    let puts = txn.success.iter().filter_map(|op| match op {
                        TxnOp::Put(put) => Some(&put.key),
                        _ => None,
                    });
                    keys.extend(puts.map(|key| &key[..]));
                }
                _ => {}
            }
        }
        self.index.view().warm(&keys);
    }

    /// The state as readers inside apply see it, changes of the revision under way included.
    pub fn reading(&self) -> Reading<'_, Self> {
        Reading {
            root: self.index.view(),
            present: self.revision + u64::from(!self.events.is_empty()),
            records: self,
        }
    }

    /// What a checkpoint keeps besides rows and leases.
    pub fn meta(&self, compact_finished: Option<u64>) -> Meta {
        Meta {
            applied: self.applied,
            membership: self.membership.clone(),
            revision: self.revision,
            compact_scheduled: self.compacted,
            compact_finished,
            sessions: encode_extras(&self.sessions, &self.hash),
            hash: self.hash.value(),
            members: self.members.values().cloned().collect(),
            removed_members: self.removed_members.iter().copied().collect(),
            alarms: self.alarms.iter().copied().collect(),
            cluster_version: self.cluster_version.clone(),
            log_end: 0,
        }
    }
}

impl Records for State {
    fn rows(&self, revisions: &[Revision]) -> Result<Vec<Option<Arc<Row>>>, Fault> {
        let row = |revision: &Revision| match self.overlay.get(*revision) {
            Some(row) => Ok(Some(Arc::clone(row))),
            None => Ok(self.tables.read(*revision)?.map(Arc::new)),
        };
        revisions.iter().map(row).collect()
    }

    fn at_or_below(&self, revisions: &[Revision], main: u64) -> Vec<Option<Revision>> {
        let trace = |newest: &Revision| {
            let mut revision = *newest;
            while revision.main > main {
                revision = self.history.previous(revision)?;
            }
            Some(revision)
        };
        revisions.iter().map(trace).collect()
    }

    fn count_change(&self, from: u64, to: u64, span: Span<'_>, changes_max: usize) -> Option<i64> {
        let Span::From(start, end) = span else {
            return None;
        };
        if self.live_changes.changes_since(from)? > changes_max {
            return None;
        }
        let since_from = self.live_changes.count_delta_since(from, start, end)?;
        let since_to = self.live_changes.count_delta_since(to, start, end)?;
        Some(since_from - since_to)
    }
}

/// A row that must be there is not.
pub(super) fn row_missing(tables: &Tables, revision: Revision) -> Fault {
    Fault::damaged(
        tables.path(),
        0,
        format!("the row of revision {revision} is missing"),
    )
}

/// Version of the bytes in [`Meta::sessions`].
const EXTRAS_VERSION: u8 = 1;

/// `version u8 | log part of the rolling hash u64 | sessions`, big-endian.
fn encode_extras(sessions: &Sessions, hash: &RollingHash) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(EXTRAS_VERSION);
    bytes.put_u64(hash.log());
    sessions.encode(&mut bytes);
    bytes.freeze()
}

/// Reads what [`encode_extras`] wrote; nothing at all is the state before the first checkpoint.
pub(super) fn decode_extras(mut bytes: &[u8]) -> Option<(Sessions, RollingHash)> {
    if bytes.is_empty() {
        return Some(Default::default());
    }
    if bytes.try_get_u8().ok()? != EXTRAS_VERSION {
        return None;
    }
    let hash = RollingHash::restore(bytes.try_get_u64().ok()?);
    let sessions = Sessions::decode(&mut bytes)?;
    bytes.is_empty().then_some((sessions, hash))
}
