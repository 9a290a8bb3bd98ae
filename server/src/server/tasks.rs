//! What a member proposes on its own behalf once it runs.

use std::sync::Arc;
use std::time::Duration;

use kelson_raft::node::Node;
use kelson_storage::command::Command;
use tracing::{info, warn};

use crate::config::Config;
use crate::config::urls;
use crate::version::CLUSTER_VERSION;

/// Pause before a refused publication is tried again.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);
/// How often a leader looks whether the cluster's version is still undecided. Source: etcd's `monitorVersionInterval`.
const VERSION_INTERVAL: Duration = Duration::from_secs(4);

/// Tells the cluster this member's name and client URLs, and returns once that is applied here. Tries for as long as
/// there is no quorum.
pub(super) async fn publish(node: Node, config: Arc<Config>) {
    loop {
        let command = Command::PublishMember {
            id: node.id(),
            name: config.name.clone(),
            client_urls: config
                .advertise_client_urls
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        let refusal = match node.propose(command).await {
            Ok(outcome) => match outcome.result {
                Ok(_) => break,
                Err(rejected) => rejected.to_string(),
            },
            Err(error) => error.to_string(),
        };
        warn!(
            "local-member-id" = format_args!("{:x}", node.id()),
            error = refusal,
            "failed to publish local member to cluster through raft"
        );
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
    info!(
        "local-member-id" = format_args!("{:x}", node.id()),
        "local-member-attributes" = format_args!(
            "{{Name:{} ClientURLs:[{}]}}",
            config.name,
            urls::join(&config.advertise_client_urls)
        ),
        "cluster-id" = format_args!("{:x}", node.cluster_id()),
        "publish-timeout" = ?node.request_timeout(),
        "published local member to cluster through raft"
    );
}

/// Sees to it that the cluster has a version: whoever leads proposes the one all members of this release speak. Ends
/// when it is decided.
pub(super) async fn agree_on_version(node: Node) {
    let mut leaders = node.leader_changes();
    while node.reader().cluster_version().is_none() {
        if node.status().is_leader() {
            let version = CLUSTER_VERSION.to_owned();
            match node.propose(Command::ClusterVersion { version }).await {
                Ok(_) => info!("cluster-version" = CLUSTER_VERSION, "set initial cluster version"),
                Err(error) => warn!(%error, "failed to update cluster version"),
            }
        }
        // A leader without success tries again; a follower looks again when leadership moves.
        let _ = tokio::time::timeout(VERSION_INTERVAL, leaders.changed()).await;
    }
}
