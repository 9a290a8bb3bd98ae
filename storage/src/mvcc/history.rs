//! [`History`]: for each record since the last compaction, the record of the same key before it.
//!
//! The index knows only the newest record of a key. A read at an older revision starts there and follows these links
//! back. They are 12 bytes per record and 8 per main revision, in chunks that never move, found by number.

use std::ops::Range;

use super::chunked::Chunked;
use crate::revision::Revision;

/// Links from records to their predecessors, for the main revisions from `first_main` up to the newest.
#[derive(Debug)]
pub struct History {
    /// The oldest main revision that is known.
    first_main: u64,
    /// The main revision after the newest.
    next_main: u64,
    /// Main revision `m` has number `m - base_main` in `starts`.
    base_main: u64,
    /// For each main revision, where its links start. They end where the next one's start.
    starts: Chunked<u64>,
    /// One link per record.
    links: Chunked<Link>,
}

/// A revision in 12 bytes; main 0 says there is none (the first write is revision 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link([u32; 3]);

impl History {
    /// No records yet; `first_main` is the next main revision expected.
    pub fn new(first_main: u64) -> Self {
        Self {
            first_main,
            next_main: first_main,
            base_main: first_main,
            starts: Chunked::new(),
            links: Chunked::new(),
        }
    }

    /// Adds the record at `revision`, whose key's record before was `previous`.
    ///
    /// Records come in the order of history. Every main revision has a record until a compaction takes it away, so a
    /// gap says that what came before it was compacted: the history begins anew behind a gap, and nobody may ask for
    /// what is older. Missing subs are filled in. A record before [`History::first_main`] is ignored; start with the
    /// main after the compact revision to have all leftovers ignored.
    ///
    /// # Panics
    ///
    /// When `revision` is not after the record pushed last.
    pub fn push(&mut self, revision: Revision, previous: Option<Revision>) {
        if revision.main < self.first_main {
            return;
        }
        self.open_main(revision.main);
        let start = self.starts.item(revision.main - self.base_main);
        let number = start.expect("the main was opened") + u64::from(revision.sub);
        assert!(
            revision.main + 1 == self.next_main && number >= self.links.len(),
            "record {revision} is out of order in the history"
        );
        while self.links.len() < number {
            self.links.push(Link::from(None));
        }
        self.links.push(Link::from(previous));
    }

    /// The record of the same key before the one at `revision`. None when there was none, when it is before
    /// [`History::first_main`]'s knowledge, or when there is no record at `revision`.
    pub fn previous(&self, revision: Revision) -> Option<Revision> {
        if revision.main < self.first_main || revision.main >= self.next_main {
            return None;
        }
        let at = revision.main - self.base_main;
        let number = self.starts.item(at)? + u64::from(revision.sub);
        let end = self.starts.item(at + 1).unwrap_or(self.links.len());
        if number >= end {
            return None;
        }
        self.links.item(number)?.revision()
    }

    /// How many records there are at the main revision `main`: their subs are below this. 0 when its links are not known.
    pub fn links(&self, main: u64) -> u64 {
        if main < self.first_main || main >= self.next_main {
            return 0;
        }
        let at = main - self.base_main;
        let end = self.starts.item(at + 1).unwrap_or(self.links.len());
        self.starts.item(at).map_or(0, |start| end - start)
    }

    /// Adds all records of `newer`, which must be after those here.
    pub fn append(&mut self, newer: &Self) {
        for main in newer.mains() {
            for sub in 0..newer.links(main) {
                let revision = Revision::new(main, u32::try_from(sub).expect("a sub is a u32"));
                self.push(revision, newer.previous(revision));
            }
        }
    }

    /// Forgets the links of all main revisions before `main`. Links that point before it stay: whether the record
    /// they name was compacted is for the reader to know.
    pub fn truncate_before(&mut self, main: u64) {
        if main <= self.first_main {
            return;
        }
        if main >= self.next_main {
            *self = Self::new(main);
            return;
        }
        self.first_main = main;
        let at = main - self.base_main;
        if let Some(first_link) = self.starts.item(at) {
            self.starts.cut_before(at);
            self.links.cut_before(first_link);
        }
    }

    /// The oldest main revision whose links are known.
    pub fn first_main(&self) -> u64 {
        self.first_main
    }

    /// The main revisions whose links are known.
    pub fn mains(&self) -> Range<u64> {
        self.first_main..self.next_main
    }

    /// Bytes of heap in use.
    pub fn heap_bytes(&self) -> usize {
        self.starts.heap_bytes() + self.links.heap_bytes()
    }

    /// Makes `main` the newest main revision, if it is not yet.
    fn open_main(&mut self, main: u64) {
        if main < self.next_main {
            return;
        }
        if main > self.next_main {
            *self = Self::new(main);
        }
        self.starts.push(self.links.len());
        self.next_main = main + 1;
    }
}

impl From<Option<Revision>> for Link {
    fn from(revision: Option<Revision>) -> Self {
        let revision = revision.unwrap_or_default();
        Self([(revision.main >> 32) as u32, revision.main as u32, revision.sub])
    }
}

impl Link {
    fn revision(self) -> Option<Revision> {
        let Self([high, low, sub]) = self;
        let main = u64::from(high) << 32 | u64::from(low);
        (main != 0).then_some(Revision::new(main, sub))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(main: u64, sub: u32) -> Revision {
        Revision::new(main, sub)
    }

    #[test]
    fn links_lead_from_record_to_record_until_the_first() {
        let mut history = History::new(2);
        history.push(at(2, 0), None);
        history.push(at(2, 1), None);
        history.push(at(3, 0), Some(at(2, 1)));
        assert_eq!(history.previous(at(3, 0)), Some(at(2, 1)));
        assert_eq!(history.previous(at(2, 1)), None);
        assert_eq!(history.previous(at(3, 1)), None, "no such record");
        assert_eq!(history.previous(at(4, 0)), None, "not there yet");
    }

    #[test]
    fn truncated_links_are_gone_and_the_others_stay() {
        let mut history = History::new(2);
        for main in 2..20_000 {
            history.push(at(main, 0), Some(at(main - 1, 0)));
        }
        let full = history.heap_bytes();
        history.truncate_before(15_000);
        assert_eq!(history.first_main(), 15_000);
        assert!(history.heap_bytes() < full / 2);
        assert_eq!(history.previous(at(14_999, 0)), None);
        assert_eq!(history.previous(at(15_000, 0)), Some(at(14_999, 0)));
        assert_eq!(history.previous(at(19_999, 0)), Some(at(19_998, 0)));
        history.truncate_before(20_000);
        assert_eq!(history.first_main(), 20_000);
        history.push(at(20_000, 0), Some(at(19_999, 0)));
        assert_eq!(history.previous(at(20_000, 0)), Some(at(19_999, 0)));
    }

    #[test]
    fn history_begins_anew_behind_a_gap_however_wide() {
        const FAR: u64 = 1 << 60;
        let mut history = History::new(2);
        history.push(at(2, 0), None);
        history.push(at(FAR, 3), Some(at(2, 0)));
        history.push(at(FAR + 1, 0), Some(at(FAR, 3)));
        assert_eq!(history.first_main(), FAR);
        assert_eq!(history.previous(at(FAR + 1, 0)), Some(at(FAR, 3)));
        assert_eq!(history.previous(at(FAR, 3)), Some(at(2, 0)));
        assert_eq!(history.previous(at(FAR, 2)), None);
    }

    #[test]
    fn leftovers_before_the_first_main_are_ignored() {
        let mut history = History::new(10);
        history.push(at(3, 0), None);
        history.push(at(7, 1), Some(at(3, 0)));
        history.push(at(10, 0), Some(at(7, 1)));
        assert_eq!(history.previous(at(7, 1)), None);
        assert_eq!(history.previous(at(10, 0)), Some(at(7, 1)));
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn a_record_pushed_twice_is_refused() {
        let mut history = History::new(2);
        history.push(at(2, 0), None);
        history.push(at(2, 0), None);
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn a_record_before_the_newest_is_refused() {
        let mut history = History::new(2);
        history.push(at(3, 0), None);
        history.push(at(4, 0), None);
        history.push(at(3, 1), None);
    }

    proptest! {
        #[test]
        fn history_agrees_with_an_ordered_map(
            first in 2u64..10,
            steps in prop::collection::vec((0u64..20, 0u32..3, 1u32..5, prop::option::of(0u64..40)), 1..200),
        ) {
            let (mut history, mut model) = (History::new(first), BTreeMap::new());
            let (mut main, mut cut) = (first, first);
            for (gap, skipped_subs, subs, truncate) in steps {
                if gap == 3 {
                    main += 1;
                    model.clear();
                    cut = main;
                }
                for sub in skipped_subs..skipped_subs + subs {
                    let previous = (main % 3 != 0).then_some(at(main - 1, sub));
                    history.push(at(main, sub), previous);
                    model.insert(at(main, sub), previous);
                }
                main += 1;
                if let Some(back) = truncate {
                    cut = cut.max(main.saturating_sub(back));
                    history.truncate_before(cut);
                    model.retain(|revision, _| revision.main >= cut);
                }
                prop_assert_eq!(history.first_main(), cut);
                for main in first - 1..main + 2 {
                    let links = model.keys().filter(|revision| revision.main == main).map(|at| at.sub + 1).max();
                    prop_assert_eq!(history.links(main), links.unwrap_or(0).into());
                    for sub in 0..8 {
                        let expected = model.get(&at(main, sub)).copied().flatten();
                        prop_assert_eq!(history.previous(at(main, sub)), expected);
                    }
                }
            }
        }
    }
}
