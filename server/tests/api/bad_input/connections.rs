//! Rows 38 and 39: connections that do not keep to the protocol, or keep to it in a way that costs.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::raw_http2::{self as h2, frame, opening};
use super::state::Footprint;
use super::{Door, state, wanted};
use crate::differences::Difference;
use crate::harness::{Cluster, in_time};

const RANGE: &str = "/etcdserverpb.KV/Range";

/// How a connection was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Closed,
    /// An HTTP/1.1 reply with a code of the 400s.
    Refused,
    /// Neither within [`PATIENCE_WITH_SERVER`]; whatever else was sent is left unread.
    Open,
}

/// How long a server may take to hang up.
const PATIENCE_WITH_SERVER: Duration = Duration::from_secs(3);

/// Sends `bytes`, reading nothing until all of it is gone or the server takes no more.
async fn throw(endpoint: &str, bytes: &[u8]) -> Ending {
    let mut stream = TcpStream::connect(endpoint).await.expect("the port is open");
    // A server that hangs up in the middle is one of the good endings.
    let _ = tokio::time::timeout(PATIENCE_WITH_SERVER, stream.write_all(bytes)).await;
    let mut reply = Vec::new();
    match tokio::time::timeout(PATIENCE_WITH_SERVER, stream.read_to_end(&mut reply)).await {
        _ if reply.starts_with(b"HTTP/1.1 4") => Ending::Refused,
        Ok(_) => Ending::Closed,
        Err(_) => Ending::Open,
    }
}

/// Row 38: what is not the protocol at all.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let header = |bytes| format!("GET /version HTTP/1.1\r\nx-long: {}\r\n\r\n", "v".repeat(bytes));
    let post =
        format!("POST {RANGE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    vec![
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("zeros", vec![0; 64]),
        ("words", b"NONSENSE\r\n\r\n".to_vec()),
        ("HTTP/1.1 to a gRPC path", post.into_bytes()),
        ("a header of 1 MiB", header(1 << 20).into_bytes()),
        (
            "a frame that is longer than allowed",
            [opening(), vec![0xff; 64]].concat(),
        ),
        ("data for a stream that is not open", {
            [opening(), frame(h2::DATA, 0, 1, b"x")].concat()
        }),
        ("a window that overflows", {
            let window = frame(h2::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
            [opening(), window.clone(), window].concat()
        }),
        ("a header block that is no header block", {
            let flags = h2::END_HEADERS | h2::END_STREAM;
            [opening(), frame(h2::HEADERS, flags, 1, &[0xff; 32])].concat()
        }),
    ]
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_connection_and_nothing_else() {
    if !wanted(38) {
        return;
    }
    for door in [Door::Lone, Door::Follower] {
        let (cluster, member) = door.open().await;
        let before = state::of(&cluster).await;
        let footprint = Footprint::of(&cluster);
        for (name, bytes) in garbage() {
            let ending = throw(cluster.endpoint(member), &bytes).await;
            println!("{door:?} {name}: {ending:?}");
            if Difference::BoundedMemory.applies() {
                assert_ne!(ending, Ending::Open, "{name}");
            }
            assert_eq!(state::of(&cluster).await, before, "{name}");
        }
        footprint.check(&cluster);
        assert_no_error_logged(&cluster, member);
    }
}

/// What strangers send is no concern of whoever reads the log.
fn assert_no_error_logged(cluster: &Cluster, member: usize) {
    if Difference::BoundedMemory.applies() {
        let log = cluster.log(member);
        let errors: Vec<_> = log
            .lines()
            .filter(|line| line.contains(r#""level":"error""#) || line.contains("panicked"))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

/// Row 39: valid frames in numbers that no client needs.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    const MANY: u32 = 100_000;
    let call = h2::call(RANGE);
    let begin = |stream, flags| frame(h2::HEADERS, flags, stream, &call);
    let streams = (0..MANY).map(|number| 2 * number + 1);
    let after_opening = |bytes: Vec<u8>| [opening(), bytes].concat();
    let repeat = |frame: Vec<u8>| frame.repeat(MANY as usize);
    vec![
        ("calls that are reset at once", {
            let cancel = 8_u32.to_be_bytes();
            let pairs = streams.flat_map(|stream| {
                [
                    begin(stream, h2::END_HEADERS),
                    frame(h2::RST_STREAM, 0, stream, &cancel),
                ]
                .concat()
            });
            after_opening(pairs.collect())
        }),
        ("headers of 1 MiB", {
            let mut block = call.clone();
            h2::literal(&mut block, b"\0\x06x-long", &"v".repeat(1 << 20));
            after_opening(in_pieces(&block))
        }),
        ("headers that never end", {
            let first = frame(h2::HEADERS, 0, 1, &call);
            after_opening([first, repeat(frame(h2::CONTINUATION, 0, 1, &[]))].concat())
        }),
        (
            "pings whose answers nobody reads",
            after_opening(repeat(frame(h2::PING, 0, 0, &[7; 8]))),
        ),
        ("settings", after_opening(repeat(frame(h2::SETTINGS, 0, 0, &[])))),
        ("a message in empty pieces", {
            let first = begin(1, h2::END_HEADERS);
            after_opening([first, repeat(frame(h2::DATA, 0, 1, &[]))].concat())
        }),
        ("calls that say nothing more", {
            let calls = (0..10_000).flat_map(|number| begin(2 * number + 1, h2::END_HEADERS));
            after_opening(calls.collect())
        }),
        ("a message that claims 4 GiB", {
            let message = frame(h2::DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
            after_opening([begin(1, h2::END_HEADERS), message].concat())
        }),
    ]
}

/// A header block in frames of the largest size.
fn in_pieces(block: &[u8]) -> Vec<u8> {
    let count = block.len().div_ceil(h2::PAYLOAD_BYTES_MAX);
    let pieces = block
        .chunks(h2::PAYLOAD_BYTES_MAX)
        .enumerate()
        .flat_map(|(index, piece)| {
            let kind = if index == 0 { h2::HEADERS } else { h2::CONTINUATION };
            let flags = if index + 1 == count { h2::END_HEADERS } else { 0 };
            frame(kind, flags, 1, piece)
        });
    pieces.collect()
}

#[tokio::test]
async fn floods_cost_their_connection_and_little_else() {
    if !wanted(39) {
        return;
    }
    // A stream costs some kilobytes; how many there may be is for the flag to say.
    let cluster = Cluster::fresh(1, &["--max-concurrent-streams=1000"]).await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    let before = state::of(&cluster).await;
    let footprint = Footprint::of(&cluster);
    for (name, bytes) in floods() {
        let endpoint = cluster.endpoint(0);
        let others = async {
            for _ in 0..20 {
                in_time("another client's read", client.get("k"))
                    .await
                    .expect("the key exists");
            }
        };
        let (ending, ()) = tokio::join!(throw(endpoint, &bytes), others);
        println!("{name}: {ending:?}");
        footprint.check(&cluster);
    }
    assert_eq!(state::of(&cluster).await, before);
    assert_no_error_logged(&cluster, 0);
}

#[tokio::test]
async fn clients_that_never_finish_their_hello_are_no_burden() {
    const CLIENTS: usize = 500;
    if !wanted(39) {
        return;
    }
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let footprint = Footprint::of(&cluster);
    let mut waiting = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(cluster.endpoint(0))
            .await
            .expect("the port is open");
        let half = &h2::PREFACE[..h2::PREFACE.len() / 2];
        stream.write_all(half).await.expect("the connection is open");
        waiting.push(stream);
    }
    client.put("k", "others are served").await;
    footprint.check(&cluster);
}
