//! [`Checksums`]: those of the blocks of a file, in memory, and what of them the file lacks.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

/// Blocks whose checksums share a page: as many as fill it.
pub(super) const GROUP_BLOCKS: usize = 1024;
const CRC_BYTES: usize = 4;
/// Bytes of a page of checksums.
pub(super) const PAGE_BYTES: usize = GROUP_BLOCKS * CRC_BYTES;

/// The checksums of one group of blocks.
pub(super) struct Group([AtomicU32; GROUP_BLOCKS]);

impl Group {
    fn from_page(page: &[u8; PAGE_BYTES]) -> Self {
        let (checksums, _) = page.as_chunks::<CRC_BYTES>();
        Self(std::array::from_fn(|place| {
            AtomicU32::new(u32::from_le_bytes(checksums[place]))
        }))
    }

    fn to_page(&self) -> Vec<u8> {
        let checksums = self.0.iter().map(|crc| crc.load(Ordering::Acquire).to_le_bytes());
        checksums.flatten().collect()
    }

    /// Of the block at `place`.
    pub(super) fn get(&self, place: usize) -> u32 {
        self.0[place].load(Ordering::Acquire)
    }

    /// The block at `place` has been written.
    pub(super) fn set(&self, place: usize, crc: u32) {
        self.0[place].store(crc, Ordering::Release);
    }
}

/// See the module. Shared by threads that read and the one that writes.
#[derive(Default)]
pub(super) struct Checksums {
    /// By number, as far as they have been asked for.
    groups: RwLock<Vec<Option<Arc<Group>>>>,
    /// Groups whose page in the file is older than they are.
    changed: Mutex<BTreeSet<usize>>,
}

impl Checksums {
    /// Group `number`, if it is in memory.
    pub(super) fn get(&self, number: usize) -> Option<Arc<Group>> {
        self.groups.read().get(number)?.clone()
    }

    /// Takes in a group as the file has it. What is in memory already is newer, and stays.
    pub(super) fn load(&self, number: usize, page: &[u8; PAGE_BYTES]) -> Arc<Group> {
        let mut groups = self.groups.write();
        if groups.len() <= number {
            groups.resize(number + 1, None);
        }
        let group = groups[number].get_or_insert_with(|| Arc::new(Group::from_page(page)));
        Arc::clone(group)
    }

    /// Checksums of group `number` have been set.
    pub(super) fn changed(&self, number: usize) {
        self.changed.lock().insert(number);
    }

    /// The pages that the file lacks, by group.
    pub(super) fn take_changed(&self) -> Vec<(usize, Vec<u8>)> {
        let changed = std::mem::take(&mut *self.changed.lock());
        let pages = changed.into_iter().filter_map(|number| {
            let group = self.get(number)?;
            Some((number, group.to_page()))
        });
        pages.collect()
    }

    /// The file ends before group `number` now.
    pub(super) fn cut(&self, number: usize) {
        self.groups.write().truncate(number);
        self.changed.lock().split_off(&number);
    }
}

impl fmt::Debug for Checksums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checksums").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_newer_than_a_page() {
        let checksums = Checksums::default();
        assert!(checksums.get(3).is_none());
        let group = checksums.load(3, &[7; PAGE_BYTES]);
        assert_eq!(group.get(GROUP_BLOCKS - 1), 0x0707_0707);
        group.set(1, 5);
        checksums.changed(3);
        assert_eq!(checksums.load(3, &[9; PAGE_BYTES]).get(1), 5);

        let pages = checksums.take_changed();
        let [(3, page)] = &pages[..] else {
            panic!("{} pages", pages.len());
        };
        assert_eq!(page[..12], [7, 7, 7, 7, 5, 0, 0, 0, 7, 7, 7, 7]);
        assert!(checksums.take_changed().is_empty());
    }

    #[test]
    fn behind_the_end_nothing_is_written() {
        let checksums = Checksums::default();
        for number in [0, 4] {
            checksums.load(number, &[1; PAGE_BYTES]).set(0, 2);
            checksums.changed(number);
        }
        checksums.cut(4);
        let left: Vec<_> = checksums
            .take_changed()
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        assert_eq!(left, [0]);
        // The file grew again: it has zeros there.
        assert_eq!(checksums.load(4, &[0; PAGE_BYTES]).get(0), 0);
    }
}
