//! [`ReplyBody`]: what goes back to the client, message frames and then the status.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body::{Body, Frame};
use prost::Message;

use super::PREFIX_BYTES;
use super::meter::CallMeter;
use crate::status::{ClientError, Code};

/// Replies of a stream that are ready at the same moment share frames of about this many bytes.
const STREAM_FRAME_BYTES: usize = 32 * 1024;

/// Replies above this many bytes are encoded off the runtime.
const ENCODE_INLINE_BYTES_MAX: usize = 1024 * 1024;

/// Largest reply. Source: etcd sets gRPC's send limit to `math.MaxInt32`.
const REPLY_BYTES_MAX: usize = i32::MAX as usize;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");

/// The body of a gRPC reply.
pub struct ReplyBody(State);

impl ReplyBody {
    /// No bytes and no status: for replies that are not gRPC's.
    pub fn empty() -> Self {
        Self(State::End)
    }

    /// Has `meter` count what goes out, and the end of the call.
    pub fn metered(self, meter: Option<CallMeter>) -> Self {
        let Some(meter) = meter else { return self };
        Self(match self.0 {
            State::Stream(source, _) => State::Stream(source, Some(Box::new(meter))),
            State::Single(message) => {
                meter.tally().sent(1, message.len());
                meter.end(None);
                State::Single(message)
            }
            State::Pieces(long) => {
                meter.tally().sent(1, long.bytes);
                State::Pieces(Box::new(Long {
                    meter: Some(meter),
                    ..*long
                }))
            }
            state => state,
        })
    }
}

enum State {
    /// One message, then the status.
    Single(Bytes),
    /// One message that is made while it is sent, then the status.
    Pieces(Box<Long>),
    /// Messages as they come, then the status.
    Stream(Box<dyn FrameSource>, Option<Box<CallMeter>>),
    /// The status alone.
    Trailers(HeaderMap),
    End,
}

/// See [`long_reply`].
struct Long {
    /// Of the message and its prefix.
    bytes: usize,
    pieces: BoxStream<'static, Result<Bytes, ClientError>>,
    meter: Option<CallMeter>,
}

/// A stream of messages, encoded on demand.
trait FrameSource: Send {
    /// Appends ready messages to `frame` and says how many. `Ready(None)`: the stream has ended well.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        frame: &mut BytesMut,
    ) -> Poll<Option<Result<usize, ClientError>>>;
}

/// The reply of a unary call: one encoded message from [`encode`].
pub fn reply(message: Bytes) -> http::Response<ReplyBody> {
    response(State::Single(message))
}

/// The reply of a unary call whose message of `length` bytes comes in pieces.
pub fn long_reply(
    length: usize,
    pieces: BoxStream<'static, Result<Bytes, ClientError>>,
) -> Result<http::Response<ReplyBody>, ClientError> {
    let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
    put_prefix(length, &mut prefix)?;
    let prefix = futures::stream::once(async { Ok(prefix.freeze()) });
    Ok(response(State::Pieces(Box::new(Long {
        bytes: PREFIX_BYTES + length,
        pieces: prefix.chain(pieces).boxed(),
        meter: None,
    }))))
}

/// The reply of a streaming call.
pub fn stream_reply<M>(messages: BoxStream<'static, Result<M, ClientError>>) -> http::Response<ReplyBody>
where
    M: Message + 'static,
{
    let source = Encoded {
        messages: Some(messages),
        failed: None,
    };
    response(State::Stream(Box::new(source), None))
}

/// A refusal: status in the headers, no body.
pub fn failure(error: &ClientError) -> http::Response<ReplyBody> {
    let mut response = response(State::End);
    write_status(error, response.headers_mut());
    response
}

fn response(state: State) -> http::Response<ReplyBody> {
    let mut response = http::Response::new(ReplyBody(state));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

/// Encodes one reply with its prefix.
pub async fn encode<M: Message + 'static>(message: M) -> Result<Bytes, ClientError> {
    let length = message.encoded_len();
    if length <= ENCODE_INLINE_BYTES_MAX {
        let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
        append(&message, length, &mut frame)?;
        return Ok(frame.freeze());
    }
    let encoding = tokio::task::spawn_blocking(move || {
        let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
        append(&message, length, &mut frame)?;
        Ok(frame.freeze())
    });
    encoding.await.unwrap_or(Err(ClientError::Stopped))
}

fn append<M: Message>(message: &M, length: usize, frame: &mut BytesMut) -> Result<(), ClientError> {
    frame.reserve(PREFIX_BYTES + length);
    put_prefix(length, frame)?;
    message.encode_raw(frame);
    Ok(())
}

/// What stands before a message of `length` bytes.
fn put_prefix(length: usize, frame: &mut BytesMut) -> Result<(), ClientError> {
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= REPLY_BYTES_MAX)
        .ok_or_else(|| {
            let text =
                format!("grpc: trying to send message larger than max ({length} vs. {REPLY_BYTES_MAX})");
            ClientError::other(Code::ResourceExhausted, text)
        })?;
    frame.put_u8(0);
    frame.put_u32(prefix);
    Ok(())
}

struct Encoded<M> {
    /// None once it has ended.
    messages: Option<BoxStream<'static, Result<M, ClientError>>>,
    /// How it ended, if badly, and the client has not been told.
    failed: Option<ClientError>,
}

impl<M: Message> Encoded<M> {
    fn end(&mut self, error: Option<ClientError>) {
        self.messages = None;
        self.failed = error;
    }
}

impl<M: Message> FrameSource for Encoded<M> {
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        frame: &mut BytesMut,
    ) -> Poll<Option<Result<usize, ClientError>>> {
        let mut count = 0;
        while frame.len() < STREAM_FRAME_BYTES {
            let Some(messages) = &mut self.messages else {
                break;
            };
            match messages.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => match append(&message, message.encoded_len(), frame) {
                    Ok(()) => count += 1,
                    Err(error) => self.end(Some(error)),
                },
                Poll::Ready(Some(Err(error))) => self.end(Some(error)),
                Poll::Ready(None) => self.end(None),
                Poll::Pending if frame.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !frame.is_empty() {
            return Poll::Ready(Some(Ok(count)));
        }
        Poll::Ready(self.failed.take().map(Err))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (frame, next) = match std::mem::replace(&mut self.0, State::End) {
            State::Single(message) => (Frame::data(message), State::Trailers(ok_trailers())),
            State::Trailers(trailers) => (Frame::trailers(trailers), State::End),
            State::End => return Poll::Ready(None),
            State::Pieces(mut long) => match long.pieces.as_mut().poll_next(cx) {
                Poll::Pending => {
                    self.0 = State::Pieces(long);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(piece))) => (Frame::data(piece), State::Pieces(long)),
                Poll::Ready(end) => {
                    let error = end.and_then(Result::err);
                    if let Some(meter) = long.meter {
                        meter.end(error.as_ref().map(ClientError::code));
                    }
                    let trailers = error.as_ref().map_or_else(ok_trailers, error_trailers);
                    (Frame::trailers(trailers), State::End)
                }
            },
            State::Stream(mut source, meter) => {
                let mut frame = BytesMut::new();
                match source.poll_fill(cx, &mut frame) {
                    Poll::Pending => {
                        self.0 = State::Stream(source, meter);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(count))) => {
                        if let Some(meter) = &meter {
                            meter.tally().sent(count, frame.len());
                        }
                        (Frame::data(frame.freeze()), State::Stream(source, meter))
                    }
                    Poll::Ready(None) => {
                        if let Some(meter) = meter {
                            meter.end(None);
                        }
                        (Frame::trailers(ok_trailers()), State::End)
                    }
                    Poll::Ready(Some(Err(error))) => {
                        if let Some(meter) = meter {
                            meter.end(Some(error.code()));
                        }
                        (Frame::trailers(error_trailers(&error)), State::End)
                    }
                }
            }
        };
        self.0 = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, State::End)
    }
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, STATUS_OK);
    trailers
}

fn error_trailers(error: &ClientError) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    write_status(error, &mut trailers);
    trailers
}

fn write_status(error: &ClientError, headers: &mut HeaderMap) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(error.code().number())));
    let encoded = percent_encoded(error.text());
    if let Ok(message) = HeaderValue::from_str(&encoded) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// gRPC's encoding of a status message: everything outside of printable ASCII, and `%`, as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use kelson_proto::etcdserverpb as pb;

    use super::*;

    async fn collect(response: http::Response<ReplyBody>) -> (Bytes, HeaderMap) {
        let collected = response.into_body().collect().await.expect("infallible");
        let trailers = collected.trailers().cloned().unwrap_or_default();
        (collected.to_bytes(), trailers)
    }

    #[tokio::test]
    async fn stream_sends_what_it_has_and_then_its_error() {
        let item = pb::LeaseStatus { id: 7 };
        let messages = futures::stream::iter([Ok(item), Ok(item), Err(ClientError::NoLeader)]);
        let (data, trailers) = collect(stream_reply(messages.boxed())).await;
        assert_eq!(&data[..], b"\0\0\0\0\x02\x08\x07\0\0\0\0\x02\x08\x07");
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "etcdserver: no leader");
    }

    #[tokio::test]
    async fn unary_reply_ends_with_status_zero() {
        let message = encode(pb::LeaseStatus { id: 7 }).await.expect("small");
        let (data, trailers) = collect(reply(message)).await;
        assert_eq!(&data[..], b"\0\0\0\0\x02\x08\x07");
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[test]
    fn status_text_is_percent_encoded_outside_of_printable_ascii() {
        assert_eq!(percent_encoded("a%b\n\u{e9} c"), "a%25b%0A%C3%A9 c");
    }
}
