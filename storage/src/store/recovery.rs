//! Making the state in memory again from a checkpoint, and finding out whether the checkpoint is whole.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use bytes::Bytes;

use super::Operations;
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
use crate::tables::{Meta, Row, Tables};

/// The newest record of each key, while rows come in.
type Newest = HashMap<Bytes, KeyMeta, BuildHasherDefault<DefaultHasher>>;

/// Builds the state that `tables` holds.
///
/// # Errors
/// [`Fault::Damaged`] if rows are missing or do not belong together (reliability rule R10).
pub(super) fn recover(tables: Arc<Tables>, overlay_bytes: usize, generation: u64) -> Result<State, Fault> {
    let meta = tables.meta()?;
    let damaged = |what: String| Fault::damaged(tables.path(), 0, what);
    let (sessions, mut hash) = decode_extras(&meta.sessions)
        .ok_or_else(|| damaged("the table of command ids is unreadable".into()))?;
    let leases = tables.leases()?;
    let mut leases = Leases::restore(leases.iter().map(|lease| (lease.id, lease.ttl)));
    let (entries, history) = read_rows(&tables, &meta)?;
    for (key, newest) in &entries {
        hash.replace_key(key, None, Some(newest));
        if newest.live && !leases.move_key(key, 0, newest.lease) {
            return Err(damaged(format!("lease {} of a key is missing", newest.lease)));
        }
    }
    add_the_rest(&mut hash, &leases, &meta);
    if meta.compact_finished < meta.compact_scheduled {
        crate::reached!("compaction_began_again");
    }
    if hash.value() != meta.hash {
        return Err(damaged(
            "the rows are not the state that the checkpoint was made of".into(),
        ));
    }
    let mut revision = meta.revision;
    if mutant!("M29") {
        // What the newest live key says: too low if the last change was a delete.
        let live = entries.iter().filter(|(_, newest)| newest.live);
        revision = live.map(|(_, newest)| newest.modified.main).max().unwrap_or(1);
    }
    Ok(State {
        applied: meta.applied,
        membership: meta.membership,
        revision,
        compacted: meta.compact_scheduled,
        compact_finished: meta.compact_finished,
        index: Index::bulk_load(entries),
        history,
        live_changes: LiveChanges::new(meta.revision),
        overlay: Overlay::new(meta.revision, overlay_bytes),
        tables,
        arena: RecordArena::default(),
        events: Vec::new(),
        leases,
        alarms: meta.alarms.into_iter().collect(),
        members: meta
            .members
            .into_iter()
            .map(|member| (member.id, member))
            .collect(),
        removed_members: meta.removed_members.into_iter().collect(),
        cluster_version: meta.cluster_version,
        sessions,
        hash,
        operations: Operations::default(),
        generation,
    })
}

/// One pass over the rows: newest record per key, in key order, and the links between records.
fn read_rows(tables: &Tables, meta: &Meta) -> Result<(Vec<(Bytes, KeyMeta)>, History), Fault> {
    let mut newest = Newest::default();
    let mut history = History::new(meta.compact_scheduled.unwrap_or(0) + 1);
    tables.scan(|revision, row| {
        let (key, record) = read_row(tables, revision, &row)?;
        if revision.main > meta.revision {
            return Err(Fault::damaged(
                tables.path(),
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
        Ok(())
    })?;
    let mut entries: Vec<_> = newest.into_iter().collect();
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok((entries, history))
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
