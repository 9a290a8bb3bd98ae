//! v3electionpb: Campaign, Proclaim, Leader, Observe, Resign. The leader is the oldest key below `<name>/`.

mod observe;

use std::sync::Arc;

use bytes::Bytes;
use kelson_proto::etcdserverpb as pb;
use kelson_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};

pub use self::observe::observe;
use super::turn::{self, Place};
use super::{ServiceContext, kv};
use crate::status::ClientError;

/// Waits until elected. A candidate that goes away while it waits resigns.
pub async fn campaign(
    context: &Arc<ServiceContext>,
    request: CampaignRequest,
) -> Result<CampaignResponse, ClientError> {
    campaign_for(context, request)
        .await
        .map_err(ClientError::without_code)
}

async fn campaign_for(
    context: &Arc<ServiceContext>,
    request: CampaignRequest,
) -> Result<CampaignResponse, ClientError> {
    let place = Place::of(context, &request.name, request.lease).await?;
    let entered = kv::txn(
        context,
        pb::TxnRequest {
            compare: vec![place.is_free()],
            success: vec![place.put(request.value.clone())],
            failure: vec![turn::range_op(turn::single(&place.key))],
        },
    )
    .await?;
    let mut leader = LeaderKey {
        name: request.name,
        key: place.key.clone(),
        rev: turn::revision_of(entered.header.as_ref()),
        lease: place.lease,
    };
    let mut rewrite = false;
    if !entered.succeeded {
        let own = turn::pairs_read(&entered, 0).first();
        let own = turn::pair(own.ok_or(ClientError::SessionExpired)?)?;
        leader.rev = own.create_revision;
        rewrite = own.value != request.value;
    }
    let candidate = Candidate::new(context, leader.clone());
    if rewrite {
        proclaim_as(context, &leader, request.value).await?;
    }
    turn::wait_for_turn(context, &place.prefix, leader.rev).await?;
    candidate.elected();
    Ok(CampaignResponse {
        header: entered.header,
        leader: Some(leader),
    })
}

/// Somebody who waits to be elected. Dropped before [`Candidate::elected`], whatever the reason, it resigns.
struct Candidate {
    context: Arc<ServiceContext>,
    leader: Option<LeaderKey>,
}

impl Candidate {
    fn new(context: &Arc<ServiceContext>, leader: LeaderKey) -> Self {
        Self {
            context: context.clone(),
            leader: Some(leader),
        }
    }

    fn elected(mut self) {
        self.leader = None;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let Some(leader) = self.leader.take() else {
            return;
        };
        let context = self.context.clone();
        self.context.tasks.spawn(async move {
            if let Err(error) = resign_as(&context, &leader).await {
                tracing::warn!(%error, "candidate not withdrawn; its lease will end it");
            }
        });
    }
}

/// Sets a new value, if still the leader.
pub async fn proclaim(
    context: &ServiceContext,
    request: ProclaimRequest,
) -> Result<ProclaimResponse, ClientError> {
    let leader = request.leader.ok_or(ClientError::LeaderKeyMissing)?;
    let header = proclaim_as(context, &leader, request.value)
        .await
        .map_err(ClientError::without_code)?;
    Ok(ProclaimResponse { header })
}

async fn proclaim_as(
    context: &ServiceContext,
    leader: &LeaderKey,
    value: Bytes,
) -> Result<Option<pb::ResponseHeader>, ClientError> {
    let put = turn::put_op(leader.key.clone(), value, leader.lease);
    let done = if_still_leader(context, leader, put).await?;
    if done.succeeded {
        Ok(done.header)
    } else {
        Err(ClientError::ElectionNotLeader)
    }
}

/// Steps down. Fine if not the leader any more.
pub async fn resign(context: &ServiceContext, request: ResignRequest) -> Result<ResignResponse, ClientError> {
    let leader = request.leader.ok_or(ClientError::LeaderKeyMissing)?;
    let header = resign_as(context, &leader)
        .await
        .map_err(ClientError::without_code)?;
    Ok(ResignResponse { header })
}

async fn resign_as(
    context: &ServiceContext,
    leader: &LeaderKey,
) -> Result<Option<pb::ResponseHeader>, ClientError> {
    let delete = turn::delete_op(leader.key.clone());
    Ok(if_still_leader(context, leader, delete).await?.header)
}

async fn if_still_leader(
    context: &ServiceContext,
    leader: &LeaderKey,
    then: pb::RequestOp,
) -> Result<pb::TxnResponse, ClientError> {
    let txn = pb::TxnRequest {
        compare: vec![turn::created_at(&leader.key, leader.rev)],
        success: vec![then],
        failure: Vec::new(),
    };
    kv::txn(context, txn).await
}

/// Who leads now.
pub async fn leader(context: &ServiceContext, request: LeaderRequest) -> Result<LeaderResponse, ClientError> {
    let read = kv::range(context, turn::oldest(&turn::prefix_of(&request.name)))
        .await
        .map_err(ClientError::without_code)?;
    match read.kvs.into_iter().next() {
        Some(kv) => Ok(LeaderResponse {
            header: read.header,
            kv,
        }),
        None => Err(ClientError::ElectionNoLeader),
    }
}
