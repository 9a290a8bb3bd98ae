//! [`Index`]: every key with its newest record, in memory, ordered, counted, and cheap to take a picture of.
//!
//! A copy-on-write B+tree of `Arc` nodes. [`Index::root`] costs one reference count; after it the writer copies a
//! node the first time it changes it (in place otherwise), so a reader and the writer share what neither changed.
//! Inner nodes carry the number and bytes of the live keys below each child: counting a range costs two descents.
//! Keys are packed ([`keys`]), records are plain values, and nothing is boxed per key.
//!
//! The tree is a function of the operations applied to it: the same on every member.

mod bulk;
mod keys;
mod leaf;
mod node;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::ops::{Add, ControlFlow, Sub};
use std::sync::Arc;

use bytes::Bytes;

use crate::revision::Revision;
use leaf::Leaf;
use node::{Child, Inner, Node};

pub(crate) use keys::common_len;

/// Live keys below which the tree is taken to be in the processor's caches.
const WARM_FROM_KEYS: u64 = 20_000;

/// What the index knows of a key: its newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// Main revision at which the key was created (its life before a deletion does not count).
    pub create: u64,
    /// Revision of the newest record.
    pub modified: Revision,
    /// Writes since the creation; 1 for a new key.
    pub version: u64,
    /// Lease the key is attached to; 0 for none.
    pub lease: i64,
    /// Size of the encoded record, in bytes; below 2 GiB.
    pub bytes: u32,
    /// Whether the key exists. A deleted key stays, uncounted, until its tombstone is compacted.
    pub live: bool,
}

/// The writer's tree.
#[derive(Debug, Default)]
pub struct Index {
    root: IndexRoot,
}

/// The tree as it was when [`Index::root`] was called. Holding one makes later writes copy the nodes they change, and
/// keeps the replaced nodes alive: drop it where freeing many nodes delays nobody.
#[derive(Clone, Debug)]
pub struct IndexRoot {
    node: Arc<Node>,
    sum: Sum,
}

/// Number and record bytes of live keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    live: u64,
    bytes: u64,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds from entries in strictly ascending key order, several times faster than one insert after the other.
    ///
    /// # Panics
    ///
    /// When the keys do not strictly ascend.
    pub fn bulk_load(entries: impl IntoIterator<Item = (Bytes, KeyMeta)>) -> Self {
        let node = bulk::load(entries.into_iter());
        let sum = node.sum();
        Self {
            root: IndexRoot { node, sum },
        }
    }

    /// The newest record of `key`, a tombstone included.
    pub fn get(&self, key: &[u8]) -> Option<KeyMeta> {
        self.root.get(key)
    }

    /// Sets the newest record of `key` and returns the one before.
    ///
    /// # Panics
    ///
    /// When `meta.bytes` is 2 GiB or more, which no protobuf message can be.
    pub fn insert(&mut self, key: &[u8], meta: KeyMeta) -> Option<KeyMeta> {
        loop {
            let inserted = write::insert(&mut self.root.node, key, meta);
            if let Some(split) = inserted.split {
                let left = Arc::clone(&self.root.node);
                self.root.node = Arc::new(Node::Inner(Inner::above(left, split)));
            }
            // A full leaf was split first; there is room now.
            if !inserted.placed {
                continue;
            }
            self.root.sum = self.root.sum - Sum::of(inserted.old) + Sum::of(Some(meta));
            return inserted.old;
        }
    }

    /// Forgets `key` and returns its newest record: compaction removed the last row of a deleted key.
    /// Copies nothing when the key is not there.
    pub fn remove(&mut self, key: &[u8]) -> Option<KeyMeta> {
        self.root.get(key)?;
        let removed = write::remove(&mut self.root.node, key);
        while let Node::Inner(inner) = &*self.root.node
            && let [only] = inner.children.as_slice()
        {
            self.root.node = Arc::clone(&only.node);
        }
        self.root.sum = self.root.sum - Sum::of(removed);
        removed
    }

    /// The tree as it is now, to keep. Costs one reference count.
    pub fn root(&self) -> IndexRoot {
        self.root.clone()
    }

    /// The tree as it is now, to read without keeping it.
    pub fn view(&self) -> &IndexRoot {
        &self.root
    }

    /// Number of keys that exist.
    pub fn len_live(&self) -> u64 {
        self.root.sum.live
    }
}

impl Default for IndexRoot {
    fn default() -> Self {
        Self {
            node: Arc::new(Node::Leaf(Leaf::default())),
            sum: Sum::default(),
        }
    }
}

impl IndexRoot {
    /// The newest record of `key`, a tombstone included.
    pub fn get(&self, key: &[u8]) -> Option<KeyMeta> {
        read::get(&self.node, key)
    }

    /// Brings what a lookup of each of these keys will touch into the processor's caches. In a large tree lookups wait for
    /// memory most of the time, each for itself; here they wait together.
    pub fn warm(&self, keys: &[&[u8]]) {
        if self.sum.live < WARM_FROM_KEYS || keys.len() < 2 {
            return;
        }
        let leaves: Vec<&Leaf> = keys.iter().map(|key| read::leaf_of(&self.node, key)).collect();
        // No step of a loop depends on the one before, so that the processor has many of them under way at once.
        let mut seen: u64 = 0;
        for leaf in &leaves {
            seen = seen.wrapping_add(leaf.keys.touch());
        }
        for (leaf, key) in leaves.iter().zip(keys) {
            if let Ok(at) = leaf.keys.search(key) {
                seen = seen.wrapping_add(leaf.meta(at).version);
            }
        }
        // Whoever leaves out what has no use must not leave out this.
        std::hint::black_box(seen);
    }

    /// Number of live keys in `[start, end)`; `None` is no end. Costs two descents at any size.
    pub fn count(&self, start: &[u8], end: Option<&[u8]>) -> u64 {
        self.sum_of(start, end).live
    }

    /// Record bytes of the live keys in `[start, end)`; `None` is no end. Costs two descents at any size.
    pub fn bytes(&self, start: &[u8], end: Option<&[u8]>) -> u64 {
        self.sum_of(start, end).bytes
    }

    /// Calls `visit` for each entry in `[start, end)` in ascending order, tombstones included, until it breaks.
    pub fn for_each(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &KeyMeta) -> ControlFlow<()>,
    ) {
        let _ = read::ascend(&self.node, Some(start), end, &mut Vec::new(), &mut visit);
    }

    /// Calls `visit` for each entry in `[start, end)` in descending order, tombstones included, until it breaks.
    pub fn for_each_rev(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &KeyMeta) -> ControlFlow<()>,
    ) {
        let _ = read::descend(&self.node, Some(start), end, &mut Vec::new(), &mut visit);
    }

    /// Bytes of heap this tree keeps alive, those shared with other roots included. Visits every node.
    pub fn heap_bytes(&self) -> usize {
        self.node.heap_bytes()
    }

    fn sum_of(&self, start: &[u8], end: Option<&[u8]>) -> Sum {
        if end.is_some_and(|end| end <= start) {
            return Sum::default();
        }
        let below_end = end.map_or(self.sum, |end| read::sum_below(&self.node, end));
        if start.is_empty() {
            return below_end;
        }
        below_end - read::sum_below(&self.node, start)
    }
}

impl Inner {
    /// A new root above one that was split.
    fn above(left: Arc<Node>, split: node::Split) -> Self {
        Self {
            separators: keys::PackedKeys::from_ascending(std::iter::once(split.separator.as_slice())),
            children: vec![Child::of(left), Child::of(split.right)],
        }
    }
}

impl Sum {
    /// What one key counts for.
    fn of(meta: Option<KeyMeta>) -> Self {
        match meta {
            Some(meta) if meta.live => Self {
                live: 1,
                bytes: u64::from(meta.bytes),
            },
            _ => Self::default(),
        }
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            live: self.live + other.live,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sub for Sum {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            live: self.live - other.live,
            bytes: self.bytes - other.bytes,
        }
    }
}
