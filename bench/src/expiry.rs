//! Very many leases that end at the same time.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::lease_client::LeaseClient;
use kelson_proto::etcdserverpb::watch_client::WatchClient;
use kelson_proto::etcdserverpb::watch_request::RequestUnion;
use kelson_proto::etcdserverpb::{LeaseGrantRequest, PutRequest, WatchCreateRequest, WatchRequest};
use kelson_proto::mvccpb::Event;
use kelson_proto::mvccpb::event::EventType;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::summary::Summary;

/// Grants under way at once.
const CLIENTS: u64 = 64;
/// Longest time that a lease is waited for after its end.
const LATE_MAX: Duration = Duration::from_secs(60);

/// Leases with a key each.
#[derive(Clone, Debug)]
pub struct Expiry {
    /// How many.
    pub leases: u64,
    /// When they end, after the first one's grant; all must be granted some seconds before.
    pub after: Duration,
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} leases with a key each that end at the same second; latency is from a lease's end to its key's deletion \
             event, CPU is that of granting, too",
            self.leases
        )
    }
}

/// Leases that are granted, and when they end.
pub struct Granted {
    /// By key.
    ends: HashMap<Vec<u8>, Instant>,
}

/// Grants all leases and puts their keys.
pub async fn grant(channels: &[Channel], settings: &Expiry) -> anyhow::Result<Granted> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let channel = channels[client as usize % channels.len()].clone();
        let numbers = (client..settings.leases).step_by(CLIENTS as usize);
        clients.spawn(grant_some(channel, numbers.collect(), begun + settings.after));
    }
    let mut ends = HashMap::new();
    while let Some(granted) = clients.join_next().await {
        ends.extend(granted??);
    }
    anyhow::ensure!(
        begun.elapsed() < settings.after,
        "granting {} leases took {:.1?}",
        settings.leases,
        begun.elapsed()
    );
    Ok(Granted { ends })
}

async fn grant_some(
    channel: Channel,
    numbers: Vec<u64>,
    end: Instant,
) -> anyhow::Result<Vec<(Vec<u8>, Instant)>> {
    let (mut leases, mut client) = (LeaseClient::new(channel.clone()), KvClient::new(channel));
    let mut granted = Vec::new();
    for number in numbers {
        // Seconds are whole, so that leases end within one second.
        let left = end.saturating_duration_since(Instant::now()).as_secs().max(1);
        let request = LeaseGrantRequest {
            ttl: left as i64,
            ..LeaseGrantRequest::default()
        };
        let lease = leases.lease_grant(request).await?.into_inner();
        let ends = Instant::now() + Duration::from_secs(lease.ttl.unsigned_abs());
        let key = format!("expiry/{number:012}").into_bytes();
        let request = PutRequest {
            key: key.clone().into(),
            lease: lease.id,
            ..PutRequest::default()
        };
        client.put(request).await?;
        granted.push((key, ends));
    }
    Ok(granted)
}

/// Waits until the last key is gone.
pub async fn run(channel: &Channel, granted: Granted) -> anyhow::Result<Summary> {
    let mut ends = granted.ends;
    let (requests, outgoing) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: "expiry/".into(),
        range_end: "expiry0".into(),
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    requests.send(request).await.context("the stream has ended")?;
    let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut replies = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    let last = ends.values().max().copied().context("no leases")?;
    let mut summary = Summary::default();
    let begun = Instant::now();
    while !ends.is_empty() {
        let Ok(reply) = tokio::time::timeout_at(last + LATE_MAX, replies.message()).await else {
            break;
        };
        let reply = reply?.context("the stream has ended")?;
        for event in reply.events {
            let event = Event::decode(event)?;
            let key = event
                .kv
                .as_ref()
                .map(|pair| pair.key.to_vec())
                .unwrap_or_default();
            if event.r#type() == EventType::Delete
                && let Some(end) = ends.remove(&key)
            {
                summary.took(end.elapsed());
            }
        }
    }
    summary.elapsed = begun.elapsed();
    summary.errors = ends.len() as u64;
    Ok(summary)
}
