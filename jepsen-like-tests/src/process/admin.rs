//! Questions to one member that are about the member, not about the data: never part of a history.

use std::net::SocketAddr;
use std::time::Duration;

use kelson_proto::etcdserverpb as pb;
use pb::{
    cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// Longest that a member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest for answers that take a walk over all data, or a vote.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one member.
#[derive(Clone, Debug)]
pub struct Admin {
    channel: Channel,
}

impl Admin {
    /// A client of the member at `address`; connects when asked something.
    #[must_use]
    pub fn of(address: SocketAddr) -> Admin {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).expect("an address makes a valid URI");
        Admin {
            channel: endpoint.connect_timeout(ANSWER_TIMEOUT).connect_lazy(),
        }
    }

    /// The member's `Status`.
    ///
    /// # Errors
    ///
    /// What the member says, or that it does not answer.
    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        within(ANSWER_TIMEOUT, client.status(pb::StatusRequest {})).await
    }

    /// Whether the member knows the leader and answers a linearizable read.
    pub async fn is_healthy(&self) -> bool {
        self.status().await.is_ok_and(|status| status.leader != 0) && self.read("health").await.is_ok()
    }

    /// A linearizable read of one key.
    ///
    /// # Errors
    ///
    /// As [`Admin::status`].
    pub async fn read(&self, key: &str) -> Result<pb::RangeResponse, Status> {
        let request = pb::RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let mut client = KvClient::new(self.channel.clone());
        within(ANSWER_TIMEOUT, client.range(request)).await
    }

    /// Hash of the member's key-value history at `revision`; 0: its newest.
    ///
    /// # Errors
    ///
    /// As [`Admin::status`]; also while the member is behind `revision`.
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Status> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        within(
            LONG_ANSWER_TIMEOUT,
            client.hash_kv(pb::HashKvRequest { revision }),
        )
        .await
    }

    /// Ids of the member's leases, in order.
    ///
    /// # Errors
    ///
    /// As [`Admin::status`].
    pub async fn leases(&self) -> Result<Vec<i64>, Status> {
        let mut client = LeaseClient::new(self.channel.clone());
        let reply = within(ANSWER_TIMEOUT, client.lease_leases(pb::LeaseLeasesRequest {})).await?;
        let mut ids: Vec<i64> = reply.leases.iter().map(|lease| lease.id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The members as this one knows them, in order of id.
    ///
    /// # Errors
    ///
    /// As [`Admin::status`].
    pub async fn members(&self) -> Result<Vec<pb::Member>, Status> {
        let mut client = ClusterClient::new(self.channel.clone());
        let request = pb::MemberListRequest { linearizable: false };
        let mut members = within(ANSWER_TIMEOUT, client.member_list(request)).await?.members;
        members.sort_by_key(|member| member.id);
        Ok(members)
    }

    /// Alarms as this member knows them: member and kind.
    ///
    /// # Errors
    ///
    /// As [`Admin::status`].
    pub async fn alarms(&self) -> Result<Vec<pb::AlarmMember>, Status> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        Ok(within(ANSWER_TIMEOUT, client.alarm(pb::AlarmRequest::default()))
            .await?
            .alarms)
    }

    /// Asks the leader to hand over to the member with this id.
    ///
    /// # Errors
    ///
    /// As [`Admin::status`]; also from a member that does not lead.
    pub async fn move_leader(&self, to: u64) -> Result<(), Status> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let request = pb::MoveLeaderRequest { target_id: to };
        within(LONG_ANSWER_TIMEOUT, client.move_leader(request))
            .await
            .map(|_| ())
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}
