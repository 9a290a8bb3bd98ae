//! What members' logs tell that no client can see: panics, snapshots that were installed, log tails that were cut.

/// Lines of Kelson, then of etcd, that tell of a snapshot from the leader.
const SNAPSHOT_INSTALLED: &[&str] = &["installed a snapshot from the leader", "\"applied snapshot\""];

/// A line of Kelson that tells of a torn tail.
const TAIL_CUT: &[&str] = &["cut a torn tail that was never acknowledged"];

/// Marks of a panic, in Rust and in Go.
const PANICKED: &[&str] = &["panicked", "panic:", "\"level\":\"panic\""];

/// How often a log tells of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Snapshots from the leader that were installed.
    pub snapshot_installs: u64,
    /// Torn tails of the log cut at a start.
    pub torn_tails: u64,
}

impl Counts {
    /// Counts the lines of one member's log.
    #[must_use]
    pub fn of(log: &str) -> Counts {
        let count = |marks| lines_with(log, marks).count() as u64;
        Counts {
            snapshot_installs: count(SNAPSHOT_INSTALLED),
            torn_tails: count(TAIL_CUT),
        }
    }

    /// Adds those of another member.
    pub fn add(&mut self, other: Counts) {
        self.snapshot_installs += other.snapshot_installs;
        self.torn_tails += other.torn_tails;
    }
}

/// The first line that tells of a panic.
#[must_use]
pub fn panic_in(log: &str) -> Option<&str> {
    lines_with(log, PANICKED).next()
}

fn lines_with<'a>(log: &'a str, marks: &'static [&'static str]) -> impl Iterator<Item = &'a str> {
    log.lines()
        .filter(|line| marks.iter().any(|mark| line.contains(mark)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"level":"info","msg":"installed a snapshot from the leader","applied":7}
{"level":"warn","msg":"cut a torn tail that was never acknowledged","offset":512}
{"level":"info","msg":"applied snapshot","took":"1ms"}"#;

    #[test]
    fn a_log_is_counted() {
        let mut counts = Counts::of(LOG);
        counts.add(Counts::of(LOG));
        let expected = Counts {
            snapshot_installs: 4,
            torn_tails: 2,
        };
        assert_eq!(counts, expected);
        assert_eq!(panic_in(LOG), None);
    }

    #[test]
    fn panics_are_found_in_both_languages() {
        for line in [
            "thread 'x' panicked at src/a.rs",
            "panic: oh",
            r#"{"level":"panic"}"#,
        ] {
            assert_eq!(panic_in(&format!("{LOG}\n{line}\n")), Some(line));
        }
    }
}
