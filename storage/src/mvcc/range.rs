//! Range reads (API specification 3): which keys, in which order, how many, as of which revision.
//!
//! Everything but the records themselves comes from one index root, so a read shares nothing with the writer. A read
//! at an older revision walks from each key's newest record back through the key's history.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::index::{IndexRoot, KeyMeta};
use crate::applied::RangeResult;
use crate::command::{Range, SortOrder, SortTarget};
use crate::error::Fault;
use crate::key_value::KeyValue;
use crate::revision::Revision;
use crate::tables::Row;

/// Index entries looked at before their records are looked up, all at once.
const BITE_KEYS: usize = 256;

/// Changes that are looked at for a count at an older revision, per key in the range now, before walking the range is
/// taken to be cheaper.
const CHANGES_PER_KEY: usize = 8;

/// Which keys a request names (API specification 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span<'a> {
    /// One key.
    Key(&'a [u8]),
    /// From a key on, up to another one (exclusive) if there is one. May be empty or inverted: no keys then.
    From(&'a [u8], Option<&'a [u8]>),
}

impl<'a> Span<'a> {
    /// The meaning of etcd's `key` and `range_end`.
    pub fn of(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::Key(key),
            [0] => Self::From(key, None),
            end => Self::From(key, Some(end)),
        }
    }

    /// Whether `key` is among them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => key == *only,
            Self::From(start, end) => key >= *start && end.is_none_or(|end| key < end),
        }
    }

    /// Number of live keys.
    pub fn count(&self, root: &IndexRoot) -> u64 {
        match self {
            Self::Key(key) => u64::from(root.get(key).is_some_and(|meta| meta.live)),
            Self::From(start, Some(end)) if end <= start => 0,
            Self::From(start, end) => root.count(start, *end),
        }
    }

    /// Bytes of the records of live keys.
    pub fn bytes(&self, root: &IndexRoot) -> u64 {
        match self {
            Self::Key(key) => root
                .get(key)
                .filter(|meta| meta.live)
                .map_or(0, |meta| meta.bytes.into()),
            Self::From(start, Some(end)) if end <= start => 0,
            Self::From(start, end) => root.bytes(start, *end),
        }
    }

    /// Visits the index entries, those of deleted keys too.
    pub fn for_each(&self, root: &IndexRoot, mut visit: impl FnMut(&[u8], &KeyMeta) -> ControlFlow<()>) {
        match self {
            Self::Key(key) => {
                if let Some(meta) = root.get(key) {
                    let _ = visit(key, &meta);
                }
            }
            Self::From(start, Some(end)) if end <= start => {}
            Self::From(start, end) => root.for_each(start, *end, visit),
        }
    }

    fn for_each_rev(&self, root: &IndexRoot, visit: impl FnMut(&[u8], &KeyMeta) -> ControlFlow<()>) {
        match self {
            Self::Key(_) => self.for_each(root, visit),
            Self::From(start, Some(end)) if end <= start => {}
            Self::From(start, end) => root.for_each_rev(start, *end, visit),
        }
    }
}

/// Where records and the history of keys come from.
pub trait Records {
    /// The records of `revisions`, in that order; none for those that compaction has deleted, if it did so long ago.
    fn rows(&self, revisions: &[Revision]) -> Result<Vec<Option<Arc<Row>>>, Fault>;
    /// For each revision, the newest one of the same key that is at or below main revision `main`.
    fn at_or_below(&self, revisions: &[Revision], main: u64) -> Vec<Option<Revision>>;
    /// How many more keys of `span` are alive at main revision `to` than at `from`, if that is known and takes no more
    /// than looking at `changes_max` changes.
    fn count_change(&self, from: u64, to: u64, span: Span<'_>, changes_max: usize) -> Option<i64>;
}

/// The state as of one revision.
pub struct Reading<'a, R> {
    /// The index.
    pub root: &'a IndexRoot,
    /// The main revision that `root` shows.
    pub present: u64,
    /// The records.
    pub records: &'a R,
}

/// A range read that has been answered as far as the records go.
#[derive(Debug, Default)]
pub struct RangeRead {
    /// The answer; right only if the caller finds the missing records harmless.
    pub result: RangeResult,
    /// A record of a live key was missing: compaction went past the read, or the data is damaged.
    pub lost: Option<Revision>,
    /// The newest record missing on a walk into the past. At or above the compact revision it must not be: below, it
    /// was a deletion that compaction forgot.
    pub gone: Option<Revision>,
}

impl RangeRead {
    /// What the missing records mean, given the compact revision after the read: nothing, or the first that cannot
    /// be missing.
    pub fn damaged(&self, compacted: Option<u64>) -> Option<Revision> {
        let below = |revision: &Revision| compacted.is_some_and(|compacted| revision.main < compacted);
        self.lost.or(self.gone.filter(|revision| !below(revision)))
    }
}

/// A key that is alive at the read's revision.
struct Found {
    create: u64,
    modified: Revision,
    version: u64,
    /// What the reply will hold, or has to be made from; none: still to be looked up.
    kv: Option<Bytes>,
}

impl Found {
    fn matches(&self, range: &Range) -> bool {
        let inside = |value: u64, min: i64, max: i64| {
            let value = value as i64;
            (min == 0 || value >= min) && (max == 0 || value <= max)
        };
        inside(self.modified.main, range.min_mod_revision, range.max_mod_revision)
            && inside(self.create, range.min_create_revision, range.max_create_revision)
    }
}

fn has_filters(range: &Range) -> bool {
    range.min_mod_revision != 0
        || range.max_mod_revision != 0
        || range.min_create_revision != 0
        || range.max_create_revision != 0
}

impl<R: Records> Reading<'_, R> {
    /// Answers `range`. Its revision must be neither compacted nor in the future.
    pub fn range(&self, range: &Range) -> Result<RangeRead, Fault> {
        let span = Span::of(&range.key, &range.range_end);
        let at = match u64::try_from(range.revision) {
            Ok(revision) if revision > 0 => revision,
            _ => self.present,
        };
        let mut read = RangeRead::default();
        if range.count_only {
            read.result.count = self.count(span, at, &mut read)?;
            return Ok(read);
        }
        let by_key = range.sort_target == SortTarget::Key;
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0);
        // The scan may stop early when what it finds first is what the answer starts with; and, oddly, for other
        // targets without an order (API specification 3.4).
        let cut = by_key || (range.sort_order == SortOrder::None && !has_filters(range));
        let wanted = limit
            .filter(|_| cut)
            .map_or(usize::MAX, |limit| limit.saturating_add(1));
        let mut scan = Scan::new(self, span, at, by_key && range.sort_order == SortOrder::Descend);
        scan.encode_keys = range.keys_only && range.sort_target != SortTarget::Value;
        // Without filters nothing is thrown away, so no bite need be larger than what is wanted.
        scan.bite = if has_filters(range) {
            BITE_KEYS
        } else {
            BITE_KEYS.min(wanted)
        };
        let mut found: Vec<Found> = Vec::new();
        let mut visible = 0;
        while found.len() < wanted {
            let Some(bite) = scan.next(&mut read)? else {
                break;
            };
            visible += bite.len() as u64;
            found.extend(bite.into_iter().filter(|found| found.matches(range)));
        }
        read.result.count = if scan.is_finished() {
            visible
        } else {
            self.count(span, at, &mut read)?
        };
        found.truncate(wanted);
        if !by_key {
            self.sort(&mut found, range, &mut read)?;
        }
        if let Some(limit) = limit {
            read.result.more = found.len() > limit;
            found.truncate(limit);
        }
        self.load(&mut found, &mut read)?;
        let reply = found.into_iter().filter_map(|found| found.kv);
        read.result.kvs = if range.keys_only {
            reply.map(|kv| blank(kv, range.sort_target)).collect()
        } else {
            reply.collect()
        };
        Ok(read)
    }

    /// Number of keys alive at main revision `at`.
    fn count(&self, span: Span<'_>, at: u64, read: &mut RangeRead) -> Result<u64, Fault> {
        if at >= self.present {
            return Ok(span.count(self.root));
        }
        let now = span.count(self.root);
        let changes_max = usize::try_from(now)
            .unwrap_or(usize::MAX)
            .saturating_mul(CHANGES_PER_KEY);
        let changes_max = changes_max.saturating_add(BITE_KEYS);
        if let Some(change) = self.records.count_change(at, self.present, span, changes_max) {
            return Ok(now
                .checked_add_signed(-change)
                .expect("no count was ever negative"));
        }
        let mut scan = Scan::new(self, span, at, false);
        let mut count = 0;
        while let Some(bite) = scan.next(read)? {
            count += bite.len() as u64;
        }
        Ok(count)
    }

    fn sort(&self, found: &mut [Found], range: &Range, read: &mut RangeRead) -> Result<(), Fault> {
        if range.sort_target == SortTarget::Value {
            self.load(found, read)?;
        }
        let value = |found: &Found| -> Bytes {
            let kv = found.kv.clone().unwrap_or_default();
            let value = KeyValue::decode(&kv).unwrap_or_default().value;
            kv.slice_ref(value)
        };
        let in_order = |ordering: Ordering| match range.sort_order {
            SortOrder::Descend => ordering.reverse(),
            SortOrder::None | SortOrder::Ascend => ordering,
        };
        match range.sort_target {
            SortTarget::Key => {}
            SortTarget::Version => found.sort_by(|a, b| in_order(a.version.cmp(&b.version))),
            SortTarget::Create => found.sort_by(|a, b| in_order(a.create.cmp(&b.create))),
            SortTarget::Mod => found.sort_by(|a, b| in_order(a.modified.main.cmp(&b.modified.main))),
            SortTarget::Value if range.sort_order == SortOrder::Descend => {
                found.sort_by_cached_key(|found| std::cmp::Reverse(value(found)));
            }
            SortTarget::Value => found.sort_by_cached_key(value),
        }
        Ok(())
    }

    /// Looks up the records that are not there yet.
    fn load(&self, found: &mut [Found], read: &mut RangeRead) -> Result<(), Fault> {
        let missing: Vec<_> = found.iter_mut().filter(|found| found.kv.is_none()).collect();
        let revisions: Vec<_> = missing.iter().map(|found| found.modified).collect();
        let rows = self.records.rows(&revisions)?;
        for (found, row) in missing.into_iter().zip(rows) {
            match row {
                Some(row) => found.kv = Some(row.kv.clone()),
                None => read.lost = read.lost.max(Some(found.modified)),
            }
        }
        Ok(())
    }
}

/// Drops the value, and the lease unless the order was by value (as etcd 3.7 does, API specification 3.5).
fn blank(kv: Bytes, target: SortTarget) -> Bytes {
    match KeyValue::decode(&kv) {
        Some(pair) if !pair.value.is_empty() || (pair.lease != 0 && target != SortTarget::Value) => {
            KeyValue {
                value: &[],
                lease: if target == SortTarget::Value {
                    pair.lease
                } else {
                    0
                },
                ..pair
            }
            .to_bytes()
        }
        _ => kv,
    }
}

/// Walks the keys that are alive at one revision, in key order or against it, in bites.
struct Scan<'a, 'r, R> {
    reading: &'a Reading<'a, R>,
    span: Span<'r>,
    at: u64,
    backwards: bool,
    encode_keys: bool,
    bite: usize,
    /// The last key looked at.
    last: Option<Vec<u8>>,
    finished: bool,
}

/// An index entry: alive at the revision, or to be traced back to it.
enum Seen {
    Alive(Found),
    Newer(Revision),
}

impl<'a, 'r, R: Records> Scan<'a, 'r, R> {
    fn new(reading: &'a Reading<'a, R>, span: Span<'r>, at: u64, backwards: bool) -> Self {
        Self {
            reading,
            span,
            at,
            backwards,
            encode_keys: false,
            bite: BITE_KEYS,
            last: None,
            finished: false,
        }
    }

    /// Whether there is nothing behind what has been seen.
    fn is_finished(&self) -> bool {
        self.finished
    }

    /// Some more live keys (maybe none of those looked at); `None` at the end.
    fn next(&mut self, read: &mut RangeRead) -> Result<Option<Vec<Found>>, Fault> {
        if self.finished {
            return Ok(None);
        }
        let seen = self.look();
        let newer: Vec<_> = seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Newer(newest) => Some(*newest),
                Seen::Alive(_) => None,
            })
            .collect();
        if newer.is_empty() {
            let alive = seen.into_iter().filter_map(|seen| match seen {
                Seen::Alive(found) => Some(found),
                Seen::Newer(_) => None,
            });
            return Ok(Some(alive.collect()));
        }
        let mut traced = self.trace(&newer, read)?.into_iter();
        let found = seen.into_iter().filter_map(|seen| match seen {
            Seen::Alive(found) => Some(found),
            Seen::Newer(_) => traced.next().flatten(),
        });
        Ok(Some(found.collect()))
    }

    /// Collects the next index entries that matter.
    fn look(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        let (at, encode_keys, bite) = (self.at, self.encode_keys, self.bite.max(1));
        let visit = |key: &[u8], meta: &KeyMeta| {
            if meta.modified.main > at {
                seen.push(Seen::Newer(meta.modified));
            } else if meta.live {
                seen.push(Seen::Alive(Found {
                    create: meta.create,
                    modified: meta.modified,
                    version: meta.version,
                    kv: encode_keys.then(|| key_only(key, meta)),
                }));
            }
            if seen.len() < bite {
                return ControlFlow::Continue(());
            }
            last = Some(key.to_vec());
            ControlFlow::Break(())
        };
        // Go on behind the last key: the smallest key above it is the same with a zero byte appended.
        let mut above;
        let rest = match (&self.last, self.span) {
            (Some(last), Span::From(start, _)) if self.backwards => Span::From(start, Some(last)),
            (Some(last), Span::From(_, end)) => {
                above = last.clone();
                above.push(0);
                Span::From(&above, end)
            }
            (_, span) => span,
        };
        if self.backwards {
            rest.for_each_rev(self.reading.root, visit);
        } else {
            rest.for_each(self.reading.root, visit);
        }
        self.finished = last.is_none() || matches!(self.span, Span::Key(_));
        self.last = last;
        seen
    }

    /// Finds what keys whose newest record is too new looked like at the revision.
    fn trace(&self, newer: &[Revision], read: &mut RangeRead) -> Result<Vec<Option<Found>>, Fault> {
        let records = self.reading.records;
        let then = records.at_or_below(newer, self.at);
        let existed: Vec<_> = then.iter().copied().flatten().collect();
        let mut rows = records.rows(&existed)?.into_iter();
        let found = then.into_iter().map(|then| {
            let revision = then?;
            let Some(row) = rows.next().flatten() else {
                read.gone = read.gone.max(Some(revision));
                return None;
            };
            if row.tombstone {
                return None;
            }
            let kv = KeyValue::decode(&row.kv).unwrap_or_default();
            Some(Found {
                create: kv.create_revision as u64,
                modified: revision,
                version: kv.version as u64,
                kv: Some(row.kv.clone()),
            })
        });
        Ok(found.collect())
    }
}

/// What a reply without values holds for a key: what the index knows.
fn key_only(key: &[u8], meta: &KeyMeta) -> Bytes {
    KeyValue {
        key,
        create_revision: meta.create as i64,
        mod_revision: meta.modified.main as i64,
        version: meta.version as i64,
        value: &[],
        lease: 0,
    }
    .to_bytes()
}

#[cfg(test)]
mod tests;
