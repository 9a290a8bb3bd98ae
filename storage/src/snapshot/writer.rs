//! [`ImageWriter`]: the frames of one checkpoint.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    END, FORMAT_VERSION, FRAME_HEADER_BYTES, LEASE, MAGIC, RECORD_HEADER_BYTES, ROW, STATE, advance,
};
use crate::error::Fault;
use crate::limits::SNAPSHOT_FRAME_BYTES;
use crate::mutant;
use crate::revision::Revision;
use crate::tables::{Frozen, LeaseRow, Leases, Meta, Row, Rows, Tables, meta, row};

/// The part of the stream that a full frame carries.
const PART_BYTES_MAX: usize = SNAPSHOT_FRAME_BYTES - FRAME_HEADER_BYTES;

/// Yields the image of a database as its newest write left it.
///
/// It keeps the pages of that write from being reused, so the database grows by what is written meanwhile: drop it when
/// the transfer ends, well or not. The image is of the position `meta().applied`; whether that is durable here is up to
/// the caller, who makes a durable write first if the receiver's copy is to count for anything.
pub struct ImageWriter {
    meta: Meta,
    section: Section,
    tables: Arc<Frozen>,
    /// What has been made of the stream and is not in a frame yet.
    pending: BytesMut,
    /// Bytes of the stream in frames.
    sent: u64,
    frames: u32,
    crc: u32,
    leases: u64,
    rows: u64,
    /// Scratch for one encoded row.
    value: Vec<u8>,
}

/// What the next record is.
enum Section {
    Leases(Leases),
    Rows(Rows),
    Ended,
}

impl ImageWriter {
    /// Starts the image of what `tables` holds now.
    pub fn new(tables: &Tables) -> Result<Self, Fault> {
        let tables = tables.newest();
        let (mut meta, mut counts) = tables.state()?;
        // Where this member's log ends is nothing to whom the image is for.
        meta.log_end = 0;
        let mut section = Section::Leases(tables.leases()?);
        if mutant!("M43") {
            // The image has no leases, and says so.
            counts.leases = 0;
            section = Section::Rows(tables.rows(Revision::default())?);
        }
        let mut writer = Self {
            section,
            tables,
            pending: BytesMut::new(),
            sent: 0,
            frames: 0,
            crc: 0,
            leases: 0,
            rows: 0,
            value: Vec::new(),
            meta,
        };
        writer.pending.put_slice(&MAGIC);
        writer.pending.put_u32(FORMAT_VERSION);
        let state = meta::encode(&writer.meta, counts);
        writer.begin_record(STATE, state.len());
        writer.pending.put_slice(&state);
        Ok(writer)
    }

    /// The state that the image holds.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The next frame, of at most `SNAPSHOT_FRAME_BYTES`; none behind the last one.
    ///
    /// # Errors
    /// What reading the tables fails with. The image is void then.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, Fault> {
        while self.pending.len() < PART_BYTES_MAX {
            if !self.next_record()? {
                break;
            }
        }
        if self.pending.is_empty() {
            return Ok(None);
        }
        let part = self.pending.split_to(self.pending.len().min(PART_BYTES_MAX));
        self.crc = advance(self.crc, self.frames, &part);
        let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + part.len());
        frame.put_u32(self.frames);
        frame.put_u32(self.crc);
        frame.put_slice(&part);
        self.frames += 1;
        self.sent += part.len() as u64;
        Ok(Some(frame.freeze()))
    }

    /// Appends the next record to what is pending; false if there is none.
    fn next_record(&mut self) -> Result<bool, Fault> {
        match &mut self.section {
            Section::Leases(leases) => match leases.next()? {
                Some(lease) => self.put_lease(lease),
                None => self.section = Section::Rows(self.tables.rows(Revision::default())?),
            },
            Section::Rows(rows) => match rows.next()? {
                Some((revision, row)) => self.put_row(revision, &row),
                None => self.put_end(),
            },
            Section::Ended => return Ok(false),
        }
        Ok(true)
    }

    fn put_lease(&mut self, lease: LeaseRow) {
        self.begin_record(LEASE, 16);
        self.pending.put_i64(lease.id);
        self.pending.put_i64(lease.ttl);
        self.leases += 1;
    }

    fn put_row(&mut self, revision: Revision, row: &Row) {
        row::encode(revision, row, &mut self.value);
        self.begin_record(ROW, Revision::ENCODED_BYTES + self.value.len());
        self.pending.put_slice(&revision.to_bytes());
        self.pending.put_slice(&self.value);
        self.rows += 1;
    }

    fn put_end(&mut self) {
        let before = self.sent + self.pending.len() as u64;
        self.begin_record(END, 24);
        self.pending.put_u64(self.leases);
        self.pending.put_u64(self.rows);
        self.pending.put_u64(before);
        self.section = Section::Ended;
    }

    fn begin_record(&mut self, kind: u8, body_bytes: usize) {
        self.pending.reserve(RECORD_HEADER_BYTES + body_bytes);
        self.pending.put_u8(kind);
        self.pending
            .put_u32(u32::try_from(body_bytes).expect("the engine takes no value of 4 GiB"));
    }
}
