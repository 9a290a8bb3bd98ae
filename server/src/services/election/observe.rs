//! Observe: the leader's value, each change of it, then the next leader.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kelson_proto::etcdserverpb as pb;
use kelson_proto::mvccpb::event::EventType;
use kelson_proto::mvccpb::{Event, KeyValue};
use kelson_proto::v3electionpb::{LeaderRequest, LeaderResponse};
use prost::Message;

use crate::services::turn;
use crate::services::{ServiceContext, kv};
use crate::status::ClientError;
use crate::watch::WatchResponses;

/// Tells who leads, from now on. Waits while nobody does; ends when the watch below it ends.
pub async fn observe(
    context: Arc<ServiceContext>,
    request: LeaderRequest,
) -> Result<BoxStream<'static, Result<LeaderResponse, ClientError>>, ClientError> {
    let observer = Observer {
        context,
        prefix: turn::prefix_of(&request.name),
        followed: None,
        changes: VecDeque::new(),
    };
    let replies = stream::unfold(Some(observer), |observer| async move {
        let mut observer = observer?;
        match observer.next().await {
            Ok(Some(reply)) => Some((Ok(reply), Some(observer))),
            Ok(None) => None,
            Err(error) => Some((Err(error.without_code()), None)),
        }
    });
    Ok(replies.boxed())
}

struct Observer {
    context: Arc<ServiceContext>,
    prefix: Bytes,
    /// The watch on the key of the present leader; none while looking for one.
    followed: Option<WatchResponses>,
    /// Values of the present leader that have not been told.
    changes: VecDeque<LeaderResponse>,
}

impl Observer {
    async fn next(&mut self) -> Result<Option<LeaderResponse>, ClientError> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(Some(change));
            }
            match &mut self.followed {
                None => return self.find_leader().await,
                Some(watch) => {
                    let Some(response) = watch.next().await.filter(|response| !response.canceled) else {
                        return Ok(None);
                    };
                    self.follow(response)?;
                }
            }
        }
    }

    /// Takes in what happened to the leader's key.
    fn follow(&mut self, response: pb::WatchResponse) -> Result<(), ClientError> {
        for event in &response.events {
            let Some(kv) = put_by(event)? else {
                self.followed = None;
                return Ok(());
            };
            self.changes.push_back(LeaderResponse {
                header: response.header,
                kv: kv.encode_to_vec().into(),
            });
        }
        Ok(())
    }

    async fn find_leader(&mut self) -> Result<Option<LeaderResponse>, ClientError> {
        let read = kv::range(&self.context, turn::oldest(&self.prefix)).await?;
        let revision = turn::revision_of(read.header.as_ref());
        let Some(encoded) = read.kvs.into_iter().next() else {
            return self.wait_for_leader(revision).await;
        };
        let key = turn::pair(&encoded)?.key;
        self.follow_from(key, revision + 1)?;
        Ok(Some(LeaderResponse {
            header: read.header,
            kv: encoded,
        }))
    }

    /// Nobody led as of `revision`: the first put below the prefix makes a leader.
    async fn wait_for_leader(&mut self, revision: i64) -> Result<Option<LeaderResponse>, ClientError> {
        let mut watch = turn::watch_puts_below(&self.context, &self.prefix, revision + 1)?;
        while let Some(response) = watch.next().await.filter(|response| !response.canceled) {
            let Some(event) = response.events.first() else {
                continue;
            };
            let Some(kv) = put_by(event)? else {
                continue;
            };
            self.follow_from(kv.key.clone(), kv.mod_revision + 1)?;
            let header = response.header.map(|header| pb::ResponseHeader {
                revision: kv.mod_revision,
                ..header
            });
            return Ok(Some(LeaderResponse {
                header,
                kv: kv.encode_to_vec().into(),
            }));
        }
        Ok(None)
    }

    fn follow_from(&mut self, key: Bytes, revision: i64) -> Result<(), ClientError> {
        let create = pb::WatchCreateRequest {
            key,
            start_revision: revision,
            ..Default::default()
        };
        self.followed = Some(turn::watch_from(&self.context, create)?);
        Ok(())
    }
}

/// The pair that an event put; none for a deletion.
fn put_by(event: &Bytes) -> Result<Option<KeyValue>, ClientError> {
    let event = Event::decode(event.clone()).map_err(|error| {
        tracing::error!(%error, "an event does not decode");
        ClientError::other(crate::status::Code::Internal, "etcdserver: unreadable event")
    })?;
    let put = event.r#type() == EventType::Put;
    Ok(event.kv.filter(|_| put))
}
