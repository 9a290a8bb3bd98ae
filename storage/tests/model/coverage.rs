//! How often the rare things happened: a generator that misses them proves nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kelson_storage::applied::{Applied, Outcome, RangeResult};
use kelson_storage::command::Command;
use kelson_storage::error::Rejected;

pub static COVERAGE: Coverage = Coverage {
    txns: AtomicU64::new(0),
    failed_txns: AtomicU64::new(0),
    reads: AtomicU64::new(0),
    compacted_reads: AtomicU64::new(0),
    commands: Mutex::new(BTreeMap::new()),
    rejections: Mutex::new(BTreeMap::new()),
};

pub struct Coverage {
    txns: AtomicU64,
    failed_txns: AtomicU64,
    reads: AtomicU64,
    compacted_reads: AtomicU64,
    commands: Mutex<BTreeMap<&'static str, u64>>,
    rejections: Mutex<BTreeMap<String, u64>>,
}

/// Runs below which rates mean little.
const CASES_MIN: u32 = 1000;

impl Coverage {
    pub fn command(&self, command: &Command) {
        let kind = match command {
            Command::Put(_) => "put",
            Command::DeleteRange(_) => "delete range",
            Command::Txn(_) => "txn",
            Command::Compact { .. } => "compact",
            Command::LeaseGrant { .. } => "lease grant",
            Command::LeaseRevoke { .. } => "lease revoke",
            Command::Alarm { .. } => "alarm",
            Command::PublishMember { .. } => "publish member",
            Command::ClusterVersion { .. } => "cluster version",
            other => panic!("not counted: {other:?}"),
        };
        *self.commands.lock().unwrap().entry(kind).or_default() += 1;
    }

    pub fn outcome(&self, outcome: &Outcome) {
        match &outcome.result {
            Ok(Applied::Txn(txn)) => {
                self.txns.fetch_add(1, Relaxed);
                self.failed_txns.fetch_add(u64::from(!txn.succeeded), Relaxed);
            }
            Ok(_) => {}
            Err(rejected) => {
                *self
                    .rejections
                    .lock()
                    .unwrap()
                    .entry(format!("{rejected:?}"))
                    .or_default() += 1
            }
        }
    }

    pub fn read(&self, answer: &Result<RangeResult, Rejected>) {
        self.reads.fetch_add(1, Relaxed);
        self.compacted_reads
            .fetch_add(u64::from(*answer == Err(Rejected::Compacted)), Relaxed);
    }

    pub fn check(&self, cases: u32) {
        let [txns, failed, reads, compacted] =
            [&self.txns, &self.failed_txns, &self.reads, &self.compacted_reads]
                .map(|count| count.load(Relaxed));
        let commands = self.commands.lock().unwrap();
        let rejections = self.rejections.lock().unwrap();
        println!("{txns} transactions, {failed} took the else branch; {reads} reads, {compacted} compacted");
        println!("{commands:?}\n{rejections:?}");
        if cases < CASES_MIN {
            return;
        }
        assert!(
            failed * 100 >= txns * 15,
            "too few transactions take the else branch"
        );
        assert!(
            compacted * 100 >= reads * 5,
            "too few reads hit a compacted revision"
        );
        assert_eq!(commands.len(), 9, "a kind of command never occurred");
        // Member not found to lease exists: every rejection apply can make, but the one for second copies.
        assert_eq!(rejections.len(), 10, "a rejection never occurred");
    }
}
