//! One port, two protocols: connections that open with HTTP/2's preface carry gRPC (or HTTP endpoints over HTTP/2),
//! all others HTTP/1.1. What a request is, its content type says.
//!
//! Stopping has two steps. *Drain*: no new connection, GOAWAY on every HTTP/2 connection, calls that would never end
//! are ended, all others may finish. *Cut*: what is left is dropped.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::authority::Lenient;
use super::listener::{Accepted, Listener};
use super::{Endpoints, Surface};
use crate::config::Keepalive;

/// Bytes a client may send on one stream before we take them. Larger than the largest default request, so that a put
/// never waits for a window update.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes a client may send on all streams of a connection before we take them.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Largest header list of a request. Source: grpc-go's `defaultServerMaxHeaderListSize` is 16 MiB; metadata of etcd
/// clients is a token and little else.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Streams a client may have opened and reset before we have looked at them. hyper's 20 would hang up on a client that
/// cancels many calls at once; without a bound, resets cost us and nothing to the client (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 1024;
/// Time for an HTTP/1.1 client to send its headers. Source: etcd sets 5 minutes (`grpc` mux `http.Server`).
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Ping timeout that stands for "no limit".
const PING_TIMEOUT_NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Calls that end only when their client wants it.
const ENDLESS_CALLS: [&str; 6] = [
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/v3electionpb.Election/Observe",
    "/v3electionpb.Election/Campaign",
    "/v3lockpb.Lock/Lock",
    "/grpc.health.v1.Health/Watch",
];

/// The two steps of stopping.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Finish what is under way.
    pub drain: CancellationToken,
    /// Drop what is left.
    pub cut: CancellationToken,
}

/// HTTP/2 settings that flags decide.
#[derive(Clone, Copy, Debug)]
pub struct Http2Settings {
    /// Streams of one connection.
    pub max_concurrent_streams: u32,
    /// Pings to silent clients.
    pub keepalive: Keepalive,
}

/// A gRPC service for connections of this server.
pub trait Grpc:
    Service<
        Request<Incoming>,
        Response = Response<Self::ReplyBody>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// Body of its replies.
    type ReplyBody: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static;
}

impl<S, B> Grpc for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    type ReplyBody = B;
}

/// What a listener serves.
#[derive(Clone)]
pub struct Site<G> {
    /// gRPC; none on listeners that have none.
    pub grpc: Option<G>,
    /// Plain HTTP; none on listeners that have gRPC alone.
    pub endpoints: Option<(Surface, Endpoints)>,
    /// HTTP/2 settings.
    pub http2: Http2Settings,
    /// When to stop.
    pub stop: Stop,
    /// Owner of the connections' tasks.
    pub tasks: TaskTracker,
}

impl<G: Grpc> Site<G> {
    /// Serves `listener` until the drain begins. Connections live on in `tasks`.
    pub async fn serve(self, listener: Listener) {
        let builder = Arc::new(builder(self.http2));
        let site = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                biased;
                () = site.stop.drain.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            site.tasks
                .spawn(connection(accepted, builder.clone(), site.clone()));
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<SiteBody<G::ReplyBody>> {
        match (&self.grpc, &self.endpoints) {
            (Some(grpc), endpoints) if endpoints.is_none() || is_grpc(request.headers()) => {
                self.call(grpc.clone(), request).await
            }
            (_, Some((surface, endpoints))) => {
                endpoints.answer(*surface, &request).await.map(SiteBody::Plain)
            }
            _ => super::not_found().map(SiteBody::Plain),
        }
    }

    async fn call(&self, mut grpc: G, request: Request<Incoming>) -> Response<SiteBody<G::ReplyBody>> {
        if !ENDLESS_CALLS.contains(&request.uri().path()) {
            let Ok(response) = grpc.call(request).await;
            return response.map(SiteBody::Call);
        }
        let drain = &self.stop.drain;
        tokio::select! {
            biased;
            () = drain.cancelled() => stopped(),
            Ok(response) = grpc.call(request) => response.map(|body| SiteBody::Endless {
                body: Some(body),
                drained: drain.clone().cancelled_owned().boxed(),
            }),
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn builder(settings: Http2Settings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        // gRPC has none, and each reply would carry it.
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .keep_alive_interval(settings.keepalive.interval)
        .keep_alive_timeout(settings.keepalive.timeout.unwrap_or(PING_TIMEOUT_NEVER));
    builder
}

/// Serves one connection to its end.
async fn connection<G: Grpc>(accepted: Accepted, builder: Arc<Builder<TokioExecutor>>, site: Arc<Site<G>>) {
    let stop = site.stop.clone();
    let shaken = tokio::select! {
        biased;
        () = stop.drain.cancelled() => return,
        shaken = accepted.handshake() => shaken,
    };
    let Some(stream) = shaken else { return };
    let service = hyper::service::service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Lenient::new(stream)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.drain.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = stop.cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        // Clients go away in many ways; none is this member's concern.
        tracing::debug!(error, "connection ended badly");
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// gRPC's Unavailable, in the words of etcd's `ErrGRPCStopped`: clients go on elsewhere.
fn stopped_status(headers: &mut HeaderMap) {
    headers.insert(GRPC_STATUS, HeaderValue::from_static("14"));
    headers.insert(
        GRPC_MESSAGE,
        HeaderValue::from_static("etcdserver: server stopped"),
    );
}

fn stopped<B>() -> Response<SiteBody<B>> {
    let mut response = Response::new(SiteBody::Plain(Full::default()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    stopped_status(headers);
    response
}

/// A reply's body.
pub enum SiteBody<B> {
    /// Of an HTTP endpoint.
    Plain(Full<Bytes>),
    /// Of a call that ends by itself.
    Call(B),
    /// Of a call that the drain ends.
    Endless {
        /// None once it has ended.
        body: Option<B>,
        /// Resolves when the drain begins.
        drained: BoxFuture<'static, ()>,
    },
}

impl<B: Body<Data = Bytes, Error = Infallible> + Unpin> Body for SiteBody<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Plain(body) => Pin::new(body).poll_frame(cx),
            Self::Call(body) => Pin::new(body).poll_frame(cx),
            Self::Endless { body, drained } => {
                let Some(running) = body else {
                    return Poll::Ready(None);
                };
                if drained.poll_unpin(cx).is_pending() {
                    return Pin::new(running).poll_frame(cx);
                }
                *body = None;
                let mut trailers = HeaderMap::new();
                stopped_status(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Call(body) => body.is_end_stream(),
            Self::Endless { body, .. } => body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Call(body) => body.size_hint(),
            Self::Endless { .. } => SizeHint::default(),
        }
    }
}
