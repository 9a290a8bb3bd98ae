//! [`ImageReader`]: a new database file from the frames of an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    END, FORMAT_VERSION, FRAME_HEADER_BYTES, LEASE, MAGIC, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, ROW, STATE,
    STREAM_HEADER_BYTES, advance,
};
use crate::disk::Disk;
use crate::error::Fault;
use crate::limits::SNAPSHOT_FRAME_BYTES;
use crate::revision::Revision;
use crate::tables::fields::Fields;
use crate::tables::meta::{self, BadMeta};
use crate::tables::{LeaseRow, Meta, Tables, WriteBatch, row};

/// Bytes of records that are collected before they are written to the new file.
const WRITE_BYTES: usize = 4 * 1024 * 1024;

/// Builds a database from an image, in a file of its own, and refuses what is not exactly one image.
///
/// Nothing else is touched. Dropped before [`ImageReader::finish`] has succeeded, it removes its file.
pub struct ImageReader {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Gone when the file is closed.
    tables: Option<Tables>,
    finished: bool,
    frames: u32,
    crc: u32,
    /// Bytes of the stream that have been parsed.
    parsed: u64,
    /// Checked and not parsed: less than one record, once a frame has been dealt with.
    pending: BytesMut,
    /// The state record, once it has come.
    state: Option<State>,
    batch: WriteBatch,
    batch_bytes: usize,
    leases: u64,
    rows: u64,
    newest_row: Option<Revision>,
    ended: bool,
}

/// What the state record announces.
struct State {
    meta: Meta,
    leases: u64,
    rows: u64,
}

impl ImageReader {
    /// Starts a database file at `temporary`, a name from [`super::temporary_beside`].
    pub fn create(disk: Arc<dyn Disk>, temporary: &Path) -> Result<Self, Fault> {
        let mut reader = Self {
            disk,
            path: temporary.to_owned(),
            tables: None,
            finished: false,
            frames: 0,
            crc: 0,
            parsed: 0,
            pending: BytesMut::new(),
            state: None,
            batch: WriteBatch::default(),
            batch_bytes: 0,
            leases: 0,
            rows: 0,
            newest_row: None,
            ended: false,
        };
        reader.tables = Some(Tables::create(&*reader.disk, temporary)?);
        Ok(reader)
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// [`Fault::Damaged`] if it is not the next frame of an image, [`Fault::Unusable`] if a later version made it,
    /// and whatever writing fails with. After an error the reader must be dropped.
    pub fn feed(&mut self, mut frame: Bytes) -> Result<(), Fault> {
        if !(FRAME_HEADER_BYTES + 1..=SNAPSHOT_FRAME_BYTES).contains(&frame.len()) {
            return Err(self.refused("a frame has a size that no frame has"));
        }
        let number = frame.get_u32();
        let crc = frame.get_u32();
        if number != self.frames || crc != advance(self.crc, number, &frame) {
            return Err(self.refused("a frame fails its checksum"));
        }
        self.frames += 1;
        self.crc = crc;
        self.pending.extend_from_slice(&frame);
        while self.take_record()? {}
        Ok(())
    }

    /// Ends the image: checks that it is whole, makes the file durable and closes it. Returns the state it holds.
    /// [`super::install`] puts it in place.
    ///
    /// # Errors
    /// [`Fault::Damaged`] if the end is missing, and whatever writing fails with. The file is removed then.
    pub fn finish(mut self) -> Result<Meta, Fault> {
        if !self.ended || !self.pending.is_empty() {
            return Err(self.refused("the end of the image is missing"));
        }
        let state = self.state.take().expect("an end is refused without it");
        self.batch.meta = state.meta;
        let tables = self.tables.take().expect("taken only here");
        crate::fail_point!("raftBeforeSaveSnap");
        tables.write(&self.batch, true)?;
        tables.close()?;
        crate::fail_point!("raftAfterSaveSnap");
        self.finished = true;
        Ok(std::mem::take(&mut self.batch.meta))
    }

    /// Takes one record, or the header, off what is pending; false if there is none that is whole.
    fn take_record(&mut self) -> Result<bool, Fault> {
        if self.parsed == 0 {
            return self.take_header();
        }
        let Some(mut header) = self.pending.get(..RECORD_HEADER_BYTES) else {
            return Ok(false);
        };
        let kind = header.get_u8();
        let body_bytes = header.get_u32() as usize;
        if body_bytes > RECORD_BYTES_MAX {
            return Err(self.refused("a record is too long"));
        }
        let record_bytes = RECORD_HEADER_BYTES + body_bytes;
        if self.pending.len() < record_bytes {
            return Ok(false);
        }
        let body = self.pending.split_to(record_bytes).freeze();
        self.record(kind, &body[RECORD_HEADER_BYTES..])?;
        self.parsed += record_bytes as u64;
        if self.batch_bytes >= WRITE_BYTES {
            self.write_batch()?;
        }
        Ok(true)
    }

    fn take_header(&mut self) -> Result<bool, Fault> {
        if self.pending.len() < STREAM_HEADER_BYTES {
            return Ok(false);
        }
        let mut header = self.pending.split_to(STREAM_HEADER_BYTES);
        if header[..MAGIC.len()] != MAGIC {
            return Err(self.refused("this is not a snapshot image"));
        }
        header.advance(MAGIC.len());
        let version = header.get_u32();
        if version != FORMAT_VERSION {
            return Err(self.other_version("image", version));
        }
        self.parsed = STREAM_HEADER_BYTES as u64;
        Ok(true)
    }

    fn record(&mut self, kind: u8, body: &[u8]) -> Result<(), Fault> {
        let taken = match kind {
            STATE => self.state_record(body)?,
            LEASE => self.lease_record(body),
            ROW => self.row_record(body),
            END => self.end_record(body),
            _ => None,
        };
        taken.ok_or_else(|| self.refused("a record is not one, or not in its place"))
    }

    fn state_record(&mut self, body: &[u8]) -> Result<Option<()>, Fault> {
        if self.state.is_some() {
            return Ok(None);
        }
        match meta::decode(body) {
            Ok((meta, counts)) => {
                self.state = Some(State {
                    meta,
                    leases: counts.leases,
                    rows: counts.rows,
                });
                Ok(Some(()))
            }
            Err(BadMeta::Damaged) => Ok(None),
            Err(BadMeta::Newer(version)) => Err(self.other_version("data", version)),
        }
    }

    fn lease_record(&mut self, body: &[u8]) -> Option<()> {
        if self.ended || self.state.is_none() || self.rows > 0 {
            return None;
        }
        let mut fields = Fields(body);
        let lease = LeaseRow {
            id: fields.i64()?,
            ttl: fields.i64()?,
        };
        fields.end()?;
        self.batch.leases_put.push(lease);
        self.batch_bytes += body.len();
        self.leases += 1;
        Some(())
    }

    fn row_record(&mut self, body: &[u8]) -> Option<()> {
        if self.ended || self.state.is_none() {
            return None;
        }
        let (key, value) = body.split_first_chunk::<{ Revision::ENCODED_BYTES }>()?;
        let revision = Revision::from_bytes(*key);
        if self.newest_row.is_some_and(|newest| newest >= revision) {
            return None;
        }
        let row = row::decode(key, value)?;
        self.batch.rows.push((revision, Arc::new(row)));
        self.batch_bytes += body.len();
        self.newest_row = Some(revision);
        self.rows += 1;
        Some(())
    }

    fn end_record(&mut self, body: &[u8]) -> Option<()> {
        let announced = self.state.as_ref()?;
        let mut fields = Fields(body);
        let counts = (fields.u64()?, fields.u64()?);
        let whole = !self.ended
            && counts == (self.leases, self.rows)
            && counts == (announced.leases, announced.rows)
            && fields.u64()? == self.parsed;
        fields.end()?;
        self.ended = whole;
        whole.then_some(())
    }

    fn write_batch(&mut self) -> Result<(), Fault> {
        let tables = self.tables.as_ref().expect("taken only at the end");
        tables.write(&self.batch, false)?;
        self.batch.rows.clear();
        self.batch.leases_put.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    fn refused(&self, why: &str) -> Fault {
        crate::reached!("snapshot_refused");
        let what = format!("image refused in frame {}: {why}", self.frames);
        Fault::damaged(&self.path, self.parsed, what)
    }

    fn other_version(&self, what: &str, version: u32) -> Fault {
        Fault::Unusable {
            path: self.path.clone(),
            what: format!(
                "image refused: {what} format {version} is of another version; use one that reads it"
            ),
        }
    }
}

impl Drop for ImageReader {
    fn drop(&mut self) {
        if !self.finished {
            drop(self.tables.take());
            // Best effort: the next start removes what is left.
            let _ = self.disk.remove(&self.path);
        }
    }
}
