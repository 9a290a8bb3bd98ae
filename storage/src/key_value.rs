//! The one wire format this crate writes: `mvccpb.KeyValue` in protobuf's encoding, canonical (fields in order of
//! their numbers, defaults left out), so that a stored record, a reply and an event are the same bytes.
//!
//! A record of a deletion holds the key and the mod revision only.

use bytes::{BufMut, Bytes, BytesMut};

/// A key-value pair, borrowed. Field names are etcd's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// Field 1.
    pub key: &'a [u8],
    /// Field 2: revision of the creation; 0 in a record of a deletion.
    pub create_revision: i64,
    /// Field 3: revision of this record.
    pub mod_revision: i64,
    /// Field 4: writes since the creation; 0 in a record of a deletion.
    pub version: i64,
    /// Field 5.
    pub value: &'a [u8],
    /// Field 6: 0 for none.
    pub lease: i64,
}

const KEY: u8 = 1 << 3 | LENGTH_DELIMITED;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | LENGTH_DELIMITED;
const LEASE: u8 = 6 << 3;
const LENGTH_DELIMITED: u8 = 2;

impl<'a> KeyValue<'a> {
    /// Bytes of the encoding.
    pub fn encoded_len(&self) -> usize {
        let number = |value: i64| {
            if value == 0 {
                0
            } else {
                1 + varint_len(value as u64)
            }
        };
        let bytes = |value: &[u8]| match value.len() {
            0 => 0,
            length => 1 + varint_len(length as u64) + length,
        };
        bytes(self.key)
            + number(self.create_revision)
            + number(self.mod_revision)
            + number(self.version)
            + bytes(self.value)
            + number(self.lease)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_bytes(out, KEY, self.key);
        put_number(out, CREATE_REVISION, self.create_revision);
        put_number(out, MOD_REVISION, self.mod_revision);
        put_number(out, VERSION, self.version);
        put_bytes(out, VALUE, self.value);
        put_number(out, LEASE, self.lease);
    }

    /// The encoding in a buffer of its own.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        self.encode(&mut bytes);
        bytes.freeze()
    }

    /// Reads an encoding; `None` if it is none that [`KeyValue::encode`] could have written (order apart).
    pub fn decode(mut bytes: &'a [u8]) -> Option<Self> {
        let mut kv = Self::default();
        while let [tag, rest @ ..] = bytes {
            bytes = rest;
            let number = take_varint(&mut bytes)?;
            if tag & 7 == LENGTH_DELIMITED {
                let (field, rest) = bytes.split_at_checked(usize::try_from(number).ok()?)?;
                bytes = rest;
                match *tag {
                    KEY => kv.key = field,
                    VALUE => kv.value = field,
                    _ => return None,
                }
            } else {
                let number = number as i64;
                match *tag {
                    CREATE_REVISION => kv.create_revision = number,
                    MOD_REVISION => kv.mod_revision = number,
                    VERSION => kv.version = number,
                    LEASE => kv.lease = number,
                    _ => return None,
                }
            }
        }
        Some(kv)
    }
}

/// Where the key lies in an encoding that starts with it; `None` if it does not.
pub fn key_span(encoded: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut rest = encoded.strip_prefix(&[KEY])?;
    let length = usize::try_from(take_varint(&mut rest)?).ok()?;
    let start = encoded.len() - rest.len();
    (length <= rest.len()).then_some(start..start + length)
}

/// The key of an encoding, sharing its buffer; `None` if the encoding does not start with a key.
pub fn key_of(encoded: &Bytes) -> Option<Bytes> {
    Some(encoded.slice(key_span(encoded)?))
}

fn put_number(out: &mut impl BufMut, tag: u8, value: i64) {
    if value != 0 {
        out.put_u8(tag);
        put_varint(out, value as u64);
    }
}

fn put_bytes(out: &mut impl BufMut, tag: u8, value: &[u8]) {
    if !value.is_empty() {
        out.put_u8(tag);
        put_varint(out, value.len() as u64);
        out.put_slice(value);
    }
}

/// Appends seven bits a byte, the lowest first.
pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes off what [`put_varint`] appended; `None` if it ends too early, or never.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Encodes records into large shared buffers, so that a record costs no allocation of its own.
///
/// A buffer lives as long as any record in it; records leave memory in about the order they came, so little is held
/// for long. Large records get a buffer of their own.
#[derive(Debug, Default)]
pub struct RecordArena {
    buffer: BytesMut,
}

/// Bytes of one shared buffer.
const ARENA_BYTES: usize = 64 * 1024;

impl RecordArena {
    /// Encodes one record.
    pub fn encode(&mut self, kv: &KeyValue<'_>) -> Bytes {
        let length = kv.encoded_len();
        if length > ARENA_BYTES / 8 {
            return kv.to_bytes();
        }
        if self.buffer.capacity() - self.buffer.len() < length {
            self.buffer = BytesMut::with_capacity(ARENA_BYTES);
        }
        kv.encode(&mut self.buffer);
        self.buffer.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encoding_is_protobufs() {
        let kv = KeyValue {
            key: b"k",
            create_revision: 2,
            mod_revision: 300,
            version: 1,
            value: b"v1",
            lease: -1,
        };
        let expected: &[u8] = &[
            0x0a, 1, b'k', 0x10, 2, 0x18, 0xac, 0x02, 0x20, 1, 0x2a, 2, b'v', b'1', 0x30, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ];
        assert_eq!(kv.to_bytes(), expected);
    }

    proptest! {
        #[test]
        fn encoding_reads_back(
            key in prop::collection::vec(any::<u8>(), 1..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
            numbers in any::<[i64; 4]>(),
        ) {
            let [create_revision, mod_revision, version, lease] = numbers;
            let kv = KeyValue { key: &key, create_revision, mod_revision, version, value: &value, lease };
            let bytes = kv.to_bytes();
            prop_assert_eq!(bytes.len(), kv.encoded_len());
            prop_assert_eq!(KeyValue::decode(&bytes), Some(kv));
            prop_assert_eq!(key_of(&bytes).unwrap(), key.clone());
            let mut arena = RecordArena::default();
            for _ in 0..3 {
                prop_assert_eq!(arena.encode(&kv), bytes.clone());
            }
        }

        #[test]
        fn any_bytes_end_in_a_pair_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            KeyValue::decode(&bytes);
            key_span(&bytes);
        }
    }
}
