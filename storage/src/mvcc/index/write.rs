//! Insert and remove. Each copies the nodes on its path that a snapshot still holds, and changes the others in place.
//!
//! Both recurse once per level of the tree.

use std::sync::Arc;

use super::keys::{separator_after, separator_before};
use super::leaf::{LEAF_KEYS_MAX, Leaf};
use super::node::{CHILDREN_MAX, Child, Inner, Node, Split, TEXT_BYTES_MAX};
use super::{KeyMeta, Sum};

/// Keys or children below which a node is joined with a neighbour, if the two fit.
const NODE_SMALL: usize = 16;

/// Most keys or children that a join may make: room to grow, so that joins and splits do not alternate.
const JOINED_MAX: usize = 48;

/// Most bytes of key text that a join may make.
const JOINED_TEXT_BYTES_MAX: usize = TEXT_BYTES_MAX / 4 * 3;

const ONE_DEPTH: &str = "all leaves are at the same depth";

/// What an insert did to a subtree.
pub(super) struct Inserted {
    /// The record that was replaced.
    pub old: Option<KeyMeta>,
    /// The subtree's right half, when it was split.
    pub split: Option<Split>,
    /// Whether the key is in. If not, the split made room: insert again from the root.
    pub placed: bool,
}

/// Inserts into the subtree of `node`.
pub(super) fn insert(node: &mut Arc<Node>, key: &[u8], meta: KeyMeta) -> Inserted {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => insert_into_leaf(leaf, key, meta),
        Node::Inner(inner) => {
            let at = inner.child_of(key);
            let child = &mut inner.children[at];
            let mut inserted = insert(&mut child.node, key, meta);
            match inserted.split.take() {
                None if !inserted.placed => {}
                None => child.sum = child.sum - Sum::of(inserted.old) + Sum::of(Some(meta)),
                Some(split) => {
                    child.sum = child.node.sum();
                    inserted.split = inner.insert_right_of(at, split);
                }
            }
            inserted
        }
    }
}

fn insert_into_leaf(leaf: &mut Leaf, key: &[u8], meta: KeyMeta) -> Inserted {
    let mut inserted = Inserted {
        old: None,
        split: None,
        placed: true,
    };
    let at = match leaf.keys.search(key) {
        Ok(at) => {
            inserted.old = Some(leaf.replace(at, meta));
            return inserted;
        }
        Err(at) => at,
    };
    let count = leaf.len();
    let fits = count < LEAF_KEYS_MAX && leaf.keys.text_len_with(key) <= TEXT_BYTES_MAX;
    if fits || count == 0 {
        leaf.insert(at, key, meta);
    } else if at == count {
        // A leaf of its own beside a full one: keys arriving in order fill their leaves.
        inserted.split = Some(Split {
            separator: separator_after(&leaf.keys.key(count - 1), key),
            right: Arc::new(Node::Leaf(Leaf::from_ascending(&[(key, meta)]))),
        });
    } else if at == 0 {
        let separator = separator_before(key, &leaf.keys.key(0));
        let full = std::mem::replace(leaf, Leaf::from_ascending(&[(key, meta)]));
        inserted.split = Some(Split {
            separator,
            right: Arc::new(Node::Leaf(full)),
        });
    } else {
        // A large key gets a leaf of its own, so that its neighbours can be copied without it.
        let large = key.len() > TEXT_BYTES_MAX / 2;
        let middle = if large { at } else { leaf.keys.middle_by_bytes(1) };
        inserted.split = Some(split_leaf(leaf, middle));
        inserted.placed = false;
    }
    inserted
}

fn split_leaf(leaf: &mut Leaf, at: usize) -> Split {
    let separator = separator_before(&leaf.keys.key(at - 1), &leaf.keys.key(at));
    Split {
        separator,
        right: Arc::new(Node::Leaf(leaf.split_off(at))),
    }
}

/// Removes `key` from the subtree of `node`. The caller has made sure that it is there: a miss would copy the path
/// for nothing.
pub(super) fn remove(node: &mut Arc<Node>, key: &[u8]) -> Option<KeyMeta> {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => {
            let at = leaf.keys.search(key).ok()?;
            Some(leaf.remove(at))
        }
        Node::Inner(inner) => {
            let at = inner.child_of(key);
            let child = &mut inner.children[at];
            let removed = remove(&mut child.node, key)?;
            child.sum = child.sum - Sum::of(Some(removed));
            match child.node.len() {
                0 => drop(inner.remove_child(at)),
                len if len < NODE_SMALL => relieve(inner, at),
                _ => {}
            }
            Some(removed)
        }
    }
}

/// Joins the small child `at` with a neighbour if the two fit into one node. An inner node with a single child is
/// joined in any case, and split again if that made it too large.
fn relieve(parent: &mut Inner, at: usize) {
    let last_left = parent.children.len() - 2;
    let candidates = [at.min(last_left), at.saturating_sub(1)];
    let fitting = candidates.into_iter().find(|&left| joined_fits(parent, left));
    match fitting {
        Some(left) => join(parent, left),
        None if parent.children[at].node.len() == 1 => {
            if let Node::Inner(_) = &*parent.children[at].node {
                join(parent, candidates[0]);
                split_if_large(parent, candidates[0]);
            }
        }
        None => {}
    }
}

fn joined_fits(parent: &Inner, left: usize) -> bool {
    let (a, b) = (&parent.children[left].node, &parent.children[left + 1].node);
    let text = match (&**a, &**b) {
        (Node::Leaf(a), Node::Leaf(b)) => a.keys.text_len_joined(&b.keys),
        (Node::Inner(a), Node::Inner(b)) => {
            a.separators.text_len_joined(&b.separators) + parent.separators.suffix(left).len()
        }
        _ => unreachable!("{ONE_DEPTH}"),
    };
    a.len() + b.len() <= JOINED_MAX && text <= JOINED_TEXT_BYTES_MAX
}

/// Moves what child `left + 1` holds to child `left`.
fn join(parent: &mut Inner, left: usize) {
    let separator = parent.separators.key(left);
    let right = parent.remove_child(left + 1);
    let child = &mut parent.children[left];
    match (Arc::make_mut(&mut child.node), &*right.node) {
        (Node::Leaf(a), Node::Leaf(b)) => a.append(b),
        (Node::Inner(a), Node::Inner(b)) => a.append(&separator, b),
        _ => unreachable!("{ONE_DEPTH}"),
    }
    child.sum = child.sum + right.sum;
}

fn split_if_large(parent: &mut Inner, at: usize) {
    let Node::Inner(inner) = Arc::make_mut(&mut parent.children[at].node) else {
        return;
    };
    let count = inner.children.len();
    if count > CHILDREN_MAX {
        let split = inner.split_off(count / 2);
        parent.children[at] = Child::of(Arc::clone(&parent.children[at].node));
        parent.insert_child(at, split);
    }
}
