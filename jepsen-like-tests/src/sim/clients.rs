//! The clients: each asks some member something, waits for the answer or for the member's end, writes down both, and
//! goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use kelson_storage::testing::Random;

use super::api;
use super::cluster::Cluster;
use super::plan::{Plan, chance};
use crate::check::cycle;
use crate::history::{
    Blob, Compact, Compare, CompareResult, CompareTarget, DeleteRange, LeaseGrant, LeaseId, Outcome, Put,
    Range, Request, Response, Txn, TxnOp, TxnOpResponse,
};

/// Pause of a client that finds no member running.
const NOBODY_PAUSE: Duration = Duration::from_millis(50);
/// Seconds that leases are granted for: no less than the minimum of a member whose timers run at half speed, and longer
/// than some runs.
const LEASE_TTLS: [i64; 5] = [6, 6, 7, 10, 3600];
/// Leases by client: an id is granted once, so that a lease found is always the same lease.
const LEASES_PER_CLIENT: u64 = 100_000;

/// Elements of a list that is full: it is written whole each time.
const LONGEST_LIST: usize = 30;

/// One client.
pub struct Client {
    number: u32,
    cluster: Cluster,
    random: Random,
    plan: Plan,
    /// Values written so far: each is written once.
    values: u64,
    /// Leases asked for so far.
    leases: u64,
    /// The newest mod revision seen of some key, for compares that may hold.
    seen: Option<(Blob, i64)>,
    /// Lists as they were seen last, with their revision.
    lists: BTreeMap<Blob, (Vec<String>, i64)>,
    /// Lists that are full.
    full_lists: u64,
}

impl Client {
    /// Client `number` of the plan.
    pub fn new(cluster: Cluster, plan: &Plan, number: u32) -> Self {
        Self {
            number,
            cluster,
            random: chance(plan.seed, &format!("client {number}")),
            plan: plan.clone(),
            values: 0,
            leases: 0,
            seen: None,
            lists: BTreeMap::new(),
            full_lists: 0,
        }
    }

    /// Asks one thing after the other until dropped.
    pub async fn run(mut self) {
        loop {
            let pause = 2 * self.plan.client_pause.as_millis() as u64;
            tokio::time::sleep(Duration::from_millis(self.random.below(pause + 1))).await;
            let member = self.cluster.any_member(&mut self.random);
            if self.cluster.member(member).is_none() {
                tokio::time::sleep(NOBODY_PAUSE).await;
                continue;
            }
            let request = self.request();
            let outcome = ask(&self.cluster, self.number, member, request.clone()).await;
            if let Some(Outcome::Ok(response)) = outcome {
                self.remember(&request, &response);
            }
        }
    }

    fn remember(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (_, Response::Range(range)) => {
                if let Some(kv) = range.kvs.first() {
                    self.seen = Some((kv.key.clone(), kv.mod_revision));
                }
            }
            (Request::Txn(txn), Response::Txn(response)) => {
                let list = match (txn.success.first(), response.responses.first()) {
                    (Some(TxnOp::Put(put)), _) if response.succeeded => {
                        Some((&put.key, &put.value, response.header.revision))
                    }
                    (_, Some(TxnOpResponse::Range(range))) => {
                        range.kvs.first().map(|kv| (&kv.key, &kv.value, kv.mod_revision))
                    }
                    _ => None,
                };
                if let Some((key, value, revision)) = list
                    && key.as_slice().starts_with(cycle::PREFIX.as_bytes())
                {
                    self.lists.insert(key.clone(), (cycle::decode(value), revision));
                }
            }
            _ => {}
        }
    }

    fn key(&mut self) -> Blob {
        Blob::from(format!("k{}", self.random.below(self.plan.keys)))
    }

    fn value(&mut self) -> Blob {
        self.values += 1;
        let mut value = format!("c{}-{}", self.number, self.values);
        let length = self.random.below(self.plan.value_bytes + 1) as usize;
        while value.len() < length {
            value.push('.');
        }
        Blob::from(value)
    }

    fn put(&mut self) -> Put {
        let lease = if self.plan.leases && self.random.chance(1, 6) {
            self.lease()
        } else {
            0
        };
        Put {
            key: self.key(),
            value: self.value(),
            lease,
            prev_kv: self.random.chance(1, 2),
            ..Put::default()
        }
    }

    /// A lease of this client's or of another's, mostly one of the newest. It may be gone, or may never have been.
    fn lease(&mut self) -> i64 {
        let owner = if self.random.chance(3, 4) {
            u64::from(self.number)
        } else {
            self.random.below(self.plan.clients)
        };
        let newest = self.leases.saturating_sub(self.random.below(3));
        (owner * LEASES_PER_CLIENT + newest.max(1)) as i64
    }

    fn range(&mut self) -> Range {
        let mut range = Range {
            key: self.key(),
            serializable: self.random.chance(1, 4),
            ..Range::default()
        };
        if self.random.chance(1, 4) {
            (range.key, range.range_end) = ("k".into(), "l".into());
            range.limit = self.random.below(4) as i64;
        }
        if self.random.chance(1, 8) {
            let newest = self.cluster.inner.recorder.collected();
            range.revision = 1 + self.random.below(newest + 2) as i64;
        }
        range
    }

    /// One more element at the end of a list, if it is as this client saw it last; else how it is now. Two lists are in
    /// use at a time.
    fn append(&mut self) -> Txn {
        let number = self.full_lists + self.random.below(2);
        let key = Blob::from(format!("{}{number}", cycle::PREFIX));
        let (mut elements, revision) = self.lists.get(&key).cloned().unwrap_or_default();
        if elements.len() >= LONGEST_LIST {
            self.full_lists += 1;
        }
        self.values += 1;
        elements.push(format!("c{}-{}", self.number, self.values));
        Txn {
            compare: vec![Compare {
                key: key.clone(),
                result: CompareResult::Equal,
                target: CompareTarget::Mod(revision),
                ..Compare::default()
            }],
            success: vec![TxnOp::Put(Put {
                key: key.clone(),
                value: cycle::encode(&elements),
                ..Put::default()
            })],
            failure: vec![TxnOp::Range(Range {
                key,
                ..Range::default()
            })],
        }
    }

    fn request(&mut self) -> Request {
        match self.random.below(100) {
            0..27 => Request::Range(self.range()),
            27..35 => Request::Txn(self.append()),
            35..65 => Request::Put(self.put()),
            65..73 => self.delete(),
            73..88 => Request::Txn(self.txn()),
            88..90 if self.plan.compaction => self.compact(),
            90..100 if self.plan.leases => self.lease_request(),
            _ => Request::Put(self.put()),
        }
    }

    fn delete(&mut self) -> Request {
        let all = self.random.chance(1, 8);
        let key = self.key();
        Request::DeleteRange(DeleteRange {
            key: if all { "k".into() } else { key },
            range_end: if all { "l".into() } else { Blob::default() },
            prev_kv: self.random.chance(1, 2),
        })
    }

    /// Compare and set, mostly: on what was seen last, or on a key's absence.
    fn txn(&mut self) -> Txn {
        let (key, target) = match self.seen.clone() {
            Some((key, revision)) if self.random.chance(3, 4) => (key, CompareTarget::Mod(revision)),
            _ => (self.key(), CompareTarget::Create(0)),
        };
        let compare = Compare {
            key: key.clone(),
            result: CompareResult::Equal,
            target,
            ..Compare::default()
        };
        let read = Range {
            key: key.clone(),
            ..Range::default()
        };
        let write = Put {
            key: key.clone(),
            value: self.value(),
            ..Put::default()
        };
        let mut success = vec![TxnOp::Put(write)];
        let other = self.key();
        if other != key && self.random.chance(1, 3) {
            let value = self.value();
            success.push(TxnOp::Put(Put {
                key: other,
                value,
                ..Put::default()
            }));
        }
        Txn {
            compare: vec![compare],
            success,
            failure: vec![TxnOp::Range(read)],
        }
    }

    /// Never past what has been collected: the checks need all events.
    fn compact(&mut self) -> Request {
        let newest = self.cluster.inner.recorder.collected();
        Request::Compact(Compact {
            revision: newest.saturating_sub(self.random.below(20)) as i64,
            physical: false,
        })
    }

    fn lease_request(&mut self) -> Request {
        let id = self.lease();
        match self.random.below(10) {
            0..3 => {
                self.leases += 1;
                let own = u64::from(self.number) * LEASES_PER_CLIENT + self.leases;
                Request::LeaseGrant(LeaseGrant {
                    id: own as i64,
                    ttl: LEASE_TTLS[self.random.place(LEASE_TTLS.len())],
                })
            }
            3..7 => Request::LeaseKeepAlive(LeaseId { id, keys: false }),
            7..9 => Request::LeaseTimeToLive(LeaseId { id, keys: true }),
            _ => Request::LeaseRevoke(LeaseId { id, keys: false }),
        }
    }
}

/// Asks a member and records it. None: the member ended, and nobody knows.
pub async fn ask(cluster: &Cluster, client: u32, member: u64, request: Request) -> Option<Outcome> {
    let (context, gone) = cluster.member(member)?;
    let recorder = &cluster.inner.recorder;
    let id = recorder.call(client, member, request.clone());
    let outcome = tokio::select! {
        biased;
        () = gone.wait() => None,
        outcome = cluster.within(member, api::answer(&context, &request)) => Some(outcome),
    };
    let recorded = outcome
        .clone()
        .unwrap_or_else(|| api::unknown("the member ended"));
    recorder.returned(id, recorded);
    outcome
}
