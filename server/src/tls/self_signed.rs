//! Self-signed certificates (`--auto-tls`, `--peer-auto-tls`): encryption without authentication.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::config::security::KeyPairFiles;

/// Days of a year of `--self-signed-cert-validity`. Source: etcd `SelfCert`.
const DAYS_PER_YEAR: i64 = 365;

/// The pair below `directory` (`cert.pem`, `key.pem`); made for `hosts` and `years` when there is none.
pub fn self_signed(directory: &Path, hosts: &[String], years: u64) -> Result<KeyPairFiles, String> {
    let files = KeyPairFiles {
        certificate: directory.join("cert.pem"),
        key: directory.join("key.pem"),
    };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let failed = |cause: &dyn std::fmt::Display| {
        format!(
            "cannot make a self-signed certificate below {}: {cause}",
            directory.display()
        )
    };
    let (certificate, key) = generate(hosts, years).map_err(|error| failed(&error))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| failed(&error))?;
    write(&files.key, &key).map_err(|error| failed(&error))?;
    write(&files.certificate, &certificate).map_err(|error| failed(&error))?;
    Ok(files)
}

/// PEM of a certificate and of its key.
fn generate(hosts: &[String], years: u64) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let now = OffsetDateTime::now_utc();
    let days = i64::try_from(years)
        .unwrap_or(i64::MAX)
        .saturating_mul(DAYS_PER_YEAR);
    params.not_before = now;
    params.not_after = now
        .checked_add(Duration::days(days))
        .unwrap_or_else(|| rcgen::date_time_ymd(9999, 12, 31));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
