//! [`ClientCertificates`]: which certificates of clients are taken: those of the trusted CA that are on the list of
//! allowed names, if there is one, and not on that of revoked ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::key_pair::FileSign;
use super::roots;
use crate::config::security::TlsSettings;

/// See the module.
#[derive(Debug)]
pub(super) struct ClientCertificates {
    chain: Arc<dyn ClientCertVerifier>,
    allowed: Allowed,
    revoked: Option<Revoked>,
}

/// Whose certificates are taken.
#[derive(Debug)]
enum Allowed {
    Everyone,
    CommonNames(Vec<String>),
    Hostnames(Vec<ServerName<'static>>),
}

/// A certificate that was turned down for a reason of ours, in etcd's words.
#[derive(Debug, thiserror::Error)]
enum TurnedDown {
    #[error("client certificate authentication failed")]
    NotAllowed,
    #[error("transport: certificate serial {0} revoked")]
    Revoked(String),
    #[error("cannot read the list of revoked certificates: {0}")]
    NoList(String),
    #[error("cannot read the certificate: {0}")]
    Unreadable(String),
}

impl From<TurnedDown> for Error {
    fn from(reason: TurnedDown) -> Self {
        CertificateError::Other(OtherError(Arc::new(reason))).into()
    }
}

impl ClientCertificates {
    /// The judge that `settings` ask for.
    pub(super) fn verifier(
        settings: &TlsSettings,
        ca_file: &Path,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots(ca_file)?, provider)
            .build()
            .map_err(|error| error.to_string())?;
        let hostnames = settings.allowed_hostnames.iter().map(|name| {
            ServerName::try_from(name.clone()).map_err(|error| format!("allowed hostname {name:?}: {error}"))
        });
        let hostnames = hostnames.collect::<Result<Vec<_>, _>>()?;
        let allowed = match (settings.allowed_cns.as_slice(), hostnames) {
            ([], hostnames) if hostnames.is_empty() => Allowed::Everyone,
            ([], hostnames) => Allowed::Hostnames(hostnames),
            (names, _) => Allowed::CommonNames(names.to_vec()),
        };
        Ok(Arc::new(Self {
            chain,
            allowed,
            revoked: settings.revoked_file.clone().map(Revoked::new),
        }))
    }

    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), TurnedDown> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| TurnedDown::Unreadable(error.to_string()))?;
        let allowed = match &self.allowed {
            Allowed::Everyone => true,
            Allowed::CommonNames(names) => {
                common_name(&parsed).is_some_and(|name| names.iter().any(|allowed| allowed == name))
            }
            Allowed::Hostnames(names) => ParsedCertificate::try_from(certificate).is_ok_and(|certificate| {
                names
                    .iter()
                    .any(|name| verify_server_name(&certificate, name).is_ok())
            }),
        };
        if !allowed {
            return Err(TurnedDown::NotAllowed);
        }
        match &self.revoked {
            Some(revoked) => revoked.check(parsed.raw_serial()),
            None => Ok(()),
        }
    }
}

/// The subject's common name.
fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
}

impl ClientCertVerifier for ClientCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.judge(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A file of revoked serial numbers, read again when it has changed. As in etcd it is matched by serial number alone,
/// and without it nobody is let in.
#[derive(Debug)]
struct Revoked {
    file: PathBuf,
    read: Mutex<Option<(FileSign, Vec<Vec<u8>>)>>,
}

impl Revoked {
    fn new(file: PathBuf) -> Self {
        Self {
            file,
            read: Mutex::new(None),
        }
    }

    fn check(&self, serial: &[u8]) -> Result<(), TurnedDown> {
        let sign = FileSign::of(&self.file);
        let mut read = self.read.lock();
        let known = match read.take() {
            Some((seen, serials)) if seen == sign => serials,
            _ => serials(&self.file)
                .map_err(|cause| TurnedDown::NoList(format!("{}: {cause}", self.file.display())))?,
        };
        let revoked = known.iter().any(|known| known == serial);
        *read = Some((sign, known));
        if revoked {
            let hexadecimal = serial.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(TurnedDown::Revoked(hexadecimal));
        }
        Ok(())
    }
}

fn serials(file: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    let (_, list) = CertificateRevocationList::from_der(&bytes).map_err(|error| error.to_string())?;
    Ok(list
        .iter_revoked_certificates()
        .map(|revoked| revoked.raw_serial().to_vec())
        .collect())
}
