//! Clients that watch: from all starting points, on streams that move from member to member and go on where they were.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kelson_proto::etcdserverpb as pb;
use kelson_server::services::{ServiceContext, watch};
use kelson_server::status::ClientError;
use kelson_storage::testing::Random;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::cluster::Cluster;
use super::plan::{Plan, chance};
use super::record::Recorder;
use crate::history::{StreamEvent, WatchCreate, WatchResponse, convert};

/// Pause after a stream that failed, or was not even opened because the member does not run.
const REST: Duration = Duration::from_millis(50);
/// Longest life of a stream before its client leaves it.
const STREAM_MILLIS: u64 = 8_000;
/// Longest pause between two requests for progress.
const PROGRESS_MILLIS: u64 = 2_000;
/// Most revisions ahead at which a watcher starts.
const AHEAD: u64 = 50;

/// One client, with one watcher at a time.
pub struct WatchClient {
    number: u32,
    cluster: Cluster,
    random: Random,
    keys: u64,
}

/// A watcher, over all streams it takes.
struct Watcher {
    name: u64,
    request: WatchCreate,
    /// Left by its client at this time.
    until: Instant,
    /// Cannot be had any more.
    refused: bool,
}

impl WatchClient {
    /// Client `number`.
    pub fn new(cluster: Cluster, plan: &Plan, number: u32) -> Self {
        Self {
            number,
            cluster,
            random: chance(plan.seed, &format!("watch client {number}")),
            keys: plan.keys,
        }
    }

    /// Watches until dropped.
    pub async fn run(mut self) {
        loop {
            let mut watcher = self.watcher();
            while !watcher.refused && Instant::now() < watcher.until {
                let member = self.cluster.any_member(&mut self.random);
                if !self.stream(member, &mut watcher).await {
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// One stream, from opening to end. False if it failed, or nobody was there to open it to.
    async fn stream(&mut self, member: u64, watcher: &mut Watcher) -> bool {
        let cluster = self.cluster.clone();
        let Some((context, gone)) = cluster.member(member) else {
            return false;
        };
        let recorder = cluster.inner.recorder.clone();
        let log = Log {
            stream: recorder.number(),
            recorder,
            client: self.number,
            member,
        };
        log.push(StreamEvent::Open);
        let (code, text) = tokio::select! {
            biased;
            () = gone.wait() => (-1, "the member ended".to_owned()),
            ended = cluster.within(member, self.watch(&context, &log, watcher)) => ended,
        };
        log.push(StreamEvent::Closed { code, text });
        code == 0
    }

    fn watcher(&mut self) -> Watcher {
        let recorder = &self.cluster.inner.recorder;
        let newest = recorder.collected();
        let random = &mut self.random;
        let start = match random.below(4) {
            0 => 0,
            1 => 1 + random.below(newest + AHEAD),
            2 => newest.saturating_sub(random.below(20)).max(1),
            _ => 1,
        };
        let (key, range_end) = if random.chance(1, 3) {
            (format!("k{}", random.below(self.keys)).into(), Vec::new().into())
        } else {
            (vec![0].into(), vec![0].into())
        };
        let filter = random.below(6);
        Watcher {
            name: recorder.number(),
            request: WatchCreate {
                key,
                range_end,
                start_revision: start as i64,
                progress_notify: random.chance(1, 2),
                no_put: filter == 1,
                no_delete: filter == 2,
                prev_kv: random.chance(1, 2),
                watch_id: 0,
                fragment: random.chance(1, 2),
            },
            until: Instant::now() + Duration::from_millis(1 + random.below(3 * STREAM_MILLIS)),
            refused: false,
        }
    }

    /// One stream from its creation on. Returns how it ended.
    async fn watch(
        &mut self,
        context: &Arc<ServiceContext>,
        log: &Log,
        watcher: &mut Watcher,
    ) -> (i32, String) {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut replies = watch::watch(context.clone(), UnboundedReceiverStream::new(outgoing));
        log.push(StreamEvent::Create {
            watcher: watcher.name,
            request: watcher.request.clone(),
        });
        let ask = |union| {
            // The stream that takes it lives as long as `replies`.
            let _ = requests.send(Ok::<_, ClientError>(pb::WatchRequest {
                request_union: Some(union),
            }));
        };
        ask(RequestUnion::CreateRequest((&watcher.request).into()));
        let until = Instant::now() + Duration::from_millis(1 + self.random.below(STREAM_MILLIS));
        let until = until.min(watcher.until);
        loop {
            let pause = Duration::from_millis(1 + self.random.below(PROGRESS_MILLIS));
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return (0, "enough".to_owned()),
                reply = replies.next() => {
                    let reply = match reply {
                        Some(Ok(reply)) => convert::watch(reply),
                        Some(Err(error)) => return (error.code() as i32, error.text().to_owned()),
                        None => return (-1, "the stream ended".to_owned()),
                    };
                    let reply = match reply {
                        Ok(reply) => reply,
                        Err(error) => return (-1, format!("undecodable: {error}")),
                    };
                    log.push(StreamEvent::Response(reply.clone()));
                    if let Some(why) = watcher.take(&reply) {
                        return (0, why.to_owned());
                    }
                }
                () = tokio::time::sleep(pause) => {
                    log.push(StreamEvent::ProgressRequest);
                    ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                }
            }
        }
    }
}

impl Watcher {
    /// Moves on with a message. Returns why the stream is of no more use, if so.
    fn take(&mut self, reply: &WatchResponse) -> Option<&'static str> {
        let next = &mut self.request.start_revision;
        if reply.canceled {
            // History begins at the compact revision; without one the watcher cannot be had.
            *next = (*next).max(reply.compact_revision);
            self.refused = reply.compact_revision == 0;
            return Some("canceled by the member");
        }
        if reply.created {
            if *next == 0 {
                *next = reply.header.revision + 1;
            }
            return None;
        }
        // Pieces of one revision may still follow a piece.
        if !reply.fragment {
            // A progress reply promises everything up to its revision.
            let reached = match reply.events.last() {
                Some(event) => event.kv.mod_revision,
                None => reply.header.revision,
            };
            *next = (*next).max(reached + 1);
        }
        None
    }
}

/// Where the records of one stream go.
struct Log {
    recorder: Recorder,
    client: u32,
    member: u64,
    stream: u64,
}

impl Log {
    fn push(&self, event: StreamEvent) {
        self.recorder.stream(self.client, self.member, self.stream, event);
    }
}
