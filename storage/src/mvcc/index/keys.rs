//! [`PackedKeys`]: a sorted run of byte strings in one buffer, the key half of every node.
//!
//! The prefix all keys share is stored once, then the suffixes back to back. Each key has a slot of eight bytes: the
//! end of its suffix and the first four bytes of it, so that a search touches the suffixes only to settle a tie.

use std::cmp::Ordering;

/// Longest shared prefix that is factored out, in bytes. A key that does not share it makes the node write it out for
/// every key, so this bounds that rewrite to some tens of KiB even among keys of 1.5 MiB.
pub(super) const PREFIX_BYTES_MAX: usize = 512;

/// Keys that a node's vectors grow by. Doubling would leave a third of the memory unused.
const SLACK_KEYS: usize = 8;

/// Bytes that a node's text grows by, at least.
const SLACK_TEXT_BYTES: usize = 128;

const FITS_U32: &str =
    "a node's text stays far below 4 GiB: it is split past 16 KiB, and no key is larger than a message";

/// Sorted distinct byte strings. What must stay true: every key starts with the prefix, suffixes strictly ascend, and
/// a slot's head is the head of its suffix.
#[derive(Debug, Default)]
pub(super) struct PackedKeys {
    /// The prefix, then the suffixes in order.
    text: Vec<u8>,
    slots: Vec<Slot>,
    /// Length of the prefix, in bytes.
    prefix_len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// First four bytes of the suffix, big-endian, padded with zeros.
    head: u32,
    /// Where the suffix ends in the text; it starts where the one before ends.
    end: u32,
}

impl Clone for PackedKeys {
    /// A copy with room to grow: it is made because a write is about to happen.
    fn clone(&self) -> Self {
        let mut text = Vec::with_capacity(self.text.len() + SLACK_TEXT_BYTES);
        text.extend_from_slice(&self.text);
        Self {
            text,
            slots: clone_with_slack(&self.slots),
            prefix_len: self.prefix_len,
        }
    }
}

impl PackedKeys {
    /// Packs keys that strictly ascend.
    pub fn from_ascending<'a>(
        keys: impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone,
    ) -> Self {
        let (Some(first), Some(last)) = (keys.clone().next(), keys.clone().next_back()) else {
            return Self::default();
        };
        let prefix_len = common_len(first, last).min(PREFIX_BYTES_MAX);
        let text_len = prefix_len + keys.clone().map(|key| key.len() - prefix_len).sum::<usize>();
        let mut packed = Self {
            text: Vec::with_capacity(text_len),
            slots: Vec::with_capacity(keys.len()),
            prefix_len,
        };
        packed.text.extend_from_slice(&first[..prefix_len]);
        for key in keys {
            packed.push_suffix(&[], &key[prefix_len..]);
        }
        packed
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the prefix and all suffixes.
    #[cfg(test)]
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// What every key starts with; it may not be the longest such prefix.
    pub fn prefix(&self) -> &[u8] {
        &self.text[..self.prefix_len]
    }

    /// The key at `at` without the prefix.
    pub fn suffix(&self, at: usize) -> &[u8] {
        &self.text[self.suffix_start(at)..self.slots[at].end as usize]
    }

    /// The whole key at `at`.
    pub fn key(&self, at: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(at)].concat()
    }

    /// Where `key` is, or where it belongs.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let Some(suffix) = key.strip_prefix(prefix) else {
            return Err(if key < prefix { 0 } else { self.len() });
        };
        let head = head_of(suffix);
        let mut low = self.slots.partition_point(|slot| slot.head < head);
        let mut high = low;
        while high < self.len() && self.slots[high].head == head {
            high += 1;
        }
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Number of keys below `bound`.
    pub fn rank(&self, bound: &[u8]) -> usize {
        self.search(bound).unwrap_or_else(|at| at)
    }

    /// Bytes of text after an insert of `key`.
    pub fn text_len_with(&self, key: &[u8]) -> usize {
        let shared = common_len(self.prefix(), key);
        self.text.len() + self.expansion(shared) + (key.len() - shared)
    }

    /// Inserts `key` at `at`, where [`PackedKeys::search`] said it belongs.
    pub fn insert(&mut self, at: usize, key: &[u8]) {
        if self.slots.is_empty() {
            *self = Self::from_ascending(std::iter::once(key));
            return;
        }
        let shared = common_len(self.prefix(), key);
        if shared < self.prefix_len {
            self.shorten_prefix(shared);
        }
        let suffix = &key[self.prefix_len..];
        let start = self.suffix_start(at);
        let old_len = self.text.len();
        grow(&mut self.text, suffix.len(), SLACK_TEXT_BYTES);
        self.text.resize(old_len + suffix.len(), 0);
        self.text.copy_within(start..old_len, start + suffix.len());
        self.text[start..start + suffix.len()].copy_from_slice(suffix);
        let added = as_u32(suffix.len());
        for slot in &mut self.slots[at..] {
            slot.end += added;
        }
        grow(&mut self.slots, 1, SLACK_KEYS);
        self.slots.insert(
            at,
            Slot {
                head: head_of(suffix),
                end: as_u32(start) + added,
            },
        );
    }

    /// Removes the key at `at`.
    pub fn remove(&mut self, at: usize) {
        let (start, end) = (self.suffix_start(at), self.slots[at].end as usize);
        self.text.drain(start..end);
        self.slots.remove(at);
        let removed = as_u32(end - start);
        for slot in &mut self.slots[at..] {
            slot.end -= removed;
        }
    }

    /// Keeps the keys before `at` and returns the others; both with the longest prefix they now share.
    pub fn split_off(&mut self, at: usize) -> Self {
        let right = self.repacked(at..self.len());
        *self = self.repacked(0..at);
        right
    }

    /// Adds the keys of `other`, all above the ones here.
    pub fn append(&mut self, other: &Self) {
        if self.slots.is_empty() {
            *self = other.clone();
            return;
        }
        if other.slots.is_empty() {
            return;
        }
        let shared = common_len(self.prefix(), other.prefix());
        if shared < self.prefix_len {
            self.shorten_prefix(shared);
        }
        let between = &other.prefix()[shared..];
        for at in 0..other.len() {
            self.push_suffix(between, other.suffix(at));
        }
    }

    /// Bytes of text after an append of `other`.
    pub fn text_len_joined(&self, other: &Self) -> usize {
        let shared = common_len(self.prefix(), other.prefix());
        self.text.len() + self.expansion(shared) + (other.text.len() - shared) + other.expansion(shared)
    }

    /// The place nearest to the middle by bytes of text, at least `least` keys from both ends.
    pub fn middle_by_bytes(&self, least: usize) -> usize {
        let half = self.prefix_len + (self.text.len() - self.prefix_len) / 2;
        let at = self.slots.partition_point(|slot| (slot.end as usize) <= half);
        at.clamp(least, self.len() - least)
    }

    /// Bytes of heap in use, with the room not yet used.
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    /// Panics when an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.prefix_len <= PREFIX_BYTES_MAX, "prefix over its bound");
        let end = self
            .slots
            .last()
            .map_or(self.prefix_len, |slot| slot.end as usize);
        assert_eq!(end, self.text.len(), "text behind the last suffix");
        for at in 0..self.len() {
            assert_eq!(self.slots[at].head, head_of(self.suffix(at)), "stale head");
            assert!(
                at == 0 || self.suffix(at - 1) < self.suffix(at),
                "keys out of order"
            );
        }
    }

    fn suffix_start(&self, at: usize) -> usize {
        match at.checked_sub(1) {
            Some(before) => self.slots[before].end as usize,
            None => self.prefix_len,
        }
    }

    /// Bytes of text added when the prefix shrinks to `shared`.
    fn expansion(&self, shared: usize) -> usize {
        (self.prefix_len - shared) * self.len().saturating_sub(1)
    }

    fn push_suffix(&mut self, front: &[u8], back: &[u8]) {
        let start = self.text.len();
        grow(&mut self.text, front.len() + back.len(), SLACK_TEXT_BYTES);
        self.text.extend_from_slice(front);
        self.text.extend_from_slice(back);
        grow(&mut self.slots, 1, SLACK_KEYS);
        self.slots.push(Slot {
            head: head_of(&self.text[start..]),
            end: as_u32(self.text.len()),
        });
    }

    fn shorten_prefix(&mut self, prefix_len: usize) {
        let mut shorter = Self {
            text: Vec::with_capacity(self.text.len() + self.expansion(prefix_len) + SLACK_TEXT_BYTES),
            slots: Vec::with_capacity(self.slots.len() + SLACK_KEYS),
            prefix_len,
        };
        shorter.text.extend_from_slice(&self.text[..prefix_len]);
        for at in 0..self.len() {
            shorter.push_suffix(&self.text[prefix_len..self.prefix_len], self.suffix(at));
        }
        *self = shorter;
    }

    /// The keys of `range` with the longest prefix they share.
    fn repacked(&self, range: std::ops::Range<usize>) -> Self {
        if range.is_empty() {
            return Self::default();
        }
        let last = self.suffix(range.end - 1);
        let more = common_len(self.suffix(range.start), last).min(PREFIX_BYTES_MAX - self.prefix_len);
        let prefix_len = self.prefix_len + more;
        let text_len = self.slots[range.end - 1].end as usize - self.suffix_start(range.start);
        let mut packed = Self {
            text: Vec::with_capacity(prefix_len + text_len - more * range.len() + SLACK_TEXT_BYTES),
            slots: Vec::with_capacity(range.len() + SLACK_KEYS),
            prefix_len,
        };
        packed.text.extend_from_slice(self.prefix());
        packed.text.extend_from_slice(&last[..more]);
        for at in range {
            packed.push_suffix(&[], &self.suffix(at)[more..]);
        }
        packed
    }
}

/// A copy with room for a few more items.
pub(super) fn clone_with_slack<T: Clone>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity(items.len() + SLACK_KEYS);
    copy.extend_from_slice(items);
    copy
}

/// Makes room for one more item, in steps instead of doublings.
pub(super) fn grow_by_one<T>(items: &mut Vec<T>) {
    grow(items, 1, SLACK_KEYS);
}

/// The shortest string in `(low, high]` that is nearest to `low`: the gap between the two goes to the right.
pub(super) fn separator_after(low: &[u8], high: &[u8]) -> Vec<u8> {
    debug_assert!(low < high, "a separator needs a gap");
    let shared = common_len(low, high);
    let mut separator = Vec::with_capacity(shared + 1);
    separator.extend_from_slice(&low[..shared]);
    separator.push(low.get(shared).map_or(0, |byte| byte + 1));
    separator
}

/// The shortest string in `(low, high]` that is nearest to `high`: the gap between the two goes to the left.
pub(super) fn separator_before(low: &[u8], high: &[u8]) -> Vec<u8> {
    debug_assert!(low < high, "a separator needs a gap");
    high[..=common_len(low, high)].to_vec()
}

fn grow<T>(items: &mut Vec<T>, more: usize, step: usize) {
    if items.capacity() - items.len() < more {
        items.reserve_exact(more.next_multiple_of(step));
    }
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(head) => u32::from_be_bytes(*head),
        None => {
            let mut head = [0; 4];
            head[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(head)
        }
    }
}

fn as_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect(FITS_U32)
}
