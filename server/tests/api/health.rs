//! The standard gRPC health service.

use kelson_proto::health::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic::Code;

use crate::harness::replies::Replies;
use crate::harness::{Cluster, in_time};

#[tokio::test]
async fn the_server_as_a_whole_is_serving() {
    let cluster = Cluster::single().await;
    let reply = cluster
        .client(0)
        .health()
        .check(HealthCheckRequest::default())
        .await
        .expect("check succeeds");
    assert_eq!(reply.into_inner().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_named_service_is_not_found() {
    let cluster = Cluster::single().await;
    let request = HealthCheckRequest {
        service: "etcdserverpb.KV".into(),
    };
    let status = cluster
        .client(0)
        .health()
        .check(request)
        .await
        .expect_err("no such service");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn watching_answers_at_once() {
    let cluster = Cluster::single().await;
    let mut health = cluster.client(0).health();
    let mut replies = Replies::of(async move { health.watch(HealthCheckRequest::default()).await });
    let reply = in_time("the first answer", replies.next())
        .await
        .expect("no failure")
        .expect("no end");
    assert_eq!(reply.status(), ServingStatus::Serving);
}
