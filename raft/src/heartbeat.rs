//! When a leader says that it lives.
//!
//! openraft's heartbeat interval is also how long it waits for the answer to a heartbeat. With `--heartbeat-interval` for
//! it, members whose round trip takes longer could confirm no read, where etcd's are only slower. So openraft is given the
//! longest wait that it takes, and the operator's interval is kept here.

use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::MissedTickBehavior;

use crate::node::Raft;

/// Sends heartbeats while this member leads, until the node stops.
pub(crate) async fn send_heartbeats(raft: Raft, interval: Duration) {
    let mut metrics = raft.server_metrics();
    let mut due = tokio::time::interval(interval.max(Duration::from_millis(1)));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let leads = metrics.borrow_and_update().state == ServerState::Leader;
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            // An error is the core's end, which others report.
            _ = due.tick(), if leads => if raft.trigger().heartbeat().await.is_err() { return },
        }
    }
}
