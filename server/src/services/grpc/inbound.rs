//! [`Messages`]: the gRPC messages of one request body.
//!
//! A message that fits one HTTP/2 frame is a slice of it. A longer one is copied once. No more than the limit is
//! ever held, whatever the length prefix claims.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use http::HeaderMap;
use hyper::body::Body;
use prost::Message;

use super::PREFIX_BYTES;
use super::meter::Tally;
use crate::status::{ClientError, Code};

/// Cuts a request body into messages, still encoded.
pub struct Messages<B> {
    body: B,
    /// What is left of the newest frame.
    chunk: Bytes,
    /// The start of a message that did not fit its frame; empty, or `chunk` is being added to it.
    partial: BytesMut,
    /// Largest message, in bytes.
    limit: usize,
    /// Counts what comes in.
    tally: Option<Tally>,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    /// The messages of `body`, none larger than `limit` bytes.
    pub fn new(body: B, limit: usize, tally: Option<Tally>) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            limit,
            tally,
        }
    }

    /// The next message; none at the end of the request.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The one message of a unary call.
    pub async fn single<M: Message + Default>(&mut self) -> Result<M, ClientError> {
        let wire = self.single_encoded().await?;
        M::decode(wire).map_err(|_| malformed(MALFORMED))
    }

    /// The one message of a unary call, still encoded.
    pub async fn single_encoded(&mut self) -> Result<Bytes, ClientError> {
        // grpc-go's words for a call without a message.
        let none = || Err(ClientError::other(Code::Unknown, "EOF"));
        let message = self.next().await.unwrap_or_else(none)?;
        self.finish().await;
        Ok(message)
    }

    /// Waits for the end of the request side. A reply before it makes our HTTP/2 library reset the stream, and after
    /// some hundreds of resets give up the connection; clients that end their side in a frame of its own met that.
    async fn finish(&mut self) {
        while !self.body.is_end_stream() {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            // Whatever else the client sends in a unary call is nobody's.
            if !matches!(frame, Some(Ok(_))) {
                return;
            }
        }
    }

    /// The requests of a stream, decoded. Ends with the request side; a bad message is its last item.
    pub fn decoded<M: Message + Default>(self) -> Decoded<B, M> {
        Decoded {
            messages: self,
            ended: false,
            message: std::marker::PhantomData,
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientError>>> {
        loop {
            match self.cut() {
                Ok(Some(message)) => {
                    if let Some(tally) = &self.tally {
                        tally.received(message.len());
                    }
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.chunk = data;
                    }
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(ClientError::ContextCanceled))),
                None if self.partial.is_empty() => return Poll::Ready(None),
                None => {
                    let text = "grpc: the request ends within a message";
                    return Poll::Ready(Some(Err(ClientError::other(Code::Internal, text))));
                }
            }
        }
    }

    /// Takes a whole message out of what has arrived; without one, `chunk` is empty afterwards.
    fn cut(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.partial.is_empty() {
            let length = message_length(&self.chunk, self.limit)?;
            if let Some(length) = length
                && self.chunk.len() >= PREFIX_BYTES + length
            {
                self.chunk.advance(PREFIX_BYTES);
                return Ok(Some(self.chunk.split_to(length)));
            }
        }
        loop {
            let length = message_length(&self.partial, self.limit)?;
            let wanted = PREFIX_BYTES + length.unwrap_or(0);
            let missing = wanted.saturating_sub(self.partial.len());
            if missing == 0 && length.is_some() {
                let mut message = std::mem::take(&mut self.partial).freeze();
                message.advance(PREFIX_BYTES);
                return Ok(Some(message));
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
            self.partial.reserve(missing);
            let taken = self.chunk.split_to(missing.min(self.chunk.len()));
            self.partial.extend_from_slice(&taken);
        }
    }
}

/// The length that the prefix at the start of `bytes` announces; none while the prefix is incomplete.
fn message_length(bytes: &[u8], limit: usize) -> Result<Option<usize>, ClientError> {
    let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        let text = "grpc: compressed flag set with identity or empty encoding";
        return Err(ClientError::other(Code::Internal, text));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        let text = format!("grpc: received message larger than max ({length} vs. {limit})");
        return Err(ClientError::other(Code::ResourceExhausted, text));
    }
    Ok(Some(length))
}

/// Go's words for bytes that are no such message.
pub const MALFORMED: &str = "proto: cannot parse invalid wire-format data";

/// The refusal of a unary request that does not decode, for Go's reason `why`. prost's own text is no use to a client:
/// it lists every message on the way to the bad byte.
pub fn malformed(why: &str) -> ClientError {
    ClientError::other(
        Code::Internal,
        format!("grpc: error unmarshalling request: {why}"),
    )
}

fn decode_streamed<M: Message + Default>(message: Bytes) -> Result<M, ClientError> {
    M::decode(message).map_err(|_| {
        let text = format!("grpc: failed to unmarshal the received message: {MALFORMED}");
        ClientError::other(Code::Internal, text)
    })
}

/// Refuses a request that is compressed.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), ClientError> {
    match headers.get("grpc-encoding") {
        Some(encoding) if encoding != "identity" => Err(ClientError::other(
            Code::Unimplemented,
            format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}"),
        )),
        _ => Ok(()),
    }
}

/// The decoded requests of a client stream.
pub struct Decoded<B, M> {
    messages: Messages<B>,
    ended: bool,
    message: std::marker::PhantomData<fn() -> M>,
}

impl<B: Body<Data = Bytes> + Unpin, M: Message + Default> Stream for Decoded<B, M> {
    type Item = Result<M, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.messages.poll_message(cx)).map(|message| message.and_then(decode_streamed));
        self.ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use hyper::body::Frame;

    use super::*;

    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    async fn messages_of(wire: &[u8], frame_bytes: usize, limit: usize) -> Vec<Result<Bytes, ClientError>> {
        let frames = wire.chunks(frame_bytes).map(Bytes::copy_from_slice).collect();
        let mut messages = Messages::new(Frames(frames), limit, None);
        let mut read = Vec::new();
        while let Some(message) = messages.next().await {
            let failed = message.is_err();
            read.push(message);
            if failed {
                break;
            }
        }
        read
    }

    #[tokio::test]
    async fn messages_survive_every_split_into_frames() {
        let wire = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d";
        for frame_bytes in 1..=wire.len() {
            let read: Vec<_> = messages_of(wire, frame_bytes, 3)
                .await
                .into_iter()
                .map(|message| message.expect("whole message"))
                .collect();
            assert_eq!(read, ["abc", "", "d"], "frames of {frame_bytes} bytes");
        }
    }

    #[tokio::test]
    async fn message_above_the_limit_is_refused_before_it_has_arrived() {
        let read = messages_of(b"\0\0\0\0\x04a", 6, 3).await;
        let error = read[0].as_ref().expect_err("too large");
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.text(), "grpc: received message larger than max (4 vs. 3)");
    }

    #[tokio::test]
    async fn cut_off_message_and_compressed_message_are_errors() {
        for wire in [&b"\0\0\0\0\x04ab"[..], b"\0\0", b"\x01\0\0\0\x01a"] {
            assert_eq!(
                messages_of(wire, 9, 9).await[0].as_ref().expect_err("bad").code(),
                Code::Internal
            );
        }
    }
}
