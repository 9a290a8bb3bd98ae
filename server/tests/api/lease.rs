//! Leases: grant, revoke, keep alive, time to live, expiry.

use kelson_proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::harness::client::{bytes, everything, put};
use crate::harness::replies::Replies;
use crate::harness::watching::{on_range, short};
use crate::harness::{Client, Cluster, assert_refused, eventually, in_time, watching};

/// Shortest TTL, in seconds: one and a half election timeouts, rounded up.
const MIN_TTL: i64 = 2;

/// A keep-alive stream.
struct KeepAlive {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    replies: Replies<pb::LeaseKeepAliveResponse>,
}

impl KeepAlive {
    fn open(client: &Client) -> KeepAlive {
        let (requests, pending) = mpsc::channel(16);
        let mut service = client.lease();
        let call = async move { service.lease_keep_alive(ReceiverStream::new(pending)).await };
        KeepAlive {
            requests,
            replies: Replies::of(call),
        }
    }

    async fn ask(&mut self, id: i64) -> pb::LeaseKeepAliveResponse {
        self.requests
            .send(pb::LeaseKeepAliveRequest { id })
            .await
            .expect("the stream is open");
        let reply = in_time("a keep-alive reply", self.replies.next()).await;
        reply
            .expect("the stream has not failed")
            .expect("the stream is open")
    }
}

async fn attach(client: &Client, lease: i64, key: &str) {
    client
        .put_request(pb::PutRequest {
            lease,
            ..put(key, "")
        })
        .await
        .expect("put succeeds");
}

async fn ids(client: &Client) -> Vec<i64> {
    let reply = client
        .lease()
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .expect("leases are listed");
    let mut ids: Vec<i64> = reply.into_inner().leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn grant_takes_the_id_given_or_chooses_a_positive_one() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let chosen = client.grant_request(600, 0).await.expect("grant succeeds");
    assert!(chosen.id > 0);
    assert_eq!((chosen.ttl, chosen.error.as_str()), (600, ""));
    for id in [1, -1, i64::MIN, i64::MAX] {
        let reply = client.grant_request(600, id).await.expect("grant succeeds");
        assert_eq!(reply.id, id);
    }
    let mut expected = vec![chosen.id, 1, -1, i64::MIN, i64::MAX];
    expected.sort_unstable();
    assert_eq!(ids(&client).await, expected);
}

#[tokio::test]
async fn grant_does_not_move_the_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let reply = client.grant_request(600, 0).await.expect("grant succeeds");
    assert_eq!(reply.header.expect("header").revision, before);
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn short_lives_are_raised_and_endless_ones_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    for ttl in [0, -1, i64::MIN, 1] {
        let reply = client.grant_request(ttl, 0).await.expect("grant succeeds");
        assert_eq!(reply.ttl, MIN_TTL, "asked for {ttl}");
    }
    client
        .grant_request(9_000_000_000, 0)
        .await
        .expect("the longest life is accepted");
    let refused = client.grant_request(9_000_000_001, 0).await;
    assert_refused(refused, Code::OutOfRange, "etcdserver: too large lease TTL");
}

#[tokio::test]
async fn an_id_in_use_is_refused_after_the_life_is_checked() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.grant_request(600, 7).await.expect("grant succeeds");
    let refused = client.grant_request(600, 7).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
    let refused = client.grant_request(i64::MAX, 7).await;
    assert_refused(refused, Code::OutOfRange, "etcdserver: too large lease TTL");
}

#[tokio::test]
async fn revoke_deletes_every_key_in_one_revision_and_in_order() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let mut watching = client.watch();
    watching.created(on_range("\0", "\0")).await;
    let lease = client.grant(600).await;
    for key in ["c", "a", "b"] {
        attach(&client, lease, key).await;
    }
    let before = client.put("other", "").await;
    let reply = client.revoke(lease).await.expect("revoke succeeds");
    assert_eq!(reply.header.expect("header").revision, before + 1);
    watching.events(4).await;
    let reply = watching.next().await;
    let deletions: Vec<String> = watching::events(&reply).iter().map(short).collect();
    let at = before + 1;
    assert_eq!(
        deletions,
        [
            format!("DELETE a @{at}"),
            format!("DELETE b @{at}"),
            format!("DELETE c @{at}")
        ]
    );
    assert_eq!(client.range(everything()).await.expect("range succeeds").count, 1);
}

#[tokio::test]
async fn revoke_without_keys_keeps_the_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let lease = client.grant(600).await;
    let reply = client.revoke(lease).await.expect("revoke succeeds");
    assert_eq!(reply.header.expect("header").revision, before);
}

#[tokio::test]
async fn a_lease_that_is_not_there() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let text = "etcdserver: requested lease not found";
    assert_refused(client.revoke(4711).await, Code::NotFound, text);
    let put_with = client
        .put_request(pb::PutRequest {
            lease: 4711,
            ..put("k", "x")
        })
        .await;
    assert_refused(put_with, Code::NotFound, text);
    let reply = client
        .time_to_live(4711)
        .await
        .expect("the answer is a negative life");
    assert_eq!(
        (reply.id, reply.ttl, reply.granted_ttl, reply.keys.len()),
        (4711, -1, 0, 0)
    );
    let mut keep_alive = KeepAlive::open(&client);
    assert_eq!(keep_alive.ask(4711).await.ttl, 0);
    // The stream goes on.
    let lease = client.grant(600).await;
    assert_eq!(keep_alive.ask(lease).await.ttl, 600);
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn time_to_live_lists_keys_only_when_asked() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(600).await;
    attach(&client, lease, "k").await;
    let reply = client.time_to_live(lease).await.expect("the lease exists");
    assert_eq!(
        (reply.id, reply.granted_ttl, reply.keys),
        (lease, 600, vec![bytes("k")])
    );
    assert!((590..=600).contains(&reply.ttl), "{}", reply.ttl);
    let request = pb::LeaseTimeToLiveRequest {
        id: lease,
        keys: false,
    };
    let reply = client
        .lease()
        .lease_time_to_live(request)
        .await
        .expect("the lease exists")
        .into_inner();
    assert!(reply.keys.is_empty());
}

#[tokio::test]
async fn keep_alive_answers_each_request_in_order() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let (first, second) = (client.grant(500).await, client.grant(600).await);
    let mut keep_alive = KeepAlive::open(&client);
    for (id, ttl) in [(first, 500), (second, 600), (first, 500), (99, 0)] {
        let reply = keep_alive.ask(id).await;
        assert_eq!((reply.id, reply.ttl), (id, ttl));
        assert_eq!(reply.header.expect("header").revision, client.revision().await);
    }
    let KeepAlive {
        requests,
        mut replies,
    } = keep_alive;
    drop(requests);
    assert!(
        in_time("the end", replies.next())
            .await
            .expect("the stream ends well")
            .is_none()
    );
}

#[tokio::test]
async fn an_expired_lease_takes_its_keys_along() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(MIN_TTL).await;
    attach(&client, lease, "b").await;
    let mut watching = client.watch();
    watching.created(on_range("a", "c")).await;
    attach(&client, lease, "a").await;
    let attached = client.revision().await;
    let events = watching.events(3).await;
    assert_eq!(
        events,
        [
            format!("PUT a= @{attached}"),
            format!("DELETE a @{}", attached + 1),
            format!("DELETE b @{}", attached + 1)
        ]
    );
    assert_eq!(client.time_to_live(lease).await.expect("a negative life").ttl, -1);
    assert!(!ids(&client).await.contains(&lease));
}

#[tokio::test]
async fn a_lease_without_keys_expires_without_a_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let before = client.put("k", "v").await;
    let lease = client.grant(MIN_TTL).await;
    eventually("the expiry", || async {
        let gone = client.time_to_live(lease).await.expect("an answer").ttl == -1;
        gone.then_some(())
    })
    .await;
    assert_eq!(client.revision().await, before);
}

#[tokio::test]
async fn a_lease_kept_alive_outlives_its_time() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    let lease = client.grant(MIN_TTL).await;
    let short = client.grant(MIN_TTL).await;
    attach(&client, lease, "kept").await;
    attach(&client, short, "lost").await;
    let mut keep_alive = KeepAlive::open(&client);
    // The other lease, granted last, is the clock: without its keep-alives the first would be gone, too.
    while client.get("lost").await.is_some() {
        assert_eq!(keep_alive.ask(lease).await.ttl, MIN_TTL);
        tokio::task::yield_now().await;
    }
    assert!(client.get("kept").await.is_some());
}

#[tokio::test]
async fn leases_and_their_keys_survive_restart() {
    let mut cluster = Cluster::fresh(1, &[]).await;
    let client = cluster.client(0);
    for id in [5, -5] {
        client.grant_request(600, id).await.expect("grant succeeds");
        attach(&client, id, &format!("of {id}")).await;
    }
    cluster.kill(0);
    cluster.restart(0).await;
    let client = cluster.client(0);
    assert_eq!(ids(&client).await, [-5, 5]);
    let reply = client.time_to_live(-5).await.expect("the lease exists");
    assert_eq!((reply.granted_ttl, reply.keys), (600, vec![bytes("of -5")]));
    client.revoke(-5).await.expect("revoke succeeds");
    assert_eq!(client.get("of -5").await, None);
    assert!(client.get("of 5").await.is_some());
}

#[tokio::test]
async fn any_member_serves_leases() {
    let cluster = Cluster::three().await;
    for granting in 0..cluster.size() {
        let lease = cluster.client(granting).grant(600).await;
        for asking in 0..cluster.size() {
            let client = cluster.client(asking);
            // At once: the member asked may not have applied the grant yet.
            let reply = client.time_to_live(lease).await.expect("an answer");
            assert_eq!(reply.granted_ttl, 600, "granted by {granting}, asked of {asking}");
            let reply = KeepAlive::open(&client).ask(lease).await;
            assert_eq!(
                reply.ttl, 600,
                "granted by {granting}, kept alive through {asking}"
            );
        }
        let last = cluster.client((granting + 1) % cluster.size());
        last.revoke(lease).await.expect("revoke succeeds");
        eventually("every member has dropped it", || async {
            for member in 0..cluster.size() {
                if ids(&cluster.client(member)).await.contains(&lease) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
}
