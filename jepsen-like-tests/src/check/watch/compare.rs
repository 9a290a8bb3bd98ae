//! What a watcher must get, and how what it got differs.

use super::stream::Watcher;
use crate::check::order::Timeline;
use crate::history::{Blob, Event, EventKind, WatchCreate};
use crate::model::in_range;

pub(super) fn show(event: &Event) -> String {
    let Event { kind, kv, .. } = event;
    match kind {
        EventKind::Put => format!("put {}={} of revision {}", kv.key, kv.value, kv.mod_revision),
        EventKind::Delete => format!("delete {} of revision {}", kv.key, kv.mod_revision),
    }
}

/// Section 6.2 of the API specification: what must be refused.
pub(super) fn is_bad(request: &WatchCreate) -> bool {
    let end = request.range_end.as_slice();
    let empty = !end.is_empty() && end != [0] && request.range_end <= request.key;
    request.start_revision < 0 || empty
}

/// What a watcher must get next, up to a revision.
pub(super) fn expected<'a>(
    timeline: &'a Timeline,
    watcher: &'a Watcher,
    last: i64,
) -> impl Iterator<Item = &'a Event> {
    let request = &watcher.request;
    let zero = Blob::from(&[0][..]);
    let key = if request.key.is_empty() {
        zero
    } else {
        request.key.clone()
    };
    let last = last.min(timeline.revision());
    let changes = if watcher.next > last {
        &[]
    } else {
        timeline.between(watcher.next, last)
    };
    changes
        .iter()
        .flat_map(|change| &change.events)
        .filter(move |event| {
            let dropped = if event.kind == EventKind::Put {
                request.no_put
            } else {
                request.no_delete
            };
            !dropped && in_range(&key, &request.range_end, &event.kv.key)
        })
}

/// What is wrong with the events of one response, in the words of P9.
pub(super) fn compare(
    timeline: &Timeline,
    watcher: &Watcher,
    events: &[Event],
    last: i64,
    at: u64,
) -> Option<String> {
    for pair in events.windows(2) {
        if pair[0].kv.mod_revision > pair[1].kv.mod_revision {
            return Some(format!(
                "not ordered: {} comes before {}",
                show(&pair[0]),
                show(&pair[1])
            ));
        }
    }
    if let Some(event) = events.iter().find(|event| event.kv.mod_revision < watcher.next) {
        let start = watcher.request.start_revision;
        let word = if event.kv.mod_revision < start {
            "before its start"
        } else {
            "not unique or not ordered"
        };
        return Some(format!("{word}: {}", show(event)));
    }
    let mut wanted = expected(timeline, watcher, last);
    let mut events = events.iter();
    loop {
        match (wanted.next(), events.next()) {
            (None, None) => return None,
            (Some(wanted), Some(event)) if event.kind == wanted.kind && event.kv == wanted.kv => {
                if let Some(wrong) = previous(timeline, watcher, wanted, event, at) {
                    return Some(wrong);
                }
            }
            (Some(wanted), event) => {
                let missing = event.is_none_or(|event| {
                    (wanted.kv.mod_revision, &wanted.kv.key) != (event.kv.mod_revision, &event.kv.key)
                });
                let atomic = wanted.kv.mod_revision == last && missing;
                return Some(match event {
                    _ if atomic => format!("not atomic or not complete: {} is missing", show(wanted)),
                    _ if missing => format!("not reliable: {} is missing", show(wanted)),
                    Some(event) => format!("wrong event: {event:?}, must be {wanted:?}"),
                    None => format!("not reliable: {} is missing", show(wanted)),
                });
            }
            (None, Some(event)) => {
                return Some(format!(
                    "not filtered, or not unique, or never happened: {}",
                    show(event)
                ));
            }
        }
    }
}

/// The pair before an event: there if it was asked for, existed and cannot have been compacted.
fn previous(
    timeline: &Timeline,
    watcher: &Watcher,
    wanted: &Event,
    event: &Event,
    at: u64,
) -> Option<String> {
    let wanted_pair = if watcher.request.prev_kv {
        &wanted.prev_kv
    } else {
        &None
    };
    let excused = event.prev_kv.is_none() && timeline.may_be_compacted(event.kv.mod_revision - 1, at);
    (event.prev_kv != *wanted_pair && !excused).then(|| {
        format!(
            "pair before {} is {:?}, must be {wanted_pair:?}",
            show(event),
            event.prev_kv
        )
    })
}
