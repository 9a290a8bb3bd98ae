//! [`Reader`]: reads an index file, and trusts nothing in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{END, ENTRIES, FORMAT_VERSION, FRAME_HEADER_BYTES, HEADER, LINKS, MAGIC, checksum, path_beside};
use crate::disk::{Disk, DiskFile};
use crate::key_value::take_varint;
use crate::mvcc::history::History;
use crate::mvcc::index::KeyMeta;
use crate::revision::Revision;
use crate::tables::fields::Fields;

/// A key and its newest record.
pub type Entry = (Bytes, KeyMeta);

/// Why an index file is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}", path = path.display())]
pub struct Unfit {
    path: PathBuf,
    why: String,
}

/// An open index file. Its parts are read in their order: entries, then links.
pub struct Reader {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    length: u64,
    offset: u64,
    frames: u64,
    revision: u64,
    entries: u64,
    /// The last key of the frame before.
    last: Bytes,
    /// What was read and is not an entry.
    next: Option<Frame>,
}

struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

impl Reader {
    /// Opens the index file of the database at `database`, if there is one.
    pub fn open(disk: &dyn Disk, database: &Path) -> Result<Option<Self>, Unfit> {
        let path = path_beside(database);
        if !disk.exists(&path) {
            return Ok(None);
        }
        let unfit = |error: std::io::Error| Unfit {
            path: path.clone(),
            why: error.to_string(),
        };
        let file = disk.open(&path, false).map_err(unfit)?;
        let length = file.length().map_err(unfit)?;
        let mut reader = Self {
            path,
            file,
            length,
            offset: 0,
            frames: 0,
            revision: 0,
            entries: 0,
            last: Bytes::new(),
            next: None,
        };
        let header = reader.frame()?;
        let mut fields = Fields(&header.payload);
        let magic = fields.u64().map(u64::to_be_bytes);
        if header.kind != HEADER || magic != Some(MAGIC) {
            return Err(reader.unfit("it does not begin as an index file"));
        }
        if fields.u32() != Some(FORMAT_VERSION) {
            return Err(reader.unfit("it was written by another version"));
        }
        reader.revision = fields
            .u64()
            .ok_or_else(|| reader.unfit("its header is too short"))?;
        Ok(Some(reader))
    }

    /// The revision that it is of.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Why this file is of no use.
    pub fn unfit(&self, why: impl Into<String>) -> Unfit {
        Unfit {
            path: self.path.clone(),
            why: why.into(),
        }
    }

    /// The next entries, in key order; none behind the last.
    pub fn entries(&mut self) -> Result<Vec<Entry>, Unfit> {
        let frame = self.frame()?;
        if frame.kind != ENTRIES {
            self.next = Some(frame);
            return Ok(Vec::new());
        }
        let entries = decode_entries(&frame.payload).ok_or_else(|| self.unreadable())?;
        let mut last = &self.last;
        for (key, _) in &entries {
            if key <= last {
                return Err(self.unfit("its keys do not ascend"));
            }
            last = key;
        }
        self.last = Bytes::copy_from_slice(last);
        self.entries += entries.len() as u64;
        Ok(entries)
    }

    /// The history up to [`Reader::revision`], and the end of the file. To be called behind the last entry.
    pub fn history(mut self) -> Result<History, Unfit> {
        let mut history = None;
        let mut frame = match self.next.take() {
            Some(frame) => frame,
            None => self.frame()?,
        };
        while frame.kind == LINKS {
            read_links(&frame.payload, self.revision, &mut history).ok_or_else(|| self.unreadable())?;
            frame = self.frame()?;
        }
        let mut end = Fields(&frame.payload);
        let said = (end.u64(), end.u64(), end.u64());
        let first_main = said.2.filter(|main| *main <= self.revision + 1);
        let history = history.or_else(|| first_main.map(History::new));
        let found = (
            self.revision,
            self.entries,
            history.as_ref().map(History::first_main),
        );
        match history {
            Some(history) if frame.kind == END && said == (Some(found.0), Some(found.1), found.2) => {
                Ok(history)
            }
            _ => Err(self.unfit(format!("it ends with {said:?}, and holds {found:?}"))),
        }
    }

    fn frame(&mut self) -> Result<Frame, Unfit> {
        if let Some(frame) = self.next.take() {
            return Ok(frame);
        }
        let read = |buffer: &mut [u8], at| {
            let read = self.file.read_exact_at(buffer, at);
            read.map_err(|error| self.unfit(format!("at byte {at}: {error}")))
        };
        let mut head = [0; FRAME_HEADER_BYTES];
        read(&mut head, self.offset)?;
        let mut fields = Fields(&head[4..]);
        let (length, sum) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
        let payload_at = self.offset + FRAME_HEADER_BYTES as u64;
        if u64::from(length) > self.length.saturating_sub(payload_at) {
            return Err(self.unfit(format!("the frame at byte {} is cut off", self.offset)));
        }
        let mut payload = vec![0; length as usize];
        read(&mut payload, payload_at)?;
        let first_eight = *head.first_chunk().expect("a head has 12 bytes");
        if checksum(self.frames, first_eight, &payload) != sum {
            return Err(self.unfit(format!("the frame at byte {} fails its checksum", self.offset)));
        }
        self.offset = payload_at + u64::from(length);
        self.frames += 1;
        Ok(Frame {
            kind: head[0],
            payload,
        })
    }

    fn unreadable(&self) -> Unfit {
        self.unfit(format!("the frame before byte {} is unreadable", self.offset))
    }
}

/// The entries of one frame. Their keys share one buffer.
fn decode_entries(mut payload: &[u8]) -> Option<Vec<Entry>> {
    let mut text: Vec<u8> = Vec::with_capacity(2 * payload.len());
    let mut entries = Vec::new();
    let mut last = 0..0;
    while !payload.is_empty() {
        let shared = usize::try_from(take_varint(&mut payload)?).ok()?;
        let rest = usize::try_from(take_varint(&mut payload)?).ok()?;
        let (rest, after) = payload.split_at_checked(rest)?;
        payload = after;
        if shared > last.len() {
            return None;
        }
        let start = text.len();
        text.extend_from_within(last.start..last.start + shared);
        text.extend_from_slice(rest);
        last = start..text.len();
        entries.push((last.clone(), decode_meta(&mut payload)?));
    }
    let text = Bytes::from(text);
    let entry = |(place, meta)| (text.slice(place), meta);
    Some(entries.into_iter().map(entry).collect())
}

fn decode_meta(payload: &mut &[u8]) -> Option<KeyMeta> {
    let mut number = || take_varint(payload);
    let create = number()?;
    let modified = Revision::new(number()?, u32::try_from(number()?).ok()?);
    let version = number()?;
    let lease = number()?.cast_signed();
    let bytes_and_live = number()?;
    let bytes = u32::try_from(bytes_and_live >> 1).ok()?;
    Some(KeyMeta {
        create,
        modified,
        version,
        lease,
        // The index has no room for more.
        bytes: (bytes < 1 << 31).then_some(bytes)?,
        live: bytes_and_live & 1 == 1,
    })
}

/// Adds the links of one frame.
fn read_links(payload: &[u8], revision: u64, history: &mut Option<History>) -> Option<()> {
    let mut fields = Fields(payload);
    let mut main = fields.u64()?;
    let mut payload = fields.0;
    let history = history.get_or_insert_with(|| History::new(main));
    if main < history.mains().end {
        return None;
    }
    while !payload.is_empty() {
        if main > revision {
            return None;
        }
        let links = u32::try_from(take_varint(&mut payload)?).ok()?;
        if links == 0 {
            return None;
        }
        for sub in 0..links {
            let back = take_varint(&mut payload)?;
            let previous = match back.checked_sub(1) {
                Some(back) => Some(Revision::new(
                    main.checked_sub(back)?,
                    u32::try_from(take_varint(&mut payload)?).ok()?,
                )),
                None => None,
            };
            history.push(Revision::new(main, sub), previous);
        }
        main += 1;
    }
    Some(())
}
