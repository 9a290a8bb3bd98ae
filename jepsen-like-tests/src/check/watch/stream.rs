//! One watch stream: its watchers, and what each must get next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::compare::{compare, expected, is_bad, show};
use super::shown::Shown;
use super::{Bookmark, Findings, Tally};
use crate::check::order::Timeline;
use crate::check::seconds;
use crate::history::{Event, StreamEvent, StreamRecord, WatchCreate, WatchResponse};

/// A watcher on one stream.
#[derive(Debug)]
pub(super) struct Watcher {
    /// The client's id of it.
    name: u64,
    pub(super) request: WatchCreate,
    /// When it was created, in nanoseconds.
    created: u64,
    /// The next revision it has not been told about.
    pub(super) next: i64,
    /// Where its first event may move `next` back to.
    earliest: i64,
    /// Events of a fragmented response that is not complete.
    pieces: Vec<Event>,
    /// The client has asked to end it.
    cancel_asked: bool,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    pub(super) id: u64,
    timeline: &'a Timeline,
    shown: &'a Shown,
    /// Creations that were asked for and not answered, each with where a watcher from now on may begin.
    asked: VecDeque<(u64, WatchCreate, Option<i64>)>,
    watchers: BTreeMap<i64, Watcher>,
    /// Ids that the client wants canceled before it knows who has them.
    canceled_early: BTreeSet<i64>,
    /// Progress asked for and not answered; etcd may drop requests, never invent answers.
    progress_asked: u64,
    closed: bool,
}

impl<'a> Stream<'a> {
    pub(super) fn new(id: u64, timeline: &'a Timeline, shown: &'a Shown) -> Self {
        let (asked, watchers) = (VecDeque::new(), BTreeMap::new());
        Self {
            id,
            timeline,
            shown,
            asked,
            watchers,
            canceled_early: BTreeSet::new(),
            progress_asked: 0,
            closed: false,
        }
    }

    /// Takes the next record of the stream.
    pub(super) fn take(
        &mut self,
        record: &StreamRecord,
        bookmarks: &mut std::collections::HashMap<u64, Bookmark>,
        findings: &mut Findings,
        tally: &mut Tally,
    ) {
        match &record.event {
            StreamEvent::Open => {}
            StreamEvent::Create { watcher, request } => {
                let now = self.shown.by(record.member, record.at).map(|shown| shown + 1);
                self.asked.push_back((*watcher, request.clone(), now));
                if let Some(bookmark) = bookmarks.get(watcher) {
                    tally.resumptions += 1;
                    self.check_resumption(*watcher, request, *bookmark, findings);
                }
            }
            StreamEvent::Cancel { watch_id } => match self.watchers.get_mut(watch_id) {
                Some(watcher) => watcher.cancel_asked = true,
                None => _ = self.canceled_early.insert(*watch_id),
            },
            StreamEvent::ProgressRequest => self.progress_asked += 1,
            StreamEvent::Response(response) => {
                let place = format!("stream {} at {}", self.id, seconds(record.at));
                if let Err(finding) = self.response(record.at, response, bookmarks, findings, tally) {
                    findings.broken.push(format!("{place}: {finding}"));
                }
            }
            StreamEvent::Closed { .. } => self.close(findings),
        }
        for watcher in self.watchers.values() {
            bookmarks.insert(
                watcher.name,
                Bookmark {
                    next: watcher.next,
                    compacted: 0,
                },
            );
        }
    }

    /// A client that skips revisions would hide lost events.
    fn check_resumption(
        &self,
        name: u64,
        request: &WatchCreate,
        bookmark: Bookmark,
        findings: &mut Findings,
    ) {
        let allowed = bookmark.next.max(bookmark.compacted);
        if request.start_revision > allowed || (request.start_revision == 0 && bookmark.next > 1) {
            findings.doubtful.push(format!(
                "the recorder resumed watcher {name} at revision {}, although it had not been told about {allowed}",
                request.start_revision
            ));
        }
    }

    fn close(&mut self, findings: &mut Findings) {
        self.closed = true;
        for watcher in self.watchers.values() {
            let wanted: Vec<&Event> = expected(self.timeline, watcher, i64::MAX).collect();
            let delivered = watcher.pieces.iter().zip(&wanted);
            if let Some((event, _)) = delivered
                .into_iter()
                .find(|(event, wanted)| event.kv != wanted.kv)
            {
                let text = format!(
                    "stream {}: pieces at the end hold a wrong {}",
                    self.id,
                    show(event)
                );
                findings.broken.push(text);
            }
        }
    }

    fn response(
        &mut self,
        at: u64,
        response: &WatchResponse,
        bookmarks: &mut std::collections::HashMap<u64, Bookmark>,
        findings: &mut Findings,
        tally: &mut Tally,
    ) -> Result<(), String> {
        if self.closed {
            return Err("a response after the stream had ended".to_owned());
        }
        self.not_from_the_future(at, response.header.revision, "a header")?;
        if response.created {
            return self.created(at, response);
        }
        if response.canceled {
            return self.canceled(at, response, bookmarks, tally);
        }
        if response.compact_revision != 0 {
            return Err("a compact revision without a cancel".to_owned());
        }
        if response.events.is_empty() && !response.fragment {
            return self.progress(response);
        }
        tally.events += response.events.len() as u64;
        self.events(at, response, findings)
    }

    fn not_from_the_future(&self, at: u64, revision: i64, what: &str) -> Result<(), String> {
        match self.timeline.change(revision) {
            Some(change) if change.not_before > at => Err(format!(
                "{what} shows revision {revision} before anyone asked for it"
            )),
            None if revision > 1 => Err(format!("{what} shows revision {revision}, which never was")),
            _ => Ok(()),
        }
    }

    fn created(&mut self, at: u64, response: &WatchResponse) -> Result<(), String> {
        let Some((name, request, now)) = self.asked.pop_front() else {
            return Err("a watcher was created that nobody asked for".to_owned());
        };
        if !response.events.is_empty() {
            return Err(format!("the creation of watcher {name} carries events"));
        }
        if response.canceled {
            return self.refused(name, &request, response);
        }
        let id = response.watch_id;
        if request.watch_id != 0 && request.watch_id != id {
            return Err(format!(
                "watcher {name} asked for id {} and got {id}",
                request.watch_id
            ));
        }
        if self.watchers.contains_key(&id) {
            return Err(format!("watcher {name} got id {id}, which is in use"));
        }
        if is_bad(&request) {
            return Err(format!(
                "watcher {name} was created although its request is not allowed"
            ));
        }
        let next = if request.start_revision > 0 {
            request.start_revision
        } else {
            response.header.revision + 1
        };
        let watcher = Watcher {
            earliest: now.filter(|_| request.start_revision == 0).unwrap_or(next),
            name,
            request,
            created: at,
            next,
            pieces: Vec::new(),
            cancel_asked: self.canceled_early.remove(&id),
        };
        self.watchers.insert(id, watcher);
        Ok(())
    }

    fn refused(&self, name: u64, request: &WatchCreate, response: &WatchResponse) -> Result<(), String> {
        let taken = request.watch_id != 0 && self.watchers.contains_key(&request.watch_id);
        let by_auth = response.cancel_reason.starts_with("rpc error: code = ");
        if response.watch_id != -1 {
            return Err(format!(
                "watcher {name} was refused with id {}",
                response.watch_id
            ));
        }
        if is_bad(request) || taken || by_auth {
            return Ok(());
        }
        Err(format!(
            "watcher {name} was refused without reason: {:?}",
            response.cancel_reason
        ))
    }

    fn canceled(
        &mut self,
        at: u64,
        response: &WatchResponse,
        bookmarks: &mut std::collections::HashMap<u64, Bookmark>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let Some(watcher) = self.watchers.remove(&response.watch_id) else {
            return Err(format!("a cancel for unknown watcher id {}", response.watch_id));
        };
        let (name, next, compacted) = (watcher.name, watcher.next, response.compact_revision);
        bookmarks.insert(name, Bookmark { next, compacted });
        if !response.events.is_empty() {
            return Err(format!("the cancel of watcher {name} carries events"));
        }
        if compacted == 0 {
            let by_auth = response.cancel_reason.starts_with("rpc error: code = ");
            if watcher.cancel_asked {
                // Whatever it will miss from here on is what its client wanted to miss.
                bookmarks.insert(
                    name,
                    Bookmark {
                        next: i64::MAX,
                        compacted,
                    },
                );
            } else if !by_auth {
                return Err(format!(
                    "watcher {name} was canceled for no reason: {:?}",
                    response.cancel_reason
                ));
            }
            return Ok(());
        }
        tally.compaction_cancels += 1;
        if next >= compacted {
            return Err(format!(
                "watcher {name} wants {next}, but was canceled by compaction at {compacted}"
            ));
        }
        let known = self.timeline.compactions.iter();
        if known
            .into_iter()
            .any(|done| done.revision == compacted && done.call < at)
        {
            return Ok(());
        }
        Err(format!(
            "watcher {name} was canceled by a compaction at {compacted} that nobody asked for"
        ))
    }

    fn progress(&mut self, response: &WatchResponse) -> Result<(), String> {
        let revision = response.header.revision;
        if revision == 0 {
            return Err("an empty response without a revision".to_owned());
        }
        if response.watch_id == -1 {
            if self.progress_asked == 0 {
                return Err("progress for all watchers that nobody asked for".to_owned());
            }
            self.progress_asked -= 1;
            if self.watchers.is_empty() {
                return Err("progress for all watchers of a stream that has none".to_owned());
            }
        } else if !self.watchers.contains_key(&response.watch_id) {
            return Err(format!("progress for unknown watcher id {}", response.watch_id));
        }
        for (id, watcher) in &mut self.watchers {
            if response.watch_id != -1 && response.watch_id != *id {
                continue;
            }
            if response.watch_id != -1 && !watcher.request.progress_notify {
                return Err(format!(
                    "progress for watcher {} that did not want it",
                    watcher.name
                ));
            }
            if watcher.request.start_revision > revision {
                let start = watcher.request.start_revision;
                return Err(format!(
                    "progress {revision} for watcher {} that starts at {start}",
                    watcher.name
                ));
            }
            if let Some(event) = expected(self.timeline, watcher, revision).next() {
                let text = format!(
                    "progress {revision} for watcher {} overtakes {}",
                    watcher.name,
                    show(event)
                );
                return Err(text);
            }
            watcher.next = watcher.next.max(revision + 1);
            watcher.earliest = i64::MAX;
        }
        Ok(())
    }

    fn events(&mut self, at: u64, response: &WatchResponse, findings: &mut Findings) -> Result<(), String> {
        let timeline = self.timeline;
        let Some(watcher) = self.watchers.get_mut(&response.watch_id) else {
            return Err(format!("events for unknown watcher id {}", response.watch_id));
        };
        if response.fragment && !watcher.request.fragment {
            return Err(format!(
                "a fragment for watcher {} that did not want any",
                watcher.name
            ));
        }
        watcher.pieces.extend(response.events.iter().cloned());
        if response.fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut watcher.pieces);
        let last = events
            .iter()
            .map(|event| event.kv.mod_revision)
            .max()
            .unwrap_or(0);
        if response.header.revision < last {
            let shown = response.header.revision;
            return Err(format!(
                "header revision {shown} is older than event revision {last}"
            ));
        }
        let oldest = events.iter().map(|event| event.kv.mod_revision).min();
        if let Some(oldest) = oldest.filter(|oldest| *oldest >= watcher.earliest) {
            watcher.next = watcher.next.min(oldest);
        }
        watcher.earliest = i64::MAX;
        let difference = compare(timeline, watcher, &events, last, at);
        let first = watcher.next;
        watcher.next = watcher.next.max(last + 1);
        let name = watcher.name;
        self.not_from_the_future(at, last, "an event")?;
        if let Some(difference) = difference {
            let text = format!("watcher {name} (next revision {first}): {difference}");
            if timeline.between(first, last).iter().any(|change| change.guessed) {
                findings
                    .doubtful
                    .push(format!("{text} (but what happened there is a guess)"));
            } else {
                return Err(text);
            }
        }
        Ok(())
    }

    /// At the end of a quiet time nothing written before `cutoff` may be missing.
    pub(super) fn finish(&self, cutoff: u64, findings: &mut Findings) {
        if self.closed {
            return;
        }
        for watcher in self.watchers.values().filter(|watcher| watcher.created <= cutoff) {
            let mut missing = expected(self.timeline, watcher, i64::MAX);
            let known = |event: &&Event| {
                let change = self.timeline.change(event.kv.mod_revision);
                change.is_some_and(|change| change.not_after <= cutoff && !change.guessed)
            };
            if let Some(event) = missing.find(known) {
                findings.broken.push(format!(
                    "stream {}: watcher {} never got {}, although faults had ended in time",
                    self.id,
                    watcher.name,
                    show(event)
                ));
            }
        }
        if let Some((name, ..)) = self.asked.front() {
            let text = format!("stream {}: watcher {name} was never created", self.id);
            findings.doubtful.push(text);
        }
    }
}
