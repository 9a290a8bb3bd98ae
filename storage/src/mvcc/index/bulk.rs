//! Building a tree from sorted entries, leaf by leaf and then level by level.

use std::sync::Arc;

use bytes::Bytes;

use super::KeyMeta;
use super::keys::{PackedKeys, separator_before};
use super::leaf::{LEAF_KEYS_MAX, Leaf};
use super::node::{CHILDREN_ALWAYS, CHILDREN_MAX, Child, Inner, Node, TEXT_BYTES_MAX};

/// Keys put into a leaf: some room is left, or the first writes after a start would split every leaf they meet.
const LEAF_KEYS_LOADED: usize = LEAF_KEYS_MAX / 8 * 7;

/// Children put into an inner node.
const CHILDREN_LOADED: usize = CHILDREN_MAX / 8 * 7;

/// A finished node and the separator to its left; the leftmost has an empty one.
type Placed = (Vec<u8>, Child);

/// Builds the tree and returns its root.
pub(super) fn load(entries: impl Iterator<Item = (Bytes, KeyMeta)>) -> Arc<Node> {
    let mut level = load_leaves(entries);
    while level.len() > 1 {
        level = load_inners(level);
    }
    match level.pop() {
        Some((_, root)) => root.node,
        None => Arc::new(Node::Leaf(Leaf::default())),
    }
}

fn load_leaves(entries: impl Iterator<Item = (Bytes, KeyMeta)>) -> Vec<Placed> {
    let mut leaves = Vec::new();
    let mut separator = Vec::new();
    let mut pending: Vec<(Bytes, KeyMeta)> = Vec::with_capacity(LEAF_KEYS_LOADED);
    let mut pending_bytes = 0;
    for (key, meta) in entries {
        if let Some((last, _)) = pending.last() {
            assert!(*last < key, "keys to load must strictly ascend");
            if pending.len() == LEAF_KEYS_LOADED || pending_bytes + key.len() > TEXT_BYTES_MAX {
                let next_separator = separator_before(last, &key);
                leaves.push((separator, leaf_of(&pending)));
                separator = next_separator;
                pending.clear();
                pending_bytes = 0;
            }
        }
        pending_bytes += key.len();
        pending.push((key, meta));
    }
    if !pending.is_empty() {
        leaves.push((separator, leaf_of(&pending)));
    }
    leaves
}

fn leaf_of(entries: &[(Bytes, KeyMeta)]) -> Child {
    Child::of(Arc::new(Node::Leaf(Leaf::from_ascending(entries))))
}

/// One level up.
fn load_inners(level: Vec<Placed>) -> Vec<Placed> {
    let mut parents = Vec::with_capacity(level.len() / CHILDREN_LOADED + 1);
    let mut pending: Vec<Placed> = Vec::with_capacity(CHILDREN_LOADED);
    let mut pending_bytes = 0;
    let mut below = level.into_iter().peekable();
    while let Some(placed) = below.next() {
        // The last child goes with the others, even one too many: alone it would make a node with a single child.
        let last = below.peek().is_none();
        let full = pending.len() >= CHILDREN_LOADED
            || pending.len() >= CHILDREN_ALWAYS && pending_bytes + placed.0.len() > TEXT_BYTES_MAX;
        if full && !last {
            parents.push(inner_of(&mut pending));
            pending_bytes = 0;
        }
        pending_bytes += placed.0.len();
        pending.push(placed);
    }
    parents.push(inner_of(&mut pending));
    parents
}

fn inner_of(pending: &mut Vec<Placed>) -> Placed {
    let separators =
        PackedKeys::from_ascending(pending.iter().skip(1).map(|(separator, _)| separator.as_slice()));
    let mut children = Vec::with_capacity(pending.len());
    let mut first_separator = Vec::new();
    for (at, (separator, child)) in pending.drain(..).enumerate() {
        if at == 0 {
            first_separator = separator;
        }
        children.push(child);
    }
    let inner = Inner { separators, children };
    (first_separator, Child::of(Arc::new(Node::Inner(inner))))
}
