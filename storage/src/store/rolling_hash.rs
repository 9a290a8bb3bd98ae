//! [`RollingHash`]: a fingerprint of the replicated state, advanced by each apply and compared between members.
//!
//! It has two parts. `live` is a sum over what is alive now: per key its revisions, version, lease and size; leases;
//! alarms; members; the cluster version; the compact revision. A sum has no order and things can be taken out of it,
//! so the part can be made again from the index at start, which finds rows that the database has lost. It does not
//! cover values, because taking an old value out would mean reading it. `log` covers them: it is folded over the
//! bytes of every record and the fate of every command id since the cluster began. It cannot be made again, only
//! carried along; a value that changes on disk later is found by the row's own checksum.
//!
//! Together: two members that have applied the same log position and ever disagreed about any record, command id,
//! lease, alarm or member differ here (but for a chance of about 2^-32 per differing record).

use crate::command::{AlarmKind, CommandId};
use crate::mvcc::index::KeyMeta;
use crate::store::MemberRecord;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollingHash {
    live: u64,
    log: u64,
}

impl RollingHash {
    /// With the part that only a checkpoint knows.
    pub fn restore(log: u64) -> Self {
        Self { live: 0, log }
    }

    /// Both parts as one number.
    pub fn value(&self) -> u64 {
        mix(self.live ^ self.log.rotate_left(32))
    }

    /// The part that [`RollingHash::restore`] needs.
    pub fn log(&self) -> u64 {
        self.log
    }

    /// A key's newest state was replaced. Deleted states count for nothing.
    pub fn replace_key(&mut self, key: &[u8], old: Option<&KeyMeta>, new: Option<&KeyMeta>) {
        let key = hash_bytes(Kind::Key, key);
        let part = |meta: Option<&KeyMeta>| {
            meta.filter(|meta| meta.live)
                .map_or(0, |meta| hash_meta(key, meta))
        };
        self.replace(part(old), part(new));
    }

    /// A lease came or went.
    pub fn add_lease(&mut self, id: i64, ttl: i64) {
        self.replace(0, hash_lease(id, ttl));
    }

    /// See [`RollingHash::add_lease`].
    pub fn remove_lease(&mut self, id: i64, ttl: i64) {
        self.replace(hash_lease(id, ttl), 0);
    }

    /// An alarm was raised.
    pub fn add_alarm(&mut self, member: u64, kind: AlarmKind) {
        self.replace(0, hash_alarm(member, kind));
    }

    /// An alarm was cleared.
    pub fn remove_alarm(&mut self, member: u64, kind: AlarmKind) {
        self.replace(hash_alarm(member, kind), 0);
    }

    /// A member came, changed or went.
    pub fn replace_member(&mut self, old: Option<&MemberRecord>, new: Option<&MemberRecord>) {
        self.replace(old.map_or(0, hash_member), new.map_or(0, hash_member));
    }

    /// A member can never come back.
    pub fn add_removed_member(&mut self, id: u64) {
        self.replace(0, hash_numbers(Kind::RemovedMember, &[id]));
    }

    /// The cluster version was set.
    pub fn replace_version(&mut self, old: Option<&str>, new: Option<&str>) {
        let part = |version: Option<&str>| {
            version.map_or(0, |version| hash_bytes(Kind::ClusterVersion, version.as_bytes()))
        };
        self.replace(part(old), part(new));
    }

    /// The compact revision was set.
    pub fn replace_compacted(&mut self, old: Option<u64>, new: Option<u64>) {
        let part = |compacted: Option<u64>| {
            compacted.map_or(0, |compacted| hash_numbers(Kind::Compacted, &[compacted]))
        };
        self.replace(part(old), part(new));
    }

    /// A record was written.
    pub fn add_record(&mut self, encoded: &[u8]) {
        let checksum = u64::from(crc32fast::hash(encoded));
        self.fold(checksum << 32 | encoded.len() as u64 & 0xffff_ffff);
    }

    /// A command arrived: it was applied, or dropped as a second copy.
    pub fn add_command(&mut self, id: CommandId, low: u64, admitted: bool) {
        let CommandId { origin, session, seq } = id;
        self.fold(hash_numbers(
            Kind::Command,
            &[origin, session, seq, low, u64::from(admitted)],
        ));
    }

    fn replace(&mut self, old: u64, new: u64) {
        self.live = self.live.wrapping_sub(old).wrapping_add(new);
    }

    fn fold(&mut self, value: u64) {
        self.log = (self.log.rotate_left(5) ^ value).wrapping_mul(MULTIPLIER);
    }
}

/// Keeps hashes of different things apart.
#[derive(Clone, Copy)]
enum Kind {
    Key = 1,
    Lease,
    Alarm,
    Member,
    RemovedMember,
    ClusterVersion,
    Compacted,
    Command,
}

/// An odd number without pattern: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit of the input over the output (the finalizer of splitmix64).
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn step(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ product >> 32
}

fn hash_bytes(kind: Kind, bytes: &[u8]) -> u64 {
    let mut hash = step(kind as u64, bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = step(hash, u64::from_le_bytes(word.try_into().expect("chunks of 8")));
    }
    let mut tail = [0; 8];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(step(hash, u64::from_le_bytes(tail)))
}

fn hash_numbers(kind: Kind, numbers: &[u64]) -> u64 {
    mix(numbers
        .iter()
        .fold(step(0, kind as u64), |hash, number| step(hash, *number)))
}

fn hash_meta(key: u64, meta: &KeyMeta) -> u64 {
    let numbers = [
        meta.create,
        meta.modified.main,
        u64::from(meta.modified.sub),
        meta.version,
        meta.lease as u64,
        u64::from(meta.bytes),
    ];
    mix(numbers.into_iter().fold(key, step))
}

fn hash_lease(id: i64, ttl: i64) -> u64 {
    hash_numbers(Kind::Lease, &[id as u64, ttl as u64])
}

fn hash_alarm(member: u64, kind: AlarmKind) -> u64 {
    let kind = match kind {
        AlarmKind::None => 0,
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    };
    hash_numbers(Kind::Alarm, &[member, kind])
}

fn hash_member(member: &MemberRecord) -> u64 {
    let MemberRecord {
        id,
        name,
        peer_urls,
        client_urls,
        is_learner,
    } = member;
    let text = |text: &String| hash_bytes(Kind::Member, text.as_bytes());
    let mut numbers = vec![*id, u64::from(*is_learner), text(name), peer_urls.len() as u64];
    numbers.extend(peer_urls.iter().chain(client_urls).map(text));
    hash_numbers(Kind::Member, &numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Revision;

    fn meta(version: u64) -> KeyMeta {
        KeyMeta {
            create: 2,
            modified: Revision::new(5, 0),
            version,
            lease: 0,
            bytes: 20,
            live: true,
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut hash = RollingHash::default();
        let empty = hash;
        hash.replace_key(b"a", None, Some(&meta(1)));
        hash.add_lease(1, 2);
        let before = hash;
        hash.replace_key(b"b", None, Some(&meta(1)));
        hash.replace_key(b"b", Some(&meta(1)), Some(&meta(2)));
        assert_ne!(hash, before);
        hash.replace_key(b"b", Some(&meta(2)), None);
        assert_eq!(hash, before);
        hash.remove_lease(1, 2);
        hash.replace_key(b"a", Some(&meta(1)), None);
        assert_eq!(hash, empty);
    }

    #[test]
    fn order_of_records_counts_and_order_of_keys_does_not() {
        let (mut one, mut other) = (RollingHash::default(), RollingHash::default());
        one.replace_key(b"a", None, Some(&meta(1)));
        one.replace_key(b"b", None, Some(&meta(2)));
        other.replace_key(b"b", None, Some(&meta(2)));
        other.replace_key(b"a", None, Some(&meta(1)));
        assert_eq!(one, other);
        one.add_record(b"a");
        one.add_record(b"b");
        other.add_record(b"b");
        other.add_record(b"a");
        assert_ne!(one.value(), other.value());
    }
}
