//! [`Member`]: what the HTTP endpoints ask of the member they speak for.

use futures::FutureExt;
use futures::future::BoxFuture;
use kelson_raft::node::Node;
use kelson_storage::command::{AlarmKind, Range};
use kelson_storage::store::StoreReader;

use super::metrics::Text;
use crate::status::ClientError;
use crate::watch::WatchHub;

/// A member, as far as its health is concerned. Texts of errors are what etcd's client errors print as.
pub trait Member: Send + Sync + 'static {
    /// Active alarms of the whole cluster.
    fn alarms(&self) -> Vec<AlarmKind>;
    /// Whether a leader is known.
    fn has_leader(&self) -> bool;
    /// Whether the member does not vote.
    fn is_learner(&self) -> bool;
    /// Reads from the member's own state.
    fn serializable_read(&self) -> Result<(), String>;
    /// Reads what a quorum agrees is current; ends at the request timeout.
    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>>;
    /// `major.minor.0` that all members speak, once it is decided.
    fn cluster_version(&self) -> Option<String>;
    /// Writes the member's own metrics.
    fn metrics(&self, text: &mut Text);
}

/// A member that has not come so far that it could be asked.
pub struct Starting;

const STARTING: &str = "etcdserver: server is starting";

impl Member for Starting {
    fn alarms(&self) -> Vec<AlarmKind> {
        Vec::new()
    }
    fn has_leader(&self) -> bool {
        false
    }
    fn is_learner(&self) -> bool {
        false
    }
    fn serializable_read(&self) -> Result<(), String> {
        Err(STARTING.to_owned())
    }
    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        futures::future::ready(Err(STARTING.to_owned())).boxed()
    }
    fn cluster_version(&self) -> Option<String> {
        None
    }
    fn metrics(&self, _: &mut Text) {}
}

/// A running member.
pub struct Running {
    /// The Raft participant.
    pub node: Node,
    /// Its watch hub.
    pub watch_hub: WatchHub,
    /// What its metrics say about its configuration.
    pub facts: super::metrics::Facts,
}

impl Member for Running {
    fn alarms(&self) -> Vec<AlarmKind> {
        self.node
            .reader()
            .alarms()
            .into_iter()
            .map(|(_, kind)| kind)
            .collect()
    }

    fn has_leader(&self) -> bool {
        self.node.status().leader != 0
    }

    fn is_learner(&self) -> bool {
        self.node.status().is_learner
    }

    fn serializable_read(&self) -> Result<(), String> {
        read_one(self.node.reader())
    }

    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        let read = async {
            let read = self.node.read_index().await;
            read.map_err(|error| ClientError::from(error).text().to_owned())?;
            read_one(self.node.reader())
        };
        read.boxed()
    }

    fn cluster_version(&self) -> Option<String> {
        self.node.reader().cluster_version()
    }

    fn metrics(&self, text: &mut Text) {
        super::metrics::member(text, &self.node, self.watch_hub.counts(), &self.facts);
    }
}

/// The read behind every check: the first key of all, without its value.
fn read_one(reader: &StoreReader) -> Result<(), String> {
    let first_key = Range {
        key: bytes::Bytes::from_static(&[0]),
        range_end: bytes::Bytes::from_static(&[0]),
        limit: 1,
        keys_only: true,
        ..Range::default()
    };
    match reader.view().range(&first_key) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("etcdserver: {error}")),
    }
}
