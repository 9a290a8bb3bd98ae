//! [`BlockSet`]: a set of blocks of a file, a bit for each.

use std::ops::Range;

const WORD_BITS: u64 = u64::BITS as u64;

/// Numbers of blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockSet {
    words: Vec<u64>,
}

impl BlockSet {
    pub(super) fn insert(&mut self, blocks: Range<u64>) {
        let words = blocks.end.div_ceil(WORD_BITS) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        for_each_word(blocks, |word, bits| self.words[word] |= bits);
    }

    pub(super) fn remove(&mut self, blocks: Range<u64>) {
        for_each_word(blocks, |word, bits| {
            if let Some(word) = self.words.get_mut(word) {
                *word &= !bits;
            }
        });
    }

    pub(super) fn insert_all(&mut self, others: &Self) {
        if self.words.len() < others.words.len() {
            self.words.resize(others.words.len(), 0);
        }
        for (word, other) in self.words.iter_mut().zip(&others.words) {
            *word |= other;
        }
    }

    /// Takes out all blocks that are in `others`.
    pub(super) fn remove_all(&mut self, others: &Self) {
        for (word, other) in self.words.iter_mut().zip(&others.words) {
            *word &= !other;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Blocks that follow each other, as long as they do; in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next(from, |word| word)?;
            let end = self.next(start, |word| !word);
            from = end.unwrap_or(self.words.len() as u64 * WORD_BITS);
            Some(start..from)
        })
    }

    /// The first block from `from` on whose bit is set in what `view` makes of its word.
    fn next(&self, from: u64, view: impl Fn(u64) -> u64) -> Option<u64> {
        let first = (from / WORD_BITS) as usize;
        let mut hidden = bits(0..from % WORD_BITS);
        for (place, word) in self.words.iter().enumerate().skip(first) {
            let seen = view(*word) & !hidden;
            if seen != 0 {
                return Some(place as u64 * WORD_BITS + u64::from(seen.trailing_zeros()));
            }
            hidden = 0;
        }
        None
    }
}

/// Calls `with` for each word that `blocks` touch: its place, and their bits in it.
fn for_each_word(blocks: Range<u64>, mut with: impl FnMut(usize, u64)) {
    let mut from = blocks.start;
    while from < blocks.end {
        let word = from / WORD_BITS;
        let end = blocks.end.min((word + 1) * WORD_BITS);
        with(word as usize, bits(from % WORD_BITS..end - word * WORD_BITS));
        from = end;
    }
}

/// The bits of a word at these places.
fn bits(places: Range<u64>) -> u64 {
    let below = |end: u64| match end {
        WORD_BITS => u64::MAX,
        end => (1 << end) - 1,
    };
    below(places.end) & !below(places.start)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        InsertAll(Range<u64>),
        Remove(Range<u64>),
        RemoveAll(Range<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let blocks = (0u64..400, 0u64..200).prop_map(|(start, blocks)| start..start + blocks);
        prop_oneof![
            3 => blocks.clone().prop_map(Step::Insert),
            2 => blocks.clone().prop_map(Step::Remove),
            1 => blocks.clone().prop_map(Step::InsertAll),
            1 => blocks.prop_map(Step::RemoveAll),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_set_of_numbers_does(steps in prop::collection::vec(step(), 1..20)) {
            let mut set = BlockSet::default();
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Insert(blocks) => {
                        set.insert(blocks.clone());
                        model.extend(blocks);
                    }
                    Step::InsertAll(blocks) => {
                        let mut others = BlockSet::default();
                        others.insert(blocks.clone());
                        set.insert_all(&others);
                        model.extend(blocks);
                    }
                    Step::Remove(blocks) => {
                        set.remove(blocks.clone());
                        model.retain(|number| !blocks.contains(number));
                    }
                    Step::RemoveAll(blocks) => {
                        let mut others = BlockSet::default();
                        others.insert(blocks.clone());
                        set.remove_all(&others);
                        model.retain(|number| !blocks.contains(number));
                    }
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                let runs: Vec<_> = set.runs().collect();
                // Runs that touch would be one.
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", runs);
                let all: Vec<_> = runs.into_iter().flatten().collect();
                prop_assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
