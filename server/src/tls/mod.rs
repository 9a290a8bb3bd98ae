//! TLS of listeners and of connections between members.
//!
//! Key pairs are read again whenever their files have changed, so that certificates rotate under load; a pair that
//! does not fit together, as in the middle of a rotation, leaves the former one in use. The CA bundle is read once, the
//! list of revoked certificates when it has changed.

mod client_certificate;
mod key_pair;
pub mod peers;
mod policy;
mod rejections;
mod san;
mod self_signed;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{NoClientAuth, NoServerSessionStorage, ServerConfig};
use rustls::{CertificateError, OtherError, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use self::client_certificate::ClientCertificates;
use self::key_pair::ReloadedPair;
pub use self::policy::Policy;
pub use self::rejections::{Endpoint, Rejections};
pub use self::san::belongs_to;
pub use self::self_signed::self_signed;
use crate::config::security::TlsSettings;

/// Time for a client to finish its handshake. Source: etcd's `handshakeTimeout`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client may ask for, best first.
const CLIENT_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Makes TLS connections of accepted ones.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

/// A handshake that did not succeed.
#[derive(Debug)]
pub struct Rejected {
    /// The name the client wanted to reach; empty if it did not say.
    pub server_name: String,
    /// Why.
    pub error: io::Error,
}

impl Acceptor {
    /// An acceptor for a listener of clients.
    pub fn for_clients(settings: &TlsSettings, policy: &Policy) -> Result<Self, String> {
        Self::new(settings, policy, &CLIENT_PROTOCOLS)
    }

    /// An acceptor for a listener of members.
    pub fn for_peers(settings: &TlsSettings, policy: &Policy) -> Result<Self, String> {
        Self::new(settings, policy, &[])
    }

    fn new(settings: &TlsSettings, policy: &Policy, protocols: &[&[u8]]) -> Result<Self, String> {
        let pair = settings
            .key_pair
            .as_ref()
            .ok_or("TLS needs a certificate and a key")?;
        let pair = Arc::new(ReloadedPair::open(pair, policy.provider())?);
        let builder = ServerConfig::builder_with_provider(policy.provider())
            .with_protocol_versions(policy.versions())
            .map_err(|error| error.to_string())?;
        let verifier = match &settings.trusted_ca_file {
            Some(ca_file) => ClientCertificates::verifier(settings, ca_file, policy.provider())?,
            None => Arc::new(NoClientAuth),
        };
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(pair);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        if settings.trusted_ca_file.is_some() {
            // Whoever resumes a session shows no certificate: one that has expired or was revoked since would be let in.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Shakes hands with the client of `stream`.
    pub async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, Rejected>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut server_name = String::new();
        let handshake = async {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
            if let Some(name) = start.client_hello().server_name() {
                name.clone_into(&mut server_name);
            }
            start.into_stream(self.config.clone()).await
        };
        let outcome = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout")));
        outcome.map_err(|error| Rejected {
            server_name,
            error: in_plain_words(error),
        })
    }
}

/// Our own reasons for turning a certificate down, without the wrappings they come in.
fn in_plain_words(error: io::Error) -> io::Error {
    let reason = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(|inner| match inner {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
                Some(reason.to_string())
            }
            _ => None,
        });
    match reason {
        Some(reason) => io::Error::new(error.kind(), reason),
        None => error,
    }
}

/// The certificates of a CA bundle.
fn roots(file: &Path) -> Result<Arc<RootCertStore>, String> {
    let unreadable = |cause: &dyn std::fmt::Display| format!("{}: {cause}", file.display());
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"the CA bundle has no certificate"));
    }
    Ok(Arc::new(roots))
}
