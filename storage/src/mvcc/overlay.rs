//! [`Overlay`]: the newest records in memory, by revision. Those the database does not hold yet are never dropped;
//! the others are a cache for readers and watchers, bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::revision::Revision;
use crate::tables::Row;

/// Bytes counted for a record besides its encoding: row, reference counts, slot.
const ROW_OVERHEAD_BYTES: usize = 96;

/// Records of contiguous main revisions, so that finding one is arithmetic.
pub struct Overlay {
    /// Main revision of the front slot; with no slots, of the next record.
    first_main: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
    unwritten_bytes: usize,
    /// Everything up to this main revision is in the database.
    written: u64,
    bytes_max: usize,
}

/// The records of one main revision; nearly always there is one.
enum Slot {
    One(Arc<Row>),
    Many(Vec<Arc<Row>>),
}

impl Slot {
    fn rows(&self) -> &[Arc<Row>] {
        match self {
            Self::One(row) => std::slice::from_ref(row),
            Self::Many(rows) => rows,
        }
    }

    fn bytes(&self) -> usize {
        self.rows().iter().map(|row| row_bytes(row)).sum()
    }
}

fn row_bytes(row: &Row) -> usize {
    row.kv.len() + ROW_OVERHEAD_BYTES
}

impl Overlay {
    /// An empty overlay over a database that holds everything up to main revision `written`.
    pub fn new(written: u64, bytes_max: usize) -> Self {
        Self {
            first_main: written + 1,
            slots: VecDeque::new(),
            bytes: 0,
            unwritten_bytes: 0,
            written,
            bytes_max,
        }
    }

    /// Adds the record of `revision`, which follows the last one added.
    pub fn push(&mut self, revision: Revision, row: Arc<Row>) {
        let bytes = row_bytes(&row);
        self.bytes += bytes;
        self.unwritten_bytes += bytes;
        let next_main = self.first_main + self.slots.len() as u64;
        if revision.main == next_main {
            assert_eq!(revision.sub, 0, "first change of revision {revision} is missing");
            self.slots.push_back(Slot::One(row));
            self.trim();
            return;
        }
        assert_eq!(revision.main + 1, next_main, "records out of order at {revision}");
        let slot = self
            .slots
            .back_mut()
            .expect("a revision with a first change has a slot");
        assert_eq!(
            revision.sub as usize,
            slot.rows().len(),
            "records out of order at {revision}"
        );
        match slot {
            Slot::Many(rows) => rows.push(row),
            Slot::One(first) => *slot = Slot::Many(vec![Arc::clone(first), row]),
        }
    }

    /// The record of `revision`, if it is in memory.
    pub fn get(&self, revision: Revision) -> Option<&Arc<Row>> {
        let slot = revision.main.checked_sub(self.first_main)?;
        self.slots
            .get(usize::try_from(slot).ok()?)?
            .rows()
            .get(revision.sub as usize)
    }

    /// Whether every record from main revision `main` on is in memory.
    pub fn covers(&self, main: u64) -> bool {
        main >= self.first_main
    }

    /// The main revision from which on every record is in memory.
    pub fn first_main(&self) -> u64 {
        self.first_main
    }

    /// Records from `from` on, in order; those before [`Overlay::first_main`] are not among them.
    pub fn from(&self, from: Revision) -> impl Iterator<Item = (Revision, &Arc<Row>)> {
        let first = from.main.max(self.first_main);
        let skipped = usize::try_from(first - self.first_main).unwrap_or(usize::MAX);
        (first..)
            .zip(self.slots.iter().skip(skipped))
            .flat_map(|(main, slot)| {
                (0..)
                    .zip(slot.rows())
                    .map(move |(sub, row)| (Revision::new(main, sub), row))
            })
            .skip_while(move |(revision, _)| *revision < from)
    }

    /// Main revision up to which the database holds everything.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of records that are in memory alone.
    pub fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes
    }

    /// Notes that the database holds everything up to main revision `main`.
    pub fn mark_written(&mut self, main: u64) {
        assert!(main >= self.written, "written mark went back");
        let newly = usize::try_from(main - self.written).unwrap_or(usize::MAX);
        let skipped =
            usize::try_from((self.written + 1).saturating_sub(self.first_main)).unwrap_or(usize::MAX);
        let bytes: usize = self.slots.iter().skip(skipped).take(newly).map(Slot::bytes).sum();
        self.unwritten_bytes -= bytes;
        self.written = main;
        self.trim();
    }

    /// Drops the oldest records that the database holds until the rest fits.
    fn trim(&mut self) {
        while self.bytes > self.bytes_max && self.first_main <= self.written {
            let Some(slot) = self.slots.pop_front() else {
                return;
            };
            self.bytes -= slot.bytes();
            self.first_main += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn row(bytes: usize) -> Arc<Row> {
        Arc::new(Row {
            kv: Bytes::from(vec![0; bytes]),
            ..Row::default()
        })
    }

    #[test]
    fn records_are_found_by_revision() {
        let mut overlay = Overlay::new(7, usize::MAX);
        let revisions = [(8, 0), (9, 0), (9, 1), (9, 2), (10, 0)].map(|(main, sub)| Revision::new(main, sub));
        for (bytes, revision) in revisions.into_iter().enumerate() {
            overlay.push(revision, row(bytes));
        }
        for (bytes, revision) in revisions.into_iter().enumerate() {
            assert_eq!(overlay.get(revision), Some(&row(bytes)));
        }
        for absent in [Revision::new(7, 0), Revision::new(8, 1), Revision::new(11, 0)] {
            assert_eq!(overlay.get(absent), None);
        }
        let from: Vec<_> = overlay
            .from(Revision::new(9, 1))
            .map(|(revision, _)| revision)
            .collect();
        assert_eq!(from, revisions[2..]);
        assert_eq!(overlay.from(Revision::default()).count(), 5);
        assert_eq!(overlay.from(Revision::new(11, 0)).count(), 0);
    }

    #[test]
    fn only_written_records_are_dropped() {
        let mut overlay = Overlay::new(1, 3 * (10 + ROW_OVERHEAD_BYTES));
        for main in 2..=9 {
            overlay.push(Revision::new(main, 0), row(10));
        }
        assert!(overlay.covers(2), "nothing is written, nothing may go");
        overlay.mark_written(4);
        assert_eq!(overlay.first_main(), 5);
        assert_eq!(overlay.unwritten_bytes(), 5 * (10 + ROW_OVERHEAD_BYTES));
        overlay.mark_written(9);
        assert_eq!(overlay.first_main(), 7, "three fit");
        assert_eq!(overlay.unwritten_bytes(), 0);
        overlay.push(Revision::new(10, 0), row(10));
        assert_eq!(overlay.first_main(), 8);
        assert!(overlay.get(Revision::new(10, 0)).is_some());
    }
}
