//! No key may be put twice, or put and deleted, by one branch of a transaction (API specification 5.5).
//!
//! The rule is etcd's `checkIntervals`, with its two holes: a delete in a nested transaction is not held against puts
//! of earlier siblings, and a delete "from key on" is held against nothing.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use kelson_storage::command::{DeleteRange, TxnOp};

use crate::status::ClientError;

/// What a list of operations writes.
#[derive(Default)]
struct Writes<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

/// Refuses the list if it may change a key twice.
pub(super) fn check_duplicate_puts(ops: &[TxnOp]) -> Result<(), ClientError> {
    writes_of(ops).map(|_| ())
}

fn writes_of(ops: &[TxnOp]) -> Result<Writes<'_>, ClientError> {
    let mut writes = Writes::default();
    for op in ops {
        if let TxnOp::DeleteRange(delete) = op {
            writes.deletes.add_delete(delete);
        }
    }
    for op in ops {
        if let TxnOp::Txn(txn) = op {
            let success = writes_of(&txn.success)?;
            let failure = writes_of(&txn.failure)?;
            writes.add_branches(success, failure)?;
        }
    }
    for op in ops {
        if let TxnOp::Put(put) = op {
            writes.add_put(&put.key)?;
        }
    }
    Ok(writes)
}

impl<'a> Writes<'a> {
    fn add_put(&mut self, key: &'a [u8]) -> Result<(), ClientError> {
        if self.deletes.contain(key) || !self.puts.insert(key) {
            return Err(ClientError::DuplicateKey);
        }
        Ok(())
    }

    /// Adds what a nested transaction writes. Its branches may put the same key, since only one of them runs.
    fn add_branches(&mut self, success: Writes<'a>, failure: Writes<'a>) -> Result<(), ClientError> {
        for &key in &success.puts {
            self.add_put(key)?;
        }
        for &key in &failure.puts {
            if !success.puts.contains(key) {
                self.add_put(key)?;
            }
        }
        self.deletes.add_all(success.deletes);
        self.deletes.add_all(failure.deletes);
        Ok(())
    }
}

/// A set of keys, as disjoint half-open intervals: start to end.
#[derive(Default)]
struct Intervals<'a>(BTreeMap<&'a [u8], End<'a>>);

/// Where an interval ends; ordered as the keys are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct End<'a> {
    key: &'a [u8],
    /// The end is the smallest key above `key`, not `key` itself.
    inclusive: bool,
}

impl<'a> Intervals<'a> {
    fn add_delete(&mut self, delete: &'a DeleteRange) {
        let single = delete.range_end.is_empty();
        let key = if single { &delete.key } else { &delete.range_end };
        let end = End {
            key,
            inclusive: single,
        };
        self.add(&delete.key, end);
    }

    fn add_all(&mut self, others: Self) {
        for (start, end) in others.0 {
            self.add(start, end);
        }
    }

    /// Adds `[start, end)`; an inverted interval holds no key.
    fn add(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if !end.is_after(start) {
            return;
        }
        // Everything that begins inside of the new interval, or that reaches into it from below, is merged into it.
        while let Some((&other, &other_end)) = self.0.range::<[u8], _>(up_to(end)).next_back() {
            if other_end.key < start {
                break;
            }
            self.0.remove(other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
    }

    fn contain(&self, key: &[u8]) -> bool {
        let below = (Bound::Unbounded, Bound::Included(key));
        self.0
            .range::<[u8], _>(below)
            .next_back()
            .is_some_and(|(_, end)| end.is_after(key))
    }
}

impl End<'_> {
    fn is_after(&self, key: &[u8]) -> bool {
        self.key > key || (self.inclusive && self.key == key)
    }
}

fn up_to(end: End<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(end.key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn intervals_hold_what_a_list_of_ranges_holds(
            ranges in prop::collection::vec(("[a-d]{1,2}", prop::option::of("[a-d]{1,2}")), 0..12),
            key in "[a-d]{1,3}",
        ) {
            let deletes: Vec<_> = ranges
                .iter()
                .map(|(start, end)| DeleteRange {
                    key: start.clone().into(),
                    range_end: end.clone().unwrap_or_default().into(),
                    prev_kv: false,
                })
                .collect();
            let mut intervals = Intervals::default();
            for delete in &deletes {
                intervals.add_delete(delete);
            }
            let expected = ranges.iter().any(|(start, end)| match end {
                None => *start == key,
                Some(end) => *start <= key && key < *end,
            });
            prop_assert_eq!(intervals.contain(key.as_bytes()), expected);
        }
    }
}
