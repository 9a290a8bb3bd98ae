//! [`Chunked`]: an append-only list that is cut off from the front, in chunks that never move.

use std::collections::VecDeque;

/// Items per chunk: large enough to make the list of chunks negligible, small enough to allocate without a pause.
const CHUNK_ITEMS: usize = 4096;

/// Items numbered from 0 since the list began. Appending never copies what is there (but the list of chunks, 24 bytes
/// per 4,096 items), cutting off frees whole chunks.
///
/// What must stay true: chunk `i` holds the numbers from `(dropped + i) * CHUNK_ITEMS` on, and all but the last are full.
#[derive(Debug)]
pub(super) struct Chunked<T> {
    chunks: VecDeque<Vec<T>>,
    /// Chunks cut off so far.
    dropped: u64,
    /// The next item's number.
    len: u64,
}

impl<T: Copy> Chunked<T> {
    /// An empty list.
    pub fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            dropped: 0,
            len: 0,
        }
    }

    /// The next item's number: how many there ever were.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Adds an item at the end.
    pub fn push(&mut self, item: T) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK_ITEMS => last.push(item),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_ITEMS);
                chunk.push(item);
                self.chunks.push_back(chunk);
            }
        }
        self.len += 1;
    }

    /// The item with this number; none when it is cut off or not there yet.
    pub fn item(&self, number: u64) -> Option<T> {
        let (chunk, at) = split(number);
        let chunk = usize::try_from(chunk.checked_sub(self.dropped)?).ok()?;
        self.chunks.get(chunk)?.get(at).copied()
    }

    /// Frees the chunks that lie wholly before `number`.
    pub fn cut_before(&mut self, number: u64) {
        let (keep_from, _) = split(number.min(self.len));
        while self.dropped < keep_from && self.chunks.pop_front().is_some() {
            self.dropped += 1;
        }
    }

    /// Bytes of heap in use.
    pub fn heap_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_ITEMS * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

fn split(number: u64) -> (u64, usize) {
    let per_chunk = CHUNK_ITEMS as u64;
    (number / per_chunk, (number % per_chunk) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_numbers_when_the_front_is_cut_off() {
        const ITEMS: u64 = 3 * CHUNK_ITEMS as u64 + 5;
        let mut list = Chunked::new();
        for number in 0..ITEMS {
            list.push(number * 3);
        }
        for cut in [0, 1, CHUNK_ITEMS as u64, ITEMS - 1, ITEMS, ITEMS + 99] {
            list.cut_before(cut);
            for number in cut.min(ITEMS)..ITEMS {
                assert_eq!(list.item(number), Some(number * 3));
            }
            assert_eq!(list.item(ITEMS), None);
        }
        assert_eq!(list.item(0), None);
        list.push(7);
        assert_eq!((list.item(ITEMS), list.len()), (Some(7), ITEMS + 1));
    }

    #[test]
    fn cutting_at_a_chunk_border_frees_everything_and_numbers_go_on() {
        let mut list = Chunked::new();
        for number in 0..CHUNK_ITEMS as u64 {
            list.push(number);
        }
        list.cut_before(CHUNK_ITEMS as u64);
        assert_eq!(list.chunks.len(), 0);
        list.push(1);
        assert_eq!(list.item(CHUNK_ITEMS as u64), Some(1));
    }
}
