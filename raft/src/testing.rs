//! Doors for fuzzers: what a peer's bytes go through, without a peer.

use std::io;

use bytes::{Bytes, BytesMut};
use kelson_proto::peer;

use crate::codec::{decode_membership, log_id_of, vote_of};
use crate::network::client::append_result;
use crate::network::frame::{Frame, Kind, take_frame};
use crate::network::incoming::{append_request, proposals, vote_request};

/// The member that the bytes are for.
const OWN: u64 = 1;

/// Reads a byte stream as a connection's: frames, and the message in each.
pub fn read_frames(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = take_frame(&mut buffer) {
        // An error would end the connection, and is as good as a message.
        let _ = read(frame);
    }
}

/// Reads the body of a frame that has passed its checksum. An unknown kind is nothing.
pub fn read_message(kind: u8, body: &[u8]) {
    if let Some(kind) = Kind::of(kind) {
        let body = Bytes::copy_from_slice(body);
        // As above.
        let _ = read(Frame { kind, body });
    }
}

/// As whoever gets a frame of this kind does.
fn read(frame: Frame) -> io::Result<()> {
    match frame.kind {
        Kind::Hello => {
            frame.message::<peer::Hello>()?;
        }
        Kind::Append => {
            append_request(frame, OWN)?;
        }
        Kind::AppendReply => {
            let _: Result<_, _> = append_result(frame.message()?)?;
        }
        Kind::Vote | Kind::PreVote => {
            vote_request(frame, OWN)?;
        }
        Kind::VoteReply => {
            let reply: peer::VoteReply = frame.message()?;
            vote_of(reply.vote.as_ref())?;
        }
        Kind::Transfer => {
            let request: peer::TransferRequest = frame.message()?;
            vote_of(request.from.as_ref())?;
        }
        Kind::TransferReply => {
            let reply: peer::TransferReply = frame.message()?;
            vote_of(reply.expected_vote.as_ref())?;
        }
        Kind::SnapshotBegin => {
            let begin: peer::SnapshotBegin = frame.message()?;
            vote_of(begin.vote.as_ref())?;
            let _ = begin.last.as_ref().map(log_id_of);
            decode_membership(begin.membership)?;
        }
        // The image has a target of its own.
        Kind::SnapshotData | Kind::SnapshotEnd | Kind::SnapshotProgress => {}
        Kind::SnapshotReply => {
            frame.message::<peer::SnapshotReply>()?;
        }
        Kind::Forward => {
            proposals(frame)?;
        }
        Kind::ReadIndex => {
            frame.message::<peer::ReadIndexRequest>()?;
        }
        Kind::ReadIndexReply => {
            frame.message::<peer::ReadIndexReply>()?;
        }
        Kind::LeaderRequest => {
            frame.message::<peer::LeaderRequest>()?;
        }
        Kind::LeaderReply => {
            frame.message::<peer::LeaderReply>()?;
        }
        Kind::StateHash => {
            frame.message::<peer::StateHashRequest>()?;
        }
        Kind::StateHashReply => {
            frame.message::<peer::StateHashReply>()?;
        }
    }
    Ok(())
}
