//! [`IntervalTree`]: which ranges hold a key, at the cost of the answer and not of the number of ranges.
//!
//! A treap ordered by (start, end) in which every node knows the subtree's largest end. Priorities come from a fixed
//! pseudo-random sequence, so the shape depends on neither keys nor chance; expected depth is logarithmic.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::roster::Slot;

/// Index of a node in the arena.
type Link = Option<u32>;

/// Watchers by range of keys.
pub(crate) struct IntervalTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: Link,
    chance: u64,
}

struct Node {
    start: Bytes,
    /// None: no end.
    end: Option<Bytes>,
    /// The node of this subtree whose end is largest.
    furthest: u32,
    priority: u64,
    left: Link,
    right: Link,
    watchers: BTreeSet<Slot>,
}

impl IntervalTree {
    /// A tree of no ranges.
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            root: None,
            chance: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Adds a watcher of `start..end`.
    pub(crate) fn insert(&mut self, start: &Bytes, end: Option<&Bytes>, watcher: Slot) {
        if let Some(found) = self.find(start, end) {
            self.node_mut(found).watchers.insert(watcher);
            return;
        }
        let node = self.allocate(start.clone(), end.cloned(), watcher);
        self.root = Some(self.insert_below(self.root, node));
    }

    /// Removes a watcher of `start..end`, if it is there.
    pub(crate) fn remove(&mut self, start: &Bytes, end: Option<&Bytes>, watcher: Slot) {
        let Some(found) = self.find(start, end) else {
            return;
        };
        let node = self.node_mut(found);
        node.watchers.remove(&watcher);
        if node.watchers.is_empty() {
            self.root = self.remove_below(self.root, found);
            *self.node_mut(found) = Node::vacant();
            self.free.push(found);
        }
    }

    /// Calls `visit` with every watcher whose range holds `key`.
    pub(crate) fn stab(&self, key: &[u8], visit: &mut impl FnMut(Slot)) {
        self.stab_below(self.root, key, visit);
    }

    fn stab_below(&self, link: Link, key: &[u8], visit: &mut impl FnMut(Slot)) {
        let Some(node) = link.map(|at| self.node(at)) else {
            return;
        };
        if !is_before_end(key, self.node(node.furthest).end.as_ref()) {
            return;
        }
        self.stab_below(node.left, key, visit);
        if node.start.as_ref() > key {
            return;
        }
        if is_before_end(key, node.end.as_ref()) {
            for watcher in &node.watchers {
                visit(*watcher);
            }
        }
        self.stab_below(node.right, key, visit);
    }

    fn find(&self, start: &Bytes, end: Option<&Bytes>) -> Link {
        let mut link = self.root;
        while let Some(at) = link {
            let node = self.node(at);
            match compare((start, end), (&node.start, node.end.as_ref())) {
                Ordering::Less => link = node.left,
                Ordering::Equal => return Some(at),
                Ordering::Greater => link = node.right,
            }
        }
        None
    }

    /// Inserts `new` below `link` and returns the subtree's root.
    fn insert_below(&mut self, link: Link, new: u32) -> u32 {
        let Some(at) = link else {
            return new;
        };
        if self.compare_nodes(new, at) == Ordering::Less {
            let child = self.insert_below(self.node(at).left, new);
            self.node_mut(at).left = Some(child);
            if self.node(child).priority > self.node(at).priority {
                self.node_mut(at).left = self.node(child).right;
                self.refresh(at);
                self.node_mut(child).right = Some(at);
                self.refresh(child);
                return child;
            }
        } else {
            let child = self.insert_below(self.node(at).right, new);
            self.node_mut(at).right = Some(child);
            if self.node(child).priority > self.node(at).priority {
                self.node_mut(at).right = self.node(child).left;
                self.refresh(at);
                self.node_mut(child).left = Some(at);
                self.refresh(child);
                return child;
            }
        }
        self.refresh(at);
        at
    }

    /// Takes `gone` out of the subtree below `link` and returns the subtree's root.
    fn remove_below(&mut self, link: Link, gone: u32) -> Link {
        let at = link?;
        match self.compare_nodes(gone, at) {
            Ordering::Less => self.node_mut(at).left = self.remove_below(self.node(at).left, gone),
            Ordering::Greater => self.node_mut(at).right = self.remove_below(self.node(at).right, gone),
            Ordering::Equal => return self.join(self.node(at).left, self.node(at).right),
        }
        self.refresh(at);
        Some(at)
    }

    /// Joins two subtrees, everything in `left` being before everything in `right`.
    fn join(&mut self, left: Link, right: Link) -> Link {
        let (Some(first), Some(second)) = (left, right) else {
            return left.or(right);
        };
        let top = if self.node(first).priority > self.node(second).priority {
            self.node_mut(first).right = self.join(self.node(first).right, right);
            first
        } else {
            self.node_mut(second).left = self.join(left, self.node(second).left);
            second
        };
        self.refresh(top);
        Some(top)
    }

    /// Works out the subtree's largest end anew from the node and its children.
    fn refresh(&mut self, at: u32) {
        let node = self.node(at);
        let mut furthest = at;
        for child in [node.left, node.right].into_iter().flatten() {
            let candidate = self.node(child).furthest;
            if compare_ends(
                self.node(candidate).end.as_ref(),
                self.node(furthest).end.as_ref(),
            ) == Ordering::Greater
            {
                furthest = candidate;
            }
        }
        self.node_mut(at).furthest = furthest;
    }

    fn compare_nodes(&self, a: u32, b: u32) -> Ordering {
        let (a, b) = (self.node(a), self.node(b));
        compare((&a.start, a.end.as_ref()), (&b.start, b.end.as_ref()))
    }

    fn allocate(&mut self, start: Bytes, end: Option<Bytes>, watcher: Slot) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::vacant());
            u32::try_from(self.nodes.len() - 1)
                .expect("fewer ranges than watchers, and those have 32-bit slots")
        });
        let priority = self.next_priority();
        *self.node_mut(at) = Node {
            start,
            end,
            furthest: at,
            priority,
            left: None,
            right: None,
            watchers: BTreeSet::from([watcher]),
        };
        at
    }

    /// Xorshift: cheap, never zero, the same in every run.
    fn next_priority(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

impl Node {
    fn vacant() -> Self {
        Self {
            start: Bytes::new(),
            end: None,
            furthest: 0,
            priority: 0,
            left: None,
            right: None,
            watchers: BTreeSet::new(),
        }
    }
}

fn is_before_end(key: &[u8], end: Option<&Bytes>) -> bool {
    end.is_none_or(|end| key < end.as_ref())
}

/// No end is the largest end.
fn compare_ends(a: Option<&Bytes>, b: Option<&Bytes>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
}

fn compare(a: (&Bytes, Option<&Bytes>), b: (&Bytes, Option<&Bytes>)) -> Ordering {
    a.0.cmp(b.0).then_with(|| compare_ends(a.1, b.1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Bytes {
        Bytes::from(vec![number])
    }

    fn depth(tree: &IntervalTree, link: Link) -> usize {
        link.map_or(0, |at| {
            1 + depth(tree, tree.node(at).left).max(depth(tree, tree.node(at).right))
        })
    }

    proptest! {
        #[test]
        fn finds_exactly_the_ranges_that_hold_the_key(
            steps in prop::collection::vec((any::<bool>(), 0..6u8, prop::option::of(0..8u8), 0..20u32), 1..120),
        ) {
            let mut tree = IntervalTree::new();
            let mut model = BTreeSet::new();
            for (insert, start, end, watcher) in steps {
                let (from, to) = (key(start), end.map(key));
                if insert {
                    tree.insert(&from, to.as_ref(), watcher);
                    model.insert((start, end, watcher));
                } else {
                    tree.remove(&from, to.as_ref(), watcher);
                    model.remove(&(start, end, watcher));
                }
                for probe in 0..9 {
                    let mut found = Vec::new();
                    tree.stab(&[probe], &mut |watcher| found.push(watcher));
                    found.sort_unstable();
                    let mut expected: Vec<Slot> = model
                        .iter()
                        .filter(|(start, end, _)| *start <= probe && end.is_none_or(|end| probe < end))
                        .map(|(_, _, watcher)| *watcher)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    #[test]
    fn stays_shallow_when_ranges_come_in_order() {
        let mut tree = IntervalTree::new();
        for number in 0..10_000u32 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            let end = Bytes::copy_from_slice(&(number + 1).to_be_bytes());
            tree.insert(&start, Some(&end), number);
        }
        assert!(depth(&tree, tree.root) < 50, "depth {}", depth(&tree, tree.root));
        let mut found = Vec::new();
        tree.stab(&777u32.to_be_bytes(), &mut |watcher| found.push(watcher));
        assert_eq!(found, [777]);
    }
}
