//! Splits a response that is too large for one message (API specification 6.8).

use std::collections::VecDeque;

use kelson_proto::etcdserverpb::WatchResponse;
use prost::Message;

/// Splits `response` into pieces smaller than `limit_bytes` each, except where a single event is larger. All pieces
/// but the last are marked as fragments. A response below the limit, or with fewer than two events, stays whole.
pub(crate) fn split(mut response: WatchResponse, limit_bytes: usize) -> VecDeque<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() < limit_bytes {
        return VecDeque::from([response]);
    }
    kelson_storage::reached!("watch_fragmented");
    let events = std::mem::take(&mut response.events);
    response.fragment = true;
    let empty_bytes = response.encoded_len();
    let mut pieces = VecDeque::new();
    let mut piece = response.clone();
    let mut piece_bytes = empty_bytes;
    for event in events {
        let event_bytes = embedded_len(event.len());
        if !piece.events.is_empty() && piece_bytes + event_bytes >= limit_bytes {
            pieces.push_back(std::mem::replace(&mut piece, response.clone()));
            piece_bytes = empty_bytes;
        }
        piece_bytes += event_bytes;
        piece.events.push(event);
    }
    piece.fragment = false;
    pieces.push_back(piece);
    pieces
}

/// Bytes of one event inside a response: tag, length, content.
pub(crate) fn embedded_len(bytes: usize) -> usize {
    const TAG_BYTES: usize = 1;
    TAG_BYTES + prost::length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kelson_proto::etcdserverpb::ResponseHeader;

    use super::*;

    fn response(sizes: &[usize]) -> WatchResponse {
        WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 2,
                revision: 300,
                raft_term: 4,
            }),
            watch_id: 7,
            events: sizes.iter().map(|size| Bytes::from(vec![0; *size])).collect(),
            ..WatchResponse::default()
        }
    }

    #[test]
    fn small_or_single_event_stays_whole() {
        assert_eq!(split(response(&[10, 10]), 1000).len(), 1);
        let single = split(response(&[5000]), 1000);
        assert_eq!(single, VecDeque::from([response(&[5000])]));
    }

    #[test]
    fn pieces_keep_header_and_order_and_only_the_last_is_unmarked() {
        let sizes = [400, 400, 400, 2000, 10, 10, 900, 90];
        let whole = response(&sizes);
        let pieces = split(whole.clone(), 1000);
        assert!(pieces.len() > 3);
        let (last, others) = pieces.as_slices().0.split_last().expect("several pieces");
        assert!(!last.fragment && others.iter().all(|piece| piece.fragment));
        for piece in &pieces {
            assert!(piece.encoded_len() < 1000 || piece.events.len() == 1);
            assert_eq!((&piece.header, piece.watch_id), (&whole.header, 7));
        }
        let joined: Vec<Bytes> = pieces.iter().flat_map(|piece| piece.events.clone()).collect();
        assert_eq!(joined, whole.events);
    }

    #[test]
    fn response_of_exactly_the_limit_is_split() {
        let whole = response(&[100, 100]);
        assert_eq!(split(whole.clone(), whole.encoded_len() + 1).len(), 1);
        assert_eq!(split(whole.clone(), whole.encoded_len()).len(), 2);
    }
}
