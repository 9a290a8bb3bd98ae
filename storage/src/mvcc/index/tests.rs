//! The index against a `BTreeMap`, and the shape promises no model can see.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::leaf::LEAF_KEYS_MAX;
use super::node::{CHILDREN_MAX, Node, TEXT_BYTES_MAX};
use super::{Index, IndexRoot, KeyMeta, Sum};
use crate::revision::Revision;

type Model = BTreeMap<Vec<u8>, KeyMeta>;

fn meta(seed: u64, live: bool) -> KeyMeta {
    KeyMeta {
        create: seed,
        modified: Revision::new(seed + 1, (seed % 7) as u32),
        version: seed % 5 + 1,
        lease: -(seed as i64),
        bytes: (seed % 1000) as u32,
        live,
    }
}

// ---- invariants ----

/// Panics when an invariant of the tree does not hold.
fn check(root: &IndexRoot) {
    let mut depths = Vec::new();
    let sum = check_node(&root.node, None, None, 0, &mut depths);
    assert_eq!(sum, root.sum, "the root's sum is wrong");
    depths.dedup();
    assert_eq!(depths.len(), 1, "leaves at different depths");
    if let Node::Leaf(_) = &*root.node {
        return;
    }
    assert!(root.node.len() >= 2, "a root with one child");
}

fn check_node(
    node: &Node,
    least: Option<&[u8]>,
    bound: Option<&[u8]>,
    depth: usize,
    depths: &mut Vec<usize>,
) -> Sum {
    match node {
        Node::Leaf(leaf) => {
            depths.push(depth);
            leaf.keys.check();
            assert_eq!(leaf.keys.len(), leaf.len(), "as many records as keys");
            assert!(leaf.len() <= LEAF_KEYS_MAX, "leaf over its bound");
            assert!(leaf.len() > 0 || depth == 0, "empty leaf");
            assert!(
                leaf.len() <= 1 || leaf.keys.text_len() <= TEXT_BYTES_MAX,
                "leaf over its bytes"
            );
            if leaf.len() > 0 {
                assert!(least.is_none_or(|least| leaf.keys.key(0).as_slice() >= least));
                assert!(bound.is_none_or(|bound| leaf.keys.key(leaf.len() - 1).as_slice() < bound));
            }
            leaf.sum()
        }
        Node::Inner(inner) => {
            inner.separators.check();
            let count = inner.children.len();
            assert!((2..=CHILDREN_MAX).contains(&count), "{count} children");
            assert_eq!(
                inner.separators.len() + 1,
                count,
                "one separator between each two"
            );
            let mut total = Sum::default();
            for (at, child) in inner.children.iter().enumerate() {
                let left = at.checked_sub(1).map(|at| inner.separators.key(at));
                let right = (at + 1 < count).then(|| inner.separators.key(at));
                let least = left.as_deref().or(least);
                let bound = right.as_deref().or(bound);
                let sum = check_node(&child.node, least, bound, depth + 1, depths);
                assert_eq!(sum, child.sum, "a child's sum is wrong");
                total = total + sum;
            }
            total
        }
    }
}

/// Nodes of `new` that `old` does not share.
fn nodes_not_shared(old: &IndexRoot, new: &IndexRoot) -> usize {
    fn collect(node: &Arc<Node>, into: &mut Vec<*const Node>) {
        into.push(Arc::as_ptr(node));
        if let Node::Inner(inner) = &**node {
            for child in &inner.children {
                collect(&child.node, into);
            }
        }
    }
    let (mut old_nodes, mut new_nodes) = (Vec::new(), Vec::new());
    collect(&old.node, &mut old_nodes);
    collect(&new.node, &mut new_nodes);
    new_nodes.retain(|node| !old_nodes.contains(node));
    new_nodes.len()
}

// ---- comparison with the model ----

fn entries(
    root: &IndexRoot,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
    reverse: bool,
) -> Vec<(Vec<u8>, KeyMeta)> {
    let mut found = Vec::new();
    let visit = |key: &[u8], meta: &KeyMeta| {
        found.push((key.to_vec(), *meta));
        if found.len() >= limit {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    if reverse {
        root.for_each_rev(start, end, visit);
    } else {
        root.for_each(start, end, visit);
    }
    found
}

fn compare_range(root: &IndexRoot, model: &Model, start: &[u8], end: Option<&[u8]>, limit: usize) {
    let range: Vec<_> = if end.is_some_and(|end| end <= start) {
        Vec::new()
    } else {
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        model
            .range::<[u8], _>((Bound::Included(start), upper))
            .map(|(key, meta)| (key.clone(), *meta))
            .collect()
    };
    let live = || range.iter().filter(|(_, meta)| meta.live);
    assert_eq!(root.count(start, end), live().count() as u64, "count");
    assert_eq!(
        root.bytes(start, end),
        live().map(|(_, meta)| u64::from(meta.bytes)).sum::<u64>(),
        "bytes"
    );
    let expected: Vec<_> = range.iter().take(limit).cloned().collect();
    assert_eq!(entries(root, start, end, limit, false), expected, "ascending");
    let expected: Vec<_> = range.iter().rev().take(limit).cloned().collect();
    assert_eq!(entries(root, start, end, limit, true), expected, "descending");
}

fn compare_all(root: &IndexRoot, model: &Model) {
    check(root);
    compare_range(root, model, b"", None, usize::MAX);
    for (key, meta) in model {
        assert_eq!(root.get(key), Some(*meta));
    }
}

// ---- random operations ----

/// Keys that are hard on a packed tree: NULs, 0xff, keys that are prefixes of others, long shared prefixes on both
/// sides of the factored-out bound, and keys larger than a node's text may be.
#[derive(Clone, Copy, Debug)]
struct Family(u8);

const FAMILIES: u8 = 8;

impl Family {
    fn key(self, number: u32) -> Vec<u8> {
        let mut key = match self.0 {
            0 | 1 => Vec::new(),
            2 => b"/registry/pods/default/".to_vec(),
            3 => b"/registry/pods/defaulz/".to_vec(),
            4 => vec![0xff; 40],
            5 => vec![b'p'; 600],
            6 => vec![b'p'; 510],
            _ => vec![0; 3],
        };
        if self.0 == 1 {
            key.extend_from_slice(&number.to_be_bytes());
            return key;
        }
        let mut rest = number;
        while rest > 0 {
            key.push([0, b'a', b'b', 0xff][(rest % 4) as usize]);
            rest /= 4;
        }
        if self.0 == 7 && number.is_multiple_of(3) {
            key.resize(key.len() + 9000 + (number % 2) as usize * 12_000, b'h');
        }
        key
    }
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Up,
    Down,
    Scattered,
}

#[derive(Clone, Debug)]
struct Run {
    family: Family,
    from: u32,
    count: u32,
    order: Order,
}

impl Run {
    fn keys(&self) -> Vec<Vec<u8>> {
        let numbers: Vec<u32> = match self.order {
            Order::Up => (0..self.count).collect(),
            Order::Down => (0..self.count).rev().collect(),
            // 1,009 is prime and above every count: each number once.
            Order::Scattered => (0..1009)
                .map(|at| at * 607 % 1009)
                .filter(|&n| n < self.count)
                .collect(),
        };
        numbers
            .into_iter()
            .map(|n| self.family.key(self.from + n))
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Run, u64),
    Remove(Run),
    RemoveRange(Vec<u8>, Vec<u8>),
    Snapshot,
    DropSnapshot(usize),
    Query(Vec<u8>, Option<Vec<u8>>, usize),
    Reload,
}

fn family() -> impl Strategy<Value = Family> {
    (0..FAMILIES).prop_map(Family)
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop::sample::select(vec![0u8, b'a', b'b', b'p', 0xff]);
    prop_oneof![
        (family(), 0u32..1200).prop_map(|(family, number)| family.key(number)),
        prop::collection::vec(letter, 0..6),
    ]
}

fn run() -> impl Strategy<Value = Run> {
    let order = prop::sample::select(vec![Order::Up, Order::Down, Order::Scattered]);
    let count = prop_oneof![1u32..5, 50u32..400];
    (family(), 0u32..800, count, order).prop_map(|(family, from, count, order)| Run {
        family,
        from,
        // Keys of ten thousand bytes: fewer do.
        count: if family.0 == 7 { count / 4 + 1 } else { count },
        order,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (run(), any::<u32>()).prop_map(|(run, seed)| Op::Insert(run, u64::from(seed))),
        3 => run().prop_map(Op::Remove),
        1 => (key(), key()).prop_map(|(a, b)| Op::RemoveRange(a, b)),
        2 => Just(Op::Snapshot),
        1 => (0usize..8).prop_map(Op::DropSnapshot),
        4 => (key(), prop::option::of(key()), prop_oneof![1usize..4, Just(usize::MAX)])
            .prop_map(|(start, end, limit)| Op::Query(start, end, limit)),
        1 => Just(Op::Reload),
    ]
}

fn bulk(model: &Model) -> Index {
    Index::bulk_load(
        model
            .iter()
            .map(|(key, meta)| (Bytes::copy_from_slice(key), *meta)),
    )
}

fn apply(op: Op, index: &mut Index, model: &mut Model, snapshots: &mut Vec<(IndexRoot, Model)>) {
    match op {
        Op::Insert(run, seed) => {
            for (at, key) in run.keys().into_iter().enumerate() {
                let meta = meta(seed + at as u64, !(seed + at as u64).is_multiple_of(4));
                assert_eq!(index.insert(&key, meta), model.insert(key, meta));
            }
        }
        Op::Remove(run) => {
            for key in run.keys() {
                assert_eq!(index.remove(&key), model.remove(&key));
            }
        }
        Op::RemoveRange(a, b) => {
            let inside = |key: &Vec<u8>| *key >= a && *key < b;
            for key in model
                .keys()
                .filter(|key| inside(key))
                .cloned()
                .collect::<Vec<_>>()
            {
                assert_eq!(index.remove(&key), model.remove(&key));
            }
        }
        Op::Snapshot => snapshots.push((index.root(), model.clone())),
        Op::DropSnapshot(at) => {
            if at < snapshots.len() {
                snapshots.swap_remove(at);
            }
        }
        Op::Query(start, end, limit) => {
            assert_eq!(index.get(&start), model.get(&start).copied());
            compare_range(index.view(), model, &start, end.as_deref(), limit);
            for (root, model) in snapshots {
                compare_range(root, model, &start, end.as_deref(), limit);
            }
        }
        Op::Reload => *index = bulk(model),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn index_and_its_snapshots_agree_with_an_ordered_map(ops in prop::collection::vec(op(), 1..40)) {
        let (mut index, mut model, mut snapshots) = (Index::new(), Model::new(), Vec::new());
        for op in ops {
            apply(op, &mut index, &mut model, &mut snapshots);
            check(index.view());
            assert_eq!(index.len_live(), model.values().filter(|meta| meta.live).count() as u64);
        }
        compare_all(index.view(), &model);
        for (root, model) in &snapshots {
            compare_all(root, model);
        }
        for key in model.keys() {
            assert!(index.remove(key).is_some());
        }
        check(index.view());
        assert_eq!(index.view().count(b"", None), 0);
        assert_eq!(index.view().node.len(), 0, "something was left in an empty tree");
        for (root, model) in &snapshots {
            compare_all(root, model);
        }
    }
}

// ---- shape ----

fn numbered(number: u64) -> Vec<u8> {
    format!("/registry/pods/default/pod-{number:012}").into_bytes()
}

/// Numbers below `count`, each once, in a fixed order that looks random. `count` must be a power of two.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    assert!(count.is_power_of_two() && count > 1);
    let spare_bits = u64::BITS - count.ilog2();
    (0..count).map(move |at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count).reverse_bits() >> spare_bits)
}

fn filled(numbers: impl Iterator<Item = u64>) -> (Index, Model) {
    let (mut index, mut model) = (Index::new(), Model::new());
    for number in numbers {
        index.insert(&numbered(number), meta(number, true));
        model.insert(numbered(number), meta(number, true));
    }
    (index, model)
}

#[test]
fn three_levels_hold_what_was_put_in_any_order() {
    const KEYS: u64 = 1 << 15;
    for numbers in [
        (0..KEYS).collect::<Vec<_>>(),
        (0..KEYS).rev().collect(),
        scattered(KEYS).collect(),
    ] {
        let (mut index, model) = filled(numbers.iter().copied());
        compare_all(index.view(), &model);
        compare_range(
            index.view(),
            &model,
            &numbered(77),
            Some(&numbered(KEYS - 77)),
            usize::MAX,
        );
        let before = index.root();
        for number in &numbers {
            assert!(index.remove(&numbered(*number)).is_some());
        }
        check(index.view());
        assert_eq!(index.view().node.len(), 0);
        compare_all(&before, &model);
    }
}

#[test]
fn keys_in_order_fill_their_leaves_whichever_way_they_come() {
    const KEYS: u64 = 10_000;
    let up = filled(0..KEYS).0;
    let down = filled((0..KEYS).rev()).0;
    for index in [up, down] {
        let mut leaves = Vec::new();
        check_node(&index.view().node, None, None, 0, &mut leaves);
        assert!(
            leaves.len() as u64 <= KEYS / LEAF_KEYS_MAX as u64 + 2,
            "{} leaves",
            leaves.len()
        );
    }
}

#[test]
fn descending_keys_in_a_gap_do_not_get_a_leaf_each() {
    let mut index = filled(0..64).0;
    index.insert(b"/zoo", meta(1, true));
    for number in (1000..2000).rev() {
        index.insert(&numbered(number), meta(number, true));
    }
    let mut leaves = Vec::new();
    check_node(&index.view().node, None, None, 0, &mut leaves);
    assert!(leaves.len() < 40, "{} leaves for 1,065 keys", leaves.len());
}

#[test]
fn a_write_copies_its_path_and_a_miss_copies_nothing() {
    let mut index = filled(scattered(1 << 13)).0;
    let before = index.root();
    assert_eq!(index.remove(b"/registry/absent"), None);
    assert!(
        Arc::ptr_eq(&before.node, &index.view().node),
        "a miss copied the root"
    );
    index.insert(&numbered(5), meta(9, true));
    let copied = nodes_not_shared(&before, index.view());
    assert_eq!(copied, 3, "a replaced record copies one node per level");
    index.insert(&numbered(5), meta(10, true));
    assert_eq!(
        nodes_not_shared(&before, index.view()),
        copied,
        "the path is copied once"
    );
}

#[test]
fn without_a_snapshot_nothing_is_copied() {
    let mut index = filled(scattered(1 << 13)).0;
    let root = Arc::as_ptr(&index.view().node);
    index.insert(&numbered(5), meta(9, true));
    index.remove(&numbered(6));
    assert_eq!(Arc::as_ptr(&index.view().node), root);
}

#[test]
fn tombstones_are_kept_but_not_counted() {
    let mut index = Index::new();
    index.insert(b"a", meta(10, true));
    index.insert(b"b", meta(20, true));
    index.insert(b"a", meta(11, false));
    assert_eq!(index.len_live(), 1);
    assert_eq!(index.view().bytes(b"", None), 20);
    assert_eq!(index.get(b"a"), Some(meta(11, false)));
    assert_eq!(entries(index.view(), b"", None, usize::MAX, false).len(), 2);
    assert_eq!(index.remove(b"a"), Some(meta(11, false)));
    assert_eq!(index.len_live(), 1);
}

#[test]
fn keys_as_large_as_a_request_do_not_burden_their_neighbours() {
    const LARGE: usize = 1536 * 1024;
    let (mut index, mut model) = filled(0..200);
    for number in 0..6u8 {
        let mut key = numbered(100);
        key.resize(LARGE, b'k');
        key.push(number);
        index.insert(&key, meta(u64::from(number), true));
        model.insert(key, meta(u64::from(number), true));
    }
    compare_all(index.view(), &model);
    let mut small = 0;
    each_leaf(&index.view().node, &mut |leaf_keys, text_len| {
        assert!(leaf_keys == 1 || text_len < TEXT_BYTES_MAX);
        small += usize::from(leaf_keys > 1);
    });
    assert!(small >= 3);
    let removed: Vec<_> = model.keys().filter(|key| key.len() > LARGE).cloned().collect();
    for key in removed {
        assert_eq!(index.remove(&key), model.remove(&key));
    }
    compare_all(index.view(), &model);
}

fn each_leaf(node: &Node, visit: &mut dyn FnMut(usize, usize)) {
    match node {
        Node::Leaf(leaf) => visit(leaf.len(), leaf.keys.text_len()),
        Node::Inner(inner) => inner
            .children
            .iter()
            .for_each(|child| each_leaf(&child.node, visit)),
    }
}

#[test]
fn bulk_load_of_any_length_gives_a_sound_tree() {
    for keys in [
        0,
        1,
        2,
        55,
        56,
        57,
        112,
        113,
        56 * 56,
        56 * 56 + 1,
        56 * 56 + 57,
        20_000,
    ] {
        let model: Model = (0..keys).map(|n| (numbered(n), meta(n, n % 3 != 0))).collect();
        compare_all(bulk(&model).view(), &model);
    }
}

#[test]
#[should_panic(expected = "strictly ascend")]
fn bulk_load_refuses_keys_out_of_order() {
    Index::bulk_load([b"b", b"a"].map(|key| (Bytes::from_static(key), meta(1, true))));
}

#[test]
fn memory_per_key_stays_near_its_record() {
    let index = filled(scattered(1 << 15)).0;
    let suffix = 12;
    let per_key = index.view().heap_bytes() as u64 / index.len_live();
    assert!(per_key <= 80 + suffix, "{per_key} bytes per key");
}
