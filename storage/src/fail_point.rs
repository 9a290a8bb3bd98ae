//! [`fail_point!`](crate::fail_point!): places where a test can make a member die, or dawdle.
//!
//! The shape is etcd's gofail: `GOFAIL_FAILPOINTS` arms points at the start, and with `GOFAIL_HTTP` the server lets them
//! be armed while it runs (`server/src/fail_points.rs`). Where a point means what it means in etcd, it has etcd's name,
//! so that robustness suites written for etcd find it. Builds without debug assertions have no fail points: there the
//! macro is nothing at all. In the others an unarmed point costs one relaxed load.
//!
//! What a point does is a chain of terms, `2*off->sleep(50)->panic`: each term has an optional count of hits it is good
//! for, and the last one needs none. `off` does nothing, `panic` panics, `sleep(100)` waits for so many milliseconds
//! (gofail's `sleep("100ms")` is understood), `print` writes a line to standard error.

/// Every point and where it is.
pub const POINTS: &[(&str, &str)] = &[
    (
        "applyBeforeOpenSnapshot",
        "a received database is about to replace this one",
    ),
    (
        "backendAfterCommit",
        "a checkpoint has been committed, durably or not",
    ),
    (
        "backendBeforeCommit",
        "a checkpoint is about to be committed, durably or not",
    ),
    (
        "beforeApplyOneConfChange",
        "a change of the membership is about to be applied",
    ),
    (
        "beforeApplyOneEntryNormal",
        "an entry with commands is about to be applied",
    ),
    (
        "beforeSendWatchResponse",
        "a watcher's events are about to be queued for its stream",
    ),
    (
        "compactAfterCommitBatch",
        "some rows that a compaction forgets have been deleted",
    ),
    (
        "compactAfterCommitScheduledCompact",
        "a compaction has been scheduled in memory",
    ),
    (
        "compactAfterSetFinishedCompact",
        "a checkpoint that says a compaction is finished has been committed",
    ),
    (
        "compactBeforeCommitBatch",
        "some rows that a compaction forgets are about to be deleted",
    ),
    (
        "compactBeforeCommitScheduledCompact",
        "a compaction is about to be scheduled",
    ),
    (
        "compactBeforeSetFinishedCompact",
        "a checkpoint that says a compaction is finished is about to be committed",
    ),
    ("raftAfterApplySnap", "a received database has replaced this one"),
    (
        "raftAfterSave",
        "a group of log records is durable, and nobody has been told",
    ),
    (
        "raftAfterSaveSnap",
        "a received database is durable under its temporary name",
    ),
    (
        "raftAfterWALRelease",
        "entries have been forgotten and the log has been told",
    ),
    (
        "raftBeforeApplySnap",
        "a received database is about to be put in the place of this one",
    ),
    (
        "raftBeforeFollowerSend",
        "a follower has stored entries and is about to say so",
    ),
    (
        "raftBeforeLeaderSend",
        "a leader is about to send entries, some of them perhaps before it has stored them itself",
    ),
    ("raftBeforeSave", "a group of log records is about to be written"),
    (
        "raftBeforeSaveSnap",
        "the last part of a received database is about to be made durable",
    ),
    (
        "walAfterRoll",
        "a new log segment has its name and its beginning, and no records",
    ),
    ("walAfterSync", "a log segment has been synced"),
    (
        "walBeforeRoll",
        "a full log segment has been synced and the next one has not begun",
    ),
    (
        "walBeforeSync",
        "records have been written to a log segment and not synced",
    ),
];

/// Does what a test has armed the point of this name to do, and nothing in builds without debug assertions.
#[cfg(debug_assertions)]
#[macro_export]
macro_rules! fail_point {
    ($name:literal) => {
        const { $crate::fail_point::assert_known($name) };
        if $crate::fail_point::any_armed() {
            $crate::fail_point::hit($name);
        }
    };
}

/// Does what a test has armed the point of this name to do, and nothing in builds without debug assertions.
#[cfg(not(debug_assertions))]
#[macro_export]
macro_rules! fail_point {
    ($name:literal) => {
        const { $crate::fail_point::assert_known($name) };
    };
}

/// Refuses, while compiling, a point that the list does not have.
pub const fn assert_known(name: &str) {
    let mut place = 0;
    while place < POINTS.len() {
        if same(POINTS[place].0, name) {
            return;
        }
        place += 1;
    }
    panic!("storage/src/fail_point.rs does not list this point");
}

/// Whether two names are the same, also while compiling.
pub(crate) const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut place = 0;
    while place < one.len() {
        if one[place] != other[place] {
            return false;
        }
        place += 1;
    }
    true
}

#[cfg(debug_assertions)]
pub use armed::{Refused, any_armed, arm, arm_from_environment, armed, disarm, hit, hits};

#[cfg(debug_assertions)]
mod armed {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::POINTS;

    /// Points to arm when the process starts: `name=terms`, separated by `;`.
    const AT_START: &str = "GOFAIL_FAILPOINTS";

    static ANY_ARMED: AtomicBool = AtomicBool::new(false);
    static ARMED: Mutex<BTreeMap<&'static str, Armed>> = Mutex::new(BTreeMap::new());

    /// Why a point was not armed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum Refused {
        /// The list has no such point.
        #[error("failpoint: failpoint does not exist")]
        Unknown,
        /// The terms cannot be read.
        #[error("failpoint: could not parse terms")]
        Terms,
    }

    struct Armed {
        text: String,
        terms: VecDeque<Term>,
        hits: u64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Term {
        /// Hits that it is good for; none: all.
        left: Option<u64>,
        action: Action,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Off,
        Panic,
        Sleep(Duration),
        Print,
    }

    /// Whether any point is armed.
    pub fn any_armed() -> bool {
        ANY_ARMED.load(Ordering::Relaxed)
    }

    /// Arms a point with a chain of terms, in place of what it was armed with.
    ///
    /// # Errors
    /// There is no such point, or the terms cannot be read.
    pub fn arm(name: &str, terms: &str) -> Result<(), Refused> {
        let name = known(name)?;
        let armed = Armed {
            text: terms.to_owned(),
            terms: parse(terms).ok_or(Refused::Terms)?,
            hits: 0,
        };
        ARMED.lock().insert(name, armed);
        ANY_ARMED.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Arms what `GOFAIL_FAILPOINTS` names.
    ///
    /// # Errors
    /// As [`arm`].
    pub fn arm_from_environment() -> Result<(), Refused> {
        let Ok(text) = std::env::var(AT_START) else {
            return Ok(());
        };
        for point in text.split(';').filter(|point| !point.is_empty()) {
            let (name, terms) = point.split_once('=').ok_or(Refused::Terms)?;
            arm(name.trim(), terms)?;
        }
        Ok(())
    }

    /// Disarms a point; one that is not armed stays so.
    ///
    /// # Errors
    /// There is no such point.
    pub fn disarm(name: &str) -> Result<(), Refused> {
        let mut all = ARMED.lock();
        all.remove(known(name)?);
        ANY_ARMED.store(!all.is_empty(), Ordering::Relaxed);
        Ok(())
    }

    /// What a point is armed with; none if it is not.
    ///
    /// # Errors
    /// There is no such point.
    pub fn armed(name: &str) -> Result<Option<String>, Refused> {
        Ok(ARMED.lock().get(known(name)?).map(|armed| armed.text.clone()))
    }

    /// How often a point was met since it was armed.
    ///
    /// # Errors
    /// There is no such point.
    pub fn hits(name: &str) -> Result<u64, Refused> {
        Ok(ARMED.lock().get(known(name)?).map_or(0, |armed| armed.hits))
    }

    /// What [`fail_point!`](crate::fail_point!) does when any point is armed.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has asked for this thread to sleep"
    )]
    #[expect(clippy::print_stderr, reason = "a test has asked for this line")]
    pub fn hit(name: &str) {
        let action = ARMED.lock().get_mut(name).map_or(Action::Off, Armed::next);
        match action {
            Action::Off => {}
            Action::Panic => panic!("failpoint panic: {name}"),
            Action::Sleep(time) => std::thread::sleep(time),
            Action::Print => eprintln!("failpoint print: {name}"),
        }
    }

    fn known(name: &str) -> Result<&'static str, Refused> {
        let found = POINTS.iter().find(|(point, _)| *point == name);
        found.map(|(point, _)| *point).ok_or(Refused::Unknown)
    }

    impl Armed {
        fn next(&mut self) -> Action {
            self.hits += 1;
            while let Some(term) = self.terms.front_mut() {
                match &mut term.left {
                    None => return term.action,
                    Some(0) => {
                        self.terms.pop_front();
                    }
                    Some(left) => {
                        *left -= 1;
                        return term.action;
                    }
                }
            }
            Action::Off
        }
    }

    fn parse(terms: &str) -> Option<VecDeque<Term>> {
        terms.split("->").map(|term| parse_term(term.trim())).collect()
    }

    fn parse_term(term: &str) -> Option<Term> {
        let (left, action) = match term.split_once('*') {
            Some((count, action)) => (Some(count.parse().ok()?), action),
            None => (None, term),
        };
        let (word, argument) = match action.split_once('(') {
            Some((word, rest)) => (word, rest.strip_suffix(')')?.trim_matches('"')),
            None => (action, ""),
        };
        let action = match word {
            "off" => Action::Off,
            "panic" => Action::Panic,
            "print" => Action::Print,
            "sleep" => Action::Sleep(parse_time(argument)?),
            _ => return None,
        };
        Some(Term { left, action })
    }

    /// Milliseconds, or a number with a unit.
    fn parse_time(text: &str) -> Option<Duration> {
        let digits = text
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(text.len());
        let number = text[..digits].parse().ok()?;
        match &text[digits..] {
            "" | "ms" => Some(Duration::from_millis(number)),
            "us" => Some(Duration::from_micros(number)),
            "s" => Some(Duration::from_secs(number)),
            _ => None,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn terms_are_worked_through_in_order_and_the_last_one_stays() {
            let mut armed = Armed {
                text: String::new(),
                terms: parse("2*off->1*sleep(50)->1*sleep(\"2s\")->panic").unwrap(),
                hits: 0,
            };
            let taken: Vec<Action> = (0..6).map(|_| armed.next()).collect();
            let sleep = |millis| Action::Sleep(Duration::from_millis(millis));
            let expected = [
                Action::Off,
                Action::Off,
                sleep(50),
                sleep(2000),
                Action::Panic,
                Action::Panic,
            ];
            assert_eq!(taken, expected);
            assert_eq!(armed.hits, 6);
        }

        #[test]
        fn what_is_no_term_or_no_point_is_refused() {
            for terms in ["", "explode", "x*off", "sleep", "sleep(5", "sleep(5h)", "off->"] {
                assert_eq!(arm("walBeforeSync", terms), Err(Refused::Terms), "{terms}");
            }
            assert_eq!(arm("nowhere", "off"), Err(Refused::Unknown));
            assert_eq!(disarm("nowhere"), Err(Refused::Unknown));
        }

        #[test]
        fn a_point_does_what_it_is_armed_with_until_it_is_disarmed() {
            arm("raftAfterWALRelease", "panic").unwrap();
            assert_eq!(armed("raftAfterWALRelease"), Ok(Some("panic".to_owned())));
            let died = std::panic::catch_unwind(|| {
                crate::fail_point!("raftAfterWALRelease");
            });
            assert!(died.is_err());
            assert_eq!(hits("raftAfterWALRelease"), Ok(1));
            disarm("raftAfterWALRelease").unwrap();
            crate::fail_point!("raftAfterWALRelease");
            assert_eq!(armed("raftAfterWALRelease"), Ok(None));
        }
    }
}
