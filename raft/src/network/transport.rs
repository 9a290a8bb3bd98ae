//! [`Transport`]: how bytes get from member to member. The seam below which a simulation puts its own network.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// The reading half of a connection.
pub type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;
/// The writing half of a connection.
pub type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// Makes and accepts connections.
pub trait Transport: Send + Sync + 'static {
    /// Connects to the host and port of a peer URL such as `http://10.0.0.1:2380`.
    fn connect<'a>(&'a self, url: &'a str) -> BoxFuture<'a, io::Result<(Reader, Writer)>>;
    /// Listens on `host:port`.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

/// A bound listener.
pub trait Listener: Send + 'static {
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Reader, Writer)>>;
}

/// Plain TCP without delay.
pub struct TcpTransport;

impl Transport for TcpTransport {
    fn connect<'a>(&'a self, url: &'a str) -> BoxFuture<'a, io::Result<(Reader, Writer)>> {
        Box::pin(async move { halves(TcpStream::connect(host_and_port(url)?).await?) })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(Tcp { listener }) as Box<dyn Listener>)
        })
    }
}

struct Tcp {
    listener: TcpListener,
}

impl Listener for Tcp {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Reader, Writer)>> {
        Box::pin(async move { halves(self.listener.accept().await?.0) })
    }
}

fn halves(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok((Box::new(reader), Box::new(writer)))
}

/// The part of a peer URL that can be connected to.
fn host_and_port(url: &str) -> io::Result<&str> {
    url.strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|rest| rest.contains(':'))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{url} is not an http://host:port URL"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_with_a_port_can_be_dialled() {
        assert_eq!(host_and_port("http://127.0.0.1:2380").unwrap(), "127.0.0.1:2380");
        assert_eq!(host_and_port("http://[::1]:2380/").unwrap(), "[::1]:2380");
        assert!(host_and_port("https://127.0.0.1:2380").is_err());
        assert!(host_and_port("http://nowhere").is_err());
    }
}
