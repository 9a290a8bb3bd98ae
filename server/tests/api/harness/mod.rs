//! Starts servers and talks to them. What a test needs to know of the machine is in here.

pub mod client;
pub mod cluster;
pub mod process;
pub mod replies;
pub mod watching;

pub use client::{Client, assert_refused, kv_pairs, pair};
pub use cluster::Cluster;
pub use watching::Watching;

use std::future::Future;
use std::time::Duration;

/// Longest a test waits for something that should take well under a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until `question` answers `Some`, waiting longer and longer between tries, for [`PATIENCE`] in all.
pub async fn eventually<T, F>(what: &str, mut question: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(200);

    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = SHORTEST_PAUSE;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Fails the test if `future` takes longer than [`PATIENCE`].
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(answer) => answer,
        Err(_) => panic!("gave up waiting: {what}"),
    }
}
