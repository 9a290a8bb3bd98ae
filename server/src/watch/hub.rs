//! [`Hub`]: the state machine behind all watch streams. No tasks, sockets or clocks in here, so any interleaving can
//! be written down as a test: inputs are method calls, effects are responses pushed into outboxes and the history
//! that [`Hub::wants_history`] asks for.
//!
//! This file keeps streams and watchers and answers requests; `deliver.rs` handles events of the ring, `catch_up.rs`
//! those of history.
//!
//! What must stay true: a watcher is in the level index, in the catch-up index, or ended, and in one of these only. A
//! level watcher has been offered every event of its range from its start to `next - 1`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kelson_proto::etcdserverpb::watch_create_request::FilterType;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse};
use kelson_storage::mutant;
use kelson_storage::reached;
use tokio::sync::OwnedSemaphorePermit;

use super::catch_up::CatchUp;
use super::index::GroupIndex;
use super::outbox::{Outbox, Queued};
use super::range::{EmptyRange, WatchedRange};
use super::roster::{Filters, Place, Roster, Selected, Slot, Watcher};
use super::stream::{Request, StreamId};

/// Cancel reason of a create with a negative `start_revision`. Source: API specification 6.2.
const REASON_NEGATIVE_START: &str = "etcdserver: mvcc: required revision has been compacted";
/// Cancel reason of a create whose range holds no key. Source: API specification 6.2.
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
/// Cancel reason of a create whose id is taken. Source: API specification 6.2.
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// The `watch_id` of replies that are about no watcher, or about all of them.
const NO_WATCHER: i64 = -1;

/// What response headers say about this member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// Cluster id.
    pub(crate) cluster_id: u64,
    /// Member id.
    pub(crate) member_id: u64,
}

/// What the store says about itself while an input is handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Present {
    /// The store's main revision. It may be ahead of the ring's.
    pub(crate) revision: u64,
    /// Term of the last applied entry.
    pub(crate) term: u64,
}

/// See the module.
pub(crate) struct Hub {
    pub(super) identity: Identity,
    /// The revision that the level group gets next; everything below has been pushed.
    pub(super) next: u64,
    /// Looked up, never iterated: the order of the map is seen by nobody.
    pub(super) streams: HashMap<StreamId, StreamState>,
    pub(super) roster: Roster,
    pub(super) level: GroupIndex,
    pub(super) catch_up: CatchUp,
    /// Events pushed since the start.
    pub(super) events: u64,
    /// Scratch space: watchers of one event.
    pub(super) matched: Vec<Slot>,
    /// Scratch space: events of one batch or bite, by watcher.
    pub(super) selected: Vec<Selected>,
}

/// One open stream.
pub(super) struct StreamState {
    pub(super) outbox: Arc<Outbox>,
    watchers: BTreeMap<i64, Slot>,
    /// Where the search for a free id starts; never goes back.
    next_id: i64,
    /// Its watchers that are behind, those whose turn is longest ago first.
    pub(super) behind: BTreeSet<(u64, Slot)>,
    /// Whether the stream waits for its turn to read history.
    pub(super) in_turn: bool,
}

impl Hub {
    /// A hub without streams, level with a store at `revision`.
    pub(crate) fn new(identity: Identity, revision: u64) -> Self {
        Self {
            identity,
            next: revision + 1,
            streams: HashMap::new(),
            roster: Roster::default(),
            level: GroupIndex::new(),
            catch_up: CatchUp::new(),
            events: 0,
            matched: Vec::new(),
            selected: Vec::new(),
        }
    }

    /// The revision to read from the ring next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Number of open streams.
    pub(crate) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Whether the stream is open.
    pub(crate) fn has_stream(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Number of watchers, ended ones included.
    pub(crate) fn watcher_count(&self) -> usize {
        self.roster.len()
    }

    /// Events pushed since the start; one event for two watchers counts twice.
    pub(crate) fn event_count(&self) -> u64 {
        self.events
    }

    /// A client opened a stream.
    pub(crate) fn open(&mut self, stream: StreamId, outbox: Arc<Outbox>) {
        let state = StreamState {
            outbox,
            watchers: BTreeMap::new(),
            next_id: 0,
            behind: BTreeSet::new(),
            in_turn: false,
        };
        let former = self.streams.insert(stream, state);
        assert!(former.is_none(), "stream id {stream} used twice");
    }

    /// A client is gone.
    pub(crate) fn close(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        for slot in std::mem::take(&mut state.watchers).into_values() {
            self.leave_groups(slot);
            self.roster.remove(slot);
        }
        self.streams.remove(&stream);
    }

    /// A client sent a request. `permit` is held until the reply is taken.
    pub(crate) fn request(
        &mut self,
        stream: StreamId,
        request: Request,
        permit: Option<OwnedSemaphorePermit>,
        present: Present,
    ) {
        match request {
            Request::Denied(create, reason) => self.create(stream, create, Some(reason), permit, present),
            Request::Client(WatchRequest { request_union }) => match request_union {
                Some(RequestUnion::CreateRequest(create)) => {
                    self.create(stream, create, None, permit, present);
                }
                Some(RequestUnion::CancelRequest(cancel)) => {
                    self.cancel(stream, cancel.watch_id, permit, present);
                }
                Some(RequestUnion::ProgressRequest(_)) => self.progress(stream, present),
                None => {}
            },
        }
    }

    fn create(
        &mut self,
        stream: StreamId,
        create: WatchCreateRequest,
        denied: Option<String>,
        permit: Option<OwnedSemaphorePermit>,
        present: Present,
    ) {
        let current = self.current(present);
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let outbox = state.outbox.clone();
        let mut reply = WatchResponse {
            header: Some(header(self.identity, current, present.term)),
            created: true,
            ..WatchResponse::default()
        };
        match state.admit(create, denied) {
            Ok((id, create)) => {
                reply.watch_id = id;
                push(&outbox, reply, false, permit);
                self.register(stream, id, create, current);
            }
            Err(reason) => {
                reply.watch_id = NO_WATCHER;
                reply.canceled = true;
                reply.cancel_reason = reason;
                push(&outbox, reply, false, permit);
            }
        }
    }

    fn register(&mut self, stream: StreamId, id: i64, create: Admitted, current: u64) {
        let start = create.start_revision;
        let slot = self.roster.add(Watcher {
            stream,
            id,
            range: create.range,
            start_revision: start,
            filters: create.filters,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            quiet: true,
            place: Place::Ended,
        });
        let state = self.streams.get_mut(&stream).expect("just looked up");
        state.watchers.insert(id, slot);
        if start > current {
            reached!("watch_from_future");
        } else if start > 0 {
            reached!("watch_from_past");
        }
        match start {
            0 => self.become_level(slot, current + 1),
            // M33: the revision that the client asked for is missing.
            past if past <= current && mutant!("M33") => self.fall_behind(slot, past + 1),
            past if past <= current => self.fall_behind(slot, past),
            // M34: the watcher gets what it did not ask for yet.
            _ if mutant!("M34") => self.become_level(slot, current + 1),
            future => self.become_level(slot, future),
        }
    }

    fn cancel(&mut self, stream: StreamId, id: i64, permit: Option<OwnedSemaphorePermit>, present: Present) {
        let current = self.current(present);
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        // etcd does not answer the cancel of an unknown id.
        let Some(slot) = state.watchers.remove(&id) else {
            return;
        };
        let outbox = state.outbox.clone();
        self.leave_groups(slot);
        self.roster.remove(slot);
        let reply = WatchResponse {
            header: Some(header(self.identity, current, present.term)),
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        };
        push(&outbox, reply, false, permit);
    }

    /// Answers a manual progress request if every watcher of the stream is level and has begun; else forgets it.
    fn progress(&mut self, stream: StreamId, present: Present) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        let complete = |slot: &Slot| self.is_complete(self.roster.at(*slot));
        if !state.watchers.is_empty() && state.watchers.values().all(complete) {
            self.push_progress(&state.outbox, NO_WATCHER, present);
        } else {
            reached!("watch_progress_withheld");
        }
    }

    /// The stream's progress interval has passed: tells each watcher that asked for it, that is level, and that got no
    /// events in the meantime.
    pub(crate) fn progress_tick(&mut self, stream: StreamId, present: Present) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        for slot in state.watchers.values() {
            let watcher = self.roster.at(*slot);
            if watcher.progress_notify && watcher.quiet && self.is_complete(watcher) {
                self.push_progress(&state.outbox, watcher.id, present);
            }
        }
        for slot in state.watchers.values() {
            self.roster.at_mut(*slot).quiet = true;
        }
    }

    /// Whether the watcher has been pushed every event up to `next - 1`, and `next - 1` is a revision that it has
    /// asked for.
    fn is_complete(&self, watcher: &Watcher) -> bool {
        match watcher.place {
            Place::Level { floor } => floor <= self.next && watcher.start_revision < self.next,
            Place::Behind { .. } | Place::Ended => false,
        }
    }

    /// A progress response goes behind the events it speaks of; into a full queue it does not go at all (etcd does
    /// the same, clients ask again).
    fn push_progress(&self, outbox: &Outbox, watch_id: i64, present: Present) {
        if outbox.has_room() {
            let mut queued_upto = self.next - 1;
            if mutant!("M30") {
                // Events of these revisions come behind the response that says there are none.
                queued_upto = self.current(present);
            }
            let reply = WatchResponse {
                header: Some(header(self.identity, queued_upto, present.term)),
                watch_id,
                ..WatchResponse::default()
            };
            push(outbox, reply, false, None);
        }
    }

    /// The newest revision there is. The store publishes its revision and fills the ring one after the other, so
    /// either may be ahead.
    pub(super) fn current(&self, present: Present) -> u64 {
        present.revision.max(self.next - 1)
    }

    /// Puts a watcher into the level group; it wants nothing below `floor`.
    pub(super) fn become_level(&mut self, slot: Slot, floor: u64) {
        assert!(floor >= self.next, "a level watcher cannot need revision {floor}");
        let watcher = self.roster.at_mut(slot);
        watcher.place = Place::Level { floor };
        self.level.insert(&watcher.range, slot);
    }

    /// Takes a watcher out of whichever group it is in.
    pub(super) fn leave_groups(&mut self, slot: Slot) {
        let watcher = self.roster.at_mut(slot);
        let place = std::mem::replace(&mut watcher.place, Place::Ended);
        match place {
            Place::Level { .. } => self.level.remove(&watcher.range, slot),
            Place::Behind { position, turn } => {
                self.catch_up.remove(&watcher.range, slot, position);
                if let Some(stream) = self.streams.get_mut(&watcher.stream) {
                    stream.behind.remove(&(turn, slot));
                }
            }
            Place::Ended => {}
        }
    }
}

impl Drop for Hub {
    /// Streams must not wait for responses that nobody will push.
    fn drop(&mut self) {
        // In order: a simulated run must not hang on how a map is hashed.
        let mut streams: Vec<_> = self.streams.iter().collect();
        streams.sort_unstable_by_key(|(id, _)| **id);
        for (_, stream) in streams {
            stream.outbox.end();
        }
    }
}

/// A create request that passed all checks.
struct Admitted {
    range: WatchedRange,
    start_revision: u64,
    filters: Filters,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
}

impl StreamState {
    /// Checks a create request in etcd's order and gives it an id, or says why not.
    fn admit(
        &mut self,
        create: WatchCreateRequest,
        denied: Option<String>,
    ) -> Result<(i64, Admitted), String> {
        let start_revision =
            u64::try_from(create.start_revision).map_err(|_negative| REASON_NEGATIVE_START.to_owned())?;
        if let Some(reason) = denied {
            return Err(reason);
        }
        let range = WatchedRange::from_request(create.key, create.range_end)
            .map_err(|EmptyRange| REASON_EMPTY_RANGE.to_owned())?;
        let id = self.assign_id(create.watch_id)?;
        let leaves_out = |filter: FilterType| create.filters.contains(&i32::from(filter));
        let admitted = Admitted {
            range,
            start_revision,
            filters: Filters {
                no_put: leaves_out(FilterType::Noput),
                no_delete: leaves_out(FilterType::Nodelete),
            },
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            progress_notify: create.progress_notify,
        };
        Ok((id, admitted))
    }

    /// The id asked for, or for 0 the next free one. etcd accepts -1 too, but replies to that watcher could not be
    /// told from replies to all of them, so here it counts as taken.
    fn assign_id(&mut self, asked: i64) -> Result<i64, String> {
        if asked == 0 {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            return Ok(self.next_id - 1);
        }
        if asked == NO_WATCHER || self.watchers.contains_key(&asked) {
            return Err(REASON_DUPLICATE_ID.to_owned());
        }
        Ok(asked)
    }
}

pub(super) fn header(identity: Identity, revision: u64, term: u64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        revision: i64::try_from(revision).unwrap_or(i64::MAX),
        raft_term: term,
    }
}

/// Queues a response.
pub(super) fn push(
    outbox: &Outbox,
    response: WatchResponse,
    fragment: bool,
    permit: Option<OwnedSemaphorePermit>,
) {
    /// Header, ids and bookkeeping of a response.
    const OVERHEAD_BYTES: usize = 64;
    let bytes = OVERHEAD_BYTES
        + response.cancel_reason.len()
        + response.events.iter().map(|event| event.len()).sum::<usize>();
    outbox.push(Queued {
        response,
        fragment,
        bytes,
        permit,
    });
}
