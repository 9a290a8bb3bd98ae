//! Listening sockets: bound early, so that a port in use ends the start at once, and accepted from late, when there is
//! something to serve. TCP or Unix, in the clear or under TLS.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::stream::{Socket, Stream};
use crate::config::urls::Url;
use crate::tls::{self, Acceptor, Endpoint, Rejected, Rejections};

/// Connections the kernel may hold before they are accepted. Source: Linux `net.core.somaxconn`, as Go uses it.
const BACKLOG: u32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket.
pub struct Listener {
    socket: Listening,
    address: String,
    security: Option<Arc<TlsSite>>,
}

enum Listening {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Goes with the listener.
        _file: SocketFile,
    },
}

/// TLS as one kind of listener speaks it.
pub struct TlsSite {
    /// Makes the handshakes.
    pub acceptor: Acceptor,
    /// Whether a client's certificate must name the address it comes from.
    pub checks_address: bool,
    /// Where failed handshakes are counted.
    pub rejections: Arc<Rejections>,
    /// Under which name.
    pub endpoint: Endpoint,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already is what we want.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds the address of `url`. The error is what Go's `net.Listen` says.
    pub fn bind(url: &Url, reuse_port: bool, security: Option<Arc<TlsSite>>) -> Result<Self, String> {
        if url.is_tcp() {
            let socket = bind_tcp(url, reuse_port)?;
            let address = socket
                .local_addr()
                .map_or_else(|_| url.authority().to_owned(), |address| address.to_string());
            return Ok(Self {
                socket: Listening::Tcp(socket),
                address,
                security,
            });
        }
        let path = Path::new(url.authority());
        Ok(Self {
            socket: bind_unix(path)?,
            address: path.display().to_string(),
            security,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.security.is_some()
    }

    /// The next connection. Never fails: what is wrong with one connection, or for a while with all, is no reason to
    /// stop listening.
    pub async fn accept(&self) -> Accepted {
        loop {
            match self.socket.accept().await {
                Ok((socket, remote)) => {
                    return Accepted {
                        socket,
                        remote,
                        security: self.security.clone(),
                    };
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection, trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Listening {
    /// The address is that of a TCP client.
    async fn accept(&self) -> io::Result<(Socket, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                // A connection that is gone already shows when it is read.
                let _ = stream.set_nodelay(true);
                Ok((Socket::Tcp(stream), Some(remote.ip())))
            }
            Self::Unix { listener, .. } => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// A connection that nothing has been read from.
pub struct Accepted {
    socket: Socket,
    remote: Option<IpAddr>,
    security: Option<Arc<TlsSite>>,
}

impl Accepted {
    /// Shakes hands where TLS is spoken. None: the client was turned away, and the log knows why.
    pub async fn handshake(self) -> Option<Stream> {
        let Some(site) = self.security else {
            return Some(Stream::Clear(self.socket));
        };
        let rejected = match site.acceptor.accept(self.socket).await {
            Ok(stream) => match check_address(&site, &stream, self.remote).await {
                Ok(()) => return Some(Stream::Tls(Box::new(stream))),
                Err(cause) => Rejected {
                    server_name: stream.get_ref().1.server_name().unwrap_or_default().to_owned(),
                    error: io::Error::other(cause),
                },
            },
            Err(rejected) => rejected,
        };
        site.rejections.note(site.endpoint, self.remote, &rejected);
        None
    }
}

async fn check_address(
    site: &TlsSite,
    stream: &tokio_rustls::server::TlsStream<Socket>,
    remote: Option<IpAddr>,
) -> Result<(), String> {
    let (Some(remote), true) = (remote, site.checks_address) else {
        return Ok(());
    };
    match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => tls::belongs_to(certificate, remote).await,
        None => Ok(()),
    }
}

fn bind_tcp(url: &Url, reuse_port: bool) -> Result<TcpListener, String> {
    let address = url.bind_address()?;
    let bound = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // As Go does: a restart must not wait for connections of the former process to time out.
        socket.set_reuseaddr(true)?;
        if reuse_port {
            socket.set_reuseport(true)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error| format!("listen tcp {address}: bind: {}", cause(&error)))
}

/// A file left by a former process does not stand in the way.
fn bind_unix(path: &Path) -> Result<Listening, String> {
    let failed = |error: &io::Error| format!("listen unix {}: bind: {}", path.display(), cause(error));
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
    Ok(Listening::Unix {
        listener,
        _file: SocketFile(path.to_owned()),
    })
}

/// Go's words for what went wrong.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
