//! Watchers of many keys, and the time from a put's send to its event's arrival.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::watch_client::WatchClient;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use kelson_proto::mvccpb::Event;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::load;
use crate::scenes;
use crate::summary::Summary;

/// Creates under way on a stream.
const CREATES_AHEAD: usize = 64;
/// How long events that are missing at the end are waited for.
const LATE_MAX: Duration = Duration::from_secs(10);

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Fanout {
    /// Watchers in all; each watches one key, and all keys have as many.
    pub watchers: u64,
    /// Streams that they are spread over.
    pub streams: u64,
    /// Keys that are put and watched.
    pub keys: u64,
    /// Puts under way at once.
    pub writers: usize,
    /// Bytes of each value; the first eight tell when it was sent.
    pub value_bytes: usize,
    /// For how long is put.
    pub time: Duration,
}

impl fmt::Display for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "puts of {} B to {} keys by {} writers, {} watchers on {} streams; latency is from a put's send to its event's \
             arrival",
            self.value_bytes, self.keys, self.writers, self.watchers, self.streams
        )
    }
}

/// Watchers that are there, and wait for events.
pub struct Watching {
    settings: Fanout,
    shared: Arc<Shared>,
    streams: JoinSet<anyhow::Result<Summary>>,
    /// Keeps the sending sides of the streams open.
    requests: Vec<mpsc::Sender<WatchRequest>>,
}

struct Shared {
    started: Instant,
    /// Events that came.
    arrived: AtomicU64,
    /// Number of the next put.
    next: AtomicU64,
    /// Told when everything has come or nobody waits any more.
    ended: tokio::sync::watch::Sender<bool>,
}

impl Watching {
    /// Creates all watchers and returns when they have been confirmed.
    pub async fn open(channels: &[Channel], settings: &Fanout) -> anyhow::Result<Self> {
        anyhow::ensure!(
            settings.watchers.is_multiple_of(settings.keys),
            "every key needs as many watchers"
        );
        let shared = Arc::new(Shared {
            started: Instant::now(),
            arrived: AtomicU64::new(0),
            next: AtomicU64::new(0),
            ended: tokio::sync::watch::Sender::new(false),
        });
        let mut watching = Self {
            settings: settings.clone(),
            shared,
            streams: JoinSet::new(),
            requests: Vec::new(),
        };
        for stream in 0..settings.streams {
            let channel = channels[stream as usize % channels.len()].clone();
            let numbers = (0..settings.watchers).filter(|number| number % settings.streams == stream);
            let keys = numbers.map(|number| load::key(number % settings.keys)).collect();
            let (requests, replies) = open_stream(channel, keys).await?;
            watching.requests.push(requests);
            watching.streams.spawn(receive(watching.shared.clone(), replies));
        }
        Ok(watching)
    }

    /// Puts for the time of the settings and waits for the last event. Returns what puts took and what events took.
    pub async fn run(mut self, channels: &[Channel]) -> anyhow::Result<(Summary, Summary)> {
        let begun = Instant::now();
        let mut writers = JoinSet::new();
        for number in 0..self.settings.writers {
            let client = KvClient::new(channels[number % channels.len()].clone());
            writers.spawn(write(self.shared.clone(), self.settings.clone(), client, begun));
        }
        let mut puts = Summary::default();
        while let Some(done) = writers.join_next().await {
            puts.add(done?)?;
        }
        puts.elapsed = begun.elapsed();
        let expected = puts.count() * (self.settings.watchers / self.settings.keys);
        let deadline = Instant::now() + LATE_MAX;
        while self.shared.arrived.load(Ordering::Relaxed) < expected && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.shared.ended.send_replace(true);
        let mut events = Summary::default();
        while let Some(done) = self.streams.join_next().await {
            events.add(done??)?;
        }
        events.elapsed = puts.elapsed;
        events.errors += expected.saturating_sub(events.count());
        Ok((puts, events))
    }
}

async fn open_stream(
    channel: Channel,
    keys: Vec<String>,
) -> anyhow::Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let (requests, outgoing) = mpsc::channel(CREATES_AHEAD);
    let creating = requests.clone();
    let expected = keys.len();
    let create = async move {
        for key in keys {
            let create = WatchCreateRequest {
                key: key.into(),
                ..WatchCreateRequest::default()
            };
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            creating.send(request).await.context("the stream has ended")?;
        }
        anyhow::Ok(())
    };
    let confirm = async {
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut replies = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
        for _ in 0..expected {
            let reply = replies.message().await?.context("the stream has ended")?;
            anyhow::ensure!(
                reply.created && !reply.canceled,
                "not created: {}",
                reply.cancel_reason
            );
        }
        anyhow::Ok(replies)
    };
    let (created, replies) = tokio::join!(create, confirm);
    created?;
    Ok((requests, replies?))
}

async fn receive(shared: Arc<Shared>, mut replies: Streaming<WatchResponse>) -> anyhow::Result<Summary> {
    let mut sum = Summary::default();
    let mut ended = shared.ended.subscribe();
    loop {
        let reply = tokio::select! {
            reply = replies.message() => reply?.context("a watch stream has ended")?,
            _ = ended.wait_for(|ended| *ended) => return Ok(sum),
        };
        let now = micros_since(shared.started);
        for event in &reply.events {
            let event = Event::decode(event.clone())?;
            let value = event.kv.map(|pair| pair.value).unwrap_or_default();
            let sent = value.first_chunk().context("a value without a time")?;
            sum.took(Duration::from_micros(
                now.saturating_sub(u64::from_be_bytes(*sent)),
            ));
        }
        shared
            .arrived
            .fetch_add(reply.events.len() as u64, Ordering::Relaxed);
    }
}

async fn write(
    shared: Arc<Shared>,
    settings: Fanout,
    mut client: KvClient<Channel>,
    begun: Instant,
) -> Summary {
    let mut sum = Summary::default();
    while begun.elapsed() < settings.time {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let mut value = vec![b'v'; settings.value_bytes.max(8)];
        value[..8].copy_from_slice(&micros_since(shared.started).to_be_bytes());
        let request = PutRequest {
            key: load::key(number % settings.keys).into(),
            value: Bytes::from(value),
            ..PutRequest::default()
        };
        match client.put(request).await {
            Ok(_) => sum.took(sent.elapsed()),
            Err(status) => sum.failed(&status),
        }
    }
    sum
}

/// Watches everything from `revisions` ago and returns once it has been told all that had happened when it began.
pub async fn catch_up(channel: &Channel, revisions: i64) -> anyhow::Result<()> {
    let now = scenes::revision(channel).await?;
    let create = WatchCreateRequest {
        key: "bench/".into(),
        range_end: "bench0".into(),
        start_revision: (now - revisions).max(1),
        ..WatchCreateRequest::default()
    };
    let (requests, outgoing) = mpsc::channel(1);
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    requests.send(request).await.context("the stream has ended")?;
    let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut replies = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    loop {
        let reply = replies.message().await?.context("the stream has ended")?;
        anyhow::ensure!(!reply.canceled, "canceled: {}", reply.cancel_reason);
        if let Some(last) = reply.events.last() {
            let pair = Event::decode(last.clone())?
                .kv
                .context("an event without a pair")?;
            if pair.mod_revision >= now {
                return Ok(());
            }
        }
    }
}

fn micros_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
