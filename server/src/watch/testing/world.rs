//! The world around a hub: a store that remembers everything, clients that read when told to, and the check of the
//! nine words of P9 on each response that a client takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use kelson_proto::mvccpb;
use kelson_storage::applied::{Event, EventBatch, EventKind};
use kelson_storage::error::{Fault, Rejected};
use kelson_storage::event_ring::{EventRing, RingRead};
use kelson_storage::revision::Revision;
use kelson_storage::store::{HistoryBite, ReadError};
use parking_lot::Mutex;
use prost::Message;

use crate::watch::encode::Past;
use crate::watch::hub::{Hub, Identity, Present};
use crate::watch::outbox::Outbox;
use crate::watch::stream::{Request, StreamId};
use crate::watch::task::Source;

pub(crate) const IDENTITY: Identity = Identity {
    cluster_id: 11,
    member_id: 22,
};
pub(crate) const TERM: u64 = 33;

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(&'static str, String),
    Delete(&'static str),
}

/// A store that forgets nothing and only pretends to compact.
pub(crate) struct Chronicle {
    inner: Mutex<Inner>,
    ring: EventRing,
    /// Revisions per bite of history.
    bite_revisions: usize,
}

#[derive(Default)]
struct Inner {
    batches: Vec<EventBatch>,
    live: BTreeMap<Bytes, (mvccpb::KeyValue, Revision)>,
    rows: BTreeMap<Revision, mvccpb::KeyValue>,
    compacted: u64,
}

impl Chronicle {
    pub(crate) fn new(bite_revisions: usize, ring_bytes: usize) -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
            ring: EventRing::new(ring_bytes),
            bite_revisions,
        }
    }

    /// Applies the changes as one revision and fills the ring. Deletes of absent keys do nothing.
    pub(crate) fn apply(&self, changes: &[Change]) -> u64 {
        if let Some(batch) = self.inner.lock().apply(changes) {
            self.ring.push(Arc::new(batch));
        }
        self.revision()
    }

    pub(crate) fn put(&self, key: &'static str, value: &str) -> u64 {
        self.apply(&[Change::Put(key, value.to_owned())])
    }

    pub(crate) fn delete(&self, key: &'static str) -> u64 {
        self.apply(&[Change::Delete(key)])
    }

    /// The store is replaced by a later one: revisions that were never in the ring, and an empty ring.
    pub(crate) fn install_snapshot(&self, changes: &[Vec<Change>]) {
        for change in changes {
            self.inner.lock().apply(change);
        }
        self.ring.clear();
    }

    pub(crate) fn compact(&self, revision: u64) {
        let mut inner = self.inner.lock();
        assert!(revision <= inner.revision());
        inner.compacted = inner.compacted.max(revision);
    }

    pub(crate) fn revision(&self) -> u64 {
        self.inner.lock().revision()
    }
}

impl Inner {
    fn revision(&self) -> u64 {
        self.batches.len() as u64 + 1
    }

    fn apply(&mut self, changes: &[Change]) -> Option<EventBatch> {
        let main = self.revision() + 1;
        let mut events = Vec::new();
        for change in changes {
            let revision = Revision::new(main, u32::try_from(events.len()).expect("few changes"));
            events.extend(match change {
                Change::Put(key, value) => Some(self.put(revision, key, value)),
                Change::Delete(key) => self.delete(revision, key),
            });
        }
        if events.is_empty() {
            return None;
        }
        let batch = EventBatch {
            revision: main,
            events,
        };
        self.batches.push(batch.clone());
        Some(batch)
    }

    fn put(&mut self, revision: Revision, key: &'static str, value: &str) -> Event {
        let key = Bytes::from_static(key.as_bytes());
        let former = self.live.get(&key).cloned();
        let mod_revision = i64::try_from(revision.main).expect("small");
        let pair = mvccpb::KeyValue {
            key: key.clone(),
            create_revision: former
                .as_ref()
                .map_or(mod_revision, |(pair, _)| pair.create_revision),
            mod_revision,
            version: former.as_ref().map_or(1, |(pair, _)| pair.version + 1),
            value: Bytes::from(value.to_owned()),
            lease: 0,
        };
        self.live.insert(key, (pair.clone(), revision));
        self.record(EventKind::Put, revision, pair, former.map(|(_, at)| at))
    }

    fn delete(&mut self, revision: Revision, key: &'static str) -> Option<Event> {
        let (pair, at) = self.live.remove(key.as_bytes())?;
        let tombstone = mvccpb::KeyValue {
            key: pair.key,
            mod_revision: i64::try_from(revision.main).expect("small"),
            ..mvccpb::KeyValue::default()
        };
        Some(self.record(EventKind::Delete, revision, tombstone, Some(at)))
    }

    fn record(
        &mut self,
        kind: EventKind,
        revision: Revision,
        pair: mvccpb::KeyValue,
        previous: Option<Revision>,
    ) -> Event {
        self.rows.insert(revision, pair.clone());
        Event {
            kind,
            revision,
            key: pair.key.clone(),
            kv: pair.encode_to_vec().into(),
            previous,
        }
    }

    /// Whether a later row at or below the compact revision makes this one forgettable.
    fn is_forgotten(&self, revision: Revision) -> bool {
        let Some(pair) = self.rows.get(&revision) else {
            return true;
        };
        let newer = self.rows.range(revision..).skip(1);
        newer
            .take_while(|(at, _)| at.main <= self.compacted)
            .any(|(_, row)| row.key == pair.key)
    }

    /// The pair before a whole revision, as etcd's `prev_kv` shows it.
    fn before(&self, event: &mvccpb::Event) -> Option<mvccpb::KeyValue> {
        let kv = event.kv.as_ref()?;
        if event.r#type == 0 && kv.create_revision == kv.mod_revision {
            return None;
        }
        let main = u64::try_from(kv.mod_revision).expect("positive");
        let (_, row) = self
            .rows
            .range(..Revision::new(main, 0))
            .rev()
            .find(|(_, row)| row.key == kv.key)?;
        (row.version > 0).then(|| row.clone())
    }
}

impl Past for Chronicle {
    fn record(&self, revision: Revision) -> Result<Option<Bytes>, Fault> {
        let inner = self.inner.lock();
        if inner.is_forgotten(revision) {
            return Ok(None);
        }
        Ok(inner.rows.get(&revision).map(|pair| pair.encode_to_vec().into()))
    }
}

impl Source for Chronicle {
    fn present(&self) -> Present {
        Present {
            revision: self.revision(),
            term: TERM,
        }
    }

    fn ring(&self, from: u64, present: u64) -> RingRead {
        self.ring.read_from(from, present)
    }

    fn history(&self, from: u64, _bytes: usize) -> Result<HistoryBite, ReadError> {
        let inner = self.inner.lock();
        if from < inner.compacted {
            return Err(Rejected::Compacted.into());
        }
        let batches: Vec<EventBatch> = inner
            .batches
            .iter()
            .skip_while(|batch| batch.revision < from)
            .take(self.bite_revisions)
            .cloned()
            .collect();
        let present = inner.revision();
        let next = batches.last().map_or(present, |last| last.revision) + 1;
        let next = next.max(from);
        Ok(HistoryBite { batches, next })
    }

    fn compacted(&self) -> u64 {
        self.inner.lock().compacted
    }
}

impl<T: Past> Past for Arc<T> {
    fn record(&self, revision: Revision) -> Result<Option<Bytes>, Fault> {
        self.as_ref().record(revision)
    }
}

impl<T: Source> Source for Arc<T> {
    fn present(&self) -> Present {
        self.as_ref().present()
    }
    fn ring(&self, from: u64, present: u64) -> RingRead {
        self.as_ref().ring(from, present)
    }
    fn history(&self, from: u64, bytes: usize) -> Result<HistoryBite, ReadError> {
        self.as_ref().history(from, bytes)
    }
    fn compacted(&self) -> u64 {
        self.as_ref().compacted()
    }
}

/// What a client knows about one of its watchers.
#[derive(Debug)]
struct Watching {
    create: WatchCreateRequest,
    /// First revision it wants.
    start: u64,
    /// Everything it wants below this revision has come.
    next: u64,
    /// The newest header revision.
    header: i64,
    ended: bool,
}

/// One client stream.
pub(crate) struct Client {
    pub(crate) id: StreamId,
    outbox: Arc<Outbox>,
    /// Creates without a reply.
    creating: VecDeque<WatchCreateRequest>,
    watching: BTreeMap<i64, Watching>,
    /// Compaction cancels seen.
    pub(crate) compactions: usize,
}

/// A hub, its store and its clients.
pub(crate) struct World {
    pub(crate) store: Chronicle,
    pub(crate) hub: Hub,
    pub(crate) clients: Vec<Client>,
    pending: VecDeque<Arc<EventBatch>>,
    responses_max: usize,
}

impl World {
    /// A world with `clients` streams whose queues hold `responses_max` responses.
    pub(crate) fn new(store: Chronicle, clients: usize, responses_max: usize) -> Self {
        let hub = Hub::new(IDENTITY, store.revision());
        let mut world = Self {
            store,
            hub,
            clients: Vec::new(),
            pending: VecDeque::new(),
            responses_max,
        };
        for id in 0..clients {
            let client = world.open(id as StreamId);
            world.clients.push(client);
        }
        world
    }

    pub(crate) fn store_present(&self) -> Present {
        self.store.present()
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.store.compacted()
    }

    fn open(&mut self, id: StreamId) -> Client {
        let outbox = Arc::new(Outbox::bounded(self.responses_max, 1 << 20));
        self.hub.open(id, outbox.clone());
        Client {
            id,
            outbox,
            creating: VecDeque::new(),
            watching: BTreeMap::new(),
            compactions: 0,
        }
    }

    /// The client's connection breaks and it opens a new stream.
    pub(crate) fn reopen(&mut self, client: usize) {
        let former = self.clients[client].id;
        self.hub.close(former);
        self.clients[client] = self.open(former + 1000);
    }

    fn request(&mut self, client: usize, union: RequestUnion) {
        let request = Request::Client(WatchRequest {
            request_union: Some(union),
        });
        let id = self.clients[client].id;
        self.hub.request(id, request, None, self.store.present());
    }

    pub(crate) fn create(&mut self, client: usize, create: WatchCreateRequest) {
        self.clients[client].creating.push_back(create.clone());
        self.request(client, RequestUnion::CreateRequest(create));
    }

    pub(crate) fn cancel(&mut self, client: usize, watch_id: i64) {
        self.request(
            client,
            RequestUnion::CancelRequest(WatchCancelRequest { watch_id }),
        );
    }

    /// Cancels the `nth` watcher that the client knows of.
    pub(crate) fn cancel_nth(&mut self, client: usize, nth: usize) {
        let ids: Vec<i64> = self.clients[client].watching.keys().copied().collect();
        if !ids.is_empty() {
            self.cancel(client, ids[nth % ids.len()]);
        }
    }

    pub(crate) fn progress(&mut self, client: usize) {
        self.request(client, RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    pub(crate) fn tick(&mut self, client: usize) {
        let id = self.clients[client].id;
        self.hub.progress_tick(id, self.store.present());
    }

    /// The hub handles at most `batches` revisions of the ring.
    pub(crate) fn read_ring(&mut self, batches: usize) {
        for _ in 0..batches {
            if self.pending.is_empty() {
                let present = self.store.present();
                match self.store.ring(self.hub.next(), present.revision) {
                    RingRead::Batches(batches) => self.pending.extend(batches),
                    RingRead::Behind => self.hub.ring_lost(present),
                }
            }
            let Some(batch) = self.pending.pop_front() else {
                return;
            };
            let present = self.store.present();
            self.hub
                .applied(&batch, present, &self.store)
                .expect("the store can be read");
        }
    }

    /// The hub reads one bite of history; false if nobody wants one.
    pub(crate) fn read_history(&mut self) -> bool {
        let Some(from) = self.hub.wants_history() else {
            return false;
        };
        let present = self.store.present();
        match self.store.history(from, 0) {
            Ok(bite) => {
                let useful = self.hub.history(from, &bite, present, &self.store);
                assert!(useful.expect("the store can be read"), "bite without use");
            }
            Err(ReadError::Rejected(Rejected::Compacted)) => {
                self.hub.history_compacted(self.store.compacted(), present);
            }
            Err(other) => panic!("{other}"),
        }
        true
    }

    /// Takes one response as it is, checked.
    pub(crate) fn take(&mut self, client: usize) -> Option<WatchResponse> {
        let of = &mut self.clients[client];
        let Poll::Ready(taken) = of.outbox.poll_take(Waker::noop()) else {
            return None;
        };
        let response = taken.queued?.response;
        of.check(&response, &self.store);
        if taken.tell_hub {
            self.hub.drained(of.id);
        }
        self.hub.assert_consistent();
        Some(response)
    }

    /// Everybody reads, until nothing more happens.
    pub(crate) fn settle(&mut self) -> Vec<Vec<WatchResponse>> {
        let mut taken: Vec<Vec<WatchResponse>> = self.clients.iter().map(|_| Vec::new()).collect();
        loop {
            let mut idle = true;
            self.read_ring(usize::MAX);
            while self.read_history() {
                idle = false;
            }
            for (client, responses) in taken.iter_mut().enumerate() {
                while let Some(response) = self.take(client) {
                    responses.push(response);
                    idle = false;
                }
            }
            if idle {
                return taken;
            }
        }
    }

    /// Settles, then checks that every watcher has got everything: no silent gap.
    pub(crate) fn settle_and_check(&mut self) {
        self.settle();
        assert_eq!(self.hub.behind_count(), 0, "somebody never caught up");
        let current = self.store.revision();
        for client in &self.clients {
            assert!(client.creating.is_empty(), "a create was never answered");
            for (id, watching) in &client.watching {
                let missing = wanted(&watching.create, watching.next, &self.store);
                assert!(
                    watching.ended || missing.is_empty(),
                    "stream {} watcher {id} at {current} never got {missing:?}",
                    client.id
                );
            }
        }
    }
}

impl Client {
    /// A create goes to the hub by another way than [`World::create`].
    pub(crate) fn expect_create(&mut self, create: &WatchCreateRequest) {
        self.creating.push_back(create.clone());
    }

    /// The first revision that a watcher's client has not got yet.
    pub(crate) fn position(&self, watch_id: i64) -> u64 {
        self.watching[&watch_id].next
    }

    /// Checks one response against everything the store remembers.
    fn check(&mut self, response: &WatchResponse, store: &Chronicle) {
        let header = response.header.as_ref().expect("every response has a header");
        assert_eq!(
            (header.cluster_id, header.member_id, header.raft_term),
            (11, 22, 33)
        );
        if response.created {
            self.check_created(response, header.revision);
        } else if response.canceled {
            self.check_canceled(response, store);
        } else if response.events.is_empty() {
            self.check_progress(response.watch_id, header.revision, store);
        } else {
            let watching = self
                .watching
                .get_mut(&response.watch_id)
                .expect("events of a watcher that exists");
            watching.check_events(response, store);
        }
    }

    fn check_created(&mut self, response: &WatchResponse, revision: i64) {
        let create = self.creating.pop_front().expect("a create was outstanding");
        assert!(response.events.is_empty());
        if response.canceled {
            assert_eq!(response.watch_id, -1);
            assert!(!response.cancel_reason.is_empty());
            return;
        }
        let start = match create.start_revision {
            0 => revision + 1,
            asked => asked,
        };
        let start = u64::try_from(start).expect("negative ones are refused");
        let watching = Watching {
            create,
            start,
            next: start,
            header: revision,
            ended: false,
        };
        let former = self.watching.insert(response.watch_id, watching);
        assert!(former.is_none(), "id given twice");
    }

    fn check_canceled(&mut self, response: &WatchResponse, store: &Chronicle) {
        assert!(response.events.is_empty());
        if response.compact_revision == 0 {
            self.watching
                .remove(&response.watch_id)
                .expect("only watchers that exist are cancelled");
            return;
        }
        self.compactions += 1;
        let watching = self.watching.get_mut(&response.watch_id).expect("it exists");
        let compacted = u64::try_from(response.compact_revision).expect("positive");
        assert!(!watching.ended, "ended twice");
        assert!(response.cancel_reason.is_empty());
        assert_eq!(response.header.as_ref().map(|header| header.revision), Some(0));
        assert!(compacted <= store.compacted() && watching.next < compacted);
        watching.ended = true;
    }

    /// Bookmarkable: nothing at or below the revision is missing, and (see `next`) nothing may come.
    fn check_progress(&mut self, watch_id: i64, revision: i64, store: &Chronicle) {
        let all = watch_id == -1;
        let concerned = self.watching.iter_mut().filter(|(id, _)| all || **id == watch_id);
        let mut count = 0;
        for (id, watching) in concerned {
            count += 1;
            assert!(!watching.ended, "progress of an ended watcher");
            let next = u64::try_from(revision).expect("positive") + 1;
            if watching.create.start_revision > 0 {
                assert!(next > watching.start, "progress below the start");
            }
            assert!(
                revision >= watching.header,
                "watcher {id}: progress went back to {revision}"
            );
            watching.header = revision;
            let missing = wanted(&watching.create, watching.next, store)
                .iter()
                .any(|(at, _)| *at < next);
            assert!(!missing, "watcher {id}: progress {revision} before its events");
            watching.next = watching.next.max(next);
        }
        assert!(count > 0, "progress of nobody");
    }
}

impl Watching {
    /// Ordered, unique, reliable, atomic, filtered, with the right `prev_kv`.
    fn check_events(&mut self, response: &WatchResponse, store: &Chronicle) {
        assert!(!self.ended, "events after the end");
        let mut wanted = wanted(&self.create, self.next, store).into_iter().peekable();
        let mut last = 0;
        for bytes in &response.events {
            let event = mvccpb::Event::decode(bytes.clone()).expect("an event");
            let (revision, expected) = wanted.next().expect("no event beyond the wanted ones");
            assert_eq!(event.r#type, i32::from(expected.kind == EventKind::Delete));
            let pair = mvccpb::KeyValue::decode(expected.kv.clone()).expect("a pair");
            assert_eq!(event.kv.as_ref(), Some(&pair));
            self.check_previous(&event, store);
            last = revision;
        }
        if let Some((next, _)) = wanted.peek() {
            assert!(*next > last, "revision {last} was split over two responses");
        }
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        assert!(header >= i64::try_from(last).expect("small"));
        assert!(header >= self.header, "header went back to {header}");
        self.header = header;
        self.next = last + 1;
    }

    fn check_previous(&self, event: &mvccpb::Event, store: &Chronicle) {
        let inner = store.inner.lock();
        let expected = inner.before(event).filter(|_| self.create.prev_kv);
        let mod_revision = event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
        let may_be_gone = mod_revision - 1 < i64::try_from(inner.compacted).expect("small");
        if event.prev_kv.is_some() || !may_be_gone {
            assert_eq!(event.prev_kv, expected);
        }
    }
}

/// Every event that a watcher made by `create` wants, from revision `from` on. Written without the hub's own range
/// and filter code on purpose.
fn wanted(create: &WatchCreateRequest, from: u64, store: &Chronicle) -> Vec<(u64, Event)> {
    let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
    let end = &create.range_end;
    let inner = store.inner.lock();
    let batches = inner.batches.iter().filter(|batch| batch.revision >= from);
    batches
        .flat_map(|batch| batch.events.iter().map(|event| (batch.revision, event.clone())))
        .filter(|(_, event)| match end.as_ref() {
            [] => event.key == key,
            [0] => event.key.as_ref() >= key,
            end => event.key.as_ref() >= key && event.key.as_ref() < end,
        })
        .filter(|(_, event)| {
            !create
                .filters
                .contains(&i32::from(event.kind == EventKind::Delete))
        })
        .collect()
}
