//! One writer: what it tried, what it was told, and what that allows the store to hold.
//!
//! A writer owns its keys, so everything about them is known from its own record:
//!
//! * `u/<round>/<writer>/<n>`: put once each. Whatever happens, its version is 1, or the server did the work twice;
//! * `c/<writer>`: plain puts; its version counts them;
//! * `s/<writer>`: a counter moved by transactions that compare its mod revision. Nobody else writes it, so a
//!   comparison that fails without an attempt of unknown outcome before means that a step was taken twice.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
};
use tonic::Status;

use crate::harness::Client;
use crate::harness::client::{put, request_op, text};

/// Longest a writer waits for an answer: more than the server's own limit (5 s and two election timeouts), so that
/// the server's answer is seen.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// Bytes of a value.
const VALUE_BYTES: usize = 64;

/// Of so many steps one moves the counter by a put, and one by a transaction.
const STEPS_PER_TURN: u64 = 8;

/// What is known of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, at this revision.
    Acknowledged(i64),
    /// Any error: it may have happened, may still happen, or never.
    Unknown,
}

/// Attempts on one key.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub acknowledged: i64,
    pub unknown: i64,
    /// Revision of the newest acknowledged attempt.
    pub newest: i64,
}

impl Counted {
    fn record(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged(revision) => {
                self.acknowledged += 1;
                self.newest = revision;
            }
            Outcome::Unknown => self.unknown += 1,
        }
    }
}

/// The counter moved by transactions.
#[derive(Clone, Debug, Default)]
struct Swapped {
    value: i64,
    mod_revision: i64,
    /// The store must be asked where the counter stands.
    doubtful: bool,
    /// An attempt of unknown outcome compared with this mod revision.
    unresolved: Option<i64>,
}

/// See the module.
#[derive(Debug)]
pub struct Writer {
    pub id: usize,
    /// Outcomes of the puts of unique keys, by round.
    pub unique: BTreeMap<u64, Vec<Outcome>>,
    pub puts: Counted,
    pub swaps: Counted,
    /// Errors by text, with how often each was seen.
    pub errors: BTreeMap<String, u64>,
    /// What must not have happened.
    pub violations: Vec<String>,
    swapped: Swapped,
    steps: u64,
    newest_revision: i64,
}

pub fn unique_key(round: u64, writer: usize, n: usize) -> String {
    format!("u/{round:04}/{writer:03}/{n:07}")
}

pub fn put_key(writer: usize) -> String {
    format!("c/{writer:03}")
}

pub fn swap_key(writer: usize) -> String {
    format!("s/{writer:03}")
}

/// The only value that is ever put to a unique key.
pub fn unique_value(key: &str) -> String {
    format!("{key:_<VALUE_BYTES$}")
}

impl Writer {
    pub fn new(id: usize) -> Writer {
        Writer {
            id,
            unique: BTreeMap::new(),
            puts: Counted::default(),
            swaps: Counted::default(),
            errors: BTreeMap::new(),
            violations: Vec::new(),
            swapped: Swapped::default(),
            steps: 0,
            newest_revision: 0,
        }
    }

    /// One write through `client`. The error is what the client was told.
    pub async fn step(&mut self, client: &Client, round: u64) -> Result<(), Status> {
        self.steps += 1;
        let result = match self.steps % STEPS_PER_TURN {
            0 => self.count(client).await,
            1 => self.swap(client).await,
            _ => self.put_unique(client, round).await,
        };
        if let Err(status) = &result {
            let text = format!("{:?}: {}", status.code(), status.message());
            *self.errors.entry(text).or_default() += 1;
        }
        result
    }

    async fn put_unique(&mut self, client: &Client, round: u64) -> Result<(), Status> {
        let n = self.unique.entry(round).or_default().len();
        let key = unique_key(round, self.id, n);
        let (outcome, result) = self.put(client, put(&key, &unique_value(&key))).await;
        self.unique.entry(round).or_default().push(outcome);
        result
    }

    async fn count(&mut self, client: &Client) -> Result<(), Status> {
        let attempt = self.puts.acknowledged + self.puts.unknown + 1;
        let (outcome, result) = self
            .put(client, put(&put_key(self.id), &attempt.to_string()))
            .await;
        self.puts.record(outcome);
        result
    }

    async fn put(&mut self, client: &Client, request: pb::PutRequest) -> (Outcome, Result<(), Status>) {
        match in_time(client.put_request(request)).await {
            Ok(reply) => {
                let revision = reply.header.expect("header").revision;
                self.acknowledged(revision);
                (Outcome::Acknowledged(revision), Ok(()))
            }
            Err(status) => (Outcome::Unknown, Err(status)),
        }
    }

    async fn swap(&mut self, client: &Client) -> Result<(), Status> {
        if self.swapped.doubtful {
            self.look(client).await?;
        }
        let (value, compared) = (self.swapped.value, self.swapped.mod_revision);
        match in_time(client.txn(step_of(&swap_key(self.id), compared, value + 1))).await {
            Ok(reply) if reply.succeeded => {
                let revision = reply.header.expect("header").revision;
                self.acknowledged(revision);
                self.swaps.record(Outcome::Acknowledged(revision));
                self.swapped.value = value + 1;
                self.swapped.mod_revision = revision;
            }
            Ok(_) if self.swapped.unresolved == Some(compared) => self.swapped.doubtful = true,
            Ok(_) => {
                self.violations.push(format!(
                    "{}: value {value} at {compared} was the writer's own, yet the comparison failed",
                    swap_key(self.id)
                ));
                self.swapped.doubtful = true;
            }
            Err(status) => {
                self.swaps.record(Outcome::Unknown);
                self.swapped.doubtful = true;
                self.swapped.unresolved = Some(compared);
                return Err(status);
            }
        }
        Ok(())
    }

    /// Reads where the counter stands after an attempt of unknown outcome.
    async fn look(&mut self, client: &Client) -> Result<(), Status> {
        let key = swap_key(self.id);
        let request = crate::harness::client::single(&key);
        let reply = in_time(client.range(request)).await?;
        let found = crate::harness::kv_pairs(&reply.kvs).pop();
        let (value, mod_revision) = found.map_or((0, 0), |pair| (number(&pair.value), pair.mod_revision));
        let before = &self.swapped;
        let stayed = (value, mod_revision) == (before.value, before.mod_revision);
        let stepped = value == before.value + 1 && mod_revision > before.mod_revision;
        if !stayed && !stepped {
            self.violations.push(format!(
                "{key}: {} at {} became {value} at {mod_revision} by one attempt",
                before.value, before.mod_revision
            ));
        }
        self.swapped.value = value;
        self.swapped.mod_revision = mod_revision;
        self.swapped.doubtful = false;
        Ok(())
    }

    fn acknowledged(&mut self, revision: i64) {
        if revision <= self.newest_revision {
            self.violations.push(format!(
                "writer {}: revision {revision} was acknowledged after {}",
                self.id, self.newest_revision
            ));
        }
        self.newest_revision = revision;
    }
}

/// A put of `value` that happens only while the key is at `mod_revision`.
fn step_of(key: &str, mod_revision: i64, value: i64) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            target_union: Some(TargetUnion::ModRevision(mod_revision)),
            ..Default::default()
        }],
        success: vec![request_op(Op::RequestPut(put(key, &value.to_string())))],
        ..Default::default()
    }
}

/// The number in a counter's value.
pub fn number(value: &Bytes) -> i64 {
    text(value).parse().expect("counters hold numbers")
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(ANSWER_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(
                "no answer within the writer's patience",
            ))
        })
}
