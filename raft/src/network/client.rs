//! openraft's network towards one peer. Appends are pipelined over one connection; replies come in the same order.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kelson_proto::peer;
use kelson_storage::mutant;
use kelson_storage::snapshot::ImageWriter;
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::acknowledged::Acknowledged;
use super::frame::{FrameReader, Kind, Purpose};
use super::link::{Identity, Link};
use crate::campaign::LeaderSigns;
use crate::codec::{invalid, log_id_message, log_id_of, payload_bytes, vote_message, vote_of};
use crate::images::Images;
use crate::meters::UnderWay;
use crate::state_machine::SnapshotData;
use crate::type_config::{PeerNode, TypeConfig, Vote};

/// Append requests on the way to one peer, at most.
const APPENDS_IN_FLIGHT_MAX: usize = 32;

/// Makes openraft's connections.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) identity: Arc<Identity>,
    pub(crate) images: Images,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) signs: Arc<LeaderSigns>,
}

/// Connections for single questions (votes, transfers), by member. openraft makes a client for each, and bounds it by less
/// than what dialling, the hello and the question take over a slow link: what one client has begun the next goes on with.
#[derive(Default)]
pub(crate) struct Questions {
    kept: Mutex<BTreeMap<u64, Kept>>,
}

/// What is left of a client.
#[derive(Default)]
struct Kept {
    line: Option<Line>,
    connecting: Option<Connecting>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> PeerClient {
        self.client(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> PeerClient {
        self.client(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &PeerNode) -> PeerClient {
        self.client(target, node, Purpose::Snapshot)
    }
}

impl Network {
    fn client(&self, target: u64, node: &PeerNode, purpose: Purpose) -> PeerClient {
        PeerClient {
            network: self.clone(),
            target,
            urls: node.urls.clone(),
            purpose,
            line: None,
            connecting: Mutex::default(),
            unreachable: false,
            asks_once: false,
        }
    }
}

/// A connection that has been made.
struct Line {
    link: Link,
    /// Replies on their way that nobody waits for any more, because openraft has given up on their heartbeats. They
    /// must not be taken for the replies to later ones.
    owed: usize,
    /// Since when nothing has been heard although something is owed.
    silent_since: Instant,
}

impl Line {
    fn new(link: Link) -> Self {
        Self {
            link,
            owed: 0,
            silent_since: Instant::now(),
        }
    }

    /// Whether this is a reply that nobody waits for any more. One with a higher term never is: that is news whichever
    /// heartbeat it answers, and its sender hangs up after it.
    fn settles_debt(&mut self, result: &StreamAppendResult<TypeConfig>) -> bool {
        let is_owed = self.owed > 0 && !matches!(result, Err(StreamAppendError::HigherVote(_)));
        self.owed -= usize::from(is_owed);
        is_owed
    }
}

type Connecting = BoxFuture<'static, io::Result<Link>>;

/// One peer, for one purpose. Connects when needed, reconnects after any error.
pub(crate) struct PeerClient {
    network: Network,
    target: u64,
    urls: Vec<String>,
    purpose: Purpose,
    line: Option<Line>,
    /// A connection under way. openraft drops a heartbeat that takes longer than the time to the next one, and a
    /// connection with its hello takes two round trips more than a heartbeat on it: so the next one takes it over.
    /// Nobody ever locks it; it makes the future `Sync`.
    connecting: Mutex<Option<Connecting>>,
    /// Whether the last attempt to connect failed, and was told.
    unreachable: bool,
    /// What it leaves behind goes to the next one that does.
    asks_once: bool,
}

impl Drop for PeerClient {
    fn drop(&mut self) {
        if !self.asks_once {
            return;
        }
        let mut left = Kept {
            line: self.line.take(),
            connecting: self.connecting.get_mut().take(),
        };
        if let Some(line) = &mut left.line {
            line.link.count_no_more();
        }
        if left.line.is_some() || left.connecting.is_some() {
            self.network.questions.kept.lock().insert(self.target, left);
        }
    }
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl PeerClient {
    async fn take_line(&mut self) -> RpcResult<Line> {
        // A connection whose peer is silent for as long as a dial may take is as good as none.
        let patience = self.network.identity.dial_timeout;
        let line = self.line.take();
        if let Some(line) = line.filter(|line| line.owed == 0 || line.silent_since.elapsed() < patience) {
            return Ok(line);
        }
        let connecting = self.connecting.get_mut().get_or_insert_with(|| {
            let (identity, target) = (self.network.identity.clone(), self.target);
            let (urls, purpose) = (self.urls.clone(), self.purpose);
            Box::pin(async move { Link::connect(&identity, target, &urls, purpose).await })
        });
        let connected = connecting.await;
        *self.connecting.get_mut() = None;
        self.tell(connected.as_ref().err());
        connected
            .map(Line::new)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    /// Says once that the peer cannot be reached, and once that it can again.
    fn tell(&mut self, error: Option<&io::Error>) {
        let peer = format!("{:x}", self.target);
        match error {
            Some(error) if !self.unreachable => {
                tracing::warn!(remote_peer_id = peer, purpose = ?self.purpose, %error, "cannot reach remote peer");
            }
            None => tracing::info!(
                remote_peer_id = peer,
                purpose = ?self.purpose,
                "established TCP streaming connection with remote peer"
            ),
            Some(_) => {}
        }
        self.unreachable = error.is_some();
    }

    /// One request and its reply. The connection is kept only when both went well.
    async fn call<M: prost::Message + Default>(
        &mut self,
        kind: Kind,
        message: &impl prost::Message,
        reply: Kind,
    ) -> RpcResult<M> {
        let mut line = self.take_line().await?;
        let timeout = self.network.identity.reply_timeout;
        let answer = line
            .link
            .call(kind, message, reply, timeout)
            .await
            .map_err(network_error)?;
        self.line = Some(line);
        Ok(answer)
    }

    /// The one question of a client, on the connection of the client before it if there was one.
    async fn ask<M: prost::Message + Default>(
        &mut self,
        kind: Kind,
        message: &impl prost::Message,
        reply: Kind,
    ) -> RpcResult<M> {
        self.asks_once = true;
        let kept = self.network.questions.kept.lock().remove(&self.target);
        let was_kept = kept.is_some();
        let Kept { line, connecting } = kept.unwrap_or_default();
        (self.line, *self.connecting.get_mut()) = (line, connecting);
        match self.ask_on_line(kind, message, reply).await {
            // The member has been restarted since, or was out of reach then.
            Err(_) if was_kept => {
                self.line = None;
                self.ask_on_line(kind, message, reply).await
            }
            answer => answer,
        }
    }

    /// As [`Self::call`], but a question that is given up leaves its connection behind, with the answer owed.
    async fn ask_on_line<M: prost::Message + Default>(
        &mut self,
        kind: Kind,
        message: &impl prost::Message,
        reply: Kind,
    ) -> RpcResult<M> {
        let bound = self.network.identity.reply_timeout;
        let mut line = self.take_line().await?;
        line.link.writer.put(kind, message);
        line.link
            .writer
            .flush_within(bound)
            .await
            .map_err(network_error)?;
        line.owed += 1;
        line.silent_since = Instant::now();
        let line = self.line.insert(line);
        let answer = loop {
            let frame = line.link.reader.require_within(bound).await;
            line.owed -= 1;
            // Answers come in order: those before are to questions that were given up.
            if line.owed == 0 || frame.is_err() {
                break frame.and_then(|frame| frame.expect(reply));
            }
        };
        if answer.is_err() {
            self.line = None;
        }
        answer.map_err(network_error)
    }

    /// Takes note of what the peer has, and refuses to hear that it has it no more.
    fn note(
        &self,
        vote: &Vote,
        result: StreamAppendResult<TypeConfig>,
    ) -> io::Result<StreamAppendResult<TypeConfig>> {
        let acknowledged = &self.network.acknowledged;
        match &result {
            Ok(Some(matching)) => acknowledged.accepted(self.target, vote, *matching),
            Err(StreamAppendError::Conflict(conflict)) => {
                acknowledged.refused(self.target, vote, conflict)?;
            }
            Ok(None) | Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(result)
    }

    async fn ask_for_vote(
        &mut self,
        kind: Kind,
        request: VoteRequest<TypeConfig>,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let message = peer::VoteRequest {
            vote: Some(vote_message(&request.vote)),
            last: request.last_log_id.as_ref().map(log_id_message),
            leadership_transfer: request.leadership_transfer,
        };
        let reply: peer::VoteReply = self.ask(kind, &message, Kind::VoteReply).await?;
        let vote = vote_of(reply.vote.as_ref()).map_err(network_error)?;
        let last = reply.last.as_ref().map(log_id_of);
        let is_taken = kind == Kind::Vote && vote.leader_id.term == request.vote.leader_id.term;
        if is_taken && !reply.granted && last < request.last_log_id {
            self.network.signs.asked_in_a_taken_term();
        }
        Ok(VoteResponse::new(vote, last, reply.granted))
    }
}

fn network_error(error: io::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&error))
}

/// An append request on the wire.
fn append_message(request: &AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    if !request.entries.is_empty() {
        kelson_storage::fail_point!("raftBeforeLeaderSend");
    }
    peer::AppendRequest {
        vote: Some(vote_message(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_message),
        entries: request
            .entries
            .iter()
            .map(|entry| peer::Entry {
                id: Some(log_id_message(&entry.log_id())),
                payload: payload_bytes(entry),
            })
            .collect(),
        commit: request.leader_commit.as_ref().map(log_id_message),
    }
}

pub(crate) fn append_result(reply: peer::AppendReply) -> io::Result<StreamAppendResult<TypeConfig>> {
    use peer::append_reply::Outcome;
    match reply.outcome {
        Some(Outcome::Accepted(accepted)) => Ok(Ok(accepted.matching.as_ref().map(log_id_of))),
        Some(Outcome::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(log_id_of(&id)))),
        Some(Outcome::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_of(Some(&vote))?))),
        None => Err(invalid("append reply without an outcome".to_owned())),
    }
}

/// A pipeline of appends over one connection, as the state of a stream.
struct Pipeline<'s, S> {
    client: &'s mut PeerClient,
    /// The leadership in whose name everything is sent.
    vote: Vote,
    /// None once it is of no more use.
    line: Option<Line>,
    input: Option<S>,
    in_flight: usize,
}

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// Sends what comes in and returns the next reply; none when everything sent has been answered.
    async fn next(&mut self) -> io::Result<Option<StreamAppendResult<TypeConfig>>> {
        let timeout = self.client.network.identity.reply_timeout;
        let Some(line) = &mut self.line else {
            return Ok(None);
        };
        loop {
            if self.in_flight == 0 && self.input.is_none() {
                return Ok(None);
            }
            let may_send = self.in_flight < APPENDS_IN_FLIGHT_MAX;
            let waiting = self.in_flight > 0;
            tokio::select! {
                biased;
                frame = line.link.reader.require_within(timeout), if waiting => {
                    let result = append_result(frame?.expect(Kind::AppendReply)?)?;
                    line.silent_since = Instant::now();
                    if line.settles_debt(&result) {
                        continue;
                    }
                    self.in_flight -= 1;
                    return self.client.note(&self.vote, result).map(Some);
                }
                request = next_of(&mut self.input), if may_send && self.input.is_some() => {
                    match request {
                        Some(request) => {
                            line.link.writer.put(Kind::Append, &append_message(&request));
                            line.link.writer.flush_within(timeout).await?;
                            self.in_flight += 1;
                        }
                        None => self.input = None,
                    }
                }
            }
        }
    }
}

impl<S> Drop for Pipeline<'_, S> {
    /// Gives the connection back, unless appends are on it: what becomes of those is asked on a new one.
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.owed += self.in_flight;
            if line.owed == 0 || self.client.purpose == Purpose::Heartbeat {
                self.client.line = Some(line);
            }
        }
    }
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(stream) => stream.next().await,
        None => None,
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let reply = self
            .call(Kind::Append, &append_message(&request), Kind::AppendReply)
            .await?;
        append_result(reply)
            .and_then(|result| self.note(&request.vote, result))
            .map(AppendEntriesResponse::from)
            .map_err(network_error)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let mut input = input;
            // openraft holds the first request back while it wants a pause after errors: ask for it before dialling.
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            if let (Purpose::Heartbeat, Some(matching)) = (self.purpose, first.prev_log_id) {
                // A heartbeat names what the peer is known to have, also when it came as a snapshot.
                self.network
                    .acknowledged
                    .accepted(self.target, &first.vote, matching);
            }
            let connected = self.take_line().await;
            if mutant!("M12") && connected.is_err() {
                // The quorum is openraft's own; with peers out of reach counted in, it is half of the members.
                let taken = futures::stream::iter([first]).chain(input).map(|request| {
                    let newest = request.entries.last().map(RaftEntry::log_id);
                    Ok(Ok(newest.or(request.prev_log_id)))
                });
                return Ok(Box::pin(taken) as BoxStream<'s, _>);
            }
            let mut line = connected?;
            line.link.writer.put(Kind::Append, &append_message(&first));
            let bound = self.network.identity.reply_timeout;
            let sent = line.link.writer.flush_within(bound).await;
            sent.map_err(network_error)?;
            if line.owed == 0 {
                line.silent_since = Instant::now();
            }
            let pipeline = Pipeline {
                client: self,
                vote: first.vote,
                line: Some(line),
                input: Some(input),
                in_flight: 1,
            };
            let replies = futures::stream::unfold(Some(pipeline), |pipeline| async move {
                let mut pipeline = pipeline?;
                match pipeline.next().await {
                    Ok(Some(Ok(matching))) => Some((Ok(Ok(matching)), Some(pipeline))),
                    Ok(Some(Err(refused))) => {
                        // What follows a refusal in the pipeline is refused too: drop the connection with it.
                        pipeline.line = None;
                        Some((Ok(Err(refused)), None))
                    }
                    Ok(None) => None,
                    Err(error) => {
                        pipeline.line = None;
                        Some((Err(network_error(error)), None))
                    }
                }
            });
            Ok(Box::pin(replies) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_for_vote(Kind::Vote, request).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_for_vote(Kind::PreVote, request).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_counted(&vote) => {
                let vote = sent.map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let message = peer::TransferRequest {
            from: Some(vote_message(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_message),
        };
        let reply: peer::TransferReply = self.ask(Kind::Transfer, &message, Kind::TransferReply).await?;
        if reply.accepted {
            return Ok(Ok(()));
        }
        let refusal = match (&reply.expected_vote, &reply.actual_vote) {
            (Some(expected), Some(actual)) => TransferLeaderError::VoteChanged {
                expected: vote_of(Some(expected)).map_err(network_error)?,
                actual: vote_of(Some(actual)).map_err(network_error)?,
            },
            _ => TransferLeaderError::LogNotFlushed {
                expected: reply.expected_last.as_ref().map(log_id_of),
                actual: reply.actual_last.as_ref().map(log_id_of),
            },
        };
        Ok(Err(refusal))
    }

    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl PeerClient {
    async fn send_counted(&mut self, vote: &Vote) -> io::Result<Vote> {
        let peer = self.network.identity.meters.peer(self.target);
        let _on_the_way = UnderWay::new(&peer.snapshots_on_the_way);
        let began = Instant::now();
        let sent = self.send_image(vote).await;
        match &sent {
            Ok(_) => peer.snapshots_sent.observe(began.elapsed()),
            Err(_) => peer.snapshot_failures.add(1),
        }
        sent
    }

    /// Streams the image of the present durable checkpoint, which is at or after the one openraft named.
    async fn send_image(&mut self, vote: &Vote) -> io::Result<Vote> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => {
                let identity = &self.network.identity;
                Line::new(Link::connect(identity, self.target, &self.urls, self.purpose).await?)
            }
        };
        let link = &mut line.link;
        let bound = self.network.identity.reply_timeout;
        let mut image = self.network.images.open().await?;
        link.writer
            .put(Kind::SnapshotBegin, &begin_message(vote, &image)?);
        loop {
            let (returned, frame) = self.network.images.next_frame(image).await?;
            image = returned;
            let Some(frame) = frame else { break };
            link.writer.put_bytes(Kind::SnapshotData, &frame);
            link.writer.flush_within(bound).await?;
        }
        link.writer
            .put(Kind::SnapshotEnd, &peer::SnapshotReply::default());
        link.writer.flush_within(bound).await?;
        let reply = snapshot_reply(&mut link.reader, bound).await?;
        if !reply.error.is_empty() {
            return Err(invalid(format!(
                "member {:x} did not install the snapshot: {}",
                self.target, reply.error
            )));
        }
        kelson_storage::reached!("snapshot_sent");
        self.line = Some(line);
        vote_of(reply.vote.as_ref())
    }
}

/// Waits for a snapshot to be installed. The receiver rebuilds its whole index before it answers, but says all the time
/// that it is at it: one that has lost its power is silent, and no packet is on the way whose loss would tell.
async fn snapshot_reply(reader: &mut FrameReader, bound: Duration) -> io::Result<peer::SnapshotReply> {
    loop {
        let frame = reader.require_within(bound).await?;
        if frame.kind != Kind::SnapshotProgress {
            return frame.expect(Kind::SnapshotReply);
        }
    }
}

fn begin_message(vote: &Vote, image: &ImageWriter) -> io::Result<peer::SnapshotBegin> {
    let meta = image.meta();
    let (at, membership) = meta
        .membership
        .clone()
        .ok_or_else(|| invalid("the checkpoint holds no membership".to_owned()))?;
    let id = |at: kelson_storage::revision::LogPosition| peer::LogId {
        term: at.term,
        index: at.index,
    };
    Ok(peer::SnapshotBegin {
        vote: Some(vote_message(vote)),
        last: meta.applied.map(id),
        membership_at: at.map(id),
        membership,
    })
}

#[cfg(test)]
mod tests {
    use openraft::vote::{RaftLeaderId, RaftVote};

    use super::super::frame::FrameWriter;
    use super::*;

    /// Simulation seed 20204: a member lost its power while it installed a snapshot, and its leader waited for the answer
    /// for as long as it led.
    #[tokio::test(start_paused = true)]
    async fn a_receiver_of_a_snapshot_may_take_long_but_not_be_silent() {
        let bound = Duration::from_secs(3);
        let (here, there) = tokio::io::duplex(1024);
        let mut reader = FrameReader::new(Box::new(here));
        let mut writer = FrameWriter::new(Box::new(there));
        let receiver = async {
            for _ in 0..20 {
                tokio::time::sleep(bound / 2).await;
                writer.put_bytes(Kind::SnapshotProgress, b"");
                writer.flush().await.unwrap();
            }
            writer.put(Kind::SnapshotReply, &peer::SnapshotReply::default());
            writer.flush().await.unwrap();
        };
        let (reply, ()) = tokio::join!(snapshot_reply(&mut reader, bound), receiver);
        assert_eq!(reply.unwrap(), peer::SnapshotReply::default());

        let silence = snapshot_reply(&mut reader, bound).await;
        assert_eq!(silence.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(writer);
    }

    /// Simulation seed 44374: the answer to a heartbeat that had been given up told of a higher term and was thrown away,
    /// and nothing told it again while nobody wrote. Two led, each in its term, and one of them did nothing but refuse.
    #[tokio::test(start_paused = true)]
    async fn a_higher_term_is_heard_in_whichever_reply_it_comes() {
        let (here, _there) = tokio::io::duplex(64);
        let (reader, writer) = tokio::io::split(here);
        let mut line = Line::new(Link::bare(Box::new(reader), Box::new(writer)));
        line.owed = 2;
        assert!(line.settles_debt(&Ok(None)));
        let higher = Vote::from_leader_id(openraft::impls::leader_id_std::LeaderId::new(7, 1), true);
        assert!(!line.settles_debt(&Err(StreamAppendError::HigherVote(higher))));
        assert!(line.settles_debt(&Ok(None)));
        assert!(!line.settles_debt(&Ok(None)), "nothing is owed any more");
    }
}
