//! Watchers of all starting points, on streams that move from member to member and go on where they were.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use kelson_proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::connect;
use super::load::{Shared, after};
use super::recorder::{Recorder, index};
use crate::history::{Record, StreamEvent, StreamRecord, WatchCreate, WatchResponse, convert};

/// A stream that is silent for so long is given up: its connection may be half open.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How often a stream asks for progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(700);

/// Rest before the next member is tried.
const REST: Duration = Duration::from_millis(50);

/// Largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Where a watcher begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// All keys from revision 1, nothing filtered, for the whole episode: what other checks lean on.
    Everything,
    /// Some revisions back.
    Past,
    /// After the creation.
    Now,
    /// Below the compacted revision, if there is one.
    Compacted,
    /// Some revisions ahead.
    Future,
}

/// The beginnings of an episode's watchers.
pub const BEGINNINGS: &[Beginning] = &[
    Beginning::Everything,
    Beginning::Everything,
    Beginning::Past,
    Beginning::Now,
    Beginning::Compacted,
    Beginning::Future,
];

/// One watcher after another, each across as many streams as it takes.
#[derive(Debug)]
pub struct Watcher {
    /// Its number among clients.
    pub client: u32,
    /// Where its watchers begin.
    pub beginning: Beginning,
    /// Decides by chance.
    pub rng: StdRng,
    recorder: Arc<Recorder>,
    endpoints: Vec<SocketAddr>,
    shared: Arc<Shared>,
    /// Set when streams are to be closed.
    stop: Arc<AtomicBool>,
    /// Everything up to this revision has been seen, for others to wait for.
    pub seen: Arc<AtomicI64>,
}

/// What a watcher has got so far.
#[derive(Debug)]
struct Progress {
    /// Unique in the history, the same on all streams.
    watcher: u64,
    request: WatchCreate,
    /// Where the next stream must begin; 0 while nothing is known.
    next: i64,
    /// No more streams after this time.
    until: Option<Instant>,
}

/// How a stream ended, for the history.
struct Ending {
    code: i32,
    text: String,
}

impl Watcher {
    /// A watcher of the members at `endpoints`.
    #[must_use]
    pub fn new(
        client: u32,
        seed: u64,
        beginning: Beginning,
        recorder: Arc<Recorder>,
        endpoints: Vec<SocketAddr>,
        shared: Arc<Shared>,
        stop: Arc<AtomicBool>,
    ) -> Watcher {
        Watcher {
            client,
            beginning,
            rng: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(u64::from(client))),
            recorder,
            endpoints,
            shared,
            stop,
            seen: Arc::default(),
        }
    }

    /// Watches until told to stop.
    pub async fn run(mut self) {
        let mut member = usize::try_from(self.client).unwrap_or(0);
        while self.goes_on() {
            let mut progress = self.begin();
            while self.goes_on() && progress.until.is_none_or(|until| Instant::now() < until) {
                member = (member + 1) % self.endpoints.len();
                if !self.stream(member, &mut progress).await {
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A new watcher.
    fn begin(&mut self) -> Progress {
        let newest = self.shared.revision.load(Ordering::Relaxed);
        let compacted = self.shared.compacted.load(Ordering::Relaxed);
        let rng = &mut self.rng;
        let start_revision = match self.beginning {
            Beginning::Everything => 1,
            Beginning::Past => rng.random_range(compacted.min(newest)..=newest).max(1),
            Beginning::Now => 0,
            Beginning::Compacted => rng.random_range(0..=compacted.max(0)).max(1),
            Beginning::Future => newest + rng.random_range(1..200),
        };
        let everything = self.beginning == Beginning::Everything;
        let prefixes = ["r/", "t/", "p/", "s/", "q/", "l", "/registry/", "guarded/"];
        let (key, range_end) = match *prefixes.choose(rng).expect("not empty") {
            _ if everything => (vec![0].into(), vec![0].into()),
            "l" => ("l".into(), after("l")),
            prefix => (prefix.into(), after(prefix)),
        };
        let filter = if everything { 0 } else { rng.random_range(0..6) };
        Progress {
            watcher: self.recorder.number(),
            request: WatchCreate {
                key,
                range_end,
                start_revision,
                progress_notify: everything || rng.random_bool(0.5),
                no_put: filter == 1,
                no_delete: filter == 2,
                prev_kv: everything || rng.random_bool(0.5),
                watch_id: 0,
                fragment: rng.random_bool(0.5),
            },
            next: start_revision,
            until: (!everything)
                .then(|| Instant::now() + Duration::from_millis(rng.random_range(2_000..12_000))),
        }
    }

    /// One stream, from opening to end. False if there was nobody to open it to.
    async fn stream(&mut self, member: usize, progress: &mut Progress) -> bool {
        let Some(channel) = connect(self.endpoints[member]).await else {
            return false;
        };
        let stream = self.recorder.number();
        let log = Log {
            recorder: Arc::clone(&self.recorder),
            client: self.client,
            member,
            stream,
        };
        log.push(StreamEvent::Open);
        let ending = match self.watch(channel, &log, progress).await {
            Ok(text) => Ending {
                code: 0,
                text: text.to_owned(),
            },
            Err(status) => Ending {
                // A broken connection has no status of its own: tonic makes one up and keeps the cause.
                code: if std::error::Error::source(&status).is_some() {
                    -1
                } else {
                    status.code() as i32
                },
                text: status.message().to_owned(),
            },
        };
        log.push(StreamEvent::Closed {
            code: ending.code,
            text: ending.text,
        });
        true
    }

    async fn watch(
        &mut self,
        channel: tonic::transport::Channel,
        log: &Log,
        progress: &mut Progress,
    ) -> Result<&'static str, tonic::Status> {
        let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
        progress.request.start_revision = progress.next;
        log.push(StreamEvent::Create {
            watcher: progress.watcher,
            request: progress.request.clone(),
        });
        let create = RequestUnion::CreateRequest((&progress.request).into());
        // The receiver lives until the end of the call.
        let send = |union| {
            requests
                .send(pb::WatchRequest {
                    request_union: Some(union),
                })
                .is_ok()
        };
        send(create);
        let mut replies = tokio::time::timeout(SILENCE_MAX, client.watch(outgoing))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer to the opening of a stream"))??
            .into_inner();
        let asks = self.rng.random_bool(0.5);
        let mut ask_at = Instant::now() + PROGRESS_EVERY;
        let mut silent_since = Instant::now();
        loop {
            if !self.goes_on() {
                return Ok("the episode is over");
            }
            if progress.until.is_some_and(|until| Instant::now() >= until) {
                if let Some(id) = self.cancels() {
                    log.push(StreamEvent::Cancel { watch_id: id });
                    send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                        watch_id: id,
                    }));
                    self.drain(&mut replies, log).await;
                }
                return Ok("enough");
            }
            if asks && Instant::now() >= ask_at {
                ask_at = Instant::now() + PROGRESS_EVERY;
                log.push(StreamEvent::ProgressRequest);
                send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
            match tokio::time::timeout(Duration::from_millis(200), replies.message()).await {
                Err(_) if silent_since.elapsed() > SILENCE_MAX => return Ok("silent for too long"),
                Err(_) => (),
                Ok(reply) => {
                    silent_since = Instant::now();
                    let Some(reply) = reply? else {
                        return Err(tonic::Status::unknown("the stream ended"));
                    };
                    let reply =
                        convert::watch(reply).map_err(|error| tonic::Status::internal(error.to_string()))?;
                    log.push(StreamEvent::Response(reply.clone()));
                    if let Some(why) = self.take(&reply, progress) {
                        return Ok(why);
                    }
                }
            }
        }
    }

    /// Moves on with a message. Returns why the stream is of no more use, if so.
    fn take(&mut self, reply: &WatchResponse, progress: &mut Progress) -> Option<&'static str> {
        self.shared.saw(reply.header.revision);
        if reply.canceled {
            // History begins at the compact revision; without one the watcher cannot be had.
            if reply.compact_revision > 0 {
                progress.next = reply.compact_revision;
            } else {
                progress.until = Some(Instant::now());
            }
            return Some("canceled by the server");
        }
        if reply.created {
            if progress.next == 0 {
                progress.next = reply.header.revision + 1;
            }
            return None;
        }
        // Pieces of one revision may still follow a piece.
        if reply.fragment {
            return None;
        }
        let reached = match reply.events.last() {
            Some(event) => event.kv.mod_revision,
            // A progress reply promises everything up to its revision.
            None => reply.header.revision,
        };
        progress.next = progress.next.max(reached + 1);
        self.seen.fetch_max(reached, Ordering::Relaxed);
        None
    }

    /// Whether to end a watcher by a cancel rather than with its stream; the id to name.
    fn cancels(&mut self) -> Option<i64> {
        // The only watcher of a stream has the first id.
        self.rng.random_bool(0.5).then_some(0)
    }

    /// Records what still comes after a cancel, up to the answer to it.
    async fn drain(&self, replies: &mut tonic::Streaming<pb::WatchResponse>, log: &Log) {
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Ok(Ok(Some(reply))) = tokio::time::timeout_at(deadline, replies.message()).await {
            let Ok(reply) = convert::watch(reply) else { return };
            let canceled = reply.canceled;
            log.push(StreamEvent::Response(reply));
            if canceled {
                return;
            }
        }
    }
}

/// Where the records of one stream go.
struct Log {
    recorder: Arc<Recorder>,
    client: u32,
    member: usize,
    stream: u64,
}

impl Log {
    fn push(&self, event: StreamEvent) {
        self.recorder.push(Record::Stream(StreamRecord {
            at: self.recorder.now(),
            client: self.client,
            member: Some(index(self.member)),
            stream: self.stream,
            event,
        }));
    }
}

/// Watches all keys at one member from `from` to `to`, as the last word of an episode. False if it does not get there in
/// time.
pub async fn watch_all(
    recorder: &Arc<Recorder>,
    client: u32,
    member: usize,
    endpoint: SocketAddr,
    from: i64,
    to: i64,
    patience: Duration,
) -> bool {
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(Shared::default());
    let watcher = Watcher::new(
        client,
        0,
        Beginning::Everything,
        Arc::clone(recorder),
        vec![endpoint],
        shared,
        Arc::clone(&stop),
    );
    let seen = Arc::clone(&watcher.seen);
    let log = Log {
        recorder: Arc::clone(recorder),
        client,
        member,
        stream: recorder.number(),
    };
    let mut watcher = watcher;
    let mut progress = watcher.begin();
    progress.next = from;
    let Some(channel) = connect(endpoint).await else {
        return false;
    };
    log.push(StreamEvent::Open);
    let reached = async {
        while seen.load(Ordering::Relaxed) < to {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::select! {
        _ = watcher.watch(channel, &log, &mut progress) => false,
        () = reached => true,
        () = tokio::time::sleep(patience) => false,
    };
    log.push(StreamEvent::Closed {
        code: 0,
        text: if done {
            "everything seen"
        } else {
            "not everything seen"
        }
        .to_owned(),
    });
    done
}
