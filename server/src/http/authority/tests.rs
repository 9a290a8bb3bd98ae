use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
/// URLs, and what becomes of them.
const URLS: [(&str, &str); 5] = [
    ("http://127.0.0.1:2379", "httpB34127.0.0.1:2379"),
    ("https://127.0.0.1:2379", "httpsB34127.0.0.1:2379"),
    ("http://[::1]:2379", "httpB34[::1]:2379"),
    ("http://etcd-0.etcd:2379", "httpB34etcd-0.etcd:2379"),
    ("https://h", "httpsB34h"),
];
const LEGAL: [&str; 8] = [
    "127.0.0.1:2379",
    "[::1]:2379",
    "etcd-0.etcd:2379",
    "httpd",
    "httpd:2379",
    "https",
    "h",
    "ht",
];

/// Codes of RFC 7541, appendix B, and their lengths in bits.
fn code(letter: u8) -> (u32, u32) {
    match letter {
        b'-' => (0x16, 6),
        b'.' => (0x17, 6),
        b'/' => (0x18, 6),
        b'0'..=b'2' => (u32::from(letter - b'0'), 5),
        b'3'..=b'9' => (0x19 + u32::from(letter - b'3'), 6),
        b':' => (0x5c, 7),
        b'[' => (0x1ffb, 13),
        b']' => (0x1ffc, 13),
        b'c' => (0x04, 5),
        b'd' => (0x24, 6),
        b'e' => (0x05, 5),
        b'h' => (0x27, 6),
        b'p' => (0x2b, 6),
        b's' => (0x08, 5),
        b't' => (0x09, 5),
        other => panic!("no code for {}", char::from(other)),
    }
}

fn coded(text: &str) -> Vec<u8> {
    let mut bits: Vec<u8> = Vec::new();
    for letter in text.bytes() {
        let (code, length) = code(letter);
        bits.extend((0..length).rev().map(|bit| (code >> bit & 1) as u8));
    }
    let padded = bits.len().next_multiple_of(8);
    bits.resize(padded, 1);
    bits.chunks(8)
        .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit))
        .collect()
}

fn string(text: &str, is_coded: bool) -> Vec<u8> {
    let (flag, value) = if is_coded {
        (0x80, coded(text))
    } else {
        (0, text.into())
    };
    let length = u8::try_from(value.len()).expect("shorter than 127 bytes");
    [vec![flag | length], value].concat()
}

/// The header block of `POST /p` whose authority is a literal of the `representation`.
fn block(representation: u8, authority: &str, is_coded: bool) -> Vec<u8> {
    // A path of 200 bytes, whose length takes a further byte.
    let mut block = vec![0x83, 0x86, 0x04, 0x7f, 73, b'/'];
    block.extend([b'p'; 199]);
    block.push(representation);
    block.extend(string(authority, is_coded));
    block.extend(b"\x40\x03age\x012");
    block
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

fn request(stream: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

/// A connection's bytes up to its first request.
fn opening() -> Vec<u8> {
    let settings = [0, 3, 0, 0, 0, 100];
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// What a server reads if `sent` arrives in chunks, and whether the connection is watched after that.
fn passed(sent: &[u8], chunk_bytes: usize) -> (Vec<u8>, bool) {
    let mut bytes = sent.to_vec();
    let mut frames = Frames::default();
    for chunk in bytes.chunks_mut(chunk_bytes) {
        if frames.pass(chunk).is_break() {
            return (bytes, false);
        }
    }
    (bytes, true)
}

/// The authorities of the requests in `sent`, as our HTTP library takes them.
async fn accepted(sent: &[u8]) -> Vec<String> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let (heard, mut authorities) = mpsc::unbounded_channel();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string);
        heard
            .send(authority.unwrap_or_default())
            .expect("the test listens");
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    client.write_all(sent).await.expect("there is room");
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(Lenient::new(server)), service);
    let mut all = Vec::new();
    let collect = async {
        // The clock stands still as long as there is anything to do.
        while let Ok(Some(authority)) = timeout(Duration::from_secs(1), authorities.recv()).await {
            all.push(authority);
        }
    };
    tokio::select! {
        _ = connection => {}
        () = collect => {}
    }
    all
}

#[tokio::test(start_paused = true)]
async fn urls_are_taken_for_hosts_of_the_same_length() {
    for (url, legal) in URLS {
        for is_coded in [false, true] {
            // With, without, and never to be indexed.
            for representation in [0x41, 0x01, 0x11] {
                let sent = [opening(), request(1, &block(representation, url, is_coded))].concat();
                assert_eq!(accepted(&sent).await, [legal], "{url}, coded: {is_coded}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn legal_authorities_pass_unchanged_and_end_the_watch() {
    for authority in LEGAL {
        for is_coded in [false, true] {
            let sent = [opening(), request(1, &block(0x41, authority, is_coded))].concat();
            assert_eq!(passed(&sent, usize::MAX), (sent.clone(), false), "{authority}");
            assert_eq!(accepted(&sent).await, [authority]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_host_http_stays_legal() {
    for port in 0..=9 {
        for is_coded in [false, true] {
            let authority = format!("http:{port}379");
            let sent = [opening(), request(1, &block(0x41, &authority, is_coded))].concat();
            let authorities = accepted(&sent).await;
            assert_eq!(authorities.len(), 1, "{authority}");
            assert!(authorities[0].ends_with(&format!("{port}379")), "{authorities:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_refer_to_the_first_are_let_in() {
    // The newest entries of the table are 62 (`age`) and 63 (the authority).
    let sent = [
        opening(),
        request(1, &block(0x41, "http://h:1", true)),
        request(3, &[0x83, 0x86, 0x84, 0xbf, 0xbe]),
    ]
    .concat();
    assert_eq!(accepted(&sent).await, ["httpB34h:1", "httpB34h:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_url_that_is_sent_anew_is_let_in() {
    let url = block(0x41, "http://h:1", true);
    let call = [
        frame(HEADERS, END_HEADERS, 1, &url),
        // Looks like a header block and is none.
        frame(DATA, END_STREAM, 1, &url),
    ]
    .concat();
    let sent = [opening(), call.clone(), request(3, &url)].concat();
    let (received, watched) = passed(&sent, usize::MAX);
    assert!(watched);
    let data = opening().len() + FRAME_HEADER_BYTES + url.len()..opening().len() + call.len();
    assert_eq!(received[data.clone()], sent[data]);
    assert_eq!(accepted(&sent).await, ["httpB34h:1"; 2]);
}

#[tokio::test(start_paused = true)]
async fn padding_priority_and_pieces_of_blocks_are_followed() {
    let url = block(0x41, "http://h:1", true);
    let priority = [0, 0, 0, 0, 15];
    let padding = [0; 7];
    for cut in 0..=url.len() {
        let (first, second) = url.split_at(cut);
        let payload = [&[7][..], &priority, first, &padding].concat();
        let sent = [
            opening(),
            frame(HEADERS, PADDED | PRIORITY | END_STREAM, 1, &payload),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, second),
            request(3, &url),
        ]
        .concat();
        assert_eq!(accepted(&sent).await, ["httpB34h:1"; 2], "cut at {cut}");
    }
}

#[test]
fn nothing_depends_on_how_the_bytes_arrive() {
    for is_coded in [false, true] {
        for (url, _) in URLS {
            let block = block(0x41, url, is_coded);
            let sent = [opening(), request(1, &block), request(3, &block)].concat();
            let whole = passed(&sent, usize::MAX);
            assert_ne!(whole.0, sent);
            for chunk_bytes in 1..=sent.len() {
                assert_eq!(passed(&sent, chunk_bytes), whole, "in chunks of {chunk_bytes}");
            }
            for cut in 0..=sent.len() {
                let mut received = sent.clone();
                let mut frames = Frames::default();
                let (first, second) = received.split_at_mut(cut);
                assert!(frames.pass(first).is_continue() && frames.pass(second).is_continue());
                assert_eq!(received, whole.0, "cut at {cut}");
            }
        }
    }
}

#[test]
fn other_protocols_pass_unchanged() {
    for sent in [
        &b"POST http://h/ HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/1.1\r\nhttp://",
        b"\x16\x03\x01",
    ] {
        assert_eq!(passed(sent, usize::MAX), (sent.to_vec(), false));
    }
}

#[test]
fn no_frame_is_too_odd() {
    let whole = [opening(), request(1, &block(0x41, "http://h:1", false))].concat();
    let start = opening().len();
    for at in start..whole.len() {
        for byte in 0..=u8::MAX {
            let mut sent = whole.clone();
            sent[at] = byte;
            sent.extend([byte; 64]);
            assert_eq!(passed(&sent, 3).0.len(), sent.len());
        }
    }
    // Padding and priority of which there is no room.
    for flags in [PADDED, PRIORITY] {
        let sent = [opening(), frame(HEADERS, flags, 1, &[])].concat();
        assert!(!passed(&sent, usize::MAX).1);
    }
    // A length without end.
    let sent = [opening(), request(1, &[0xff; 40])].concat();
    assert!(!passed(&sent, usize::MAX).1);
}
