//! Whether a certificate belongs to the address a connection comes from: the check of etcd's peer listeners.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Whether `certificate` names `address`: by an address, by a name that resolves to it, or, for `*.` names, by a name
/// that it resolves to. A certificate without such names belongs to everyone. The error says what was compared.
pub async fn belongs_to(certificate: &CertificateDer<'_>, address: IpAddr) -> Result<(), String> {
    let names = Names::of(certificate)?;
    if (names.addresses.is_empty() && names.dns.is_empty()) || names.addresses.contains(&address) {
        return Ok(());
    }
    let (wildcards, literals): (Vec<_>, Vec<_>) = names.dns.iter().partition(|name| name.starts_with("*."));
    for name in literals {
        if let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await
            && found.any(|found| found.ip() == address)
        {
            return Ok(());
        }
    }
    if !wildcards.is_empty()
        && let Some(host) = reverse(address).await
        && wildcards
            .iter()
            .any(|wildcard| matches(wildcard, host.trim_end_matches('.')))
    {
        return Ok(());
    }
    Err(format!(
        "tls: {address:?} does not match any of IPAddresses {:?}, DNSNames {:?}",
        names.addresses, names.dns
    ))
}

/// `*.` stands for one label.
fn matches(wildcard: &str, host: &str) -> bool {
    let rest = host.split_once('.').map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(wildcard.trim_start_matches("*.")))
}

struct Names {
    addresses: Vec<IpAddr>,
    dns: Vec<String>,
}

impl Names {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let extension = parsed
            .subject_alternative_name()
            .map_err(|error| error.to_string())?;
        let mut names = Self {
            addresses: Vec::new(),
            dns: Vec::new(),
        };
        for name in extension
            .iter()
            .flat_map(|extension| &extension.value.general_names)
        {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(bytes) = <[u8; 4]>::try_from(*bytes) {
                        names.addresses.push(bytes.into());
                    } else if let Ok(bytes) = <[u8; 16]>::try_from(*bytes) {
                        names.addresses.push(bytes.into());
                    }
                }
                _ => {}
            }
        }
        Ok(names)
    }
}

/// The name of an address, if the name service has one.
async fn reverse(address: IpAddr) -> Option<String> {
    let looked_up = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address)).await;
    looked_up.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(matches("*.etcd.example", "a.etcd.example"));
        assert!(matches("*.etcd.example", "A.ETCD.example"));
        assert!(!matches("*.etcd.example", "a.b.etcd.example"));
        assert!(!matches("*.etcd.example", "etcd.example"));
    }
}
