//! [`Policy`]: which versions of TLS and which cipher suites are spoken, by the names Go gives them.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, SupportedProtocolVersion, version};

use crate::config::security::{PolicySettings, TlsVersion};

/// TLS 1.2 suites that Go knows and this server speaks: Go's name, and ours.
const SUITES: [(&str, CipherSuite); 8] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// TLS 1.2 suites that Go knows and this server does not speak: without forward secrecy, or with ciphers that have been
/// broken. Hardening guides list some of them; they are left out with a warning.
const SUITES_NOT_SPOKEN: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// See the module.
#[derive(Clone, Debug)]
pub struct Policy {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Policy {
    /// The policy that `settings` ask for, and the suites among them that had to be left out.
    pub fn new(settings: &PolicySettings) -> Result<(Self, Vec<String>), String> {
        let mut provider = ring::default_provider();
        let mut left_out = Vec::new();
        if !settings.cipher_suites.is_empty() {
            let mut wanted = Vec::new();
            for name in &settings.cipher_suites {
                if let Some((_, suite)) = SUITES.iter().find(|(known, _)| known == name) {
                    wanted.push(*suite);
                } else if SUITES_NOT_SPOKEN.contains(&name.as_str()) {
                    left_out.push(name.clone());
                } else {
                    return Err(format!("unexpected TLS cipher suite {name:?}"));
                }
            }
            if wanted.is_empty() {
                return Err(format!(
                    "none of the cipher suites {} is spoken by this server",
                    left_out.join(", ")
                ));
            }
            // The list concerns TLS 1.2 alone, as in Go.
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
        }
        let versions = [
            (TlsVersion::Tls12, &version::TLS12),
            (TlsVersion::Tls13, &version::TLS13),
        ]
        .into_iter()
        .filter(|(version, _)| settings.min <= *version && settings.max.is_none_or(|max| *version <= max))
        .map(|(_, version)| version)
        .collect();
        let policy = Self {
            provider: Arc::new(provider),
            versions,
        };
        Ok((policy, left_out))
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    pub(super) fn versions(&self) -> &[&'static SupportedProtocolVersion] {
        &self.versions
    }
}
