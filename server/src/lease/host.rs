//! [`Host`]: what leases need of the node around them, so that tests can bring their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kelson_raft::node::{AskLeaderError, LeaderService, LeaseChange, Node, NodeStatus, ProposeError};
use kelson_storage::applied::Outcome;
use kelson_storage::command::Command;
use kelson_storage::revision::LogPosition;
use tokio::sync::{mpsc, watch};

/// See the methods of the same names of [`Node`] and its reader.
pub(crate) trait Host: Clone + Send + Sync + 'static {
    fn status(&self) -> NodeStatus;
    fn applied(&self) -> Option<LogPosition>;
    fn leases(&self) -> Vec<(i64, i64)>;
    fn lease_ttl(&self, id: i64) -> Option<i64>;
    fn lease_keys(&self, id: i64) -> Option<Vec<Bytes>>;
    fn propose(&self, command: Command) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;
    fn confirm_leadership(&self) -> impl Future<Output = Option<u64>> + Send;
    fn ask_leader(&self, request: Bytes) -> impl Future<Output = Result<Bytes, AskLeaderError>> + Send;
    fn serve_leader(&self, service: Arc<dyn LeaderService>);
    fn lease_changes(&self) -> mpsc::UnboundedReceiver<LeaseChange>;
    fn leader_changes(&self) -> watch::Receiver<(u64, u64)>;
    fn applied_revisions(&self) -> watch::Receiver<u64>;
    fn request_timeout(&self) -> Duration;
    fn election_timeout(&self) -> Duration;
}

impl Host for Node {
    fn status(&self) -> NodeStatus {
        Node::status(self)
    }

    fn applied(&self) -> Option<LogPosition> {
        self.reader().applied()
    }

    fn leases(&self) -> Vec<(i64, i64)> {
        self.reader().leases()
    }

    fn lease_ttl(&self, id: i64) -> Option<i64> {
        self.reader().lease_ttl(id)
    }

    fn lease_keys(&self, id: i64) -> Option<Vec<Bytes>> {
        self.reader().lease_keys(id)
    }

    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        Node::propose(self, command).await
    }

    async fn confirm_leadership(&self) -> Option<u64> {
        Node::confirm_leadership(self).await
    }

    async fn ask_leader(&self, request: Bytes) -> Result<Bytes, AskLeaderError> {
        Node::ask_leader(self, request).await
    }

    fn serve_leader(&self, service: Arc<dyn LeaderService>) {
        Node::serve_leader(self, service);
    }

    fn lease_changes(&self) -> mpsc::UnboundedReceiver<LeaseChange> {
        Node::lease_changes(self)
    }

    fn leader_changes(&self) -> watch::Receiver<(u64, u64)> {
        Node::leader_changes(self)
    }

    fn applied_revisions(&self) -> watch::Receiver<u64> {
        Node::applied_revisions(self)
    }

    fn request_timeout(&self) -> Duration {
        Node::request_timeout(self)
    }

    fn election_timeout(&self) -> Duration {
        Node::election_timeout(self)
    }
}
