//! [`Outbox`]: the bounded queue between the hub and one client stream.
//!
//! The hub pushes, the stream takes. Neither waits for the other: a hub that finds no room leaves the watcher
//! behind and asks to be told once there is room again. Control replies (created, canceled) always fit, because each
//! carries the permit of the request that it answers, and a stream has only so many permits.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use kelson_proto::etcdserverpb::WatchResponse;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

/// Most responses with events that wait for one stream. Source: etcd's event channel of a watch stream.
pub(crate) const STREAM_RESPONSES_MAX: usize = 128;

/// Bytes of waiting responses from which on a stream counts as full. A single response may exceed it by its own size.
pub(crate) const STREAM_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One response on its way to the client.
pub(crate) struct Queued {
    /// What to send.
    pub(crate) response: WatchResponse,
    /// Whether the client wants large responses in fragments.
    pub(crate) fragment: bool,
    /// Approximate size, in bytes.
    pub(crate) bytes: usize,
    /// The request that this answers; its place becomes free when the response is taken.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// A response taken from the queue, or why there is none.
pub(crate) struct Taken {
    /// The next response; none when the queue has ended.
    pub(crate) queued: Option<Queued>,
    /// Whether the hub asked for room and there is some now: tell it.
    pub(crate) tell_hub: bool,
}

/// See the module.
pub(crate) struct Outbox {
    responses_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Queued>,
    /// Responses in the queue that carry no permit.
    counted: usize,
    bytes: usize,
    reader: Option<Waker>,
    hub_waits: bool,
    ended: bool,
}

impl Outbox {
    /// An empty queue with the bounds of a client stream.
    pub(crate) fn new() -> Self {
        Self::bounded(STREAM_RESPONSES_MAX, STREAM_BYTES_MAX)
    }

    /// An empty queue.
    pub(crate) fn bounded(responses_max: usize, bytes_max: usize) -> Self {
        Self {
            responses_max,
            bytes_max,
            inner: Mutex::new(Inner::default()),
        }
    }

    fn is_full(&self, inner: &Inner) -> bool {
        inner.counted >= self.responses_max || inner.bytes >= self.bytes_max
    }

    /// Half empty: the hub is not woken for every single response that a slow client takes.
    fn has_drained(&self, inner: &Inner) -> bool {
        inner.counted <= self.responses_max / 2 && inner.bytes <= self.bytes_max / 2
    }

    /// Whether a response with events may be pushed.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_full(&self.inner.lock())
    }

    /// Adds a response. The caller has asked [`Outbox::has_room`] unless the response carries a permit.
    pub(crate) fn push(&self, queued: Queued) {
        let reader = {
            let mut inner = self.inner.lock();
            inner.counted += usize::from(queued.permit.is_none());
            inner.bytes += queued.bytes;
            inner.queue.push_back(queued);
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Asks that the taker tell the hub once the queue is half empty. False if it is already.
    pub(crate) fn wait_for_room(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.hub_waits = !self.has_drained(&inner);
        inner.hub_waits
    }

    /// Takes the next response, or arranges for `waker` to be called when there is one.
    pub(crate) fn poll_take(&self, waker: &Waker) -> Poll<Taken> {
        let mut inner = self.inner.lock();
        let Some(queued) = inner.queue.pop_front() else {
            if inner.ended {
                return Poll::Ready(Taken {
                    queued: None,
                    tell_hub: false,
                });
            }
            inner.reader = Some(waker.clone());
            return Poll::Pending;
        };
        inner.counted -= usize::from(queued.permit.is_none());
        inner.bytes -= queued.bytes;
        let tell_hub = inner.hub_waits && self.has_drained(&inner);
        inner.hub_waits &= !tell_hub;
        Poll::Ready(Taken {
            queued: Some(queued),
            tell_hub,
        })
    }

    /// Nothing will be pushed any more; the stream ends after what is queued.
    pub(crate) fn end(&self) {
        let reader = {
            let mut inner = self.inner.lock();
            inner.ended = true;
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
