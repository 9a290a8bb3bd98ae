//! What the store promises, as plainly as it can be said: every key with all its versions in one sorted map, every
//! read a walk over all of it. Written from the API specification; section numbers are its.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kelson_storage::applied::{
    Applied, Deleted, Event, EventBatch, EventKind, Outcome, RangeResult, TxnApplied, TxnOpApplied,
};
use kelson_storage::command::*;
use kelson_storage::error::Rejected;
use kelson_storage::key_value::KeyValue;
use kelson_storage::revision::Revision;
use kelson_storage::store::MemberRecord;

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub revision: Revision,
    pub create: u64,
    pub version: u64,
    /// None: deleted.
    pub value: Option<Bytes>,
    pub lease: i64,
}

impl Version {
    pub fn encode(&self, key: &[u8]) -> Bytes {
        KeyValue {
            key,
            create_revision: self.create as i64,
            mod_revision: self.revision.main as i64,
            version: self.version as i64,
            value: self.value.as_deref().unwrap_or_default(),
            lease: self.lease,
        }
        .to_bytes()
    }
}

/// Applied command numbers of one origin's newest session, and its low mark.
#[derive(Clone, Debug, Default)]
struct Session {
    session: u64,
    low: u64,
    applied: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub revision: u64,
    /// -1: never compacted.
    pub compacted: i64,
    pub keys: BTreeMap<Bytes, Vec<Version>>,
    pub leases: BTreeMap<i64, i64>,
    pub alarms: BTreeSet<(u64, AlarmKind)>,
    pub members: BTreeMap<u64, MemberRecord>,
    pub removed: BTreeSet<u64>,
    pub cluster_version: Option<String>,
    /// All events ever, compacted or not.
    pub events: Vec<EventBatch>,
    sessions: BTreeMap<u64, Session>,
    /// Changes of the revision under way.
    pending: Vec<Event>,
}

/// What §3.1 says about `key` and `range_end`.
pub fn in_range(candidate: &[u8], key: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate < end,
    }
}

/// The branches chosen for a transaction and those nested in its chosen branch.
struct Plan {
    succeeded: bool,
    nested: Vec<Plan>,
}

impl Model {
    pub fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            cluster_version: None,
            events: Vec::new(),
            sessions: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// The outcome of a proposal; none if it is a second copy.
    pub fn apply(&mut self, proposal: &Proposal, term: u64) -> Option<Outcome> {
        if !self.is_first_copy(proposal) {
            return None;
        }
        let result = match self.alarmed(&proposal.command) {
            Some(rejected) => Err(rejected),
            None => self.execute(&proposal.command, term),
        };
        if !self.pending.is_empty() {
            self.revision += 1;
            self.events.push(EventBatch {
                revision: self.revision,
                events: std::mem::take(&mut self.pending),
            });
        }
        Some(Outcome {
            revision: self.revision,
            term,
            result,
        })
    }

    fn is_first_copy(&mut self, proposal: &Proposal) -> bool {
        let id = proposal.id;
        let session = self.sessions.entry(id.origin).or_default();
        if id.session < session.session {
            return false;
        }
        if id.session > session.session {
            *session = Session {
                session: id.session,
                ..Session::default()
            };
        }
        session.low = session.low.max(proposal.low);
        id.seq >= session.low && session.applied.insert(id.seq)
    }

    /// §8.8.
    fn alarmed(&self, command: &Command) -> Option<Rejected> {
        fn puts(txn: &Txn) -> bool {
            txn.success.iter().chain(&txn.failure).any(|op| match op {
                TxnOp::Put(_) => true,
                TxnOp::Txn(txn) => puts(txn),
                _ => false,
            })
        }
        let only_reads = |txn: &Txn| {
            let mut ops = txn.success.iter().chain(&txn.failure);
            ops.all(|op| matches!(op, TxnOp::Range(_)))
        };
        let active = |kind| self.alarms.iter().any(|alarm| alarm.1 == kind);
        let under_corrupt = match command {
            Command::Txn(txn) => !only_reads(txn),
            Command::Alarm { .. } | Command::PublishMember { .. } | Command::ClusterVersion { .. } => false,
            _ => true,
        };
        let under_no_space = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => puts(txn),
            _ => false,
        };
        if active(AlarmKind::Corrupt) && under_corrupt {
            return Some(Rejected::Corrupt);
        }
        (active(AlarmKind::NoSpace) && under_no_space).then_some(Rejected::NoSpace)
    }

    fn execute(&mut self, command: &Command, term: u64) -> Result<Applied, Rejected> {
        match command {
            Command::Put(put) => {
                self.check_put(put)?;
                let prev_kv = self.put(put);
                Ok(Applied::Put { prev_kv })
            }
            Command::DeleteRange(delete) => Ok(Applied::DeleteRange(self.delete(delete))),
            Command::Txn(txn) => self.txn(txn).map(Applied::Txn),
            Command::Compact { revision } => self.compact(*revision),
            Command::LeaseGrant { id, ttl } => {
                if *ttl > 9_000_000_000 {
                    return Err(Rejected::LeaseTtlTooLarge);
                }
                if self.leases.contains_key(id) {
                    return Err(Rejected::LeaseExists);
                }
                self.leases.insert(*id, *ttl);
                Ok(Applied::LeaseGrant { id: *id, ttl: *ttl })
            }
            Command::LeaseRevoke { id, expiry_term } => {
                if expiry_term.is_some_and(|expiry| expiry != term) {
                    return Err(Rejected::ExpiryStale);
                }
                self.leases.remove(id).ok_or(Rejected::LeaseNotFound)?;
                for key in self.attached(*id) {
                    self.delete_key(&key);
                }
                Ok(Applied::LeaseRevoke)
            }
            Command::Alarm {
                action,
                member,
                alarm,
            } => Ok(Applied::Alarm(self.alarm(*action, *member, *alarm))),
            Command::PublishMember {
                id,
                name,
                client_urls,
            } => {
                let member = self.members.get_mut(id).ok_or(Rejected::MemberNotFound)?;
                member.name.clone_from(name);
                member.client_urls.clone_from(client_urls);
                Ok(Applied::Done)
            }
            Command::ClusterVersion { version } => {
                self.cluster_version = Some(version.clone());
                Ok(Applied::Done)
            }
            other => panic!("no model of {other:?}"),
        }
    }

    pub fn set_members(&mut self, members: &[MemberRecord]) {
        let before = std::mem::take(&mut self.members);
        for member in members {
            let mut member = member.clone();
            if let Some(old) = before.get(&member.id) {
                member.name = old.name.clone();
                member.client_urls = old.client_urls.clone();
            }
            self.members.insert(member.id, member);
        }
        let gone = before.into_keys().filter(|id| !self.members.contains_key(id));
        self.removed.extend(gone);
    }

    fn alarm(&mut self, action: AlarmAction, member: u64, kind: AlarmKind) -> Vec<(u64, AlarmKind)> {
        match action {
            AlarmAction::Get if kind == AlarmKind::None => self.alarms.iter().copied().collect(),
            AlarmAction::Get => self
                .alarms
                .iter()
                .copied()
                .filter(|alarm| alarm.1 == kind)
                .collect(),
            AlarmAction::Activate if kind == AlarmKind::None => vec![],
            AlarmAction::Activate => {
                self.alarms.insert((member, kind));
                vec![(member, kind)]
            }
            AlarmAction::Deactivate if self.alarms.remove(&(member, kind)) => vec![(member, kind)],
            AlarmAction::Deactivate => vec![],
        }
    }

    /// Keys attached to a lease (§7.7), sorted.
    pub fn attached(&self, lease: i64) -> Vec<Bytes> {
        let keys = self
            .keys
            .keys()
            .filter(|key| self.live(key).is_some_and(|version| version.lease == lease));
        keys.cloned().collect()
    }

    /// The newest version of a key, if it is alive.
    fn live(&self, key: &[u8]) -> Option<&Version> {
        self.keys
            .get(key)?
            .last()
            .filter(|version| version.value.is_some())
    }

    fn next_revision(&self) -> Revision {
        Revision::new(self.revision + 1, self.pending.len() as u32)
    }

    /// §4.1, in this order.
    fn check_put(&self, put: &Put) -> Result<(), Rejected> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Rejected::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.live(&put.key).is_none() {
            return Err(Rejected::KeyNotFound);
        }
        Ok(())
    }

    /// §2.2.
    fn put(&mut self, put: &Put) -> Option<Bytes> {
        let before = self.live(&put.key).cloned();
        let revision = self.next_revision();
        let old = before.as_ref();
        let kept_value = old.filter(|_| put.ignore_value).and_then(|old| old.value.clone());
        let version = Version {
            revision,
            create: old.map_or(revision.main, |old| old.create),
            version: old.map_or(1, |old| old.version + 1),
            value: Some(kept_value.unwrap_or_else(|| put.value.clone())),
            lease: old
                .filter(|_| put.ignore_lease)
                .map_or(put.lease, |old| old.lease),
        };
        self.record(&put.key, EventKind::Put, version, old.map(|old| old.revision));
        old.filter(|_| put.prev_kv).map(|old| old.encode(&put.key))
    }

    fn delete_key(&mut self, key: &Bytes) -> Option<Version> {
        let before = self.live(key)?.clone();
        let tombstone = Version {
            revision: self.next_revision(),
            create: 0,
            version: 0,
            value: None,
            lease: 0,
        };
        self.record(key, EventKind::Delete, tombstone, Some(before.revision));
        Some(before)
    }

    fn record(&mut self, key: &Bytes, kind: EventKind, version: Version, previous: Option<Revision>) {
        self.pending.push(Event {
            kind,
            revision: version.revision,
            key: key.clone(),
            kv: version.encode(key),
            previous,
        });
        self.keys.entry(key.clone()).or_default().push(version);
    }

    /// §4.2.
    fn delete(&mut self, delete: &DeleteRange) -> Deleted {
        let keys: Vec<Bytes> = self.keys.keys().cloned().collect();
        let mut deleted = Deleted::default();
        for key in keys {
            if !in_range(&key, &delete.key, &delete.range_end) {
                continue;
            }
            if let Some(before) = self.delete_key(&key) {
                deleted.deleted += 1;
                if delete.prev_kv {
                    deleted.prev_kvs.push(before.encode(&key));
                }
            }
        }
        deleted
    }

    /// §8.1.
    fn compact(&mut self, revision: i64) -> Result<Applied, Rejected> {
        if revision > self.revision as i64 {
            return Err(Rejected::FutureRevision);
        }
        if revision <= self.compacted {
            return Err(Rejected::Compacted);
        }
        self.compacted = revision;
        let compacted = revision as u64;
        for versions in self.keys.values_mut() {
            let newest = versions
                .iter()
                .rev()
                .find(|version| version.revision.main <= compacted);
            let newest = newest.map(|version| version.revision);
            versions.retain(|version| {
                let main = version.revision.main;
                let keep = Some(version.revision) == newest && (version.value.is_some() || main == compacted);
                main > compacted || keep
            });
        }
        self.keys.retain(|_, versions| !versions.is_empty());
        Ok(Applied::Compact)
    }

    /// The pairs of a range as of a revision, in key order.
    fn visible(&self, key: &[u8], range_end: &[u8], at: u64) -> Vec<(&Bytes, &Version)> {
        let keys = self
            .keys
            .iter()
            .filter(|(candidate, _)| in_range(candidate, key, range_end));
        let then = keys.filter_map(|(key, versions)| {
            let version = versions
                .iter()
                .rev()
                .find(|version| version.revision.main <= at)?;
            version.value.is_some().then_some((key, version))
        });
        then.collect()
    }

    /// §3.6; `None` is "answer it".
    pub fn check_revision(&self, revision: i64) -> Result<(), Rejected> {
        if revision > self.revision as i64 {
            return Err(Rejected::FutureRevision);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Rejected::Compacted);
        }
        Ok(())
    }

    /// §3, at a revision that is there. Inside a transaction the present includes its own changes.
    pub fn range(&self, range: &Range) -> RangeResult {
        let present = self.revision + u64::from(!self.pending.is_empty());
        let at = if range.revision > 0 {
            range.revision as u64
        } else {
            present
        };
        let mut pairs = self.visible(&range.key, &range.range_end, at);
        let count = pairs.len() as u64;
        if range.count_only {
            return RangeResult {
                count,
                ..RangeResult::default()
            };
        }
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        pairs.retain(|(_, version)| {
            let [min_mod, max_mod, min_create, max_create] = filters;
            let (modified, create) = (version.revision.main as i64, version.create as i64);
            (min_mod == 0 || modified >= min_mod)
                && (max_mod == 0 || modified <= max_mod)
                && (min_create == 0 || create >= min_create)
                && (max_create == 0 || create <= max_create)
        });
        let limit = usize::try_from(range.limit).unwrap_or(0);
        let unordered = range.sort_order == SortOrder::None;
        if unordered && limit > 0 && filters == [0; 4] {
            pairs.truncate(limit + 1);
        }
        let order = |one: &(&Bytes, &Version), other: &(&Bytes, &Version)| match range.sort_target {
            SortTarget::Key => one.0.cmp(other.0),
            SortTarget::Version => one.1.version.cmp(&other.1.version),
            SortTarget::Create => one.1.create.cmp(&other.1.create),
            SortTarget::Mod => one.1.revision.main.cmp(&other.1.revision.main),
            SortTarget::Value => one.1.value.cmp(&other.1.value),
        };
        // Ties are unspecified; ours stay in key order.
        match range.sort_order {
            SortOrder::Descend => pairs.sort_by(|one, other| order(other, one)),
            SortOrder::None | SortOrder::Ascend => pairs.sort_by(order),
        }
        let more = limit > 0 && pairs.len() > limit;
        if more {
            pairs.truncate(limit);
        }
        let encode = |(key, version): (&Bytes, &Version)| {
            let mut version = version.clone();
            if range.keys_only {
                version.value = None;
                if range.sort_target != SortTarget::Value {
                    version.lease = 0;
                }
            }
            version.encode(key)
        };
        RangeResult {
            kvs: pairs.into_iter().map(encode).collect(),
            more,
            count,
        }
    }

    /// §5. Works on a copy, so that a rejection leaves nothing behind.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnApplied, Rejected> {
        let plan = self.plan(txn);
        self.check_txn(txn, &plan)?;
        let mut after = self.clone();
        let applied = after.run(txn, &plan)?;
        *self = after;
        Ok(applied)
    }

    fn plan(&self, txn: &Txn) -> Plan {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let nested = branch.iter().filter_map(|op| match op {
            TxnOp::Txn(nested) => Some(self.plan(nested)),
            _ => None,
        });
        Plan {
            succeeded,
            nested: nested.collect(),
        }
    }

    /// §5.2.
    fn holds(&self, compare: &Compare) -> bool {
        let pairs = self.visible(&compare.key, &compare.range_end, self.revision);
        let relates = |ordering: std::cmp::Ordering| match compare.result {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::NotEqual => !ordering.is_eq(),
            CompareResult::Always => true,
        };
        let satisfies = |version: &Version| {
            relates(match &compare.operand {
                CompareOperand::Version(operand) => (version.version as i64).cmp(operand),
                CompareOperand::Create(operand) => (version.create as i64).cmp(operand),
                CompareOperand::Mod(operand) => (version.revision.main as i64).cmp(operand),
                CompareOperand::Lease(operand) => version.lease.cmp(operand),
                CompareOperand::Value(operand) => version.value.as_ref().expect("alive").cmp(operand),
                CompareOperand::Unknown => std::cmp::Ordering::Equal,
            })
        };
        if pairs.is_empty() {
            let absent = Version {
                revision: Revision::new(0, 0),
                create: 0,
                version: 0,
                value: None,
                lease: 0,
            };
            return !matches!(compare.operand, CompareOperand::Value(_)) && satisfies(&absent);
        }
        pairs.into_iter().all(|(_, version)| satisfies(version))
    }

    /// §5.6.
    fn check_txn(&self, txn: &Txn, plan: &Plan) -> Result<(), Rejected> {
        let mut nested = plan.nested.iter();
        for op in if plan.succeeded {
            &txn.success
        } else {
            &txn.failure
        } {
            match op {
                TxnOp::Range(range) if range.revision == 0 => {}
                TxnOp::Range(range) if range.revision > self.revision as i64 => {
                    return Err(Rejected::FutureRevision);
                }
                TxnOp::Range(range) if range.revision < self.compacted => return Err(Rejected::Compacted),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
                TxnOp::Put(put) => self.check_put(put)?,
                TxnOp::Txn(txn) => self.check_txn(txn, nested.next().expect("planned"))?,
            }
        }
        Ok(())
    }

    /// §5.7, §2.4. Fails if a put is to keep a field of a key that the transaction has deleted (§5.5).
    fn run(&mut self, txn: &Txn, plan: &Plan) -> Result<TxnApplied, Rejected> {
        let mut nested = plan.nested.iter();
        let mut responses = Vec::new();
        for op in if plan.succeeded {
            &txn.success
        } else {
            &txn.failure
        } {
            let response = match op {
                TxnOp::Range(range) => TxnOpApplied::Range {
                    revision: self.revision + u64::from(!self.pending.is_empty()),
                    result: self.range(range),
                },
                TxnOp::Put(put) => {
                    self.check_put(put)?;
                    let prev_kv = self.put(put);
                    TxnOpApplied::Put {
                        revision: self.revision + 1,
                        prev_kv,
                    }
                }
                TxnOp::DeleteRange(delete) => {
                    let deleted = self.delete(delete);
                    TxnOpApplied::DeleteRange {
                        revision: self.revision + u64::from(!self.pending.is_empty()),
                        deleted,
                    }
                }
                TxnOp::Txn(txn) => TxnOpApplied::Txn(self.run(txn, nested.next().expect("planned"))?),
            };
            responses.push(response);
        }
        Ok(TxnApplied {
            succeeded: plan.succeeded,
            responses,
        })
    }
}
