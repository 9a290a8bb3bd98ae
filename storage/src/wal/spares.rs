//! Spare segments: files filled with zeros once and then used again and again, because a sync of a file whose blocks
//! and length do not change is several times faster, and because a full disk must not stop the log at once.
//!
//! A spare is filled in steps, each a bounded write and sync, so that nobody who waits for the log waits long.

use std::path::PathBuf;
use std::sync::Arc;

use super::WalOptions;
use super::sector::{Generation, SECTOR_BYTES};
use super::segment::{self, Name};
use crate::disk::{Disk, DiskFile};
use crate::error::Fault;

/// Spares kept ready: one to continue with, one in reserve for a full disk.
pub(super) const SPARES_KEPT: usize = 2;
/// Most bytes of zeros written and synced in one step: a few milliseconds.
const FILL_STEP_BYTES: u64 = 1024 * 1024;

/// A file that can become a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

impl Spare {
    pub(super) fn sectors(&self) -> u64 {
        self.bytes / SECTOR_BYTES as u64
    }
}

/// The spares of one log.
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    segment_bytes: u64,
    ready: Vec<Spare>,
    filling: Option<Spare>,
    /// Number of the next spare's name.
    next_name: u64,
    /// The highest generation any file of the log has had.
    generation: u32,
    /// Bytes of zeros that the bytes written to the log have paid for.
    credit_bytes: u64,
    out_of_space: bool,
}

impl Spares {
    /// The spares in the directory; removes what was left unfinished or cannot be read. `generation` is the highest
    /// of the segments.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        options: &WalOptions,
        names: &[String],
        generation: u32,
    ) -> Result<Self, Fault> {
        let mut spares = Self {
            disk,
            directory: options.directory.clone(),
            segment_bytes: options.segment_bytes,
            ready: Vec::new(),
            filling: None,
            next_name: 1,
            generation,
            credit_bytes: 0,
            out_of_space: false,
        };
        for name in names {
            let path = options.directory.join(name);
            match Name::parse(name) {
                Some(Name::Spare(number)) => {
                    spares.next_name = spares.next_name.max(number + 1);
                    spares.adopt(path)?;
                }
                Some(Name::Unfinished) => spares.remove(&path)?,
                Some(Name::Segment(_)) | None => {}
            }
        }
        Ok(spares)
    }

    fn adopt(&mut self, path: PathBuf) -> Result<(), Fault> {
        let file = self
            .disk
            .open(&path, false)
            .map_err(|error| Fault::io("open", &path, error))?;
        let last_life = segment::spare_generation(&*file).map_err(|error| Fault::io("read", &path, error))?;
        let bytes = file
            .length()
            .map_err(|error| Fault::io("measure", &path, error))?;
        // A file whose last life is unknown may hold records of any life, and one of another size is of no use.
        match last_life {
            Some(generation) if bytes == self.segment_bytes => {
                self.generation = self.generation.max(generation);
                self.ready.push(Spare { file, path, bytes });
                Ok(())
            }
            Some(generation) => {
                self.generation = self.generation.max(generation);
                self.remove(&path)
            }
            None => self.remove(&path),
        }
    }

    fn remove(&self, path: &std::path::Path) -> Result<(), Fault> {
        self.disk
            .remove(path)
            .map_err(|error| Fault::io("remove", path, error))
    }

    /// A generation that no file of the log has had.
    pub(super) fn next_generation(&mut self) -> Result<Generation, Fault> {
        self.generation += 1;
        Generation::new(self.generation).ok_or_else(|| Fault::Unusable {
            path: self.directory.clone(),
            what: "the log has used up its generations; add a new member in place of this one".to_owned(),
        })
    }

    /// Spares that are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether the last spare could not be filled because the disk is full.
    pub(super) fn out_of_space(&self) -> bool {
        self.out_of_space
    }

    pub(super) fn wanted(&self) -> bool {
        self.ready.len() < SPARES_KEPT
    }

    /// A spare of at least `bytes`: one that is ready, or one filled now.
    pub(super) fn take(&mut self, bytes: u64) -> Result<Spare, Fault> {
        let mut spare = match self.ready.pop() {
            Some(spare) => spare,
            None => loop {
                self.fill(self.segment_bytes)?;
                if let Some(spare) = self.ready.pop() {
                    break spare;
                }
            },
        };
        if spare.bytes < bytes {
            crate::reached!("wal_segment_larger_than_usual");
            let bytes = bytes.next_multiple_of(SECTOR_BYTES as u64);
            write_zeros(&spare, spare.bytes, bytes).map_err(|error| Fault::io("fill", &spare.path, error))?;
            spare.bytes = bytes;
        }
        Ok(spare)
    }

    /// Takes a file that was a segment. `disk` has renamed it to [`Spares::new_path`] durably.
    pub(super) fn put(&mut self, spare: Spare) {
        self.ready.push(spare);
    }

    /// A path for a new spare.
    pub(super) fn new_path(&mut self) -> PathBuf {
        self.next_name += 1;
        Name::spare(&self.directory, self.next_name - 1)
    }

    /// Lets `written` bytes of log pay for zeros, so that two spares are ready well before they are needed, and
    /// fills a step when enough is paid.
    pub(super) fn pay(&mut self, written: u64) -> Result<(), Fault> {
        if !self.wanted() {
            return Ok(());
        }
        self.credit_bytes += 4 * written;
        if self.credit_bytes >= self.step_bytes() {
            self.credit_bytes = 0;
            self.fill_step()?;
        }
        Ok(())
    }

    /// Fills one step of a spare. A full disk is not a fault while the log itself can go on.
    pub(super) fn fill_step(&mut self) -> Result<(), Fault> {
        let step = self.step_bytes();
        match self.fill(step) {
            Err(Fault::Io { source, .. }) if is_full(&source) => {
                crate::reached!("wal_disk_full");
                self.out_of_space = true;
                match self.filling.take() {
                    Some(unfinished) => self.remove(&unfinished.path),
                    None => Ok(()),
                }
            }
            filled => filled,
        }
    }

    fn step_bytes(&self) -> u64 {
        FILL_STEP_BYTES.min(self.segment_bytes)
    }

    /// Fills at most `step` more bytes; the last step makes the spare ready.
    fn fill(&mut self, step: u64) -> Result<(), Fault> {
        let mut spare = match self.filling.take() {
            Some(spare) => spare,
            None => self.begin()?,
        };
        let to = (spare.bytes + step).min(self.segment_bytes);
        if let Err(error) = write_zeros(&spare, spare.bytes, to) {
            let fault = Fault::io("fill", &spare.path, error);
            self.filling = Some(spare);
            return Err(fault);
        }
        spare.bytes = to;
        if to < self.segment_bytes {
            self.filling = Some(spare);
            return Ok(());
        }
        let path = self.new_path();
        self.disk
            .rename(&spare.path, &path)
            .map_err(|error| Fault::io("rename", &spare.path, error))?;
        self.disk
            .sync_directory(&self.directory)
            .map_err(|error| Fault::io("sync", &self.directory, error))?;
        spare.path = path;
        self.ready.push(spare);
        self.out_of_space = false;
        Ok(())
    }

    fn begin(&mut self) -> Result<Spare, Fault> {
        let path = Name::unfinished(&self.directory, self.next_name);
        let file = self
            .disk
            .open(&path, true)
            .map_err(|error| Fault::io("create", &path, error))?;
        Ok(Spare { file, path, bytes: 0 })
    }
}

/// What spares are filled with. Fresh zeros for each step would leave 20 MiB behind in an allocator that gives memory back
/// late.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Writes zeros from `from` to `to` and makes them durable.
fn write_zeros(spare: &Spare, from: u64, to: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let part = ZEROS.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
        spare.file.write_all_at(&ZEROS[..part], at)?;
        at += part as u64;
    }
    spare.file.sync()
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}
