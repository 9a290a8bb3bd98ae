//! Probes: every 50 ms one put and one read, at each member in turn, whether or not earlier ones were answered.
//!
//! They show for how long a cluster stands still. Clients that wait for answers do not: one after the other they come to
//! the member that is gone, and wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::client::Client;
use super::load::Shared;
use super::recorder::Recorder;
use crate::history::Request;

/// Pause between two probes.
const EVERY: Duration = Duration::from_millis(50);

/// Keys that are put, in turn: so many that few calls of unknown fate meet at any of them.
const KEYS: u64 = 200;

/// What their names begin with.
const PREFIX: &str = "p/";

/// Numbers among clients. A probe has long ended when its number comes again.
pub const CLIENTS: u32 = 400;

/// Probes the members at `endpoints` until the load is to end, under the numbers from `first` on.
pub async fn run(
    first: u32,
    seed: u64,
    recorder: Arc<Recorder>,
    endpoints: Vec<SocketAddr>,
    shared: Arc<Shared>,
) {
    let mut under_way = JoinSet::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = 0_u32;
    while shared.goes_on() {
        ticks.tick().await;
        for puts in [true, false] {
            turn += 1;
            // A connection of its own: what became of earlier ones is no concern of this one.
            let member = turn as usize / 2 % endpoints.len();
            let number = first + turn % CLIENTS;
            let client = Client::new(
                number,
                seed,
                Arc::clone(&recorder),
                endpoints.clone(),
                Some(member),
            );
            under_way.spawn(probe(client, u64::from(turn), puts));
        }
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

/// Whether a call is a probe's. The more of them stay without an answer, the better they do their work.
#[must_use]
pub fn is_probe(request: &Request) -> bool {
    let key = match request {
        Request::Put(put) => &put.key,
        Request::Range(range) if range.range_end.is_empty() => &range.key,
        _ => return false,
    };
    key.as_slice().starts_with(PREFIX.as_bytes())
}

async fn probe(mut client: Client, turn: u64, puts: bool) {
    let key = format!("{PREFIX}{}", turn / 2 % KEYS);
    if puts {
        client.put(&key, format!("probe {turn}").into()).await;
    } else {
        client.get(&key).await;
    }
}
