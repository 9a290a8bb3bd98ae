//! The checks that come before every handler, in etcd's order: capability, learner, client version, leader.
//!
//! etcd's capability check cannot fail on a cluster that speaks API v3 only, so there is nothing to do for it here.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream};
use http::HeaderMap;
use kelson_raft::node::Node;

use super::ServiceContext;
use crate::status::ClientError;

/// How many election timeouts without a leader end a stream that needs one. Source: etcd `maxNoLeaderCnt`.
const LEADERLESS_ELECTIONS_MAX: u32 = 3;

/// Whether a learner answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learner {
    /// It does.
    Answers,
    /// It refuses.
    Refuses,
}

impl From<bool> for Learner {
    fn from(answers: bool) -> Self {
        if answers { Self::Answers } else { Self::Refuses }
    }
}

/// Lets a call in, or says why not.
pub fn admit(context: &ServiceContext, headers: &HeaderMap, learner: Learner) -> Result<(), ClientError> {
    let needs_leader = needs_leader(headers);
    if learner == Learner::Refuses || needs_leader {
        let status = context.node.status();
        if learner == Learner::Refuses && status.is_learner {
            return Err(ClientError::NotSupportedForLearner);
        }
        check_client_version(headers)?;
        if needs_leader && status.leader == 0 {
            return Err(ClientError::NoLeader);
        }
        return Ok(());
    }
    check_client_version(headers)
}

fn check_client_version(headers: &HeaderMap) -> Result<(), ClientError> {
    match headers.get("client-api-version") {
        Some(version) if std::str::from_utf8(version.as_bytes()).is_err() => {
            Err(ClientError::InvalidClientApiVersion)
        }
        _ => Ok(()),
    }
}

/// Only the exact value `true`, and only the first one, counts.
fn needs_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

/// Lets a stream in, and ends `messages` once there has been no leader for too long if the caller needs one.
pub fn guard_stream<M: Send + 'static>(
    context: &ServiceContext,
    headers: &HeaderMap,
    messages: BoxStream<'static, Result<M, ClientError>>,
) -> BoxStream<'static, Result<M, ClientError>> {
    if !needs_leader(headers) {
        return messages;
    }
    Box::pin(UntilLeaderless {
        messages,
        leaderless: leaderless_for_long(context.node.clone()).boxed(),
        ended: false,
    })
}

/// Resolves once this node has known no leader for three election timeouts on end.
async fn leaderless_for_long(node: Node) {
    let patience = node.election_timeout() * LEADERLESS_ELECTIONS_MAX;
    let mut leaders = node.leader_changes();
    loop {
        if leaders.wait_for(|&(leader, _)| leader == 0).await.is_err() {
            // The node has stopped, and its streams end for that reason.
            return std::future::pending().await;
        }
        let back = leaders.wait_for(|&(leader, _)| leader != 0);
        if tokio::time::timeout(patience, back).await.is_err() {
            return;
        }
    }
}

struct UntilLeaderless<M> {
    messages: BoxStream<'static, Result<M, ClientError>>,
    leaderless: BoxFuture<'static, ()>,
    ended: bool,
}

impl<M> Stream for UntilLeaderless<M> {
    type Item = Result<M, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.leaderless.poll_unpin(cx).is_ready() {
            self.ended = true;
            return Poll::Ready(Some(Err(ClientError::NoLeader)));
        }
        self.messages.as_mut().poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_first_value_asks_for_a_leader() {
        let mut headers = HeaderMap::new();
        assert!(!needs_leader(&headers));
        headers.append("hasleader", "TRUE".parse().expect("valid value"));
        headers.append("hasleader", "true".parse().expect("valid value"));
        assert!(!needs_leader(&headers));
        headers.insert("hasleader", "true".parse().expect("valid value"));
        assert!(needs_leader(&headers));
    }

    #[test]
    fn client_version_must_be_utf8_when_given() {
        let mut headers = HeaderMap::new();
        assert_eq!(check_client_version(&headers), Ok(()));
        let version = |bytes: &[u8]| http::HeaderValue::from_bytes(bytes).expect("valid value");
        headers.insert("client-api-version", version(b"3.7"));
        assert_eq!(check_client_version(&headers), Ok(()));
        headers.insert("client-api-version", version(b"\xff\xfe"));
        assert_eq!(
            check_client_version(&headers),
            Err(ClientError::InvalidClientApiVersion)
        );
    }
}
