//! `lease`: for how long each lease was granted.
//!
//! ```text
//! Key:   lease id, i64
//! Value: crc32 u32 | granted TTL in seconds i64, big-endian
//! ```
//!
//! The crc covers the id (big-endian) and the TTL.

use super::fields::{Fields, PutFields};

/// Bytes of an encoded lease.
pub(super) const VALUE_BYTES: usize = 12;

/// One lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseRow {
    /// The lease's id; any value but 0.
    pub id: i64,
    /// Granted TTL, in seconds.
    pub ttl: i64,
}

/// The value of a lease.
pub(super) fn encode(lease: LeaseRow) -> [u8; VALUE_BYTES] {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    value.put_u32(crc(lease));
    value.put_i64(lease.ttl);
    value.try_into().expect("4 + 8 = 12")
}

/// Reads what [`encode`] wrote for lease `id`; `None` if it is not that.
pub(super) fn decode(id: i64, value: &[u8]) -> Option<LeaseRow> {
    let mut fields = Fields(value);
    let stored = fields.u32()?;
    let ttl = fields.i64()?;
    fields.end()?;
    let lease = LeaseRow { id, ttl };
    (crc(lease) == stored).then_some(lease)
}

fn crc(lease: LeaseRow) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&lease.id.to_be_bytes());
    hasher.update(&lease.ttl.to_be_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back_as_written_and_flips_are_refused() {
        let lease = LeaseRow { id: -5, ttl: 60 };
        let value = encode(lease);
        assert_eq!(decode(-5, &value), Some(lease));
        assert_eq!(decode(5, &value), None);
        for bit in 0..VALUE_BYTES * 8 {
            let mut flipped = value;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(-5, &flipped), None, "bit {bit}");
        }
    }
}
