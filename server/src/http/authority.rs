//! Lets in clients that put a URL where HTTP/2 wants `host:port`.
//!
//! Go clients of etcd 3.4 that are given endpoints as URLs send `:authority: http://host:port` on the connections of
//! their maintenance calls (`etcdctl endpoint status --cluster`, `defrag`, `snapshot save`). Go servers do not look at
//! it; our HTTP/2 library resets the stream as malformed. Nobody here reads the authority, so the `://` of a
//! connection's first header block is overwritten with three letters that are legal there.
//!
//! The block keeps its length, and so does the decoded value: the sizes of frames and of the header table stay what
//! the client thinks they are. Later requests of the connection refer to the first one's entry in that table.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header, in bytes (RFC 9113, 4.1).
const FRAME_HEADER_BYTES: usize = 9;
/// Frame type of a header block (RFC 9113, 6.2).
const HEADERS: u8 = 1;
/// Flags that put something before the header block: padding, priority.
const PADDED_OR_PRIORITY: u8 = 0x08 | 0x20;
/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: u8 = 1;

const URL: &[u8] = b"http://";
const LEGAL: &[u8] = b"httpB.-";
/// The first 40 of the 41 bits of `http://` in the code of RFC 7541, appendix B. The last bit is 0.
const URL_CODED: &[u8] = &[0x9d, 0x29, 0xae, 0xe3, 0x0c];
/// The same of `httpB.-`: B, `.` and `-` have codes as long as `:`, `/` and `/`, and the last bit is 0, too.
const LEGAL_CODED: &[u8] = &[0x9d, 0x29, 0xae, 0xea, 0xeb];

/// A connection whose first header block is let in as described above.
#[derive(Debug)]
pub struct Lenient<S> {
    stream: S,
    opening: Option<Opening>,
}

impl<S> Lenient<S> {
    /// Wraps a connection nothing has been read from.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            opening: Some(Opening::default()),
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
        if let Some(opening) = &mut self.opening
            && opening.pass(&mut buffer.filled_mut()[before..]) == Progress::Over
        {
            self.opening = None;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The first header block is still to come.
    Opening,
    /// It has passed, or this is no HTTP/2.
    Over,
}

/// How far into its opening a connection is.
#[derive(Debug, Default)]
struct Opening {
    /// Bytes of the preface that have passed.
    preface: usize,
    /// Bytes of the current frame's payload still to pass.
    payload: usize,
    /// The next frame's header, as far as it has come.
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
}

impl Opening {
    /// Lets the next bytes of the connection pass, changing what must be changed. A header block that arrives in
    /// several pieces passes as it is: it is one small write of the client.
    fn pass(&mut self, mut bytes: &mut [u8]) -> Progress {
        while !bytes.is_empty() {
            let step = if self.preface < PREFACE.len() {
                let step = bytes.len().min(PREFACE.len() - self.preface);
                if bytes[..step] != PREFACE[self.preface..self.preface + step] {
                    return Progress::Over;
                }
                self.preface += step;
                step
            } else if self.payload > 0 {
                let step = bytes.len().min(self.payload);
                self.payload -= step;
                step
            } else {
                let step = bytes.len().min(FRAME_HEADER_BYTES - self.header_bytes);
                self.header[self.header_bytes..self.header_bytes + step].copy_from_slice(&bytes[..step]);
                self.header_bytes += step;
                step
            };
            bytes = &mut bytes[step..];
            if self.header_bytes == FRAME_HEADER_BYTES {
                let [high, middle, low, kind, flags, ..] = self.header;
                self.header_bytes = 0;
                self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
                if kind == HEADERS {
                    if flags & PADDED_OR_PRIORITY == 0
                        && let Some(block) = bytes.get_mut(..self.payload)
                    {
                        make_authority_legal(block);
                    }
                    return Progress::Over;
                }
            }
        }
        Progress::Opening
    }
}

/// Overwrites the URL scheme of `:authority` in a header block, if it has one. Gives up on anything but short
/// strings, which etcd's clients use for what comes before the authority.
fn make_authority_legal(block: &mut [u8]) {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        at += 1;
        // The representations of RFC 7541, section 6, by their first bits.
        let (index, index_max) = match first {
            0x80.. => continue,
            0x40.. => (first & 0x3f, 0x3f),
            0x20.. => continue,
            _ => (first & 0x0f, 0x0f),
        };
        if index == index_max {
            return;
        }
        if index == 0 {
            let Some((_, name)) = string(block, at) else {
                return;
            };
            at = name.end;
        }
        let Some((coded, value)) = string(block, at) else {
            return;
        };
        at = value.end;
        if index == AUTHORITY {
            let (url, legal) = if coded {
                (URL_CODED, LEGAL_CODED)
            } else {
                (URL, LEGAL)
            };
            if block[value.clone()].starts_with(url) {
                block[value.start..value.start + legal.len()].copy_from_slice(legal);
            }
            return;
        }
    }
}

/// The string at `at`: whether it is coded, and where it is. None if it is long or cut off.
fn string(block: &[u8], at: usize) -> Option<(bool, std::ops::Range<usize>)> {
    const CODED: u8 = 0x80;
    const LENGTH_GOES_ON: u8 = 0x7f;
    let first = *block.get(at)?;
    let length = first & !CODED;
    let start = at + 1;
    let end = start + usize::from(length);
    (length != LENGTH_GOES_ON && end <= block.len()).then_some((first & CODED != 0, start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `:method POST`, `:scheme http`, a path, then `:authority` with `value`, then a field more.
    fn block(coded: bool, value: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x44, 2, b'/', b'p', 0x41];
        block.push(u8::try_from(value.len()).expect("short") | if coded { 0x80 } else { 0 });
        block.extend(value);
        block.extend([0x40, 1, b'n', 1, b'v']);
        block
    }

    fn connection(block: &[u8]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        // Settings with one entry.
        bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]);
        bytes.extend([
            0,
            0,
            u8::try_from(block.len()).expect("short"),
            HEADERS,
            4,
            0,
            0,
            0,
            1,
        ]);
        bytes.extend(block);
        // A second block that looks like the first.
        bytes.extend([
            0,
            0,
            u8::try_from(block.len()).expect("short"),
            HEADERS,
            4,
            0,
            0,
            0,
            3,
        ]);
        bytes.extend(block);
        bytes
    }

    fn passed(mut bytes: Vec<u8>, chunk_bytes: usize) -> Vec<u8> {
        let mut opening = Opening::default();
        for chunk in bytes.chunks_mut(chunk_bytes) {
            if opening.pass(chunk) == Progress::Over {
                break;
            }
        }
        bytes
    }

    #[test]
    fn a_url_becomes_legal_in_the_first_block_only() {
        for (coded, url, legal) in [
            (
                false,
                &b"http://127.0.0.1:2379"[..],
                &b"httpB.-127.0.0.1:2379"[..],
            ),
            // `http://127.0.0.1:25310`, as a client sent it.
            (
                true,
                &[
                    0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x09, 0xb6, 0x42,
                    0x0f,
                ],
                &[
                    0x9d, 0x29, 0xae, 0xea, 0xeb, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x09, 0xb6, 0x42,
                    0x0f,
                ],
            ),
        ] {
            let (before, after) = (block(coded, url), block(coded, legal));
            let sent = connection(&before);
            let mut expected = sent.clone();
            let first = sent.len() - 2 * before.len() - FRAME_HEADER_BYTES;
            expected[first..first + before.len()].copy_from_slice(&after);
            assert_eq!(passed(sent, usize::MAX), expected);
        }
    }

    #[test]
    fn what_is_legal_passes_unchanged() {
        // `http:3000` is a host and a port.
        for authority in ["127.0.0.1:2379", "http:3000", "httpd", ""] {
            let sent = connection(&block(false, authority.as_bytes()));
            assert_eq!(passed(sent.clone(), usize::MAX), sent);
        }
    }

    #[test]
    fn other_protocols_pass_unchanged() {
        for sent in [
            &b"POST http://h/ HTTP/1.1\r\n\r\n"[..],
            b"PRI * HTTP/1.1\r\nhttp://",
            b"\x16\x03\x01",
            b"",
        ] {
            assert_eq!(passed(sent.to_vec(), usize::MAX), sent);
        }
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let url = block(false, b"http://h:1");
        let sent = connection(&url);
        let whole = passed(sent.clone(), usize::MAX);
        assert_ne!(whole, sent);
        for chunk_bytes in 1..sent.len() {
            let received = passed(sent.clone(), chunk_bytes);
            // A block in pieces passes as it is; nothing else may happen to it.
            assert!(
                received == whole || received == sent,
                "in chunks of {chunk_bytes}"
            );
        }
        // The preface and the settings first, then the request: what clients do.
        let mut opening = Opening::default();
        let mut received = sent;
        let (first, rest) = received.split_at_mut(PREFACE.len() + 15 + 4);
        assert_eq!(opening.pass(first), Progress::Opening);
        assert_eq!(opening.pass(rest), Progress::Over);
        assert_eq!(received, whole);
    }

    #[test]
    fn no_block_is_too_odd() {
        let block = block(false, b"http://h:1");
        for length in 0..block.len() {
            make_authority_legal(&mut block[..length].to_vec());
        }
        for byte in 0..=u8::MAX {
            make_authority_legal(&mut [byte; 40]);
        }
    }
}
