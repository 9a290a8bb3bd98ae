//! Histories survive being written and read, also when the recorder dies in the middle of a line.

use super::*;

fn some_history() -> History {
    let mut history = History::default();
    let txn = Txn {
        compare: vec![Compare {
            key: "k".into(),
            target: CompareTarget::Value("v".into()),
            ..Compare::default()
        }],
        success: vec![
            TxnOp::Put(Put {
                key: Blob::from(&b"\x00\xff"[..]),
                lease: -7,
                ..Put::default()
            }),
            TxnOp::Txn(Txn {
                failure: vec![TxnOp::Range(Range::default())],
                ..Txn::default()
            }),
        ],
        failure: vec![],
    };
    history.push(Record::Note {
        at: 0,
        text: "seed 7".into(),
    });
    history.push(Record::Call(Call {
        at: 1,
        id: 1,
        client: 3,
        member: None,
        request: Request::Txn(txn),
    }));
    let kv = KeyValue {
        key: "k".into(),
        mod_revision: 4,
        ..KeyValue::default()
    };
    let range = RangeResponse {
        kvs: vec![kv.clone()],
        count: 1,
        ..RangeResponse::default()
    };
    let reply = TxnResponse {
        responses: vec![TxnOpResponse::Range(range)],
        ..TxnResponse::default()
    };
    history.push(Record::Return(Return {
        at: 2,
        id: 1,
        outcome: Outcome::Ok(Response::Txn(reply)),
    }));
    let event = Event {
        kind: EventKind::Delete,
        kv: kv.clone(),
        prev_kv: Some(kv),
    };
    let response = WatchResponse {
        watch_id: -1,
        events: vec![event],
        ..WatchResponse::default()
    };
    let event = StreamEvent::Response(response);
    history.push(Record::Stream(StreamRecord {
        at: 3,
        client: 1,
        member: Some(0),
        stream: 9,
        event,
    }));
    let event = StreamEvent::Open;
    history.push(Record::Stream(StreamRecord {
        at: 3,
        client: 1,
        member: None,
        stream: 10,
        event,
    }));
    history.push(Record::Fault(Fault {
        kind: "kill".into(),
        targets: vec![1],
        ..Fault::default()
    }));
    history.push(Record::Mark {
        at: 9,
        phase: Phase::Final,
    });
    history.push(Record::Process(Process {
        at: 9,
        member: 1,
        id: 5,
        up: true,
    }));
    history.push(Record::Leader(Leader {
        at: 9,
        member: 1,
        term: 5,
    }));
    history
}

fn written(history: &History, path: &Path) {
    let mut writer = Writer::append(path).unwrap();
    for record in &history.records {
        writer.write(record).unwrap();
    }
    writer.flush().unwrap();
}

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(HISTORY_FILE);
    written(&some_history(), &path);
    assert_eq!(History::read(&path).unwrap(), some_history());
}

#[test]
fn a_last_line_cut_short_is_dropped_and_an_earlier_one_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(HISTORY_FILE);
    written(&some_history(), &path);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let read = History::read(&path).unwrap();
    assert_eq!(read.records, some_history().records[..read.records.len()]);
    assert_eq!(read.records.len(), some_history().records.len() - 1);

    let mut damaged = whole;
    damaged[3] = b'!';
    std::fs::write(&path, damaged).unwrap();
    let error = History::read(&path).unwrap_err().to_string();
    assert!(error.contains("history.jsonl:1:"), "{error}");
}

#[test]
fn a_call_that_never_returned_is_open_to_the_end_of_time() {
    let mut history = some_history();
    let request = Request::Admin(Admin {
        name: "MoveLeader".into(),
        ..Admin::default()
    });
    history.push(Record::Call(Call {
        at: 4,
        id: 2,
        client: 0,
        member: None,
        request,
    }));
    let operations = history.operations();
    assert_eq!((operations[0].call, operations[0].ret), (1, 2));
    assert_eq!((operations[1].call, operations[1].ret), (4, u64::MAX));
    assert!(operations[1].is_unknown());
}

#[test]
fn member_summaries_are_written_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(MEMBERS_FILE);
    assert_eq!(read_members(&path).unwrap(), []);
    let wal = vec![WalEntry {
        index: 3,
        term: 1,
        ..WalEntry::default()
    }];
    let members = [MemberSummary {
        revision: Some(4),
        wal: Some(wal),
        ..MemberSummary::default()
    }];
    write_members(&path, &members).unwrap();
    assert_eq!(read_members(&path).unwrap(), members);
}

#[test]
fn only_the_servers_own_rejections_are_failures() {
    use tonic::{Code, Status};
    let failed =
        |code, text: &str| matches!(convert::failure(&Status::new(code, text)), Outcome::Failed { .. });
    assert!(failed(Code::NotFound, "etcdserver: requested lease not found"));
    assert!(failed(
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted"
    ));
    assert!(!failed(Code::OutOfRange, "decoded message length too large"));
    assert!(!failed(Code::Unavailable, "etcdserver: request timed out"));
    assert!(!failed(Code::Unavailable, "etcdserver: leader changed"));
    assert!(!failed(Code::Unknown, "transport error"));
    assert!(!failed(
        Code::DeadlineExceeded,
        "etcdserver: context deadline exceeded"
    ));
}
