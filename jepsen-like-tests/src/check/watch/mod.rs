//! Watch streams against the history of the store: the nine words of P9.
//!
//! Each watcher's next wanted revision is known at every moment: a response must bring exactly the events of the
//! timeline from there up to its last revision. That one comparison is *ordered*, *unique*, *reliable*, *atomic* and
//! *filtered*; progress that passes over an undelivered event is not *bookmarkable*; a creation at any revision is held
//! to the same, so streams are *resumable* on any member; a watcher that lost its place to a compaction must be told
//! so. After faults have ended, the newest revision must arrive in time.

mod compare;
mod shown;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::check::order::Timeline;
use crate::check::{Evidence, Limits, Verdict};
use crate::history::{Phase, Record, StreamRecord};

use shown::Shown;
use stream::Stream;

/// Where a logical watcher stands between two streams.
#[derive(Debug, Clone, Copy)]
struct Bookmark {
    /// The next revision it has not been told about.
    next: i64,
    /// Where history began when a compaction ended it; else 0.
    compacted: i64,
}

/// What the streams of a history were found to be.
#[derive(Debug, Default)]
struct Findings {
    /// Broken promises.
    broken: Vec<String>,
    /// Differences where the timeline itself is not sure, and mistakes of the recorder.
    doubtful: Vec<String>,
}

/// What coverage wants to know about watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Watchers created again after their stream had ended.
    pub resumptions: u64,
    /// Watchers that a compaction ended.
    pub compaction_cancels: u64,
    /// Events delivered.
    pub events: u64,
}

/// Checks all streams against the timeline that `order` found.
pub fn check(evidence: &Evidence<'_>, timeline: Option<&Timeline>, limits: &Limits) -> Verdict {
    let Some(timeline) = timeline else {
        return Verdict::Invalid("order found no history to judge watches by".to_owned());
    };
    let (findings, _) = examine(evidence, timeline, limits);
    if findings.broken.is_empty() && !findings.doubtful.is_empty() {
        return Verdict::Invalid(findings.doubtful.join("\n"));
    }
    Verdict::from_findings(&findings.broken)
}

/// Counts what happened on watch streams.
pub fn tally(evidence: &Evidence<'_>, timeline: &Timeline) -> Tally {
    examine(evidence, timeline, &Limits::default()).1
}

fn examine(evidence: &Evidence<'_>, timeline: &Timeline, limits: &Limits) -> (Findings, Tally) {
    let mut findings = Findings::default();
    let mut tally = Tally::default();
    let mut bookmarks: HashMap<u64, Bookmark> = HashMap::new();
    let mut streams: HashMap<u64, Stream<'_>> = HashMap::new();
    let shown = Shown::find(evidence);
    for record in evidence.history.streams() {
        let stream = streams
            .entry(record.stream)
            .or_insert_with(|| Stream::new(record.stream, timeline, &shown));
        stream.take(record, &mut bookmarks, &mut findings, &mut tally);
    }
    if let Some(cutoff) = cutoff(evidence, limits) {
        let mut open: Vec<_> = streams.into_values().collect();
        open.sort_by_key(|stream| stream.id);
        for stream in open {
            stream.finish(cutoff, &mut findings);
        }
    }
    (findings, tally)
}

/// What had been written by this time must have arrived by the end of the history; none while faults are too fresh.
fn cutoff(evidence: &Evidence<'_>, limits: &Limits) -> Option<u64> {
    let end = evidence.history.records.iter().map(time_of).max()?;
    let healed = evidence.history.phase(Phase::Healed)?;
    end.checked_sub(limits.last_event)
        .filter(|cutoff| healed <= *cutoff)
}

fn time_of(record: &Record) -> u64 {
    match record {
        Record::Call(call) => call.at,
        Record::Return(done) => done.at,
        Record::Stream(StreamRecord { at, .. }) | Record::Mark { at, .. } | Record::Note { at, .. } => *at,
        Record::Fault(fault) => fault.end,
        Record::Process(process) => process.at,
        Record::Leader(leader) => leader.at,
    }
}
