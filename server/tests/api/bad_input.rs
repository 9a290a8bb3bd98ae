//! Requests that no honest client sends, and what each must be answered. The lists are data; one test runs
//! each list and checks that nothing a refused request asked for has happened.

use bytes::{Buf, BufMut, Bytes};
use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
    request_op::Request as Op,
};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::differences::Difference;
use crate::harness::client::{between, delete, everything, put, single};
use crate::harness::{Client, Cluster, assert_refused};
use crate::txn::{compare, txn};

/// A request of one of the unary calls.
#[derive(Clone, Debug)]
enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64),
    Grant { ttl: i64, id: i64 },
    Revoke(i64),
    HashKv(i64),
    MoveLeader(u64),
    Alarm(pb::AlarmRequest),
    Authenticate,
}

impl Call {
    async fn send(self, client: &Client) -> Result<(), Status> {
        match self {
            Call::Range(request) => client.range(request).await.map(drop),
            Call::Put(request) => client.put_request(request).await.map(drop),
            Call::Delete(request) => client.delete_request(request).await.map(drop),
            Call::Txn(request) => client.txn(request).await.map(drop),
            Call::Compact(revision) => client.compact(revision).await.map(drop),
            Call::Grant { ttl, id } => client.grant_request(ttl, id).await.map(drop),
            Call::Revoke(id) => client.revoke(id).await.map(drop),
            Call::HashKv(revision) => client.hash_kv(revision).await.map(drop),
            Call::MoveLeader(target_id) => client
                .maintenance()
                .move_leader(pb::MoveLeaderRequest { target_id })
                .await
                .map(drop),
            Call::Alarm(request) => client.maintenance().alarm(request).await.map(drop),
            Call::Authenticate => {
                let request = pb::AuthenticateRequest {
                    name: "root".into(),
                    password: "x".into(),
                };
                pb::auth_client::AuthClient::new(client.channel())
                    .authenticate(request)
                    .await
                    .map(drop)
            }
        }
    }
}

/// What the lists take for granted.
struct Given {
    /// Below the compact revision.
    compacted: i64,
    newest: i64,
    /// A lease that exists.
    lease: i64,
}

impl Given {
    /// A key `present`, a lease, and some history cut off.
    async fn prepare(client: &Client) -> Given {
        let lease = client.grant(600).await;
        let compacted = client.put("present", "1").await;
        client.put("present", "2").await;
        let newest = client.put("present", "3").await;
        client.compact(newest - 1).await.expect("compaction succeeds");
        Given {
            compacted,
            newest,
            lease,
        }
    }
}

fn of(op: Op) -> Call {
    Call::Txn(txn(vec![], vec![op], vec![]))
}

fn nested(depth: usize) -> pb::TxnRequest {
    let mut request = txn(vec![], vec![], vec![]);
    for _ in 0..depth {
        request = txn(vec![], vec![Op::RequestTxn(request)], vec![]);
    }
    request
}

/// `(request, code, text)`.
fn refused(given: &Given) -> Vec<(Call, Code, &'static str)> {
    use Call::{Alarm, Authenticate, Compact, Delete, Grant, HashKv, MoveLeader, Put, Range, Revoke, Txn};
    use Code::{FailedPrecondition, InvalidArgument, NotFound, OutOfRange};
    const EMPTY_KEY: &str = "etcdserver: key is not provided";
    const ABSENT_KEY: &str = "etcdserver: key not found";
    const SORT: &str = "etcdserver: invalid sort option";
    const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
    const VALUE: &str = "etcdserver: value is provided";
    const LEASE: &str = "etcdserver: lease is provided";
    const NO_LEASE: &str = "etcdserver: requested lease not found";
    const TOO_LARGE: &str = "etcdserver: request is too large";
    const TOO_MANY: &str = "etcdserver: too many operations in txn request";
    let range = |request: fn(pb::RangeRequest) -> pb::RangeRequest| request(single("present"));
    let (future, lease) = (given.newest + 1, given.lease);
    let mut list = vec![
        (Range(single("")), InvalidArgument, EMPTY_KEY),
        (Range(between("", "x")), InvalidArgument, EMPTY_KEY),
        (Put(put("", "v")), InvalidArgument, EMPTY_KEY),
        (Delete(delete("")), InvalidArgument, EMPTY_KEY),
        (of(Op::RequestRange(single(""))), InvalidArgument, EMPTY_KEY),
        (of(Op::RequestPut(put("", ""))), InvalidArgument, EMPTY_KEY),
        (of(Op::RequestDeleteRange(delete(""))), InvalidArgument, EMPTY_KEY),
        (
            Txn(txn(
                vec![compare("", CompareResult::Equal, TargetUnion::Version(0))],
                vec![],
                vec![],
            )),
            InvalidArgument,
            EMPTY_KEY,
        ),
        (
            Range(range(|r| pb::RangeRequest { sort_order: 3, ..r })),
            InvalidArgument,
            SORT,
        ),
        (
            Range(range(|r| pb::RangeRequest { sort_order: -1, ..r })),
            InvalidArgument,
            SORT,
        ),
        (
            Range(range(|r| pb::RangeRequest { sort_target: 5, ..r })),
            InvalidArgument,
            SORT,
        ),
        (
            Range(pb::RangeRequest {
                revision: future,
                ..single("present")
            }),
            OutOfRange,
            FUTURE,
        ),
        (
            Range(pb::RangeRequest {
                revision: i64::MAX,
                ..single("present")
            }),
            OutOfRange,
            FUTURE,
        ),
        (
            Range(pb::RangeRequest {
                revision: given.compacted,
                ..single("present")
            }),
            OutOfRange,
            COMPACTED,
        ),
        (
            Range(pb::RangeRequest {
                revision: 1,
                ..everything()
            }),
            OutOfRange,
            COMPACTED,
        ),
        (
            Range(pb::RangeRequest {
                revision: given.compacted,
                count_only: true,
                ..everything()
            }),
            OutOfRange,
            COMPACTED,
        ),
        (
            Put(pb::PutRequest {
                ignore_value: true,
                ..put("present", "v")
            }),
            InvalidArgument,
            VALUE,
        ),
        (
            Put(pb::PutRequest {
                ignore_lease: true,
                lease,
                ..put("present", "v")
            }),
            InvalidArgument,
            LEASE,
        ),
        (
            Put(pb::PutRequest {
                ignore_value: true,
                ..put("absent", "")
            }),
            InvalidArgument,
            ABSENT_KEY,
        ),
        (
            Put(pb::PutRequest {
                ignore_lease: true,
                ..put("absent", "v")
            }),
            InvalidArgument,
            ABSENT_KEY,
        ),
        (
            Put(pb::PutRequest {
                lease: 4711,
                ..put("present", "v")
            }),
            NotFound,
            NO_LEASE,
        ),
        (
            Put(pb::PutRequest {
                lease: -1,
                ..put("present", "v")
            }),
            NotFound,
            NO_LEASE,
        ),
        (
            of(Op::RequestPut(pb::PutRequest {
                lease: 4711,
                ..put("present", "v")
            })),
            NotFound,
            NO_LEASE,
        ),
        (
            Put(put("present", &"v".repeat(1_677_722))),
            InvalidArgument,
            TOO_LARGE,
        ),
        (
            of(Op::RequestPut(put("present", &"v".repeat(1_677_722)))),
            InvalidArgument,
            TOO_LARGE,
        ),
        (
            Txn(txn(
                vec![],
                vec![Op::RequestRange(single("present")); 129],
                vec![],
            )),
            InvalidArgument,
            TOO_MANY,
        ),
        (Txn(nested(140)), InvalidArgument, TOO_MANY),
        (
            Txn(pb::TxnRequest {
                success: vec![pb::RequestOp { request: None }],
                ..Default::default()
            }),
            InvalidArgument,
            ABSENT_KEY,
        ),
        (Compact(future), OutOfRange, FUTURE),
        (Compact(i64::MAX), OutOfRange, FUTURE),
        (Compact(given.newest - 1), OutOfRange, COMPACTED),
        (Compact(0), OutOfRange, COMPACTED),
        (Compact(-1), OutOfRange, COMPACTED),
        (Compact(i64::MIN), OutOfRange, COMPACTED),
        (
            Grant {
                ttl: 9_000_000_001,
                id: 0,
            },
            OutOfRange,
            "etcdserver: too large lease TTL",
        ),
        (
            Grant { ttl: i64::MAX, id: 0 },
            OutOfRange,
            "etcdserver: too large lease TTL",
        ),
        (
            Grant { ttl: 60, id: lease },
            FailedPrecondition,
            "etcdserver: lease already exists",
        ),
        (Revoke(4711), NotFound, NO_LEASE),
        (Revoke(0), NotFound, NO_LEASE),
        (HashKv(future), OutOfRange, FUTURE),
        (HashKv(given.compacted), OutOfRange, COMPACTED),
        (
            MoveLeader(0),
            FailedPrecondition,
            "etcdserver: bad leader transferee",
        ),
        (
            MoveLeader(u64::MAX),
            FailedPrecondition,
            "etcdserver: bad leader transferee",
        ),
        (
            Authenticate,
            FailedPrecondition,
            "etcdserver: authentication is not enabled",
        ),
    ];
    if Difference::UnknownAlarm.applies() {
        let unknown = pb::AlarmRequest {
            action: 9,
            ..Default::default()
        };
        list.push((
            Alarm(unknown),
            InvalidArgument,
            "etcdserver: invalid alarm request",
        ));
    }
    list
}

/// Requests that look bad and are legal.
fn accepted() -> Vec<Call> {
    use Call::{Delete, Grant, Range, Txn};
    let unknown_compare = |result, target| pb::Compare {
        result,
        target,
        ..compare("present", CompareResult::Equal, TargetUnion::Version(3))
    };
    vec![
        Range(pb::RangeRequest {
            revision: -1,
            ..single("present")
        }),
        Range(pb::RangeRequest {
            revision: i64::MIN,
            ..single("present")
        }),
        Range(pb::RangeRequest {
            limit: -1,
            ..everything()
        }),
        Range(pb::RangeRequest {
            limit: i64::MAX,
            ..everything()
        }),
        Range(pb::RangeRequest {
            limit: i64::MIN,
            ..everything()
        }),
        Range(between("b", "a")),
        Range(pb::RangeRequest {
            min_mod_revision: i64::MAX,
            max_mod_revision: i64::MIN,
            ..everything()
        }),
        Delete(delete("absent")),
        Txn(txn(vec![], vec![], vec![])),
        Txn(txn(
            vec![unknown_compare(9, 0), unknown_compare(0, 9)],
            vec![],
            vec![],
        )),
        Txn(nested(40)),
        Grant { ttl: 0, id: 0 },
        Grant {
            ttl: i64::MIN,
            id: i64::MIN,
        },
    ]
}

#[tokio::test]
async fn every_refusal_has_its_code_and_text_and_changes_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let given = Given::prepare(&client).await;
    let before = client.range(everything()).await.expect("range succeeds");
    let hash = client.hash_kv(0).await.expect("hash succeeds").hash;
    for (call, code, text) in refused(&given) {
        // A value of a megabyte is no message for a failing test.
        let name: String = format!("{call:?}").chars().take(300).collect();
        match call.send(&client).await {
            Ok(()) => panic!("accepted: {name}"),
            Err(status) => assert_eq!((status.code(), status.message()), (code, text), "{name}"),
        }
        let after = client.range(everything()).await.expect("range succeeds");
        assert_eq!((&after.kvs, after.header), (&before.kvs, before.header), "{name}");
    }
    assert_eq!(client.hash_kv(0).await.expect("hash succeeds").hash, hash);
    let leases = client
        .lease()
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .expect("leases are listed");
    assert_eq!(leases.into_inner().leases, [pb::LeaseStatus { id: given.lease }]);
}

#[tokio::test]
async fn what_only_looks_bad_is_accepted() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let given = Given::prepare(&client).await;
    for call in accepted() {
        let name = format!("{call:?}");
        if let Err(status) = call.send(&client).await {
            panic!("refused with {status:?}: {name}");
        }
    }
    assert_eq!(client.revision().await, given.newest);
}

#[tokio::test]
async fn a_message_above_the_grpc_limit_is_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let status = client
        .put_request(put("k", &"v".repeat(3 << 20)))
        .await
        .expect_err("three MiB");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(client.get("k").await.is_none());
}

#[tokio::test]
async fn nesting_without_end_is_refused_and_does_no_harm() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    const DEPTH: usize = 20_000;
    // By hand, innermost first: the generated encoder would run out of stack before the server could.
    let mut message = Vec::new();
    for _ in 0..DEPTH {
        let mut op = Vec::new();
        prost::encoding::encode_key(4, prost::encoding::WireType::LengthDelimited, &mut op);
        prost::encoding::encode_varint(message.len() as u64, &mut op);
        op.append(&mut message);
        prost::encoding::encode_key(2, prost::encoding::WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(op.len() as u64, &mut message);
        message.append(&mut op);
    }
    send_raw(&client, "/etcdserverpb.KV/Txn", message)
        .await
        .expect_err("nobody nests that deep");
    client.put("k", "the server is alive").await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_as_internal() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    // A key that claims to be longer than the message.
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Lease/LeaseGrant",
    ] {
        let status = send_raw(&client, path, vec![0x0a, 0x7f, b'x'])
            .await
            .expect_err("not a message");
        assert_eq!(status.code(), Code::Internal, "{path}: {}", status.message());
    }
    client.put("k", "the server is alive").await;
}

#[tokio::test]
async fn fields_of_later_versions_are_skipped() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut message = prost::Message::encode_to_vec(&put("k", "v"));
    // Field 1000, a varint.
    message.extend([0xc0, 0x3e, 0x01]);
    send_raw(&client, "/etcdserverpb.KV/Put", message)
        .await
        .expect("unknown fields are skipped");
    assert_eq!(client.get("k").await.expect("the key exists").value, "v");
}

#[tokio::test]
async fn calls_that_are_not_served_say_so() {
    if !Difference::NotServed.applies() {
        return;
    }
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.member_list().await.members;
    for path in [
        "/etcdserverpb.Cluster/MemberAdd",
        "/etcdserverpb.Cluster/MemberRemove",
        "/etcdserverpb.Cluster/MemberUpdate",
        "/etcdserverpb.Cluster/MemberPromote",
        "/etcdserverpb.Maintenance/Downgrade",
        "/etcdserverpb.Maintenance/Snapshot",
        "/etcdserverpb.Auth/AuthEnable",
        "/etcdserverpb.Auth/UserAdd",
        "/etcdserverpb.Auth/RoleAdd",
    ] {
        let refused = send_raw(&client, path, Vec::new()).await;
        assert_eq!(
            refused.expect_err("not served").code(),
            Code::Unimplemented,
            "{path}"
        );
    }
    assert_eq!(client.member_list().await.members, before);
}

#[tokio::test]
async fn malformed_changes_of_members_are_refused() {
    if Difference::NotServed.applies() {
        return;
    }
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let before = client.member_list().await.members;
    let bad_urls = "etcdserver: given member URLs are invalid";
    let not_found = "etcdserver: member not found";
    let urls = |list: &[&str]| list.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    for list in [
        &[][..],
        &["nonsense"],
        &["http://127.0.0.1"],
        &["http://127.0.0.1:1/path"],
        &["ftp://a:1"],
    ] {
        let request = pb::MemberAddRequest {
            peer_ur_ls: urls(list),
            is_learner: false,
        };
        assert_refused(
            client.cluster().member_add(request).await,
            Code::InvalidArgument,
            bad_urls,
        );
    }
    let used = pb::MemberAddRequest {
        peer_ur_ls: before[0].peer_ur_ls.clone(),
        is_learner: true,
    };
    let refused = client.cluster().member_add(used).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    let refused = client
        .cluster()
        .member_promote(pb::MemberPromoteRequest { id: 4711 })
        .await;
    assert_refused(refused, Code::NotFound, not_found);
    let refused = client
        .cluster()
        .member_promote(pb::MemberPromoteRequest { id: before[0].id })
        .await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
    let unknown = pb::MemberUpdateRequest {
        id: 4711,
        peer_ur_ls: urls(&["http://127.0.0.1:1"]),
    };
    assert_refused(
        client.cluster().member_update(unknown).await,
        Code::NotFound,
        not_found,
    );
    let last = client
        .cluster()
        .member_remove(pb::MemberRemoveRequest { id: before[0].id })
        .await;
    let text = "etcdserver: re-configuration failed due to not enough started members";
    let code = if Difference::CodeOfNotEnoughStarted.applies() {
        Code::FailedPrecondition
    } else {
        Code::Unknown
    };
    assert_refused(last, code, text);
    if Difference::MalformedUrlInMemberUpdate.applies() {
        let malformed = pb::MemberUpdateRequest {
            id: before[0].id,
            peer_ur_ls: urls(&["nonsense"]),
        };
        assert_refused(
            client.cluster().member_update(malformed).await,
            Code::InvalidArgument,
            bad_urls,
        );
    }
    assert_eq!(client.member_list().await.members, before);
}

/// Sends `message` as it is to the unary call at `path`.
async fn send_raw(client: &Client, path: &'static str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.expect("the server accepts connections");
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(tonic::Request::new(Bytes::from(message)), path, RawCodec)
        .await
        .map(drop)
}

/// Messages as bytes, so that a test can send what no generated type would encode.
#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
