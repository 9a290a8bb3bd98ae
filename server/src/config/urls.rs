//! The URLs that etcd's flags take: `http://host:port` and little else.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// How a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// TCP in the clear.
    Http,
    /// TCP under TLS.
    Https,
    /// A Unix socket in the clear.
    Unix,
    /// A Unix socket under TLS.
    Unixs,
}

impl Scheme {
    /// As written before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }
}

/// One URL of a flag. The order is that of its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    text: String,
}

impl Url {
    /// Reads one URL; white space around it does not count. The error is etcd's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        };
        match scheme {
            "unix" | "unixs" => {}
            "http" | "https" => {
                let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(authority_end);
                if split_host_port(authority).is_none() {
                    return Err(format!(
                        r#"URL address does not have the form "host:port": {text}"#
                    ));
                }
                if !path.is_empty() {
                    return Err(format!("URL must not contain a path: {text}"));
                }
            }
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// Reads a comma-separated list: sorted, each URL once, never empty.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls = text.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// The URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How to speak there.
    pub fn scheme(&self) -> Scheme {
        match self.text.split_once("://") {
            Some(("https", _)) => Scheme::Https,
            Some(("unix", _)) => Scheme::Unix,
            Some(("unixs", _)) => Scheme::Unixs,
            _ => Scheme::Http,
        }
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme(), Scheme::Https | Scheme::Unixs)
    }

    /// Whether it names a host and a port, not a file.
    pub fn is_tcp(&self) -> bool {
        matches!(self.scheme(), Scheme::Http | Scheme::Https)
    }

    /// What follows `://`: `host:port`, or the path of a Unix socket.
    pub fn authority(&self) -> &str {
        self.text.split_once("://").map_or("", |(_, rest)| rest)
    }

    /// Host without brackets; empty for Unix sockets.
    pub fn host(&self) -> &str {
        split_host_port(self.authority()).map_or("", |(host, _)| host)
    }

    /// Port as written; empty for Unix sockets.
    pub fn port(&self) -> &str {
        split_host_port(self.authority()).map_or("", |(_, port)| port)
    }

    /// The same URL with another host.
    pub fn with_host(&self, host: IpAddr) -> Self {
        let port = self.port();
        let scheme = self.scheme().name();
        let text = match host {
            IpAddr::V4(host) => format!("{scheme}://{host}:{port}"),
            IpAddr::V6(host) => format!("{scheme}://[{host}]:{port}"),
        };
        Self { text }
    }

    /// The address to bind, for TCP schemes: `localhost` is 127.0.0.1, as where Go listens; other names are refused,
    /// because a listener must not depend on a name service.
    pub fn bind_address(&self) -> Result<SocketAddr, String> {
        let host = match self.host() {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            host => host
                .parse()
                .map_err(|_| format!("expected IP in URL for binding ({self})"))?,
        };
        let port = self
            .port()
            .parse()
            .map_err(|_| format!("invalid port in URL for binding ({self})"))?;
        Ok(SocketAddr::new(host, port))
    }

    /// Every address the host resolves to, sorted; asks the name service.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<_> = self.authority().to_socket_addrs()?.collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The URLs with commas between them.
pub fn join(urls: &[Url]) -> String {
    let texts: Vec<&str> = urls.iter().map(Url::as_str).collect();
    texts.join(",")
}

/// Go's `net.SplitHostPort`, as far as URLs need it: one colon, or brackets around an IPv6 host.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, rest.strip_prefix(':')?)
        }
        None => authority.split_once(':')?,
    };
    let plain = |text: &str| !text.contains(['[', ']', '@']);
    (plain(host) && plain(port) && !port.contains(':')).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse(" http://10.0.0.1:2379 ").expect("valid");
        assert_eq!(
            (url.host(), url.port(), url.scheme()),
            ("10.0.0.1", "2379", Scheme::Http)
        );
        let url = Url::parse("https://[::1]:2379").expect("valid");
        assert_eq!(
            (url.host(), url.port(), url.scheme()),
            ("::1", "2379", Scheme::Https)
        );
        let url = Url::parse("unix:///run/k.sock").expect("valid");
        assert_eq!((url.authority(), url.scheme()), ("/run/k.sock", Scheme::Unix));
    }

    #[test]
    fn malformed_urls_are_refused_in_etcds_words() {
        for (text, message) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            (
                "ftp://a:1",
                "URL scheme must be http, https, unix, or unixs: ftp://a:1",
            ),
            (
                "http://a",
                "URL address does not have the form \"host:port\": http://a",
            ),
            (
                "http://::1:2379",
                "URL address does not have the form \"host:port\": http://::1:2379",
            ),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
        ] {
            assert_eq!(Url::parse(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_each_url_counts_once() {
        let urls = Url::parse_list("http://b:1,http://a:1, http://b:1").expect("valid");
        assert_eq!(join(&urls), "http://a:1,http://b:1");
    }

    #[test]
    fn only_addresses_and_localhost_can_be_bound() {
        let bound = |text| Url::parse(text).expect("valid").bind_address();
        assert_eq!(
            bound("http://localhost:2379"),
            Ok(SocketAddr::from(([127, 0, 0, 1], 2379)))
        );
        assert_eq!(bound("http://0.0.0.0:1"), Ok(SocketAddr::from(([0, 0, 0, 0], 1))));
        assert_eq!(
            bound("http://example.com:2379"),
            Err("expected IP in URL for binding (http://example.com:2379)".to_owned())
        );
        assert!(bound("http://127.0.0.1:99999").is_err());
    }
}
