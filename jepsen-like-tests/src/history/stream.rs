//! What happens on watch streams, as the client sees it.

use serde::{Deserialize, Serialize};

use super::op::{is_default, record};
use super::{Blob, Header, KeyValue};

/// What an event did to its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Wrote it.
    #[default]
    Put,
    /// Deleted it.
    Delete,
}

record! {
    /// One change of one key.
    Event {
        /// Put or delete.
        kind: EventKind,
        /// The pair after a put; key and mod revision only after a delete.
        kv: KeyValue,
        /// The pair before, when asked for, existing and not compacted.
        prev_kv: Option<KeyValue>,
    }
}

record! {
    /// Asks for a watcher.
    WatchCreate {
        /// First key; empty means one zero byte.
        key: Blob,
        /// As in a range.
        range_end: Blob,
        /// First revision wanted; 0 for everything after the creation.
        start_revision: i64,
        /// Ask for periodic progress replies.
        progress_notify: bool,
        /// Drop puts.
        no_put: bool,
        /// Drop deletes.
        no_delete: bool,
        /// Ask for the pair before each event.
        prev_kv: bool,
        /// Wanted id, 0 lets the server choose.
        watch_id: i64,
        /// Allow large responses to be split.
        fragment: bool,
    }
}

record! {
    /// One message from the server on a watch stream.
    WatchResponse {
        /// Header.
        header: Header,
        /// Watcher it is for; -1 for all, or for a failed creation.
        watch_id: i64,
        /// The answer to a creation.
        created: bool,
        /// The watcher has ended.
        canceled: bool,
        /// Where history begins, in a cancel because of compaction.
        compact_revision: i64,
        /// Why it was canceled.
        cancel_reason: String,
        /// More pieces of this response follow.
        fragment: bool,
        /// Events.
        events: Vec<Event>,
    }
}

/// One thing that happened on a watch stream, in the order the client did or saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEvent {
    /// The client opened the stream; the first record of every stream.
    Open,
    /// The client asked for a watcher. Servers answer creations in the order they were asked.
    Create {
        /// The client's own id of the watcher, unique in the history and the same across reconnects: the checker
        /// joins what it saw on all its streams.
        watcher: u64,
        /// The request.
        request: WatchCreate,
    },
    /// The client asked to end a watcher.
    Cancel {
        /// Id the server gave it on this stream.
        watch_id: i64,
    },
    /// The client asked for progress.
    ProgressRequest,
    /// A message from the server.
    Response(WatchResponse),
    /// The stream ended; the last record of a stream that ended before the history did.
    Closed {
        /// gRPC status code, 0 when the client closed it, -1 when the connection broke without one.
        code: i32,
        /// Why.
        text: String,
    },
}

/// A line of history about a watch stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// When, in nanoseconds of the history's monotonic clock.
    pub at: u64,
    /// The client.
    pub client: u32,
    /// Index of the member the stream goes to, when the client knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<u32>,
    /// The stream: unique in the history, new after each reconnect.
    pub stream: u64,
    /// What happened.
    pub event: StreamEvent,
}
