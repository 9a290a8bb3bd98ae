//! [`WatchedRange`]: the keys a watcher watches.

use bytes::Bytes;

/// A range of keys, as a watcher gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchedRange {
    /// One key.
    Key(Bytes),
    /// All keys from `start` (inclusive) to `end` (exclusive); no end: all keys from `start` on.
    Range {
        /// See above.
        start: Bytes,
        /// See above.
        end: Option<Bytes>,
    },
}

/// The range would hold no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EmptyRange;

impl WatchedRange {
    /// Reads a create request's `key` and `range_end` (API specification 3.1, 6.2): an empty key stands for one zero
    /// byte, a `range_end` of one zero byte for "from key on".
    pub(crate) fn from_request(key: Bytes, range_end: Bytes) -> Result<Self, EmptyRange> {
        const ZERO: &[u8] = &[0];
        let key = if key.is_empty() {
            Bytes::from_static(ZERO)
        } else {
            key
        };
        if range_end.is_empty() {
            return Ok(Self::Key(key));
        }
        if range_end == ZERO {
            return Ok(Self::Range {
                start: key,
                end: None,
            });
        }
        if range_end <= key {
            return Err(EmptyRange);
        }
        Ok(Self::Range {
            start: key,
            end: Some(range_end),
        })
    }
}
