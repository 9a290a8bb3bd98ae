//! A TCP proxy in this process that delays what passes: latency, for kernels that cannot add any.
//!
//! Order within a connection is kept, so a pause of one piece holds up those behind it. A proxy that neither delays nor
//! stalls copies as fast as it can.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Most bytes of one piece.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces under way in one direction of a connection.
const PIECES: usize = 64;

/// How long what passes is held. Shared by all connections that are to suffer alike.
#[derive(Debug, Default)]
pub struct Delay {
    least_us: AtomicU64,
    most_us: AtomicU64,
    held: AtomicU64,
}

impl Delay {
    /// Holds every piece for between `least` and `most` from now on; zero: not at all.
    pub fn set(&self, least: Duration, most: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.least_us.store(micros(least), Ordering::Relaxed);
        self.most_us.store(micros(most.max(least)), Ordering::Relaxed);
    }

    /// Pieces that were held so far.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn draw(&self, rng: &mut StdRng) -> Duration {
        let most = self.most_us.load(Ordering::Relaxed);
        if most == 0 {
            return Duration::ZERO;
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        let least = self.least_us.load(Ordering::Relaxed).min(most);
        Duration::from_micros(rng.random_range(least..=most))
    }
}

/// Opens the outer connection of a proxied one.
pub type Dial = Arc<dyn Fn() -> futures::future::BoxFuture<'static, Result<TcpStream>> + Send + Sync>;

/// Dials a fixed address from the driver's namespace.
#[must_use]
pub fn dial(address: SocketAddr) -> Dial {
    Arc::new(move || Box::pin(async move { Ok(TcpStream::connect(address).await?) }))
}

/// Serves `listener` until dropped: each connection is joined to one that `dial` opens.
pub async fn serve(listener: TcpListener, dial: Dial, delay: Arc<Delay>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((inner, _)) = listener.accept().await else {
            continue;
        };
        number += 1;
        let (dial, delay) = (Arc::clone(&dial), Arc::clone(&delay));
        connections.spawn(async move {
            // A refused dial closes the connection that asked for it, as the member itself would.
            let Ok(outer) = dial().await else { return };
            join(inner, outer, &delay, number).await;
        });
    }
}

async fn join(inner: TcpStream, outer: TcpStream, delay: &Delay, seed: u64) {
    for end in [&inner, &outer] {
        let _ = end.set_nodelay(true);
        let _ = keep_alive(end);
    }
    let (inner_read, inner_write) = inner.into_split();
    let (outer_read, outer_write) = outer.into_split();
    // Either end closing closes both: what is held then is lost, as on a broken network.
    tokio::select! {
        () = copy(inner_read, outer_write, delay, seed * 2) => (),
        () = copy(outer_read, inner_write, delay, seed * 2 + 1) => (),
    }
}

/// Notices ends that are gone without a word, as those would who are joined: a proxy must not hide from them that a
/// connection is dead.
fn keep_alive(stream: &TcpStream) -> Result<()> {
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 3),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 5),
    ];
    for (level, name, value) in options {
        let value: libc::c_int = value;
        let size = libc::socklen_t::try_from(size_of_val(&value))?;
        // SAFETY: `value` lives through the call and has the size given.
        let done =
            unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), size) };
        if done != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}

/// Copies one direction until it ends.
async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: &Delay,
    seed: u64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + delay.draw(&mut rng);
            if sender.send((due, buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_pass_in_order_and_late() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let target = echo.local_addr().expect("bound");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let delay = Arc::new(Delay::default());
        delay.set(Duration::from_millis(20), Duration::from_millis(40));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, dial(target), Arc::clone(&delay)));
        tasks.spawn(async move {
            let (mut stream, _) = echo.accept().await.expect("a connection");
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let started = Instant::now();
        let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
        let mut reply = [0; 10];
        for piece in [b"01234", b"56789"] {
            stream.write_all(piece).await.expect("the proxy reads");
        }
        stream.read_exact(&mut reply).await.expect("the echo comes back");
        assert_eq!(&reply, b"0123456789");
        assert!(started.elapsed() >= Duration::from_millis(40), "there and back");
        assert!(delay.held() >= 2);
    }
}
