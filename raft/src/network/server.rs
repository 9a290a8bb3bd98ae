//! What peers ask of this member: one task per connection. Nothing reaches openraft before the hello has been checked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use kelson_proto::peer;
use kelson_storage::disk::Disk;
use kelson_storage::fail_point;
use kelson_storage::mutant;
use kelson_storage::snapshot::{ImageReader, temporary_beside};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteResponse,
};
use openraft::storage::Snapshot;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::frame::{Frame, FrameReader, FrameWriter, Kind, PROTOCOL_VERSION, Purpose};
use super::incoming::{append_request, proposals, vote_of_another, vote_request};
use super::link::Identity;
use super::transport::{Listener, Reader, Writer};
use crate::agreement::StateHashes;
use crate::campaign::LeaderSigns;
use crate::codec::{decode_membership, invalid, log_id_message, log_id_of, vote_message, vote_of};
use crate::executor::{Executor, Tasks};
use crate::meters::{PeerMeters, UnderWay};
use crate::node::{LeaderServiceSlot, Raft};
use crate::propose::Sequencer;
use crate::read_index::{LeaderReads, index_by_word};
use crate::state_machine::SnapshotData;
use crate::type_config::{SnapshotMeta, StoredMembership, TypeConfig, Vote};

/// Appends handed to openraft and not yet answered; more than a client keeps in flight, so that this side never
/// blocks on its own queue.
const APPEND_QUEUE: usize = 64;

/// Everything a connection may need.
pub(crate) struct PeerService {
    pub(crate) identity: Arc<Identity>,
    pub(crate) raft: Raft,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) reads: Arc<LeaderReads>,
    pub(crate) leader_service: LeaderServiceSlot,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) executor: Executor,
    /// Where received images are put together.
    pub(crate) snapshot_directory: PathBuf,
    /// What is heard of the leader.
    pub(crate) signs: Arc<LeaderSigns>,
    /// What this member's state was at its newest positions.
    pub(crate) hashes: Arc<StateHashes>,
}

impl PeerService {
    /// Accepts connections for as long as the node lives.
    pub(crate) async fn listen(self: Arc<Self>, mut listener: Box<dyn Listener>, tasks: Tasks) {
        loop {
            match listener.accept().await {
                Ok((reader, writer)) => {
                    let service = self.clone();
                    tasks.spawn(async move {
                        if let Err(error) = service.serve(reader, writer).await {
                            tracing::debug!(%error, "peer connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, reader: Reader, writer: Writer) -> io::Result<()> {
        let mut reader = FrameReader::new(reader);
        let mut writer = FrameWriter::new(writer);
        let hello = tokio::time::timeout(self.identity.connect_timeout, reader.require())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no hello in time"))??;
        let hello: peer::Hello = hello.expect(Kind::Hello)?;
        let refusal = self.refusal(&hello);
        let answer = peer::Hello {
            cluster_id: self.identity.cluster_id,
            from: self.identity.id,
            to: hello.from,
            version: PROTOCOL_VERSION,
            purpose: hello.purpose,
            refusal: refusal.clone().unwrap_or_default(),
        };
        writer.put(Kind::Hello, &answer);
        writer.flush().await?;
        if let Some(refusal) = refusal {
            kelson_storage::reached!("peer_refused");
            tracing::warn!(from = format!("{:x}", hello.from), refusal, "refused a peer");
            return Ok(());
        }
        let peer = self.meters_of(hello.from);
        reader.count_for(peer.clone());
        writer.count_for(peer.clone());
        match Purpose::of(hello.purpose) {
            Some(Purpose::Append | Purpose::Heartbeat) => {
                let ended = self.serve_raft(reader, writer).await;
                self.signs.connection_lost(hello.from);
                ended
            }
            Some(Purpose::Snapshot) => self.serve_snapshots(reader, writer, &peer).await,
            Some(Purpose::Forward) => self.serve_forward(hello.from, reader, writer).await,
            Some(Purpose::Agreement) => self.serve_agreement(reader, writer).await,
            None => Err(invalid(format!(
                "connection for unknown purpose {}",
                hello.purpose
            ))),
        }
    }

    /// Members alone are remembered: whoever knows the cluster's id can say hello under any number of names.
    fn meters_of(&self, id: u64) -> Arc<PeerMeters> {
        let metrics = self.raft.server_metrics();
        let is_member = metrics
            .borrow_watched()
            .membership_config
            .membership()
            .get_node(&id)
            .is_some();
        if is_member {
            self.identity.meters.peer(id)
        } else {
            Arc::default()
        }
    }

    fn refusal(&self, hello: &peer::Hello) -> Option<String> {
        if hello.cluster_id != self.identity.cluster_id {
            Some("cluster ID mismatch".to_owned())
        } else if hello.to != self.identity.id {
            Some("member ID mismatch".to_owned())
        } else if hello.version != PROTOCOL_VERSION {
            Some(format!(
                "protocol version {} is not {PROTOCOL_VERSION}",
                hello.version
            ))
        } else {
            None
        }
    }

    /// Appends go through openraft's pipeline; the rest is answered one by one.
    async fn serve_raft(&self, mut reader: FrameReader, mut writer: FrameWriter) -> io::Result<()> {
        let (requests, replies) = self.append_pipeline();
        let mut replies = std::pin::pin!(replies);
        loop {
            tokio::select! {
                biased;
                reply = replies.next() => {
                    // One sync answers many appends: their replies share a write. The stream ends after a refusal, which must
                    // be sent all the same.
                    let mut next = Some(reply);
                    let mut ended = false;
                    while let Some(reply) = next {
                        let Some(reply) = reply else {
                            ended = true;
                            break;
                        };
                        let result = reply.map_err(|fatal| io::Error::other(fatal.to_string()))?;
                        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                            self.signs.heard_now();
                        }
                        fail_point!("raftBeforeFollowerSend");
                        writer.put(Kind::AppendReply, &append_reply(&result));
                        next = replies.next().now_or_never();
                    }
                    writer.flush().await?;
                    if ended {
                        return Ok(());
                    }
                }
                frame = reader.next() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    match frame.kind {
                        Kind::Append => {
                            if requests.send(append_request(frame, self.identity.id)?).await.is_err() {
                                return Ok(());
                            }
                        }
                        _ => self.answer_vote(frame, &mut writer).await?,
                    }
                }
            }
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "a stream type cannot be named; two halves of one pipe"
    )]
    fn append_pipeline(
        &self,
    ) -> (
        mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
        impl Stream<Item = Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>>,
    ) {
        let (requests, mut queue) = mpsc::channel(APPEND_QUEUE);
        let input = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        (requests, self.raft.stream_append(input))
    }

    async fn answer_vote(&self, frame: Frame, writer: &mut FrameWriter) -> io::Result<()> {
        match frame.kind {
            Kind::Vote => {
                let reply = self.raft.vote(vote_request(frame, self.identity.id)?).await;
                writer.put(Kind::VoteReply, &vote_reply(&fatal_only(reply)?));
            }
            Kind::PreVote => {
                let reply = self.raft.pre_vote(vote_request(frame, self.identity.id)?).await;
                writer.put(Kind::VoteReply, &vote_reply(&fatal_only(reply)?));
            }
            Kind::Transfer => {
                let message: peer::TransferRequest = frame.message()?;
                let request = TransferLeaderRequest::new(
                    vote_of(message.from.as_ref())?,
                    message.to,
                    message.last.as_ref().map(log_id_of),
                );
                let reply = self.raft.handle_transfer_leader(request).await;
                writer.put(
                    Kind::TransferReply,
                    &transfer_reply(reply.map_err(|f| io::Error::other(f.to_string()))?),
                );
            }
            kind => return Err(invalid(format!("{kind:?} frame on a replication connection"))),
        }
        writer.flush().await
    }

    async fn serve_agreement(&self, mut reader: FrameReader, mut writer: FrameWriter) -> io::Result<()> {
        while let Some(frame) = reader.next().await? {
            let question: peer::StateHashRequest = frame.expect(Kind::StateHash)?;
            writer.put(Kind::StateHashReply, &self.hashes.answer(&question));
            writer.flush().await?;
        }
        Ok(())
    }

    async fn serve_snapshots(
        &self,
        mut reader: FrameReader,
        mut writer: FrameWriter,
        peer: &PeerMeters,
    ) -> io::Result<()> {
        while let Some(frame) = reader.next().await? {
            let _arriving = UnderWay::new(&peer.snapshots_arriving);
            let began = Instant::now();
            let begin: peer::SnapshotBegin = frame.expect(Kind::SnapshotBegin)?;
            let reply = match self.receive_audibly(&begin, &mut reader, &mut writer).await {
                Ok(vote) => {
                    peer.snapshots_received.observe(began.elapsed());
                    peer::SnapshotReply {
                        vote: Some(vote),
                        error: String::new(),
                    }
                }
                Err(error) => {
                    peer.snapshot_receive_failures.add(1);
                    tracing::warn!(%error, "snapshot from the leader was not installed");
                    peer::SnapshotReply {
                        vote: None,
                        error: error.to_string(),
                    }
                }
            };
            let failed = !reply.error.is_empty();
            writer.put(Kind::SnapshotReply, &reply);
            writer.flush().await?;
            if failed {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Receives an image, and says in between that it is at it: else the sender gives up.
    async fn receive_audibly(
        &self,
        begin: &peer::SnapshotBegin,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> io::Result<peer::Vote> {
        let mut receiving = std::pin::pin!(self.receive_image(begin, reader));
        let mut ticks = tokio::time::interval(self.identity.dial_timeout);
        let mut is_heard = true;
        loop {
            tokio::select! {
                biased;
                received = &mut receiving => return received,
                _ = ticks.tick(), if is_heard => {
                    writer.put_bytes(Kind::SnapshotProgress, b"");
                    // What has come in whole is installed all the same.
                    is_heard = writer.flush_within(self.identity.reply_timeout).await.is_ok();
                }
            }
        }
    }

    async fn receive_image(
        &self,
        begin: &peer::SnapshotBegin,
        reader: &mut FrameReader,
    ) -> io::Result<peer::Vote> {
        let vote = vote_of_another(begin.vote.as_ref(), self.identity.id)?;
        let membership = decode_membership(begin.membership.clone())?;
        let meta = SnapshotMeta {
            last_log_id: begin.last.as_ref().map(log_id_of),
            last_membership: StoredMembership::new(begin.membership_at.as_ref().map(log_id_of), membership),
        };
        let path = image_path(&*self.disk, &self.snapshot_directory);
        let installed = self.install_image(vote, meta, &path, reader).await;
        if self.disk.exists(&path) {
            // It broke off, or openraft did not want it: it came from a leader of the past, or too late.
            self.disk.remove(&path)?;
        }
        installed
    }

    async fn install_image(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        path: &Path,
        reader: &mut FrameReader,
    ) -> io::Result<peer::Vote> {
        let (disk, target) = (self.disk.clone(), path.to_owned());
        let began = Instant::now();
        let mut image = self
            .executor
            .blocking(move || ImageReader::create(disk, &target))
            .await?;
        loop {
            let frame = tokio::time::timeout(self.identity.reply_timeout, reader.require())
                .await
                .map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, "the sender of a snapshot is silent")
                })??;
            match frame.kind {
                Kind::SnapshotData => {
                    let fed = self.executor.blocking(move || {
                        image.feed(frame.body)?;
                        Ok(image)
                    });
                    image = fed.await?;
                }
                Kind::SnapshotEnd => break,
                kind => return Err(invalid(format!("{kind:?} frame inside a snapshot"))),
            }
        }
        let finishing = Instant::now();
        self.executor.blocking(move || image.finish()).await?;
        self.identity.meters.database_fsync.observe(finishing.elapsed());
        self.identity.meters.database_save.observe(began.elapsed());
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotData::Received(path.to_owned()),
        };
        let reply = self
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|fatal| io::Error::other(fatal.to_string()))?;
        Ok(vote_message(&reply.vote))
    }

    /// Commands need no reply: their origin hears from its own apply. Barriers and questions are answered as they
    /// are decided.
    async fn serve_forward(
        &self,
        peer: u64,
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) -> io::Result<()> {
        let mut barriers = FuturesUnordered::new();
        let mut questions = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(reply) = barriers.next() => {
                    writer.put(Kind::ReadIndexReply, &reply);
                    writer.flush().await?;
                }
                Some(reply) = questions.next() => {
                    writer.put(Kind::LeaderReply, &reply);
                    writer.flush().await?;
                }
                frame = reader.next() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    match frame.kind {
                        Kind::Forward => {
                            self.sequencer.push(proposals(frame)?);
                        }
                        Kind::ReadIndex => {
                            let message: peer::ReadIndexRequest = frame.message()?;
                            let word = message.vote.as_ref().map(|vote| vote_of(Some(vote))).transpose()?;
                            barriers.push(self.confirm(peer, message.token, word));
                        }
                        Kind::LeaderRequest => {
                            let message: peer::LeaderRequest = frame.message()?;
                            questions.push(question_reply(self.raft.is_leader(), self.leader_service.clone(), message));
                        }
                        kind => return Err(invalid(format!("{kind:?} frame on a forwarding connection"))),
                    }
                }
            }
        }
    }

    /// Confirms the reads of one round of a peer: by the vote that it had when they had arrived, or by a round of this
    /// member's own.
    async fn confirm(&self, peer: u64, token: u64, word: Option<Vote>) -> peer::ReadIndexReply {
        let known = match word {
            Some(word) => index_by_word(&self.raft, peer, word).await,
            None => None,
        };
        let index = match known {
            Some(index) => Some(Some(index)),
            None => self.reads.confirm().await,
        };
        peer::ReadIndexReply {
            token,
            confirmed: index.is_some(),
            index: index.flatten().as_ref().map(log_id_message),
        }
    }
}

/// Where the next received image is put together: a file that no other transfer uses, under a name of which the next start
/// knows that nothing under it counts.
fn image_path(disk: &dyn Disk, directory: &Path) -> PathBuf {
    let target = directory.join("received");
    if mutant!("M44") {
        // Two transfers at the same time write into one file.
        return target;
    }
    temporary_beside(disk, &target)
}

async fn question_reply(
    is_leader: bool,
    service: LeaderServiceSlot,
    message: peer::LeaderRequest,
) -> peer::LeaderReply {
    let token = message.token;
    let service = service.lock().clone();
    let (true, Some(service)) = (is_leader, service) else {
        return peer::LeaderReply {
            token,
            not_leader: true,
            ..peer::LeaderReply::default()
        };
    };
    match service.answer(message.body).await {
        Ok(body) => peer::LeaderReply {
            token,
            body,
            ..peer::LeaderReply::default()
        },
        Err(refusal) => peer::LeaderReply {
            token,
            refusal,
            ..peer::LeaderReply::default()
        },
    }
}

fn append_reply(result: &StreamAppendResult<TypeConfig>) -> peer::AppendReply {
    use peer::append_reply::Outcome;
    let outcome = match result {
        Ok(matching) => Outcome::Accepted(peer::Accepted {
            matching: matching.as_ref().map(log_id_message),
        }),
        Err(StreamAppendError::Conflict(id)) => Outcome::Conflict(log_id_message(id)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_message(vote)),
    };
    peer::AppendReply {
        outcome: Some(outcome),
    }
}

fn vote_reply(reply: &VoteResponse<TypeConfig>) -> peer::VoteReply {
    peer::VoteReply {
        vote: Some(vote_message(&reply.vote)),
        last: reply.last_log_id.as_ref().map(log_id_message),
        granted: reply.vote_granted,
    }
}

fn transfer_reply(reply: Result<(), TransferLeaderError<TypeConfig>>) -> peer::TransferReply {
    match reply {
        Ok(()) => peer::TransferReply {
            accepted: true,
            ..peer::TransferReply::default()
        },
        Err(TransferLeaderError::VoteChanged { expected, actual }) => peer::TransferReply {
            expected_vote: Some(vote_message(&expected)),
            actual_vote: Some(vote_message(&actual)),
            ..peer::TransferReply::default()
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => peer::TransferReply {
            expected_last: expected.as_ref().map(log_id_message),
            actual_last: actual.as_ref().map(log_id_message),
            ..peer::TransferReply::default()
        },
    }
}

fn fatal_only<T>(reply: Result<T, RaftError<TypeConfig>>) -> io::Result<T> {
    reply.map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use kelson_storage::snapshot::remove_leftovers;
    use kelson_storage::testing::FaultyDisk;

    use super::*;

    /// A member killed in the middle of a transfer once kept the file for good: its name was not one that a start removes.
    #[test]
    fn transfers_at_the_same_time_write_into_files_of_their_own_which_the_next_start_removes() {
        let (disk, directory) = (FaultyDisk::new(), Path::new("/snap"));
        disk.create_directory(directory).unwrap();
        let paths = [(); 2].map(|()| image_path(&disk, directory));
        assert_ne!(paths[0], paths[1]);
        for path in &paths {
            disk.open(path, true).unwrap();
        }
        remove_leftovers(&disk, directory).unwrap();
        assert!(disk.list(directory).unwrap().is_empty());
    }
}
