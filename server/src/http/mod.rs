//! The plain HTTP surface, and the listeners that serve it and gRPC on one port.
//!
//! [`Endpoints`] maps a path to an answer; what it needs to know about the member comes through [`member::Member`], so
//! every body can be tested without one. [`listener`] and [`connection`] own the sockets.

mod authority;
pub mod connection;
mod counters;
pub mod health;
pub mod listener;
pub mod member;
pub mod metrics;
mod process;
pub mod query;
pub mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use self::counters::Counters;
use self::health::Probe;
use self::member::{Member, Starting};
use self::query::Query;
use crate::version::{SERVER_VERSION, STORAGE_VERSION};

/// An answer with its whole body.
pub type Reply = Response<Full<Bytes>>;

/// Which of the endpoints a listener has (operations specification 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Client listeners: all.
    Client,
    /// Metrics listeners: health and metrics alone.
    Metrics,
}

/// The HTTP endpoints of one member. Cheap to clone; serves from before the member runs.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
}

struct Shared {
    member: OnceLock<Box<dyn Member>>,
    counters: Counters,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self::new()
    }
}

impl Endpoints {
    /// Endpoints of a member that is still starting.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                member: OnceLock::new(),
                counters: Counters::default(),
            }),
        }
    }

    /// From now on the endpoints speak of `member`. A second call changes nothing.
    pub fn serve(&self, member: impl Member) {
        // A server has one member for life.
        let _ = self.shared.member.set(Box::new(member));
    }

    fn member(&self) -> &dyn Member {
        self.shared.member.get().map_or(&Starting, AsRef::as_ref)
    }

    /// Answers one request. Bodies of requests are not read: no endpoint takes one.
    pub async fn answer<B>(&self, surface: Surface, request: &Request<B>) -> Reply {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let path = request.uri().path();
        if path == "/metrics" {
            return self.metrics();
        }
        let route = match path {
            "/health" => Route::Health,
            "/version" if surface == Surface::Client => Route::Version,
            _ => match Probe::find(path) {
                Some(probe) => Route::Probe(probe),
                None => return not_found(),
            },
        };
        if request.method() != Method::GET {
            return method_not_allowed();
        }
        match route {
            Route::Health => health::health(self.member(), &query, &self.shared.counters).await,
            Route::Probe(probe) => health::probe(self.member(), &probe, &query, &self.shared.counters).await,
            Route::Version => self.version(),
        }
    }

    fn version(&self) -> Reply {
        let cluster = self.member().cluster_version();
        let storage = if cluster.is_some() {
            STORAGE_VERSION
        } else {
            "unknown"
        };
        let cluster = cluster.as_deref().unwrap_or("not_decided");
        let body =
            format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
        reply(StatusCode::OK, HeaderValue::from_static("application/json"), body)
    }

    fn metrics(&self) -> Reply {
        let mut text = metrics::Text::default();
        self.member().metrics(&mut text);
        self.shared.counters.write(&mut text);
        process::write(&mut text);
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        reply(StatusCode::OK, kind, text.finish())
    }
}

enum Route {
    Health,
    Probe(Probe),
    Version,
}

const TEXT_PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn reply(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, content_type);
    reply
}

/// Plain text that browsers must not take for anything else, as Go's `http.Error` sends it.
fn plain_text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = reply(status, TEXT_PLAIN, body);
    reply.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    reply
}

fn not_found() -> Reply {
    plain_text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn method_not_allowed() -> Reply {
    let mut reply = plain_text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    reply
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET"));
    reply
}
