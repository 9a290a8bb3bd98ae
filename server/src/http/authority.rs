//! Lets in clients that put a URL where HTTP/2 wants `host:port`.
//!
//! Go clients of etcd 3.4 that are given endpoints as URLs send `:authority: http://host:port` on the connections of
//! their maintenance calls (`etcdctl endpoint status --cluster`, `defrag`, `snapshot save`). Go servers do not look at
//! it; our HTTP/2 library resets the stream as malformed. Nobody here reads the authority, so the `://` is overwritten
//! with three letters that are legal there, in place, in the bytes just read.
//!
//! A header block keeps its length, and so does the decoded value: the sizes of frames and of the header table stay
//! what the client thinks they are. Most requests refer to the first one's entry in that table. It is evicted by and by
//! (every call's `grpc-timeout` is an entry), and then sent anew: a connection that had a URL is watched for life. All
//! others are left alone from their first authority on.

mod block;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::block::{Authority, Block};

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header, in bytes (RFC 9113, 4.1).
const FRAME_HEADER_BYTES: usize = 9;
/// Frame type of a header block's beginning (RFC 9113, 6.2).
const HEADERS: u8 = 1;
/// Frame type of its further pieces (RFC 9113, 6.10).
const CONTINUATION: u8 = 9;
/// Flag of a HEADERS frame that begins with a byte that counts the padding at its end.
const PADDED: u8 = 0x08;
/// Flag of a HEADERS frame with [`PRIORITY_BYTES`] ahead of the header block.
const PRIORITY: u8 = 0x20;
/// Length of what [`PRIORITY`] announces.
const PRIORITY_BYTES: usize = 5;

/// A connection whose requests are let in as described above.
#[derive(Debug)]
pub struct Lenient<S> {
    stream: S,
    /// None once there is nothing more to change.
    frames: Option<Frames>,
}

impl<S> Lenient<S> {
    /// Wraps a connection nothing has been read from.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Some(Frames::default()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(frames) = &mut self.frames
            && frames.pass(&mut buffer.filled_mut()[before..]).is_break()
        {
            self.frames = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// How far into its frames a connection is. A frame is passed from top to bottom of the fields, each of which counts
/// bytes still to pass; where all are zero, the next frame's header is due.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface that have passed.
    preface: usize,
    /// The next frame's header, as far as it has come.
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
    /// Whether the count of padding is the next byte.
    padded: bool,
    /// Bytes of no interest ahead of the header block; the whole payload of frames that have none.
    before: usize,
    /// Bytes of the header block in this frame.
    block: usize,
    /// Bytes of padding after it.
    padding: usize,
    /// How far into the header block, which may span frames.
    walk: Block,
    /// Whether an authority of this connection was a URL.
    url_seen: bool,
}

impl Frames {
    /// Lets the next bytes of the connection pass, changing what must be changed, until it turns out that nothing
    /// will have to be: this is no HTTP/2, its authority is legal, or it is malformed, which is not for us to tell.
    fn pass(&mut self, mut bytes: &mut [u8]) -> ControlFlow<()> {
        while !bytes.is_empty() {
            let step = self.step(bytes)?;
            bytes = &mut bytes[step..];
        }
        ControlFlow::Continue(())
    }

    /// Lets some of the `bytes` pass, of which there is one at least, and tells how many.
    fn step(&mut self, bytes: &mut [u8]) -> ControlFlow<(), usize> {
        let at_most = |left: usize| left.min(bytes.len());
        let step = if self.preface < PREFACE.len() {
            let step = at_most(PREFACE.len() - self.preface);
            if bytes[..step] != PREFACE[self.preface..self.preface + step] {
                return ControlFlow::Break(());
            }
            self.preface += step;
            step
        } else if self.padded {
            self.padded = false;
            self.padding = usize::from(bytes[0]);
            let Some(block) = self.block.checked_sub(self.padding) else {
                return ControlFlow::Break(());
            };
            self.block = block;
            1
        } else if self.before > 0 {
            let step = at_most(self.before);
            self.before -= step;
            step
        } else if self.block > 0 {
            let step = at_most(self.block);
            self.block -= step;
            self.pass_block(&mut bytes[..step])?;
            step
        } else if self.padding > 0 {
            let step = at_most(self.padding);
            self.padding -= step;
            step
        } else {
            let step = at_most(FRAME_HEADER_BYTES - self.header_bytes);
            self.header[self.header_bytes..][..step].copy_from_slice(&bytes[..step]);
            self.header_bytes += step;
            if self.header_bytes == FRAME_HEADER_BYTES {
                self.header_bytes = 0;
                self.begin_frame()?;
            }
            step
        };
        ControlFlow::Continue(step)
    }

    /// Learns from its header what the frame consists of.
    fn begin_frame(&mut self) -> ControlFlow<()> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        match kind {
            HEADERS => {
                self.walk = Block::default();
                self.padded = flags & PADDED != 0;
                self.before = if flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
                let Some(block) = payload.checked_sub(self.before + usize::from(self.padded)) else {
                    return ControlFlow::Break(());
                };
                self.block = block;
            }
            CONTINUATION => self.block = payload,
            _ => self.before = payload,
        }
        ControlFlow::Continue(())
    }

    fn pass_block(&mut self, bytes: &mut [u8]) -> ControlFlow<()> {
        self.walk.pass(bytes)?;
        match self.walk.authority() {
            Authority::ToCome => {}
            Authority::Url => self.url_seen = true,
            Authority::Legal if self.url_seen => {}
            Authority::Legal => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }
}
