//! Descents that change nothing: lookup, sums below a bound, and walks in both directions.
//!
//! Walks recurse once per level of the tree, and there are six at a billion keys.

use std::ops::ControlFlow;

use super::leaf::Leaf;
use super::node::Node;
use super::{KeyMeta, Sum};

/// What a walk calls for each entry.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &KeyMeta) -> ControlFlow<()> + 'a;

/// The newest record of `key`.
pub(super) fn get(node: &Node, key: &[u8]) -> Option<KeyMeta> {
    let leaf = leaf_of(node, key);
    leaf.keys.search(key).ok().map(|at| leaf.meta(at))
}

/// The leaf that holds `key`, or would.
pub(super) fn leaf_of<'n>(mut node: &'n Node, key: &[u8]) -> &'n Leaf {
    loop {
        match node {
            Node::Inner(inner) => node = &inner.children[inner.child_of(key)].node,
            Node::Leaf(leaf) => return leaf,
        }
    }
}

/// What the keys below `bound` add up to.
pub(super) fn sum_below(mut node: &Node, bound: &[u8]) -> Sum {
    let mut sum = Sum::default();
    loop {
        match node {
            Node::Inner(inner) => {
                let at = inner.child_of(bound);
                sum = sum + inner.sum_before(at);
                node = &inner.children[at].node;
            }
            Node::Leaf(leaf) => return sum + leaf.sum_before(leaf.keys.rank(bound)),
        }
    }
}

/// Visits `[start, end)` in ascending order; `None` on either side is no bound. `key` is scratch space.
pub(super) fn ascend(
    node: &Node,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    key: &mut Vec<u8>,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(leaf) => {
            let (from, to) = bounds(leaf, start, end);
            key.clear();
            key.extend_from_slice(leaf.keys.prefix());
            for at in from..to {
                visit_entry(leaf, at, key, visit)?;
            }
        }
        Node::Inner(inner) => {
            let first = start.map_or(0, |start| inner.child_of(start));
            let last = end.map_or(inner.children.len() - 1, |end| inner.last_child_below(end));
            for at in first..=last {
                let start = start.filter(|_| at == first);
                let end = end.filter(|_| at == last);
                ascend(&inner.children[at].node, start, end, key, visit)?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// Visits `[start, end)` in descending order; `None` on either side is no bound. `key` is scratch space.
pub(super) fn descend(
    node: &Node,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    key: &mut Vec<u8>,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(leaf) => {
            let (from, to) = bounds(leaf, start, end);
            key.clear();
            key.extend_from_slice(leaf.keys.prefix());
            for at in (from..to).rev() {
                visit_entry(leaf, at, key, visit)?;
            }
        }
        Node::Inner(inner) => {
            let first = start.map_or(0, |start| inner.child_of(start));
            let last = end.map_or(inner.children.len() - 1, |end| inner.last_child_below(end));
            for at in (first..=last).rev() {
                let start = start.filter(|_| at == first);
                let end = end.filter(|_| at == last);
                descend(&inner.children[at].node, start, end, key, visit)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn bounds(leaf: &Leaf, start: Option<&[u8]>, end: Option<&[u8]>) -> (usize, usize) {
    let from = start.map_or(0, |start| leaf.keys.rank(start));
    let to = end.map_or(leaf.len(), |end| leaf.keys.rank(end));
    (from, to)
}

/// `key` holds the leaf's prefix, and something behind it from the entry before.
fn visit_entry(leaf: &Leaf, at: usize, key: &mut Vec<u8>, visit: &mut Visit<'_>) -> ControlFlow<()> {
    key.truncate(leaf.keys.prefix().len());
    key.extend_from_slice(leaf.keys.suffix(at));
    visit(key, &leaf.meta(at))
}
