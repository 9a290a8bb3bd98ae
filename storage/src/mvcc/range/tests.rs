use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;
use crate::mvcc::index::Index;

/// A few keys with one record each, and a count of the records looked up.
#[derive(Default)]
struct State {
    index: Index,
    rows: BTreeMap<Revision, Arc<Row>>,
    previous: BTreeMap<Revision, Revision>,
    present: u64,
    looked_up: Cell<usize>,
}

impl Records for State {
    fn rows(&self, revisions: &[Revision]) -> Result<Vec<Option<Arc<Row>>>, Fault> {
        self.looked_up.set(self.looked_up.get() + revisions.len());
        Ok(revisions
            .iter()
            .map(|revision| self.rows.get(revision).cloned())
            .collect())
    }

    fn at_or_below(&self, revisions: &[Revision], main: u64) -> Vec<Option<Revision>> {
        let trace = |newest: &Revision| {
            let mut walk =
                std::iter::successors(Some(*newest), |revision| self.previous.get(revision).copied());
            walk.find(|revision| revision.main <= main)
        };
        revisions.iter().map(trace).collect()
    }

    fn count_change(&self, _: u64, _: u64, _: Span<'_>, _: usize) -> Option<i64> {
        None
    }
}

impl State {
    fn put(&mut self, key: &str, version: u64, value: &str, lease: i64) {
        self.present += 1;
        let modified = Revision::new(self.present, 0);
        let kv = KeyValue {
            key: key.as_bytes(),
            create_revision: self.present as i64,
            mod_revision: self.present as i64,
            version: version as i64,
            value: value.as_bytes(),
            lease,
        };
        let meta = KeyMeta {
            create: self.present,
            modified,
            version,
            lease,
            bytes: kv.encoded_len() as u32,
            live: true,
        };
        if let Some(before) = self.index.insert(key.as_bytes(), meta) {
            self.previous.insert(modified, before.modified);
        }
        let row = Row {
            kv: kv.to_bytes(),
            ..Row::default()
        };
        self.rows.insert(modified, Arc::new(row));
    }

    fn read(&self, range: &Range) -> RangeRead {
        let reading = Reading {
            root: self.index.view(),
            present: self.present,
            records: self,
        };
        reading.range(range).unwrap()
    }

    fn keys(&self, range: &Range) -> Vec<String> {
        let kvs = self.read(range).result.kvs;
        let key = |kv: &Bytes| String::from_utf8(KeyValue::decode(kv).unwrap().key.to_vec()).unwrap();
        kvs.iter().map(key).collect()
    }
}

fn all() -> Range {
    Range {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Range::default()
    }
}

fn state() -> State {
    let mut state = State::default();
    for (key, version, value, lease) in [("a", 3, "x", 0), ("b", 2, "z", 5), ("c", 1, "y", 0)] {
        state.put(key, version, value, lease);
    }
    state
}

/// API specification 3.4: the limit cuts in key order before the order by another target is made.
#[test]
fn without_an_order_the_limit_cuts_before_sorting() {
    let by_version = |sort_order| Range {
        limit: 1,
        sort_order,
        sort_target: SortTarget::Version,
        ..all()
    };
    assert_eq!(
        state().keys(&by_version(SortOrder::None)),
        ["b"],
        "the smaller of the first two"
    );
    assert_eq!(state().keys(&by_version(SortOrder::Ascend)), ["c"]);
    assert_eq!(state().keys(&by_version(SortOrder::Descend)), ["a"]);
}

#[test]
fn values_order_the_answer_even_when_it_leaves_them_out() {
    let range = Range {
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Value,
        keys_only: true,
        ..all()
    };
    assert_eq!(state().keys(&range), ["b", "c", "a"]);
    let kvs = state().read(&range).result.kvs;
    let first = KeyValue::decode(&kvs[0]).unwrap();
    assert_eq!(
        (first.value, first.lease),
        (&b""[..], 5),
        "the lease stays with this order"
    );
    let kvs = state()
        .read(&Range {
            keys_only: true,
            ..all()
        })
        .result
        .kvs;
    assert_eq!(
        KeyValue::decode(&kvs[1]).unwrap().lease,
        0,
        "and goes with others"
    );
}

#[test]
fn count_is_of_the_range_whatever_limit_and_filters_say() {
    let filtered = Range {
        min_mod_revision: 2,
        limit: 1,
        ..all()
    };
    let result = state().read(&filtered).result;
    assert_eq!((result.count, result.more, result.kvs.len()), (3, true, 1));
    let result = state().read(&Range { limit: 3, ..all() }).result;
    assert_eq!((result.count, result.more), (3, false));
}

#[test]
fn limited_read_looks_up_what_it_answers() {
    let mut state = State::default();
    for number in 0..2000 {
        state.put(&format!("{number:04}"), 1, "value", 0);
    }
    for sort_order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
        state.looked_up.set(0);
        let limited = Range {
            limit: 7,
            sort_order,
            ..all()
        };
        assert_eq!(state.read(&limited).result.count, 2000);
        assert_eq!(state.looked_up.get(), 7);
    }
    let backwards = Range {
        limit: 900,
        sort_order: SortOrder::Descend,
        ..all()
    };
    let keys = state.keys(&backwards);
    assert_eq!((keys.len(), &*keys[0], &*keys[899]), (900, "1999", "1100"));
}

#[test]
fn empty_and_inverted_ranges_hold_nothing() {
    for (key, end) in [("b", "b"), ("b", "a")] {
        let span = Span::of(key.as_bytes(), end.as_bytes());
        assert_eq!(span.count(state().index.view()), 0);
        let range = Range {
            key: Bytes::from(key),
            range_end: Bytes::from(end),
            ..Range::default()
        };
        for sort_order in [SortOrder::None, SortOrder::Descend] {
            let range = Range {
                sort_order,
                ..range.clone()
            };
            assert_eq!(state().read(&range).result, RangeResult::default());
        }
    }
}

#[test]
fn missing_records_are_told_apart() {
    let mut state = state();
    state.put("a", 4, "new", 0);
    let now = |state: &State| state.read(&all());
    let then = |state: &State| state.read(&Range { revision: 3, ..all() });
    assert_eq!(then(&state).damaged(None), None);
    assert_eq!(then(&state).result.count, 3);
    state.rows.remove(&Revision::new(1, 0));
    assert_eq!(now(&state).damaged(Some(2)), None, "nobody needs it now");
    assert_eq!(
        then(&state).damaged(Some(2)),
        None,
        "a deletion that compaction forgot"
    );
    assert_eq!(then(&state).damaged(None), Some(Revision::new(1, 0)));
    state.rows.remove(&Revision::new(2, 0));
    assert_eq!(
        now(&state).damaged(Some(4)),
        Some(Revision::new(2, 0)),
        "a live key lost its record"
    );
}
