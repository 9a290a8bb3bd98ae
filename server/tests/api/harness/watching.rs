//! A watch stream, driven from the test: send a request, take the next reply.

use kelson_proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use kelson_proto::mvccpb::{Event, event::EventType};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::client::{Client, bytes, text, with_metadata};
use super::in_time;
use super::replies::Replies;

/// Requests a test may have in flight before the stream takes them.
const PENDING_REQUESTS: usize = 1024;

/// An open watch stream.
pub struct Watching {
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    replies: Replies<pb::WatchResponse>,
}

impl Watching {
    /// Opens a stream on the member of `client`.
    pub fn open(client: &Client) -> Watching {
        Watching::open_with(client, None)
    }

    /// Opens a stream whose call carries one piece of metadata.
    pub fn open_with(client: &Client, metadata: Option<(&'static str, &str)>) -> Watching {
        let (requests, pending) = mpsc::channel(PENDING_REQUESTS);
        let call = with_metadata(ReceiverStream::new(pending), metadata);
        let mut service = client.watch_service();
        let replies = Replies::of(async move { service.watch(call).await });
        Watching {
            requests: Some(requests),
            replies,
        }
    }

    /// Sends one request.
    pub async fn send(&self, union: RequestUnion) {
        self.send_raw(pb::WatchRequest {
            request_union: Some(union),
        })
        .await;
    }

    /// Sends a request that may be empty.
    pub async fn send_raw(&self, request: pb::WatchRequest) {
        let requests = self.requests.as_ref().expect("the sending side is open");
        requests.send(request).await.expect("the stream is open");
    }

    /// Closes the sending side.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next reply, or how the stream ended.
    pub async fn next_or_end(&mut self) -> Option<Result<pb::WatchResponse, Status>> {
        in_time("a watch reply", self.replies.next()).await.transpose()
    }

    /// The next reply.
    pub async fn next(&mut self) -> pb::WatchResponse {
        self.next_or_end()
            .await
            .expect("the stream is open")
            .expect("the stream has not failed")
    }

    /// Asks for a watcher and returns the reply to that.
    pub async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }

    /// Creates a watcher that must be accepted and returns its id.
    pub async fn created(&mut self, request: pb::WatchCreateRequest) -> i64 {
        let reply = self.create(request).await;
        assert!(
            reply.created && !reply.canceled && reply.events.is_empty(),
            "{reply:?}"
        );
        reply.watch_id
    }

    pub async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
            .await;
    }

    pub async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
            .await;
    }

    /// The events of the next `count` or more events, in the short form of [`short`].
    pub async fn events(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let reply = self.next().await;
            assert!(!reply.created && !reply.canceled, "events expected: {reply:?}");
            seen.extend(events(&reply).iter().map(short));
        }
        seen
    }
}

/// The events of a reply.
pub fn events(reply: &pb::WatchResponse) -> Vec<Event> {
    reply
        .events
        .iter()
        .map(|event| Event::decode(event.clone()).expect("a reply holds valid events"))
        .collect()
}

/// An event as `PUT key=value @revision` or `DELETE key @revision`.
pub fn short(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("every event has a pair");
    match event.r#type() {
        EventType::Put => format!("PUT {}={} @{}", text(&kv.key), text(&kv.value), kv.mod_revision),
        EventType::Delete => format!("DELETE {} @{}", text(&kv.key), kv.mod_revision),
    }
}

/// A watcher of one key, from now on.
pub fn on_key(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// A watcher of `from <= key < to`, from now on.
pub fn on_range(from: &str, to: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: bytes(from),
        range_end: bytes(to),
        ..Default::default()
    }
}
