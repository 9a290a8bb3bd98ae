//! What reading the configuration has to say, kept until there is a log to say it to.

use tracing::{info, warn};

/// One remark about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A variable was used.
    VariableUsed {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A variable starts with `ETCD_` and means nothing. Charts export dozens of them.
    VariableUnknown {
        /// Its name.
        name: String,
    },
    /// A setting of the configuration file was used.
    FileSettingUsed {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A key of the configuration file means nothing. etcd's own sample has some that were dropped.
    FileKeyUnknown {
        /// The key.
        key: String,
    },
    /// A flag was given that changes nothing.
    WithoutEffect {
        /// Flag, or gate with its value.
        setting: String,
        /// Why that is harmless.
        reason: &'static str,
    },
    /// A flag was given by a name that etcd 3.7 has dropped.
    Renamed {
        /// As given.
        former: String,
        /// What to write instead.
        present: String,
    },
    /// `--name` was left at its default.
    NameIsDefault,
    /// `--data-dir` was empty.
    DataDirDefaulted {
        /// What is used.
        data_dir: String,
    },
    /// A certificate was given and no TLS URL that could use it.
    CertificateUnused {
        /// `client` or `peer`.
        kind: &'static str,
        /// The URL that is served in the clear.
        url: String,
    },
    /// `--auto-tls` or `--peer-auto-tls` was given beside a certificate.
    AutoTlsIgnored {
        /// `client` or `peer`.
        kind: &'static str,
    },
    /// Cipher suites that this server does not speak were asked for.
    SuitesLeftOut {
        /// Go's names.
        suites: Vec<String>,
    },
    /// The advertised host was made from the default route's address.
    HostDetected {
        /// The address.
        host: String,
    },
}

impl Note {
    /// Writes the remark as a log line, in etcd's words where it has them.
    pub fn log(&self) {
        match self {
            Self::VariableUsed { name, value } => info!(
                "variable-name" = name.as_str(),
                "variable-value" = value.as_str(),
                "recognized and used environment variable"
            ),
            Self::VariableUnknown { name } => {
                warn!(
                    "environment-variable" = name.as_str(),
                    "unrecognized environment variable"
                );
            }
            Self::FileSettingUsed { key, value } => info!(
                key = key.as_str(),
                value = value.as_str(),
                "recognized and used setting of the configuration file"
            ),
            Self::FileKeyUnknown { key } => {
                warn!(key = key.as_str(), "unrecognized key in the configuration file");
            }
            Self::WithoutEffect { setting, reason } => {
                warn!(setting = setting.as_str(), reason, "setting has no effect");
            }
            Self::Renamed { former, present } => {
                warn!(
                    flag = former.as_str(),
                    use_instead = present.as_str(),
                    "deprecated flag"
                );
            }
            Self::NameIsDefault => warn!(name = "default", "'name' was left at its default"),
            Self::DataDirDefaulted { data_dir } => {
                warn!(
                    "data-dir" = data_dir.as_str(),
                    "'data-dir' was empty; using default"
                );
            }
            Self::CertificateUnused { kind, url } => warn!(
                kind,
                url = url.as_str(),
                "scheme is http or unix while key and cert files are present; ignoring key and cert files"
            ),
            Self::AutoTlsIgnored { kind } => {
                warn!(kind, "ignoring automatic TLS since certs are given");
            }
            Self::SuitesLeftOut { suites } => {
                warn!(
                    suites = suites.join(","),
                    "cipher suites that are not spoken are left out"
                );
            }
            Self::HostDetected { host } => info!(host = host.as_str(), "detected default host for advertise"),
        }
    }
}
