//! The ends of simulated connections, and [`MemberTransport`]: the network as one life of one member sees it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use kelson_raft::network::transport::{Listener, Reader, Transport, Writer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::network::{Accepted, End, Pipe, Segment, SimNetwork, WINDOW_BYTES, reset_error};

/// Pause between two attempts to reach a machine that does not answer. Source: TCP's first repetition of a SYN.
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// One half of one end: it reads or it writes.
pub(super) struct Half {
    network: SimNetwork,
    pipe: Arc<Mutex<Pipe>>,
    /// The other direction, which is told when this one finds the connection broken.
    other: Arc<Mutex<Pipe>>,
    reads: bool,
    arrival: Option<Pin<Box<Sleep>>>,
}

/// Both ends' halves: (reader, writer) of the one who asked for the connection, then of the other.
pub(super) fn halves(
    network: &SimNetwork,
    there: &Arc<Mutex<Pipe>>,
    back: &Arc<Mutex<Pipe>>,
) -> (Accepted, Accepted) {
    let half = |pipe: &Arc<Mutex<Pipe>>, other: &Arc<Mutex<Pipe>>, reads| Half {
        network: network.clone(),
        pipe: pipe.clone(),
        other: other.clone(),
        reads,
        arrival: None,
    };
    (
        (half(back, there, true), half(there, back, false)),
        (half(there, back, true), half(back, there, false)),
    )
}

impl Half {
    fn break_both(&self, pipe: &mut Pipe) {
        pipe.break_now();
        self.other.lock().break_now();
    }
}

impl AsyncRead for Half {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut pipe = this.pipe.lock();
        loop {
            if pipe.broken {
                return Poll::Ready(Err(reset_error()));
            }
            let Some((Some(arrival), _)) = pipe.segments.front() else {
                pipe.reader = Some(context.waker().clone());
                return Poll::Pending;
            };
            let arrival = *arrival;
            if arrival > Instant::now() {
                let sleep = this
                    .arrival
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(arrival)));
                if sleep.deadline() != arrival {
                    sleep.as_mut().reset(arrival);
                }
                if sleep.as_mut().poll(context).is_pending() {
                    pipe.reader = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
            match pipe.segments.pop_front() {
                Some((_, Segment::Data(mut data))) => {
                    let length = this.network.piece(data.len().min(buffer.remaining()));
                    buffer.put_slice(&data.split_to(length));
                    pipe.bytes -= length;
                    if !data.is_empty() {
                        pipe.segments.push_front((Some(arrival), Segment::Data(data)));
                    }
                    if let Some(writer) = pipe.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((_, Segment::End)) => {
                    // Every later read finds the end again.
                    pipe.segments.push_front((Some(arrival), Segment::End));
                    return Poll::Ready(Ok(()));
                }
                None => {}
            }
        }
    }
}

impl AsyncWrite for Half {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let network = &self.network;
        let mut pipe = self.pipe.lock();
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !network.lives(pipe.from) {
            // A dead machine says nothing; its tasks are about to go.
            return Poll::Ready(Ok(data.len()));
        }
        let reachable = !network.is_cut(pipe.from.member, pipe.to.member)
            && !network.is_cut(pipe.to.member, pipe.from.member)
            && network.is_powered(pipe.to.member);
        if reachable && (pipe.abandoned || !network.lives(pipe.to)) {
            // The other machine knows nothing of this connection, and says so.
            self.break_both(&mut pipe);
            return Poll::Ready(Err(reset_error()));
        }
        let room = WINDOW_BYTES.saturating_sub(pipe.bytes);
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = room.min(data.len());
        network.send(&mut pipe, Segment::Data(Bytes::copy_from_slice(&data[..length])));
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        if self.reads {
            pipe.abandoned = true;
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
        } else if !pipe.broken && self.network.lives(pipe.from) {
            self.network.send(&mut pipe, Segment::End);
        }
    }
}

/// See the module.
pub struct MemberTransport {
    network: SimNetwork,
    me: End,
}

impl MemberTransport {
    /// The network for that life of `member`.
    pub fn new(network: SimNetwork, member: u64, life: u64) -> Self {
        Self {
            network,
            me: End { member, life },
        }
    }

    async fn dial(&self, url: &str) -> io::Result<Accepted> {
        let to = member_of(url).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let network = &self.network;
        loop {
            let lost = network.is_cut(self.me.member, to) || network.is_cut(to, self.me.member);
            if !lost && network.is_powered(to) {
                break;
            }
            tokio::time::sleep(SYN_AGAIN).await;
        }
        let there_and_back = network.delay(self.me.member, to) + network.delay(to, self.me.member);
        tokio::time::sleep(there_and_back).await;
        let (life, listener) = {
            let net = network.net.lock();
            let host = net.hosts.get(&to);
            let listener = host.and_then(|host| host.listener.clone());
            (host.map_or(0, |host| host.life), listener)
        };
        let listener = listener.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (mine, theirs) = network.connection(self.me, End { member: to, life });
        listener
            .send(theirs)
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(mine)
    }
}

/// The URL of a simulated member.
pub fn url_of(member: u64) -> String {
    format!("http://member{member}:2380")
}

fn member_of(url: &str) -> Option<u64> {
    url.strip_prefix("http://member")?
        .strip_suffix(":2380")?
        .parse()
        .ok()
}

fn boxed(halves: Accepted) -> (Reader, Writer) {
    (Box::new(halves.0), Box::new(halves.1))
}

impl Transport for MemberTransport {
    fn connect<'a>(&'a self, url: &'a str) -> BoxFuture<'a, io::Result<(Reader, Writer)>> {
        Box::pin(async move { self.dial(url).await.map(boxed) })
    }

    fn listen<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        let (sender, queue) = mpsc::unbounded_channel();
        if self.network.lives(self.me) {
            let mut net = self.network.net.lock();
            net.hosts.entry(self.me.member).or_default().listener = Some(sender);
        }
        Box::pin(async move { Ok(Box::new(Accepting { queue }) as Box<dyn Listener>) })
    }
}

struct Accepting {
    queue: mpsc::UnboundedReceiver<Accepted>,
}

impl Listener for Accepting {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Reader, Writer)>> {
        Box::pin(async move {
            match self.queue.recv().await {
                Some(halves) => Ok(boxed(halves)),
                // The member's machine is gone; its tasks are about to follow.
                None => std::future::pending().await,
            }
        })
    }
}
