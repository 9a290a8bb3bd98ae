//! The table: unary calls and what each must be answered, under the numbers that `KELSON_BAD_INPUT_ROW` takes.

use bytes::Bytes;
use kelson_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
    request_op::Request as Op,
};
use tonic::Code;

use super::Door;
use super::call::{Call, nested, nested_message, of};
use crate::differences::Difference;
use crate::harness::Client;
use crate::harness::client::{between, delete, everything, put, single};
use crate::txn::{compare, txn};

const EMPTY_KEY: &str = "etcdserver: key is not provided";
const ABSENT_KEY: &str = "etcdserver: key not found";
const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
const SORT: &str = "etcdserver: invalid sort option";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const VALUE: &str = "etcdserver: value is provided";
const LEASE: &str = "etcdserver: lease is provided";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const TTL_TOO_LARGE: &str = "etcdserver: too large lease TTL";
const TOO_LARGE: &str = "etcdserver: request is too large";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";

/// An id that nobody has granted.
const UNKNOWN_LEASE: i64 = 4711;
/// Just above what a request may be, in bytes: 1.5 MiB and what etcd allows on top.
const TOO_LARGE_BYTES: usize = 1_677_722;
/// Operations or compares that one list may have.
const OPS_MAX: usize = 128;

/// What must come of a call.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Refused with this code and text; nothing changes.
    Refused(Code, &'static str),
    /// Refused with this code, in words that are the library's; nothing changes.
    RefusedAs(Code),
    /// Refused in whatever way; nothing changes.
    RefusedSomehow,
    /// Looks bad, is legal, and changes nothing.
    Accepted,
    /// Looks bad, is legal, and is done.
    Done,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of the group of calls that belong together.
    pub number: u32,
    /// Counts from zero within the group.
    pub case: usize,
    pub call: Call,
    pub answer: Answer,
}

/// What the table takes for granted.
pub struct Given {
    /// Below the compact revision.
    compacted: i64,
    newest: i64,
    /// A lease that exists.
    lease: i64,
}

impl Given {
    /// A key `present`, a lease, and some history cut off.
    pub async fn prepare(client: &Client) -> Given {
        let lease = client.grant(600).await;
        let compacted = client.put("present", "1").await;
        client.put("present", "2").await;
        let newest = client.put("present", "3").await;
        let physical = pb::CompactionRequest {
            revision: newest - 1,
            physical: true,
        };
        client.kv().compact(physical).await.expect("compaction succeeds");
        Given {
            compacted,
            newest,
            lease,
        }
    }
}

/// Rows in the order of their numbers.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
}

impl Table {
    fn add(&mut self, number: u32, answer: &Answer, calls: impl IntoIterator<Item = Call>) {
        for call in calls {
            let case = self.rows.iter().filter(|row| row.number == number).count();
            self.rows.push(Row {
                number,
                case,
                call,
                answer: answer.clone(),
            });
        }
    }

    fn refused(
        &mut self,
        number: u32,
        code: Code,
        text: &'static str,
        calls: impl IntoIterator<Item = Call>,
    ) {
        self.add(number, &Answer::Refused(code, text), calls);
    }

    fn accepted(&mut self, number: u32, calls: impl IntoIterator<Item = Call>) {
        self.add(number, &Answer::Accepted, calls);
    }

    fn done(&mut self, number: u32, calls: impl IntoIterator<Item = Call>) {
        self.add(number, &Answer::Done, calls);
    }
}

/// All rows. Those that change something come last.
pub fn rows(given: &Given, door: Door) -> Vec<Row> {
    let mut table = Table::default();
    reads(&mut table, given);
    writes(&mut table, given);
    txns(&mut table, given);
    nesting(&mut table);
    compactions(&mut table, given);
    leases(&mut table, given);
    maintenance(&mut table, given, door);
    wire(&mut table);
    let mut rows = table.rows;
    rows.sort_by_key(|row| (matches!(row.answer, Answer::Done), row.number));
    rows
}

fn present(change: impl FnOnce(&mut pb::RangeRequest)) -> pb::RangeRequest {
    let mut request = single("present");
    change(&mut request);
    request
}

fn at(revision: i64) -> pb::RangeRequest {
    present(|request| request.revision = revision)
}

fn all(change: impl FnOnce(&mut pb::RangeRequest)) -> pb::RangeRequest {
    let mut request = everything();
    change(&mut request);
    request
}

fn reads(table: &mut Table, given: &Given) {
    use Call::{Range, Stream};
    use Code::{InvalidArgument, OutOfRange};
    let empty = [Range(single("")), Range(between("", "x")), Stream(single(""))];
    table.refused(1, InvalidArgument, EMPTY_KEY, empty);
    let sorts = [
        Range(present(|request| request.sort_order = 3)),
        Range(present(|request| request.sort_order = -1)),
        Range(present(|request| request.sort_target = 5)),
        Range(present(|request| request.sort_target = -1)),
        of(Op::RequestRange(present(|request| request.sort_target = 5))),
    ];
    table.refused(2, InvalidArgument, SORT, sorts);
    let future = [given.newest + 1, i64::MAX];
    table.refused(3, OutOfRange, FUTURE, future.map(|revision| Range(at(revision))));
    table.refused(3, OutOfRange, FUTURE, [Stream(at(i64::MAX))]);
    let compacted = [
        Range(at(given.compacted)),
        Range(all(|request| request.revision = 1)),
        Range(all(|request| {
            request.revision = given.compacted;
            request.count_only = true;
        })),
        Range(all(|request| {
            request.revision = given.compacted;
            request.serializable = true;
        })),
        Stream(at(given.compacted)),
    ];
    table.refused(3, OutOfRange, COMPACTED, compacted);
    let legal = [
        Range(at(-1)),
        Range(at(i64::MIN)),
        Range(all(|request| request.limit = -1)),
        Range(all(|request| request.limit = i64::MIN)),
        Range(all(|request| request.limit = i64::MAX)),
        Range(between("b", "a")),
        Range(between("b", "b")),
        Range(all(|request| {
            request.min_mod_revision = i64::MAX;
            request.max_mod_revision = i64::MIN;
        })),
    ];
    table.accepted(4, legal);
}

fn put_present(change: impl FnOnce(&mut pb::PutRequest)) -> pb::PutRequest {
    let mut request = put("present", "v");
    change(&mut request);
    request
}

fn writes(table: &mut Table, given: &Given) {
    use Call::{Delete, Put};
    use Code::{InvalidArgument, NotFound, ResourceExhausted};
    table.refused(
        1,
        InvalidArgument,
        EMPTY_KEY,
        [Put(put("", "v")), Delete(delete(""))],
    );
    let with_value = put_present(|request| request.ignore_value = true);
    table.refused(
        5,
        InvalidArgument,
        VALUE,
        [Put(with_value.clone()), of(Op::RequestPut(with_value))],
    );
    let with_lease = put_present(|request| {
        request.ignore_lease = true;
        request.lease = given.lease;
    });
    table.refused(
        5,
        InvalidArgument,
        LEASE,
        [Put(with_lease.clone()), of(Op::RequestPut(with_lease))],
    );
    let absent = |ignore_value| pb::PutRequest {
        ignore_value,
        ignore_lease: !ignore_value,
        ..put("absent", "")
    };
    table.refused(
        6,
        InvalidArgument,
        ABSENT_KEY,
        [
            Put(absent(true)),
            Put(absent(false)),
            of(Op::RequestPut(absent(true))),
            of(Op::RequestPut(absent(false))),
        ],
    );
    for lease in [UNKNOWN_LEASE, -1, i64::MIN] {
        let request = put_present(|request| request.lease = lease);
        table.refused(
            7,
            NotFound,
            NO_LEASE,
            [Put(request.clone()), of(Op::RequestPut(request))],
        );
    }
    let large = put("present", &"v".repeat(TOO_LARGE_BYTES));
    table.refused(
        8,
        InvalidArgument,
        TOO_LARGE,
        [Put(large.clone()), of(Op::RequestPut(large))],
    );
    let above_grpc = put("present", &"v".repeat(3 << 20));
    table.add(8, &Answer::RefusedAs(ResourceExhausted), [Put(above_grpc)]);
    let odd_keys: [&[u8]; 4] = [b"\0", b"a\0b", b"\xff\xff", b"\xc3\x28 is no UTF-8"];
    let odd = odd_keys.map(|key| {
        Put(pb::PutRequest {
            key: Bytes::copy_from_slice(key),
            ..put("", "v")
        })
    });
    table.done(9, odd);
    table.done(9, [Put(put(&"k".repeat(1 << 20), "v"))]);
    table.accepted(
        10,
        [
            Delete(delete("absent")),
            Call::Txn(txn(vec![], vec![], vec![])),
            of(Op::RequestDeleteRange(delete("absent"))),
        ],
    );
}

fn put_op(key: &str) -> Op {
    Op::RequestPut(put(key, "v"))
}

fn inner(ops: Vec<Op>) -> Op {
    Op::RequestTxn(txn(vec![], ops, vec![]))
}

fn txns(table: &mut Table, given: &Given) {
    use Call::Txn;
    use Code::{InvalidArgument, OutOfRange};
    let version = |key| compare(key, CompareResult::Equal, TargetUnion::Version(0));
    table.refused(
        1,
        InvalidArgument,
        EMPTY_KEY,
        [
            of(Op::RequestRange(single(""))),
            of(Op::RequestPut(put("", ""))),
            of(Op::RequestDeleteRange(delete(""))),
            of(inner(vec![put_op("")])),
            Txn(txn(vec![version("")], vec![], vec![])),
        ],
    );
    let reads = vec![Op::RequestRange(single("present")); OPS_MAX + 1];
    table.refused(
        11,
        InvalidArgument,
        TOO_MANY,
        [
            Txn(txn(vec![version("present"); OPS_MAX + 1], vec![], vec![])),
            Txn(txn(vec![], reads.clone(), vec![])),
            Txn(txn(vec![], vec![], reads)),
        ],
    );
    let twice = [
        vec![put_op("a"), put_op("a")],
        vec![put_op("a"), Op::RequestDeleteRange(delete("a"))],
        vec![put_op("a"), inner(vec![put_op("a")])],
        vec![inner(vec![put_op("a")]), inner(vec![put_op("a")])],
    ];
    for ops in twice {
        table.refused(
            12,
            InvalidArgument,
            DUPLICATE_KEY,
            [
                Txn(txn(vec![], ops.clone(), vec![])),
                Txn(txn(vec![], vec![], ops)),
            ],
        );
    }
    let overlapping = || Op::RequestDeleteRange(delete("absent"));
    table.accepted(13, [Txn(txn(vec![], vec![overlapping(), overlapping()], vec![]))]);
    table.done(13, [Txn(txn(vec![], vec![put_op("a")], vec![put_op("a")]))]);
    let no_request = vec![pb::RequestOp { request: None }];
    table.refused(
        14,
        InvalidArgument,
        ABSENT_KEY,
        [
            Txn(pb::TxnRequest {
                success: no_request.clone(),
                ..Default::default()
            }),
            Txn(pb::TxnRequest {
                failure: no_request,
                ..Default::default()
            }),
        ],
    );
    let out_of_reach = |revision| vec![put_op("a"), Op::RequestRange(at(revision))];
    for (revision, text) in [
        (given.newest + 10, FUTURE),
        (i64::MAX, FUTURE),
        (given.compacted, COMPACTED),
    ] {
        table.refused(
            15,
            OutOfRange,
            text,
            [
                Txn(txn(vec![], out_of_reach(revision), vec![])),
                of(inner(out_of_reach(revision))),
            ],
        );
    }
    let unknown = |result, target| pb::Compare {
        result,
        target,
        ..compare("present", CompareResult::Equal, TargetUnion::Version(3))
    };
    table.accepted(16, [Txn(txn(vec![unknown(9, 0), unknown(0, 9)], vec![], vec![]))]);
}

fn nesting(table: &mut Table) {
    const TXN: &str = "/etcdserverpb.KV/Txn";
    table.accepted(17, [Call::Txn(nested(40)), Call::Raw(TXN, nested_message(40))]);
    table.refused(
        17,
        Code::InvalidArgument,
        TOO_MANY,
        [Call::Txn(nested(140)), Call::Raw(TXN, nested_message(140))],
    );
    table.add(
        17,
        &Answer::RefusedSomehow,
        [Call::Raw(TXN, nested_message(20_000))],
    );
}

fn compactions(table: &mut Table, given: &Given) {
    let future = [given.newest + 1, i64::MAX];
    table.refused(18, Code::OutOfRange, FUTURE, future.map(Call::Compact));
    let compacted = [given.newest - 1, 0, -1, i64::MIN];
    table.refused(18, Code::OutOfRange, COMPACTED, compacted.map(Call::Compact));
}

fn leases(table: &mut Table, given: &Given) {
    use Call::{Grant, KeepAlive, Revoke, TimeToLive};
    let too_large = [9_000_000_001, i64::MAX].map(|ttl| Grant { ttl, id: 0 });
    table.refused(19, Code::OutOfRange, TTL_TOO_LARGE, too_large);
    let taken = Grant {
        ttl: 60,
        id: given.lease,
    };
    table.refused(
        19,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
        [taken],
    );
    table.done(
        19,
        [
            Grant { ttl: 0, id: 0 },
            Grant { ttl: -1, id: 0 },
            Grant {
                ttl: i64::MIN,
                id: i64::MIN,
            },
        ],
    );
    table.refused(20, Code::NotFound, NO_LEASE, [UNKNOWN_LEASE, 0, -1].map(Revoke));
    table.accepted(20, [UNKNOWN_LEASE, 0, -1].map(TimeToLive));
    table.accepted(20, [UNKNOWN_LEASE, 0, -1].map(KeepAlive));
}

fn maintenance(table: &mut Table, given: &Given, door: Door) {
    let no_transferee = match door {
        Door::Lone | Door::Leader => "etcdserver: bad leader transferee",
        Door::Follower => "etcdserver: not leader",
    };
    let nobody = [0, u64::MAX, 4711].map(Call::MoveLeader);
    table.refused(30, Code::FailedPrecondition, no_transferee, nobody);
    let future = [given.newest + 1, i64::MAX].map(Call::HashKv);
    table.refused(31, Code::OutOfRange, FUTURE, future);
    table.refused(31, Code::OutOfRange, COMPACTED, [Call::HashKv(given.compacted)]);
    if Difference::UnknownAlarm.applies() {
        let unknown = pb::AlarmRequest {
            action: 9,
            ..Default::default()
        };
        let text = "etcdserver: invalid alarm request";
        table.refused(31, Code::InvalidArgument, text, [Call::Alarm(unknown)]);
    }
    let off = "etcdserver: authentication is not enabled";
    table.refused(32, Code::FailedPrecondition, off, [Call::Authenticate]);
}

fn wire(table: &mut Table) {
    // A key that claims to be longer than the message.
    let cut = || vec![0x0a, 0x7f, b'x'];
    let served = [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Cluster/MemberList",
        "/etcdserverpb.Maintenance/Status",
        "/v3lockpb.Lock/Lock",
    ];
    let malformed = Answer::RefusedAs(Code::Internal);
    table.add(37, &malformed, served.map(|path| Call::Raw(path, cut())));
    let unknown = ["/etcdserverpb.KV/Nothing", "/no.such.Service/Call", "/"];
    let unimplemented = Answer::RefusedAs(Code::Unimplemented);
    table.add(
        37,
        &unimplemented,
        unknown.map(|path| Call::Raw(path, Vec::new())),
    );
    let mut later = prost::Message::encode_to_vec(&put("k", "v"));
    // Field 1000, a varint, as a later version may send it.
    later.extend([0xc0, 0x3e, 0x01]);
    table.done(37, [Call::Raw("/etcdserverpb.KV/Put", later)]);
}
