//! Measurements that are no load: how long writes stop when the leader dies, what a list of everything costs, what a
//! cluster costs that nobody asks anything.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, RangeResponse};
use kelson_proto::mvccpb::KeyValue;
use parking_lot::Mutex;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::load;
use crate::process::Cluster;
use crate::summary::Summary;

/// Objects of a page, as kube-apiserver's caches read them.
const PAGE: i64 = 10_000;
/// Writers at the members that live on.
const WRITERS: usize = 8;
/// Pause of a writer after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(2);
/// How long writes go on before the leader is killed, and after the first that was acknowledged again.
const CALM: Duration = Duration::from_millis(500);
/// Longest wait for a write to be acknowledged again.
const GAP_MAX: Duration = Duration::from_secs(60);

/// How everything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One reply.
    Unary,
    /// RangeStream.
    Streamed,
    /// Pages of ten thousand, pinned to the first one's revision.
    Paged,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unary => "in one reply",
            Self::Streamed => "by RangeStream",
            Self::Paged => "in pages of 10,000",
        })
    }
}

/// Reads every key of the benchmark `times` times; latencies are of whole lists.
pub async fn list(channel: &Channel, way: Way, times: u32) -> anyhow::Result<Summary> {
    let mut client = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let count = RangeRequest {
        count_only: true,
        ..everything()
    };
    // Rows before may have put more keys than this one needs.
    let keys = client.range(count).await?.into_inner().count.unsigned_abs();
    let mut summary = Summary::default();
    let begun = Instant::now();
    for _ in 0..times {
        let sent = Instant::now();
        let found = match way {
            Way::Unary => client.range(everything()).await?.into_inner().kvs.len() as u64,
            Way::Streamed => streamed(&mut client).await?,
            Way::Paged => paged(&mut client, &everything()).await?,
        };
        anyhow::ensure!(found == keys, "{found} keys {way} where {keys} are");
        summary.took(sent.elapsed());
    }
    summary.elapsed = begun.elapsed();
    Ok(summary)
}

fn everything() -> RangeRequest {
    RangeRequest {
        key: "bench/".into(),
        range_end: "bench0".into(),
        ..RangeRequest::default()
    }
}

async fn streamed(client: &mut KvClient<Channel>) -> anyhow::Result<u64> {
    let mut replies = client.range_stream(everything()).await?.into_inner();
    let mut found = 0;
    while let Some(piece) = replies.message().await? {
        found += piece.range_response.context("a piece without a range")?.kvs.len() as u64;
    }
    Ok(found)
}

/// Reads all of `range` in pages; returns how many keys there are.
pub async fn paged(client: &mut KvClient<Channel>, range: &RangeRequest) -> anyhow::Result<u64> {
    let (mut key, mut revision, mut found) = (range.key.clone(), 0, 0);
    loop {
        let request = RangeRequest {
            key: key.clone(),
            limit: PAGE,
            revision,
            ..range.clone()
        };
        let reply = client.range(request).await?.into_inner();
        found += reply.kvs.len() as u64;
        if reply.kvs.len() as i64 >= reply.count {
            return Ok(found);
        }
        key = after_the_last(&reply)?;
        if revision == 0 {
            revision = reply.header.context("a reply without a header")?.revision;
        }
    }
}

fn after_the_last(reply: &RangeResponse) -> anyhow::Result<Bytes> {
    let last = reply.kvs.last().context("an empty page that is not the last")?;
    let mut key = KeyValue::decode(last.clone())?.key.to_vec();
    key.push(0);
    Ok(key.into())
}

/// The present revision.
pub async fn revision(channel: &Channel) -> anyhow::Result<i64> {
    let probe = RangeRequest {
        key: "bench".into(),
        ..RangeRequest::default()
    };
    let reply = KvClient::new(channel.clone()).range(probe).await?.into_inner();
    Ok(reply.header.context("a reply without a header")?.revision)
}

/// Compacts at the present revision and returns when the server has answered.
pub async fn compact_everything(channel: &Channel) -> anyhow::Result<()> {
    compact(channel, revision(channel).await?).await
}

/// Compacts at `revision` and returns when the server has answered.
pub async fn compact(channel: &Channel, revision: i64) -> anyhow::Result<()> {
    let request = CompactionRequest {
        revision,
        physical: false,
    };
    KvClient::new(channel.clone()).compact(request).await?;
    Ok(())
}

/// Kills the leader `times` times under writers at the others. Latencies are the longest times in which no write was
/// acknowledged anywhere.
pub async fn kill_leaders(cluster: &mut Cluster, times: u32) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let begun = Instant::now();
    for round in 0..times {
        let leader = cluster.leader().await?;
        let others: Vec<String> = cluster
            .endpoints()
            .into_iter()
            .enumerate()
            .filter_map(|(number, endpoint)| (number != leader).then_some(endpoint))
            .collect();
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut writers = JoinSet::new();
        for (number, channel) in load::connect(&others, WRITERS).await?.into_iter().enumerate() {
            writers.spawn(write(channel, format!("gap/{number}"), acknowledged.clone()));
        }
        tokio::time::sleep(CALM).await;
        let killed = Instant::now();
        cluster.kill(leader).await?;
        while acknowledged
            .lock()
            .last()
            .is_none_or(|at: &Instant| *at < killed + CALM)
        {
            anyhow::ensure!(
                killed.elapsed() < GAP_MAX,
                "no write within {GAP_MAX:?} in round {round}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A write may still be acknowledged in the moment of the kill; the gap is what follows.
        tokio::time::sleep(CALM).await;
        writers.shutdown().await;
        summary.took(longest_gap(&mut acknowledged.lock()));
        cluster.restart(leader).await?;
    }
    summary.elapsed = begun.elapsed();
    Ok(summary)
}

async fn write(channel: Channel, key: String, acknowledged: Arc<Mutex<Vec<Instant>>>) {
    let mut client = KvClient::new(channel);
    loop {
        let request = PutRequest {
            key: key.clone().into(),
            ..PutRequest::default()
        };
        match client.put(request).await {
            Ok(_) => acknowledged.lock().push(Instant::now()),
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

fn longest_gap(acknowledged: &mut [Instant]) -> Duration {
    acknowledged.sort_unstable();
    let gaps = acknowledged.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_between_two_answers() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut acknowledged = [at(5), at(0), at(400), at(7), at(410)];
        assert_eq!(longest_gap(&mut acknowledged), Duration::from_millis(393));
        assert_eq!(longest_gap(&mut []), Duration::ZERO);
    }
}
