//! What was written, as far as clients know, and whether that is what is there.
//!
//! Every write makes one key that no other write touches, in one revision of its own. Every second one is a transaction
//! that also overwrites its writer's `last/` key. So after any cut the keys are the history: each key must have been
//! attempted, with that value; each acknowledged one must be there, at the revision the client was told; and there are
//! exactly as many keys as revisions, or something happened that left no trace.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use kelson_proto::etcdserverpb::RangeRequest;
use kelson_proto::etcdserverpb::kv_client::KvClient;
use kelson_proto::mvccpb::KeyValue;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::load::connect;

/// Writers at work at the same time.
const WRITERS: u32 = 16;
/// Most bytes of a value beyond its text.
const PADDING_BYTES_MAX: usize = 400;
/// Keys asked for at once.
const PAGE_KEYS: i64 = 10_000;
/// The revision of an empty store.
const FIRST_REVISION: i64 = 1;

/// One write.
pub(super) struct Write {
    /// The key that is made.
    pub(super) key: String,
    /// A key that is overwritten along, if there is one.
    pub(super) also: Option<String>,
    /// The value of both.
    pub(super) value: String,
}

/// One writer: what it has tried, in order. None: unknown.
#[derive(Debug, Default)]
pub(super) struct Writer {
    number: u32,
    seed: u64,
    outcomes: Vec<Option<i64>>,
}

impl Writer {
    /// The next write. Until it is acknowledged, its outcome is unknown.
    pub(super) fn next(&mut self) -> Write {
        let seq = self.outcomes.len();
        self.outcomes.push(None);
        self.write(seq)
    }

    /// The last write was acknowledged.
    pub(super) fn acknowledged(&mut self, revision: i64) {
        if let Some(last) = self.outcomes.last_mut() {
            *last = Some(revision);
        }
    }

    fn write(&self, seq: usize) -> Write {
        Write {
            key: format!("w/{:02}/{seq:08}", self.number),
            also: (seq % 2 == 1).then(|| format!("last/{:02}", self.number)),
            value: self.value(seq),
        }
    }

    fn value(&self, seq: usize) -> String {
        let mut random = StdRng::seed_from_u64(self.seed ^ (u64::from(self.number) << 40) ^ seq as u64);
        let padding = random.random_range(0..PADDING_BYTES_MAX);
        format!(
            "{}/{seq}/{:016x}/{:x<padding$}",
            self.number,
            random.random::<u64>(),
            ""
        )
    }
}

/// All writers between two loads.
#[derive(Debug)]
pub(super) struct Writers {
    writers: Vec<Writer>,
    /// Outcomes known before the load that is under way.
    before: (u64, u64),
}

/// What a read of everything showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Keys there.
    pub keys: u64,
    /// Acknowledged writes that are not there as they were acknowledged.
    pub lost: u64,
    /// What is there although nobody wrote it, or not so.
    pub invented: u64,
    /// The first differences, in words.
    pub examples: Vec<String>,
}

impl Found {
    /// Whether everything was as it must be.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.invented == 0
    }

    /// The one of the two that shows more harm.
    pub(super) fn worse(self, other: Self) -> Self {
        if other.lost + other.invented > self.lost + self.invented || self.keys == 0 {
            other
        } else {
            self
        }
    }

    fn lost(&mut self, what: String) {
        self.lost += 1;
        self.example(what);
    }

    fn invented(&mut self, what: String) {
        self.invented += 1;
        self.example(what);
    }

    fn example(&mut self, what: String) {
        if self.examples.len() < 3 {
            self.examples.push(what);
        }
    }
}

/// Everything that a member holds, by key.
struct Contents {
    revision: i64,
    pairs: BTreeMap<String, KeyValue>,
}

impl Writers {
    /// Writers that have written nothing.
    pub(super) fn new(seed: u64) -> Self {
        let writer = |number| Writer {
            number,
            seed,
            outcomes: Vec::new(),
        };
        Self {
            writers: (0..WRITERS).map(writer).collect(),
            before: (0, 0),
        }
    }

    /// Gives the writers away to work.
    pub(super) fn take(&mut self) -> Vec<Writer> {
        self.before = self.tally();
        std::mem::take(&mut self.writers)
    }

    /// Takes them back. Returns how many writes were acknowledged meanwhile, and how many are unknown.
    pub(super) fn put_back(&mut self, mut writers: Vec<Writer>) -> (u64, u64) {
        writers.sort_unstable_by_key(|writer| writer.number);
        self.writers = writers;
        let now = self.tally();
        (now.0 - self.before.0, now.1 - self.before.1)
    }

    fn tally(&self) -> (u64, u64) {
        let outcomes = self.writers.iter().flat_map(|writer| &writer.outcomes);
        outcomes.fold((0, 0), |(known, unknown), outcome| match outcome {
            Some(_) => (known + 1, unknown),
            None => (known, unknown + 1),
        })
    }

    /// Reads everything through one member and compares.
    pub(super) async fn judge(&self, endpoint: &str) -> anyhow::Result<Found> {
        Ok(self.compare(&read_all(endpoint).await?))
    }

    /// Takes what one member holds for what has happened: a loss that was reported is not reported again. What was
    /// unknown and is there counts as acknowledged from now on.
    pub(super) async fn accept(&mut self, endpoint: &str) -> anyhow::Result<()> {
        let contents = read_all(endpoint).await?;
        for writer in &mut self.writers {
            for seq in 0..writer.outcomes.len() {
                let pair = contents.pairs.get(&writer.write(seq).key);
                writer.outcomes[seq] = pair.map(|pair| pair.mod_revision);
            }
        }
        Ok(())
    }

    fn compare(&self, contents: &Contents) -> Found {
        let mut found = Found::default();
        let mut expected_keys = 0;
        for writer in &self.writers {
            let mut last = None;
            for (seq, outcome) in writer.outcomes.iter().enumerate() {
                let write = writer.write(seq);
                let pair = contents.pairs.get(&write.key);
                found.check(&write, *outcome, pair);
                expected_keys += u64::from(pair.is_some());
                if let (Some(pair), Some(also)) = (pair, write.also) {
                    last = Some((also, pair));
                }
            }
            let key = format!("last/{:02}", writer.number);
            let there = contents.pairs.get(&key);
            let expected = last.as_ref().map(|(_, pair)| (&pair.value, pair.mod_revision));
            if there.map(|there| (&there.value, there.mod_revision)) != expected {
                found.invented(format!(
                    "{key} is not what the newest transaction of its writer left"
                ));
            }
            expected_keys += u64::from(there.is_some());
            found.keys += u64::from(there.is_some());
        }
        found.keys = contents.pairs.len() as u64;
        for _ in expected_keys..found.keys {
            found.invented("a key that nobody wrote".to_owned());
        }
        let history = contents.pairs.keys().filter(|key| key.starts_with("w/")).count();
        if contents.revision - FIRST_REVISION != i64::try_from(history).unwrap_or(i64::MAX) {
            found.invented(format!(
                "revision {} with {history} keys of a revision each",
                contents.revision
            ));
        }
        found
    }

    /// Writes down what clients know, one line per write.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        let mut output = std::io::BufWriter::new(file);
        for writer in &self.writers {
            for (seq, outcome) in writer.outcomes.iter().enumerate() {
                let line =
                    serde_json::json!({ "writer": writer.number, "seq": seq, "acknowledged_at": outcome });
                writeln!(output, "{line}")?;
            }
        }
        Ok(output.flush()?)
    }
}

impl Found {
    fn check(&mut self, write: &Write, outcome: Option<i64>, pair: Option<&KeyValue>) {
        match (outcome, pair) {
            (None, None) => {}
            (Some(revision), None) => self.lost(format!("{} of revision {revision} is gone", write.key)),
            (outcome, Some(pair)) => {
                if pair.value != write.value.as_bytes() || pair.version != 1 {
                    self.invented(format!("{} has a value that was not written", write.key));
                } else if outcome.is_some_and(|revision| revision != pair.mod_revision) {
                    self.lost(format!(
                        "{} was acknowledged at {outcome:?} and is at {}",
                        write.key, pair.mod_revision
                    ));
                }
            }
        }
    }
}

/// All keys at one revision, through one member.
async fn read_all(endpoint: &str) -> anyhow::Result<Contents> {
    let mut client = KvClient::new(connect(endpoint)?).max_decoding_message_size(usize::MAX);
    let mut contents = Contents {
        revision: 0,
        pairs: BTreeMap::new(),
    };
    let mut from = b"\0".to_vec();
    loop {
        let request = RangeRequest {
            key: from.clone().into(),
            range_end: vec![0].into(),
            limit: PAGE_KEYS,
            revision: contents.revision,
            ..RangeRequest::default()
        };
        let page = client
            .range(request)
            .await
            .with_context(|| endpoint.to_owned())?
            .into_inner();
        if contents.revision == 0 {
            contents.revision = page.header.map_or(0, |header| header.revision);
        }
        for pair in &page.kvs {
            let pair = KeyValue::decode(pair.clone())?;
            from = [&pair.key[..], b"\0"].concat();
            let key = String::from_utf8_lossy(&pair.key).into_owned();
            contents.pairs.insert(key, pair);
        }
        if !page.more {
            return Ok(contents);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writers with three writes each, all acknowledged, and a store that holds them.
    fn sound() -> (Writers, Contents) {
        let mut writers = Writers::new(1);
        let mut contents = Contents {
            revision: FIRST_REVISION,
            pairs: BTreeMap::new(),
        };
        for writer in &mut writers.writers[..2] {
            for _ in 0..3 {
                contents.revision += 1;
                let write = writer.next();
                writer.acknowledged(contents.revision);
                for key in [Some(write.key), write.also].into_iter().flatten() {
                    let pair = KeyValue {
                        key: key.clone().into(),
                        value: write.value.clone().into(),
                        mod_revision: contents.revision,
                        version: 1,
                        ..KeyValue::default()
                    };
                    contents.pairs.insert(key, pair);
                }
            }
        }
        (writers, contents)
    }

    #[test]
    fn what_was_acknowledged_and_is_there_is_clean() {
        let (mut writers, contents) = sound();
        assert_eq!(
            writers.compare(&contents),
            Found {
                keys: 8,
                ..Found::default()
            }
        );
        // Attempted, unknown and absent.
        writers.writers[0].next();
        assert!(writers.compare(&contents).is_clean());
    }

    #[test]
    fn each_kind_of_harm_is_seen() {
        let harm = |change: &dyn Fn(&mut Contents)| {
            let (writers, mut contents) = sound();
            change(&mut contents);
            let found = writers.compare(&contents);
            (found.lost > 0, found.invented > 0)
        };
        let gone = harm(&|contents| {
            contents.pairs.remove("w/00/00000002");
            contents.revision -= 1;
        });
        assert_eq!(gone, (true, false));
        let half_a_transaction = harm(&|contents| drop(contents.pairs.remove("last/01")));
        assert_eq!(half_a_transaction, (false, true));
        let other_value = harm(&|contents| {
            let pair = contents.pairs.get_mut("w/00/00000000").unwrap();
            pair.value = "other".into();
        });
        assert_eq!(other_value, (false, true));
        let other_revision = harm(&|contents| {
            contents.pairs.get_mut("w/00/00000000").unwrap().mod_revision = 99;
        });
        assert_eq!(other_revision, (true, false));
        let stranger = harm(&|contents| {
            contents
                .pairs
                .insert("w/00/00000009".to_owned(), KeyValue::default());
            contents.revision += 1;
        });
        assert_eq!(stranger, (false, true));
        let revision_without_trace = harm(&|contents| contents.revision += 1);
        assert_eq!(revision_without_trace, (false, true));
    }
}
