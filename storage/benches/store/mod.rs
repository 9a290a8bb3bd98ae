//! What benchmarks of the store share: one that is filled with keys, driven without a log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kelson_storage::applied::Outcome;
use kelson_storage::codec::encode_batch;
use kelson_storage::command::*;
use kelson_storage::limits::CacheBudget;
use kelson_storage::real_disk::RealDisk;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{ApplySink, Checkpointer, Store, StoreOptions};

/// Bytes of the values that the store is filled with.
pub const VALUE_BYTES: usize = 256;
/// Commands of a usual entry under load.
pub const COMMANDS_PER_ENTRY: u64 = 256;

/// Drops everything, like the sink of a member whose clients are elsewhere.
struct Nobody;

impl ApplySink for Nobody {
    fn outcome(&mut self, _: CommandId, _: Outcome) {}
    fn lease_granted(&mut self, _: i64, _: i64) {}
    fn lease_revoked(&mut self, _: i64) {}
}

/// A store without syncs, and where its log stands.
pub struct Bench {
    _directory: tempfile::TempDir,
    store: Store,
    pub checkpointer: Checkpointer,
    index: u64,
    seq: u64,
}

impl Bench {
    /// An empty one.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            database: directory.path().join("db"),
            cache: CacheBudget {
                overlay: 32 << 20,
                event_ring: 16 << 20,
                ..CacheBudget::default()
            },
        };
        let store = Store::open(Arc::new(RealDisk::without_sync()), options).unwrap();
        Self {
            checkpointer: store.checkpointer(),
            store,
            _directory: directory,
            index: 0,
            seq: 0,
        }
    }

    /// The bytes of an entry of commands.
    pub fn entry(&mut self, commands: impl Iterator<Item = Command>) -> Bytes {
        let low = self.seq + 1;
        let proposals: Vec<_> = commands
            .map(|command| {
                self.seq += 1;
                let id = CommandId {
                    origin: 0x1234_5678_9abc_def0,
                    session: 1,
                    seq: self.seq,
                };
                Proposal { id, low, command }
            })
            .collect();
        encode_batch(&proposals)
    }

    /// Applies an entry.
    pub fn apply(&mut self, entry: &Bytes) {
        let at = LogPosition {
            term: 1,
            index: self.index,
        };
        self.store.apply_batch(at, entry, &mut Nobody).unwrap();
        self.index += 1;
    }

    /// Fills the store with `keys` keys.
    pub fn fill(&mut self, keys: u64) {
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        let mut key = 0;
        while key < keys {
            let entry = self.entry((key..key + COMMANDS_PER_ENTRY).map(|key| put(key, &value)));
            self.apply(&entry);
            key += COMMANDS_PER_ENTRY;
            if key % (64 * COMMANDS_PER_ENTRY) == 0 {
                self.checkpointer.step(false).unwrap();
            }
        }
        self.checkpointer.step(false).unwrap();
    }
}

/// CPU time this thread has used.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every thread has a CPU clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The key with this number.
pub fn key(number: u64) -> Bytes {
    Bytes::from(format!("/registry/pods/namespace/{number:016x}"))
}

/// A put of the key with this number.
pub fn put(number: u64, value: &Bytes) -> Command {
    Command::Put(Put {
        key: key(number),
        value: value.clone(),
        ..Put::default()
    })
}

/// A number below `below`, without pattern.
pub fn scatter(number: u64, below: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % below
}
