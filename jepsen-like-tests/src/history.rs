//! The history of a run: what clients tried and saw, what the nemesis did, one JSON line each.
//!
//! A recorder (a simulation, or clients of real processes) makes [`Record`]s through a [`Writer`] or collects them in a
//! [`History`]; checkers ([`crate::check`]) read a [`History`]. Promises of whoever records:
//!
//! * `at` is nanoseconds of one monotonic clock for all records of a history, starting anywhere. A call is stamped
//!   before its request leaves, a return after its reply has arrived.
//! * Lines stand in the order of `at`, as far as threads allow; checkers sort where it matters. The records of one
//!   stream, though, stand in the order the client saw them.
//! * Each call has an id of its own and at most one return; a call without one is *unknown*. Clients never retry: a
//!   retry is a new call. [`Outcome::Failed`] is only for errors that promise that nothing was written
//!   ([`convert::outcome`] draws the line for gRPC).
//! * Values written are unique wherever the workload allows it: that is what lets `order` place unknown writes.
//! * One observer watches all keys (key 0x00, range end 0x00, no filter) from revision 1, across reconnects.
//! * [`Record::Mark`] tells the phases; after [`Phase::Final`], when everything has been restarted, some client reads
//!   all keys and watches all keys from revision 1 (or from the compact revision) up to the newest revision.
//! * [`Record::Process`] tells each start and stop of a member, [`Record::Fault`] each fault once it has ended.
//!
//! ```
//! use kelson_jepsen::history::{Call, History, Outcome, Put, PutResponse, Record, Request, Response, Return};
//!
//! let mut history = History::default();
//! let put = Put { key: "a".into(), value: "1".into(), ..Put::default() };
//! history.push(Record::Call(Call { at: 10, id: 1, client: 0, member: Some(2), request: Request::Put(put) }));
//! let outcome = Outcome::Ok(Response::Put(PutResponse::default()));
//! history.push(Record::Return(Return { at: 25, id: 1, outcome }));
//! assert_eq!(history.operations().len(), 1);
//! ```
//!
//! An episode directory holds `history.jsonl` (this) and, if the harness could ask the members, `members.json` (a list
//! of [`MemberSummary`]).

mod blob;
pub mod convert;
mod member;
mod op;
mod stream;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use blob::Blob;
pub use member::{AlarmInfo, LeaseInfo, MemberInfo, MemberSummary, WalEntry};
pub use op::{
    Admin, Compact, Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeResponse, Header,
    HeaderResponse, KeyValue, LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse, Outcome, Put, PutResponse, Range, RangeResponse, Request, Response, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
pub use stream::{Event, EventKind, StreamEvent, StreamRecord, WatchCreate, WatchResponse};

/// Name of the history in an episode directory.
pub const HISTORY_FILE: &str = "history.jsonl";
/// Name of the member summaries in an episode directory.
pub const MEMBERS_FILE: &str = "members.json";

/// A client begins a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When, in nanoseconds of the history's monotonic clock.
    pub at: u64,
    /// The call: unique in the history.
    pub id: u64,
    /// The client.
    pub client: u32,
    /// Index of the member it was sent to, when the client knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<u32>,
    /// The request.
    pub request: Request,
}

/// A call returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// When, in nanoseconds of the history's monotonic clock.
    pub at: u64,
    /// The call.
    pub id: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A fault that the nemesis made, written when it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Kind, as in the table of rung d: `kill`, `pause`, `partition`, `clock`...
    pub kind: String,
    /// Indexes of the members it was aimed at.
    pub targets: Vec<u32>,
    /// When it began, in nanoseconds.
    pub start: u64,
    /// When it was over (the member runs again, the rule is gone), in nanoseconds.
    pub end: u64,
    /// Whether it was seen to work: packets were dropped, the process was down.
    pub took_effect: bool,
    /// Whether, as far as this and all faults at the same time go, a majority of voters could still talk to each other
    /// and to clients: what the liveness bounds need to know.
    pub majority_remains: bool,
    /// Whether the clock rate or the disk was slowed so that no liveness bound applies while it lasts.
    pub slows: bool,
    /// Anything a reader wants to know.
    pub detail: String,
}

/// The phases of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Load without faults.
    Calm,
    /// Faults from here on.
    Faults,
    /// The last fault has been undone; load goes on.
    Healed,
    /// Load has stopped, all members run; what follows are the final reads.
    Final,
}

/// A member's process (or its simulation) started or stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// When, in nanoseconds.
    pub at: u64,
    /// Index of the member.
    pub member: u32,
    /// Member id, 0 when unknown: ties the index to `header.member_id`.
    #[serde(default)]
    pub id: u64,
    /// True when it started, false when it was stopped, was killed or died.
    pub up: bool,
}

/// A member became leader, as far as the recorder can see (headers tell the term, too).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// When it was seen, in nanoseconds; not before it happened.
    pub at: u64,
    /// Index of the member.
    pub member: u32,
    /// Its term.
    pub term: u64,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A call begins.
    Call(Call),
    /// A call returns.
    Return(Return),
    /// Something on a watch stream.
    Stream(StreamRecord),
    /// A fault, once it is over.
    Fault(Fault),
    /// A phase begins.
    Mark {
        /// When, in nanoseconds.
        at: u64,
        /// Which.
        phase: Phase,
    },
    /// A member started or stopped.
    Process(Process),
    /// A leader was seen.
    Leader(Leader),
    /// Free text for readers: seed, plan, versions.
    Note {
        /// When, in nanoseconds.
        at: u64,
        /// The text.
        text: String,
    },
}

/// One call with its return: what most checkers look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The call's id.
    pub id: u64,
    /// The client.
    pub client: u32,
    /// Index of the member it was sent to.
    pub member: Option<u32>,
    /// When it was called, in nanoseconds.
    pub call: u64,
    /// When it returned; `u64::MAX` for ever, which is where unknown operations end.
    pub ret: u64,
    /// The request.
    pub request: Request,
    /// How it ended.
    pub outcome: Outcome,
}

impl Operation {
    /// The response, if it is known that it happened.
    pub fn response(&self) -> Option<&Response> {
        match &self.outcome {
            Outcome::Ok(response) => Some(response),
            Outcome::Failed { .. } | Outcome::Unknown { .. } => None,
        }
    }

    /// Whether nobody knows if it happened.
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown { .. })
    }
}

/// A whole history in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The lines in the order they were recorded.
    pub records: Vec<Record>,
}

impl History {
    /// Adds a record at the end.
    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// Reads a history from a file of JSON lines. A last line without a newline (the recorder was killed in the middle
    /// of it) is dropped; any other damage is an error that names its line.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut records = Vec::new();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let record = serde_json::from_str(&line).map_err(|error| {
                let place = format!("{}:{}: {error}", path.display(), records.len() + 1);
                io::Error::new(io::ErrorKind::InvalidData, place)
            })?;
            records.push(record);
            line.clear();
        }
        Ok(Self { records })
    }

    /// Every call with its return, in the order of the calls. Calls without a return are unknown.
    ///
    /// # Panics
    /// When an id is called twice, or returns twice or without a call: that is a bug of the recorder.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations: Vec<Operation> = Vec::new();
        let mut place = HashMap::new();
        for record in &self.records {
            match record {
                Record::Call(call) => {
                    let earlier = place.insert(call.id, operations.len());
                    assert!(earlier.is_none(), "call id {} used twice", call.id);
                    operations.push(Operation {
                        id: call.id,
                        client: call.client,
                        member: call.member,
                        call: call.at,
                        ret: u64::MAX,
                        request: call.request.clone(),
                        outcome: Outcome::Unknown {
                            code: -1,
                            text: "never returned".into(),
                        },
                    });
                }
                Record::Return(done) => {
                    let at = place.get_mut(&done.id).expect("a return follows its call");
                    let operation = operations
                        .get_mut(std::mem::replace(at, usize::MAX))
                        .expect("a call returns once");
                    let unknown = matches!(done.outcome, Outcome::Unknown { .. });
                    operation.ret = if unknown { u64::MAX } else { done.at };
                    operation.outcome = done.outcome.clone();
                }
                _ => {}
            }
        }
        operations.sort_by_key(|operation| (operation.call, operation.id));
        operations
    }

    /// When a phase began, in nanoseconds.
    pub fn phase(&self, wanted: Phase) -> Option<u64> {
        self.records.iter().find_map(|record| match record {
            Record::Mark { at, phase } if *phase == wanted => Some(*at),
            _ => None,
        })
    }

    /// Every fault.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.records.iter().filter_map(|record| match record {
            Record::Fault(fault) => Some(fault),
            _ => None,
        })
    }

    /// Everything about watch streams.
    pub fn streams(&self) -> impl Iterator<Item = &StreamRecord> {
        self.records.iter().filter_map(|record| match record {
            Record::Stream(stream) => Some(stream),
            _ => None,
        })
    }
}

/// Appends a history to a file, one JSON line for each record.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    /// Opens a file for appending, creating it if needed.
    pub fn append(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: BufWriter::new(file),
        })
    }

    /// Adds a record. It is on disk for sure only after [`Writer::flush`].
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, record)?;
        self.file.write_all(b"\n")
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads the member summaries of an episode directory; none when there is no such file.
pub fn read_members(path: &Path) -> io::Result<Vec<MemberSummary>> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Writes the member summaries of an episode.
pub fn write_members(path: &Path, members: &[MemberSummary]) -> io::Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(members)?)
}

#[cfg(test)]
mod tests;
