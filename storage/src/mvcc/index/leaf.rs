//! [`Leaf`]: a run of keys and their newest records.

use super::keys::{KEYS_MAX, PackedKeys};
use super::{KeyMeta, Sum};
use crate::revision::Revision;

/// Most keys in a leaf. Larger leaves cost more per copy, smaller ones more memory.
pub(super) const LEAF_KEYS_MAX: usize = KEYS_MAX;

/// A leaf of the tree. Never empty, unless it is the root. `metas[i]` belongs to key `i`; those behind the last key mean nothing.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub keys: PackedKeys,
    metas: [PackedMeta; LEAF_KEYS_MAX],
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            keys: PackedKeys::default(),
            metas: [PackedMeta::default(); LEAF_KEYS_MAX],
        }
    }
}

impl Leaf {
    /// A leaf of entries whose keys strictly ascend.
    pub fn from_ascending<K: AsRef<[u8]>>(entries: &[(K, KeyMeta)]) -> Self {
        let mut leaf = Self {
            keys: PackedKeys::from_ascending(entries.iter().map(|(key, _)| key.as_ref())),
            ..Self::default()
        };
        for (packed, (_, meta)) in leaf.metas.iter_mut().zip(entries) {
            *packed = PackedMeta::from(*meta);
        }
        leaf
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The record at `at`.
    pub fn meta(&self, at: usize) -> KeyMeta {
        self.metas[at].into()
    }

    /// Replaces the record at `at` and returns the old one.
    pub fn replace(&mut self, at: usize, meta: KeyMeta) -> KeyMeta {
        std::mem::replace(&mut self.metas[at], meta.into()).into()
    }

    /// Inserts a key at `at`, where a search said it belongs.
    pub fn insert(&mut self, at: usize, key: &[u8], meta: KeyMeta) {
        let len = self.len();
        self.metas.copy_within(at..len, at + 1);
        self.metas[at] = meta.into();
        self.keys.insert(at, key);
    }

    /// Removes the entry at `at`.
    pub fn remove(&mut self, at: usize) -> KeyMeta {
        let removed = self.meta(at);
        let len = self.len();
        self.metas.copy_within(at + 1..len, at);
        self.keys.remove(at);
        removed
    }

    /// Keeps the entries before `at` and returns the others.
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut right = Self::default();
        let moved = &self.metas[at..self.len()];
        right.metas[..moved.len()].copy_from_slice(moved);
        right.keys = self.keys.split_off(at);
        right
    }

    /// Adds the entries of `other`, all above the ones here.
    pub fn append(&mut self, other: &Self) {
        let len = self.len();
        self.metas[len..len + other.len()].copy_from_slice(&other.metas[..other.len()]);
        self.keys.append(&other.keys);
    }

    /// What the entries before `at` add up to.
    pub fn sum_before(&self, at: usize) -> Sum {
        self.metas[..at]
            .iter()
            .fold(Sum::default(), |sum, meta| sum + meta.sum())
    }

    /// What all entries add up to.
    pub fn sum(&self) -> Sum {
        self.sum_before(self.len())
    }
}

/// [`KeyMeta`] without its padding: 40 bytes instead of 48.
#[derive(Clone, Copy, Debug, Default)]
struct PackedMeta {
    create: u64,
    modified_main: u64,
    version: u64,
    lease: i64,
    modified_sub: u32,
    /// The record's bytes in the low 31 bits, `live` in the highest.
    bytes_and_live: u32,
}

/// The bit of `bytes_and_live` that says the key is live.
const LIVE_BIT: u32 = 1 << 31;

impl PackedMeta {
    fn sum(self) -> Sum {
        // Written without a branch: whether a key is live cannot be predicted while a range is being deleted.
        let live = u64::from(self.bytes_and_live >> 31);
        Sum {
            live,
            bytes: u64::from(self.bytes_and_live & !LIVE_BIT) * live,
        }
    }
}

impl From<KeyMeta> for PackedMeta {
    fn from(meta: KeyMeta) -> Self {
        assert!(
            meta.bytes < LIVE_BIT,
            "a record is smaller than 2 GiB, as any protobuf message is"
        );
        Self {
            create: meta.create,
            modified_main: meta.modified.main,
            version: meta.version,
            lease: meta.lease,
            modified_sub: meta.modified.sub,
            bytes_and_live: meta.bytes | if meta.live { LIVE_BIT } else { 0 },
        }
    }
}

impl From<PackedMeta> for KeyMeta {
    fn from(packed: PackedMeta) -> Self {
        Self {
            create: packed.create,
            modified: Revision::new(packed.modified_main, packed.modified_sub),
            version: packed.version,
            lease: packed.lease,
            bytes: packed.bytes_and_live & !LIVE_BIT,
            live: packed.bytes_and_live & LIVE_BIT != 0,
        }
    }
}
