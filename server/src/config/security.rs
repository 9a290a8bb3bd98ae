//! Settings of TLS: which files, whom to trust, and which versions are spoken.

use std::path::PathBuf;

use super::note::Note;
use super::urls::Url;
use super::values::Values;

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairFiles {
    /// The certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// TLS towards clients, or towards the other members.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// `--cert-file` and `--key-file`.
    pub key_pair: Option<KeyPairFiles>,
    /// `--peer-client-cert-file` and `--peer-client-key-file`: what is shown where this member is the client, when it is
    /// another than `key_pair`.
    pub client_key_pair: Option<KeyPairFiles>,
    /// `--trusted-ca-file`. When set, everyone must show a certificate.
    pub trusted_ca_file: Option<PathBuf>,
    /// `--client-crl-file`: list of revoked certificates, in DER.
    pub revoked_file: Option<PathBuf>,
    /// `--peer-cert-allowed-cn`; empty: any name.
    pub allowed_cns: Vec<String>,
    /// `--client-cert-allowed-hostname`; empty: any name.
    pub allowed_hostnames: Vec<String>,
    /// `--auto-tls` when no pair was given: make a certificate, and trust any.
    pub self_signed: bool,
    /// `--peer-skip-client-san-verification`.
    pub skip_client_san_verification: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

impl TlsVersion {
    fn parse(text: &str) -> Result<Option<Self>, String> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Self::Tls12)),
            "TLS1.3" => Ok(Some(Self::Tls13)),
            _ => Err(format!(
                "unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)"
            )),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        }
    }
}

/// What is spoken by all TLS of this member.
#[derive(Clone, Debug)]
pub struct PolicySettings {
    /// `--tls-min-version`.
    pub min: TlsVersion,
    /// `--tls-max-version`.
    pub max: Option<TlsVersion>,
    /// `--cipher-suites`, of TLS 1.2, by Go's names; empty: all that are safe.
    pub cipher_suites: Vec<String>,
}

/// Everything about TLS.
#[derive(Clone, Debug)]
pub struct Security {
    /// Towards clients.
    pub client: TlsSettings,
    /// Towards the other members.
    pub peer: TlsSettings,
    /// What is spoken.
    pub policy: PolicySettings,
    /// `--self-signed-cert-validity`, in years.
    pub self_signed_years: u64,
}

impl Security {
    /// Reads the flags; certificates that no URL asks for are noted.
    pub(super) fn new(values: &Values, notes: &mut Vec<Note>) -> Result<Self, String> {
        let client = TlsSettings {
            key_pair: pair(values, "cert-file", "key-file")?,
            client_key_pair: None,
            trusted_ca_file: path(values, "trusted-ca-file"),
            revoked_file: path(values, "client-crl-file"),
            allowed_cns: Vec::new(),
            allowed_hostnames: list(values, "client-cert-allowed-hostname"),
            self_signed: values.bool("auto-tls"),
            skip_client_san_verification: true,
        };
        let peer = TlsSettings {
            key_pair: pair(values, "peer-cert-file", "peer-key-file")?,
            client_key_pair: pair(values, "peer-client-cert-file", "peer-client-key-file")?,
            trusted_ca_file: path(values, "peer-trusted-ca-file"),
            revoked_file: path(values, "peer-crl-file"),
            allowed_cns: list(values, "peer-cert-allowed-cn"),
            allowed_hostnames: list(values, "peer-cert-allowed-hostname"),
            self_signed: values.bool("peer-auto-tls"),
            skip_client_san_verification: values.bool("peer-skip-client-san-verification"),
        };
        if !peer.allowed_cns.is_empty() && !peer.allowed_hostnames.is_empty() {
            return Err(
                "AllowedCN and AllowedHostname are mutually exclusive (--peer-cert-allowed-cn, \
                        --peer-cert-allowed-hostname)"
                    .into(),
            );
        }
        let security = Self {
            client: without_needless_certificate(client, "client", notes),
            peer: without_needless_certificate(peer, "peer", notes),
            policy: policy(values, notes)?,
            self_signed_years: values.uint("self-signed-cert-validity"),
        };
        for (settings, flag, prefix) in [
            (&security.client, "client-cert-auth", ""),
            (&security.peer, "peer-client-cert-auth", "peer-"),
        ] {
            if values.bool(flag) && settings.trusted_ca_file.is_none() && !settings.self_signed {
                return Err(format!(
                    "--{flag} needs --{prefix}trusted-ca-file: certificates are not judged by the system's roots"
                ));
            }
        }
        Ok(security)
    }

    /// Checks that every TLS URL has a certificate, and notes certificates that no URL uses.
    pub(super) fn fit(&self, urls: &[(&'static str, &[Url])], notes: &mut Vec<Note>) -> Result<(), String> {
        for (flag, urls) in urls {
            let (settings, kind) = match *flag {
                "listen-peer-urls" => (&self.peer, "peer"),
                _ => (&self.client, "client"),
            };
            for url in *urls {
                let has_certificate = settings.key_pair.is_some() || settings.self_signed;
                match (url.is_tls(), has_certificate) {
                    (true, false) => {
                        return Err(match *flag {
                            "listen-metrics-urls" => format!(
                                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {url}"
                            ),
                            "listen-peer-urls" => format!(
                                "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url {url} with HTTPS scheme"
                            ),
                            _ => format!(
                                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
                            ),
                        });
                    }
                    (false, true) if *flag != "listen-metrics-urls" => notes.push(Note::CertificateUnused {
                        kind,
                        url: url.to_string(),
                    }),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Given files win over self-made ones.
fn without_needless_certificate(
    settings: TlsSettings,
    kind: &'static str,
    notes: &mut Vec<Note>,
) -> TlsSettings {
    let given = settings.key_pair.is_some();
    if settings.self_signed && given {
        notes.push(Note::AutoTlsIgnored { kind });
    }
    TlsSettings {
        self_signed: settings.self_signed && !given,
        ..settings
    }
}

fn policy(values: &Values, notes: &mut Vec<Note>) -> Result<PolicySettings, String> {
    let min = TlsVersion::parse(&values.text("tls-min-version"))?.unwrap_or(TlsVersion::Tls12);
    let max = TlsVersion::parse(&values.text("tls-max-version"))?;
    if let Some(max) = max.filter(|max| min > *max) {
        return Err(format!(
            "min version ({}) is greater than max version ({})",
            min.name(),
            max.name()
        ));
    }
    let cipher_suites = list(values, "cipher-suites");
    if min == TlsVersion::Tls13 && !cipher_suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    let settings = PolicySettings {
        min,
        max,
        cipher_suites,
    };
    // An unknown suite is found while flags are read, not when the first listener opens.
    let (_, suites) = crate::tls::Policy::new(&settings)?;
    if !suites.is_empty() {
        notes.push(Note::SuitesLeftOut { suites });
    }
    Ok(settings)
}

fn path(values: &Values, flag: &str) -> Option<PathBuf> {
    Some(values.text(flag))
        .filter(|text| !text.is_empty())
        .map(PathBuf::from)
}

fn list(values: &Values, flag: &str) -> Vec<String> {
    let text = values.text(flag);
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn pair(values: &Values, certificate: &str, key: &str) -> Result<Option<KeyPairFiles>, String> {
    match (path(values, certificate), path(values, key)) {
        (Some(certificate), Some(key)) => Ok(Some(KeyPairFiles { certificate, key })),
        (None, None) => Ok(None),
        (certificate, key) => {
            let shown = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
            Err(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                shown(key),
                shown(certificate)
            ))
        }
    }
}
