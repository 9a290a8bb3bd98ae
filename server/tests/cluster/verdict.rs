//! Compares what the store holds with what its writers were told.

use kelson_proto::mvccpb::KeyValue;
use tokio::time::Instant;

use crate::harness::client::{between, text};
use crate::harness::{Client, kv_pairs};
use crate::members::PATIENCE;
use crate::writer::{Counted, Outcome, Writer, number, unique_value};

/// Keys per page of a long read.
const PAGE_KEYS: i64 = 5_000;

/// Most violations that are listed.
const VIOLATIONS_MAX: usize = 20;

/// A comparison in progress: shown every pair of a range once, in any order.
pub struct Verdict<'a> {
    writers: &'a [Writer],
    rounds: std::ops::RangeInclusive<u64>,
    acknowledged: usize,
    unknown: usize,
    counters: usize,
    violations: Vec<String>,
}

/// What a comparison found when it found nothing wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged unique puts, all of which were found.
    pub acknowledged: usize,
    /// Unique puts of unknown outcome that had happened.
    pub unknown: usize,
}

impl<'a> Verdict<'a> {
    /// About all that was written in some rounds.
    pub fn of(writers: &'a [Writer], rounds: std::ops::RangeInclusive<u64>) -> Verdict<'a> {
        let violations = writers.iter().flat_map(|writer| writer.violations.clone());
        Verdict {
            writers,
            rounds,
            acknowledged: 0,
            unknown: 0,
            counters: 0,
            violations: violations.collect(),
        }
    }

    /// One pair of the store.
    pub fn see(&mut self, pair: &KeyValue) {
        let key = text(&pair.key);
        let parts: Vec<&str> = key.split('/').collect();
        match parts[..] {
            ["u", round, writer, n] => self.see_unique(pair, &key, [round, writer, n]),
            ["c", writer] => self.see_counter(pair, &key, writer, |writer| &writer.puts),
            ["s", writer] => {
                if number(&pair.value) != pair.version {
                    self.wrong(format!(
                        "{key} holds {} after {} steps",
                        number(&pair.value),
                        pair.version
                    ));
                }
                self.see_counter(pair, &key, writer, |writer| &writer.swaps);
            }
            _ => self.wrong(format!("{key} was never written")),
        }
    }

    fn see_unique(&mut self, pair: &KeyValue, key: &str, [round, writer, n]: [&str; 3]) {
        let round: u64 = round.parse().expect("a round");
        let outcome = self
            .writer(writer)
            .and_then(|writer| writer.unique.get(&round))
            .and_then(|outcomes| outcomes.get(n.parse::<usize>().expect("a number")));
        match outcome {
            None => self.wrong(format!("{key} was never written")),
            Some(Outcome::Unknown) => self.unknown += 1,
            Some(Outcome::Acknowledged(revision)) => {
                self.acknowledged += 1;
                if pair.mod_revision != *revision {
                    let found = pair.mod_revision;
                    self.wrong(format!(
                        "{key} was acknowledged at {revision} and stands at {found}"
                    ));
                }
            }
        }
        if pair.version != 1 || pair.create_revision != pair.mod_revision {
            self.wrong(format!("{key} was put once and has version {}", pair.version));
        }
        if text(&pair.value) != unique_value(key) {
            self.wrong(format!("{key} holds {:?}", pair.value));
        }
    }

    fn see_counter(&mut self, pair: &KeyValue, key: &str, writer: &str, of: impl Fn(&Writer) -> &Counted) {
        let Some(counted) = self.writer(writer).map(of) else {
            return self.wrong(format!("{key} was never written"));
        };
        self.counters += 1;
        let steps = counted.acknowledged..=counted.acknowledged + counted.unknown;
        if !steps.contains(&pair.version) {
            self.wrong(format!(
                "{key} has version {} after {steps:?} writes",
                pair.version
            ));
        }
        if pair.mod_revision < counted.newest {
            self.wrong(format!(
                "{key} stands at {}, before its acknowledged write at {}",
                pair.mod_revision, counted.newest
            ));
        }
    }

    fn writer(&self, id: &str) -> Option<&'a Writer> {
        self.writers.get(id.parse::<usize>().ok()?)
    }

    fn wrong(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Everything has been seen; `counters` says whether the counters were among it.
    pub fn finish(mut self, counters: bool) -> Result<Tally, String> {
        let expected: usize = self.writers.iter().map(|writer| self.expected_of(writer)).sum();
        if self.acknowledged != expected {
            let found = self.acknowledged;
            self.wrong(format!("{found} of {expected} acknowledged puts are there"));
        }
        let counted = |counted: &Counted| usize::from(counted.acknowledged > 0);
        let needed: usize = self
            .writers
            .iter()
            .map(|writer| counted(&writer.puts) + counted(&writer.swaps))
            .sum();
        if counters && self.counters < needed {
            let found = self.counters;
            self.wrong(format!("{found} of {needed} counters are there"));
        }
        if self.violations.is_empty() {
            return Ok(Tally {
                acknowledged: self.acknowledged,
                unknown: self.unknown,
            });
        }
        let count = self.violations.len();
        self.violations.truncate(VIOLATIONS_MAX);
        Err(format!("{count} violations:\n{}", self.violations.join("\n")))
    }

    fn expected_of(&self, writer: &Writer) -> usize {
        let rounds = writer.unique.range(self.rounds.clone());
        rounds
            .flat_map(|(_, outcomes)| outcomes)
            .filter(|outcome| matches!(outcome, Outcome::Acknowledged(_)))
            .count()
    }
}

/// Reads all that was written in some rounds through one member, at one revision that a linearizable read gave, and
/// fails the test unless it is what the writers were told. Returns the revision too.
pub async fn judge(
    client: &Client,
    writers: &[Writer],
    rounds: std::ops::RangeInclusive<u64>,
) -> (i64, Tally) {
    let mut verdict = Verdict::of(writers, rounds.clone());
    let first = format!("u/{:04}/", rounds.start());
    let past = format!("u/{:04}/", rounds.end() + 1);
    let mut revision = 0;
    // "c/" to "t": both kinds of counters; nothing else may be between them.
    for (from, to) in [("c/".to_owned(), "t".to_owned()), (first, past)] {
        revision = read(client, &from, &to, revision, &mut verdict).await;
    }
    match verdict.finish(true) {
        Ok(tally) => (revision, tally),
        Err(violations) => panic!("{violations}"),
    }
}

/// Shows every pair of a range at `revision` (0: the newest, linearizably) to the verdict.
async fn read(client: &Client, from: &str, to: &str, revision: i64, verdict: &mut Verdict<'_>) -> i64 {
    let (mut from, mut revision) = (from.to_owned(), revision);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut request = between(&from, to);
        request.limit = PAGE_KEYS;
        request.revision = revision;
        let reply = client.range(request).await.expect("a calm cluster answers");
        if revision == 0 {
            revision = reply.header.expect("header").revision;
        }
        let pairs = kv_pairs(&reply.kvs);
        pairs.iter().for_each(|pair| verdict.see(pair));
        match pairs.last() {
            Some(last) if reply.more => from = format!("{}\0", text(&last.key)),
            _ => return revision,
        }
        assert!(Instant::now() < deadline, "a read without end");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::writer::{put_key, swap_key, unique_key};

    /// One writer with an acknowledged and an unknown unique put, and three acknowledged steps of each counter.
    fn writers() -> Vec<Writer> {
        let mut writer = Writer::new(0);
        let outcomes = vec![Outcome::Acknowledged(5), Outcome::Unknown];
        writer.unique.insert(0, outcomes);
        for counted in [&mut writer.puts, &mut writer.swaps] {
            *counted = Counted {
                acknowledged: 3,
                unknown: 1,
                newest: 9,
            };
        }
        vec![writer]
    }

    fn pair(key: String, value: &str, created: i64, modified: i64, version: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from(key),
            value: Bytes::copy_from_slice(value.as_bytes()),
            create_revision: created,
            mod_revision: modified,
            version,
            ..Default::default()
        }
    }

    fn unique(n: usize, revision: i64, version: i64) -> KeyValue {
        let key = unique_key(0, 0, n);
        let value = unique_value(&key);
        pair(key, &value, revision, revision, version)
    }

    fn store() -> Vec<KeyValue> {
        vec![
            unique(0, 5, 1),
            pair(put_key(0), "3", 6, 9, 3),
            pair(swap_key(0), "3", 7, 10, 3),
        ]
    }

    fn verdict(store: &[KeyValue]) -> Result<Tally, String> {
        let writers = writers();
        let mut verdict = Verdict::of(&writers, 0..=0);
        store.iter().for_each(|pair| verdict.see(pair));
        verdict.finish(true)
    }

    fn tally(unknown: usize) -> Tally {
        Tally {
            acknowledged: 1,
            unknown,
        }
    }

    #[test]
    fn what_the_writers_were_told_is_accepted() {
        assert_eq!(verdict(&store()), Ok(tally(0)));
        let mut happened = store();
        happened.push(unique(1, 11, 1));
        happened[1] = pair(put_key(0), "4", 6, 12, 4);
        assert_eq!(verdict(&happened), Ok(tally(1)));
    }

    #[test]
    fn whatever_contradicts_the_writers_is_found() {
        let mut other_value = unique(0, 5, 1);
        other_value.value = Bytes::from_static(b"other");
        let replaced = [
            (0, unique(0, 6, 1)),
            (0, unique(0, 5, 2)),
            (0, other_value),
            (1, pair(put_key(0), "3", 6, 9, 2)),
            (1, pair(put_key(0), "5", 6, 9, 5)),
            (1, pair(put_key(0), "3", 6, 8, 3)),
            (2, pair(swap_key(0), "4", 7, 10, 3)),
        ];
        for (index, wrong) in replaced {
            let mut store = store();
            store[index] = wrong.clone();
            verdict(&store).expect_err(&format!("{wrong:?} to be refused"));
        }
        for missing in 0..3 {
            let mut store = store();
            store.remove(missing);
            verdict(&store).expect_err("a loss to be found");
        }
        for invented in [unique(2, 12, 1), pair("other".to_owned(), "", 12, 12, 1)] {
            let mut store = store();
            store.push(invented);
            verdict(&store).expect_err("an invention to be found");
        }
    }
}
