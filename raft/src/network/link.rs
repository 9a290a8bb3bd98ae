//! [`Link`]: a connection to one peer that has said hello.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kelson_proto::peer;
use prost::Message;

use super::frame::{FrameReader, FrameWriter, Kind, PROTOCOL_VERSION, Purpose};
use super::transport::Transport;
#[cfg(test)]
use super::transport::{Reader, Writer};
use crate::codec::invalid;
use crate::meters::{Meters, OpenLink};

/// Who this member is to its peers, and how it reaches them.
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) id: u64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) meters: Arc<Meters>,
    /// Bound on making a connection. Short: on a dead link the system asks again after 1, 3, 7 seconds, so it is the
    /// next attempt, not this one, that finds the link alive again.
    pub(crate) dial_timeout: Duration,
    /// Bound on making a connection and the hello on it.
    pub(crate) connect_timeout: Duration,
    /// Bound on waiting for any reply.
    pub(crate) reply_timeout: Duration,
}

/// See the module.
pub(crate) struct Link {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    /// Counts it among the connections to the peer.
    open: Option<OpenLink>,
}

impl Link {
    /// Dials the first of `urls` that answers as `target`.
    pub(crate) async fn connect(
        identity: &Identity,
        target: u64,
        urls: &[String],
        purpose: Purpose,
    ) -> io::Result<Self> {
        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            format!("member {target:x} has no peer URL"),
        );
        for url in urls {
            match tokio::time::timeout(
                identity.connect_timeout,
                Self::dial(identity, target, url, purpose),
            )
            .await
            {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = error,
                Err(_) => {
                    last = io::Error::new(io::ErrorKind::TimedOut, format!("{url} did not answer in time"))
                }
            }
        }
        let peer = identity.meters.peer(target);
        peer.send_failures.add(1);
        if purpose == Purpose::Heartbeat {
            peer.heartbeat_failures.add(1);
        }
        Err(last)
    }

    async fn dial(identity: &Identity, target: u64, url: &str, purpose: Purpose) -> io::Result<Self> {
        let (reader, writer) = tokio::time::timeout(identity.dial_timeout, identity.transport.connect(url))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{url} cannot be reached")))??;
        let peer = identity.meters.peer(target);
        let mut reader = FrameReader::new(reader);
        let mut writer = FrameWriter::new(writer);
        reader.count_for(peer.clone());
        writer.count_for(peer.clone());
        let hello = peer::Hello {
            cluster_id: identity.cluster_id,
            from: identity.id,
            to: target,
            version: PROTOCOL_VERSION,
            purpose: purpose as u32,
            refusal: String::new(),
        };
        writer.put(Kind::Hello, &hello);
        writer.flush().await?;
        let answer: peer::Hello = reader.require().await?.expect(Kind::Hello)?;
        if !answer.refusal.is_empty() {
            return Err(invalid(format!("{url} refused: {}", answer.refusal)));
        }
        if answer.from != target {
            return Err(invalid(format!(
                "{url} is member {:x}, not {target:x}",
                answer.from
            )));
        }
        Ok(Self {
            reader,
            writer,
            open: Some(OpenLink::new(peer)),
        })
    }

    /// Over these two halves, without a hello.
    #[cfg(test)]
    pub(crate) fn bare(reader: Reader, writer: Writer) -> Self {
        Self {
            reader: FrameReader::new(reader),
            writer: FrameWriter::new(writer),
            open: None,
        }
    }

    /// Counts it no more among the connections to the peer: nobody listens on it, and would hear if it broke.
    pub(crate) fn count_no_more(&mut self) {
        self.open = None;
    }

    /// Sends one message and waits for the reply.
    pub(crate) async fn call<M: Message + Default>(
        &mut self,
        kind: Kind,
        message: &impl Message,
        reply: Kind,
        timeout: Duration,
    ) -> io::Result<M> {
        self.writer.put(kind, message);
        let exchange = async {
            self.writer.flush().await?;
            self.reader.require().await?.expect(reply)
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no reply in time")))
    }
}
