//! [`Watchers`]: one watch for each resource, as the caches of an apiserver hold them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kelson_proto::etcdserverpb::watch_client::WatchClient;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use kelson_proto::mvccpb::Event;
use kelson_proto::mvccpb::event::EventType;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::api::{Api, RESOURCES, range_of};
use crate::summary::Summary;

/// Resources of which nothing is heard: the other built-in ones, and those of two hundred custom definitions.
const QUIET_RESOURCES: usize = 266;
/// While somebody waits for a read from the cache, the apiserver asks so often how far its watch is.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// All watches of an apiserver.
pub struct Watchers {
    streams: JoinSet<anyhow::Result<Summary>>,
    ended: tokio::sync::watch::Sender<bool>,
}

impl Watchers {
    /// Opens them and returns when they have been confirmed.
    pub async fn open(channels: &[Channel], api: &Arc<Api>) -> anyhow::Result<Self> {
        let mut watchers = Self {
            streams: JoinSet::new(),
            ended: tokio::sync::watch::Sender::new(false),
        };
        let quiet = (0..QUIET_RESOURCES).map(|number| format!("/registry/example.com/resource-{number:03}/"));
        let resources = RESOURCES.into_iter().map(str::to_owned).chain(quiet);
        for (number, resource) in resources.enumerate() {
            let channel = channels[number % channels.len()].clone();
            let (requests, replies) = watch(channel, &resource).await?;
            watchers.streams.spawn(receive(
                api.clone(),
                requests,
                replies,
                watchers.ended.subscribe(),
            ));
        }
        Ok(watchers)
    }

    /// Closes them. Returns how long after its write was due each event arrived.
    pub async fn end(mut self) -> anyhow::Result<Summary> {
        self.ended.send_replace(true);
        let mut sum = Summary::default();
        while let Some(done) = self.streams.join_next().await {
            sum.add(done??)?;
        }
        Ok(sum)
    }
}

async fn watch(
    channel: Channel,
    resource: &str,
) -> anyhow::Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let all = range_of(resource);
    let create = WatchCreateRequest {
        key: all.key,
        range_end: all.range_end,
        prev_kv: true,
        progress_notify: true,
        ..WatchCreateRequest::default()
    };
    let (requests, outgoing) = mpsc::channel(1);
    requests
        .send(request(RequestUnion::CreateRequest(create)))
        .await?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut replies = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    let reply = replies.message().await?.context("the stream has ended")?;
    anyhow::ensure!(
        reply.created && !reply.canceled,
        "not created: {}",
        reply.cancel_reason
    );
    Ok((requests, replies))
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

async fn receive(
    api: Arc<Api>,
    requests: mpsc::Sender<WatchRequest>,
    mut replies: Streaming<WatchResponse>,
    mut ended: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<Summary> {
    let mut sum = Summary::default();
    let mut progress = tokio::time::interval(PROGRESS_PERIOD);
    let mut is_busy = false;
    loop {
        let reply = tokio::select! {
            reply = replies.message() => Some(reply?.context("a watch stream has ended")?),
            _ = progress.tick(), if is_busy => None,
            _ = ended.wait_for(|ended| *ended) => return Ok(sum),
        };
        let Some(reply) = reply else {
            requests
                .send(request(RequestUnion::ProgressRequest(WatchProgressRequest {})))
                .await?;
            continue;
        };
        anyhow::ensure!(!reply.canceled, "a watch was canceled: {}", reply.cancel_reason);
        // Of what never changes nobody reads.
        is_busy |= !reply.events.is_empty();
        for event in &reply.events {
            let event = Event::decode(event.clone())?;
            let pair = event.kv.context("an event without a pair")?;
            if event.r#type == i32::from(EventType::Put)
                && let Some(age) = api.age(&pair.value)
            {
                sum.took(age);
            }
        }
    }
}
