//! One client stream as the gRPC service sees it: [`WatchRequests`] in, [`WatchResponses`] out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use kelson_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use super::fragment;
use super::outbox::Outbox;

/// Requests of one stream whose replies the client has not taken yet. Source: etcd's control queue of a watch stream.
pub(crate) const STREAM_REQUESTS_MAX: usize = 16;

/// Names a stream inside one hub; never used twice.
pub(crate) type StreamId = u64;

/// What streams tell the hub. The queue has no bound of its own: a stream has at most [`STREAM_REQUESTS_MAX`]
/// requests in it, and one each of the other messages.
pub(crate) enum Message {
    /// A stream was opened.
    Open(StreamId, Arc<Outbox>),
    /// A stream was dropped.
    Close(StreamId),
    /// The client sent something.
    Request(StreamId, Request, OwnedSemaphorePermit),
    /// A queue that was full has room again.
    Drained(StreamId),
}

/// One client request.
pub(crate) enum Request {
    /// As the client sent it.
    Client(WatchRequest),
    /// A create that the service does not allow, and the cancel reason to give.
    Denied(WatchCreateRequest, String),
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchRequestError {
    /// Too many requests of this stream are unanswered: read responses first.
    #[error("too many unanswered watch requests on the stream")]
    Full,
    /// The hub has stopped, because the server stops.
    #[error("watch hub stopped")]
    Stopped,
}

/// A client's watch stream: many watchers, one queue of responses. Dropping it ends all its watchers.
pub struct WatchStream {
    requests: WatchRequests,
    responses: WatchResponses,
}

impl WatchStream {
    /// Opens a stream at the hub behind `hub`.
    pub(crate) fn open(id: StreamId, hub: mpsc::UnboundedSender<Message>, fragment_bytes: usize) -> Self {
        let outbox = Arc::new(Outbox::new());
        if hub.send(Message::Open(id, outbox.clone())).is_err() {
            outbox.end();
        }
        Self {
            requests: WatchRequests {
                id,
                hub: hub.clone(),
                places: Arc::new(Semaphore::new(STREAM_REQUESTS_MAX)),
            },
            responses: WatchResponses {
                id,
                hub,
                outbox,
                pieces: VecDeque::new(),
                fragment_bytes,
            },
        }
    }

    /// See [`WatchRequests::try_request`].
    pub fn request(&self, request: WatchRequest) -> Result<(), WatchRequestError> {
        self.requests.try_request(request)
    }

    /// The responses alone; the stream takes no further requests. This is what a client's half-close means: its
    /// watchers go on.
    pub fn into_responses(self) -> WatchResponses {
        self.responses
    }

    /// Both halves, for a task that reads and one that writes. Dropping the requests is a half-close, dropping the
    /// responses ends the stream.
    pub fn split(self) -> (WatchRequests, WatchResponses) {
        (self.requests, self.responses)
    }
}

/// The client's half of a stream. All replies come through [`WatchResponses`], in the order of the requests.
#[derive(Clone)]
pub struct WatchRequests {
    id: StreamId,
    hub: mpsc::UnboundedSender<Message>,
    places: Arc<Semaphore>,
}

impl WatchRequests {
    /// Hands `request` to the hub, waiting while 16 earlier ones are unanswered.
    pub async fn request(&self, request: WatchRequest) -> Result<(), WatchRequestError> {
        self.send(Request::Client(request)).await
    }

    /// Hands `request` to the hub; never waits.
    pub fn try_request(&self, request: WatchRequest) -> Result<(), WatchRequestError> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits) => return Err(WatchRequestError::Full),
            Err(TryAcquireError::Closed) => return Err(WatchRequestError::Stopped),
        };
        self.send_with(Request::Client(request), place)
    }

    /// Answers a create that the caller may not make: the reply is `created` and `canceled` with `reason` (API
    /// specification 6.2 lists the texts). It goes through the hub so that creates are answered in order; a negative
    /// `start_revision` is found before the missing permission, as in etcd.
    pub async fn deny_create(
        &self,
        request: WatchCreateRequest,
        reason: impl Into<String>,
    ) -> Result<(), WatchRequestError> {
        self.send(Request::Denied(request, reason.into())).await
    }

    async fn send(&self, request: Request) -> Result<(), WatchRequestError> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_closed| WatchRequestError::Stopped)?;
        self.send_with(request, place)
    }

    fn send_with(&self, request: Request, place: OwnedSemaphorePermit) -> Result<(), WatchRequestError> {
        let message = Message::Request(self.id, request, place);
        self.hub.send(message).map_err(|_gone| WatchRequestError::Stopped)
    }
}

/// The server's half of a stream: responses ready to be encoded, headers filled, fragments split. Ends when the hub
/// stops (the service answers Unavailable); dropping it closes the stream.
pub struct WatchResponses {
    id: StreamId,
    hub: mpsc::UnboundedSender<Message>,
    outbox: Arc<Outbox>,
    /// Fragments of the response taken last.
    pieces: VecDeque<WatchResponse>,
    fragment_bytes: usize,
}

impl Stream for WatchResponses {
    type Item = WatchResponse;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchResponse>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(piece));
        }
        let taken = ready!(self.outbox.poll_take(context.waker()));
        if taken.tell_hub {
            // A hub that is gone has no use for room.
            let _ = self.hub.send(Message::Drained(self.id));
        }
        let Some(queued) = taken.queued else {
            return Poll::Ready(None);
        };
        if !queued.fragment {
            return Poll::Ready(Some(queued.response));
        }
        self.pieces = fragment::split(queued.response, self.fragment_bytes);
        Poll::Ready(self.pieces.pop_front())
    }
}

impl Drop for WatchResponses {
    fn drop(&mut self) {
        // A hub that is gone has forgotten the stream already.
        let _ = self.hub.send(Message::Close(self.id));
    }
}
