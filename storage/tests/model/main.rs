//! Drives the store and a plain model of it with the same commands and compares everything anybody can see, over
//! restarts, checkpoints at any moment, snapshots, and log entries of any size.
//!
//! `KELSON_MODEL_RUNS` sets how many runs there are.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod coverage;
mod generate;
mod history;
mod model;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kelson_storage::applied::{EventBatch, Outcome};
use kelson_storage::codec::encode_batch;
use kelson_storage::command::*;
use kelson_storage::error::Rejected;
use kelson_storage::event_ring::RingRead;
use kelson_storage::limits::CacheBudget;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{
    ApplySink, Checkpointer, MemberRecord, ReadError, ReadView, Store, StoreOptions, StoreReader,
};
use kelson_storage::tables::{LeaseRow, Tables, WriteBatch};
use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};

use coverage::COVERAGE;
use generate::{Step, is_legal, resolve, step};
use model::Model;

const STEPS_MAX: usize = 60;

/// So small that records leave memory all the time.
const OVERLAY_BYTES: usize = 1500;
const EVENT_RING_BYTES: usize = 1500;

#[test]
fn store_answers_as_the_model_does() {
    let mut config = Config::default();
    if let Ok(runs) = std::env::var("KELSON_MODEL_RUNS") {
        config.cases = runs.parse().expect("KELSON_MODEL_RUNS is a number");
    }
    let cases = config.cases;
    let mut runner = TestRunner::new(Config {
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            "proptest-regressions/model.txt",
        ))),
        max_shrink_iters: config.max_shrink_iters.min(20_000),
        ..config
    });
    let run = runner.run(&vec(step(), 1..STEPS_MAX), |steps| {
        Run::new().all(steps);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    COVERAGE.check(cases);
}

/// What a log entry holds.
#[derive(Clone)]
enum Entry {
    Batch(Vec<Proposal>),
    Blank,
    Membership(Vec<MemberRecord>),
}

/// What apply told.
#[derive(Default)]
struct Told {
    outcomes: Vec<(CommandId, Outcome)>,
    leases: Vec<(i64, Option<i64>)>,
}

impl ApplySink for Told {
    fn outcome(&mut self, id: CommandId, outcome: Outcome) {
        self.outcomes.push((id, outcome));
    }
    fn lease_granted(&mut self, id: i64, ttl: i64) {
        self.leases.push((id, Some(ttl)));
    }
    fn lease_revoked(&mut self, id: i64) {
        self.leases.push((id, None));
    }
}

struct Run {
    directory: tempfile::TempDir,
    database: PathBuf,
    installs: usize,
    store: Store,
    checkpointer: Checkpointer,
    reader: StoreReader,
    log: Vec<(u64, Entry)>,
    term: u64,
    session: u64,
    seq: u64,
    model: Model,
    held: Option<(ReadView, Model)>,
}

fn open(database: PathBuf) -> Store {
    let options = StoreOptions {
        database,
        cache: CacheBudget {
            overlay: OVERLAY_BYTES,
            event_ring: EVENT_RING_BYTES,
            ..CacheBudget::default()
        },
    };
    Store::open(Arc::new(RealDisk::without_sync()), options).unwrap()
}

fn apply(store: &mut Store, index: usize, term: u64, entry: &Entry) -> Told {
    let index = index as u64;
    let at = LogPosition { term, index };
    let mut told = Told::default();
    match entry {
        Entry::Batch(proposals) => store
            .apply_batch(at, &encode_batch(proposals), &mut told)
            .unwrap(),
        Entry::Blank => store.apply_blank(at).unwrap(),
        Entry::Membership(members) => {
            let encoded = Bytes::from(format!("membership {index}"));
            store.apply_membership(at, encoded, members.clone()).unwrap();
        }
    }
    assert_eq!(store.applied(), Some(at));
    told
}

impl Run {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("db0");
        let store = open(database.clone());
        Self {
            directory,
            database,
            installs: 0,
            checkpointer: store.checkpointer(),
            reader: store.reader(),
            store,
            log: Vec::new(),
            term: 1,
            session: 1,
            seq: 0,
            model: Model::new(),
            held: None,
        }
    }

    fn all(mut self, steps: Vec<Step>) {
        for mut step in steps {
            resolve(&mut step, &self.model);
            self.step(step);
            self.compare_state();
        }
        self.compare_with_other_batching();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(commands) => self.apply(commands),
            Step::Blank => {
                self.term += 1;
                self.append(Entry::Blank);
            }
            Step::Membership(members) => {
                self.model.set_members(&members);
                self.append(Entry::Membership(members));
            }
            Step::Checkpoint { durable } => {
                let step = self.checkpointer.step(durable).unwrap();
                assert_eq!(step.durable, self.store.applied().filter(|_| durable));
            }
            Step::Bite => {
                self.checkpointer.bite_without_commit().unwrap();
            }
            Step::Restart { session } => self.restart(session),
            Step::Install => self.install(),
            Step::Query(range) => self.query(&range),
            Step::QueryTxn(txn) => {
                let expected = self.model.clone().txn(&txn);
                assert_eq!(answer(self.reader.view().txn(&txn)), expected, "{txn:?}");
            }
            Step::HoldView => self.held = Some((self.reader.view(), self.model.clone())),
            Step::QueryHeld(range) => self.query_held(&range),
            Step::History { from, bytes } => self.history(from.max(0) as u64, bytes),
            Step::HashKv { revision } => self.hash_kv(revision),
        }
    }

    fn append(&mut self, entry: Entry) -> Told {
        let told = apply(&mut self.store, self.log.len(), self.term, &entry);
        self.log.push((self.term, entry));
        told
    }

    fn apply(&mut self, commands: Vec<(Command, bool)>) {
        let low = self.seq + 1;
        let mut proposals = Vec::new();
        for (command, again) in commands {
            if matches!(&command, Command::Txn(txn) if !is_legal(txn)) {
                continue;
            }
            COVERAGE.command(&command);
            self.seq += 1;
            let id = CommandId {
                origin: 7,
                session: self.session,
                seq: self.seq,
            };
            proposals.push(Proposal { id, low, command });
            if again {
                let earlier = self.seq as usize % proposals.len();
                let copy = match self.log.first() {
                    Some((_, Entry::Batch(first))) if !first.is_empty() && self.seq.is_multiple_of(2) => {
                        first[0].clone()
                    }
                    _ => proposals[earlier].clone(),
                };
                proposals.push(copy);
            }
        }
        if proposals.len() % 2 == 0 {
            proposals.reverse();
        }
        let mut expected = Vec::new();
        for proposal in &proposals {
            if let Some(outcome) = self.model.apply(proposal, self.term) {
                COVERAGE.outcome(&outcome);
                expected.push((proposal.id, outcome));
            }
        }
        let told = self.append(Entry::Batch(proposals));
        assert_eq!(told.outcomes, expected);
        // The last word on each lease is what is true now.
        let last_words: BTreeMap<_, _> = told.leases.into_iter().collect();
        for (id, ttl) in last_words {
            assert_eq!(ttl, self.model.leases.get(&id).copied());
        }
    }

    fn restart(&mut self, session: bool) {
        self.held = None;
        let spare = self.directory.path().join("spare");
        self.replace_store(open(spare.clone()));
        let store = open(self.database.clone());
        self.replace_store(store);
        std::fs::remove_file(spare).unwrap();
        let applied = self
            .store
            .applied()
            .map_or(0, |applied| applied.index as usize + 1);
        for (index, (term, entry)) in self.log.iter().enumerate().skip(applied) {
            apply(&mut self.store, index, *term, entry);
        }
        if session {
            self.session += 1;
            self.seq = 0;
        }
    }

    fn replace_store(&mut self, store: Store) {
        self.checkpointer = store.checkpointer();
        self.reader = store.reader();
        self.store = store;
    }

    /// Installs a copy of the store's own database, as a member that was behind would.
    fn install(&mut self) {
        self.checkpointer.step(true).unwrap();
        let tables = self.reader.tables();
        let mut batch = WriteBatch {
            meta: tables.meta().unwrap(),
            leases_put: tables.leases().unwrap(),
            ..WriteBatch::default()
        };
        let rows = &mut batch.rows;
        tables
            .scan(|revision, row| {
                rows.push((revision, Arc::new(row)));
                Ok(())
            })
            .unwrap();
        let leases = self
            .model
            .leases
            .iter()
            .map(|(id, ttl)| LeaseRow { id: *id, ttl: *ttl });
        assert_eq!(batch.leases_put, leases.collect::<Vec<_>>());
        self.installs += 1;
        self.database = self.directory.path().join(format!("db{}", self.installs));
        let copy = Tables::open(Arc::new(RealDisk::without_sync()), &self.database, 1 << 20).unwrap();
        copy.write(&batch, true).unwrap();
        self.store.replace(copy).unwrap();
    }

    fn query(&self, range: &Range) {
        let expected = self
            .model
            .check_revision(range.revision)
            .map(|()| self.model.range(range));
        COVERAGE.read(&expected);
        assert_eq!(answer(self.reader.view().range(range)), expected, "{range:?}");
    }

    fn query_held(&self, range: &Range) {
        let Some((view, then)) = &self.held else {
            return;
        };
        let named = u64::try_from(range.revision)
            .ok()
            .filter(|revision| *revision > 0);
        let at = named.unwrap_or(then.revision);
        let got = answer(view.range(range));
        let forgotten = (at as i64) < self.model.compacted;
        let expected = match at {
            at if at > then.revision => Err(Rejected::FutureRevision),
            _ if forgotten && named.is_some() => Err(Rejected::Compacted),
            // The view may or may not find what it needs.
            _ if forgotten && got.is_err() => Err(Rejected::Compacted),
            _ => Ok(then.range(range)),
        };
        assert_eq!(got, expected, "{range:?}");
    }

    fn history(&self, from: u64, bytes: usize) {
        if (from as i64) < self.model.compacted {
            let error = self.reader.history(from, bytes).unwrap_err();
            assert!(matches!(error, ReadError::Rejected(Rejected::Compacted)));
            return;
        }
        let (mut next, mut batches) = (from, Vec::<EventBatch>::new());
        while next <= self.model.revision {
            let bite = self.reader.history(next, bytes).unwrap();
            assert!(bite.next > next);
            batches.extend(bite.batches);
            next = bite.next;
        }
        assert_eq!(batches, self.model.history(from));
        assert_eq!(self.reader.history(next, bytes).unwrap().batches, []);
    }

    fn hash_kv(&self, revision: i64) {
        let expected = self.model.check_revision(revision).map(|()| {
            let at = if revision > 0 {
                revision as u64
            } else {
                self.model.revision
            };
            (
                self.model.hash_kv(at),
                self.model.compacted,
                at,
                self.model.revision,
            )
        });
        let hash = answer(self.reader.hash_kv(revision));
        let got = hash.map(|hash| {
            (
                hash.hash,
                hash.compact_revision,
                hash.hash_revision,
                hash.revision,
            )
        });
        assert_eq!(got, expected);
    }

    /// Everything that is cheap to see.
    fn compare_state(&self) {
        let (reader, model) = (&self.reader, &self.model);
        assert_eq!(reader.revision(), model.revision);
        assert_eq!(reader.compacted(), u64::try_from(model.compacted).ok());
        let leases: Vec<_> = model.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect();
        assert_eq!(reader.leases(), leases);
        for (id, ttl) in leases {
            assert_eq!(reader.lease_ttl(id), Some(ttl));
            assert_eq!(reader.lease_keys(id), Some(model.attached(id)));
        }
        assert_eq!(reader.alarms(), model.alarms.iter().copied().collect::<Vec<_>>());
        assert_eq!(
            reader.members(),
            model.members.values().cloned().collect::<Vec<_>>()
        );
        assert_eq!(
            reader.removed_members(),
            model.removed.iter().copied().collect::<Vec<_>>()
        );
        assert_eq!(reader.cluster_version(), model.cluster_version);
        for (key, versions) in &model.keys {
            for version in versions {
                let record = reader.record(version.revision).unwrap();
                assert_eq!(record, Some(version.encode(key)), "{}", version.revision);
            }
        }
        let mut memberships = self.log.iter().enumerate().rev();
        let newest = memberships.find(|(_, (_, entry))| matches!(entry, Entry::Membership(_)));
        let newest = newest.map(|(index, (term, _))| LogPosition {
            term: *term,
            index: index as u64,
        });
        assert_eq!(self.store.membership().and_then(|(at, _)| at), newest);
        self.compare_ring();
    }

    fn compare_ring(&self) {
        let present = self.model.revision;
        for from in (2..=present + 1).rev() {
            match self.reader.event_ring().read_from(from, present) {
                RingRead::Behind => return,
                RingRead::Batches(batches) => {
                    let expected = self.model.events.iter().filter(|batch| batch.revision >= from);
                    assert!(batches.iter().map(|batch| &**batch).eq(expected));
                }
            }
        }
    }

    /// The same commands, each in an entry of its own and never restarted, make the same state.
    fn compare_with_other_batching(&self) {
        let mut other = open(self.directory.path().join("other"));
        let mut index = 0;
        for (term, entry) in &self.log {
            let single = |proposal: &Proposal| Entry::Batch(vec![proposal.clone()]);
            let entries = match entry {
                Entry::Batch(proposals) => proposals.iter().map(single).collect(),
                entry => vec![entry.clone()],
            };
            for entry in entries {
                apply(&mut other, index, *term, &entry);
                index += 1;
            }
        }
        assert_eq!(other.reader().rolling_hash().1, self.reader.rolling_hash().1);
    }
}

/// An answer; a fault has no place here.
fn answer<T>(read: Result<T, ReadError>) -> Result<T, Rejected> {
    read.map_err(|error| match error {
        ReadError::Rejected(rejected) => rejected,
        ReadError::Fault(fault) => panic!("{fault}"),
    })
}
