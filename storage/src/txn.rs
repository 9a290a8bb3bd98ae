//! Deciding a transaction (API specification 5): compares at all depths first, against the state before it, then the
//! checks of the path that was chosen. Running it is the store's part.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use crate::applied::{RangeResult, TxnApplied, TxnOpApplied};
use crate::command::{Compare, CompareOperand, CompareResult, Put, Range, Txn, TxnOp};
use crate::error::{Fault, Rejected};
use crate::key_value::KeyValue;
use crate::mutant;
use crate::mvcc::index::KeyMeta;
use crate::mvcc::range::{Reading, Records, Span};
use crate::revision::Revision;

/// Whether every operation of both branches is a read. Such a transaction needs no log entry: a nested one always
/// does, even when it only reads.
pub fn is_read_only(txn: &Txn) -> bool {
    let reads = |ops: &[TxnOp]| ops.iter().all(|op| matches!(op, TxnOp::Range(_)));
    reads(&txn.success) && reads(&txn.failure)
}

/// Whether any branch, at any depth, holds a put.
pub fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Put(_) => true,
        TxnOp::Txn(txn) => has_put(txn),
        TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
    })
}

/// Which branch every transaction on the chosen path takes: the outer one first, then the nested ones in the order
/// in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions(Vec<bool>);

impl Decisions {
    /// The decisions one by one, for running the transaction.
    pub fn iter(&self) -> impl Iterator<Item = bool> {
        self.0.iter().copied()
    }
}

/// The branch that a decision chooses.
pub fn branch(txn: &Txn, succeeded: bool) -> &[TxnOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// What a transaction is decided against.
pub struct Before<'a, R> {
    /// The state before it.
    pub state: Reading<'a, R>,
    /// The compact revision.
    pub compacted: Option<u64>,
}

/// Why a decision gave no path: an answer, a fault, or a record that is not there (any more).
#[derive(Debug)]
pub enum Undecided {
    /// An answer.
    Rejected(Rejected),
    /// This member's failure.
    Fault(Fault),
    /// The record of a live key is missing.
    Lost(Revision),
}

impl From<Fault> for Undecided {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Rejected> for Undecided {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<R: Records> Before<'_, R> {
    /// Evaluates the compares of `txn` and of every nested transaction on the chosen path.
    pub fn decide(&self, txn: &Txn) -> Result<Decisions, Undecided> {
        let mut decisions = Decisions::default();
        self.decide_into(txn, &mut decisions)?;
        Ok(decisions)
    }

    fn decide_into(&self, txn: &Txn, decisions: &mut Decisions) -> Result<(), Undecided> {
        let mut succeeded = true;
        for compare in &txn.compares {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        decisions.0.push(succeeded);
        for op in branch(txn, succeeded) {
            if let TxnOp::Txn(nested) = op {
                self.decide_into(nested, decisions)?;
            }
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> Result<bool, Undecided> {
        let mut outcome = Ok(true);
        let mut absent = true;
        let span = Span::of(&compare.key, &compare.range_end);
        span.for_each(self.state.root, |_, meta| {
            if !meta.live {
                return ControlFlow::Continue(());
            }
            absent = false;
            outcome = self.key_satisfies(compare, meta);
            match outcome {
                Ok(true) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        if absent {
            // An absent key counts as zero in every field but the value, which nothing relates to.
            let is_value = matches!(compare.operand, CompareOperand::Value(_));
            return Ok(!is_value && number_relates(compare, [0; 4]));
        }
        outcome
    }

    fn key_satisfies(&self, compare: &Compare, meta: &KeyMeta) -> Result<bool, Undecided> {
        let CompareOperand::Value(operand) = &compare.operand else {
            let fields = [
                meta.version as i64,
                meta.create as i64,
                meta.modified.main as i64,
                meta.lease,
            ];
            return Ok(number_relates(compare, fields));
        };
        let row = self.state.records.rows(&[meta.modified])?.pop().flatten();
        let row = row.ok_or(Undecided::Lost(meta.modified))?;
        let stored = KeyValue::decode(&row.kv).unwrap_or_default().value;
        Ok(relates(stored.cmp(operand), compare.result))
    }

    /// The checks of the chosen path against the state before (API specification 5.6), in execution order.
    pub fn check(
        &self,
        txn: &Txn,
        decisions: &Decisions,
        lease_exists: impl Fn(i64) -> bool,
    ) -> Result<(), Rejected> {
        let mut walk = Walk {
            before: self,
            lease_exists,
            deleted: Vec::new(),
            touches_deleted: false,
        };
        walk.check(txn, &mut decisions.iter())?;
        if walk.touches_deleted {
            return Err(Rejected::KeyNotFound);
        }
        Ok(())
    }

    /// Whether a read inside a transaction may name this revision. A negative one is below every compact revision
    /// but the -1 of a store that was never compacted.
    fn check_revision(&self, range: &Range) -> Result<(), Rejected> {
        if range.revision > self.state.present as i64 {
            return Err(Rejected::FutureRevision);
        }
        let compacted = self.compacted.map_or(-1, |compacted| compacted as i64);
        if range.revision != 0 && range.revision < compacted {
            return Err(Rejected::Compacted);
        }
        Ok(())
    }
}

/// One pass over the chosen path.
struct Walk<'a, 'b, R, L> {
    before: &'a Before<'b, R>,
    lease_exists: L,
    deleted: Vec<Span<'a>>,
    /// A put wants to keep a field of a key that the transaction itself deletes before (possible only through a hole
    /// in the rule against duplicate keys, API specification 5.5).
    touches_deleted: bool,
}

impl<'a, R: Records, L: Fn(i64) -> bool> Walk<'a, '_, R, L> {
    fn check(&mut self, txn: &'a Txn, decisions: &mut impl Iterator<Item = bool>) -> Result<(), Rejected> {
        let succeeded = decisions
            .next()
            .expect("one decision per transaction on the path");
        for op in branch(txn, succeeded) {
            match op {
                // M21: what a read inside is refused for is not looked at.
                TxnOp::Range(_) if mutant!("M21") => {}
                TxnOp::Range(range) => self.before.check_revision(range)?,
                TxnOp::Put(put) => self.check_put(put)?,
                TxnOp::DeleteRange(delete) => self.deleted.push(Span::of(&delete.key, &delete.range_end)),
                TxnOp::Txn(nested) => self.check(nested, decisions)?,
            }
        }
        Ok(())
    }

    fn check_put(&mut self, put: &Put) -> Result<(), Rejected> {
        if put.lease != 0 && !(self.lease_exists)(put.lease) {
            return Err(Rejected::LeaseNotFound);
        }
        if !put.ignore_value && !put.ignore_lease {
            return Ok(());
        }
        if !self.before.state.root.get(&put.key).is_some_and(|meta| meta.live) {
            return Err(Rejected::KeyNotFound);
        }
        self.touches_deleted |= self.deleted.iter().any(|span| span.contains(&put.key));
        Ok(())
    }
}

/// Compares a field given as [version, create, mod, lease] with a number.
fn number_relates(compare: &Compare, [version, create, modified, lease]: [i64; 4]) -> bool {
    let ordering = match &compare.operand {
        CompareOperand::Version(operand) => version.cmp(operand),
        CompareOperand::Create(operand) => create.cmp(operand),
        CompareOperand::Mod(operand) => modified.cmp(operand),
        CompareOperand::Lease(operand) => lease.cmp(operand),
        CompareOperand::Value(_) | CompareOperand::Unknown => Ordering::Equal,
    };
    relates(ordering, compare.result)
}

fn relates(stored_to_operand: Ordering, result: CompareResult) -> bool {
    match result {
        CompareResult::Equal => stored_to_operand.is_eq(),
        CompareResult::Greater => stored_to_operand.is_gt(),
        CompareResult::Less => stored_to_operand.is_lt(),
        CompareResult::NotEqual => stored_to_operand.is_ne(),
        CompareResult::Always => true,
    }
}

/// Runs a transaction that only reads, on one state. `read` answers a range.
pub fn run_reads<E>(
    txn: &Txn,
    succeeded: bool,
    revision: u64,
    mut read: impl FnMut(&Range) -> Result<RangeResult, E>,
) -> Result<TxnApplied, E> {
    let mut responses = Vec::new();
    for op in branch(txn, succeeded) {
        if let TxnOp::Range(range) = op {
            let result = read(range)?;
            responses.push(TxnOpApplied::Range { revision, result });
        }
    }
    Ok(TxnApplied { succeeded, responses })
}

#[cfg(test)]
mod tests;
