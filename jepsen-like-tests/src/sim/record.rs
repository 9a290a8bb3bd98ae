//! [`Recorder`]: the history of a simulated run: calls and returns, starts and stops, watch streams, and one stream that
//! nobody could have in earnest, of every event that any member has applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_storage::applied::EventBatch;
use kelson_storage::error::Rejected;
use kelson_storage::key_value;
use kelson_storage::store::{ReadError, StoreReader};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::invariants::Invariants;
use super::trace::Trace;
use crate::history::{
    Call, Event, EventKind, Fault, Header, History, KeyValue, Leader, Outcome, Phase, Process, Record,
    Request, Return, StreamEvent, StreamRecord, WatchCreate, WatchResponse,
};

/// Bytes of history read from a member at once.
const BITE_BYTES: usize = 1024 * 1024;
/// Revision before the first event.
const FIRST_REVISION: u64 = 1;
/// Client, stream and watcher of the one who sees every event.
const OBSERVER: u32 = 999;

/// See the module. Clones are the same recorder.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
    start: Instant,
    trace: Trace,
}

struct Inner {
    history: History,
    next_number: u64,
    /// The revision up to which the observer has seen all events.
    collected: u64,
    /// Faults that are not over.
    faults: BTreeMap<u64, Fault>,
}

impl Recorder {
    /// A recorder whose clock starts now.
    pub fn new(trace: Trace) -> Self {
        let recorder = Self {
            inner: Arc::new(Mutex::new(Inner {
                history: History::default(),
                next_number: 1000,
                collected: FIRST_REVISION,
                faults: BTreeMap::new(),
            })),
            start: Instant::now(),
            trace,
        };
        recorder.begin_observation();
        recorder
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// A number for a call, a stream or a watcher, that no other has.
    pub fn number(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.next_number += 1;
        inner.next_number
    }

    fn push(&self, record: Record) {
        self.inner.lock().history.push(record);
    }

    /// A client calls a member. Returns the id of the call.
    pub fn call(&self, client: u32, member: u64, request: Request) -> u64 {
        let id = self.number();
        self.trace.event("call", &[id, u64::from(client), member]);
        self.trace.note(|| format!("{id} {request:?}"));
        self.push(Record::Call(Call {
            at: self.now(),
            id,
            client,
            member: Some(member as u32),
            request,
        }));
        id
    }

    /// A call returns.
    pub fn returned(&self, id: u64, outcome: Outcome) {
        let kind = match &outcome {
            Outcome::Ok(response) => response.header().revision as u64,
            Outcome::Failed { .. } => u64::MAX,
            Outcome::Unknown { .. } => u64::MAX - 1,
        };
        self.trace.event("return", &[id, kind]);
        self.trace.note(|| format!("{id} {outcome:?}"));
        let at = self.now();
        self.push(Record::Return(Return { at, id, outcome }));
    }

    /// Something happens on a watch stream.
    pub fn stream(&self, client: u32, member: u64, stream: u64, event: StreamEvent) {
        if let StreamEvent::Response(response) = &event {
            let (revision, events) = (response.header.revision as u64, response.events.len() as u64);
            self.trace.event("watched", &[stream, revision, events]);
        }
        self.trace
            .note(|| format!("stream {stream} of member {member}: {event:?}"));
        self.push(Record::Stream(StreamRecord {
            at: self.now(),
            client,
            member: Some(member as u32),
            stream,
            event,
        }));
    }

    /// A member started or stopped.
    pub fn process(&self, member: u64, up: bool) {
        self.push(Record::Process(Process {
            at: self.now(),
            member: member as u32,
            id: member,
            up,
        }));
    }

    /// A member leads, in a term that had no leader before.
    pub fn leader(&self, member: u64, term: u64) {
        self.push(Record::Leader(Leader {
            at: self.now(),
            member: member as u32,
            term,
        }));
    }

    /// A fault begins. Returns its number.
    pub fn fault_begins(&self, kind: &str) -> u64 {
        let (number, start) = (self.number(), self.now());
        let fault = Fault {
            kind: kind.to_owned(),
            start,
            took_effect: true,
            ..Fault::default()
        };
        self.inner.lock().faults.insert(number, fault);
        number
    }

    /// A fault is over, unless everything has been healed before.
    pub fn fault_ends(&self, number: u64) {
        let end = self.now();
        let mut inner = self.inner.lock();
        if let Some(fault) = inner.faults.remove(&number) {
            inner.history.push(Record::Fault(Fault { end, ..fault }));
        }
    }

    /// All faults are over.
    pub fn all_faults_end(&self) {
        let open: Vec<u64> = self.inner.lock().faults.keys().copied().collect();
        for number in open {
            self.fault_ends(number);
        }
    }

    /// A phase begins.
    pub fn mark(&self, phase: Phase) {
        let at = self.now();
        self.push(Record::Mark { at, phase });
    }

    /// Takes what the member has applied and nobody had before.
    pub fn collect(&self, reader: &StoreReader, invariants: &Invariants) {
        while reader.revision() > self.collected() {
            let bite = match reader.history(self.collected() + 1, BITE_BYTES) {
                Ok(bite) => bite,
                Err(ReadError::Rejected(Rejected::Compacted)) => return,
                Err(error) => {
                    invariants.violated(format!("history cannot be read: {error:?}"));
                    return;
                }
            };
            for batch in &bite.batches {
                self.observe(response_of(batch));
            }
            let mut inner = self.inner.lock();
            inner.collected = inner.collected.max(bite.next - 1);
            if bite.batches.is_empty() {
                return;
            }
        }
    }

    /// Reads all history that a member has, as a watcher of all keys from its beginning would see it.
    pub fn final_history(&self, client: u32, member: u64, reader: &StoreReader) -> Result<(), String> {
        let stream = self.number();
        let mut next = reader.compacted().map_or(FIRST_REVISION, |at| at + 1);
        let tell = |event| self.stream(client, member, stream, event);
        tell(StreamEvent::Open);
        tell(StreamEvent::Create {
            watcher: stream,
            request: WatchCreate {
                start_revision: next as i64,
                ..everything()
            },
        });
        tell(StreamEvent::Response(WatchResponse {
            header: header(reader.revision()),
            created: true,
            ..WatchResponse::default()
        }));
        next = next.max(FIRST_REVISION + 1);
        while next <= reader.revision() {
            let bite = reader
                .history(next, BITE_BYTES)
                .map_err(|error| format!("the history of member {member} cannot be read: {error:?}"))?;
            for batch in &bite.batches {
                tell(StreamEvent::Response(response_of(batch)));
            }
            if bite.next <= next {
                return Err(format!("the history of member {member} ends before {next}"));
            }
            next = bite.next;
        }
        tell(StreamEvent::Closed {
            code: 0,
            text: "all was read".to_owned(),
        });
        Ok(())
    }

    /// The revision up to which all events are known here.
    pub fn collected(&self) -> u64 {
        self.inner.lock().collected
    }

    /// The history, as it is now.
    pub fn history(&self) -> History {
        self.inner.lock().history.clone()
    }

    fn begin_observation(&self) {
        self.observation(StreamEvent::Open);
        self.observation(StreamEvent::Create {
            watcher: u64::from(OBSERVER),
            request: everything(),
        });
        self.observe(WatchResponse {
            created: true,
            ..WatchResponse::default()
        });
    }

    fn observe(&self, response: WatchResponse) {
        self.observation(StreamEvent::Response(response));
    }

    fn observation(&self, event: StreamEvent) {
        self.push(Record::Stream(StreamRecord {
            at: self.now(),
            client: OBSERVER,
            member: None,
            stream: u64::from(OBSERVER),
            event,
        }));
    }
}

fn everything() -> WatchCreate {
    WatchCreate {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision: FIRST_REVISION as i64,
        ..WatchCreate::default()
    }
}

fn header(revision: u64) -> Header {
    Header {
        revision: revision as i64,
        ..Header::default()
    }
}

fn response_of(batch: &EventBatch) -> WatchResponse {
    WatchResponse {
        header: header(batch.revision),
        events: events_of(batch),
        ..WatchResponse::default()
    }
}

fn events_of(batch: &EventBatch) -> Vec<Event> {
    let events = batch.events.iter();
    let events = events.map(|event| {
        let kv = key_value::KeyValue::decode(&event.kv).expect("the store gives encoded pairs");
        Event {
            kind: match event.kind {
                kelson_storage::applied::EventKind::Put => EventKind::Put,
                kelson_storage::applied::EventKind::Delete => EventKind::Delete,
            },
            kv: KeyValue {
                key: kv.key.into(),
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
                version: kv.version,
                value: kv.value.into(),
                lease: kv.lease,
            },
            prev_kv: None,
        }
    });
    events.collect()
}
