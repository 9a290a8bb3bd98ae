//! [`BulkReader`]: many rows of one durable commit in one pass over the file, beside the engine.
//!
//! A long list wants rows from everywhere. Asked for one by one, each costs redb a walk from the root, and a page that its
//! cache pays for with another. Here the tree is walked once for all of them, in history order, and leaves that lie close
//! together in the file come by one call, into memory that is used again.
//!
//! What is not as expected is not found here, and left to the engine, which is asked for whatever is not found. Nothing
//! can be taken for what it is not: blocks are checked as on every other read, and a row's checksum covers its revision.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use redb::TableHandle;

use super::block_file::BlockFile;
use super::engine::REVISIONS;
use super::engine_format::{
    BRANCH, BRANCH_HEAD_BYTES, CHECKSUM_BYTES, Commit, LEAF, LEAF_HEAD_BYTES, PAGE_NUMBER_BYTES, PageNumber,
    Regions, entries_of, root_of_table, u32_at, u64_at,
};
use super::frozen::Frozen;
use super::row::{self, Row};
use crate::error::Fault;
use crate::revision::Revision;

const KEY_BYTES: usize = Revision::ENCODED_BYTES;
/// No tree of a file that fits a disk is as high.
const LEVELS_MAX: u32 = 16;

/// The table of revisions as one durable commit left it.
pub(crate) struct BulkReader {
    /// Keeps the pages of the commit from being reused.
    tables: Arc<Frozen>,
    file: Arc<BlockFile>,
    regions: Regions,
    root: PageNumber,
    /// Branches above each leaf.
    height: u32,
}

impl BulkReader {
    /// Of the newest commit, which is durable and is what `tables` shows. None if the table is empty, or not as
    /// expected.
    pub(super) fn of(tables: Arc<Frozen>, file: &Arc<BlockFile>) -> Result<Option<Self>, Fault> {
        let Some(commit) = Commit::newest_durable(file)? else {
            return Ok(None);
        };
        let Some(root) = root_of_table(file, commit.regions, commit.tables, REVISIONS.name())? else {
            return Ok(None);
        };
        let mut reader = Self {
            tables,
            file: file.clone(),
            regions: commit.regions,
            root,
            height: 0,
        };
        let Some(height) = reader.measure()? else {
            return Ok(None);
        };
        reader.height = height;
        Ok(Some(reader))
    }

    /// How many branches are above each leaf: all are at one height.
    fn measure(&self) -> Result<Option<u32>, Fault> {
        let mut page = self.root;
        for height in 0..LEVELS_MAX {
            let Some(content) = self.file.read_range(self.regions.blocks(page))? else {
                return Ok(None);
            };
            match content[0] {
                LEAF => return Ok(Some(height)),
                BRANCH => match Branch::of(&content) {
                    Some(branch) => page = branch.child(0),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Looks up the rows of `revisions`, which must ascend, and hands those that it finds to `found`, with their place
    /// among `revisions`, in any order.
    pub(crate) fn rows(
        &self,
        revisions: &[Revision],
        mut found: impl FnMut(usize, Row),
    ) -> Result<(), Fault> {
        debug_assert!(revisions.is_sorted(), "revisions must ascend");
        let mut scratch = Scratch::default();
        let all = (self.root, 0..revisions.len());
        if self.height == 0 {
            return self.leaves(vec![all], revisions, &mut scratch, &mut found);
        }
        let mut branches = vec![(all, self.height)];
        while let Some(((page, wanted), height)) = branches.pop() {
            let Some(content) = self.file.read_range(self.regions.blocks(page))? else {
                continue;
            };
            let Some(branch) = Branch::of(&content) else {
                continue;
            };
            let children = branch.split(revisions, wanted);
            if height == 1 {
                self.leaves(children, revisions, &mut scratch, &mut found)?;
            } else {
                branches.extend(children.into_iter().map(|child| (child, height - 1)));
            }
        }
        Ok(())
    }

    fn leaves(
        &self,
        mut leaves: Vec<(PageNumber, Range<usize>)>,
        revisions: &[Revision],
        scratch: &mut Scratch,
        found: &mut impl FnMut(usize, Row),
    ) -> Result<(), Fault> {
        leaves.sort_by_key(|(page, _)| self.regions.blocks(*page).start);
        let places: Vec<_> = leaves
            .iter()
            .map(|(page, _)| self.regions.blocks(*page))
            .collect();
        let mut failed = None;
        let Scratch { blocks, chunk } = scratch;
        self.file.read_scattered(&places, blocks, |place, content| {
            let wanted = leaves[place].1.clone();
            let rows =
                rows_of_leaf(
                    content,
                    &revisions[wanted.clone()],
                    |place, key, value| match row::decode_into(chunk, key, value) {
                        Some(row) => found(wanted.start + place, row),
                        None => failed = Some(revisions[wanted.start + place]),
                    },
                );
            debug_assert!(rows.is_some(), "a leaf that redb wrote is not as its format says");
        })?;
        match failed {
            Some(revision) => Err(self.tables.damaged_row(revision)),
            None => Ok(()),
        }
    }
}

/// Memory that a pass uses again.
#[derive(Default)]
struct Scratch {
    /// Of the file.
    blocks: Vec<u8>,
    /// Rows go here.
    chunk: BytesMut,
}

/// A branch of the table of revisions.
struct Branch<'a> {
    keys: usize,
    children: &'a [u8],
    /// Each is at or above all keys of the child at its place, and below those of the next.
    separators: &'a [u8],
}

impl<'a> Branch<'a> {
    fn of(page: &'a [u8]) -> Option<Self> {
        if page[0] != BRANCH {
            return None;
        }
        let keys = entries_of(page)?;
        let children = BRANCH_HEAD_BYTES + CHECKSUM_BYTES * (keys + 1);
        let separators = children + PAGE_NUMBER_BYTES * (keys + 1);
        Some(Self {
            keys,
            children: page.get(children..separators)?,
            separators: page.get(separators..separators + KEY_BYTES * keys)?,
        })
    }

    fn child(&self, place: usize) -> PageNumber {
        u64_at(self.children, PAGE_NUMBER_BYTES * place).expect("there are as many children")
    }

    /// Which of the revisions at the places `wanted` each child has, if it has any.
    fn split(&self, revisions: &[Revision], wanted: Range<usize>) -> Vec<(PageNumber, Range<usize>)> {
        let (separators, _) = self.separators.as_chunks();
        let mut children = Vec::new();
        let mut from = wanted.start;
        for place in 0..=self.keys {
            let to = match separators.get(place) {
                Some(separator) => {
                    let separator = Revision::from_bytes(*separator);
                    from + revisions[from..wanted.end].partition_point(|revision| *revision <= separator)
                }
                None => wanted.end,
            };
            if from < to {
                children.push((self.child(place), from..to));
            }
            from = to;
        }
        children
    }
}

/// Finds the rows of `revisions` in a leaf of the table of revisions: their places, keys and values. None if it is none.
fn rows_of_leaf(
    leaf: &[u8],
    revisions: &[Revision],
    mut found: impl FnMut(usize, &[u8; KEY_BYTES], &[u8]),
) -> Option<()> {
    if leaf[0] != LEAF {
        return None;
    }
    let entries = entries_of(leaf)?;
    let keys_start = LEAF_HEAD_BYTES + 4 * entries;
    let values_start = keys_start + KEY_BYTES * entries;
    let (keys, _) = leaf.get(keys_start..values_start)?.as_chunks::<KEY_BYTES>();
    let mut at = 0;
    for (place, revision) in revisions.iter().enumerate() {
        let wanted = revision.to_bytes();
        at += keys[at..].partition_point(|key| *key < wanted);
        if keys.get(at) != Some(&wanted) {
            continue;
        }
        let start = match at {
            0 => values_start,
            _ => u32_at(leaf, LEAF_HEAD_BYTES + 4 * (at - 1))? as usize,
        };
        let end = u32_at(leaf, LEAF_HEAD_BYTES + 4 * at)? as usize;
        found(place, &keys[at], leaf.get(start..end)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::real_disk::RealDisk;
    use crate::tables::tests::step;
    use crate::tables::{Tables, WriteBatch};

    type Model = BTreeMap<Revision, Row>;

    fn scratch() -> (tempfile::TempDir, Tables) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let tables = Tables::open(Arc::new(RealDisk::without_sync()), &path, 1 << 20).unwrap();
        (directory, tables)
    }

    fn row(main: u64, bytes: usize) -> Row {
        Row {
            tombstone: false,
            previous: None,
            kv: Bytes::from(vec![main as u8; bytes]),
        }
    }

    fn write(tables: &Tables, rows: &Model, deletes: Vec<Revision>, durable: bool) {
        let rows = rows.iter().map(|(at, row)| (*at, Arc::new(row.clone())));
        let batch = WriteBatch {
            rows: rows.collect(),
            deletes,
            ..WriteBatch::default()
        };
        tables.write(&batch, durable).unwrap();
    }

    /// What a reader finds of `revisions`.
    fn found(reader: &BulkReader, revisions: &[Revision]) -> Model {
        let mut rows = Model::new();
        let found = |place: usize, row| assert_eq!(rows.insert(revisions[place], row), None);
        reader.rows(revisions, found).unwrap();
        rows
    }

    /// All revisions that a test of `mains` transactions can have, and some that it has not.
    fn revisions(mains: u64) -> Vec<Revision> {
        (0..mains + 3)
            .flat_map(|main| (0..3).map(move |sub| Revision::new(main, sub)))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A reader finds all rows of its durable commit and no others, however the tables have changed since; and the
        /// tables find all that there are. So a redb that writes another format is noticed here.
        #[test]
        fn all_rows_of_a_durable_commit_are_found_in_bulk(steps in prop::collection::vec(step(200, 1), 1..12)) {
            let (_directory, tables) = scratch();
            let mut model = Model::new();
            let mut kept: Vec<(Arc<BulkReader>, Model)> = Vec::new();
            let mut durable = Model::new();
            let mut next = 2;
            for step in steps {
                let new = (next..).zip(step.rows).map(|(main, bytes)| (Revision::new(main, main as u32 % 3), row(main, bytes)));
                let new: Model = new.collect();
                next += new.len() as u64;
                let (first, apart, number) = step.deletes;
                let deletes = (0..number).map(|number| first + number * apart);
                let deletes: Vec<_> = deletes.map(|main| Revision::new(main, main as u32 % 3)).collect();
                write(&tables, &new, deletes.clone(), step.durable);
                model.extend(new);
                model.retain(|revision, _| !deletes.contains(revision));
                if step.durable {
                    durable.clone_from(&model);
                }
                let all = revisions(next);
                let rows = tables.rows(&all).unwrap();
                let mut rows: Model = all.iter().zip(rows).filter_map(|(at, row)| Some((*at, row?))).collect();
                // Of those that have been deleted since the durable commit, some may still be there.
                rows.retain(|at, row| model.contains_key(at) || durable.get(at) != Some(row));
                prop_assert_eq!(rows, model.clone());
                match tables.bulk() {
                    Some(reader) => {
                        prop_assert_eq!(&found(&reader, &all), &durable);
                        if step.keep {
                            kept.push((reader, durable.clone()));
                        }
                    }
                    None => prop_assert!(durable.is_empty()),
                }
                for (reader, model) in &kept {
                    prop_assert_eq!(&found(reader, &all), model);
                }
                // Some of them, too: most leaves have nothing of it.
                let some: Vec<_> = all.iter().copied().filter(|at| at.main % 17 == 3).collect();
                for (reader, model) in &kept {
                    let mut model = model.clone();
                    model.retain(|at, _| at.main % 17 == 3);
                    prop_assert_eq!(found(reader, &some), model);
                }
            }
        }
    }

    #[test]
    fn a_high_tree_is_read_before_and_after_reopening() {
        let (directory, tables) = scratch();
        // A row has a page for itself, and a branch some hundred children.
        let model: Model = (2..16_002)
            .map(|main| (Revision::new(main, 0), row(main, 2_500)))
            .collect();
        write(&tables, &model, Vec::new(), true);
        let all = revisions(16_002);
        let reader = tables.bulk().expect("a durable commit");
        assert!(reader.height >= 2, "{}", reader.height);
        assert!(found(&reader, &all) == model);
        drop(reader);
        tables.close().unwrap();
        let path = directory.path().join("db");
        let tables = Tables::open(Arc::new(RealDisk::without_sync()), &path, 1 << 20).unwrap();
        let reader = tables.bulk().expect("what is on disk is durable");
        assert!(found(&reader, &all) == model);
    }

    #[test]
    fn a_reader_is_let_go_when_nobody_has_asked_for_long() {
        let (_directory, tables) = scratch();
        let write_one = |main: u64, durable| {
            let row = Model::from([(Revision::new(main, 0), row(main, 10))]);
            write(&tables, &row, Vec::new(), durable);
        };
        let is_there = || tables.bulk.lock().reader.is_some();
        write_one(2, true);
        assert!(is_there(), "it costs nothing while it is the newest commit");
        write_one(3, false);
        assert!(!is_there(), "nobody has asked");
        tables.bulk();
        write_one(4, true);
        write_one(5, false);
        assert!(is_there());
        write_one(6, true);
        write_one(7, false);
        assert!(!is_there());
    }

    #[test]
    fn damage_is_found() {
        let (directory, tables) = scratch();
        let model: Model = (2..3_000)
            .map(|main| (Revision::new(main, 0), row(main, 300)))
            .collect();
        write(&tables, &model, Vec::new(), true);
        let path = directory.path().join("db");
        let mut bytes = std::fs::read(&path).unwrap();
        let needle = vec![2_000u64 as u8; 300];
        let at = bytes
            .windows(needle.len())
            .position(|part| part == needle)
            .unwrap();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        let reader = tables.bulk().expect("a durable commit");
        match reader.rows(&revisions(3_000), |_, _| {}) {
            Err(Fault::Damaged { .. }) => {}
            other => panic!("{other:?}"),
        }
        // The file is not read again after that.
        assert!(matches!(
            reader.rows(&revisions(9), |_, _| {}),
            Err(Fault::Damaged { .. })
        ));
    }
}
