//! Frames: `length u32 | crc32 u32 | kind u8 | message`, little-endian; length and crc cover kind and message.
//!
//! TCP's own checksum is weak and these bytes become state, so each frame is checked again. A frame that does not
//! check, or is longer than any member sends, ends the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::transport::{Reader, Writer};
use crate::codec::invalid;
use crate::meters::PeerMeters;

/// Version of this protocol; both ends must speak the same.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Largest frame that is accepted, in bytes. Larger than the largest request a member can be configured for, plus
/// what shares a frame with it.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

const HEADER_BYTES: usize = 8;
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// Room that a read wants. Only below it is a new buffer begun: entries keep slices of the old one alive.
const READ_ROOM_BYTES_MIN: usize = 8 * 1024;
/// Capacity above which a writer's buffer is given back after a large frame.
const KEEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Log replication and votes.
    Append = 1,
    /// Heartbeats.
    Heartbeat = 2,
    /// Snapshot transfer.
    Snapshot = 3,
    /// Commands, read barriers and questions to the leader.
    Forward = 4,
    /// Comparison of state hashes.
    Agreement = 5,
}

impl Purpose {
    pub(crate) fn of(number: u32) -> Option<Self> {
        [
            Self::Append,
            Self::Heartbeat,
            Self::Snapshot,
            Self::Forward,
            Self::Agreement,
        ]
        .into_iter()
        .find(|purpose| *purpose as u32 == number)
    }
}

/// What a frame holds. The messages are those of `proto/peer/raft.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello = 1,
    Append = 2,
    AppendReply = 3,
    Vote = 4,
    PreVote = 5,
    VoteReply = 6,
    Transfer = 7,
    TransferReply = 8,
    SnapshotBegin = 9,
    /// One frame of the image, as it is.
    SnapshotData = 10,
    SnapshotEnd = 11,
    SnapshotReply = 12,
    Forward = 13,
    ReadIndex = 14,
    ReadIndexReply = 15,
    LeaderRequest = 16,
    LeaderReply = 17,
    StateHash = 18,
    StateHashReply = 19,
    /// From who receives a snapshot: it is still at it.
    SnapshotProgress = 20,
}

impl Kind {
    pub(crate) fn of(number: u8) -> Option<Self> {
        use Kind::*;
        [
            Hello,
            Append,
            AppendReply,
            Vote,
            PreVote,
            VoteReply,
            Transfer,
            TransferReply,
            SnapshotBegin,
            SnapshotData,
            SnapshotEnd,
            SnapshotReply,
            Forward,
            ReadIndex,
            ReadIndexReply,
            LeaderRequest,
            LeaderReply,
            StateHash,
            StateHashReply,
            SnapshotProgress,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// One received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
}

impl Frame {
    /// Decodes the message; payloads inside share the frame's bytes.
    pub(crate) fn message<M: Message + Default>(self) -> io::Result<M> {
        let kind = self.kind;
        M::decode(self.body).map_err(|error| invalid(format!("{kind:?} frame does not decode: {error}")))
    }

    /// Decodes the message of a frame that must be of `kind`.
    pub(crate) fn expect<M: Message + Default>(self, kind: Kind) -> io::Result<M> {
        if self.kind != kind {
            return Err(invalid(format!("expected a {kind:?} frame, got {:?}", self.kind)));
        }
        self.message()
    }
}

/// Reads frames. `next` may be dropped and called again: nothing is lost.
pub(crate) struct FrameReader {
    reader: Reader,
    buffer: BytesMut,
    /// Whom it reads from, once that is known.
    peer: Option<Arc<PeerMeters>>,
}

impl FrameReader {
    pub(crate) fn new(reader: Reader) -> Self {
        Self {
            reader,
            buffer: BytesMut::with_capacity(READ_AHEAD_BYTES),
            peer: None,
        }
    }

    /// What comes from now on comes from `peer`.
    pub(crate) fn count_for(&mut self, peer: Arc<PeerMeters>) {
        self.peer = Some(peer);
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        let next = self.read_frame().await;
        if let (Err(error), Some(peer)) = (&next, &self.peer) {
            // Between two messages nothing is lost, however the connection ends.
            let is_lost = error.kind() == io::ErrorKind::InvalidData || !self.buffer.is_empty();
            peer.receive_failures.add(u64::from(is_lost));
        }
        next
    }

    async fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_ROOM_BYTES_MIN {
                self.buffer.reserve(READ_AHEAD_BYTES);
            }
            let read = self.reader.read_buf(&mut self.buffer).await?;
            if let Some(peer) = &self.peer {
                peer.received_bytes.add(read as u64);
            }
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The next frame; the end of the connection is an error.
    pub(crate) async fn require(&mut self) -> io::Result<Frame> {
        self.next()
            .await?
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// As [`Self::require`]; an error if nothing comes for so long.
    pub(crate) async fn require_within(&mut self, bound: Duration) -> io::Result<Frame> {
        tokio::time::timeout(bound, self.require())
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent")))
    }
}

pub(crate) fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(invalid(format!("frame of {length} bytes")));
    }
    if buffer.len() < HEADER_BYTES + length {
        buffer.reserve(HEADER_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let mut body = buffer.split_to(length).freeze();
    if crc32fast::hash(&body) != crc {
        return Err(invalid("frame with a wrong checksum".to_owned()));
    }
    let kind = Kind::of(body[0]).ok_or_else(|| invalid(format!("frame of unknown kind {}", body[0])))?;
    body.advance(1);
    Ok(Some(Frame { kind, body }))
}

/// Collects frames and writes them with as few system calls as possible.
pub(crate) struct FrameWriter {
    writer: Writer,
    buffer: BytesMut,
    /// Whom it writes to, once that is known.
    peer: Option<Arc<PeerMeters>>,
}

impl FrameWriter {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            writer,
            buffer: BytesMut::new(),
            peer: None,
        }
    }

    /// What is written from now on goes to `peer`.
    pub(crate) fn count_for(&mut self, peer: Arc<PeerMeters>) {
        self.peer = Some(peer);
    }

    /// Adds a message.
    pub(crate) fn put(&mut self, kind: Kind, message: &impl Message) {
        self.frame(kind, message.encoded_len(), |buffer| {
            message.encode(buffer).expect("BytesMut grows as needed");
        });
    }

    /// Adds bytes as they are.
    pub(crate) fn put_bytes(&mut self, kind: Kind, bytes: &[u8]) {
        self.frame(kind, bytes.len(), |buffer| buffer.put_slice(bytes));
    }

    fn frame(&mut self, kind: Kind, length: usize, body: impl FnOnce(&mut BytesMut)) {
        self.buffer.reserve(HEADER_BYTES + 1 + length);
        let start = self.buffer.len();
        self.buffer.put_bytes(0, HEADER_BYTES);
        self.buffer.put_u8(kind as u8);
        body(&mut self.buffer);
        let frame = &mut self.buffer[start..];
        let (header, content) = frame.split_at_mut(HEADER_BYTES);
        let length =
            u32::try_from(content.len()).expect("FRAME_BYTES_MAX fits u32 and senders stay below it");
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
    }

    /// Bytes waiting to be written.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// As [`Self::flush`]; an error if the other side does not take it in for so long.
    pub(crate) async fn flush_within(&mut self, bound: Duration) -> io::Result<()> {
        tokio::time::timeout(bound, self.flush())
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer takes nothing in",
                ))
            })
    }

    /// Writes what was added.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.buffer).await?;
        if let Some(peer) = &self.peer {
            peer.sent_bytes.add(self.buffer.len() as u64);
        }
        self.buffer.clear();
        if self.buffer.capacity() > KEEP_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.writer.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (FrameWriter, FrameReader) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (_, writer) = tokio::io::split(near);
        let (reader, _) = tokio::io::split(far);
        (
            FrameWriter::new(Box::new(writer)),
            FrameReader::new(Box::new(reader)),
        )
    }

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent() {
        let (mut writer, mut reader) = pair();
        writer.put_bytes(Kind::SnapshotData, b"");
        writer.put_bytes(Kind::SnapshotData, &[7; 100_000]);
        writer.flush().await.unwrap();
        let first = reader.require().await.unwrap();
        assert_eq!((first.kind, first.body.len()), (Kind::SnapshotData, 0));
        assert_eq!(reader.require().await.unwrap().body, vec![7; 100_000]);
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_or_is_damaged_is_a_failure_and_a_plain_end_is_none() {
        let mut whole = BytesMut::new();
        {
            let (mut writer, _reader) = pair();
            writer.put_bytes(Kind::SnapshotData, b"content");
            std::mem::swap(&mut whole, &mut writer.buffer);
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let failures = async |bytes: &[u8]| {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            far.write_all(bytes).await.unwrap();
            drop(far);
            let mut reader = FrameReader::new(Box::new(near));
            let peer = Arc::new(PeerMeters::default());
            reader.count_for(peer.clone());
            while let Ok(Some(_)) = reader.next().await {}
            peer.receive_failures.get()
        };
        assert_eq!(failures(&whole).await, 0);
        assert_eq!(failures(&damaged).await, 1);
        for cut in 1..whole.len() {
            assert_eq!(failures(&whole[..cut]).await, 1, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn every_flipped_bit_is_noticed() {
        let (mut writer, _reader) = pair();
        writer.put_bytes(Kind::SnapshotData, b"payload");
        let good = writer.buffer.clone();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match take_frame(&mut bytes) {
                // A longer length waits for bytes that never come; the connection's timeout ends that.
                Err(_) | Ok(None) => {}
                Ok(Some(frame)) => panic!("bit {bit} went unnoticed: {frame:?}"),
            }
        }
    }

    #[tokio::test]
    async fn absurd_lengths_are_refused_before_anything_is_allocated() {
        let mut bytes = BytesMut::from(&[0xff_u8; 16][..]);
        assert!(take_frame(&mut bytes).is_err());
    }
}
