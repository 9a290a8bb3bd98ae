//! What members ask the leader about leases, as bytes. Protobuf, so that a later version may add fields.

use bytes::Bytes;
use prost::Message;

use super::LeaseError;

/// A question to the leader.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Question {
    /// Which lease.
    #[prost(sint64, tag = "1")]
    pub(crate) id: i64,
    /// Only look (time to live); otherwise renew (keepalive).
    #[prost(bool, tag = "2")]
    pub(crate) look: bool,
    /// Whether the attached keys are wanted.
    #[prost(bool, tag = "3")]
    pub(crate) keys: bool,
}

/// The leader's answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reply {
    /// To a renewal: the granted TTL or 0. To a look: whole seconds left or -1.
    #[prost(sint64, tag = "1")]
    pub(crate) ttl: i64,
    /// To a look: the granted TTL or 0.
    #[prost(sint64, tag = "2")]
    pub(crate) granted_ttl: i64,
    /// To a look: attached keys, if wanted.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) keys: Vec<Bytes>,
    /// Not 0: there is no answer.
    #[prost(uint32, tag = "4")]
    pub(crate) refusal: u32,
}

/// Numbers of refusals on the wire.
const REFUSALS: [(u32, LeaseError); 5] = [
    (1, LeaseError::NotPrimary),
    (2, LeaseError::ApplyTimeout),
    (3, LeaseError::Timeout),
    (4, LeaseError::NoLeader),
    (5, LeaseError::Stopped),
];

impl Reply {
    /// The lease is alive; it has its whole TTL again.
    pub(crate) fn renewed(ttl: i64) -> Self {
        Self {
            ttl,
            ..Self::default()
        }
    }

    /// Encodes an answer or a refusal.
    pub(crate) fn encode_result(result: Result<Self, LeaseError>) -> Bytes {
        let reply = result.unwrap_or_else(|error| {
            let found = REFUSALS.iter().find(|(_, refusal)| *refusal == error);
            Self {
                refusal: found.map_or(1, |(number, _)| *number),
                ..Self::default()
            }
        });
        reply.encode_to_vec().into()
    }

    /// Reads what [`Reply::encode_result`] wrote. What cannot be read, and refusals of a later version, say nothing
    /// about the lease: as if the member asked were not the leader.
    pub(crate) fn decode_result(bytes: Bytes) -> Result<Self, LeaseError> {
        let reply = Self::decode(bytes).map_err(|_damaged| LeaseError::NotPrimary)?;
        if reply.refusal == 0 {
            return Ok(reply);
        }
        let found = REFUSALS.iter().find(|(number, _)| *number == reply.refusal);
        Err(found.map_or(LeaseError::NotPrimary, |(_, refusal)| *refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_survive_the_wire() {
        let reply = Reply {
            ttl: -1,
            granted_ttl: 9_000_000_000,
            keys: vec![Bytes::from_static(b"a"), Bytes::new()],
            refusal: 0,
        };
        for result in [
            Ok(reply),
            Ok(Reply::default()),
            Err(LeaseError::NotPrimary),
            Err(LeaseError::ApplyTimeout),
            Err(LeaseError::Timeout),
            Err(LeaseError::NoLeader),
            Err(LeaseError::Stopped),
        ] {
            assert_eq!(Reply::decode_result(Reply::encode_result(result.clone())), result);
        }
        assert_eq!(
            Reply::decode_result(Bytes::from_static(b"\xff\xff")),
            Err(LeaseError::NotPrimary)
        );
    }
}
