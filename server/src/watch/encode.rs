//! Encodes `mvccpb.Event`, each variant of an event at most once, around the stored bytes of its pairs.

use bytes::{BufMut, Bytes, BytesMut};
use kelson_storage::applied::{Event, EventBatch, EventKind};
use kelson_storage::error::Fault;
use kelson_storage::mutant;
use kelson_storage::revision::Revision;

use super::fragment::embedded_len;

/// The whole field `type = DELETE` of `mvccpb.Event`; PUT is the default and therefore not written.
const TYPE_DELETE: [u8; 2] = [0x08, 1];
/// Tag of the field `kv`: number 2, length-delimited.
const KV_TAG: u8 = 0x12;
/// Tag of the field `prev_kv`: number 3, length-delimited.
const PREV_KV_TAG: u8 = 0x1a;

/// Where records of earlier revisions are read.
pub(crate) trait Past {
    /// The encoded `mvccpb.KeyValue` of one record; none if compaction has removed it.
    fn record(&self, revision: Revision) -> Result<Option<Bytes>, Fault>;
}

/// One event, encoded on demand.
pub(crate) struct Encoder<'a> {
    batch: &'a EventBatch,
    event: &'a Event,
    plain: Option<Bytes>,
    with_previous: Option<Bytes>,
}

impl<'a> Encoder<'a> {
    /// Nothing is encoded yet. `batch` holds `event`.
    pub(crate) fn new(batch: &'a EventBatch, event: &'a Event) -> Self {
        Self {
            batch,
            event,
            plain: None,
            with_previous: None,
        }
    }

    /// The event's bytes, with the pair as it was before if `prev_kv` and there is one.
    pub(crate) fn bytes(&mut self, prev_kv: bool, past: &impl Past) -> Result<Bytes, Fault> {
        if prev_kv {
            return self.bytes_with_previous(past);
        }
        let event = self.event;
        Ok(self.plain.get_or_insert_with(|| encode(event, None)).clone())
    }

    fn bytes_with_previous(&mut self, past: &impl Past) -> Result<Bytes, Fault> {
        if let Some(bytes) = &self.with_previous {
            return Ok(bytes.clone());
        }
        let previous = match before_the_batch(self.batch, self.event) {
            // M36: the pair as it is now, not as it was.
            Some(_) if mutant!("M36") => past.record(self.event.revision)?,
            Some(revision) => past.record(revision)?,
            None => None,
        };
        let bytes = match previous {
            Some(pair) => encode(self.event, Some(&pair)),
            None => self.bytes(false, past)?,
        };
        self.with_previous = Some(bytes.clone());
        Ok(bytes)
    }
}

/// The key's record before the whole revision: etcd gives the pair at `mod_revision - 1`, also to the second change of
/// a key in one revision, and none to a put that creates.
fn before_the_batch(batch: &EventBatch, event: &Event) -> Option<Revision> {
    let mut previous = event.previous?;
    if event.kind == EventKind::Delete && previous.main == batch.revision {
        let first = batch.events.iter().find(|other| other.key == event.key)?;
        return first.previous;
    }
    while previous.main == batch.revision {
        let earlier = batch.events.iter().find(|other| other.revision == previous)?;
        previous = earlier.previous?;
    }
    Some(previous)
}

fn encode(event: &Event, previous: Option<&Bytes>) -> Bytes {
    let pairs_bytes = embedded_len(event.kv.len()) + previous.map_or(0, |pair| embedded_len(pair.len()));
    let mut out = BytesMut::with_capacity(TYPE_DELETE.len() + pairs_bytes);
    if event.kind == EventKind::Delete {
        out.put_slice(&TYPE_DELETE);
    }
    put_pair(KV_TAG, &event.kv, &mut out);
    if let Some(pair) = previous {
        put_pair(PREV_KV_TAG, pair, &mut out);
    }
    out.freeze()
}

fn put_pair(tag: u8, pair: &Bytes, out: &mut BytesMut) {
    out.put_u8(tag);
    prost::encode_length_delimiter(pair.len(), out).expect("a growing buffer has room");
    out.put_slice(pair);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use kelson_proto::mvccpb;
    use prost::Message;

    use super::*;

    #[derive(Default)]
    struct Records {
        rows: BTreeMap<Revision, Bytes>,
        reads: Cell<usize>,
    }

    impl Past for Records {
        fn record(&self, revision: Revision) -> Result<Option<Bytes>, Fault> {
            self.reads.set(self.reads.get() + 1);
            Ok(self.rows.get(&revision).cloned())
        }
    }

    fn pair(value: &str) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..Default::default()
        }
    }

    fn event(kind: EventKind, sub: u32, value: &str, previous: Option<Revision>) -> Event {
        Event {
            kind,
            revision: Revision::new(9, sub),
            key: Bytes::from_static(b"k"),
            kv: pair(value).encode_to_vec().into(),
            previous,
        }
    }

    fn decoded(batch: &EventBatch, at: usize, prev_kv: bool, past: &Records) -> mvccpb::Event {
        let bytes = Encoder::new(batch, &batch.events[at]).bytes(prev_kv, past);
        mvccpb::Event::decode(bytes.expect("records can be read")).expect("an event")
    }

    #[test]
    fn each_variant_is_made_once_and_decodes() {
        let past = Records {
            rows: BTreeMap::from([(Revision::new(4, 1), pair("old").encode_to_vec().into())]),
            ..Records::default()
        };
        let batch = EventBatch {
            revision: 9,
            events: vec![event(EventKind::Delete, 0, "", Some(Revision::new(4, 1)))],
        };
        let mut encoder = Encoder::new(&batch, &batch.events[0]);
        let first = encoder.bytes(true, &past).expect("records can be read");
        let second = encoder.bytes(true, &past).expect("records can be read");
        assert_eq!((first.as_ptr(), past.reads.get()), (second.as_ptr(), 1));
        let plain = decoded(&batch, 0, false, &past);
        assert_eq!((plain.r#type, plain.prev_kv), (1, None));
        assert_eq!(decoded(&batch, 0, true, &past).prev_kv, Some(pair("old")));
    }

    #[test]
    fn missing_previous_pair_is_left_out() {
        let batch = EventBatch {
            revision: 9,
            events: vec![
                event(EventKind::Put, 0, "new", Some(Revision::new(4, 0))),
                event(EventKind::Put, 1, "created", None),
            ],
        };
        let past = Records::default();
        for at in [0, 1] {
            let event = decoded(&batch, at, true, &past);
            assert_eq!((event.r#type, event.prev_kv), (0, None));
        }
        assert_eq!(past.reads.get(), 1);
    }

    #[test]
    fn second_change_in_a_revision_shows_the_pair_before_the_revision() {
        let past = Records {
            rows: BTreeMap::from([
                (Revision::new(4, 0), pair("old").encode_to_vec().into()),
                (Revision::new(9, 0), pair("between").encode_to_vec().into()),
            ]),
            ..Records::default()
        };
        let mut batch = EventBatch {
            revision: 9,
            events: vec![
                event(EventKind::Put, 0, "between", Some(Revision::new(4, 0))),
                event(EventKind::Put, 1, "new", Some(Revision::new(9, 0))),
            ],
        };
        assert_eq!(decoded(&batch, 1, true, &past).prev_kv, Some(pair("old")));
        batch.events[0].previous = None;
        assert_eq!(decoded(&batch, 1, true, &past).prev_kv, None);
    }

    #[test]
    fn delete_after_delete_and_create_in_a_revision_shows_the_pair_before_the_revision() {
        let past = Records {
            rows: BTreeMap::from([(Revision::new(4, 0), pair("old").encode_to_vec().into())]),
            ..Records::default()
        };
        let batch = EventBatch {
            revision: 9,
            events: vec![
                event(EventKind::Delete, 0, "", Some(Revision::new(4, 0))),
                event(EventKind::Put, 1, "between", None),
                event(EventKind::Delete, 2, "", Some(Revision::new(9, 1))),
            ],
        };
        assert_eq!(decoded(&batch, 1, true, &past).prev_kv, None);
        assert_eq!(decoded(&batch, 2, true, &past).prev_kv, Some(pair("old")));
    }
}
