//! A history seen from one key: what each call read and wrote there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::search::{Sequential, Span};
use crate::history::{
    Blob, Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeResponse, KeyValue, Operation,
    Outcome, Put, PutResponse, Range, RangeResponse, Request, Response, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use crate::model::in_range;

/// Most ways in which an unknown transaction may take effect; with more its keys are not judged.
const MOST_WAYS: usize = 16;

/// Something a call does to the key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It saw the key like this.
    Read {
        live: bool,
        value: Option<u32>,
        version: Option<i64>,
    },
    /// It wrote a value (`None`: kept the one there); `token` stands for its revision.
    Put { value: Option<u32>, token: i64 },
    /// It deleted the key, if it was there.
    Delete,
}

/// What had to hold of the key before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Guard {
    /// All of these.
    All(Vec<Compare>),
    /// Not all of these.
    NotAll(Vec<Compare>),
}

/// One way in which a call may have taken effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Way {
    guards: Vec<Guard>,
    steps: Vec<Step>,
}

/// The calls that touch one key.
#[derive(Debug, Default)]
pub(super) struct KeyHistory {
    /// When each call ran.
    pub(super) spans: Vec<Span>,
    /// Index of each call among all operations.
    pub(super) operations: Vec<usize>,
    ways: Vec<Vec<Way>>,
    values: Vec<Blob>,
    /// Place of each value in `values`.
    known: HashMap<Blob, u32>,
}

/// The key while it lives. Revisions are tokens: that of an acknowledged write is its revision, that of an unknown
/// one is negative and compares as "could be".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Live {
    value: u32,
    version: i64,
    created: i64,
    modified: i64,
}

impl Sequential for KeyHistory {
    type State = Option<Live>;

    fn initial(&self) -> Option<Live> {
        None
    }

    fn ways(&self, call: usize) -> usize {
        self.ways[call].len()
    }

    fn step(&self, state: &Option<Live>, call: usize, way: usize) -> Option<Option<Live>> {
        let way = &self.ways[call][way];
        way.guards
            .iter()
            .all(|guard| self.allows(guard, state))
            .then_some(())?;
        way.steps
            .iter()
            .try_fold(*state, |state, step| self.take(step, state))
    }
}

impl KeyHistory {
    fn allows(&self, guard: &Guard, state: &Option<Live>) -> bool {
        match guard {
            Guard::All(compares) => compares
                .iter()
                .all(|compare| self.holds(compare, state) != Some(false)),
            Guard::NotAll(compares) => compares
                .iter()
                .any(|compare| self.holds(compare, state) != Some(true)),
        }
    }

    /// Whether a compare holds; nothing if that hangs on a revision nobody knows.
    fn holds(&self, compare: &Compare, state: &Option<Live>) -> Option<bool> {
        let revision = |token: i64, operand: i64| (token >= 0).then(|| token.cmp(&operand));
        let live = state.unwrap_or(Live {
            value: 0,
            version: 0,
            created: 0,
            modified: 0,
        });
        let order = match &compare.target {
            CompareTarget::Value(_) if state.is_none() => return Some(false),
            CompareTarget::Value(operand) => self.values[live.value as usize].cmp(operand),
            CompareTarget::Version(operand) => live.version.cmp(operand),
            CompareTarget::Create(operand) => revision(live.created, *operand)?,
            CompareTarget::Mod(operand) => revision(live.modified, *operand)?,
            CompareTarget::Lease(operand) => 0.cmp(operand),
        };
        Some(match compare.result {
            CompareResult::Equal => order.is_eq(),
            CompareResult::Greater => order.is_gt(),
            CompareResult::Less => order.is_lt(),
            CompareResult::NotEqual => order.is_ne(),
        })
    }

    fn take(&self, step: &Step, state: Option<Live>) -> Option<Option<Live>> {
        match *step {
            Step::Read { live, value, version } => {
                let same = state.is_some() == live
                    && state.is_none_or(|state| value.is_none_or(|value| value == state.value))
                    && state.is_none_or(|state| version.is_none_or(|version| version == state.version));
                same.then_some(state)
            }
            Step::Put { value: None, .. } if state.is_none() => None,
            Step::Put { value, token } => {
                let (version, created) = state.map_or((0, token), |state| (state.version, state.created));
                let value = value.or(state.map(|state| state.value)).unwrap_or(0);
                Some(Some(Live {
                    value,
                    version: version + 1,
                    created,
                    modified: token,
                }))
            }
            Step::Delete => Some(None),
        }
    }

    /// Takes in what is known of the calls, named by their index among all operations: by when each took effect, or that
    /// it never did (`None`).
    pub(super) fn tell(&mut self, known: impl Fn(usize) -> Option<u64>) {
        let returns: Vec<Option<u64>> = self.operations.iter().map(|index| known(*index)).collect();
        for (span, ret) in self.spans.iter_mut().zip(&returns) {
            span.ret = ret.unwrap_or(span.ret);
        }
        keep(&mut self.spans, &returns);
        keep(&mut self.operations, &returns);
        keep(&mut self.ways, &returns);
    }

    /// How much there is to search, in words.
    pub(super) fn size(&self) -> String {
        let open = self.spans.iter().filter(|span| span.ret == u64::MAX).count();
        format!("{} calls, {open} of them unknown", self.spans.len())
    }
}

/// Keeps the items whose call is known to have happened.
fn keep<T>(items: &mut Vec<T>, returns: &[Option<u64>]) {
    let mut returns = returns.iter();
    items.retain(|_| returns.next().is_some_and(Option::is_some));
}

/// A call seen from all keys: the ways in which it may have taken effect on each.
struct Projector {
    /// Keys that are judged, with their calls so far.
    keys: BTreeMap<Blob, KeyHistory>,
}

/// Splits a history by keys. Keys that ever hold a lease are left out, because leases end without a call.
pub(super) fn split(operations: &[Operation]) -> BTreeMap<Blob, KeyHistory> {
    let (mut keys, mut leased) = (BTreeSet::new(), BTreeSet::new());
    for operation in operations {
        collect_keys(operation, &mut keys, &mut leased);
    }
    let keys = keys.into_iter().filter(|key| !leased.contains(key));
    let keys = keys.map(|key| (key.clone(), KeyHistory::default())).collect();
    let mut projector = Projector { keys };
    let mut crowded = BTreeSet::new();
    for (index, operation) in operations.iter().enumerate() {
        projector.add(index, operation, &mut crowded);
    }
    projector
        .keys
        .retain(|key, history| !crowded.contains(key) && !history.spans.is_empty());
    projector.keys
}

fn collect_keys<'a>(
    operation: &'a Operation,
    keys: &mut BTreeSet<&'a Blob>,
    leased: &mut BTreeSet<&'a Blob>,
) {
    fn of_put<'a>(put: &'a Put, keys: &mut BTreeSet<&'a Blob>, leased: &mut BTreeSet<&'a Blob>) {
        keys.insert(&put.key);
        if put.lease != 0 {
            leased.insert(&put.key);
        }
    }
    fn of_txn<'a>(txn: &'a Txn, keys: &mut BTreeSet<&'a Blob>, leased: &mut BTreeSet<&'a Blob>) {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                TxnOp::Put(put) => of_put(put, keys, leased),
                TxnOp::Txn(txn) => of_txn(txn, keys, leased),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
            }
        }
    }
    match (&operation.request, operation.response()) {
        (Request::Put(put), _) => of_put(put, keys, leased),
        (Request::Txn(txn), _) => of_txn(txn, keys, leased),
        (Request::Range(_), Some(Response::Range(response))) => {
            keys.extend(response.kvs.iter().map(|pair| &pair.key));
        }
        _ => {}
    }
}

impl Projector {
    fn add(&mut self, index: usize, operation: &Operation, crowded: &mut BTreeSet<Blob>) {
        let token = match operation.response() {
            Some(response) => response.header().revision,
            None => -(index as i64) - 1,
        };
        for key in self.touched(&operation.request) {
            let ways = match &operation.outcome {
                Outcome::Ok(response) => self.of_response(&key, &operation.request, response, token),
                Outcome::Unknown { .. } => self.of_unknown(&key, &operation.request, token),
                Outcome::Failed { .. } => continue,
            };
            let Some(mut ways) = ways else {
                crowded.insert(key);
                continue;
            };
            if operation.is_unknown() {
                // Not to write is the same as never to have happened.
                ways.retain(|way| way.steps.iter().any(|step| !matches!(step, Step::Read { .. })));
            }
            if ways.is_empty() || ways == [Way::default()] {
                continue;
            }
            let history = self.keys.get_mut(&key).expect("touched keys are judged keys");
            history.spans.push(Span {
                call: operation.call,
                ret: operation.ret,
            });
            history.operations.push(index);
            history.ways.push(ways);
        }
    }

    /// Judged keys that a request may read or write.
    fn touched(&self, request: &Request) -> BTreeSet<Blob> {
        let one = Blob::default();
        let mut ranges = Vec::new();
        match request {
            Request::Range(range) if range.serializable || range.revision > 0 => {}
            Request::Range(range) => ranges.push((&range.key, &range.range_end)),
            Request::Put(put) => ranges.push((&put.key, &one)),
            Request::DeleteRange(delete) => ranges.push((&delete.key, &delete.range_end)),
            Request::Txn(txn) => ranges_of(txn, &one, &mut ranges),
            _ => {}
        }
        let mut keys = BTreeSet::new();
        for (start, end) in ranges {
            if end.is_empty() {
                keys.extend(self.keys.get_key_value(start).map(|(key, _)| key.clone()));
            } else {
                let judged = self.keys.range(start.clone()..).map(|(key, _)| key);
                keys.extend(judged.take_while(|key| in_range(start, end, key)).cloned());
            }
        }
        keys
    }

    fn value(&mut self, key: &Blob, value: &Blob) -> u32 {
        let history = self.keys.get_mut(key).expect("only judged keys are projected");
        let next = history.values.len() as u32;
        let place = *history.known.entry(value.clone()).or_insert(next);
        if place == next {
            history.values.push(value.clone());
        }
        place
    }

    fn read(&mut self, key: &Blob, pair: Option<&KeyValue>, keys_only: bool) -> Step {
        let value = pair
            .filter(|_| !keys_only)
            .map(|pair| self.value(key, &pair.value));
        Step::Read {
            live: pair.is_some(),
            value,
            version: pair.map(|pair| pair.version),
        }
    }

    /// The one way in which an acknowledged call took effect.
    fn of_response(
        &mut self,
        key: &Blob,
        request: &Request,
        response: &Response,
        token: i64,
    ) -> Option<Vec<Way>> {
        let mut way = Way::default();
        match (request, response) {
            (Request::Range(range), Response::Range(response)) => self.range(key, range, response, &mut way),
            (Request::Put(put), Response::Put(response)) => {
                self.put(key, put, Some(response), token, &mut way)
            }
            (Request::DeleteRange(delete), Response::DeleteRange(response)) => {
                self.delete(key, delete, Some(response), &mut way);
            }
            (Request::Txn(txn), Response::Txn(response)) => {
                let mut ops = txn.success.iter().chain(&txn.failure);
                if !ops.all(|op| matches!(op, TxnOp::Range(range) if range.serializable)) {
                    self.txn(key, txn, response, token, &mut way);
                }
            }
            _ => {}
        }
        Some(vec![way])
    }

    fn range(&mut self, key: &Blob, range: &Range, response: &RangeResponse, way: &mut Way) {
        if range.revision > 0 || !in_range(&range.key, &range.range_end, key) {
            return;
        }
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        if range.count_only {
            if range.range_end.is_empty() {
                way.steps.push(Step::Read {
                    live: response.count > 0,
                    value: None,
                    version: None,
                });
            }
            return;
        }
        let pair = response.kvs.iter().find(|pair| pair.key == *key);
        let complete = !response.more && filters == [0; 4];
        if pair.is_some() || complete {
            let step = self.read(key, pair, range.keys_only);
            way.steps.push(step);
        }
    }

    fn put(&mut self, key: &Blob, put: &Put, response: Option<&PutResponse>, token: i64, way: &mut Way) {
        if put.key != *key {
            return;
        }
        if let (Some(response), true) = (response, put.prev_kv) {
            let step = self.read(key, response.prev_kv.as_ref(), false);
            way.steps.push(step);
        }
        if put.ignore_value || put.ignore_lease {
            way.steps.push(Step::Read {
                live: true,
                value: None,
                version: None,
            });
        }
        let value = if put.ignore_value {
            None
        } else {
            Some(self.value(key, &put.value))
        };
        way.steps.push(Step::Put { value, token });
    }

    fn delete(
        &mut self,
        key: &Blob,
        delete: &DeleteRange,
        response: Option<&DeleteRangeResponse>,
        way: &mut Way,
    ) {
        if !in_range(&delete.key, &delete.range_end, key) {
            return;
        }
        match response {
            Some(response) if delete.prev_kv => {
                let step = self.read(key, response.prev_kvs.iter().find(|pair| pair.key == *key), false);
                way.steps.push(step);
            }
            Some(response) if delete.range_end.is_empty() => {
                way.steps.push(Step::Read {
                    live: response.deleted > 0,
                    value: None,
                    version: None,
                });
            }
            _ => {}
        }
        way.steps.push(Step::Delete);
    }

    fn txn(&mut self, key: &Blob, txn: &Txn, response: &TxnResponse, token: i64, way: &mut Way) {
        way.guards.extend(guard(key, txn, response.succeeded));
        let ops = if response.succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        for (op, response) in ops.iter().zip(&response.responses) {
            match (op, response) {
                (TxnOp::Range(range), TxnOpResponse::Range(response)) => {
                    self.range(key, range, response, way)
                }
                (TxnOp::Put(put), TxnOpResponse::Put(response)) => {
                    self.put(key, put, Some(response), token, way);
                }
                (TxnOp::DeleteRange(delete), TxnOpResponse::DeleteRange(response)) => {
                    self.delete(key, delete, Some(response), way);
                }
                (TxnOp::Txn(txn), TxnOpResponse::Txn(response)) => self.txn(key, txn, response, token, way),
                _ => {}
            }
        }
    }

    /// All ways in which an unknown call may have taken effect; none if there are too many.
    fn of_unknown(&mut self, key: &Blob, request: &Request, token: i64) -> Option<Vec<Way>> {
        let mut ways = vec![Way::default()];
        match request {
            Request::Put(put) => self.put(key, put, None, token, &mut ways[0]),
            Request::DeleteRange(delete) => self.delete(key, delete, None, &mut ways[0]),
            Request::Txn(txn) => self.unknown_txn(key, txn, token, &mut ways)?,
            _ => ways.clear(),
        }
        Some(ways)
    }

    fn unknown_txn(&mut self, key: &Blob, txn: &Txn, token: i64, ways: &mut Vec<Way>) -> Option<()> {
        let mut branches = Vec::new();
        for succeeded in [true, false] {
            let mut branch = ways.clone();
            for way in &mut branch {
                way.guards.extend(guard(key, txn, succeeded));
            }
            for op in if succeeded { &txn.success } else { &txn.failure } {
                match op {
                    TxnOp::Range(_) => {}
                    TxnOp::Put(put) => branch
                        .iter_mut()
                        .for_each(|way| self.put(key, put, None, token, way)),
                    TxnOp::DeleteRange(delete) => {
                        branch
                            .iter_mut()
                            .for_each(|way| self.delete(key, delete, None, way));
                    }
                    TxnOp::Txn(txn) => self.unknown_txn(key, txn, token, &mut branch)?,
                }
            }
            branches.extend(branch);
        }
        *ways = branches;
        (ways.len() <= MOST_WAYS).then_some(())
    }
}

/// What the branch of a transaction says about one key. Compares of other keys may have decided instead.
fn guard(key: &Blob, txn: &Txn, succeeded: bool) -> Option<Guard> {
    let own: Vec<Compare> = txn
        .compare
        .iter()
        .filter(|compare| compare.key == *key && compare.range_end.is_empty())
        .cloned()
        .collect();
    if succeeded {
        (!own.is_empty()).then_some(Guard::All(own))
    } else {
        (own.len() == txn.compare.len()).then_some(Guard::NotAll(own))
    }
}

fn ranges_of<'a>(txn: &'a Txn, one: &'a Blob, ranges: &mut Vec<(&'a Blob, &'a Blob)>) {
    let exact = |compare: &&Compare| compare.range_end.is_empty();
    ranges.extend(
        txn.compare
            .iter()
            .filter(exact)
            .map(|compare| (&compare.key, &compare.range_end)),
    );
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            TxnOp::Range(range) => ranges.push((&range.key, &range.range_end)),
            TxnOp::Put(put) => ranges.push((&put.key, one)),
            TxnOp::DeleteRange(delete) => ranges.push((&delete.key, &delete.range_end)),
            TxnOp::Txn(txn) => ranges_of(txn, one, ranges),
        }
    }
}
