//! [`PeerTransport`]: how members reach each other, in the clear or under TLS, as each URL says.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use kelson_raft::network::transport::{Listener, Reader, TcpTransport, Transport, Writer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsConnector, TlsStream};

use super::key_pair::ReloadedPair;
use super::{Acceptor, Endpoint, Policy, Rejected, Rejections, belongs_to, roots};
use crate::config::security::TlsSettings;

/// Handshakes under way on one listener. Members are few; whoever else knocks waits.
const HANDSHAKES_MAX: usize = 64;

/// See the module.
pub struct PeerTransport {
    connector: TlsConnector,
    site: Option<Arc<PeerSite>>,
    /// Addresses to listen on under TLS.
    secure: HashSet<String>,
}

/// How this member answers under TLS.
struct PeerSite {
    acceptor: Acceptor,
    checks_address: bool,
    rejections: Arc<Rejections>,
}

impl PeerTransport {
    /// Reads the certificates. `secure`: the addresses (`host:port`) to listen on under TLS.
    pub fn new(
        settings: &TlsSettings,
        policy: &Policy,
        rejections: Arc<Rejections>,
        secure: HashSet<String>,
    ) -> Result<Self, String> {
        let site = if secure.is_empty() {
            None
        } else {
            Some(Arc::new(PeerSite {
                acceptor: Acceptor::for_peers(settings, policy)?,
                checks_address: !settings.skip_client_san_verification,
                rejections,
            }))
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client_config(settings, policy)?)),
            site,
            secure,
        })
    }
}

fn client_config(settings: &TlsSettings, policy: &Policy) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(policy.provider())
        .with_protocol_versions(policy.versions())
        .map_err(|error| error.to_string())?;
    let builder = if settings.self_signed {
        // Everyone's certificate is of their own making: there is nothing to judge it by. As in etcd.
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(policy.provider())))
    } else {
        let roots = match &settings.trusted_ca_file {
            Some(file) => roots(file)?,
            // Nobody is trusted; connections fail and say so.
            None => Arc::new(RootCertStore::empty()),
        };
        builder.with_root_certificates(roots)
    };
    Ok(
        match settings.client_key_pair.as_ref().or(settings.key_pair.as_ref()) {
            Some(pair) => {
                builder.with_client_cert_resolver(Arc::new(ReloadedPair::open(pair, policy.provider())?))
            }
            None => builder.with_no_client_auth(),
        },
    )
}

impl Transport for PeerTransport {
    fn connect<'a>(&'a self, url: &'a str) -> BoxFuture<'a, io::Result<(Reader, Writer)>> {
        let Some(authority) = url.strip_prefix("https://") else {
            return TcpTransport.connect(url);
        };
        Box::pin(async move {
            let authority = authority.trim_end_matches('/');
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{url}: {error}")))?;
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            Ok(halves(self.connector.connect(name, stream).await?.into()))
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        let site = self.site.clone().filter(|_| self.secure.contains(address));
        let Some(site) = site else {
            return TcpTransport.listen(address);
        };
        Box::pin(async move {
            let listener = SecureListener {
                socket: TcpListener::bind(address).await?,
                site,
                handshakes: JoinSet::new(),
            };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

/// Shakes hands beside accepting, so that one silent client delays nobody.
struct SecureListener {
    socket: TcpListener,
    site: Arc<PeerSite>,
    handshakes: JoinSet<Option<TlsStream<TcpStream>>>,
}

impl Listener for SecureListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Reader, Writer)>> {
        Box::pin(async move {
            loop {
                tokio::select! {
                    biased;
                    Some(shaken) = self.handshakes.join_next() => {
                        if let Ok(Some(stream)) = shaken {
                            return Ok(halves(stream));
                        }
                    }
                    accepted = self.socket.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                        let (stream, remote) = accepted?;
                        self.handshakes.spawn(self.site.clone().handshake(stream, remote.ip()));
                    }
                }
            }
        })
    }
}

impl PeerSite {
    async fn handshake(self: Arc<Self>, stream: TcpStream, remote: IpAddr) -> Option<TlsStream<TcpStream>> {
        let shaken = async {
            // A connection that is gone already shows when it is read.
            let _ = stream.set_nodelay(true);
            let stream = self.acceptor.accept(stream).await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            if let (Some(certificate), true) = (certificate, self.checks_address) {
                belongs_to(certificate, remote).await.map_err(|cause| Rejected {
                    server_name: stream.get_ref().1.server_name().unwrap_or_default().to_owned(),
                    error: io::Error::other(cause),
                })?;
            }
            Ok(stream)
        };
        match shaken.await {
            Ok(stream) => Some(stream.into()),
            Err(rejected) => {
                self.rejections.note(Endpoint::Peer, Some(remote), &rejected);
                None
            }
        }
    }
}

fn halves(stream: TlsStream<TcpStream>) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(stream);
    (Box::new(reader), Box::new(writer))
}

/// Takes every certificate whose owner has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
