//! Where proxies that delay are put: before a member's client port, and behind what it sends to other members.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::network::{Network, run};
use super::proxy::{self, Delay, Dial};

/// Mark of packets that already went through a proxy.
const PROXIED: u32 = 77;

/// A proxy between clients and a member. Returns where it listens.
///
/// # Errors
///
/// If loopback has no port left.
pub async fn client_proxy(
    member: SocketAddr,
    delay: &Arc<Delay>,
    proxies: &mut JoinSet<()>,
) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let shown = listener.local_addr()?;
    proxies.spawn(proxy::serve(listener, proxy::dial(member), Arc::clone(delay)));
    Ok(shown)
}

/// Proxies for what `member` sends to the others. They listen and dial inside its namespace, so that to everybody else
/// the connections are the member's own; the kernel redirects them there unasked.
///
/// # Errors
///
/// If the namespace cannot be entered, or `nft` refuses.
pub fn peer_proxies(
    network: &Arc<Network>,
    member: usize,
    peers: &[SocketAddr],
    delay: &Arc<Delay>,
    proxies: &mut JoinSet<()>,
) -> Result<()> {
    let mut rules = String::from("table ip kjproxy {\nchain output { type nat hook output priority -100;\n");
    for (_, target) in peers.iter().enumerate().filter(|(other, _)| *other != member) {
        let target = *target;
        let listener = network.of(member).within(|| {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let port = listener.local_addr()?.port();
        rules += &format!(
            "ip daddr {} tcp dport {} meta mark != {PROXIED} redirect to :{port}\n",
            target.ip(),
            target.port(),
        );
        let listener = tokio::net::TcpListener::from_std(listener)?;
        proxies.spawn(proxy::serve(
            listener,
            dial_within(Arc::clone(network), member, target),
            Arc::clone(delay),
        ));
    }
    rules += "}\n}\n";
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), rules)?;
    run(network.of(member).command("nft").arg("-f").arg(script.path()))
}

/// Dials from a member's namespace, past the redirection.
fn dial_within(network: Arc<Network>, member: usize, target: SocketAddr) -> Dial {
    Arc::new(move || {
        let network = Arc::clone(&network);
        Box::pin(async move {
            let socket = network.of(member).within(|| {
                let socket = tokio::net::TcpSocket::new_v4()?;
                mark(&socket)?;
                Ok(socket)
            })?;
            Ok(socket.connect(target).await?)
        })
    })
}

fn mark(socket: &tokio::net::TcpSocket) -> Result<()> {
    use std::os::fd::AsRawFd;
    let mark = PROXIED;
    let size = libc::socklen_t::try_from(size_of_val(&mark))?;
    // SAFETY: `mark` lives through the call and has the size given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            size,
        )
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot mark a socket");
    }
    Ok(())
}
