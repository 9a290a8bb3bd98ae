//! The bytes of log entries.

use bytes::Bytes;
use kelson_storage::codec::{decode_batch, encode_batch};
use kelson_storage::command::Proposal;

/// Decodes, encodes what came out, and decodes again.
pub(super) fn round_trip(bytes: &[u8]) {
    let batch = Bytes::copy_from_slice(bytes);
    // Up to the first error; behind it nothing is known.
    let decoded: Vec<Proposal> = decode_batch(&batch).map_while(Result::ok).collect();
    let encoded = encode_batch(&decoded);
    let again: Result<Vec<Proposal>, _> = decode_batch(&encoded).collect();
    assert_eq!(again.as_ref(), Ok(&decoded), "encoded and decoded again");
    let twice = encode_batch(&decoded);
    assert_eq!(encoded, twice, "one batch has two encodings");
}
