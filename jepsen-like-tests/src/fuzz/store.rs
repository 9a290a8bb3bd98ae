//! The store and the conversion of requests, against the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_proto::etcdserverpb as pb;
use kelson_server::convert;
use kelson_server::status::ClientError;
use kelson_storage::applied::{Applied, Outcome};
use kelson_storage::codec::encode_batch;
use kelson_storage::command::{Command, CommandId, Proposal};
use kelson_storage::disk::Disk;
use kelson_storage::limits::CacheBudget;
use kelson_storage::revision::LogPosition;
use kelson_storage::store::{ApplySink, ReadError, Store, StoreOptions};
use kelson_storage::testing::FaultyDisk;

use super::{Input, requests};
use crate::history::convert as recorded;
use crate::history::{Blob, Range, Request, Response};
use crate::model::{self, Model, Rejected};

/// Requests of one run.
const REQUESTS_MAX: usize = 60;
/// Deepest transaction that is validated.
const DEPTH_MAX: usize = 6;
const OVERLAY_BYTES: usize = 4096;
const EVENT_RING_BYTES: usize = 4096;
const TERM: u64 = 3;

/// Code and text, as a client sees them.
type Status = (i32, String);

fn refused(rejected: Rejected) -> Status {
    let (code, text) = rejected.status();
    (code, text.to_owned())
}

fn status_of(error: impl Into<ClientError>) -> Status {
    let error = error.into();
    (i32::from(error.code().number()), error.text().to_owned())
}

/// What is refused whatever the state.
pub(super) fn validate(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let txn = requests::txn(&mut input, &Model::default(), DEPTH_MAX);
    let converted = convert::txn(pb::TxnRequest::from(&txn), model::MAX_TXN_OPS);
    let found = converted.map(drop).map_err(status_of);
    let expected = model::validate(&Request::Txn(txn.clone())).map_err(refused);
    assert_eq!(found, expected, "{txn:?}");
}

/// A store on a disk of its own.
struct Subject {
    disk: FaultyDisk,
    store: Store,
    applied: u64,
}

/// Keeps the outcome of the one command that is applied.
#[derive(Default)]
struct Sink {
    outcome: Option<Outcome>,
}

impl ApplySink for Sink {
    fn outcome(&mut self, _: CommandId, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
    fn lease_granted(&mut self, _: i64, _: i64) {}
    fn lease_revoked(&mut self, _: i64) {}
}

fn open(disk: &FaultyDisk) -> Store {
    let options = StoreOptions {
        database: PathBuf::from("/snap/db"),
        cache: CacheBudget {
            overlay: OVERLAY_BYTES,
            event_ring: EVENT_RING_BYTES,
            ..CacheBudget::default()
        },
    };
    Store::open(Arc::new(disk.clone()), options).expect("what the store wrote")
}

impl Subject {
    fn new() -> Self {
        let disk = FaultyDisk::new();
        disk.create_directory(Path::new("/snap"))
            .expect("directories are made");
        Self {
            store: open(&disk),
            disk,
            applied: 0,
        }
    }

    /// A durable checkpoint and a start from it.
    fn restart(self) -> Self {
        self.store.checkpointer().step(true).expect("a sound disk");
        let hash = self.store.rolling_hash();
        let disk = self.disk.restart();
        drop(self.store);
        let store = open(&disk);
        assert_eq!(store.rolling_hash(), hash, "the restart changed the state");
        Self {
            disk,
            store,
            applied: self.applied,
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response, Status> {
        let command = match request {
            Request::Range(range) => return self.read(range),
            Request::Put(put) => Command::Put(convert::put(put.into()).map_err(status_of)?),
            Request::DeleteRange(delete) => {
                Command::DeleteRange(convert::delete_range(delete.into()).map_err(status_of)?)
            }
            Request::Txn(txn) => {
                Command::Txn(convert::txn(txn.into(), model::MAX_TXN_OPS).map_err(status_of)?)
            }
            Request::Compact(compact) => Command::Compact {
                revision: compact.revision,
            },
            Request::LeaseGrant(grant) => Command::LeaseGrant {
                id: grant.id,
                ttl: grant.ttl,
            },
            Request::LeaseRevoke(lease) => Command::LeaseRevoke {
                id: lease.id,
                expiry_term: None,
            },
            other => unreachable!("{other:?} is not made"),
        };
        self.apply(command)
    }

    fn read(&self, range: &Range) -> Result<Response, Status> {
        let range = convert::range(range.into()).map_err(status_of)?;
        let view = self.store.reader().view();
        let result = view.range(&range).map_err(|error| match error {
            ReadError::Rejected(rejected) => status_of(rejected),
            ReadError::Fault(fault) => panic!("{fault}"),
        })?;
        let reply = convert::range_reply(header(view.revision()), result);
        Ok(Response::Range(recorded::range(reply).expect("a sound reply")))
    }

    fn apply(&mut self, command: Command) -> Result<Response, Status> {
        self.applied += 1;
        let (seq, index) = (self.applied, self.applied - 1);
        let proposal = Proposal {
            id: CommandId {
                origin: 1,
                session: 1,
                seq,
            },
            low: seq,
            command,
        };
        let mut sink = Sink::default();
        let at = LogPosition { term: TERM, index };
        self.store
            .apply_batch(at, &encode_batch([&proposal]), &mut sink)
            .expect("a sound disk");
        let outcome = sink.outcome.expect("each command has an outcome");
        let header = header(outcome.revision);
        Ok(response(header, outcome.result.map_err(status_of)?))
    }
}

fn header(revision: u64) -> pb::ResponseHeader {
    pb::ResponseHeader {
        revision: revision.cast_signed(),
        ..pb::ResponseHeader::default()
    }
}

fn response(header: pb::ResponseHeader, applied: Applied) -> Response {
    let sound = "a sound reply";
    match applied {
        Applied::Put { prev_kv } => {
            Response::Put(recorded::put(convert::put_reply(header, prev_kv)).expect(sound))
        }
        Applied::DeleteRange(deleted) => Response::DeleteRange(
            recorded::delete_range(convert::delete_range_reply(header, deleted)).expect(sound),
        ),
        Applied::Txn(applied) => {
            Response::Txn(recorded::txn(convert::txn_reply(header, applied)).expect(sound))
        }
        Applied::Compact => {
            Response::Compact(recorded::compact(pb::CompactionResponse { header: Some(header) }))
        }
        Applied::LeaseGrant { id, ttl } => {
            Response::LeaseGrant(recorded::lease_grant(pb::LeaseGrantResponse {
                header: Some(header),
                id,
                ttl,
                ..pb::LeaseGrantResponse::default()
            }))
        }
        Applied::LeaseRevoke => Response::LeaseRevoke(recorded::lease_revoke(pb::LeaseRevokeResponse {
            header: Some(header),
        })),
        other => panic!("{other:?} answers nothing that was asked"),
    }
}

/// Requests, checkpoints and restarts; in the end all of history.
pub(super) fn differential(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut subject = Subject::new();
    let mut checkpointer = subject.store.checkpointer();
    let mut model = Model::default();
    for _ in 0..REQUESTS_MAX {
        if input.is_empty() {
            break;
        }
        if input.once_in(16) {
            subject = subject.restart();
            checkpointer = subject.store.checkpointer();
        } else if input.once_in(4) {
            checkpointer.step(input.once_in(2)).expect("a sound disk");
        }
        let request = requests::request(&mut input, &model);
        let found = subject.ask(&request);
        let expected = model
            .apply(&request)
            .map(|applied| applied.response)
            .map_err(refused);
        assert_eq!(found, expected, "{request:?}");
    }
    for revision in model.compacted.max(1)..=model.revision {
        let everything = Request::Range(Range {
            key: Blob(vec![0].into()),
            range_end: Blob(vec![0].into()),
            revision,
            serializable: true,
            ..Range::default()
        });
        let found = subject.ask(&everything);
        let expected = model
            .apply(&everything)
            .map(|applied| applied.response)
            .map_err(refused);
        assert_eq!(found, expected, "at revision {revision}");
    }
}
