//! What each command does to the [`State`]. Nothing here knows a clock, chance, or which member this is.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::state::State;
use crate::applied::{Applied, Deleted, Event, EventBatch, EventKind, Outcome, TxnApplied, TxnOpApplied};
use crate::command::{AlarmAction, AlarmKind, Command, CommandId, DeleteRange, Proposal, Put, Txn, TxnOp};
use crate::error::{Fault, Rejected};
use crate::key_value::{KeyValue, key_span};
use crate::mutant;
use crate::mvcc::index::KeyMeta;
use crate::mvcc::range::{Records, Span};
use crate::revision::Revision;
use crate::tables::Row;
use crate::txn::{self, Before, Decisions, Undecided};

/// What a command did that others must be told.
pub(super) enum Effect {
    /// The changes of one revision.
    Events(Arc<EventBatch>),
    /// The outcome of a command.
    Outcome(CommandId, Outcome),
    /// A lease was granted.
    LeaseGranted { id: i64, ttl: i64 },
    /// A lease is gone.
    LeaseRevoked { id: i64 },
}

/// An answer of every replica, or this member's own failure.
type Executed<T> = Result<Result<T, Rejected>, Fault>;

impl State {
    /// Applies one command that came in an entry of `term`.
    pub fn apply(&mut self, proposal: Proposal, term: u64, effects: &mut Vec<Effect>) -> Result<(), Fault> {
        let Proposal { id, low, command } = proposal;
        // M41: a command that was sent again to the next leader happens twice.
        let admitted = self.sessions.admit(id, low) || mutant!("M41");
        self.hash.add_command(id, low, admitted);
        if !admitted {
            crate::reached!("apply_second_copy_dropped");
            return Ok(());
        }
        let before = self.revision;
        let result = match self.refused_by_alarm(&command) {
            Some(rejected) => Err(rejected),
            None => self.execute(command, term, effects)?,
        };
        if let Some(events) = self.finish_revision() {
            effects.push(Effect::Events(events));
        }
        assert!(
            result.is_ok() || self.revision == before,
            "a rejected command changed something"
        );
        assert!(self.revision >= before, "revision went back");
        let outcome = Outcome {
            revision: self.revision,
            term,
            result,
        };
        effects.push(Effect::Outcome(id, outcome));
        Ok(())
    }

    fn execute(&mut self, command: Command, term: u64, effects: &mut Vec<Effect>) -> Executed<Applied> {
        match command {
            Command::Put(put) => {
                if let Err(rejected) = self.check_put(&put) {
                    return Ok(Err(rejected));
                }
                let prev_kv = self.put(&put)?;
                Ok(Ok(Applied::Put { prev_kv }))
            }
            Command::DeleteRange(delete) => Ok(Ok(Applied::DeleteRange(self.delete_range(&delete)?))),
            Command::Txn(txn) => Ok(self.txn(&txn)?.map(Applied::Txn)),
            Command::Compact { revision } => Ok(self.compact(revision)),
            Command::LeaseGrant { id, ttl } => Ok(self.grant(id, ttl, effects)),
            Command::LeaseRevoke { id, expiry_term } => self.revoke(id, expiry_term, term, effects),
            Command::Alarm {
                action,
                member,
                alarm,
            } => Ok(Ok(Applied::Alarm(self.alarm(action, member, alarm)))),
            Command::PublishMember {
                id,
                name,
                client_urls,
            } => Ok(self.publish(id, name, client_urls)),
            Command::ClusterVersion { version } => {
                self.hash
                    .replace_version(self.cluster_version.as_deref(), Some(&version));
                self.cluster_version = Some(version);
                Ok(Ok(Applied::Done))
            }
        }
    }

    /// What active alarms forbid (API specification 8.8).
    fn refused_by_alarm(&self, command: &Command) -> Option<Rejected> {
        if self.alarms.is_empty() {
            return None;
        }
        let (grows, changes) = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => (true, true),
            Command::Txn(txn) => (txn::has_put(txn), !txn::is_read_only(txn)),
            Command::DeleteRange(_) | Command::LeaseRevoke { .. } | Command::Compact { .. } => (false, true),
            Command::Alarm { .. } | Command::PublishMember { .. } | Command::ClusterVersion { .. } => {
                (false, false)
            }
        };
        let active = |kind| self.alarms.iter().any(|(_, active)| *active == kind);
        if changes && active(AlarmKind::Corrupt) {
            return Some(Rejected::Corrupt);
        }
        if grows && active(AlarmKind::NoSpace) {
            crate::reached!("nospace_refused_at_apply");
            return Some(Rejected::NoSpace);
        }
        None
    }

    /// Where the next change will stand.
    fn next_revision(&self) -> Revision {
        let sub = u32::try_from(self.events.len()).expect("a request has far fewer changes than 2^32");
        Revision::new(self.revision + 1, sub)
    }

    /// Ends the revision under way, if anything changed.
    fn finish_revision(&mut self) -> Option<Arc<EventBatch>> {
        if self.events.is_empty() {
            return None;
        }
        self.revision += 1;
        Some(Arc::new(EventBatch {
            revision: self.revision,
            events: std::mem::take(&mut self.events),
        }))
    }

    /// The record of a live key.
    fn record(&self, revision: Revision) -> Result<Arc<Row>, Fault> {
        if let Some(row) = self.overlay.get(revision) {
            return Ok(Arc::clone(row));
        }
        let row = self.tables.read(revision)?;
        row.map(Arc::new).ok_or_else(|| self.row_missing(revision))
    }

    fn check_put(&self, put: &Put) -> Result<(), Rejected> {
        if put.lease != 0 && self.leases.ttl(put.lease).is_none() {
            return Err(Rejected::LeaseNotFound);
        }
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && !self.index.get(&put.key).is_some_and(|meta| meta.live) {
            return Err(Rejected::KeyNotFound);
        }
        Ok(())
    }

    /// Writes a key that may be written, and returns the pair before if it was asked for.
    fn put(&mut self, put: &Put) -> Result<Option<bytes::Bytes>, Fault> {
        self.operations.puts += 1;
        let revision = self.next_revision();
        let newest = self.index.get(&put.key);
        let live = newest.filter(|meta| meta.live);
        let before = match live {
            Some(meta) if put.prev_kv || put.ignore_value => Some(self.record(meta.modified)?),
            _ => None,
        };
        let value = match &before {
            Some(before) if put.ignore_value => KeyValue::decode(&before.kv).unwrap_or_default().value,
            _ => &put.value,
        };
        let former_lease = live.map_or(0, |meta| meta.lease);
        let lease = if put.ignore_lease { former_lease } else { put.lease };
        let create = live.map_or(revision.main, |meta| meta.create);
        let version = live.map_or(1, |meta| meta.version + 1);
        let kv = self.arena.encode(&KeyValue {
            key: &put.key,
            create_revision: create as i64,
            mod_revision: revision.main as i64,
            version: version as i64,
            value,
            lease,
        });
        let meta = KeyMeta {
            create,
            modified: revision,
            version,
            lease,
            bytes: u32::try_from(kv.len()).expect("requests are limited far below 4 GiB"),
            live: true,
        };
        let moved = self.leases.move_key(&put.key, former_lease, lease);
        assert!(moved, "the lease was looked up before");
        self.write(&put.key, newest, meta, kv);
        Ok(before.filter(|_| put.prev_kv).map(|row| row.kv.clone()))
    }

    /// Deletes the live keys of a range, in key order.
    fn delete_range(&mut self, delete: &DeleteRange) -> Result<Deleted, Fault> {
        self.operations.deletes += 1;
        let mut keys = Vec::new();
        let span = Span::of(&delete.key, &delete.range_end);
        span.for_each(self.index.view(), |key, meta| {
            if meta.live {
                keys.push((bytes::Bytes::copy_from_slice(key), *meta));
            }
            ControlFlow::Continue(())
        });
        let mut deleted = Deleted {
            deleted: keys.len() as u64,
            prev_kvs: Vec::new(),
        };
        if delete.prev_kv {
            let revisions: Vec<_> = keys.iter().map(|(_, meta)| meta.modified).collect();
            for (row, revision) in self.rows(&revisions)?.into_iter().zip(revisions) {
                let row = row.ok_or_else(|| self.row_missing(revision))?;
                deleted.prev_kvs.push(row.kv.clone());
            }
        }
        if mutant!("M26") && keys.is_empty() {
            // A delete that deleted nothing takes a revision.
            self.revision += 1;
        }
        for (key, meta) in keys {
            self.delete(&key, meta);
        }
        Ok(deleted)
    }

    /// Writes the tombstone of a live key.
    fn delete(&mut self, key: &[u8], live: KeyMeta) {
        let revision = self.next_revision();
        let kv = self.arena.encode(&KeyValue {
            key,
            mod_revision: revision.main as i64,
            ..KeyValue::default()
        });
        self.leases.move_key(key, live.lease, 0);
        let dead = KeyMeta {
            create: 0,
            modified: revision,
            version: 0,
            lease: 0,
            bytes: u32::try_from(kv.len()).expect("requests are limited far below 4 GiB"),
            live: false,
        };
        self.write(key, Some(live), dead, kv);
    }

    /// Makes `meta` and its record the newest of `key`, everywhere.
    fn write(&mut self, key: &[u8], former: Option<KeyMeta>, meta: KeyMeta, kv: bytes::Bytes) {
        let previous = former.map(|meta| meta.modified);
        let live = former.filter(|meta| meta.live);
        self.hash.add_record(&kv);
        self.hash.replace_key(key, live.as_ref(), Some(&meta));
        self.history.push(meta.modified, previous);
        if live.is_some() != meta.live {
            self.live_changes.push(meta.modified, key, meta.live);
        }
        self.index.insert(key, meta);
        let key = kv.slice(key_span(&kv).expect("a record starts with its key"));
        let row = Row {
            tombstone: !meta.live,
            previous,
            kv: kv.clone(),
        };
        self.overlay.push(meta.modified, Arc::new(row));
        if self.events.is_empty() {
            // Most requests change one key, and the ring keeps this for long: no room for three more.
            self.events.reserve_exact(1);
        }
        self.events.push(Event {
            kind: if meta.live {
                EventKind::Put
            } else {
                EventKind::Delete
            },
            revision: meta.modified,
            key,
            kv,
            previous: live.map(|meta| meta.modified),
        });
    }

    fn txn(&mut self, txn: &Txn) -> Executed<TxnApplied> {
        let before = Before {
            state: self.reading(),
            compacted: self.compacted,
        };
        let lease_exists = |id| self.leases.ttl(id).is_some();
        let decided = before.decide(txn).and_then(|decisions| {
            before.check(txn, &decisions, lease_exists)?;
            Ok(decisions)
        });
        match decided {
            Ok(decisions) => self.run_txn(txn, &decisions).map(Ok),
            Err(Undecided::Rejected(rejected)) => {
                if mutant!("M23") && rejected == Rejected::LeaseNotFound {
                    // A transaction that did nothing takes a revision.
                    self.revision += 1;
                }
                if mutant!("M24")
                    && let Some(TxnOp::Put(first)) = txn.success.first()
                    && self.check_put(first).is_ok()
                {
                    // A transaction that is refused keeps its first write.
                    self.put(first)?;
                }
                Ok(Err(rejected))
            }
            Err(Undecided::Fault(fault)) => Err(fault),
            Err(Undecided::Lost(revision)) => Err(self.row_missing(revision)),
        }
    }

    fn run_txn(&mut self, txn: &Txn, decisions: &Decisions) -> Result<TxnApplied, Fault> {
        let mut decisions = decisions.iter();
        let before = self.operations.sum();
        let applied = self.run_branch(txn, &mut decisions)?;
        self.operations.txns += u64::from(self.operations.sum() > before + 1);
        assert!(
            decisions.next().is_none() || mutant!("M25"),
            "a decided transaction was not run"
        );
        Ok(applied)
    }

    fn run_branch(
        &mut self,
        txn: &Txn,
        decisions: &mut dyn Iterator<Item = bool>,
    ) -> Result<TxnApplied, Fault> {
        let succeeded = decisions
            .next()
            .expect("one decision per transaction on the path");
        let branch = txn::branch(txn, succeeded);
        let mut responses = Vec::with_capacity(branch.len());
        for op in branch {
            responses.push(match op {
                TxnOp::Range(range) => {
                    self.operations.ranges += 1;
                    let reading = self.reading();
                    let read = reading.range(range)?;
                    let revision = reading.present;
                    if let Some(missing) = read.damaged(self.compacted) {
                        return Err(self.row_missing(missing));
                    }
                    TxnOpApplied::Range {
                        revision,
                        result: read.result,
                    }
                }
                TxnOp::Put(put) => {
                    let prev_kv = self.put(put)?;
                    TxnOpApplied::Put {
                        revision: self.revision + 1,
                        prev_kv,
                    }
                }
                TxnOp::DeleteRange(delete) => {
                    let deleted = self.delete_range(delete)?;
                    TxnOpApplied::DeleteRange {
                        revision: self.reading().present,
                        deleted,
                    }
                }
                TxnOp::Txn(nested) if mutant!("M25") => {
                    // Its compares see what its siblings have just written.
                    let state = self.reading();
                    let compacted = self.compacted;
                    let now = Before { state, compacted }.decide(nested).unwrap_or_default();
                    TxnOpApplied::Txn(self.run_branch(nested, &mut now.iter())?)
                }
                TxnOp::Txn(nested) => {
                    crate::reached!("txn_of_nested_branches");
                    TxnOpApplied::Txn(self.run_branch(nested, decisions)?)
                }
            });
        }
        Ok(TxnApplied { succeeded, responses })
    }

    /// Makes older revisions unreadable. Rows go later, by and by (API specification 8.1).
    fn compact(&mut self, revision: i64) -> Result<Applied, Rejected> {
        let never = -1;
        if revision <= self.compacted.map_or(never, |compacted| compacted as i64) {
            return Err(Rejected::Compacted);
        }
        let revision = u64::try_from(revision).expect("-1 and below are compacted");
        if revision > self.revision {
            return Err(Rejected::FutureRevision);
        }
        crate::fail_point!("compactBeforeCommitScheduledCompact");
        self.hash.replace_compacted(self.compacted, Some(revision));
        self.compacted = Some(revision);
        self.history.truncate_before(revision + 1);
        crate::fail_point!("compactAfterCommitScheduledCompact");
        Ok(Applied::Compact)
    }

    fn grant(&mut self, id: i64, ttl: i64, effects: &mut Vec<Effect>) -> Result<Applied, Rejected> {
        self.leases.grant(id, ttl)?;
        self.hash.add_lease(id, ttl);
        effects.push(Effect::LeaseGranted { id, ttl });
        Ok(Applied::LeaseGrant { id, ttl })
    }

    /// Ends a lease; its keys go in one revision, in key order.
    fn revoke(
        &mut self,
        id: i64,
        expiry_term: Option<u64>,
        term: u64,
        effects: &mut Vec<Effect>,
    ) -> Executed<Applied> {
        // M38: a leader that was replaced ends leases that the new one has renewed.
        if expiry_term.is_some_and(|counted_in| counted_in != term) && !mutant!("M38") {
            crate::reached!("lease_expiry_of_former_term");
            return Ok(Err(Rejected::ExpiryStale));
        }
        let Some(keys) = self.leases.keys(id) else {
            return Ok(Err(Rejected::LeaseNotFound));
        };
        if expiry_term.is_some() && !keys.is_empty() {
            crate::reached!("lease_ended_with_keys");
        }
        for key in keys {
            let live = self.index.get(&key).filter(|meta| meta.live && meta.lease == id);
            self.delete(&key, live.expect("an attached key is alive and knows its lease"));
        }
        let ttl = self.leases.remove(id).expect("it was there");
        self.hash.remove_lease(id, ttl);
        effects.push(Effect::LeaseRevoked { id });
        Ok(Ok(Applied::LeaseRevoke))
    }

    fn alarm(&mut self, action: AlarmAction, member: u64, kind: AlarmKind) -> Vec<(u64, AlarmKind)> {
        let touched = match action {
            AlarmAction::Get => {
                let asked = |alarm: &&(u64, AlarmKind)| kind == AlarmKind::None || alarm.1 == kind;
                return self.alarms.iter().filter(asked).copied().collect();
            }
            AlarmAction::Activate if kind == AlarmKind::None => false,
            AlarmAction::Activate => {
                if self.alarms.insert((member, kind)) {
                    self.hash.add_alarm(member, kind);
                }
                true
            }
            AlarmAction::Deactivate => {
                let removed = self.alarms.remove(&(member, kind));
                if removed {
                    self.hash.remove_alarm(member, kind);
                }
                removed
            }
        };
        Vec::from_iter(touched.then_some((member, kind)))
    }

    fn publish(&mut self, id: u64, name: String, client_urls: Vec<String>) -> Result<Applied, Rejected> {
        let member = self.members.get_mut(&id).ok_or(Rejected::MemberNotFound)?;
        let old = member.clone();
        member.name = name;
        member.client_urls = client_urls;
        self.hash.replace_member(Some(&old), Some(member));
        Ok(Applied::Done)
    }
}
