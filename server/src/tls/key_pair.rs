//! [`ReloadedPair`]: a certificate and its key, read again when their files have changed.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::security::KeyPairFiles;

/// See the module.
#[derive(Debug)]
pub(super) struct ReloadedPair {
    files: KeyPairFiles,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    pair: Arc<CertifiedKey>,
    /// What the files looked like when they were last read, well or not.
    seen: [FileSign; 2],
}

/// Changes whenever the contents of a file do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSign {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl FileSign {
    /// What `file` looks like now; a file that is not there looks like nothing.
    pub(super) fn of(file: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(file).ok();
        Self {
            modified: metadata.as_ref().and_then(|metadata| metadata.modified().ok()),
            length: metadata.as_ref().map_or(0, fs::Metadata::len),
            inode: metadata.as_ref().map_or(0, MetadataExt::ino),
        }
    }
}

impl ReloadedPair {
    /// Reads the pair for the first time.
    pub(super) fn open(files: &KeyPairFiles, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let seen = signs(files);
        let pair = Arc::new(read(files, &provider)?);
        Ok(Self {
            files: files.clone(),
            provider,
            current: Mutex::new(Current { pair, seen }),
        })
    }

    /// The newest pair that fits together.
    fn current(&self) -> Arc<CertifiedKey> {
        let seen = signs(&self.files);
        let mut current = self.current.lock();
        if current.seen != seen {
            current.seen = seen;
            match read(&self.files, &self.provider) {
                Ok(pair) => {
                    tracing::info!(
                        "cert-file" = %self.files.certificate.display(),
                        "read a certificate anew"
                    );
                    current.pair = Arc::new(pair);
                }
                // In the middle of a rotation the two do not fit; the next handshake looks again.
                Err(error) => tracing::warn!(
                    error,
                    "cannot use the certificate that is there now; the former one stays in use"
                ),
            }
        }
        current.pair.clone()
    }
}

fn signs(files: &KeyPairFiles) -> [FileSign; 2] {
    [FileSign::of(&files.certificate), FileSign::of(&files.key)]
}

fn read(files: &KeyPairFiles, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&files.certificate, &error))?;
    if chain.is_empty() {
        let error = io::Error::other("no certificate in the file");
        return Err(unreadable(&files.certificate, &error));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable(&files.key, &error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        format!(
            "{} and {}: {error}",
            files.certificate.display(),
            files.key.display()
        )
    })
}

fn unreadable(file: &Path, error: &dyn std::error::Error) -> String {
    format!("{}: {error}", file.display())
}

impl ResolvesServerCert for ReloadedPair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for ReloadedPair {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
