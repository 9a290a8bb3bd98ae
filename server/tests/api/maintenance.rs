//! Maintenance: status, hashes, alarms, the quota, defragmentation.

use kelson_proto::etcdserverpb::{
    self as pb, AlarmType, alarm_request::AlarmAction, request_op::Request as Op,
};
use tonic::{Code, Status};

use crate::differences::Difference;
use crate::harness::client::{delete, put, single};
use crate::harness::{Client, Cluster, assert_refused, eventually};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

async fn alarm(
    client: &Client,
    action: AlarmAction,
    member_id: u64,
    alarm: AlarmType,
) -> Result<Vec<pb::AlarmMember>, Status> {
    let request = pb::AlarmRequest {
        action: action.into(),
        member_id,
        alarm: alarm.into(),
    };
    client
        .maintenance()
        .alarm(request)
        .await
        .map(|reply| reply.into_inner().alarms)
}

async fn own_id(client: &Client) -> u64 {
    client
        .status()
        .await
        .expect("status succeeds")
        .header
        .expect("header")
        .member_id
}

#[tokio::test]
async fn status_tells_version_sizes_and_log_positions() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    let status = client.status().await.expect("status succeeds");
    let version: Vec<u32> = status
        .version
        .split('.')
        .map(|part| part.parse().expect("a number"))
        .collect();
    assert!(
        version.len() == 3 && version >= vec![3, 7, 0],
        "{}",
        status.version
    );
    assert_eq!(
        (status.leader, status.is_learner),
        (status.header.expect("header").member_id, false)
    );
    assert_eq!(status.db_size_quota, 2 << 30);
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size);
    assert!(status.raft_term > 0 && status.raft_applied_index > 0);
    assert!(status.raft_applied_index <= status.raft_index);
    assert_eq!(status.errors, Vec::<String>::new());
    assert!(!status.downgrade_info.expect("always present").enabled);
    assert_eq!(status.header.expect("header").revision, 2);
    let before = status.raft_applied_index;
    client.put("k", "w").await;
    assert!(client.status().await.expect("status succeeds").raft_applied_index > before);
}

#[tokio::test]
async fn the_quota_is_reported() {
    let cluster = Cluster::fresh(1, &["--quota-backend-bytes=33554432"]).await;
    assert_eq!(
        cluster
            .client(0)
            .status()
            .await
            .expect("status succeeds")
            .db_size_quota,
        32 << 20
    );
}

#[tokio::test]
async fn members_at_one_revision_have_one_hash() {
    let cluster = Cluster::three().await;
    let first = cluster.client(0).put("k", "1").await;
    cluster.client(1).put("k", "2").await;
    let newest = cluster.client(2).put("l", "3").await;
    cluster
        .client(0)
        .compact(first)
        .await
        .expect("compaction succeeds");
    for revision in [newest - 1, newest] {
        let mut hashes = Vec::new();
        for index in 0..cluster.size() {
            let client = cluster.client(index);
            // Linearizable, so the member has applied the writes.
            client.get("k").await;
            let reply = eventually("the compaction", || async {
                let reply = client.hash_kv(revision).await.expect("hash succeeds");
                (reply.compact_revision == first).then_some(reply)
            })
            .await;
            assert_eq!(reply.hash_revision, revision);
            assert_eq!(reply.header.expect("header").revision, newest);
            hashes.push(reply.hash);
        }
        hashes.dedup();
        assert_eq!(hashes.len(), 1, "at revision {revision}");
    }
}

#[tokio::test]
async fn a_hash_tells_states_apart_and_is_stable() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let hash = async || client.hash_kv(0).await.expect("hash succeeds");
    let one = client.put("k", "1").await;
    let first = hash().await;
    assert_eq!((first.compact_revision, first.hash_revision), (-1, one));
    assert_eq!(hash().await.hash, first.hash);
    client.put("k", "2").await;
    assert_ne!(hash().await.hash, first.hash);
    assert_eq!(client.hash_kv(one).await.expect("hash succeeds").hash, first.hash);
    client.delete("k").await;
    assert_eq!(client.hash_kv(one).await.expect("hash succeeds").hash, first.hash);
}

#[tokio::test]
async fn hashes_of_revisions_out_of_reach_are_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let old = client.put("k", "1").await;
    client.put("k", "2").await;
    let newest = client.put("k", "3").await;
    client.compact(newest).await.expect("compaction succeeds");
    let refused = client.hash_kv(newest + 1).await;
    assert_refused(
        refused,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    let refused = client.hash_kv(old).await;
    assert_refused(
        refused,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
}

#[tokio::test]
async fn defragment_answers_without_a_header_and_changes_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let revision = client.put("k", "v").await;
    let hash = client.hash_kv(0).await.expect("hash succeeds").hash;
    let reply = client
        .maintenance()
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("defragment succeeds");
    assert!(reply.into_inner().header.is_none());
    assert_eq!(client.revision().await, revision);
    assert_eq!(client.hash_kv(0).await.expect("hash succeeds").hash, hash);
}

#[tokio::test]
async fn alarms_are_raised_listed_and_cleared_one_by_one() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let id = own_id(&client).await;
    use AlarmAction::{Activate, Deactivate, Get};
    let raised = |member_id, alarm: AlarmType| {
        vec![pb::AlarmMember {
            member_id,
            alarm: alarm.into(),
        }]
    };
    assert_eq!(
        alarm(&client, Get, 0, AlarmType::None)
            .await
            .expect("get succeeds"),
        []
    );
    assert_eq!(
        alarm(&client, Activate, id, AlarmType::None)
            .await
            .expect("activate succeeds"),
        []
    );
    for _ in 0..2 {
        let reply = alarm(&client, Activate, id, AlarmType::Nospace)
            .await
            .expect("activate succeeds");
        assert_eq!(reply, raised(id, AlarmType::Nospace));
    }
    for (member, kind) in [
        (0, AlarmType::None),
        (4711, AlarmType::None),
        (0, AlarmType::Nospace),
    ] {
        let listed = alarm(&client, Get, member, kind).await.expect("get succeeds");
        assert_eq!(listed, raised(id, AlarmType::Nospace));
    }
    assert_eq!(
        alarm(&client, Get, 0, AlarmType::Corrupt)
            .await
            .expect("get succeeds"),
        []
    );
    let errors = client.status().await.expect("status succeeds").errors.join("");
    assert_eq!(errors.replace("  ", " "), format!("memberID:{id} alarm:NOSPACE"));
    // Only the exact pair is cleared.
    for (member, kind) in [(id + 1, AlarmType::Nospace), (id, AlarmType::Corrupt)] {
        assert_eq!(
            alarm(&client, Deactivate, member, kind)
                .await
                .expect("deactivate succeeds"),
            []
        );
    }
    let reply = alarm(&client, Deactivate, id, AlarmType::Nospace)
        .await
        .expect("deactivate succeeds");
    assert_eq!(reply, raised(id, AlarmType::Nospace));
    assert_eq!(
        alarm(&client, Get, 0, AlarmType::None)
            .await
            .expect("get succeeds"),
        []
    );
}

#[tokio::test]
async fn under_no_space_reads_and_deletions_work_and_writes_are_refused() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let id = own_id(&client).await;
    client.put("k", "v").await;
    let lease = client.grant(600).await;
    let before = client.put("l", "v").await;
    alarm(&client, AlarmAction::Activate, id, AlarmType::Nospace)
        .await
        .expect("activate succeeds");
    assert_refused(
        client.put_request(put("k", "x")).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    assert_refused(
        client.grant_request(600, 0).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    let writes = client.run(vec![Op::RequestPut(put("k", "x"))]).await;
    assert_refused(writes, Code::ResourceExhausted, NO_SPACE);
    let in_other_branch = pb::TxnRequest {
        failure: vec![pb::RequestOp {
            request: Some(Op::RequestPut(put("k", "x"))),
        }],
        ..Default::default()
    };
    assert_refused(
        client.txn(in_other_branch).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    assert_eq!(client.revision().await, before);
    assert!(client.get("k").await.is_some());
    client
        .run(vec![
            Op::RequestDeleteRange(delete("l")),
            Op::RequestRange(single("k")),
        ])
        .await
        .expect("no put");
    assert_eq!(client.delete("k").await, before + 2);
    client.compact(before).await.expect("compaction succeeds");
    client.revoke(lease).await.expect("revoke succeeds");
    alarm(&client, AlarmAction::Deactivate, id, AlarmType::Nospace)
        .await
        .expect("deactivate succeeds");
    client.put("k", "again").await;
}

#[tokio::test]
async fn under_corrupt_only_reads_work() {
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let id = own_id(&client).await;
    let before = client.put("k", "v").await;
    let lease = client.grant(600).await;
    alarm(&client, AlarmAction::Activate, id, AlarmType::Corrupt)
        .await
        .expect("activate succeeds");
    let text = "etcdserver: corrupt cluster";
    assert_refused(client.put_request(put("k", "x")).await, Code::DataLoss, text);
    assert_refused(client.delete_request(delete("k")).await, Code::DataLoss, text);
    assert_refused(
        client.run(vec![Op::RequestDeleteRange(delete("k"))]).await,
        Code::DataLoss,
        text,
    );
    assert_refused(client.compact(before).await, Code::DataLoss, text);
    assert_refused(client.grant_request(600, 0).await, Code::DataLoss, text);
    assert_refused(client.revoke(lease).await, Code::DataLoss, text);
    assert!(client.get("k").await.is_some());
    client
        .run(vec![Op::RequestRange(single("k"))])
        .await
        .expect("a read-only txn");
    alarm(&client, AlarmAction::Deactivate, id, AlarmType::Corrupt)
        .await
        .expect("deactivate succeeds");
    assert_eq!(client.put("k", "again").await, before + 1);
}

#[tokio::test]
async fn crossing_the_quota_raises_an_alarm_that_only_a_client_clears() {
    const QUOTA: usize = 4 << 20;
    let mut cluster = Cluster::fresh(1, &[&format!("--quota-backend-bytes={QUOTA}")]).await;
    let client = cluster.client(0);
    let large = "v".repeat(256 << 10);
    let mut accepted = Vec::new();
    let refused = loop {
        let key = format!("k{}", accepted.len());
        match client.put_request(put(&key, &large)).await {
            Ok(_) => accepted.push(key),
            Err(status) => break status,
        }
        // etcd knows what it has taken once it commits it, which is each 100 ms: a quick disk takes much meanwhile.
        assert!(
            accepted.len() * large.len() < 64 * QUOTA,
            "the quota does not hold"
        );
    };
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, NO_SPACE)
    );
    if Difference::PutOverQuotaIsNotStored.applies() {
        assert_eq!(client.get(&format!("k{}", accepted.len())).await, None);
    }
    let raised = eventually("the alarm", || async {
        let listed = alarm(&client, AlarmAction::Get, 0, AlarmType::None)
            .await
            .expect("get succeeds");
        listed.first().copied()
    })
    .await;
    assert_eq!(
        (raised.member_id, raised.alarm()),
        (own_id(&client).await, AlarmType::Nospace)
    );
    // Freed space does not clear it, nor does a restart.
    for key in &accepted {
        client.delete(key).await;
    }
    cluster.kill(0);
    cluster.restart(0).await;
    let client = cluster.client(0);
    assert_refused(
        client.put_request(put("small", "")).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    let revision = client.revision().await;
    let physical = pb::CompactionRequest {
        revision,
        physical: true,
    };
    client.kv().compact(physical).await.expect("compaction succeeds");
    client
        .maintenance()
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("defragment succeeds");
    alarm(
        &client,
        AlarmAction::Deactivate,
        raised.member_id,
        AlarmType::Nospace,
    )
    .await
    .expect("cleared");
    eventually("room for a small pair", || async {
        let cleared = client.put_request(put("small", "")).await.is_ok();
        if !cleared {
            // Space is given back behind the deletion; until then each attempt raises the alarm anew.
            let id = raised.member_id;
            alarm(&client, AlarmAction::Deactivate, id, AlarmType::Nospace)
                .await
                .expect("cleared");
        }
        cleared.then_some(())
    })
    .await;
}

#[tokio::test]
async fn room_below_the_quota_clears_its_alarm() {
    if !Difference::RoomClearsTheAlarm.applies() {
        return;
    }
    const QUOTA: usize = 4 << 20;
    let cluster = Cluster::fresh(3, &[&format!("--quota-backend-bytes={QUOTA}")]).await;
    let client = cluster.client(0);
    let large = "v".repeat(256 << 10);
    let mut puts = 0;
    // One key: what fills the database is history.
    while client.put_request(put("k", &large)).await.is_ok() {
        puts += 1;
        assert!(puts * large.len() < 4 * QUOTA, "the quota does not hold");
    }
    let id = own_id(&client).await;
    let alarms = async || {
        let listed = alarm(&client, AlarmAction::Get, 0, AlarmType::None).await;
        listed.expect("get succeeds")
    };
    let raised: Vec<u64> = alarms().await.iter().map(|alarm| alarm.member_id).collect();
    assert_eq!(raised, [id], "only the member that refused raises it");
    let revision = client.revision().await;
    client.compact(revision).await.expect("compaction succeeds");
    eventually("the alarm to go", || async {
        alarms().await.is_empty().then_some(())
    })
    .await;
    client
        .put_request(put("small", ""))
        .await
        .expect("there is room again");
    assert!(client.get("k").await.is_some());
}
