//! [`Node`], [`Inner`] and [`Child`]: the shape of the tree above its leaves.

use std::sync::Arc;

use super::Sum;
use super::keys::{KEYS_MAX, PackedKeys, clone_with_slack, grow_by_one};
use super::leaf::Leaf;

/// Most children of an inner node.
pub(super) const CHILDREN_MAX: usize = KEYS_MAX;

/// Children an inner node may always have, however long the separators: splitting fewer would leave a half with one.
pub(super) const CHILDREN_ALWAYS: usize = 4;

/// Most bytes of key text in a node that holds more than it must. Above it a node is split as if it were full, so
/// that a copy of a node stays cheap among large keys.
pub(super) const TEXT_BYTES_MAX: usize = 16 * 1024;

/// A node of the tree. Shared with every snapshot that was taken while it looked like this.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are fifty leaves for each inner node, and a box would cost each of them a cache miss"
)]
pub(super) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

/// A node with children. What must stay true: at least two children, one separator fewer than children, and child `i`
/// holds exactly the keys from separator `i - 1` (inclusive) to separator `i` (exclusive).
#[derive(Debug)]
pub(super) struct Inner {
    pub separators: PackedKeys,
    pub children: Vec<Child>,
}

/// A subtree, and what it adds up to.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub node: Arc<Node>,
    pub sum: Sum,
}

impl Node {
    /// What all entries below add up to.
    pub fn sum(&self) -> Sum {
        match self {
            Self::Leaf(leaf) => leaf.sum(),
            Self::Inner(inner) => inner.sum_before(inner.children.len()),
        }
    }

    /// Keys of a leaf, children of an inner node.
    pub fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    /// Bytes of heap of this node and all below, with the room not yet used and the reference counts.
    pub fn heap_bytes(&self) -> usize {
        const COUNTS_BYTES: usize = 2 * size_of::<usize>();
        let own = COUNTS_BYTES + size_of::<Self>();
        own + match self {
            Self::Leaf(leaf) => leaf.keys.heap_bytes(),
            Self::Inner(inner) => {
                let below: usize = inner.children.iter().map(|child| child.node.heap_bytes()).sum();
                below + inner.separators.heap_bytes() + inner.children.capacity() * size_of::<Child>()
            }
        }
    }
}

impl Child {
    /// Adds up a node that is about to become a child.
    pub fn of(node: Arc<Node>) -> Self {
        let sum = node.sum();
        Self { node, sum }
    }
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        Self {
            separators: self.separators.clone(),
            children: clone_with_slack(&self.children),
        }
    }
}

/// The right half of a node that was split, and the least key that may be in it.
#[derive(Debug)]
pub(super) struct Split {
    pub separator: Vec<u8>,
    pub right: Arc<Node>,
}

impl Inner {
    /// The child that holds `key`, or would.
    pub fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.search(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// The last child that can hold keys below `bound`.
    pub fn last_child_below(&self, bound: &[u8]) -> usize {
        self.separators.rank(bound)
    }

    /// What the children before `at` add up to.
    pub fn sum_before(&self, at: usize) -> Sum {
        self.children[..at]
            .iter()
            .fold(Sum::default(), |sum, child| sum + child.sum)
    }

    /// Puts the right half of child `at` beside it. Splits when there is no room.
    pub fn insert_right_of(&mut self, at: usize, split: Split) -> Option<Split> {
        let count = self.children.len();
        let fits = count < CHILDREN_MAX && self.separators.text_len_with(&split.separator) <= TEXT_BYTES_MAX;
        if count < CHILDREN_ALWAYS || fits {
            self.insert_child(at, split);
            return None;
        }
        // At the edges the far side stays as it is: keys arriving in order fill their nodes.
        let middle = if at == 0 {
            1
        } else if at + 1 == count {
            count - 1
        } else {
            (self.separators.middle_by_bytes(1) + 1).clamp(2, count - 2)
        };
        let mut half = self.split_off(middle);
        if let Node::Inner(right) = Arc::make_mut(&mut half.right) {
            let left_count = self.children.len();
            if at < left_count {
                self.insert_child(at, split);
            } else {
                right.insert_child(at - left_count, split);
            }
        }
        Some(half)
    }

    /// Keeps the children before `at` and returns the others.
    pub fn split_off(&mut self, at: usize) -> Split {
        let separator = self.separators.key(at - 1);
        let separators = self.separators.split_off(at);
        self.separators.remove(at - 1);
        let children = clone_with_slack(&self.children[at..]);
        self.children.truncate(at);
        self.children.shrink_to(at + at / 8);
        let right = Self { separators, children };
        Split {
            separator,
            right: Arc::new(Node::Inner(right)),
        }
    }

    /// Adds the children of `other`, all at or above `separator`.
    pub fn append(&mut self, separator: &[u8], other: &Self) {
        self.separators.insert(self.separators.len(), separator);
        self.separators.append(&other.separators);
        self.children.extend_from_slice(&other.children);
    }

    /// Takes out child `at`. Its keys' range goes to a neighbour.
    pub fn remove_child(&mut self, at: usize) -> Child {
        self.separators.remove(at.saturating_sub(1));
        self.children.remove(at)
    }

    /// Puts the right half of child `at` beside it, without a look at the room.
    pub fn insert_child(&mut self, at: usize, split: Split) {
        self.separators.insert(at, &split.separator);
        grow_by_one(&mut self.children);
        self.children.insert(at + 1, Child::of(split.right));
    }
}
