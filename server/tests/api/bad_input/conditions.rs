//! Requests that are bad only at that moment: over quota, and without a leader.

use kelson_proto::etcdserverpb as pb;
use tonic::{Code, Request, Status};

use super::{Door, wanted};
use crate::differences::Difference;
use crate::harness::client::{delete, put, single, with_metadata};
use crate::harness::{Client, Cluster, eventually};
use crate::txn::txn;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const NO_LEADER: &str = "etcdserver: no leader";

/// Row 36: the put that does not fit is refused on every member, whichever it came through.
#[tokio::test]
async fn what_does_not_fit_the_quota_is_stored_nowhere() {
    const QUOTA: usize = 4 << 20;
    if !wanted(36) {
        return;
    }
    let large = "v".repeat(256 << 10);
    for door in Door::ALL {
        let size = if door == Door::Lone { 1 } else { 3 };
        let cluster = Cluster::fresh(size, &[&format!("--quota-backend-bytes={QUOTA}")]).await;
        let member = match door {
            Door::Lone | Door::Leader => cluster.leader(0).await,
            Door::Follower => cluster.follower().await,
        };
        let client = cluster.client(member);
        let mut stored = 0;
        let refused = loop {
            match client.put_request(put(&format!("k{stored}"), &large)).await {
                Ok(_) => stored += 1,
                Err(status) => break status,
            }
            assert!(
                stored * large.len() < 4 * QUOTA,
                "{door:?}: the quota does not hold"
            );
        };
        let answer = (refused.code(), refused.message());
        assert_eq!(answer, (Code::ResourceExhausted, NO_SPACE), "{door:?}");
        if !Difference::PutOverQuotaIsNotStored.applies() {
            continue;
        }
        let revision = client.revision().await;
        for member in 0..size {
            let key = format!("k{stored}");
            assert_eq!(cluster.client(member).get(&key).await, None, "{door:?}");
            assert_eq!(cluster.client(member).revision().await, revision, "{door:?}");
        }
    }
}

/// A unary call that says that it needs a leader.
type NeedsLeader = (
    &'static str,
    fn(Client) -> futures::future::BoxFuture<'static, Option<Status>>,
);

fn marked<T>(message: T) -> Request<T> {
    with_metadata(message, Some(("hasleader", "true")))
}

macro_rules! needs_leader {
    ($name:literal, $service:ident.$method:ident, $request:expr) => {
        ($name, |client| {
            Box::pin(async move { client.$service().$method(marked($request)).await.err() })
        })
    };
}

const NEED_LEADER: [NeedsLeader; 11] = [
    needs_leader!("Range", kv.range, single("k")),
    needs_leader!(
        "serializable Range",
        kv.range,
        pb::RangeRequest {
            serializable: true,
            ..single("k")
        }
    ),
    needs_leader!("Put", kv.put, put("k", "v")),
    needs_leader!("DeleteRange", kv.delete_range, delete("k")),
    needs_leader!("Txn", kv.txn, txn(vec![], vec![], vec![])),
    needs_leader!("Compact", kv.compact, pb::CompactionRequest::default()),
    needs_leader!(
        "LeaseGrant",
        lease.lease_grant,
        pb::LeaseGrantRequest { ttl: 60, id: 0 }
    ),
    needs_leader!("LeaseLeases", lease.lease_leases, pb::LeaseLeasesRequest {}),
    needs_leader!(
        "MemberList",
        cluster.member_list,
        pb::MemberListRequest::default()
    ),
    needs_leader!("Status", maintenance.status, pb::StatusRequest {}),
    needs_leader!("HashKV", maintenance.hash_kv, pb::HashKvRequest::default()),
];

/// Row 40.
#[tokio::test]
async fn calls_that_say_they_need_a_leader_are_refused_at_once_without_one() {
    if !wanted(40) {
        return;
    }
    let mut cluster = Cluster::fresh(3, &[]).await;
    let client = cluster.client(2);
    cluster.kill(0);
    cluster.kill(1);
    eventually("the loss of the leader", || async {
        let status = client.status().await.ok()?;
        (status.leader == 0).then_some(())
    })
    .await;
    for (name, call) in NEED_LEADER {
        let begun = tokio::time::Instant::now();
        let refused = call(client.clone()).await;
        let status = refused.unwrap_or_else(|| panic!("{name} was answered"));
        let answer = (status.code(), status.message());
        assert_eq!(answer, (Code::Unavailable, NO_LEADER), "{name}");
        // Far below the request timeout of five seconds and the dial timeouts.
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(2), "{name} took {took:?}");
    }
}
