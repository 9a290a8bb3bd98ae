//! [`Rejections`]: connections that were turned away, told and counted.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Rejected;

/// Who listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// For clients.
    Client,
    /// For the other members.
    Peer,
}

impl Endpoint {
    /// As the log and the metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }
}

/// Failed handshakes since the process started.
#[derive(Debug, Default)]
pub struct Rejections {
    client: AtomicU64,
    peer: AtomicU64,
}

impl Rejections {
    fn counter(&self, endpoint: Endpoint) -> &AtomicU64 {
        match endpoint {
            Endpoint::Client => &self.client,
            Endpoint::Peer => &self.peer,
        }
    }

    /// How many at `endpoint`.
    pub fn count(&self, endpoint: Endpoint) -> u64 {
        self.counter(endpoint).load(Ordering::Relaxed)
    }

    /// Counts one, and writes the line that etcd's operators look for. A connection that was opened and closed again is
    /// a probe, or a client that gave up: no rejection, and no news.
    pub fn note(&self, endpoint: Endpoint, remote: Option<IpAddr>, rejected: &Rejected) {
        let remote = remote.map(|address| address.to_string()).unwrap_or_default();
        let (server_name, error) = (rejected.server_name.as_str(), &rejected.error);
        let line = match endpoint {
            Endpoint::Client => "rejected connection on client endpoint",
            Endpoint::Peer => "rejected connection on peer endpoint",
        };
        if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ) {
            tracing::debug!("remote-addr" = remote, "server-name" = server_name, %error, "{line}");
            return;
        }
        self.counter(endpoint).fetch_add(1, Ordering::Relaxed);
        tracing::warn!("remote-addr" = remote, "server-name" = server_name, %error, "{line}");
    }
}
