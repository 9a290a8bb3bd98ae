//! Row 42: strangers and broken members on the port that members use among themselves. This protocol is Kelson's own.

use kelson_proto::peer;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::state::{self, Footprint};
use super::{Door, wanted};
use crate::differences::Difference;
use crate::harness::{Cluster, in_time};

/// Kinds of frames. Source: `raft/src/network/frame.rs`.
const HELLO: u8 = 1;
const APPEND: u8 = 2;
const VOTE: u8 = 4;
const SNAPSHOT_BEGIN: u8 = 9;
const SNAPSHOT_DATA: u8 = 10;
const SNAPSHOT_END: u8 = 11;
const FORWARD: u8 = 13;
const STATE_HASH: u8 = 18;
/// What a connection is for. Source: as above.
const FOR_APPENDS: u32 = 1;
const FOR_SNAPSHOTS: u32 = 3;
const FOR_FORWARDS: u32 = 4;
const FOR_AGREEMENT: u32 = 5;
/// Kinds of payloads of an entry. Source: `raft/src/type_config.rs`.
const PAYLOAD_BLANK: u8 = 0;
const PAYLOAD_BATCH: u8 = 1;
const PAYLOAD_MEMBERSHIP: u8 = 2;

/// A frame whose checksum is right.
fn frame(kind: u8, message: &impl Message) -> Vec<u8> {
    framed(&[&[kind][..], &message.encode_to_vec()].concat())
}

fn framed(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("frames are short");
    let crc = crc32fast::hash(content);
    [&length.to_le_bytes()[..], &crc.to_le_bytes(), content].concat()
}

/// What a member of the cluster knows.
struct Inside {
    cluster_id: u64,
    /// The member spoken to.
    target: u64,
    leader: u64,
    term: u64,
    /// Index of the last entry, roughly.
    last: u64,
}

impl Inside {
    async fn of(cluster: &Cluster, member: usize) -> Inside {
        let status = cluster.client(member).status().await.expect("status succeeds");
        let header = status.header.expect("header");
        Inside {
            cluster_id: header.cluster_id,
            target: header.member_id,
            leader: status.leader,
            term: status.raft_term,
            last: status.raft_index,
        }
    }

    /// The hello of a member that nobody has heard of.
    fn hello(&self, purpose: u32) -> peer::Hello {
        peer::Hello {
            cluster_id: self.cluster_id,
            from: 4711,
            to: self.target,
            version: 1,
            purpose,
            refusal: String::new(),
        }
    }

    fn leaders_vote(&self) -> Option<peer::Vote> {
        Some(peer::Vote {
            term: self.term,
            node: self.leader,
            committed: true,
        })
    }

    fn at(&self, index: u64) -> Option<peer::LogId> {
        let term = self.term;
        Some(peer::LogId { term, index })
    }

    fn append(&self, previous: u64, entries: Vec<peer::Entry>) -> Vec<u8> {
        frame(
            APPEND,
            &peer::AppendRequest {
                vote: self.leaders_vote(),
                previous: self.at(previous),
                entries,
                commit: None,
            },
        )
    }

    fn entry(&self, index: u64, payload: &[u8]) -> peer::Entry {
        peer::Entry {
            id: self.at(index),
            payload: payload.to_vec().into(),
        }
    }

    fn snapshot(&self, index: u64, frames: &[Vec<u8>]) -> Vec<u8> {
        let begin = frame(
            SNAPSHOT_BEGIN,
            &peer::SnapshotBegin {
                vote: self.leaders_vote(),
                last: self.at(index),
                membership_at: None,
                membership: vec![].into(),
            },
        );
        [begin, frames.concat()].concat()
    }
}

/// Sends all of it and waits until the other side hangs up.
async fn throw(endpoint: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(endpoint).await.expect("the port is open");
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut reply = Vec::new();
    let _ = in_time("the end of the connection", stream.read_to_end(&mut reply)).await;
    reply
}

/// Beginnings of connections that go no further, with what the answer says, if there is one.
fn strangers(inside: &Inside) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let hello = || inside.hello(FOR_APPENDS);
    let says = |hello: peer::Hello| frame(HELLO, &hello);
    let mut flipped = says(hello());
    flipped[6] ^= 1;
    vec![
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), ""),
        ("a frame of 4 GiB", vec![0xff; 64], ""),
        (
            "a frame of 60 MiB",
            [&(60_u32 << 20).to_le_bytes()[..], &[0; 60]].concat(),
            "",
        ),
        ("a frame without content", vec![0; 64], ""),
        ("a wrong checksum", flipped, ""),
        ("an unknown kind", framed(&[0xee, 1, 2, 3]), ""),
        ("no hello", frame(VOTE, &peer::VoteRequest::default()), ""),
        ("a hello that does not decode", framed(&[HELLO, 0x0a, 0xff]), ""),
        (
            "another cluster",
            says(peer::Hello {
                cluster_id: inside.cluster_id ^ 1,
                ..hello()
            }),
            "cluster ID mismatch",
        ),
        (
            "another member",
            says(peer::Hello {
                to: inside.target ^ 1,
                ..hello()
            }),
            "member ID mismatch",
        ),
        (
            "another version",
            says(peer::Hello {
                version: 9,
                ..hello()
            }),
            "protocol version 9 is not 1",
        ),
        ("an unknown purpose", says(inside.hello(99)), ""),
    ]
}

/// What a member of the cluster would have to be broken to send: `(name, purpose, frames)`.
fn broken_members(inside: &Inside) -> Vec<(&'static str, u32, Vec<u8>)> {
    const FAR: u64 = 1 << 60;
    let next = inside.last + 1;
    let blank = |index| inside.entry(index, &[PAYLOAD_BLANK]);
    let one = |payload: &[u8]| inside.append(inside.last, vec![inside.entry(next, payload)]);
    let forward = |proposal: &[u8]| {
        frame(
            FORWARD,
            &peer::Forward {
                proposals: vec![proposal.to_vec().into()],
            },
        )
    };
    let image = |content: &[u8]| framed(&[&[SNAPSHOT_DATA][..], content].concat());
    let end = || framed(&[SNAPSHOT_END]);
    vec![
        (
            "an append without a vote",
            FOR_APPENDS,
            frame(APPEND, &peer::AppendRequest::default()),
        ),
        (
            "an append that does not decode",
            FOR_APPENDS,
            framed(&[APPEND, 0x0a, 0xff]),
        ),
        ("an entry of an unknown kind", FOR_APPENDS, one(&[0xee, 1, 2, 3])),
        ("an entry without a payload", FOR_APPENDS, one(&[])),
        (
            "a batch that is none",
            FOR_APPENDS,
            one(&[PAYLOAD_BATCH, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "a batch of a command that is none",
            FOR_APPENDS,
            one(&[PAYLOAD_BATCH, 1, 0, 0, 0, 0xff]),
        ),
        (
            "a membership that is none",
            FOR_APPENDS,
            one(&[PAYLOAD_MEMBERSHIP, 0x0a, 0xff]),
        ),
        (
            "a membership without members",
            FOR_APPENDS,
            one(&[PAYLOAD_MEMBERSHIP]),
        ),
        ("an entry without an id", FOR_APPENDS, {
            let mut entry = blank(next);
            entry.id = None;
            inside.append(inside.last, vec![entry])
        }),
        (
            "an append far ahead",
            FOR_APPENDS,
            inside.append(FAR, vec![blank(FAR + 1)]),
        ),
        (
            "an entry far ahead of its predecessor",
            FOR_APPENDS,
            inside.append(inside.last, vec![blank(FAR)]),
        ),
        (
            "an entry before its predecessor",
            FOR_APPENDS,
            inside.append(inside.last, vec![blank(1)]),
        ),
        (
            "entries with a gap",
            FOR_APPENDS,
            inside.append(inside.last, vec![blank(next), blank(next + 7)]),
        ),
        (
            "an entry at the end of numbers",
            FOR_APPENDS,
            inside.append(u64::MAX, vec![blank(u64::MAX)]),
        ),
        ("a forwarded command among appends", FOR_APPENDS, forward(&[1])),
        (
            "a vote among forwarded commands",
            FOR_FORWARDS,
            frame(VOTE, &peer::VoteRequest::default()),
        ),
        ("a command that is none", FOR_FORWARDS, forward(&[0xff; 32])),
        ("a command of no bytes", FOR_FORWARDS, forward(&[])),
        (
            "a question that does not decode",
            FOR_AGREEMENT,
            framed(&[STATE_HASH, 0x0a, 0xff]),
        ),
        ("an image of garbage", FOR_SNAPSHOTS, {
            inside.snapshot(next + 1_000, &[image(&[0xee; 5_000]), end()])
        }),
        (
            "an image of nothing",
            FOR_SNAPSHOTS,
            inside.snapshot(next + 1_000, &[end()]),
        ),
        ("an image that is not finished", FOR_SNAPSHOTS, {
            inside.snapshot(next + 1_000, &[image(&[0xee; 100])])
        }),
    ]
}

#[tokio::test]
async fn strangers_and_broken_members_reach_neither_state_nor_core() {
    if !wanted(42) || !Difference::PeerProtocol.applies() {
        return;
    }
    for door in Door::ALL {
        let (cluster, member) = door.open().await;
        // A cluster that was lent to the tests does not say where its peers listen.
        let Some(endpoint) = cluster.peer_endpoint(member) else {
            return;
        };
        cluster.client(member).put("k", "v").await;
        let before = state::of(&cluster).await;
        let footprint = Footprint::of(&cluster);
        let assert_unmoved = async |name| {
            footprint.check(&cluster);
            assert_eq!(state::of(&cluster).await, before, "{door:?} {name}");
        };
        // What a member of the cluster knows is asked anew for each: on a busy machine terms end by themselves.
        let inside = async || Inside::of(&cluster, member).await;
        for case in 0..strangers(&inside().await).len() {
            let (name, bytes, answer) = strangers(&inside().await).swap_remove(case);
            println!("{door:?} {name}");
            let reply = throw(endpoint, &bytes).await;
            let reply = String::from_utf8_lossy(&reply);
            assert!(reply.contains(answer), "{name}: {reply}");
            assert_unmoved(name).await;
        }
        for case in 0..broken_members(&inside().await).len() {
            let inside = inside().await;
            let (name, purpose, frames) = broken_members(&inside).swap_remove(case);
            println!("{door:?} {name}");
            let hello = frame(HELLO, &inside.hello(purpose));
            throw(endpoint, &[hello, frames].concat()).await;
            assert_unmoved(name).await;
        }
        let client = cluster.client(member);
        client.put("k", "and all goes on").await;
    }
}
