//! The etcd we promise, small enough to trust: every version of every key in a map, and plain functions over it.
//!
//! Written from the API specification alone (section numbers below are its). There is no index, no cache and no
//! cleverness: a read looks through versions, a compaction filters the whole history. Time is not modelled (a lease
//! ends when [`Model::apply`] is told to revoke it), neither are auth, quotas, sizes and membership. Headers carry only
//! the revision. The model promises that [`Model::apply`] changes nothing when it rejects.
//!
//! [`Model`] is driven by the `order` checker with what a cluster was seen to do, and by differential tests.

mod validate;

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{
    Blob, Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeResponse, Event, EventKind, Header,
    HeaderResponse, KeyValue, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, Put,
    PutResponse, Range, RangeResponse, Request, Response, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};

pub use validate::validate;

/// Most operations in a list of a transaction (section 5.3).
pub const MAX_TXN_OPS: usize = 128;
/// Shortest lease in seconds with default timers (section 7.1).
pub const MIN_LEASE_TTL: i64 = 2;
/// Longest lease in seconds.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;
/// Compact revision of a store that was never compacted.
pub const NEVER_COMPACTED: i64 = -1;

/// Why a request was refused; nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// A key is empty.
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    KeyNotFound,
    /// `ignore_value` with a value.
    ValueProvided,
    /// `ignore_lease` with a lease.
    LeaseProvided,
    /// Too many operations in a transaction.
    TooManyOps,
    /// A transaction may change one key twice.
    DuplicateKey,
    /// Revision below the compact revision.
    Compacted,
    /// Revision above the store revision.
    FutureRevision,
    /// No such lease.
    LeaseNotFound,
    /// The lease exists already.
    LeaseExists,
    /// Time to live over the maximum.
    LeaseTtlTooLarge,
}

impl Rejected {
    /// gRPC code and message (section 11.1).
    pub fn status(self) -> (i32, &'static str) {
        const INVALID_ARGUMENT: i32 = 3;
        const NOT_FOUND: i32 = 5;
        const FAILED_PRECONDITION: i32 = 9;
        const OUT_OF_RANGE: i32 = 11;
        match self {
            Self::EmptyKey => (INVALID_ARGUMENT, "etcdserver: key is not provided"),
            Self::KeyNotFound => (INVALID_ARGUMENT, "etcdserver: key not found"),
            Self::ValueProvided => (INVALID_ARGUMENT, "etcdserver: value is provided"),
            Self::LeaseProvided => (INVALID_ARGUMENT, "etcdserver: lease is provided"),
            Self::TooManyOps => (INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
            Self::DuplicateKey => (INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
            Self::Compacted => (
                OUT_OF_RANGE,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            Self::FutureRevision => (
                OUT_OF_RANGE,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            Self::LeaseNotFound => (NOT_FOUND, "etcdserver: requested lease not found"),
            Self::LeaseExists => (FAILED_PRECONDITION, "etcdserver: lease already exists"),
            Self::LeaseTtlTooLarge => (OUT_OF_RANGE, "etcdserver: too large lease TTL"),
        }
    }
}

/// One version of one key; `version` 0 is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Revision that made it.
    pub main: i64,
    /// Place among the changes of that revision.
    pub sub: usize,
    /// Revision that created the key.
    pub create: i64,
    /// Puts since creation, 0 for a tombstone.
    pub version: i64,
    /// Value, empty for a tombstone.
    pub value: Blob,
    /// Lease, 0 for none.
    pub lease: i64,
}

impl Version {
    fn pair(&self, key: &Blob) -> KeyValue {
        KeyValue {
            key: key.clone(),
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            value: self.value.clone(),
            lease: self.lease,
        }
    }
}

/// What a request did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer; of its headers only revisions are set.
    pub response: Response,
    /// The changes it made, in order, all of one revision; previous pairs as if nothing had been compacted.
    pub events: Vec<Event>,
}

/// A store: the whole history of all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Versions of each key, oldest first.
    pub keys: BTreeMap<Blob, Vec<Version>>,
    /// Revision of the newest change; 1 in an empty store.
    pub revision: i64,
    /// Oldest readable revision, [`NEVER_COMPACTED`] at first.
    pub compacted: i64,
    /// Granted time to live in seconds of each lease.
    pub leases: BTreeMap<i64, i64>,
    /// Keys changed by the request being applied, in order; empty between requests.
    changed: Vec<Blob>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            revision: 1,
            compacted: NEVER_COMPACTED,
            leases: BTreeMap::new(),
            changed: Vec::new(),
        }
    }
}

/// Whether `key` lies in the range that starts at `start` (section 3.1).
pub fn in_range(start: &Blob, end: &Blob, key: &Blob) -> bool {
    match end.as_slice() {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

fn header(revision: i64) -> Header {
    Header {
        revision,
        ..Header::default()
    }
}

impl Model {
    /// Does what a request asks, or refuses it and changes nothing.
    pub fn apply(&mut self, request: &Request) -> Result<Applied, Rejected> {
        validate(request)?;
        let start = self.revision;
        let response = match request {
            Request::Range(range) => {
                self.check_revision(range.revision.max(0))?;
                Response::Range(self.range(range, self.revision))
            }
            Request::Put(put) => {
                self.check_put(put)?;
                Response::Put(self.put(put, start + 1, 0))
            }
            Request::DeleteRange(delete) => Response::DeleteRange(self.delete_range(delete, start + 1, 0)),
            Request::Txn(txn) => Response::Txn(self.txn(txn)?),
            Request::Compact(compact) => Response::Compact(self.compact(compact.revision)?),
            Request::LeaseGrant(grant) => Response::LeaseGrant(self.grant(grant.id, grant.ttl)?),
            Request::LeaseRevoke(lease) => Response::LeaseRevoke(self.revoke(lease.id)?),
            Request::LeaseKeepAlive(lease) => Response::LeaseKeepAlive(LeaseKeepAliveResponse {
                header: header(start),
                id: lease.id,
                ttl: self.leases.get(&lease.id).copied().unwrap_or(0),
            }),
            Request::LeaseTimeToLive(lease) => {
                Response::LeaseTimeToLive(self.time_to_live(lease.id, lease.keys))
            }
            Request::Admin(_) => Response::Admin(HeaderResponse {
                header: header(start),
            }),
        };
        let changed: BTreeSet<Blob> = std::mem::take(&mut self.changed).into_iter().collect();
        let events = self.events_of(changed.iter(), start);
        if !events.is_empty() {
            self.revision = start + 1;
        }
        Ok(Applied { response, events })
    }

    /// The version of `key` that a read at `at` sees, tombstones included.
    fn version_at(&self, key: &Blob, at: i64) -> Option<&Version> {
        let versions = self.keys.get(key)?;
        versions[..versions.partition_point(|version| version.main <= at)].last()
    }

    /// The pair that a read of `key` at revision `at` sees.
    pub fn pair_at(&self, key: &Blob, at: i64) -> Option<KeyValue> {
        self.version_at(key, at)
            .filter(|version| version.version > 0)
            .map(|version| version.pair(key))
    }

    /// All pairs of a range as of revision `at`, by key.
    pub fn pairs_at(&self, start: &Blob, end: &Blob, at: i64) -> Vec<KeyValue> {
        if end.is_empty() {
            return self.pair_at(start, at).into_iter().collect();
        }
        let keys = self.keys.range(start.clone()..).map(|(key, _)| key);
        keys.take_while(|key| in_range(start, end, key))
            .filter_map(|key| self.pair_at(key, at))
            .collect()
    }

    /// All changes after revision `after`, in order, with the pairs before them.
    pub fn events_after(&self, after: i64) -> Vec<Event> {
        self.events_of(self.keys.keys(), after)
    }

    fn events_of<'a>(&self, keys: impl Iterator<Item = &'a Blob>, after: i64) -> Vec<Event> {
        let mut events = Vec::new();
        for key in keys {
            for version in self.keys[key]
                .iter()
                .rev()
                .take_while(|version| version.main > after)
            {
                events.push((version.main, version.sub, self.event(key, version)));
            }
        }
        events.sort_by_key(|(main, sub, _)| (*main, *sub));
        events.into_iter().map(|(_, _, event)| event).collect()
    }

    /// Section 6.5: a delete shows key and revision only; the pair before is the one at the revision before.
    fn event(&self, key: &Blob, version: &Version) -> Event {
        let created = version.version > 0 && version.create == version.main;
        let prev_kv = if created {
            None
        } else {
            self.pair_at(key, version.main - 1)
        };
        let kind = if version.version == 0 {
            EventKind::Delete
        } else {
            EventKind::Put
        };
        Event {
            kind,
            kv: version.pair(key),
            prev_kv,
        }
    }

    /// Section 3.6, for a revision where 0 means the newest.
    fn check_revision(&self, revision: i64) -> Result<(), Rejected> {
        if revision > self.revision {
            Err(Rejected::FutureRevision)
        } else if revision != 0 && revision < self.compacted {
            Err(Rejected::Compacted)
        } else {
            Ok(())
        }
    }

    /// Section 3: what a range answers when the newest state to be seen is that of `now`.
    pub fn range(&self, range: &Range, now: i64) -> RangeResponse {
        let at = if range.revision > 0 { range.revision } else { now };
        let mut kvs = self.pairs_at(&range.key, &range.range_end, at);
        let mut response = RangeResponse {
            header: header(now),
            count: kvs.len() as i64,
            ..RangeResponse::default()
        };
        if range.count_only {
            return response;
        }
        let limit = usize::try_from(range.limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        if range.sort_order == SortOrder::None && !is_filtered(range) {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|pair| passes_filters(range, pair));
        sort(range, &mut kvs);
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        if range.keys_only {
            for pair in &mut kvs {
                pair.value = Blob::default();
                if range.sort_target != SortTarget::Value {
                    pair.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        response
    }

    /// Section 4.1, what is checked at apply.
    fn check_put(&self, put: &Put) -> Result<(), Rejected> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Rejected::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.pair_at(&put.key, self.revision).is_none() {
            return Err(Rejected::KeyNotFound);
        }
        Ok(())
    }

    /// Writes a version at `main`.
    fn put(&mut self, put: &Put, main: i64, sub: usize) -> PutResponse {
        let before = self.pair_at(&put.key, main);
        let old = before.clone().unwrap_or_default();
        let version = Version {
            main,
            sub,
            create: if before.is_some() {
                old.create_revision
            } else {
                main
            },
            version: old.version + 1,
            value: if put.ignore_value {
                old.value
            } else {
                put.value.clone()
            },
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.write(&put.key, version);
        PutResponse {
            header: header(main),
            prev_kv: before.filter(|_| put.prev_kv),
        }
    }

    /// Section 4.2: a tombstone for each live key at `main`; `sub` changes were made there already.
    fn delete_range(&mut self, delete: &DeleteRange, main: i64, sub: usize) -> DeleteRangeResponse {
        let pairs = self.pairs_at(&delete.key, &delete.range_end, main);
        self.delete(&pairs, main, sub);
        DeleteRangeResponse {
            header: header(if pairs.is_empty() && sub == 0 {
                main - 1
            } else {
                main
            }),
            deleted: pairs.len() as i64,
            prev_kvs: if delete.prev_kv { pairs } else { Vec::new() },
        }
    }

    fn delete(&mut self, pairs: &[KeyValue], main: i64, sub: usize) {
        for (place, pair) in pairs.iter().enumerate() {
            let sub = sub + place;
            let tombstone = Version {
                main,
                sub,
                create: 0,
                version: 0,
                value: Blob::default(),
                lease: 0,
            };
            self.write(&pair.key, tombstone);
        }
    }

    fn write(&mut self, key: &Blob, version: Version) {
        self.keys.entry(key.clone()).or_default().push(version);
        self.changed.push(key.clone());
    }

    /// Section 5.1: compares at all depths against the state before, then checks, then operations.
    fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, Rejected> {
        let mut branches = Vec::new();
        self.choose(txn, &mut branches);
        self.check_taken(txn, &mut branches.iter())?;
        let mut changes = 0;
        let mut response = self.run(txn, &mut branches.iter(), &mut changes);
        response.header = header(self.revision + i64::from(changes > 0));
        Ok(response)
    }

    /// Decides the branch of a transaction and of all that are reached in it, depth first.
    fn choose(&self, txn: &Txn, branches: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        branches.push(succeeded);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let TxnOp::Txn(nested) = op {
                self.choose(nested, branches);
            }
        }
    }

    /// Section 5.2.
    fn holds(&self, compare: &Compare) -> bool {
        let pairs = self.pairs_at(&compare.key, &compare.range_end, self.revision);
        if pairs.is_empty() {
            let absent = KeyValue::default();
            return !matches!(compare.target, CompareTarget::Value(_)) && pair_holds(compare, &absent);
        }
        pairs.iter().all(|pair| pair_holds(compare, pair))
    }

    /// Section 5.6: everything on the taken path, against the state before.
    fn check_taken<'a>(
        &self,
        txn: &Txn,
        branches: &mut impl Iterator<Item = &'a bool>,
    ) -> Result<(), Rejected> {
        let succeeded = *branches
            .next()
            .expect("one branch was chosen for each transaction reached");
        for op in if succeeded { &txn.success } else { &txn.failure } {
            match op {
                TxnOp::Range(range) => self.check_revision(range.revision)?,
                TxnOp::Put(put) => self.check_put(put)?,
                TxnOp::DeleteRange(_) => {}
                TxnOp::Txn(nested) => self.check_taken(nested, branches)?,
            }
        }
        Ok(())
    }

    /// Section 5.7: runs the taken path; `changes` counts what it has written so far.
    fn run<'a>(
        &mut self,
        txn: &Txn,
        branches: &mut impl Iterator<Item = &'a bool>,
        changes: &mut usize,
    ) -> TxnResponse {
        let succeeded = *branches
            .next()
            .expect("one branch was chosen for each transaction reached");
        let main = self.revision + 1;
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            responses.push(match op {
                TxnOp::Range(range) => {
                    let now = self.revision + i64::from(*changes > 0);
                    TxnOpResponse::Range(self.range(range, now))
                }
                TxnOp::Put(put) => {
                    let response = self.put(put, main, *changes);
                    *changes += 1;
                    TxnOpResponse::Put(response)
                }
                TxnOp::DeleteRange(delete) => {
                    let response = self.delete_range(delete, main, *changes);
                    *changes += response.deleted as usize;
                    TxnOpResponse::DeleteRange(response)
                }
                TxnOp::Txn(nested) => TxnOpResponse::Txn(self.run(nested, branches, changes)),
            });
        }
        TxnResponse {
            header: Header::default(),
            succeeded,
            responses,
        }
    }

    /// Section 2.3 and 8.1: of each key keep what a read at or after `at` can see, and a tombstone made at `at`.
    fn compact(&mut self, at: i64) -> Result<HeaderResponse, Rejected> {
        if at > self.revision {
            return Err(Rejected::FutureRevision);
        }
        if at <= self.compacted {
            return Err(Rejected::Compacted);
        }
        self.compacted = at;
        for versions in self.keys.values_mut() {
            let old = versions.partition_point(|version| version.main <= at);
            let keeps_newest = old > 0 && (versions[old - 1].version > 0 || versions[old - 1].main == at);
            versions.drain(..old - usize::from(keeps_newest));
        }
        self.keys.retain(|_, versions| !versions.is_empty());
        Ok(HeaderResponse {
            header: header(self.revision),
        })
    }

    /// Section 7.1; id 0 takes the smallest free one.
    fn grant(&mut self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Rejected> {
        let free = || {
            (1..)
                .find(|id| !self.leases.contains_key(id))
                .expect("there are 2^63 ids")
        };
        let id = if id == 0 { free() } else { id };
        if ttl > MAX_LEASE_TTL {
            return Err(Rejected::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Rejected::LeaseExists);
        }
        let ttl = ttl.max(MIN_LEASE_TTL);
        self.leases.insert(id, ttl);
        Ok(LeaseGrantResponse {
            header: header(self.revision),
            id,
            ttl,
        })
    }

    /// Live pairs attached to a lease, by key.
    pub fn attached(&self, lease: i64) -> Vec<KeyValue> {
        let everything = (Blob::from(&[0][..]), Blob::from(&[0][..]));
        let mut pairs = self.pairs_at(&everything.0, &everything.1, self.revision);
        pairs.retain(|pair| pair.lease == lease);
        pairs
    }

    /// Section 7.2: the lease and its keys end in one revision, if it has keys. Expiry does the same.
    fn revoke(&mut self, id: i64) -> Result<HeaderResponse, Rejected> {
        self.leases.remove(&id).ok_or(Rejected::LeaseNotFound)?;
        let pairs = self.attached(id);
        self.delete(&pairs, self.revision + 1, 0);
        Ok(HeaderResponse {
            header: header(self.revision + i64::from(!pairs.is_empty())),
        })
    }

    /// Section 7.4; the model knows no time, so the time left is the time granted.
    fn time_to_live(&self, id: i64, keys: bool) -> LeaseTimeToLiveResponse {
        let granted = self.leases.get(&id).copied();
        let attached = if keys && granted.is_some() {
            self.attached(id)
        } else {
            Vec::new()
        };
        LeaseTimeToLiveResponse {
            header: header(self.revision),
            id,
            ttl: granted.unwrap_or(-1),
            granted_ttl: granted.unwrap_or(0),
            keys: attached.into_iter().map(|pair| pair.key).collect(),
        }
    }
}

fn is_filtered(range: &Range) -> bool {
    [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ] != [0; 4]
}

fn passes_filters(range: &Range, pair: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(pair.mod_revision, range.min_mod_revision, range.max_mod_revision)
        && within(
            pair.create_revision,
            range.min_create_revision,
            range.max_create_revision,
        )
}

/// Section 3.4. Ties, which etcd leaves open, stay in key order.
fn sort(range: &Range, kvs: &mut [KeyValue]) {
    match range.sort_target {
        SortTarget::Key => kvs.sort_by(|a, b| a.key.cmp(&b.key)),
        SortTarget::Version => kvs.sort_by_key(|pair| pair.version),
        SortTarget::Create => kvs.sort_by_key(|pair| pair.create_revision),
        SortTarget::Mod => kvs.sort_by_key(|pair| pair.mod_revision),
        SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    if range.sort_order == SortOrder::Descend {
        kvs.reverse();
    }
}

fn pair_holds(compare: &Compare, pair: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => pair.version.cmp(version),
        CompareTarget::Create(revision) => pair.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => pair.mod_revision.cmp(revision),
        CompareTarget::Value(value) => pair.value.cmp(value),
        CompareTarget::Lease(lease) => pair.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

#[cfg(test)]
mod tests;
