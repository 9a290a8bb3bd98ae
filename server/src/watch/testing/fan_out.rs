//! A hub with many watchers and clients that take what they get at once: what one event costs, without sockets.

use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kelson_proto::mvccpb;
use kelson_storage::applied::{Event, EventBatch, EventKind};
use kelson_storage::error::Fault;
use kelson_storage::revision::Revision;
use prost::Message;

use super::world::{IDENTITY, TERM};
use crate::watch::encode::Past;
use crate::watch::hub::{Hub, Present};
use crate::watch::outbox::Outbox;
use crate::watch::stream::{Request, StreamId};

/// A hub and its streams.
pub struct FanOut {
    hub: Hub,
    outboxes: Vec<Arc<Outbox>>,
    revision: u64,
    value: Bytes,
}

/// Nobody asks for former pairs.
struct NoPast;

impl Past for NoPast {
    fn record(&self, _: Revision) -> Result<Option<Bytes>, Fault> {
        Ok(None)
    }
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("/registry/pods/namespace/{number:016x}"))
}

impl FanOut {
    /// A hub whose `watchers` watch `keys` keys in turn, over `streams` streams; events have values of `value_bytes`.
    pub fn new(watchers: usize, keys: usize, streams: usize, value_bytes: usize) -> Self {
        let mut fan_out = Self {
            hub: Hub::new(IDENTITY, 1),
            outboxes: (0..streams).map(|_| Arc::new(Outbox::new())).collect(),
            revision: 1,
            value: Bytes::from(vec![b'v'; value_bytes]),
        };
        for (stream, outbox) in fan_out.outboxes.iter().enumerate() {
            fan_out.hub.open(stream as StreamId, outbox.clone());
        }
        for watcher in 0..watchers {
            let create = WatchCreateRequest {
                key: key(watcher % keys),
                ..WatchCreateRequest::default()
            };
            let request = Request::Client(WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            });
            let stream = (watcher % streams) as StreamId;
            fan_out.hub.request(stream, request, None, fan_out.present());
            fan_out.take();
        }
        fan_out
    }

    /// Offers a put of key `number`, and has every client take its responses. Returns how many there were.
    pub fn put(&mut self, number: usize) -> usize {
        self.revision += 1;
        let key = key(number);
        let mod_revision = self.revision.cast_signed();
        let pair = mvccpb::KeyValue {
            key: key.clone(),
            create_revision: mod_revision,
            mod_revision,
            version: 1,
            value: self.value.clone(),
            lease: 0,
        };
        let event = Event {
            kind: EventKind::Put,
            revision: Revision::new(self.revision, 0),
            key,
            kv: pair.encode_to_vec().into(),
            previous: None,
        };
        let batch = EventBatch {
            revision: self.revision,
            events: vec![event],
        };
        self.hub
            .applied(&batch, self.present(), &NoPast)
            .expect("nothing is read");
        self.take()
    }

    fn present(&self) -> Present {
        Present {
            revision: self.revision,
            term: TERM,
        }
    }

    fn take(&self) -> usize {
        let mut taken = 0;
        for outbox in &self.outboxes {
            while let Poll::Ready(one) = outbox.poll_take(Waker::noop()) {
                assert!(one.queued.is_some(), "the stream has ended");
                taken += 1;
            }
        }
        taken
    }
}
