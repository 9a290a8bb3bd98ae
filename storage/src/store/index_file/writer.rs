//! [`Writer`]: writes an index file, a bite at a time.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    END, ENTRIES, FORMAT_VERSION, FRAME_BYTES, FRAME_HEADER_BYTES, HEADER, LINKS, MAGIC, checksum,
    path_beside,
};
use crate::disk::{Disk, DiskFile};
use crate::error::Fault;
use crate::key_value::put_varint;
use crate::mvcc::history::History;
use crate::mvcc::index::{IndexRoot, KeyMeta, common_len};
use crate::revision::Revision;
use crate::tables::fields::PutFields;
use crate::tables::{install, temporary_beside};

/// Bytes of a bite. They are sent to the device at once, so that the sync at the end of a large file does not make the log's
/// syncs wait; and more would take a core for longer than a put takes.
/// In tests, a frame or two.
const BITE_BYTES: u64 = if cfg!(test) { 64 } else { 128 * 1024 };

/// Links that are copied while the state is locked.
const LINKS_PER_LOCK: u64 = if cfg!(test) { 2 } else { 1024 };

/// An index file under way. Dropped before its end, it leaves nothing behind, or a temporary file that the next start
/// removes.
pub struct Writer {
    disk: Arc<dyn Disk>,
    target: PathBuf,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Bytes in the file.
    written: u64,
    frames: u64,
    /// The state that is written, and its revision.
    root: IndexRoot,
    revision: u64,
    section: Section,
    entries: u64,
    /// The first main revision whose links are in the file.
    first_main: u64,
    /// Scratch: the frame under way.
    frame: Vec<u8>,
    installed: bool,
}

/// Hands the history to what it is given.
pub type WithHistory<'a> = dyn FnMut(&mut dyn FnMut(&History)) + 'a;

/// What comes next.
enum Section {
    /// Keys from this one on.
    Entries(Vec<u8>),
    /// Links of the main revisions from this one on.
    Links(u64),
    Ended,
}

/// Why the copying of links pauses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Others want the lock.
    Lock,
    /// What comes next has been forgotten.
    Gap,
    /// There are no more.
    End,
}

impl Writer {
    /// Begins the index file of the database at `database`: `root` is its index at `revision`, which is durable there.
    pub fn begin(
        disk: Arc<dyn Disk>,
        database: &Path,
        root: IndexRoot,
        revision: u64,
    ) -> Result<Self, Fault> {
        let target = path_beside(database);
        let temporary = temporary_beside(&*disk, &target);
        let file = disk
            .open(&temporary, true)
            .map_err(|source| Fault::io("create", &temporary, source))?;
        let mut writer = Self {
            disk,
            target,
            temporary,
            file,
            written: 0,
            frames: 0,
            root,
            revision,
            section: Section::Entries(Vec::new()),
            entries: 0,
            first_main: revision + 1,
            frame: Vec::new(),
            installed: false,
        };
        writer.begin_frame();
        writer.frame.extend_from_slice(&MAGIC);
        writer.frame.put_u32(FORMAT_VERSION);
        writer.frame.put_u64(revision);
        writer.end_frame(HEADER)?;
        Ok(writer)
    }

    /// The revision of the state that is written.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Writes the next bytes; true when the file is whole and has its name. `history` hands the history to what it is
    /// given, for a moment.
    ///
    /// # Errors
    /// Any failed system call. The file is void then, and the one before is still there, or the new one is, whole.
    pub fn bite(&mut self, history: &mut WithHistory<'_>) -> Result<bool, Fault> {
        let until = self.written + BITE_BYTES;
        while self.written < until {
            match std::mem::replace(&mut self.section, Section::Ended) {
                Section::Entries(from) => self.put_entries(&from)?,
                Section::Links(from) => self.put_links(from, history)?,
                Section::Ended => {
                    self.put_end()?;
                    install(&*self.disk, &self.temporary, &self.target)?;
                    self.installed = true;
                    return Ok(true);
                }
            }
        }
        self.file
            .write_back()
            .map_err(|source| Fault::io("write back", &self.temporary, source))?;
        Ok(false)
    }

    /// One frame of entries from the key `from` on.
    fn put_entries(&mut self, from: &[u8]) -> Result<(), Fault> {
        self.begin_frame();
        let (frame, entries) = (&mut self.frame, &mut self.entries);
        let mut last: Option<Vec<u8>> = None;
        self.root.for_each(from, None, |key, meta| {
            let shared = last.as_ref().map_or(0, |last| common_len(last, key));
            put_entry(frame, shared, key, meta);
            *entries += 1;
            let last = last.get_or_insert_default();
            last.truncate(shared);
            last.extend_from_slice(&key[shared..]);
            if frame.len() < FRAME_BYTES {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        self.section = match last {
            Some(mut last) => {
                // The next key in the order of keys.
                last.push(0);
                self.end_frame(ENTRIES)?;
                Section::Entries(last)
            }
            None => {
                // From here on only links are needed, and writes need not copy nodes for our sake.
                self.root = IndexRoot::default();
                Section::Links(0)
            }
        };
        Ok(())
    }

    /// One frame of links of the main revisions from `from` on.
    fn put_links(&mut self, mut from: u64, history: &mut WithHistory<'_>) -> Result<(), Fault> {
        const FIRST_MAIN: std::ops::Range<usize> = FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 8;
        self.begin_frame();
        self.frame.put_u64(0);
        let mut mains = 0;
        let mut pause = Pause::Lock;
        while pause == Pause::Lock && self.frame.len() < FRAME_BYTES {
            history(&mut |history| {
                let known = history.mains();
                let end = known.end.min(self.revision + 1);
                if known.start > from {
                    // Forgotten, at first or meanwhile: what follows the gap is in a frame of its own.
                    if mains > 0 {
                        pause = Pause::Gap;
                        return;
                    }
                    from = known.start;
                    self.first_main = from.min(self.revision + 1);
                }
                let mut links = 0;
                while from < end && links < LINKS_PER_LOCK {
                    links += put_links_of(&mut self.frame, history, from);
                    from += 1;
                    mains += 1;
                }
                if from >= end {
                    pause = Pause::End;
                }
            });
        }
        if mains > 0 {
            let first = from - mains;
            self.frame[FIRST_MAIN].copy_from_slice(&first.to_be_bytes());
            self.end_frame(LINKS)?;
        }
        self.section = match pause {
            Pause::End => Section::Ended,
            Pause::Lock | Pause::Gap => Section::Links(from),
        };
        Ok(())
    }

    fn put_end(&mut self) -> Result<(), Fault> {
        self.begin_frame();
        self.frame.put_u64(self.revision);
        self.frame.put_u64(self.entries);
        self.frame.put_u64(self.first_main);
        self.end_frame(END)
    }

    fn begin_frame(&mut self) {
        self.frame.clear();
        self.frame.resize(FRAME_HEADER_BYTES, 0);
    }

    /// Writes the frame.
    fn end_frame(&mut self, kind: u8) -> Result<(), Fault> {
        let (head, payload) = self.frame.split_at_mut(FRAME_HEADER_BYTES);
        let length = u32::try_from(payload.len()).expect("a frame ends with the entry that fills it");
        head[0] = kind;
        head[4..8].copy_from_slice(&length.to_be_bytes());
        let first_eight = *head.first_chunk().expect("a head has 12 bytes");
        let checksum = checksum(self.frames, first_eight, payload);
        head[8..].copy_from_slice(&checksum.to_be_bytes());
        self.file
            .write_all_at(&self.frame, self.written)
            .map_err(|source| Fault::io("write", &self.temporary, source))?;
        self.written += self.frame.len() as u64;
        self.frames += 1;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.installed {
            // If this fails, the next start does it.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

fn put_entry(frame: &mut Vec<u8>, shared: usize, key: &[u8], meta: &KeyMeta) {
    let rest = &key[shared..];
    put_varint(frame, shared as u64);
    put_varint(frame, rest.len() as u64);
    frame.extend_from_slice(rest);
    put_varint(frame, meta.create);
    put_varint(frame, meta.modified.main);
    put_varint(frame, meta.modified.sub.into());
    put_varint(frame, meta.version);
    put_varint(frame, meta.lease.cast_unsigned());
    put_varint(frame, u64::from(meta.bytes) << 1 | u64::from(meta.live));
}

/// Appends the links of one main revision and returns how many there are.
fn put_links_of(frame: &mut Vec<u8>, history: &History, main: u64) -> u64 {
    let links = history.links(main);
    put_varint(frame, links);
    for sub in 0..links {
        // The history has fewer than 2^32 links of one revision.
        let revision = Revision::new(main, sub as u32);
        match history.previous(revision) {
            Some(previous) => {
                put_varint(frame, main - previous.main + 1);
                put_varint(frame, previous.sub.into());
            }
            None => put_varint(frame, 0),
        }
    }
    links
}
