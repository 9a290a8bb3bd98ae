//! The sockets of a member, bound and not served, and the TLS they speak.

use std::sync::Arc;

use crate::config::Config;
use crate::config::security::TlsSettings;
use crate::config::urls::Url;
use crate::http::listener::{Listener, TlsSite};
use crate::tls::peers::PeerTransport;
use crate::tls::{Acceptor, Endpoint, Policy, Rejections, self_signed};

/// See the module.
pub(super) struct Listeners {
    pub(super) client: Vec<Listener>,
    pub(super) client_http: Vec<Listener>,
    pub(super) metrics: Vec<Listener>,
}

impl Listeners {
    /// Binds what the flags name. Certificates are read now, so that one that is missing ends the start.
    pub(super) fn bind(
        config: &Config,
        policy: &Policy,
        rejections: &Arc<Rejections>,
    ) -> Result<Self, String> {
        let listen = &config.listen;
        let secured = listen
            .client
            .iter()
            .chain(&listen.client_http)
            .chain(&listen.metrics);
        let acceptor = if secured.clone().any(Url::is_tls) {
            let hosts = hosts(secured);
            let settings = with_key_pair(&config.security.client, "client", config, &hosts)?;
            Some(Acceptor::for_clients(&settings, policy)?)
        } else {
            None
        };
        let site = |checks_address| {
            acceptor.clone().map(|acceptor| {
                Arc::new(TlsSite {
                    acceptor,
                    checks_address,
                    rejections: rejections.clone(),
                    endpoint: Endpoint::Client,
                })
            })
        };
        let bind = |urls: &[Url], site: Option<Arc<TlsSite>>| -> Result<Vec<Listener>, String> {
            let bound = urls
                .iter()
                .map(|url| Listener::bind(url, listen.reuse_port, site.clone().filter(|_| url.is_tls())));
            bound.collect()
        };
        Ok(Self {
            client: bind(&listen.client, site(false))?,
            client_http: bind(&listen.client_http, site(false))?,
            // As in etcd, where the metrics listener is made like one for members.
            metrics: bind(&listen.metrics, site(true))?,
        })
    }
}

/// The way to the other members.
pub(super) fn peers(
    config: &Config,
    policy: &Policy,
    rejections: Arc<Rejections>,
) -> Result<PeerTransport, String> {
    let secure: Vec<&Url> = config.listen.peer.iter().filter(|url| url.is_tls()).collect();
    let addresses = secure
        .iter()
        .map(|url| url.bind_address().map(|address| address.to_string()));
    let addresses = addresses.collect::<Result<_, _>>()?;
    let hosts = hosts(secure.iter().copied().chain(&config.cluster.advertise_peer_urls));
    let settings = with_key_pair(&config.security.peer, "peer", config, &hosts)?;
    PeerTransport::new(&settings, policy, rejections, addresses)
}

/// The settings with a certificate of our own making where that was asked for.
fn with_key_pair(
    settings: &TlsSettings,
    kind: &str,
    config: &Config,
    hosts: &[String],
) -> Result<TlsSettings, String> {
    let mut settings = settings.clone();
    if settings.self_signed {
        let directory = config.data_dir.join("fixtures").join(kind);
        settings.key_pair = Some(self_signed(&directory, hosts, config.security.self_signed_years)?);
    }
    Ok(settings)
}

/// Whom a certificate for these URLs must name.
fn hosts<'a>(urls: impl Iterator<Item = &'a Url>) -> Vec<String> {
    let mut hosts: Vec<String> = urls
        .filter(|url| url.is_tls())
        .map(|url| url.host().to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
