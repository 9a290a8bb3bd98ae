//! Changes of members, and what else is not served yet.

use kelson_proto::etcdserverpb as pb;
use tonic::Code;

use super::call::send_raw;
use crate::differences::Difference;
use crate::harness::{Cluster, assert_refused};

#[tokio::test]
async fn calls_that_are_not_served_say_so() {
    if !Difference::NotServed.applies() {
        return;
    }
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.member_list().await.members;
    for path in [
        "/etcdserverpb.Cluster/MemberAdd",
        "/etcdserverpb.Cluster/MemberRemove",
        "/etcdserverpb.Cluster/MemberUpdate",
        "/etcdserverpb.Cluster/MemberPromote",
        "/etcdserverpb.Maintenance/Downgrade",
        "/etcdserverpb.Maintenance/Snapshot",
        "/etcdserverpb.Auth/AuthEnable",
        "/etcdserverpb.Auth/UserAdd",
        "/etcdserverpb.Auth/RoleAdd",
    ] {
        let refused = send_raw(&client, path, Vec::new()).await;
        assert_eq!(
            refused.expect_err("not served").code(),
            Code::Unimplemented,
            "{path}"
        );
    }
    assert_eq!(client.member_list().await.members, before);
}

#[tokio::test]
async fn malformed_changes_of_members_are_refused() {
    if Difference::NotServed.applies() {
        return;
    }
    let cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    let before = client.member_list().await.members;
    let bad_urls = "etcdserver: given member URLs are invalid";
    let not_found = "etcdserver: member not found";
    let urls = |list: &[&str]| list.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    for list in [
        &[][..],
        &["nonsense"],
        &["http://127.0.0.1"],
        &["http://127.0.0.1:1/path"],
        &["ftp://a:1"],
    ] {
        let request = pb::MemberAddRequest {
            peer_ur_ls: urls(list),
            is_learner: false,
        };
        assert_refused(
            client.cluster().member_add(request).await,
            Code::InvalidArgument,
            bad_urls,
        );
    }
    let used = pb::MemberAddRequest {
        peer_ur_ls: before[0].peer_ur_ls.clone(),
        is_learner: true,
    };
    let refused = client.cluster().member_add(used).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    let refused = client
        .cluster()
        .member_promote(pb::MemberPromoteRequest { id: 4711 })
        .await;
    assert_refused(refused, Code::NotFound, not_found);
    let refused = client
        .cluster()
        .member_promote(pb::MemberPromoteRequest { id: before[0].id })
        .await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
    let unknown = pb::MemberUpdateRequest {
        id: 4711,
        peer_ur_ls: urls(&["http://127.0.0.1:1"]),
    };
    assert_refused(
        client.cluster().member_update(unknown).await,
        Code::NotFound,
        not_found,
    );
    let last = client
        .cluster()
        .member_remove(pb::MemberRemoveRequest { id: before[0].id })
        .await;
    let text = "etcdserver: re-configuration failed due to not enough started members";
    let code = if Difference::CodeOfNotEnoughStarted.applies() {
        Code::FailedPrecondition
    } else {
        Code::Unknown
    };
    assert_refused(last, code, text);
    if Difference::MalformedUrlInMemberUpdate.applies() {
        let malformed = pb::MemberUpdateRequest {
            id: before[0].id,
            peer_ur_ls: urls(&["nonsense"]),
        };
        assert_refused(
            client.cluster().member_update(malformed).await,
            Code::InvalidArgument,
            bad_urls,
        );
    }
    assert_eq!(client.member_list().await.members, before);
}
