//! [`FreeSpace`]: gives blocks that the engine has no use for back to the file system, as holes in the file.
//!
//! redb keeps what is deleted for what is written next; its file never gets smaller while something lies at its end. After a
//! compaction that may be most of the file. So after a durable commit the state of redb's allocator, which is a table of each
//! such commit, is read, and the longest runs of blocks that are free in it become holes. Nothing refers to a free block: not
//! this commit, nor the one before, nor what older reads still see. But redb may take it for what comes next, and does so before
//! its commit returns: it tidies up after the sync. So what has been written since the sync stays. What redb has taken and
//! not written yet does not matter: it is in its memory. A hole reads as zeros, whose checksum is another one, and is filled by
//! the next write to it.
//!
//! Some free blocks stay, for what is written next: to allocate them anew each time would cost the file system more.
//!
//! ```text
//! table   "allocator_state": keys of 5 bytes: 3 u8 | region u32; or 5 u8 | - u32, whose value is the transaction u64
//! region  highest order u8 | - 3 bytes | blocks u32 | ends of the sets of all orders u32 | sets
//! set     levels u32 | ends of the levels u32 | levels, the last of which counts
//! level   bits u32 | bits in words of 64: one that is not set is a free page of that order
//! ```

use super::block_file::BlockFile;
use super::block_set::BlockSet;
use super::engine_format::{
    BRANCH, BRANCH_HEAD_BYTES, CHECKSUM_BYTES, Commit, LEAF, LEAF_HEAD_BYTES, PAGE_NUMBER_BYTES, PageNumber,
    Regions, entries_of, root_of_table, u32_at, u64_at,
};
use crate::error::Fault;

const TABLE: &str = "allocator_state";
const KEY_BYTES: usize = 5;
const REGION_KEY: u8 = 3;
const TRANSACTION_KEY: u8 = 5;
/// A page number has 20 bits for the place of a page in its region.
const ORDERS_MAX: usize = 21;

/// Free blocks that stay, as a part of those in use, and so many beside: 256 KiB.
const KEPT_PART: u64 = 16;
const KEPT_BLOCKS: u64 = 64;

/// Nothing is done before there are so many times as many free blocks as those that stay.
const BEGINS_AT: u64 = 2;

/// Shorter runs stay: 64 KiB. A file of many small holes is slow to read.
const RUN_BLOCKS_MIN: u64 = 16;

/// Blocks that become holes after one commit: 20 MiB. Where the file system tells the device at once what is free (ext4 that
/// is mounted with `discard`), the log's syncs wait meanwhile, beside unbounded holes for more than 15 ms. Fewer: space
/// comes back later. Commits come about once a second, or in a second and a half where the disk is slow: with 12 MiB each
/// a compaction of two million rows did not give back in a minute what it should there.
const BLOCKS_MAX: u64 = 5120;

/// Longest part of a run that one call takes: 4 MiB. The file system lets nobody else change the file meanwhile.
const CALL_BLOCKS_MAX: u64 = 1024;

const _: () = assert!(
    CALL_BLOCKS_MAX <= BLOCKS_MAX,
    "else nothing would ever be given back"
);

/// See the module. Belongs to the one who writes.
#[derive(Debug, Default)]
pub(super) struct FreeSpace {
    under_way: bool,
}

impl FreeSpace {
    /// Makes holes where the newest commit, which must be durable, has free blocks, unless too few to care for. No
    /// transaction may be under way. Whether there is more to do after the next one.
    pub(super) fn give_back(&mut self, file: &BlockFile) -> Result<bool, Fault> {
        if !file.makes_holes() {
            return Ok(false);
        }
        let Some(Free {
            blocks: mut spare,
            of,
        }) = Free::in_newest_commit(file)?
        else {
            return Ok(false);
        };
        let used = of.saturating_sub(spare.len());
        file.keep_idle(&mut spare)?;
        let kept = used / KEPT_PART + KEPT_BLOCKS;
        let too_many = if self.under_way { kept } else { kept * BEGINS_AT };
        self.under_way = spare.len() > too_many;
        if !self.under_way {
            return Ok(false);
        }
        let mut runs: Vec<_> = spare
            .runs()
            .flat_map(|run| {
                let calls = run.clone().step_by(CALL_BLOCKS_MAX as usize);
                calls.map(move |start| start..run.end.min(start + CALL_BLOCKS_MAX))
            })
            .filter(|run| run.end - run.start >= RUN_BLOCKS_MIN)
            .collect();
        runs.sort_unstable_by_key(|run| {
            (
                std::cmp::Reverse(run.end - run.start),
                std::cmp::Reverse(run.start),
            )
        });
        let mut surplus = spare.len() - kept;
        let mut given = 0;
        for run in runs {
            if surplus == 0 {
                break;
            }
            let blocks = run.end - run.start;
            if given + blocks > BLOCKS_MAX {
                return Ok(true);
            }
            if !file.make_hole(run)? {
                break;
            }
            crate::reached!("free_space_given_back");
            surplus = surplus.saturating_sub(blocks);
            given += blocks;
        }
        self.under_way = false;
        Ok(false)
    }
}

/// Blocks that no page of a commit is in.
struct Free {
    blocks: BlockSet,
    /// How many blocks there are.
    of: u64,
}

impl Free {
    fn in_newest_commit(file: &BlockFile) -> Result<Option<Self>, Fault> {
        let Some(commit) = Commit::newest_durable(file)? else {
            return Ok(None);
        };
        let Some(root) = root_of_table(file, commit.regions, commit.system_tables, TABLE)? else {
            return Ok(None);
        };
        let mut free = Self {
            blocks: BlockSet::default(),
            of: 0,
        };
        let mut transaction = None;
        let mut pages = vec![root];
        while let Some(page) = pages.pop() {
            let Some(content) = file.read_range(commit.regions.blocks(page))? else {
                return Ok(None);
            };
            let is_known = match content[0] {
                LEAF => for_each_entry(&content, |key, value| match key[0] {
                    REGION_KEY => free.add_region(u32_at(key, 1)?.into(), value, commit.regions),
                    TRANSACTION_KEY => {
                        transaction = u64_at(value, 0);
                        Some(())
                    }
                    _ => Some(()),
                }),
                BRANCH => children_of(&content).map(|children| pages.extend(children)),
                _ => None,
            };
            if is_known.is_none() {
                return Ok(None);
            }
        }
        // Else it is the state of an older commit.
        Ok((transaction == Some(commit.transaction)).then_some(free))
    }

    /// Adds what is free of region `number`, by the allocator's record of it.
    fn add_region(&mut self, number: u64, record: &[u8], regions: Regions) -> Option<()> {
        const BLOCKS_AT: usize = 4;
        const ENDS_AT: usize = 8;
        let first = regions.first_block(number);
        let blocks = u64::from(u32_at(record, BLOCKS_AT)?);
        let orders = usize::from(*record.first()?) + 1;
        if blocks > regions.page_blocks() || orders > ORDERS_MAX {
            return None;
        }
        let mut start = ENDS_AT + 4 * orders;
        for order in 0..orders {
            let end = u32_at(record, ENDS_AT + 4 * order)? as usize;
            let (bits, words) = last_level(record.get(start..end)?)?;
            for page in zeros(bits, words) {
                let page = page << order..((page + 1) << order).min(blocks);
                self.blocks.insert(first + page.start..first + page.end);
            }
            start = end;
        }
        self.of += blocks;
        Some(())
    }
}

/// The level that counts of one of the allocator's sets: how many bits it has, and its words.
fn last_level(set: &[u8]) -> Option<(u64, &[[u8; 8]])> {
    const ENDS_AT: usize = 4;
    let levels = u32_at(set, 0)? as usize;
    let end_of = |level: usize| u32_at(set, ENDS_AT + 4 * level).map(|end| end as usize);
    let start = match levels.checked_sub(2) {
        Some(before) => end_of(before)?,
        None => ENDS_AT + 4,
    };
    let level = set.get(start..end_of(levels.checked_sub(1)?)?)?;
    let bits = u64::from(u32_at(level, 0)?);
    let (words, _) = level.get(4..)?.as_chunks();
    (words.len() as u64 * 64 >= bits).then_some((bits, words))
}

/// The bits that are not set, of the first `bits` ones.
fn zeros(bits: u64, words: &[[u8; 8]]) -> impl Iterator<Item = u64> {
    let words = (0..)
        .zip(words)
        .map(|(place, word)| (place, !u64::from_le_bytes(*word)));
    words
        .filter(|(_, free)| *free != 0)
        .flat_map(|(place, free)| {
            let free = (0..64).filter(move |bit| free >> bit & 1 == 1);
            free.map(move |bit| place * 64 + bit)
        })
        .take_while(move |bit| *bit < bits)
}

/// Hands each key and value of a leaf of the allocator's table to `with`. None if `with` returns none, or if it is none.
fn for_each_entry(leaf: &[u8], mut with: impl FnMut(&[u8; KEY_BYTES], &[u8]) -> Option<()>) -> Option<()> {
    let entries = entries_of(leaf)?;
    let keys_start = LEAF_HEAD_BYTES + 4 * entries;
    let mut start = keys_start + KEY_BYTES * entries;
    let (keys, _) = leaf.get(keys_start..start)?.as_chunks();
    for (place, key) in keys.iter().enumerate() {
        let end = u32_at(leaf, LEAF_HEAD_BYTES + 4 * place)? as usize;
        with(key, leaf.get(start..end)?)?;
        start = end;
    }
    Some(())
}

/// The pages below a branch.
fn children_of(branch: &[u8]) -> Option<Vec<PageNumber>> {
    let children = entries_of(branch)? + 1;
    let start = BRANCH_HEAD_BYTES + CHECKSUM_BYTES * children;
    let pages = branch.get(start..start + PAGE_NUMBER_BYTES * children)?;
    let (pages, _) = pages.as_chunks();
    Some(pages.iter().map(|page| u64::from_le_bytes(*page)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::disk::Disk;
    use crate::revision::Revision;
    use crate::tables::block_file::BLOCK_BYTES;
    use crate::tables::tests::step;
    use crate::tables::{Frozen, Row, Tables, WriteBatch};
    use crate::testing::{DiskError, DiskOperation, FaultyDisk};

    type Model = BTreeMap<Revision, usize>;

    const DATABASE: &str = "/d/db";
    const MIB: u64 = 1 << 20;

    fn disk() -> FaultyDisk {
        let disk = FaultyDisk::new();
        disk.create_directory(Path::new("/d")).unwrap();
        disk
    }

    fn open(disk: &FaultyDisk) -> Tables {
        // Without a cache whatever redb writes is in the file at once, also what it writes after a commit.
        Tables::open(Arc::new(disk.clone()), Path::new(DATABASE), 0).unwrap()
    }

    fn batch(rows: &Model, deletes: Vec<Revision>) -> WriteBatch {
        let rows = rows.iter().map(|(at, bytes)| {
            let row = Row {
                tombstone: false,
                previous: None,
                kv: Bytes::from(vec![at.main as u8 | 1; *bytes]),
            };
            (*at, Arc::new(row))
        });
        WriteBatch {
            rows: rows.collect(),
            deletes,
            ..WriteBatch::default()
        }
    }

    /// Rows of so many bytes from `from` to `to`.
    fn rows(from: u64, to: u64, bytes: usize) -> Model {
        (from..to).map(|main| (Revision::new(main, 0), bytes)).collect()
    }

    /// What a commit shows; its blocks are checked as they come.
    fn shown(commit: &Arc<Frozen>) -> Model {
        let mut rows = commit.rows(Revision::default()).unwrap();
        let mut shown = Model::new();
        while let Some((at, row)) = rows.next().unwrap() {
            assert!(row.kv.iter().all(|byte| *byte == at.main as u8 | 1), "{at:?}");
            shown.insert(at, row.kv.len());
        }
        shown
    }

    /// Durable commits, each of which gives back what it can, until there is no more.
    fn settle(tables: &Tables) {
        for _ in 0..4 {
            tables.write(&WriteBatch::default(), true).unwrap();
            while tables.give_back_space().unwrap() {}
        }
    }

    #[test]
    fn what_is_deleted_takes_no_space() {
        let disk = disk();
        let tables = open(&disk);
        let all = rows(2, 3_002, 10_000);
        tables.write(&batch(&all, Vec::new()), true).unwrap();
        let taken = || disk.bytes_taken(Path::new(DATABASE)).unwrap();
        let full = taken();
        assert!(full > 28 * MIB);
        settle(&tables);
        assert!(taken() > full * 9 / 10, "all of it is in use");
        // What is left lies apart, with free blocks between.
        let mut left = all.clone();
        left.retain(|at, _| at.main % 100 == 7);
        let deletes = all.keys().filter(|at| !left.contains_key(at));
        tables
            .write(&batch(&Model::new(), deletes.copied().collect()), true)
            .unwrap();
        settle(&tables);
        let needed = left.len() as u64 * 16_384;
        assert!(
            taken() < needed + needed / 8 + MIB,
            "{} bytes for {needed}",
            taken()
        );
        assert_eq!(shown(&tables.newest()), left);
        drop(tables);
        let tables = open(&disk);
        assert_eq!(shown(&tables.newest()), left);
        tables
            .write(&batch(&rows(4_000, 7_000, 10_000), Vec::new()), true)
            .unwrap();
        left.extend(rows(4_000, 7_000, 10_000));
        drop(tables);
        assert_eq!(shown(&open(&disk).newest()), left);
    }

    /// Up to 1 GiB went after one commit; where the device is told of it, the slowest puts beside a compaction waited for
    /// nearly twice as long.
    #[test]
    fn only_some_space_goes_after_one_commit() {
        const RUN_BLOCKS: u64 = 20;
        let disk = disk();
        let tables = open(&disk);
        // Rows of a run of blocks each, side by side.
        let runs = 3 * BLOCKS_MAX / RUN_BLOCKS;
        let all = rows(2, 2 + 2 * runs, 80_000);
        tables.write(&batch(&all, Vec::new()), true).unwrap();
        let deletes: Vec<_> = all.keys().copied().filter(|at| at.main % 2 == 0).collect();
        tables.write(&batch(&Model::new(), deletes), true).unwrap();
        let taken = || disk.bytes_taken(Path::new(DATABASE)).unwrap();
        let mut given = 0;
        let mut most = 0;
        for _ in 0..20 {
            tables.write(&WriteBatch::default(), true).unwrap();
            let before = taken();
            let has_more = tables.give_back_space().unwrap();
            let at_once = before - taken();
            assert!(!has_more || at_once > 0, "it goes on");
            given += at_once;
            most = most.max(at_once);
        }
        let allowed = BLOCKS_MAX * BLOCK_BYTES as u64;
        assert!(most <= allowed, "{most} at once");
        assert!(given > 2 * allowed, "{given} of {}", 3 * allowed);
    }

    #[test]
    fn a_hole_that_cannot_be_made_is_no_fault_but_a_broken_disk_is() {
        let made = |error| {
            let disk = disk();
            let tables = open(&disk);
            tables
                .write(&batch(&rows(2, 1_000, 10_000), Vec::new()), true)
                .unwrap();
            let deletes = rows(2, 900, 0).into_keys().collect();
            tables.write(&batch(&Model::new(), deletes), true).unwrap();
            tables.write(&WriteBatch::default(), true).unwrap();
            disk.fail_nth(1, Some(DiskOperation::MakeHole), error);
            let made = tables.give_back_space();
            assert!(!disk.failure_is_pending());
            (made, tables)
        };
        let (full, tables) = made(DiskError::Full);
        assert!(!full.unwrap());
        settle(&tables);
        assert_eq!(shown(&tables.newest()).len(), 100);
        let (broken, tables) = made(DiskError::Broken);
        assert!(matches!(broken, Err(Fault::Io { .. })));
        tables.write(&WriteBatch::default(), true).unwrap_err();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever is given back and when, every commit that somebody reads stays whole, and so does the durable one.
        #[test]
        fn nothing_that_is_read_is_given_back(steps in prop::collection::vec(step(60, 3), 1..20)) {
            let disk = disk();
            let tables = open(&disk);
            let mut model = Model::new();
            let mut durable = Model::new();
            let mut kept: Vec<(Arc<Frozen>, Model)> = Vec::new();
            let mut next = 2;
            for (number, step) in steps.into_iter().enumerate() {
                let new: Model = (next..).zip(step.rows).map(|(main, bytes)| (Revision::new(main, 0), bytes)).collect();
                next += new.len() as u64;
                let (first, apart, count) = step.deletes;
                let deletes: Vec<_> = (0..count).map(|place| Revision::new(first + place * apart, 0)).collect();
                tables.write(&batch(&new, deletes.clone()), step.durable).unwrap();
                model.extend(new);
                model.retain(|at, _| !deletes.contains(at));
                tables.give_back_space().unwrap();
                if step.durable {
                    durable.clone_from(&model);
                }
                prop_assert_eq!(&shown(&tables.newest()), &model);
                if step.keep {
                    kept.push((tables.newest(), model.clone()));
                }
                if number % 3 == 2 && !kept.is_empty() {
                    let (commit, model) = kept.remove(0);
                    prop_assert_eq!(shown(&commit), model);
                }
                let crashed = disk.crash(number as u64);
                prop_assert_eq!(&shown(&open(&crashed).newest()), &durable);
            }
            for (commit, model) in kept {
                prop_assert_eq!(shown(&commit), model);
            }
            drop(tables);
            prop_assert_eq!(shown(&open(&disk).newest()), model);
        }
    }
}
