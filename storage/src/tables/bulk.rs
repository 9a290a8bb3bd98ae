//! [`BulkReader`]: many rows of one durable commit in one pass over the file, beside the engine.
//!
//! A long list wants rows from everywhere. Asked for one by one, each costs redb a walk from the root, and a page that its
//! cache pays for with another. Here the tree is walked once for all of them, in history order, and leaves that lie close
//! together in the file come by one call, into memory that is used again.
//!
//! Rows that have pieces wait for a second walk, over the table of those.
//!
//! What is not as expected is not found here, and left to the engine, which is asked for whatever is not found. Nothing
//! can be taken for what it is not: blocks are checked as on every other read, and a row's checksum covers its revision.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use redb::TableHandle;

use super::block_file::BlockFile;
use super::engine::{PIECES, REVISIONS};
use super::engine_format::{
    BRANCH, BRANCH_HEAD_BYTES, CHECKSUM_BYTES, Commit, LEAF, LEAF_HEAD_BYTES, PAGE_NUMBER_BYTES, PageNumber,
    Regions, VALUE_END_BYTES, entries_of, root_of_table, u32_at, u64_at,
};
use super::frozen::Frozen;
use super::piece;
use super::row::{self, Entry, Row, Unfinished};
use crate::error::Fault;
use crate::revision::Revision;

/// No tree of a file that fits a disk is as high.
const LEVELS_MAX: u32 = 16;

/// The rows as one durable commit left them.
pub(crate) struct BulkReader {
    /// Keeps the pages of the commit from being reused.
    tables: Arc<Frozen>,
    rows: Tree<{ Revision::ENCODED_BYTES }>,
    /// None if no row has any.
    pieces: Option<Tree<{ piece::KEY_BYTES }>>,
}

impl BulkReader {
    /// Of the newest commit, which is durable and is what `tables` shows. None if the table is empty, or not as
    /// expected.
    pub(super) fn of(tables: Arc<Frozen>, file: &Arc<BlockFile>) -> Result<Option<Self>, Fault> {
        let Some(commit) = Commit::newest_durable(file)? else {
            return Ok(None);
        };
        let Some(rows) = Tree::of(file, commit, REVISIONS.name())? else {
            return Ok(None);
        };
        Ok(Some(Self {
            tables,
            rows,
            pieces: Tree::of(file, commit, PIECES.name())?,
        }))
    }

    /// Looks up the rows of `revisions`, which must ascend, and hands those that it finds to `found`, with their place
    /// among `revisions`, in any order.
    pub(crate) fn rows(
        &self,
        revisions: &[Revision],
        mut found: impl FnMut(usize, Row),
    ) -> Result<(), Fault> {
        debug_assert!(revisions.is_sorted(), "revisions must ascend");
        let keys: Vec<_> = revisions.iter().map(|revision| revision.to_bytes()).collect();
        let mut blocks = Vec::new();
        let mut chunk = BytesMut::new();
        let mut failed = None;
        let mut in_pieces = Vec::new();
        self.rows.look_up(&keys, &mut blocks, |place, value| {
            match row::decode_into(&mut chunk, &keys[place], value) {
                Some(Entry::Whole(row)) => found(place, row),
                Some(Entry::InPieces(row)) => in_pieces.push((place, row)),
                None => failed = Some(place),
            }
        })?;
        self.put_together(&keys, &mut in_pieces, &mut blocks)?;
        for (place, row) in in_pieces.into_iter().filter(|(_, row)| row.is_whole()) {
            match row.finish() {
                Some(row) => found(place, row),
                None => failed = Some(place),
            }
        }
        match failed {
            Some(place) => Err(self.tables.damaged_row(revisions[place])),
            None => Ok(()),
        }
    }

    /// Gives those rows, which have these places among `keys`, their pieces.
    fn put_together(
        &self,
        keys: &[[u8; Revision::ENCODED_BYTES]],
        rows: &mut [(usize, Unfinished)],
        blocks: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Some(pieces) = &self.pieces else {
            return Ok(());
        };
        rows.sort_unstable_by_key(|(place, _)| *place);
        let mut piece_keys = Vec::new();
        let mut pieces_of = Vec::new();
        for (at, (place, row)) in rows.iter().enumerate() {
            for number in 0..row.pieces() {
                piece_keys.push(piece::key(&keys[*place], number));
                pieces_of.push((at, number));
            }
        }
        pieces.look_up(&piece_keys, blocks, |place, content| {
            let (at, number) = pieces_of[place];
            // One that is not the row's own leaves it without, and to the engine.
            let _ = rows[at].1.put(number, content);
        })
    }
}

/// A table with keys of so many bytes as one durable commit left it. Whoever uses it keeps its pages from being reused.
struct Tree<const KEY_BYTES: usize> {
    file: Arc<BlockFile>,
    regions: Regions,
    root: PageNumber,
    /// Branches above each leaf.
    height: u32,
}

impl<const KEY_BYTES: usize> Tree<KEY_BYTES> {
    /// None if there is no such table, or it is empty or not as expected.
    fn of(file: &Arc<BlockFile>, commit: Commit, name: &str) -> Result<Option<Self>, Fault> {
        let Some(root) = root_of_table(file, commit.regions, commit.tables, name)? else {
            return Ok(None);
        };
        let mut tree = Self {
            file: file.clone(),
            regions: commit.regions,
            root,
            height: 0,
        };
        let Some(height) = tree.measure()? else {
            return Ok(None);
        };
        tree.height = height;
        Ok(Some(tree))
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
                BRANCH => match Branch::<KEY_BYTES>::of(&content) {
                    Some(branch) => page = branch.child(0),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Hands the values of `keys`, which must ascend, to `found`, with their place among `keys`, in any order; none of
    /// those that it doesn't find. `blocks` is memory that is used again.
    fn look_up(
        &self,
        keys: &[[u8; KEY_BYTES]],
        blocks: &mut Vec<u8>,
        mut found: impl FnMut(usize, &[u8]),
    ) -> Result<(), Fault> {
        let all = (self.root, 0..keys.len());
        if self.height == 0 {
            return self.leaves(vec![all], keys, blocks, &mut found);
        }
        let mut branches = vec![(all, self.height)];
        while let Some(((page, wanted), height)) = branches.pop() {
            let Some(content) = self.file.read_range(self.regions.blocks(page))? else {
                continue;
            };
            let Some(branch) = Branch::of(&content) else {
                continue;
            };
            let children = branch.split(keys, wanted);
            if height == 1 {
                self.leaves(children, keys, blocks, &mut found)?;
            } else {
                branches.extend(children.into_iter().map(|child| (child, height - 1)));
            }
        }
        Ok(())
    }

    fn leaves(
        &self,
        mut leaves: Vec<(PageNumber, Range<usize>)>,
        keys: &[[u8; KEY_BYTES]],
        blocks: &mut Vec<u8>,
        found: &mut impl FnMut(usize, &[u8]),
    ) -> Result<(), Fault> {
        leaves.sort_by_key(|(page, _)| self.regions.blocks(*page).start);
        let places: Vec<_> = leaves
            .iter()
            .map(|(page, _)| self.regions.blocks(*page))
            .collect();
        self.file.read_scattered(&places, blocks, |place, content| {
            let wanted = leaves[place].1.clone();
            let values = values_of_leaf(content, &keys[wanted.clone()], |place, value| {
                found(wanted.start + place, value);
            });
            debug_assert!(
                values.is_some(),
                "a leaf that redb wrote is not as its format says"
            );
        })
    }
}

/// A branch of a table with keys of so many bytes.
struct Branch<'a, const KEY_BYTES: usize> {
    keys: usize,
    children: &'a [u8],
    /// Each is at or above all keys of the child at its place, and below those of the next.
    separators: &'a [u8],
}

impl<'a, const KEY_BYTES: usize> Branch<'a, KEY_BYTES> {
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

    /// Which of the keys at the places `wanted` each child has, if it has any.
    fn split(&self, keys: &[[u8; KEY_BYTES]], wanted: Range<usize>) -> Vec<(PageNumber, Range<usize>)> {
        let (separators, _) = self.separators.as_chunks();
        let mut children = Vec::new();
        let mut from = wanted.start;
        for place in 0..=self.keys {
            let to = match separators.get(place) {
                Some(separator) => from + keys[from..wanted.end].partition_point(|key| key <= separator),
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

/// Finds the values of `wanted` in a leaf: their places and they. None if it is no leaf.
fn values_of_leaf<const KEY_BYTES: usize>(
    leaf: &[u8],
    wanted: &[[u8; KEY_BYTES]],
    mut found: impl FnMut(usize, &[u8]),
) -> Option<()> {
    if leaf[0] != LEAF {
        return None;
    }
    let entries = entries_of(leaf)?;
    let keys_start = LEAF_HEAD_BYTES + VALUE_END_BYTES * entries;
    let values_start = keys_start + KEY_BYTES * entries;
    let (keys, _) = leaf.get(keys_start..values_start)?.as_chunks::<KEY_BYTES>();
    let value_end = |at: usize| u32_at(leaf, LEAF_HEAD_BYTES + VALUE_END_BYTES * at);
    let mut at = 0;
    for (place, wanted) in wanted.iter().enumerate() {
        at += keys[at..].partition_point(|key| key < wanted);
        if keys.get(at) != Some(wanted) {
            continue;
        }
        let start = match at {
            0 => values_start,
            _ => value_end(at - 1)? as usize,
        };
        found(place, leaf.get(start..value_end(at)? as usize)?);
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
                match tables.bulk_for(usize::MAX) {
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
        let reader = tables.bulk_for(usize::MAX).expect("a durable commit");
        assert!(reader.rows.height >= 2, "{}", reader.rows.height);
        assert!(found(&reader, &all) == model);
        drop(reader);
        tables.close().unwrap();
        let path = directory.path().join("db");
        let tables = Tables::open(Arc::new(RealDisk::without_sync()), &path, 1 << 20).unwrap();
        let reader = tables.bulk_for(usize::MAX).expect("what is on disk is durable");
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
        tables.bulk_for(usize::MAX);
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
        let reader = tables.bulk_for(usize::MAX).expect("a durable commit");
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
