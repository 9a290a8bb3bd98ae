//! The way from this member to the leader, which may be this member: commands, read barriers and questions.
//!
//! One task owns the way. It finds the leader, keeps one connection to it, and when the leader changes or the
//! connection breaks it sends everything that has no outcome yet again: apply drops second copies.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kelson_proto::peer;
use kelson_storage::limits::BATCH_BYTES_MAX;
use kelson_storage::revision::LogPosition;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::codec::vote_message;
use crate::leadership::{Leadership, LeadershipHistory};
use crate::network::frame::{Frame, Kind, Purpose};
use crate::network::link::{Identity, Link};
use crate::node::{AskLeaderError, LeaderServiceSlot, ProposeError, Raft, ReadIndexError};
use crate::outbox::Outbox;
use crate::propose::Sequencer;
use crate::read_index::{LeaderReads, ReadQueue, vote_for};
use crate::type_config::{LogId, StoredMembership, log_id};

/// How often deadlines are looked at.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Without any outcome for this long, everything is sent again: a leader may have dropped it while stepping down.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Pause between two attempts to reach the leader.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Commands that one Forward frame carries at most.
const FORWARD_COMMANDS_MAX: usize = 1024;

/// A question to the leader that has no answer yet.
struct Question {
    body: Bytes,
    since: Instant,
    sent: bool,
    answer: oneshot::Sender<Result<Bytes, AskLeaderError>>,
}

#[derive(Default)]
struct Questions {
    token: u64,
    open: BTreeMap<u64, Question>,
}

/// See the module.
pub(crate) struct ToLeader {
    pub(crate) outbox: Arc<Mutex<Outbox>>,
    pub(crate) reads: Mutex<ReadQueue>,
    questions: Mutex<Questions>,
    wake: Notify,
    raft: Raft,
    identity: Arc<Identity>,
    sequencer: Arc<Sequencer>,
    leader_reads: Arc<LeaderReads>,
    leader_service: LeaderServiceSlot,
    request_timeout: Duration,
    election_timeout: Duration,
}

/// What [`ToLeader`] is made of.
pub(crate) struct ToLeaderParts {
    pub(crate) outbox: Arc<Mutex<Outbox>>,
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) leader_reads: Arc<LeaderReads>,
    pub(crate) leader_service: LeaderServiceSlot,
    pub(crate) request_timeout: Duration,
    pub(crate) election_timeout: Duration,
}

/// What the task watches.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) history: Arc<Mutex<LeadershipHistory>>,
    pub(crate) applied: watch::Receiver<(Option<LogPosition>, u64)>,
    pub(crate) membership: Arc<dyn Fn() -> Arc<StoredMembership> + Send + Sync>,
}

impl ToLeader {
    pub(crate) fn new(parts: ToLeaderParts) -> Self {
        Self {
            outbox: parts.outbox,
            reads: Mutex::new(ReadQueue::default()),
            questions: Mutex::new(Questions::default()),
            wake: Notify::new(),
            raft: parts.raft,
            identity: parts.identity,
            sequencer: parts.sequencer,
            leader_reads: parts.leader_reads,
            leader_service: parts.leader_service,
            request_timeout: parts.request_timeout,
            election_timeout: parts.election_timeout,
        }
    }

    /// Something was added to one of the queues.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Adds a question to the leader.
    pub(crate) fn ask(&self, body: Bytes) -> oneshot::Receiver<Result<Bytes, AskLeaderError>> {
        let (answer, wait) = oneshot::channel();
        let mut questions = self.questions.lock();
        questions.token += 1;
        let token = questions.token;
        questions.open.insert(
            token,
            Question {
                body,
                since: Instant::now(),
                sent: false,
                answer,
            },
        );
        drop(questions);
        self.wake();
        wait
    }

    /// Ends everything that waits: the node is stopping.
    pub(crate) fn stop(&self) {
        self.outbox.lock().fail_all(&ProposeError::Stopped);
        self.reads.lock().fail_all(&ReadIndexError::Stopped);
        for question in std::mem::take(&mut self.questions.lock().open).into_values() {
            let _ = question.answer.send(Err(AskLeaderError::Stopped));
        }
    }

    /// Runs for as long as the node lives.
    pub(crate) async fn run(&self, mut watched: Watched) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let leadership = *watched.leadership.borrow_and_update();
            self.begin_again();
            if leadership.leader == 0 {
                self.wait_for_leader(&mut watched, &mut sweep).await;
            } else if leadership.leader == self.identity.id {
                self.serve_here(&mut watched, &mut sweep).await;
            } else if let Err(error) = self.serve_there(leadership, &mut watched, &mut sweep).await {
                tracing::debug!(%error, leader = format!("{:x}", leadership.leader), "lost the way to the leader");
                watched.history.lock().connection_lost(Instant::now());
                self.pause(&mut watched, &mut sweep).await;
            }
        }
    }

    /// Whatever was sent may be lost.
    fn begin_again(&self) {
        self.outbox.lock().resend_all();
        self.reads.lock().abandon_rounds();
        for question in self.questions.lock().open.values_mut() {
            question.sent = false;
        }
    }

    async fn wait_for_leader(&self, watched: &mut Watched, sweep: &mut tokio::time::Interval) {
        loop {
            tokio::select! {
                biased;
                _ = watched.leadership.changed() => return,
                _ = watched.applied.changed(), if self.reads.lock().waits_for_apply() => self.on_applied(watched),
                _ = sweep.tick() => { self.sweep(watched); }
            }
        }
    }

    async fn pause(&self, watched: &mut Watched, sweep: &mut tokio::time::Interval) {
        let until = Instant::now() + RECONNECT_PAUSE;
        loop {
            tokio::select! {
                biased;
                _ = watched.leadership.changed() => return,
                () = tokio::time::sleep_until(until) => return,
                _ = sweep.tick() => { self.sweep(watched); }
            }
        }
    }

    /// This member leads.
    async fn serve_here(&self, watched: &mut Watched, sweep: &mut tokio::time::Interval) {
        let mut rounds = FuturesUnordered::new();
        let mut answers = FuturesUnordered::new();
        loop {
            let taken = self.outbox.lock().take_unsent(usize::MAX, usize::MAX);
            if !taken.is_empty() {
                self.sequencer.push(taken);
            }
            if let Some(token) = self.reads.lock().start_round(Instant::now()) {
                let confirmed = self.leader_reads.confirm();
                rounds.push(async move { (token, confirmed.await) });
            }
            for (token, body) in self.take_questions() {
                let service = self.leader_service.lock().clone();
                answers.push(async move {
                    match service {
                        Some(service) => (token, Some(service.answer(body).await)),
                        None => (token, None),
                    }
                });
            }
            tokio::select! {
                biased;
                _ = watched.leadership.changed() => return,
                Some((token, index)) = rounds.next() => self.finish_round(watched, token, index),
                Some((token, answer)) = answers.next() => self.finish_question(token, answer),
                _ = watched.applied.changed(), if self.reads.lock().waits_for_apply() => self.on_applied(watched),
                () = self.wake.notified() => {}
                _ = sweep.tick() => if self.sweep(watched) { self.outbox.lock().resend_all() },
            }
        }
    }

    /// Another member leads.
    async fn serve_there(
        &self,
        leadership: Leadership,
        watched: &mut Watched,
        sweep: &mut tokio::time::Interval,
    ) -> io::Result<()> {
        let urls = (watched.membership)()
            .get_node(&leadership.leader)
            .map(|node| node.urls.clone());
        let urls = urls
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the leader is not in the membership"))?;
        let connecting = Link::connect(&self.identity, leadership.leader, &urls, Purpose::Forward);
        let mut connecting = std::pin::pin!(connecting);
        let mut link = loop {
            tokio::select! {
                biased;
                _ = watched.leadership.changed() => return Ok(()),
                link = &mut connecting => break link?,
                _ = sweep.tick() => { self.sweep(watched); }
            }
        };
        let mut rounds = FuturesUnordered::new();
        loop {
            self.send_waiting(&mut link);
            if let Some(token) = self.reads.lock().start_round(Instant::now()) {
                let vote = vote_for(&self.raft, leadership.leader);
                rounds.push(async move { (token, vote.await) });
            }
            if link.writer.pending() > 0 {
                link.writer.flush_within(self.identity.reply_timeout).await?;
            }
            tokio::select! {
                biased;
                _ = watched.leadership.changed() => return Ok(()),
                frame = link.reader.next() => {
                    let frame = frame?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                    self.on_frame(watched, frame)?;
                }
                Some((token, vote)) = rounds.next() => {
                    let vote = vote.as_ref().map(vote_message);
                    link.writer.put(Kind::ReadIndex, &peer::ReadIndexRequest { token, vote });
                }
                _ = watched.applied.changed(), if self.reads.lock().waits_for_apply() => self.on_applied(watched),
                () = self.wake.notified() => {
                    // Let everything that is ready to be sent share the frame.
                    tokio::task::yield_now().await;
                }
                _ = sweep.tick() => if self.sweep(watched) { self.outbox.lock().resend_all() },
            }
        }
    }

    fn send_waiting(&self, link: &mut Link) {
        loop {
            let proposals = self
                .outbox
                .lock()
                .take_unsent(FORWARD_COMMANDS_MAX, BATCH_BYTES_MAX);
            if proposals.is_empty() {
                break;
            }
            link.writer.put(Kind::Forward, &peer::Forward { proposals });
        }
        for (token, body) in self.take_questions() {
            link.writer
                .put(Kind::LeaderRequest, &peer::LeaderRequest { token, body });
        }
    }

    fn on_frame(&self, watched: &Watched, frame: Frame) -> io::Result<()> {
        match frame.kind {
            Kind::ReadIndexReply => {
                let reply: peer::ReadIndexReply = frame.message()?;
                let index = reply.confirmed.then(|| {
                    reply.index.map(|id| {
                        log_id(LogPosition {
                            term: id.term,
                            index: id.index,
                        })
                    })
                });
                self.finish_round(watched, reply.token, index);
            }
            Kind::LeaderReply => {
                let reply: peer::LeaderReply = frame.message()?;
                let answer = match reply {
                    _ if reply.not_leader => None,
                    _ if !reply.refusal.is_empty() => Some(Err(reply.refusal)),
                    _ => Some(Ok(reply.body)),
                };
                self.finish_question(reply.token, answer);
            }
            kind => return Err(crate::codec::invalid(format!("{kind:?} frame from the leader"))),
        }
        Ok(())
    }

    fn finish_round(&self, watched: &Watched, token: u64, index: Option<Option<LogId>>) {
        let applied = watched.applied.borrow().0.map(|at| at.index);
        self.reads.lock().finish_round(token, index, applied);
    }

    fn on_applied(&self, watched: &mut Watched) {
        let applied = watched.applied.borrow_and_update().0.map(|at| at.index);
        self.reads.lock().applied(applied);
    }

    fn take_questions(&self) -> Vec<(u64, Bytes)> {
        let mut questions = self.questions.lock();
        questions
            .open
            .iter_mut()
            .filter(|(_, question)| !question.sent)
            .map(|(token, question)| {
                question.sent = true;
                (*token, question.body.clone())
            })
            .collect()
    }

    /// None: the member asked does not lead; the question waits for the next leader.
    fn finish_question(&self, token: u64, answer: Option<Result<Bytes, String>>) {
        let mut questions = self.questions.lock();
        let Some(answer) = answer else { return };
        if let Some(question) = questions.open.remove(&token) {
            let _ = question.answer.send(answer.map_err(AskLeaderError::Refused));
        }
    }

    /// Looks at all deadlines. Returns whether what was sent seems to be lost.
    fn sweep(&self, watched: &Watched) -> bool {
        let now = Instant::now();
        let timeout = self.request_timeout;
        let history = watched.history.lock().clone();
        let stuck = {
            let mut outbox = self.outbox.lock();
            let failed = outbox.expire(now, timeout, |since| {
                history.explain(since, now, self.election_timeout)
            });
            self.identity.meters.proposals_failed.add(failed as u64);
            outbox.is_stuck(now, STUCK_AFTER)
        };
        let read_error = if history.changed_within(timeout, now) {
            ReadIndexError::LeaderChanged
        } else {
            ReadIndexError::Timeout
        };
        let late = {
            let mut reads = self.reads.lock();
            let failed = reads.expire(now, timeout, &read_error);
            self.identity.meters.read_indexes_failed.add(failed as u64);
            let late = reads.round_is_late(now);
            if late {
                kelson_storage::reached!("read_round_late");
                self.identity.meters.slow_read_indexes.add(1);
                reads.abandon_rounds();
            }
            late
        };
        if late {
            self.wake();
        }
        let mut questions = self.questions.lock();
        let expired: Vec<u64> = questions
            .open
            .iter()
            .filter(|(_, question)| now.duration_since(question.since) >= timeout)
            .map(|(token, _)| *token)
            .collect();
        for token in expired {
            if let Some(question) = questions.open.remove(&token) {
                let _ = question.answer.send(Err(AskLeaderError::NoLeader));
            }
        }
        stuck
    }
}
