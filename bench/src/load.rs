//! Closed-loop puts: so many clients, each with one request under way.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use kelson_proto::etcdserverpb::PutRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::summary::Summary;

/// Settings of a run of puts.
pub struct Plan {
    /// Puts in all.
    pub total: usize,
    /// Requests under way at once.
    pub clients: usize,
    /// Keys are drawn round robin from so many, scattered by a multiplicative hash.
    pub keys: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            total,
            clients,
            keys,
            value_bytes,
        } = self;
        write!(
            f,
            "{total} puts of {value_bytes} B over {keys} keys, {clients} clients, closed loop"
        )
    }
}

/// One connection to each endpoint.
pub async fn connect(endpoints: &[String]) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for endpoint in endpoints {
        let url = format!("http://{endpoint}");
        let channel = Endpoint::from_shared(url)?
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .connect()
            .await
            .with_context(|| format!("cannot connect to {endpoint}"))?;
        channels.push(channel);
    }
    anyhow::ensure!(!channels.is_empty(), "no endpoint");
    Ok(channels)
}

/// The key of number `index`: all below one prefix, so that a range over it counts them.
pub fn key(index: usize) -> String {
    format!("bench/{index:012}")
}

/// Puts `plan.total` values. Keys `0..plan.keys` are each written once before any is written again.
pub async fn put(channels: &[Channel], plan: &Plan) -> anyhow::Result<Summary> {
    let next = Arc::new(AtomicUsize::new(0));
    let value = bytes_of(plan.value_bytes);
    let started = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..plan.clients {
        let mut client = KvClient::new(channels[number % channels.len()].clone());
        let (next, value, total, keys) = (next.clone(), value.clone(), plan.total, plan.keys);
        clients.spawn(async move {
            let mut latencies = Vec::new();
            let mut errors = 0;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    return (latencies, errors);
                }
                let request = PutRequest {
                    key: key(index % keys).into(),
                    value: value.clone(),
                    ..PutRequest::default()
                };
                let sent = Instant::now();
                match client.put(request).await {
                    Ok(_) => latencies.push(sent.elapsed()),
                    Err(status) => {
                        if errors == 0 {
                            eprintln!("first error of a client: {status}");
                        }
                        errors += 1;
                    }
                }
            }
        });
    }
    let mut latencies: Vec<Duration> = Vec::with_capacity(plan.total);
    let mut errors = 0;
    while let Some(done) = clients.join_next().await {
        let (mut own, failed) = done?;
        latencies.append(&mut own);
        errors += failed;
    }
    Ok(Summary::of(latencies, errors, started.elapsed()))
}

/// Bytes that do not compress to nothing.
fn bytes_of(length: usize) -> bytes::Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect::<Vec<u8>>()
        .into()
}
