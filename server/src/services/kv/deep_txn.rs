//! Transactions nested deeper than the protobuf decoder follows.
//!
//! Up to the depth that Go's decoder takes they are well-formed, only with too many operations; beyond it they are
//! malformed. Either way nothing here recurses, so no input can exhaust the stack.

use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::services::grpc::inbound::{MALFORMED, malformed};
use crate::status::ClientError;

/// Deepest nesting of messages that Go's protobuf decoder follows. Source: `protowire.DefaultRecursionLimit`.
const GO_RECURSION_LIMIT: usize = 10_000;

/// Deepest nesting of messages that prost follows. Source: prost `RECURSION_LIMIT`.
const PROST_RECURSION_LIMIT: usize = 100;

/// Fields of a `TxnRequest` that hold operations: `success` and `failure`.
const TXN_BRANCHES: [u32; 2] = [2, 3];
/// The field of a `RequestOp` that holds a nested transaction.
const OP_TXN: u32 = 4;

/// What the client is told about a transaction that did not decode.
pub fn explain_undecodable_txn(wire: &Bytes) -> ClientError {
    match nesting(wire) {
        Some(depth) if depth >= GO_RECURSION_LIMIT => malformed("proto: exceeded maximum recursion depth"),
        Some(depth) if depth >= PROST_RECURSION_LIMIT => ClientError::TooManyOps,
        _ => malformed(MALFORMED),
    }
}

/// How many messages deep the transaction in `wire` goes; none if it is malformed.
fn nesting(wire: &Bytes) -> Option<usize> {
    let mut deepest = 0;
    // What is left to read of each message that contains the one being read. Transactions and operations alternate.
    let mut open = vec![wire.clone()];
    while let Some(message) = open.last_mut() {
        if !message.has_remaining() {
            open.pop();
            continue;
        }
        let (field, wire_type) = decode_key(message).ok()?;
        let content = take_field(message, wire_type)?;
        let in_txn = open.len() % 2 == 1;
        let nests = if in_txn {
            TXN_BRANCHES.contains(&field)
        } else {
            field == OP_TXN
        };
        if let Some(content) = content.filter(|_| nests) {
            deepest = deepest.max(open.len());
            open.push(content);
        }
    }
    Some(deepest)
}

/// Takes one field off `message`; its content if it is length-delimited.
fn take_field(message: &mut Bytes, wire_type: WireType) -> Option<Option<Bytes>> {
    let skipped = match wire_type {
        WireType::Varint => {
            decode_varint(message).ok()?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(message).ok()?).ok()?;
            let fits = length <= message.len();
            return fits.then(|| Some(message.split_to(length)));
        }
        // etcd's messages have none.
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    (skipped <= message.len()).then(|| {
        message.advance(skipped);
        None
    })
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use kelson_proto::etcdserverpb::TxnRequest;
    use prost::Message;
    use prost::encoding::{encode_key, encode_varint};

    use super::*;
    use crate::status::Code;

    /// A transaction that holds `levels - 1` others, one in the other, encoded without recursion.
    fn nested(levels: usize) -> Bytes {
        let wrap = |field, inner: Vec<u8>| {
            let mut outer = Vec::with_capacity(inner.len() + 8);
            encode_key(field, WireType::LengthDelimited, &mut outer);
            encode_varint(inner.len() as u64, &mut outer);
            outer.put_slice(&inner);
            outer
        };
        let wire = (1..levels).fold(Vec::new(), |inner, _| wrap(2, wrap(OP_TXN, inner)));
        wire.into()
    }

    fn decode(wire: &Bytes) -> Result<TxnRequest, ClientError> {
        TxnRequest::decode(wire.clone()).map_err(|_| explain_undecodable_txn(wire))
    }

    #[test]
    fn depth_decides_between_answer_refusal_and_malformed() {
        assert!(decode(&nested(40)).is_ok());
        assert_eq!(decode(&nested(140)), Err(ClientError::TooManyOps));
        let error = decode(&nested(20_000)).expect_err("deeper than Go goes");
        assert_eq!(error.code(), Code::Internal);
    }

    #[test]
    fn every_depth_either_decodes_or_has_too_many_operations() {
        for levels in 45..60 {
            let decoded = decode(&nested(levels));
            assert!(
                matches!(decoded, Ok(_) | Err(ClientError::TooManyOps)),
                "{levels} levels: {decoded:?}"
            );
        }
    }

    #[test]
    fn garbage_is_malformed() {
        for wire in [&b"\xff"[..], b"\x12\x05ab", b"\x12\x02\x22\x7f", b"\x0b\x0b"] {
            let error = decode(&Bytes::copy_from_slice(wire)).expect_err("garbage");
            assert_eq!(error.code(), Code::Internal);
        }
    }
}
