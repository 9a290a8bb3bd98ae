//! How long clients wait after faults: read off a history, in ms.

use crate::history::{Fault, History, Operation, Phase, Request, Response};

/// Longest pause that is looked for after a fault, in ns: above what we accept.
const OUTAGE_MAX: u64 = 3_500_000_000;

/// After a fault, things need this long until the next one can be measured, in ns.
const SETTLING: u64 = 500_000_000;

/// A follower that was away for this long, in ns, has been given up by everybody.
const LONG_AWAY: u64 = 25_000_000_000;

/// A list of waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waits(Vec<f64>);

impl Waits {
    /// Adds those of another.
    pub fn extend(&mut self, other: &Waits) {
        self.0.extend(&other.0);
    }

    /// `median/max of n`, in ms; a dash if there is none.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.median_and_max() {
            Some((median, max)) => format!("median {median:.0} ms, max {max:.0} ms of {}", self.0.len()),
            None => "-".to_owned(),
        }
    }

    fn median_and_max(&self) -> Option<(f64, f64)> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some((median, max))
    }

    /// What is above these bounds, in ms.
    fn above(&self, name: &str, median_max: f64, max: f64) -> Option<String> {
        let (median, longest) = self.median_and_max()?;
        (median > median_max || longest > max).then(|| {
            format!(
                "{name}: {}; must be {median_max:.0} and {max:.0} ms",
                self.shown()
            )
        })
    }
}

/// The figures of section 8 of the reliability design that an episode can show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// G2: the leader killed until the next write succeeds.
    pub kill_leader: Waits,
    /// G5: everybody killed and started again until the next write succeeds.
    pub kill_all: Waits,
    /// G3: the leader cut off or stopped until the next write succeeds.
    pub lose_leader: Waits,
    /// G4: network healed until a linearizable read through the old leader succeeds.
    pub old_leader_reads: Waits,
    /// G13: longest gap between writes after a follower came back.
    pub follower_returns: Waits,
    /// G13: changes of term after a follower came back.
    pub follower_elections: u64,
    /// Distinct terms seen.
    pub terms: u64,
}

impl Figures {
    /// Reads them off a history.
    #[must_use]
    pub fn of(history: &History) -> Figures {
        let operations = history.operations();
        let mut terms: Vec<u64> = operations.iter().filter_map(term).collect();
        terms.sort_unstable();
        terms.dedup();
        let mut figures = Figures {
            terms: terms.len() as u64,
            ..Figures::default()
        };
        let healed = history.phase(Phase::Final).unwrap_or(u64::MAX);
        for fault in history.faults() {
            let of_leader = fault.detail.contains("the leader");
            match fault.kind.as_str() {
                // Beside another fault, a figure would measure both.
                _ if !alone(history, fault) => (),
                "kill" if of_leader => figures.kill_leader.0.extend(outage(&operations, fault)),
                "kill" if fault.detail.contains("all members") => {
                    figures.kill_all.0.extend(next_write(&operations, fault.end));
                }
                "isolate" | "cut-peers" | "pause" if of_leader => {
                    // A fault that ends before a leader is elected measures nothing but itself.
                    if fault.end - fault.start > OUTAGE_MAX {
                        figures.lose_leader.0.extend(outage(&operations, fault));
                    }
                    figures
                        .old_leader_reads
                        .0
                        .extend(read_through(&operations, fault));
                }
                "isolate" if fault.detail.contains("a follower") && fault.end - fault.start > LONG_AWAY => {
                    let until = (fault.end + 10_000_000_000).min(healed);
                    figures
                        .follower_returns
                        .0
                        .extend(longest_gap(&operations, fault.end, until));
                    let before = newest_term(&operations, fault.start, fault.end);
                    let after = newest_term(&operations, fault.end, until);
                    figures.follower_elections += after.saturating_sub(before);
                }
                _ => (),
            }
        }
        figures
    }

    /// Adds those of another episode.
    pub fn add(&mut self, other: &Figures) {
        self.kill_leader.extend(&other.kill_leader);
        self.kill_all.extend(&other.kill_all);
        self.lose_leader.extend(&other.lose_leader);
        self.old_leader_reads.extend(&other.old_leader_reads);
        self.follower_returns.extend(&other.follower_returns);
        self.follower_elections += other.follower_elections;
        self.terms += other.terms;
    }

    /// Every figure with its number, on a line of its own.
    #[must_use]
    pub fn shown(&self) -> String {
        let returns = self.follower_returns.0.len();
        format!(
            "  G2  leader killed -> next write:           {}
  G3  leader cut off or stopped -> next write: {}
  G4  healed -> read through the old leader: {}
  G5  all killed and started -> next write:  {}
  G13 follower back -> longest write gap:    {}; {} elections after {returns} returns",
            self.kill_leader.shown(),
            self.lose_leader.shown(),
            self.old_leader_reads.shown(),
            self.kill_all.shown(),
            self.follower_returns.shown(),
            self.follower_elections,
        )
    }

    /// Figures that are not as section 8 of the reliability design wants them at the Gate.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        let mut breaches: Vec<String> = [
            self.kill_leader.above("G2", 1_000.0, 3_000.0),
            self.lose_leader.above("G3", 1_500.0, 3_000.0),
            self.old_leader_reads.above("G4", 2_000.0, 2_000.0),
            self.kill_all.above("G5", 5_000.0, 5_000.0),
            self.follower_returns.above("G13", 1_000.0, 1_000.0),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.follower_elections > self.follower_returns.0.len() as u64 {
            let elections = self.follower_elections;
            breaches.push(format!("G13: {elections} elections, must be 1 for each return"));
        }
        breaches
    }
}

fn is_write(request: &Request) -> bool {
    matches!(
        request,
        Request::Put(_) | Request::Txn(_) | Request::DeleteRange(_)
    )
}

fn term(operation: &Operation) -> Option<u64> {
    operation.response().map(|response| response.header().raft_term)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The pause between writes that a fault made: the longest one that begins within it, or shortly before.
fn outage(operations: &[Operation], fault: &Fault) -> Option<f64> {
    longest_gap(operations, fault.start, fault.start + OUTAGE_MAX)
}

/// Whether no other fault was under way, or had just ended.
fn alone(history: &History, fault: &Fault) -> bool {
    history.faults().all(|other| {
        other == fault || other.start > fault.start + OUTAGE_MAX || other.end + SETTLING < fault.start
    })
}

/// From the end of a fault until the first linearizable read through its target succeeds.
fn read_through(operations: &[Operation], fault: &Fault) -> Option<f64> {
    let reads = operations.iter().filter(|operation| {
        operation.call >= fault.end
            && operation
                .member
                .is_some_and(|member| fault.targets.contains(&member))
            && matches!(&operation.request, Request::Range(range) if !range.serializable)
            && matches!(operation.response(), Some(Response::Range(_)))
    });
    let first = reads.map(|read| read.ret).min()?;
    Some(millis(first - fault.end))
}

/// From a moment until a write succeeds that was called after it. Answers to earlier ones may still be on their way.
fn next_write(operations: &[Operation], from: u64) -> Option<f64> {
    let writes = operations.iter().filter(|operation| {
        operation.call >= from && is_write(&operation.request) && operation.response().is_some()
    });
    let first = writes.map(|write| write.ret).min()?;
    Some(millis(first - from))
}

/// The longest time without a successful write between two moments.
fn longest_gap(operations: &[Operation], from: u64, until: u64) -> Option<f64> {
    let mut moments: Vec<u64> = operations
        .iter()
        .filter(|operation| is_write(&operation.request) && operation.response().is_some())
        .map(|operation| operation.ret)
        .filter(|moment| (from..until).contains(moment))
        .collect();
    moments.push(from);
    moments.push(until);
    moments.sort_unstable();
    moments
        .windows(2)
        .map(|pair| millis(pair[1] - pair[0]))
        .max_by(f64::total_cmp)
}

/// Newest term seen in a span.
fn newest_term(operations: &[Operation], from: u64, until: u64) -> u64 {
    let terms = operations
        .iter()
        .filter(|operation| (from..until).contains(&operation.ret))
        .filter_map(term);
    terms.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Outcome, Put, PutResponse, Record, Return};

    fn put(history: &mut History, id: u64, call: u64, ret: u64) {
        let request = Request::Put(Put::default());
        history.push(Record::Call(Call {
            at: call,
            id,
            client: 0,
            member: Some(0),
            request,
        }));
        let outcome = Outcome::Ok(Response::Put(PutResponse::default()));
        history.push(Record::Return(Return { at: ret, id, outcome }));
    }

    #[test]
    fn a_late_answer_is_not_the_first_write_after_a_restart() {
        let mut history = History::default();
        for (id, call, ret) in [
            (1, 1_000, 2_010),
            (2, 1_990, 2_020),
            (3, 2_100, 2_600),
            (4, 2_500, 2_700),
        ] {
            put(&mut history, id, call * 1_000_000, ret * 1_000_000);
        }
        history.push(Record::Fault(Fault {
            kind: "kill".to_owned(),
            start: 1_950_000_000,
            end: 2_000_000_000,
            detail: "kill -9 of all members".to_owned(),
            ..Fault::default()
        }));
        let figures = Figures::of(&history);
        assert_eq!(figures.kill_all.shown(), "median 600 ms, max 600 ms of 1");
    }

    #[test]
    fn a_figure_above_its_bound_is_named() {
        let mut figures = Figures {
            kill_leader: Waits(vec![400.0, 900.0, 2_900.0]),
            old_leader_reads: Waits(vec![30.0]),
            follower_returns: Waits(vec![300.0]),
            follower_elections: 1,
            ..Figures::default()
        };
        assert!(figures.breaches().is_empty());
        figures.kill_leader.0.push(3_100.0);
        figures.follower_elections = 2;
        let breaches = figures.breaches().join("; ");
        assert!(
            breaches.starts_with("G2: median 1900 ms, max 3100 ms of 4"),
            "{breaches}"
        );
        assert!(breaches.contains("G13: 2 elections"), "{breaches}");
    }

    #[test]
    fn an_outage_is_the_longest_pause_after_the_fault_began() {
        let mut history = History::default();
        for (id, at) in [(1, 990), (2, 1_010), (3, 1_700), (4, 1_710), (5, 4_400)] {
            put(&mut history, id, (at - 5) * 1_000_000, at * 1_000_000);
        }
        for id in 6..80 {
            let at = (1_710 + id * 36) * 1_000_000;
            put(&mut history, id, at, at + 1);
        }
        history.push(Record::Fault(Fault {
            kind: "kill".to_owned(),
            start: 1_000_000_000,
            end: 1_300_000_000,
            detail: "kill -9 of the leader".to_owned(),
            ..Fault::default()
        }));
        let figures = Figures::of(&history);
        assert_eq!(figures.kill_leader.shown(), "median 690 ms, max 690 ms of 1");
    }
}
