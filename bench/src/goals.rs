//! What Kelson wants to be beside etcd, and what a comparison says of it.

use std::fmt;

use crate::calibration::Calibration;
use crate::report::{Figures, RowReport};

/// One goal: a figure of a row.
struct Goal {
    row: &'static str,
    what: &'static str,
    of: fn(&Figures) -> f64,
    wanted: Wanted,
}

/// What the figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    /// A's figure is so many times B's, at least; the median over the pairs.
    TimesAtLeast(f64),
    /// A's figure is so many times B's, at most; the median over the pairs.
    TimesAtMost(f64),
    /// A's figure itself; the worst of all runs.
    AtMost(f64),
    /// A's figure is so many times that of another row of its own, at most; medians.
    TimesOwnAtMost(f64, &'static str),
}

const RATE: fn(&Figures) -> f64 = |figures| figures.rate;
const CPU: fn(&Figures) -> f64 = |figures| figures.cpu_us;
const P50: fn(&Figures) -> f64 = |figures| figures.p50_us as f64;
const P99: fn(&Figures) -> f64 = |figures| figures.p99_us as f64;
const P999: fn(&Figures) -> f64 = |figures| figures.p999_us as f64;
const PEAK: fn(&Figures) -> f64 = |figures| figures.peak_resident_mib as f64;
const DATABASE: fn(&Figures) -> f64 = |figures| figures.database_over_used;
const GROWN: fn(&Figures) -> f64 = |figures| figures.grown_mib as f64;

/// The goals that a comparison can judge; what changes with the number of keys is `growth`'s.
fn goals() -> Vec<Goal> {
    let goal = |row, what, of, wanted| Goal {
        row,
        what,
        of,
        wanted,
    };
    let rate = |row, times| goal(row, "rate", RATE, Wanted::TimesAtLeast(times));
    let cpu = |row, times| goal(row, "CPU", CPU, Wanted::TimesAtMost(times));
    let p99 = |row, times| goal(row, "p99", P99, Wanted::TimesAtMost(times));
    let mut goals = vec![
        rate("P1 put, etcd's tool", 3.0),
        cpu("P1 put, etcd's tool", 0.25),
        rate("P2 put, etcd's tool", 3.0),
        cpu("P2 put, etcd's tool", 0.33),
        goal("P3 put", "p50", P50, Wanted::TimesAtMost(0.5)),
        p99("P4 put at half", 0.3),
        goal("P4 put at half", "p99.9", P999, Wanted::TimesAtMost(0.2)),
        rate("P5 get linearizable, etcd's tool", 1.8),
        cpu("P5 get linearizable, etcd's tool", 0.4),
        rate("P5 get serializable, etcd's tool", 1.5),
        cpu("P5 get serializable, etcd's tool", 0.4),
        p99("P6 get at 2000/s beside puts", 0.2),
        rate("P7 txn of 10", 4.0),
        rate("P7 STM", 2.5),
        rate("P7 lease keepalive", 2.0),
        rate("P7 put 16 KiB", 2.0),
    ];
    for row in [
        "P9 list in one reply",
        "P9 list by RangeStream",
        "P9 list in pages",
    ] {
        goals.push(goal(row, "MiB grown", GROWN, Wanted::AtMost(32.0)));
        goals.push(cpu(row, 0.5));
    }
    let calm = "P10 put at 500/s, calm";
    let alone = "P13 events, 8 writers";
    goals.extend([
        goal(
            "P10 put at 500/s, compaction",
            "p99",
            P99,
            Wanted::TimesOwnAtMost(1.3, calm),
        ),
        goal(
            "P10 put at 500/s, compaction",
            "p99.9, us",
            P999,
            Wanted::AtMost(50_000.0),
        ),
        goal(
            "P10 put at 500/s, compaction",
            "database over what is in use",
            DATABASE,
            Wanted::AtMost(1.3),
        ),
        goal(
            "P10 put at half, compaction",
            "p99",
            P99,
            Wanted::TimesOwnAtMost(1.3, "P4 put at half"),
        ),
        goal(
            "P10 put at half, compaction",
            "p99.9, us",
            P999,
            Wanted::AtMost(50_000.0),
        ),
        rate("P13 put with watchers", 3.0),
        goal(
            "P13 events, 8 writers, beside a laggard",
            "p99",
            P99,
            Wanted::TimesOwnAtMost(1.2, alone),
        ),
        goal("P14 leader killed", "gap, us", P50, Wanted::AtMost(400_000.0)),
        goal("P14 leader killed", "gap", P50, Wanted::TimesAtMost(0.3)),
        rate("P15 node leases of 5 k", 3.0),
        rate("P15 node leases of 100 k", 3.0),
        cpu("P16 idle", 1.0),
        goal("P16 idle", "peak MiB", PEAK, Wanted::TimesAtMost(0.5)),
    ]);
    goals
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimesAtLeast(times) => write!(f, "at least {times}x"),
            Self::TimesAtMost(times) => write!(f, "at most {times}x"),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::TimesOwnAtMost(times, row) => write!(f, "at most {times}x of {row}"),
        }
    }
}

impl Goal {
    /// The figure, and whether it is as wanted; none if the rows it takes were not measured.
    fn judge(&self, rows: &[RowReport]) -> Option<(f64, bool)> {
        let find = |name: &str| rows.iter().find(|row| row.name == name);
        let row = find(self.row)?;
        Some(match self.wanted {
            Wanted::TimesAtLeast(least) => {
                let times = row.median_ratio(self.of)?;
                (times, times >= least)
            }
            Wanted::TimesAtMost(most) => {
                let times = row.median_ratio(self.of)?;
                (times, times <= most)
            }
            Wanted::AtMost(most) => {
                let runs = row.pairs.iter().filter_map(|pair| pair[0].as_ref());
                let worst = runs.map(self.of).max_by(f64::total_cmp)?;
                (worst, worst <= most)
            }
            Wanted::TimesOwnAtMost(most, other) => {
                let times = row.median(0, self.of)? / find(other)?.median(0, self.of)?;
                (times, times <= most)
            }
        })
    }

    /// What the figure would be of a server that does nothing itself, on this machine; none if that is not known.
    #[expect(clippy::cast_precision_loss, reason = "microseconds")]
    fn bound(&self, rows: &[RowReport], calibration: &Calibration) -> Option<f64> {
        let row = rows.iter().find(|row| row.name == self.row)?;
        match (self.row, self.what) {
            // Answered once two of three members have synced.
            ("P3 put", "p50") => {
                let least = calibration.shared_sync_p50 + calibration.lone_p50;
                Some(least as f64 / row.median(1, P50)?)
            }
            (name, "rate") => {
                let ceilings = &calibration.tool_ceilings;
                let (_, ceiling) = ceilings.iter().find(|(row, _)| *row == name)?;
                Some(ceiling / row.median(1, RATE)?)
            }
            _ => None,
        }
    }
}

/// A table of all goals whose rows were measured.
pub fn table(rows: &[RowReport], calibration: &Calibration) -> String {
    let mut table =
        "| goal | figure | wanted | measured | | a server that does nothing |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for goal in goals() {
        let Some((measured, is_met)) = goal.judge(rows) else {
            continue;
        };
        let verdict = if is_met { "met" } else { "**not met**" };
        let bound = goal.bound(rows, calibration);
        let bound = bound.map_or_else(|| "-".to_owned(), |bound| format!("{bound:.2}"));
        table += &format!(
            "| {} | {} | {} | {measured:.2} | {verdict} | {bound} |\n",
            goal.row, goal.what, goal.wanted
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::figures;

    #[test]
    fn goals_are_judged_by_medians_of_ratios_and_by_the_worst_run() {
        let mut puts = RowReport::new("P1 put, etcd's tool", "");
        for (pair, (a, b)) in [(31.0, 10.0), (10.0, 10.0), (33.0, 10.0)].into_iter().enumerate() {
            puts.add(pair, 0, figures(a));
            puts.add(pair, 1, figures(b));
        }
        let mut list = RowReport::new("P9 list in one reply", "");
        list.add(0, 0, figures(1.0));
        list.add(0, 1, figures(1.0));
        let mut grown = figures(1.0);
        grown.grown_mib = 40;
        list.add(1, 0, grown);
        let calibration = Calibration {
            tool_ceilings: vec![("P1 put, etcd's tool", 42.0)],
            ..Calibration::default()
        };
        let table = table(&[puts, list], &calibration);
        assert!(
            table.contains("| P1 put, etcd's tool | rate | at least 3x | 3.10 | met | 4.20 |"),
            "{table}"
        );
        assert!(table.contains("| P1 put, etcd's tool | CPU | at most 0.25x | 1.00 | **not met** | - |"));
        assert!(
            table.contains("| P9 list in one reply | MiB grown | at most 32 | 40.00 | **not met** | - |")
        );
        assert!(!table.contains("P3"), "it was not measured");
    }

    #[test]
    fn a_lone_put_takes_a_sync_and_a_request_at_least() {
        let mut put = RowReport::new("P3 put", "");
        put.add(0, 0, figures(1.0));
        put.add(0, 1, figures(1.0));
        let calibration = Calibration {
            shared_sync_p50: 30,
            lone_p50: 11,
            ..Calibration::default()
        };
        // B's was 100 us.
        let table = table(&[put], &calibration);
        assert!(
            table.contains("| P3 put | p50 | at most 0.5x | 1.00 | **not met** | 0.41 |"),
            "{table}"
        );
    }
}
