//! Hand-written histories: a script whose right answers come from the model, and ways to spoil them.
//!
//! Times are written in milliseconds. Calls are written in the order in which they take effect.

use crate::check::{Evidence, Verdict};
use crate::history::{
    Blob, Call, Compact, Compare, CompareResult, CompareTarget, DeleteRange, Event, Header, HeaderResponse,
    History, LeaseGrant, LeaseId, MemberSummary, Outcome, Phase, Process, Put, Range, Record, Request,
    Response, Return, StreamEvent, StreamRecord, Txn, TxnOp, WatchCreate, WatchResponse,
};
use crate::model::{Model, in_range};

pub(crate) const MS: u64 = 1_000_000;

/// One call of a script.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) call: u64,
    pub(crate) ret: u64,
    pub(crate) client: u32,
    pub(crate) request: Request,
    pub(crate) outcome: Outcome,
}

/// A history under construction: `lines[i]` is the call with id `i`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) model: Model,
    pub(crate) lines: Vec<Line>,
    pub(crate) extra: Vec<Record>,
    pub(crate) members: Vec<MemberSummary>,
    pub(crate) streams: u64,
    /// The member of all calls, and of what is added to streams from here on.
    pub(crate) member: Option<u32>,
}

pub(crate) fn put(key: &str, value: &str) -> Request {
    Request::Put(Put {
        key: key.into(),
        value: value.into(),
        ..Put::default()
    })
}

pub(crate) fn get(key: &str) -> Request {
    Request::Range(Range {
        key: key.into(),
        ..Range::default()
    })
}

pub(crate) fn everything() -> Range {
    Range {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Range::default()
    }
}

pub(crate) fn delete(key: &str) -> Request {
    Request::DeleteRange(DeleteRange {
        key: key.into(),
        ..DeleteRange::default()
    })
}

pub(crate) fn compact(revision: i64) -> Request {
    Request::Compact(Compact {
        revision,
        physical: false,
    })
}

pub(crate) fn grant(id: i64, ttl: i64) -> Request {
    Request::LeaseGrant(LeaseGrant { id, ttl })
}

pub(crate) fn revoke(id: i64) -> Request {
    Request::LeaseRevoke(LeaseId { id, keys: false })
}

pub(crate) fn keep_alive(id: i64) -> Request {
    Request::LeaseKeepAlive(LeaseId { id, keys: false })
}

pub(crate) fn put_leased(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(Put {
        key: key.into(),
        value: value.into(),
        lease,
        ..Put::default()
    })
}

pub(crate) fn put_op(key: &str, value: &str) -> TxnOp {
    TxnOp::Put(Put {
        key: key.into(),
        value: value.into(),
        ..Put::default()
    })
}

pub(crate) fn get_op(key: &str) -> TxnOp {
    TxnOp::Range(Range {
        key: key.into(),
        ..Range::default()
    })
}

/// If `key` holds `old`, put `new`; else read it.
pub(crate) fn cas(key: &str, old: &str, new: &str) -> Request {
    let target = CompareTarget::Value(old.into());
    let compare = Compare {
        key: key.into(),
        target,
        result: CompareResult::Equal,
        ..Compare::default()
    };
    Request::Txn(Txn {
        compare: vec![compare],
        success: vec![put_op(key, new)],
        failure: vec![get_op(key)],
    })
}

impl Script {
    /// A call that the model answers; returns its id.
    pub(crate) fn ok(&mut self, call: u64, ret: u64, request: Request) -> usize {
        // The model keeps all history, so that later lines can still look back.
        let mut response = if let Request::Compact(_) = request {
            Response::Compact(HeaderResponse {
                header: header(self.model.revision),
            })
        } else {
            let applied = self.model.apply(&request);
            applied.expect("the script asks what is allowed").response
        };
        let revision = response.header().revision;
        *header_of(&mut response) = Header {
            cluster_id: 9,
            member_id: 1,
            revision,
            raft_term: 1,
        };
        self.line(call, ret, request, Outcome::Ok(response))
    }

    /// A call that is unknown to its client but took effect.
    pub(crate) fn unknown(&mut self, call: u64, request: Request) -> usize {
        self.model
            .apply(&request)
            .expect("the script asks what is allowed");
        self.lost(call, request)
    }

    /// A call that is unknown to its client and never took effect.
    pub(crate) fn lost(&mut self, call: u64, request: Request) -> usize {
        self.line(
            call,
            call + 1,
            request,
            Outcome::Unknown {
                code: 14,
                text: "gone".into(),
            },
        )
    }

    /// A call that is rejected.
    pub(crate) fn failed(&mut self, call: u64, ret: u64, request: Request, text: &str) -> usize {
        self.line(
            call,
            ret,
            request,
            Outcome::Failed {
                code: 3,
                text: text.into(),
            },
        )
    }

    pub(crate) fn line(&mut self, call: u64, ret: u64, request: Request, outcome: Outcome) -> usize {
        let client = self.lines.len() as u32 % 7;
        self.lines.push(Line {
            call: call * MS,
            ret: ret * MS,
            client,
            request,
            outcome,
        });
        self.lines.len() - 1
    }

    /// The response of an acknowledged call.
    pub(crate) fn response(&mut self, id: usize) -> &mut Response {
        match &mut self.lines[id].outcome {
            Outcome::Ok(response) => response,
            other => panic!("call {id} was not acknowledged but {other:?}"),
        }
    }

    /// The header of an acknowledged call.
    pub(crate) fn header(&mut self, id: usize) -> &mut Header {
        header_of(self.response(id))
    }

    pub(crate) fn mark(&mut self, at: u64, phase: Phase) {
        self.extra.push(Record::Mark { at: at * MS, phase });
    }

    pub(crate) fn restart(&mut self, at: u64, id: u64) {
        self.extra.push(Record::Process(Process {
            at: at * MS,
            member: 0,
            id,
            up: true,
        }));
    }

    /// Opens a new stream.
    pub(crate) fn stream(&mut self, at: u64) -> u64 {
        self.streams += 1;
        self.on_stream(at, self.streams, StreamEvent::Open);
        self.streams
    }

    pub(crate) fn on_stream(&mut self, at: u64, stream: u64, event: StreamEvent) {
        self.extra.push(Record::Stream(StreamRecord {
            at: at * MS,
            client: 0,
            member: self.member,
            stream,
            event,
        }));
    }

    pub(crate) fn on_response(&mut self, at: u64, stream: u64, response: WatchResponse) {
        self.on_stream(at, stream, StreamEvent::Response(response));
    }

    /// Asks for a watcher and gets it, id 0.
    pub(crate) fn watch(&mut self, at: u64, stream: u64, watcher: u64, request: WatchCreate, revision: i64) {
        self.on_stream(at, stream, StreamEvent::Create { watcher, request });
        let created = WatchResponse {
            created: true,
            header: header(revision),
            ..WatchResponse::default()
        };
        self.on_response(at, stream, created);
    }

    /// Delivers to watcher 0 of a stream what it must get for these revisions, one response each.
    pub(crate) fn deliver(&mut self, at: u64, stream: u64, request: &WatchCreate, revisions: &[i64]) {
        for revision in revisions {
            let events = self.events(request, *revision);
            if !events.is_empty() {
                self.on_response(
                    at,
                    stream,
                    WatchResponse {
                        header: header(*revision),
                        events,
                        ..WatchResponse::default()
                    },
                );
            }
        }
    }

    /// The events of one revision that a watcher must get.
    pub(crate) fn events(&self, request: &WatchCreate, revision: i64) -> Vec<Event> {
        let mut events = self.model.events_after(revision - 1);
        events.retain(|event| {
            let dropped = if event.kind == crate::history::EventKind::Put {
                request.no_put
            } else {
                request.no_delete
            };
            event.kv.mod_revision == revision
                && in_range(&request.key, &request.range_end, &event.kv.key)
                && !dropped
        });
        if !request.prev_kv {
            events.iter_mut().for_each(|event| event.prev_kv = None);
        }
        events
    }

    /// The history, in the order of time.
    pub(crate) fn history(&self) -> History {
        let mut timed: Vec<(u64, u8, Record)> = Vec::new();
        for (id, line) in self.lines.iter().enumerate() {
            let (id, client) = (id as u64, line.client);
            let call = Call {
                at: line.call,
                id,
                client,
                member: self.member,
                request: line.request.clone(),
            };
            timed.push((line.call, 0, Record::Call(call)));
            timed.push((
                line.ret,
                2,
                Record::Return(Return {
                    at: line.ret,
                    id,
                    outcome: line.outcome.clone(),
                }),
            ));
        }
        for record in &self.extra {
            let at = match record {
                Record::Stream(record) => record.at,
                Record::Mark { at, .. } | Record::Note { at, .. } => *at,
                Record::Process(process) => process.at,
                Record::Fault(fault) => fault.end,
                Record::Leader(leader) => leader.at,
                Record::Call(call) => call.at,
                Record::Return(done) => done.at,
            };
            timed.push((at, 1, record.clone()));
        }
        timed.sort_by_key(|(at, rank, _)| (*at, *rank));
        History {
            records: timed.into_iter().map(|(_, _, record)| record).collect(),
        }
    }

    /// What a checker says about it.
    pub(crate) fn judge(&self, check: impl Fn(&Evidence<'_>) -> Verdict) -> Verdict {
        let history = self.history();
        check(&Evidence::new(&history, &self.members))
    }
}

pub(crate) fn header(revision: i64) -> Header {
    Header {
        cluster_id: 9,
        member_id: 1,
        revision,
        raft_term: 1,
    }
}

pub(crate) fn all_keys() -> WatchCreate {
    WatchCreate {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 1,
        ..WatchCreate::default()
    }
}

pub(crate) fn header_of(response: &mut Response) -> &mut Header {
    match response {
        Response::Range(response) => &mut response.header,
        Response::Put(response) => &mut response.header,
        Response::DeleteRange(response) => &mut response.header,
        Response::Txn(response) => &mut response.header,
        Response::Compact(response) | Response::LeaseRevoke(response) | Response::Admin(response) => {
            &mut response.header
        }
        Response::LeaseGrant(response) => &mut response.header,
        Response::LeaseKeepAlive(response) => &mut response.header,
        Response::LeaseTimeToLive(response) => &mut response.header,
    }
}

/// A way to spoil a script: its name, what the explanation must contain, and the deed.
pub(crate) type Spoiler = (&'static str, &'static str, fn(&mut Script));

/// Spoils a good script in each way and expects the checker to see it.
pub(crate) fn must_reject(good: &Script, check: impl Fn(&Evidence<'_>) -> Verdict, spoilers: &[Spoiler]) {
    assert_eq!(good.judge(&check), Verdict::Pass, "the unspoiled script");
    for (name, reason, spoil) in spoilers {
        let mut script = good.clone();
        spoil(&mut script);
        match script.judge(&check) {
            Verdict::Fail(text) => assert!(text.contains(reason), "{name}: {text:?} lacks {reason:?}"),
            other => panic!("{name}: must be rejected, was {other}"),
        }
    }
}

/// A way to change a script without breaking a promise.
pub(crate) type Variation = (&'static str, fn(&mut Script));

/// Changes a good script in each way and expects the checker to accept it.
pub(crate) fn must_accept(good: &Script, check: impl Fn(&Evidence<'_>) -> Verdict, variations: &[Variation]) {
    for (name, change) in variations {
        let mut script = good.clone();
        change(&mut script);
        assert_eq!(script.judge(&check), Verdict::Pass, "{name}");
    }
}

pub(crate) fn blob(text: &str) -> Blob {
    Blob::from(text)
}
