//! Watch: a client's stream wired to the watch hub, which does everything else.
//!
//! There is no task per stream: the reply body, when it is polled, takes requests in and responses out. A client that
//! reads no responses is not read from either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use kelson_proto::etcdserverpb as pb;

use super::ServiceContext;
use crate::status::ClientError;
use crate::watch::{WatchRequests, WatchResponses};

/// Serves one watch stream. When the client closes its side, its watchers go on.
pub fn watch(
    context: Arc<ServiceContext>,
    requests: impl Stream<Item = Result<pb::WatchRequest, ClientError>> + Send + Unpin + 'static,
) -> BoxStream<'static, Result<pb::WatchResponse, ClientError>> {
    let (hub, responses) = context.watch_hub.open_stream().split();
    Box::pin(WatchSession {
        requests: Some(hand_over(requests, hub).boxed()),
        responses,
        ended: false,
    })
}

/// Hands requests to the hub until the client closes its side.
async fn hand_over(
    mut requests: impl Stream<Item = Result<pb::WatchRequest, ClientError>> + Unpin,
    hub: WatchRequests,
) -> Result<(), ClientError> {
    while let Some(request) = requests.next().await {
        hub.request(request?)
            .await
            .map_err(|_stopped| ClientError::Stopped)?;
    }
    Ok(())
}

struct WatchSession {
    /// None once the client has closed its side.
    requests: Option<BoxFuture<'static, Result<(), ClientError>>>,
    responses: WatchResponses,
    ended: bool,
}

impl WatchSession {
    /// What ends the stream; none as long as it goes on.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Option<ClientError> {
        match self.requests.as_mut()?.poll_unpin(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                self.requests = None;
                None
            }
            Poll::Ready(Err(error)) => Some(error),
        }
    }
}

impl Stream for WatchSession {
    type Item = Result<pb::WatchResponse, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let error = match self.poll_requests(cx) {
            Some(error) => error,
            None => match self.responses.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(response)) => return Poll::Ready(Some(Ok(response))),
                // The hub ends streams only when the member stops.
                Poll::Ready(None) => ClientError::Stopped,
            },
        };
        self.ended = true;
        Poll::Ready(Some(Err(error)))
    }
}
