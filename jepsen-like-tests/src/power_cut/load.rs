//! [`Load`]: writers that note what was acknowledged, until they are told to stop. No call is ever repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::etcdserverpb::request_op::Request;
use kelson_proto::etcdserverpb::{CompactionRequest, PutRequest, RequestOp, TxnRequest};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::verdict::{Write, Writer, Writers};

/// How long a call may take before its outcome is unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause after a call that failed, for its member may be gone.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Pause between two compactions, and the history that they leave.
const COMPACT_EVERY: Duration = Duration::from_millis(150);
const HISTORY_KEPT: i64 = 100;

/// A connection that is made when it is used, and again when it broke.
pub(super) fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

/// Writers at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    writing: JoinSet<Writer>,
    _compacting: JoinSet<()>,
}

impl Load {
    /// Sets all writers to work, spread over the members.
    pub(super) fn start(endpoints: &[String], writers: &mut Writers) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writing = JoinSet::new();
        for (index, writer) in writers.take().into_iter().enumerate() {
            let channel = connect(&endpoints[index % endpoints.len()])?;
            writing.spawn(write(writer, KvClient::new(channel), stop.clone()));
        }
        let mut compacting = JoinSet::new();
        compacting.spawn(compact(KvClient::new(connect(&endpoints[0])?)));
        Ok(Self {
            stop,
            writing,
            _compacting: compacting,
        })
    }

    /// Waits for the calls under way, and says how many were acknowledged and how many are unknown.
    pub(super) async fn stop(mut self, writers: &mut Writers) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut back = Vec::new();
        while let Some(writer) = self.writing.join_next().await {
            back.push(writer.expect("writers do not panic and are not aborted"));
        }
        writers.put_back(back)
    }
}

async fn write(mut writer: Writer, mut client: KvClient<Channel>, stop: Arc<AtomicBool>) -> Writer {
    while !stop.load(Ordering::Relaxed) {
        let write = writer.next();
        let answer = tokio::time::timeout(CALL_TIMEOUT, call(&mut client, &write)).await;
        match answer {
            Ok(Ok(revision)) => writer.acknowledged(revision),
            Ok(Err(_)) | Err(_) => tokio::time::sleep(PAUSE_AFTER_FAILURE).await,
        }
    }
    writer
}

/// One write; returns its revision.
async fn call(client: &mut KvClient<Channel>, write: &Write) -> Result<i64, tonic::Status> {
    let put = |key: &str| PutRequest {
        key: key.to_owned().into(),
        value: write.value.clone().into(),
        ..PutRequest::default()
    };
    let header = match &write.also {
        None => client.put(put(&write.key)).await?.into_inner().header,
        Some(also) => {
            let operation = |key: &str| RequestOp {
                request: Some(Request::RequestPut(put(key))),
            };
            let request = TxnRequest {
                success: vec![operation(&write.key), operation(also)],
                ..TxnRequest::default()
            };
            client.txn(request).await?.into_inner().header
        }
    };
    Ok(header.map_or(0, |header| header.revision))
}

/// Forgets history over and over, so that cuts meet compactions.
async fn compact(mut client: KvClient<Channel>) {
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        let range = kelson_proto::etcdserverpb::RangeRequest {
            key: "compacts".into(),
            ..Default::default()
        };
        let Ok(answer) = client.range(range).await else {
            continue;
        };
        let revision = answer.into_inner().header.map_or(0, |header| header.revision);
        if revision > HISTORY_KEPT {
            // A failure is as good as none: the next one forgets the same.
            let _ = client
                .compact(CompactionRequest {
                    revision: revision - HISTORY_KEPT,
                    ..Default::default()
                })
                .await;
        }
    }
}
