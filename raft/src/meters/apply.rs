//! How long commands take to apply.
//!
//! Time is taken once for each entry, as many commands in one are: each of them counts with an equal share of it. So
//! counts and sums are true, and buckets tell slow entries rather than the one slow command inside.

use std::time::Duration;

use kelson_storage::applied::Outcome;
use kelson_storage::codec::{Kinds, kinds};
use kelson_storage::command::{CommandId, CommandKind};
use kelson_storage::error::Rejected;

use super::Histogram;

/// Kinds of commands, in the order of their declaration, and what etcd calls them. Source: etcd `uberApplier.dispatch`.
const OPERATIONS: [(CommandKind, &str); 9] = [
    (CommandKind::Put, "Put"),
    (CommandKind::DeleteRange, "DeleteRange"),
    (CommandKind::Txn, "Txn"),
    (CommandKind::Compact, "Compaction"),
    (CommandKind::LeaseGrant, "LeaseGrant"),
    (CommandKind::LeaseRevoke, "LeaseRevoke"),
    (CommandKind::Alarm, "Alarm"),
    (CommandKind::PublishMember, "ClusterMemberAttrSet"),
    (CommandKind::ClusterVersion, "ClusterVersionSet"),
];

/// By kind, what was rejected and what was not.
type ByKind<T> = [[T; 2]; OPERATIONS.len()];

/// See the module.
#[derive(Debug)]
pub struct ApplyMeters(ByKind<Histogram>);

impl Default for ApplyMeters {
    fn default() -> Self {
        // Source: etcd's `0.0001 x 2^20` seconds.
        let histogram = |()| Histogram::doubling(Duration::from_micros(100), 20);
        Self([(); OPERATIONS.len()].map(|()| [(); 2].map(histogram)))
    }
}

impl ApplyMeters {
    /// The operation, whether it succeeded, and how long it took; all that there could be.
    pub fn labelled(&self) -> impl Iterator<Item = (&'static str, bool, &Histogram)> {
        self.0.iter().zip(OPERATIONS).flat_map(|(fates, (_, name))| {
            let fates = fates.iter().zip([false, true]);
            fates.map(move |(histogram, succeeded)| (name, succeeded, histogram))
        })
    }

    /// The entry that `tally` is of took `length` to apply.
    pub(crate) fn observe(&self, tally: &Tally<'_>, length: Duration) {
        let commands = tally.counts.as_flattened().iter().sum();
        let Some(share) = length.checked_div(commands) else {
            return;
        };
        let histograms = self.0.as_flattened().iter();
        for (histogram, count) in histograms.zip(tally.counts.as_flattened()) {
            if *count > 0 {
                histogram.observe_times(share, u64::from(*count));
            }
        }
    }
}

/// What the commands of one entry were. Copies that were dropped are not among them.
pub(crate) struct Tally<'a> {
    commands: Kinds<'a>,
    counts: ByKind<u32>,
}

impl<'a> Tally<'a> {
    /// Of an entry with these proposals.
    pub(crate) fn of(proposals: &'a [u8]) -> Self {
        Self {
            commands: kinds(proposals),
            counts: ByKind::default(),
        }
    }

    /// The outcome of a command; they come in the order of the proposals.
    pub(crate) fn outcome(&mut self, of: CommandId, outcome: &Outcome) {
        let Some((_, kind)) = self.commands.find(|(id, _)| *id == of) else {
            debug_assert!(false, "an outcome without a proposal, or out of order");
            return;
        };
        // As in etcd: whoever is told of a compaction was answered.
        let succeeded = matches!(outcome.result, Ok(_) | Err(Rejected::Compacted));
        self.counts[kind as usize][usize::from(succeeded)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use kelson_storage::applied::Applied;
    use kelson_storage::codec::encode_batch;
    use kelson_storage::command::{Command, Proposal, Put};

    use super::*;

    fn proposal(seq: u64, command: Command) -> Proposal {
        let id = CommandId {
            origin: 1,
            session: 1,
            seq,
        };
        Proposal { id, low: 1, command }
    }

    fn counts(meters: &ApplyMeters) -> Vec<(&'static str, bool, u64)> {
        let all = meters.labelled();
        let counts = all.map(|(name, succeeded, histogram)| (name, succeeded, histogram.cumulative().1));
        counts.filter(|(.., count)| *count > 0).collect()
    }

    #[test]
    fn every_kind_has_a_row_of_its_own() {
        for (row, kind) in CommandKind::ALL.into_iter().enumerate() {
            assert_eq!(OPERATIONS[row].0, kind);
        }
    }

    #[test]
    fn commands_share_the_time_of_their_entry_and_dropped_copies_have_none() {
        let put = || Command::Put(Put::default());
        let proposals = [
            proposal(1, put()),
            proposal(2, Command::Compact { revision: 5 }),
            proposal(3, put()),
            proposal(4, put()),
            proposal(5, put()),
        ];
        let batch = encode_batch(&proposals);
        let mut tally = Tally::of(&batch);
        for (seq, result) in [
            (1, Ok(Applied::Put { prev_kv: None })),
            (2, Err(Rejected::Compacted)),
            (4, Err(Rejected::LeaseNotFound)),
            (5, Ok(Applied::Put { prev_kv: None })),
        ] {
            let (revision, term) = (1, 1);
            let outcome = Outcome {
                revision,
                term,
                result,
            };
            tally.outcome(proposals[seq - 1].id, &outcome);
        }
        let meters = ApplyMeters::default();
        meters.observe(&tally, Duration::from_millis(8));
        assert_eq!(
            counts(&meters),
            [("Put", false, 1), ("Put", true, 2), ("Compaction", true, 1)]
        );
        let sums = meters.labelled().map(|(.., histogram)| histogram.sum());
        assert_eq!(sums.sum::<Duration>(), Duration::from_millis(8));
    }

    #[test]
    fn an_entry_without_outcomes_is_not_measured() {
        let meters = ApplyMeters::default();
        meters.observe(&Tally::of(&[]), Duration::from_secs(1));
        assert_eq!(counts(&meters), []);
    }
}
