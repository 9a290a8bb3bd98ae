//! What the model shows of its history: what watchers get, and what HashKV covers.

use std::collections::BTreeSet;

use kelson_storage::applied::{Event, EventBatch};
use kelson_storage::key_value::KeyValue;

use crate::model::Model;

impl Model {
    /// What a watcher that starts at `from` gets (§6.4, §6.5): at the compact revision, what compaction kept.
    pub fn history(&self, from: u64) -> Vec<EventBatch> {
        let is_kept = |event: &Event| {
            let versions = self.keys.get(&event.key);
            versions.is_some_and(|versions| versions.iter().any(|version| version.revision == event.revision))
        };
        let mut batches = Vec::new();
        for batch in self.events.iter().filter(|batch| batch.revision >= from) {
            let mut batch = batch.clone();
            if batch.revision as i64 <= self.compacted {
                batch.events.retain(is_kept);
                batch.events.iter_mut().for_each(|event| event.previous = None);
            }
            if !batch.events.is_empty() {
                batches.push(batch);
            }
        }
        batches
    }

    /// §8.4, bit by bit.
    pub fn hash_kv(&self, at: u64) -> u32 {
        let mut stored = Vec::new();
        let mut kept = BTreeSet::new();
        for (key, versions) in &self.keys {
            let then = versions.iter().filter(|version| version.revision.main <= at);
            let then: Vec<_> = then.collect();
            if let Some(newest) = then.last().filter(|newest| newest.value.is_some()) {
                kept.insert(newest.revision);
            }
            stored.extend(then.into_iter().map(|version| (version.revision, key, version)));
        }
        stored.sort_by_key(|(revision, ..)| *revision);
        let mut bytes = b"key".to_vec();
        for (revision, key, version) in stored {
            let main = revision.main as i64;
            let discarded = main <= self.compacted && !kept.is_empty() && !kept.contains(&revision);
            if discarded || (version.value.is_none() && main == self.compacted) {
                continue;
            }
            bytes.extend(revision.main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(u64::from(revision.sub).to_be_bytes());
            if version.value.is_none() {
                bytes.push(b't');
                let kv = KeyValue {
                    key,
                    ..KeyValue::default()
                };
                bytes.extend(kv.to_bytes());
            } else {
                bytes.extend(version.encode(key));
            }
        }
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
            }
        }
        !crc
    }
}
