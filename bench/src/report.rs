//! What a comparison came to, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::calibration::Calibration;
use crate::goals;

/// One run of one load. Times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Requests answered per second.
    pub rate: f64,
    /// Latency of half of the requests, at most.
    pub p50_us: u64,
    /// Of 99 in a hundred.
    pub p99_us: u64,
    /// Of 999 in a thousand.
    pub p999_us: u64,
    /// Processor time of all members for each request.
    pub cpu_us: f64,
    /// That of the generator.
    pub generator_cpu_us: f64,
    /// Bytes written to the disk for each request, where there is one.
    pub disk_bytes: Option<f64>,
    /// Most memory that any member had resident during the row.
    pub peak_resident_mib: u64,
    /// How much of that came during this row.
    pub grown_mib: u64,
    /// What the files of all members took afterwards; not known where a member was killed.
    pub files_mib: u64,
    /// How many times what it has in use a member's database took of the disk then, at most.
    pub database_over_used: f64,
    /// Requests that failed.
    pub errors: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {} us, p99 {} us, CPU {:.0} us, {} errors",
            self.rate, self.p50_us, self.p99_us, self.cpu_us, self.errors
        )
    }
}

/// All runs of one load.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    /// Which.
    pub name: &'static str,
    /// With its settings.
    pub load: String,
    /// Of each pair, what A and B did.
    pub pairs: Vec<[Option<Figures>; 2]>,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The server that is judged: name and version.
    pub a: String,
    /// The one it is held against.
    pub b: String,
    /// Runs of each.
    pub pairs: usize,
    /// Time each load was measured for.
    pub seconds: u64,
    /// What the machine can do.
    pub calibration: Calibration,
    /// Load by load.
    pub rows: Vec<RowReport>,
    /// Runs of rows that failed, and why.
    pub failures: Vec<String>,
}

impl RowReport {
    /// A row without runs.
    pub fn new(name: &'static str, load: &str) -> Self {
        Self {
            name,
            load: load.to_owned(),
            pairs: Vec::new(),
        }
    }

    /// Side 0 is A, 1 is B.
    pub fn add(&mut self, pair: usize, side: usize, figures: Figures) {
        while self.pairs.len() <= pair {
            self.pairs.push([None, None]);
        }
        self.pairs[pair][side] = Some(figures);
    }

    /// The median over one side's runs.
    pub fn median(&self, side: usize, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        let values = self.pairs.iter().filter_map(|pair| pair[side].as_ref()).map(of);
        Spread::of(values.collect()).map(|spread| spread.median)
    }

    /// The median over the pairs of A's figure as a share of B's.
    pub fn median_ratio(&self, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        self.ratio(of).map(|spread| spread.median)
    }

    /// A's figure as a share of B's, over the pairs.
    fn ratio(&self, of: impl Fn(&Figures) -> f64) -> Option<Spread> {
        let ratios = self.pairs.iter().filter_map(|pair| match pair {
            [Some(a), Some(b)] => Some(of(a) / of(b)).filter(|ratio| ratio.is_finite()),
            _ => None,
        });
        Spread::of(ratios.collect())
    }
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, least, most })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "**{:.2}** ({:.2}-{:.2})", self.median, self.least, self.most)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A: `{}`; B: `{}`", self.a, self.b)?;
        writeln!(
            f,
            "\n{} of {} pairs in turns, three members each with equal flags, {} s for each load; ratios are A to B: median \
             (least-most) of the pairs; rates, latencies and CPU are medians; CPU is of all members for each request.\n\n{}\n",
            self.measured_pairs(),
            self.pairs,
            self.seconds,
            self.calibration
        )?;
        writeln!(
            f,
            "| load | rate | CPU | p50 | p99 | p99.9 | A: rate, p50/p99/p99.9 us, CPU us | B | generator CPU us | disk B \
             | peak MiB | grown MiB | files MiB | database/in use | errors |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for row in &self.rows {
            self.write_row(f, row)?;
        }
        writeln!(f)?;
        for row in &self.rows {
            writeln!(f, "* {}: {}", row.name, row.load)?;
        }
        writeln!(f, "\n{}", goals::table(&self.rows, &self.calibration))?;
        for failure in &self.failures {
            writeln!(f, "* FAILED: {failure}")?;
        }
        Ok(())
    }
}

impl Report {
    /// Pairs that the row with most of them has.
    fn measured_pairs(&self) -> usize {
        self.rows.iter().map(|row| row.pairs.len()).max().unwrap_or(0)
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds and counts of one run")]
    fn write_row(&self, f: &mut fmt::Formatter<'_>, row: &RowReport) -> fmt::Result {
        let ratio = |of: fn(&Figures) -> f64| {
            row.ratio(of)
                .map_or_else(|| "-".to_owned(), |spread| spread.to_string())
        };
        let median = |side, of: fn(&Figures) -> f64| row.median(side, of).unwrap_or(f64::NAN);
        let side = |side| {
            format!(
                "{:.0}/s, {:.0}/{:.0}/{:.0}, {:.1}",
                median(side, |figures| figures.rate),
                median(side, |figures| figures.p50_us as f64),
                median(side, |figures| figures.p99_us as f64),
                median(side, |figures| figures.p999_us as f64),
                median(side, |figures| figures.cpu_us)
            )
        };
        let database = [0, 1].map(|side| median(side, |figures| figures.database_over_used));
        let both = |of: fn(&Figures) -> f64| format!("{:.0} / {:.0}", median(0, of), median(1, of));
        writeln!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            ratio(|figures| figures.rate),
            ratio(|figures| figures.cpu_us),
            ratio(|figures| figures.p50_us as f64),
            ratio(|figures| figures.p99_us as f64),
            ratio(|figures| figures.p999_us as f64),
            side(0),
            side(1),
            both(|figures| figures.generator_cpu_us),
            both(|figures| figures.disk_bytes.unwrap_or(f64::NAN)),
            both(|figures| figures.peak_resident_mib as f64),
            both(|figures| figures.grown_mib as f64),
            both(|figures| figures.files_mib as f64),
            format_args!("{:.2} / {:.2}", database[0], database[1]),
            both(|figures| figures.errors as f64),
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn figures(rate: f64) -> Figures {
        Figures {
            rate,
            p50_us: 100,
            p99_us: 200,
            p999_us: 300,
            cpu_us: 10.0,
            generator_cpu_us: 5.0,
            disk_bytes: None,
            peak_resident_mib: 50,
            grown_mib: 5,
            files_mib: 100,
            database_over_used: 1.0,
            errors: 0,
        }
    }

    /// The median of the ratios, not the ratio of the medians: pairs met the same machine, sides did not.
    #[test]
    fn a_ratio_is_taken_within_each_pair() {
        let mut row = RowReport::new("row", "load");
        for (pair, (a, b)) in [(10.0, 1.0), (100.0, 50.0), (30.0, 10.0)].into_iter().enumerate() {
            row.add(pair, 1, figures(b));
            row.add(pair, 0, figures(a));
        }
        // A run without its partner counts for nothing.
        row.add(3, 0, figures(1e9));
        let spread = row.ratio(|figures| figures.rate).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 3.0,
                least: 2.0,
                most: 10.0
            }
        );
        assert_eq!(row.median(1, |figures| figures.rate), Some(10.0));
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
