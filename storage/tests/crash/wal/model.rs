//! What a log is, in the plainest words, and the scripts that are run against it.

use bytes::Bytes;
use kelson_storage::error::Fault;
use kelson_storage::revision::LogPosition;
use kelson_storage::testing::Random;
use kelson_storage::wal::{Recovered, Wal, WalEntry};

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Append(WalEntry),
    Vote(Bytes),
    Committed(LogPosition),
    Incarnation(u64),
    Truncate(Option<LogPosition>),
    Purge(LogPosition),
}

/// What a script does next.
#[derive(Clone, Debug)]
pub enum Step {
    Change(Change),
    Flush(bool),
    Tidy,
    Seal,
}

/// A log after some changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    vote: Option<Bytes>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    incarnation: u64,
    entries: Vec<WalEntry>,
}

impl Model {
    fn last(&self) -> Option<LogPosition> {
        self.entries.last().map(|entry| entry.position).or(self.purged)
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(entry) => self.entries.push(entry.clone()),
            Change::Vote(vote) => self.vote = Some(vote.clone()),
            Change::Committed(position) => self.committed = Some(*position),
            Change::Incarnation(number) => self.incarnation = self.incarnation.max(*number),
            Change::Truncate(kept) => self
                .entries
                .retain(|entry| Some(entry.position.index) <= kept.map(|kept| kept.index)),
            Change::Purge(upto) => {
                if Some(upto.index) > self.purged.map(|purged| purged.index) {
                    self.entries.retain(|entry| entry.position.index > upto.index);
                    self.purged = Some(*upto);
                }
            }
        }
    }

    /// Reads the whole log into a model.
    pub fn of(wal: &Wal, recovered: &Recovered) -> Result<Self, Fault> {
        let first = recovered.purged.map_or(0, |purged| purged.index + 1);
        let end = recovered.last.map_or(0, |last| last.index + 1);
        let model = Self {
            vote: recovered.vote.clone(),
            committed: recovered.committed,
            purged: recovered.purged,
            incarnation: recovered.incarnation,
            entries: wal.reader().read(first, end, usize::MAX)?,
        };
        assert_eq!(model.last(), recovered.last);
        Ok(model)
    }

    /// What is in it, for messages.
    pub fn summary(&self) -> String {
        format!(
            "vote {:?}, committed {:?}, purged {:?}, last {:?}, {} entries, incarnation {}",
            self.vote.as_ref().map(Bytes::len),
            self.committed.map(|position| position.to_string()),
            self.purged.map(|position| position.to_string()),
            self.last().map(|position| position.to_string()),
            self.entries.len(),
            self.incarnation,
        )
    }
}

/// A script of about `steps` steps for a log that stands at `model`. All it writes is new: no two scripts of
/// different seeds write the same bytes.
pub fn script(model: &Model, steps: usize, random: &mut Random) -> Vec<Step> {
    let mut model = model.clone();
    let mut script = Vec::new();
    while script.len() < steps {
        for _ in 0..1 + random.below(4) {
            for change in changes(&model, random) {
                model.apply(&change);
                script.push(Step::Change(change));
            }
        }
        script.push(match random.below(20) {
            0..=12 => Step::Flush(true),
            13..=16 => Step::Flush(false),
            17..=18 => Step::Tidy,
            _ => Step::Seal,
        });
    }
    script.push(Step::Flush(true));
    script
}

fn changes(model: &Model, random: &mut Random) -> Vec<Change> {
    let term = model.last().map_or(1, |last| last.term);
    let next = model.last().map_or(0, |last| last.index + 1);
    match random.below(20) {
        0..=9 => appends(term + random.below(8) / 7, next, random),
        10..=11 => vec![Change::Vote(payload(random.below(60), random))],
        12..=13 => model.last().map(Change::Committed).into_iter().collect(),
        14 => vec![Change::Incarnation(
            (model.incarnation + 1).saturating_sub(random.below(3) / 2),
        )],
        15..=16 if !model.entries.is_empty() => {
            let place = random.place(model.entries.len());
            let kept = match place.checked_sub(1) {
                Some(before) => Some(model.entries[before].position),
                None => model.purged,
            };
            let mut changes = vec![Change::Truncate(kept)];
            let next = kept.map_or(0, |kept| kept.index + 1);
            changes.extend(appends(term + 1, next, random));
            changes
        }
        17..=18 if !model.entries.is_empty() => {
            let place = random.place(model.entries.len());
            vec![Change::Purge(model.entries[place].position)]
        }
        19 if random.chance(1, 4) => {
            vec![Change::Purge(LogPosition {
                term,
                index: next + random.below(5),
            })]
        }
        _ => appends(term, next, random),
    }
}

fn appends(term: u64, next: u64, random: &mut Random) -> Vec<Change> {
    let count = 1 + random.below(4);
    let entry = |index| {
        let bytes = match random.below(20) {
            0..=11 => random.below(300),
            12..=15 => random.below(3000),
            16 => 450 + random.below(40),
            17 => 4000 + random.below(3000),
            _ => 0,
        };
        let payload = payload(bytes, random);
        Change::Append(WalEntry {
            position: LogPosition { term, index },
            payload,
        })
    };
    (next..next + count).map(entry).collect()
}

/// Random bytes, zeros, or both, since zeros are what a lost sector looks like.
fn payload(bytes: u64, random: &mut Random) -> Bytes {
    let zeros = random.below(4);
    let byte = |at: u64, random: &mut Random| {
        if (at / 200) % 4 < zeros {
            0
        } else {
            random.number() as u8
        }
    };
    (0..bytes).map(|at| byte(at, random)).collect()
}
