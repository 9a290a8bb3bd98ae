//! Where things stand: [`Revision`] in key history, [`LogPosition`] in the Raft log.

use std::fmt;

/// A place in key history. `main` grows by one per changing command, `sub` counts the changes inside it.
///
/// The empty store stands at main revision 1, so the first write is revision 2 (etcd does the same).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Number of the changing command.
    pub main: u64,
    /// Number of the change inside that command, from 0.
    pub sub: u32,
}

impl Revision {
    /// Bytes of an encoded revision: main and sub, big-endian, so that byte order is history order.
    pub const ENCODED_BYTES: usize = 12;

    /// The revision of change `sub` of command `main`.
    pub const fn new(main: u64, sub: u32) -> Self {
        Self { main, sub }
    }

    /// The key of this revision's row in the `rev` table.
    pub fn to_bytes(self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// Reads what [`Revision::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; Self::ENCODED_BYTES]) -> Self {
        let (main, sub) = bytes.split_at(8);
        Self {
            main: u64::from_be_bytes(main.try_into().expect("split at 8")),
            sub: u32::from_be_bytes(sub.try_into().expect("12 - 8 = 4")),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

/// A place in the Raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Index of the entry; the first one is 0, as openraft counts.
    pub index: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-{}", self.term, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_history_order() {
        let ordered = [
            Revision::new(0, 1),
            Revision::new(1, 0),
            Revision::new(1, 256),
            Revision::new(256, 0),
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0].to_bytes() < pair[1].to_bytes());
            assert_eq!(Revision::from_bytes(pair[0].to_bytes()), pair[0]);
        }
    }
}
