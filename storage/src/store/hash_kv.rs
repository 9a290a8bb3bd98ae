//! etcd's HashKV (API specification 8.4): a checksum over the stored history that etcd's members, and ours, agree on
//! whatever their compactions have physically deleted so far.
//!
//! Not the same as etcd: a hash at a revision that was the target of a recent compaction is computed like any other;
//! etcd remembers what it computed during that compaction and reports it with the compact revision before.

use std::collections::HashSet;

use super::{HashKv, ReadError, Shared};
use crate::crc32c::Crc32c;
use crate::error::{Fault, Rejected};
use crate::key_value::KeyValue;
use crate::revision::Revision;
use crate::tables::Row;

/// What etcd's hash starts with: the name of the bucket.
const BUCKET: &[u8] = b"key";

/// Bytes of rows read at a time.
const BITE_BYTES: usize = 1024 * 1024;

/// See [`super::StoreReader::hash_kv`].
pub(super) fn hash_kv(shared: &Shared, revision: i64) -> Result<HashKv, ReadError> {
    loop {
        let (present, compacted) = {
            let state = shared.state.lock();
            (state.revision, state.compacted)
        };
        let at = u64::try_from(revision)
            .ok()
            .filter(|revision| *revision > 0)
            .unwrap_or(present);
        if at > present {
            return Err(Rejected::FutureRevision.into());
        }
        if compacted > Some(at) {
            return Err(Rejected::Compacted.into());
        }
        let forgotten = Forgotten::find(shared, at, compacted)?;
        let hash = hash_rows(shared, at, &forgotten)?;
        // A compaction in between may have deleted rows between the passes: then it decides anew.
        if shared.state.lock().compacted == compacted {
            return Ok(HashKv {
                hash,
                compact_revision: compacted.map_or(-1, |compacted| compacted as i64),
                hash_revision: at,
                revision: present,
            });
        }
    }
}

/// Which rows the hash leaves out, among those at or below the compact revision.
struct Forgotten {
    compacted: Option<u64>,
    /// Replaced by a later row up to the compact revision: forgotten already, even if still on disk.
    replaced_then: HashSet<Revision>,
    /// Replaced by a later row up to the hashed revision.
    replaced_later: HashSet<Revision>,
    /// Whether a compaction at the hashed revision would keep any row. If not, etcd leaves out nothing but what is
    /// forgotten already.
    keeps_any: bool,
}

impl Forgotten {
    fn find(shared: &Shared, at: u64, compacted: Option<u64>) -> Result<Self, Fault> {
        let mut forgotten = Self {
            compacted,
            replaced_then: HashSet::new(),
            replaced_later: HashSet::new(),
            keeps_any: false,
        };
        // Change of the number of live keys from the compact revision to the hashed one.
        let mut change = 0_i64;
        for_each_row(shared, at, |revision, row| {
            if compacted.is_some_and(|compacted| revision.main <= compacted) {
                forgotten.replaced_then.extend(row.previous);
                return;
            }
            change += if row.tombstone {
                -1
            } else {
                i64::from(created(row))
            };
            let is_old = |previous: &Revision| compacted.is_some_and(|compacted| previous.main <= compacted);
            forgotten.replaced_later.extend(row.previous.filter(is_old));
        })?;
        let mut alive = 0_i64;
        for_each_row(shared, compacted.unwrap_or(0), |revision, row| {
            alive += i64::from(!row.tombstone && !forgotten.replaced_then.contains(&revision));
        })?;
        forgotten.keeps_any = alive + change > 0;
        Ok(forgotten)
    }

    fn skips(&self, revision: Revision, row: &Row) -> bool {
        // Of the tombstones, those at the compact revision itself are stored but not hashed.
        self.compacted.is_some_and(|compacted| revision.main <= compacted)
            && (row.tombstone
                || self.replaced_then.contains(&revision)
                || (self.keeps_any && self.replaced_later.contains(&revision)))
    }
}

fn created(row: &Row) -> bool {
    KeyValue::decode(&row.kv).is_some_and(|kv| kv.version == 1)
}

fn hash_rows(shared: &Shared, at: u64, forgotten: &Forgotten) -> Result<u32, Fault> {
    let mut crc = Crc32c::default();
    crc.update(BUCKET);
    for_each_row(shared, at, |revision, row| {
        if forgotten.skips(revision, row) {
            return;
        }
        crc.update(&revision.main.to_be_bytes());
        crc.update(b"_");
        crc.update(&u64::from(revision.sub).to_be_bytes());
        if row.tombstone {
            crc.update(b"t");
            // etcd stores the key alone.
            let key = KeyValue::decode(&row.kv).unwrap_or_default().key;
            crc.update(
                &KeyValue {
                    key,
                    ..KeyValue::default()
                }
                .to_bytes(),
            );
        } else {
            crc.update(&row.kv);
        }
    })?;
    Ok(crc.value())
}

/// Visits all stored rows up to main revision `at`, in order.
fn for_each_row(shared: &Shared, at: u64, mut visit: impl FnMut(Revision, &Row)) -> Result<(), Fault> {
    let mut from = Revision::default();
    loop {
        let rows = shared.rows_from(from, BITE_BYTES)?;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        from = Revision::new(last.main, last.sub + 1);
        for (revision, row) in &rows {
            if revision.main > at {
                return Ok(());
            }
            visit(*revision, row);
        }
    }
}
