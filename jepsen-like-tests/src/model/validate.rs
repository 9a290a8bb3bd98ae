//! What is refused whatever the state: empty keys, contradicting flags, too many operations, keys changed twice.

use std::collections::BTreeSet;

use super::{MAX_TXN_OPS, Rejected, in_range};
use crate::history::{Blob, DeleteRange, Put, Request, Txn, TxnOp};

/// What is refused before consensus, whatever the state (sections 3.2, 4, 5.3 to 5.5).
pub fn validate(request: &Request) -> Result<(), Rejected> {
    match request {
        Request::Range(range) => non_empty(&range.key),
        Request::Put(put) => validate_put(put),
        Request::DeleteRange(delete) => non_empty(&delete.key),
        Request::Txn(txn) => validate_txn(txn, MAX_TXN_OPS),
        _ => Ok(()),
    }
}

fn non_empty(key: &Blob) -> Result<(), Rejected> {
    if key.is_empty() {
        Err(Rejected::EmptyKey)
    } else {
        Ok(())
    }
}

fn validate_put(put: &Put) -> Result<(), Rejected> {
    non_empty(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Rejected::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Rejected::LeaseProvided);
    }
    Ok(())
}

/// Keys and counts of the whole tree come first; only then keys changed twice.
fn validate_txn(txn: &Txn, limit: usize) -> Result<(), Rejected> {
    validate_ops(txn, limit)?;
    changed_keys(&txn.success)?;
    changed_keys(&txn.failure)?;
    Ok(())
}

fn validate_ops(txn: &Txn, limit: usize) -> Result<(), Rejected> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if ops > limit {
        return Err(Rejected::TooManyOps);
    }
    txn.compare
        .iter()
        .try_for_each(|compare| non_empty(&compare.key))?;
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            TxnOp::Range(range) => non_empty(&range.key)?,
            TxnOp::Put(put) => validate_put(put)?,
            TxnOp::DeleteRange(delete) => non_empty(&delete.key)?,
            TxnOp::Txn(nested) => validate_ops(nested, limit - ops)?,
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by a list of operations (section 5.5).
type Changes<'a> = (BTreeSet<&'a Blob>, Vec<&'a DeleteRange>);

fn changed_keys(ops: &[TxnOp]) -> Result<Changes<'_>, Rejected> {
    // A delete "from key on" is taken for an inverted interval here and conflicts with nothing: etcd's second hole.
    let deleted = |deletes: &[&DeleteRange], key: &Blob| {
        let hits = |d: &&DeleteRange| d.range_end.as_slice() != [0] && in_range(&d.key, &d.range_end, key);
        deletes.iter().any(hits)
    };
    let mut puts = BTreeSet::new();
    let mut deletes: Vec<&DeleteRange> = Vec::new();
    deletes.extend(ops.iter().filter_map(|op| {
        if let TxnOp::DeleteRange(d) = op {
            Some(d)
        } else {
            None
        }
    }));
    for op in ops {
        let TxnOp::Txn(nested) = op else { continue };
        let (then_puts, then_deletes) = changed_keys(&nested.success)?;
        let (else_puts, else_deletes) = changed_keys(&nested.failure)?;
        let new: BTreeSet<_> = then_puts.union(&else_puts).copied().collect();
        if new.iter().any(|key| puts.contains(key) || deleted(&deletes, key)) {
            return Err(Rejected::DuplicateKey);
        }
        puts.extend(new);
        deletes.extend(then_deletes.into_iter().chain(else_deletes));
    }
    for op in ops {
        let TxnOp::Put(put) = op else { continue };
        if deleted(&deletes, &put.key) || !puts.insert(&put.key) {
            return Err(Rejected::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}
