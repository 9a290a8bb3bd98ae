//! What bad input must not change: the state that every member answers from, and what its process takes.

use kelson_proto::etcdserverpb as pb;

use crate::differences::Difference;
use crate::harness::client::single;
use crate::harness::{Client, Cluster, eventually};

/// What one member says of its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    revision: i64,
    compact_revision: i64,
    hash: u32,
    leases: Vec<i64>,
    alarms: usize,
}

impl State {
    async fn of(client: &Client) -> State {
        // Whatever was committed has then been applied here.
        client.range(single("present")).await.expect("range succeeds");
        let hash = client.hash_kv(0).await.expect("hash succeeds");
        let leases = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
        let mut leases: Vec<i64> = leases
            .expect("leases are listed")
            .into_inner()
            .leases
            .iter()
            .map(|lease| lease.id)
            .collect();
        leases.sort_unstable();
        let alarms = client.maintenance().alarm(pb::AlarmRequest::default()).await;
        State {
            revision: hash.header.expect("header").revision,
            compact_revision: hash.compact_revision,
            hash: hash.hash,
            leases,
            alarms: alarms.expect("alarms are listed").into_inner().alarms.len(),
        }
    }
}

/// The state of all members, once they agree on it.
pub async fn of(cluster: &Cluster) -> State {
    eventually("the same state on all members", || async {
        let first = State::of(&cluster.client(0)).await;
        for member in 1..cluster.size() {
            if State::of(&cluster.client(member)).await != first {
                return None;
            }
        }
        Some(first)
    })
    .await
}

/// Memory that a process may take on for bad input, in bytes: a few buffers of the largest request.
const GROWTH_BYTES_MAX: u64 = 12 << 20;

/// The processes of a cluster, and how much memory they held.
pub struct Footprint {
    resident: Vec<Option<u64>>,
}

impl Footprint {
    /// As it is now. Members that the test did not start are not looked at.
    pub fn of(cluster: &Cluster) -> Footprint {
        Footprint {
            resident: (0..cluster.size())
                .map(|member| cluster.resident_bytes(member))
                .collect(),
        }
    }

    /// Asserts that every process is still the same and that none of Kelson's has grown much.
    pub fn check(&self, cluster: &Cluster) {
        for (member, growth) in self.check_alive(cluster).into_iter().enumerate() {
            println!("member {member} grew by {growth} bytes");
            if Difference::BoundedMemory.applies() {
                assert!(
                    growth < GROWTH_BYTES_MAX,
                    "member {member} grew by {growth} bytes"
                );
            }
        }
    }

    /// Asserts that every process is still the same. Returns by how many bytes each has grown.
    pub fn check_alive(&self, cluster: &Cluster) -> Vec<u64> {
        let mut growths = Vec::new();
        for (member, before) in self.resident.iter().enumerate() {
            let Some(before) = before else { continue };
            let after = cluster
                .resident_bytes(member)
                .unwrap_or_else(|| panic!("member {member} has ended:\n{}", cluster.log_tail(member)));
            growths.push(after.saturating_sub(*before));
        }
        growths
    }
}
