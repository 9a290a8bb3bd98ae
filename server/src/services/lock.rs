//! v3lockpb: Lock and Unlock. A lock is a key that exists for as long as it is held.

use std::sync::Arc;

use bytes::Bytes;
use kelson_proto::etcdserverpb as pb;
use kelson_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use super::turn::{self, Place};
use super::{ServiceContext, kv};
use crate::status::ClientError;

/// Waits for the lock. A lease that holds it already gets it again at once; a caller that goes away while it waits
/// gives up its place.
pub async fn lock(context: &Arc<ServiceContext>, request: LockRequest) -> Result<LockResponse, ClientError> {
    acquire(context, request).await.map_err(ClientError::without_code)
}

async fn acquire(context: &Arc<ServiceContext>, request: LockRequest) -> Result<LockResponse, ClientError> {
    let place = Place::of(context, &request.name, request.lease).await?;
    let entered = kv::txn(
        context,
        pb::TxnRequest {
            compare: vec![place.is_free()],
            success: vec![
                place.put(Bytes::new()),
                turn::range_op(turn::oldest(&place.prefix)),
            ],
            failure: vec![
                turn::range_op(turn::single(&place.key)),
                turn::range_op(turn::oldest(&place.prefix)),
            ],
        },
    )
    .await?;
    let since = if entered.succeeded {
        turn::revision_of(entered.header.as_ref())
    } else {
        let own = turn::pairs_read(&entered, 0).first();
        turn::pair(own.ok_or(ClientError::SessionExpired)?)?.create_revision
    };
    let owner = turn::pairs_read(&entered, 1)
        .first()
        .map(turn::pair)
        .transpose()?;
    if owner.is_none_or(|owner| owner.create_revision == since) {
        return Ok(LockResponse {
            header: entered.header,
            key: place.key,
        });
    }
    wait(context, place, since).await
}

async fn wait(context: &Arc<ServiceContext>, place: Place, since: i64) -> Result<LockResponse, ClientError> {
    let waiting = Waiting::new(context, place.key.clone());
    turn::wait_for_turn(context, &place.prefix, since).await?;
    let confirmed = kv::range(context, turn::single(&place.key)).await?;
    if confirmed.kvs.is_empty() {
        return Err(ClientError::SessionExpired);
    }
    waiting.done();
    Ok(LockResponse {
        header: confirmed.header,
        key: place.key,
    })
}

/// A key of somebody who waits. Dropped before [`Waiting::done`], whatever the reason, it deletes the key.
struct Waiting {
    context: Arc<ServiceContext>,
    key: Option<Bytes>,
}

impl Waiting {
    fn new(context: &Arc<ServiceContext>, key: Bytes) -> Self {
        Self {
            context: context.clone(),
            key: Some(key),
        }
    }

    fn done(mut self) {
        self.key = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else {
            return;
        };
        let context = self.context.clone();
        self.context.tasks.spawn(async move {
            let delete = pb::DeleteRangeRequest {
                key,
                ..Default::default()
            };
            if let Err(error) = kv::delete_range(&context, delete).await {
                tracing::warn!(%error, "place in line not given up; its lease will end it");
            }
        });
    }
}

/// Deletes the key, whoever's it is, and succeeds if there is none: as etcd does.
pub async fn unlock(context: &ServiceContext, request: UnlockRequest) -> Result<UnlockResponse, ClientError> {
    let delete = pb::DeleteRangeRequest {
        key: request.key,
        ..Default::default()
    };
    let deleted = kv::delete_range(context, delete)
        .await
        .map_err(ClientError::without_code)?;
    Ok(UnlockResponse {
        header: deleted.header,
    })
}
