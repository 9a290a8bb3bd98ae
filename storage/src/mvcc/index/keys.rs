//! [`PackedKeys`]: a sorted run of byte strings in one buffer, the key half of every node.
//!
//! The prefix all keys share is stored once, then the suffixes back to back. Each key has a slot of eight bytes: the
//! end of its suffix and the first four bytes of it, so that a search touches the suffixes only to settle a tie. The
//! slots lie in the node itself: at a million keys each allocation touched is a miss of cache and page table.

use std::cmp::Ordering;

/// Longest shared prefix that is factored out, in bytes. A key that does not share it makes the node write it out for
/// every key, so this bounds that rewrite to some tens of KiB even among keys of 1.5 MiB.
pub(super) const PREFIX_BYTES_MAX: usize = 512;

/// Most keys in a node.
pub(super) const KEYS_MAX: usize = 64;

/// Slots that a search looks at together: one cache line.
const BLOCK_SLOTS: usize = 8;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Children that an inner node grows by.
const SLACK_CHILDREN: usize = 8;

/// Bytes that a node's text grows by, at least. Doubling would leave a third of the memory unused.
const SLACK_TEXT_BYTES: usize = 128;

const FITS_U32: &str =
    "a node's text stays far below 4 GiB: it is split past 16 KiB, and no key is larger than a message";

/// Sorted distinct byte strings. What must stay true: every key starts with the prefix, suffixes strictly ascend, and
/// a slot's head is the head of its suffix. Slots from `len` on are [`Slot::FREE`].
#[derive(Debug)]
pub(super) struct PackedKeys {
    /// The prefix, then the suffixes in order.
    text: Vec<u8>,
    /// Length of the prefix, in bytes.
    prefix_len: usize,
    len: usize,
    slots: [Slot; KEYS_MAX],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// First four bytes of the suffix, big-endian, padded with zeros.
    head: u32,
    /// Where the suffix ends in the text; it starts where the one before ends.
    end: u32,
}

impl Slot {
    /// Sorts behind every key, so that a search need not know how many there are.
    const FREE: Self = Self {
        head: u32::MAX,
        end: 0,
    };
}

impl Default for PackedKeys {
    fn default() -> Self {
        Self::with_prefix(&[], &[], 0)
    }
}

impl Clone for PackedKeys {
    /// A copy with room to grow: it is made because a write is about to happen.
    fn clone(&self) -> Self {
        let mut text = Vec::with_capacity(self.text.len() + SLACK_TEXT_BYTES);
        text.extend_from_slice(&self.text);
        Self {
            text,
            prefix_len: self.prefix_len,
            len: self.len,
            slots: self.slots,
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
        let suffixes_len = keys.clone().map(|key| key.len() - prefix_len).sum::<usize>();
        let mut packed = Self::with_prefix(&first[..prefix_len], &[], suffixes_len);
        for key in keys {
            packed.push_suffix(&[], &key[prefix_len..]);
        }
        packed
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
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

    /// Looks at each cache line that a search may need, and returns a number without meaning.
    pub fn touch(&self) -> u64 {
        let slots = self.slots.iter().step_by(BLOCK_SLOTS);
        let slots: u64 = slots.map(|slot| u64::from(slot.head)).sum();
        let text = self.text.iter().step_by(LINE_BYTES).take(KEYS_MAX / BLOCK_SLOTS);
        slots + text.map(|byte| u64::from(*byte)).sum::<u64>()
    }

    /// Where `key` is, or where it belongs.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        let Some(suffix) = key.strip_prefix(prefix) else {
            return Err(if key < prefix { 0 } else { self.len() });
        };
        let head = head_of(suffix);
        let mut low = self.slots_below(head);
        let mut high = low;
        while high < self.len && self.slots[high].head == head {
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
        if self.len == 0 {
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
        self.slots.copy_within(at..self.len, at + 1);
        self.len += 1;
        for slot in &mut self.slots[at + 1..self.len] {
            slot.end += added;
        }
        self.slots[at] = Slot {
            head: head_of(suffix),
            end: as_u32(start) + added,
        };
    }

    /// Removes the key at `at`.
    pub fn remove(&mut self, at: usize) {
        let (start, end) = (self.suffix_start(at), self.slots[at].end as usize);
        self.text.drain(start..end);
        self.slots.copy_within(at + 1..self.len, at);
        self.len -= 1;
        self.slots[self.len] = Slot::FREE;
        let removed = as_u32(end - start);
        for slot in &mut self.slots[at..self.len] {
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
        if self.len == 0 {
            *self = other.clone();
            return;
        }
        if other.len == 0 {
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
        let at = self.slots[..self.len].partition_point(|slot| (slot.end as usize) <= half);
        at.clamp(least, self.len() - least)
    }

    /// Bytes of heap in use beside the node itself, with the room not yet used.
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity()
    }

    /// Panics when an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.prefix_len <= PREFIX_BYTES_MAX, "prefix over its bound");
        let end = self.suffix_start(self.len);
        let free = |slot: &Slot| slot.head == u32::MAX && slot.end == 0;
        assert!(self.slots[self.len..].iter().all(free), "stale slot");
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

    /// No keys yet; the prefix in two parts, and room for suffixes.
    fn with_prefix(front: &[u8], back: &[u8], suffixes_len: usize) -> Self {
        let prefix_len = front.len() + back.len();
        let mut text = Vec::with_capacity(prefix_len + suffixes_len);
        text.extend_from_slice(front);
        text.extend_from_slice(back);
        Self {
            text,
            prefix_len,
            len: 0,
            slots: [Slot::FREE; KEYS_MAX],
        }
    }

    /// Number of slots with a lesser head. Looks at the last slot of each block, then at one block: unlike in a binary
    /// search no load waits for the one before, which is most of the time when the node is not in the cache.
    fn slots_below(&self, head: u32) -> usize {
        let below = |slot: &&Slot| slot.head < head;
        let lasts = self.slots.iter().skip(BLOCK_SLOTS - 1).step_by(BLOCK_SLOTS);
        let first = lasts.filter(below).count() * BLOCK_SLOTS;
        match self.slots.get(first..first + BLOCK_SLOTS) {
            Some(block) => first + block.iter().filter(below).count(),
            None => KEYS_MAX,
        }
    }

    fn push_suffix(&mut self, front: &[u8], back: &[u8]) {
        let start = self.text.len();
        grow(&mut self.text, front.len() + back.len(), SLACK_TEXT_BYTES);
        self.text.extend_from_slice(front);
        self.text.extend_from_slice(back);
        self.slots[self.len] = Slot {
            head: head_of(&self.text[start..]),
            end: as_u32(self.text.len()),
        };
        self.len += 1;
    }

    fn shorten_prefix(&mut self, prefix_len: usize) {
        let suffixes_len = self.text.len() - prefix_len + self.expansion(prefix_len) + SLACK_TEXT_BYTES;
        let mut shorter = Self::with_prefix(&self.text[..prefix_len], &[], suffixes_len);
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
        let text_len = self.slots[range.end - 1].end as usize - self.suffix_start(range.start);
        let suffixes_len = text_len - more * range.len() + SLACK_TEXT_BYTES;
        let mut packed = Self::with_prefix(self.prefix(), &last[..more], suffixes_len);
        for at in range {
            packed.push_suffix(&[], &self.suffix(at)[more..]);
        }
        packed
    }
}

/// A copy with room for a few more items.
pub(super) fn clone_with_slack<T: Clone>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity(items.len() + SLACK_CHILDREN);
    copy.extend_from_slice(items);
    copy
}

/// Makes room for one more item, in steps instead of doublings.
pub(super) fn grow_by_one<T>(items: &mut Vec<T>) {
    grow(items, 1, SLACK_CHILDREN);
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

pub(crate) fn common_len(a: &[u8], b: &[u8]) -> usize {
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
