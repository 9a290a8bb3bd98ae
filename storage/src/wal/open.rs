//! Opening a log: its lock, then either a first segment or what recovery finds.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use std::collections::VecDeque;

use super::active::Active;
use super::reader::Table;
use super::record::State;
use super::segment::{Header, Name};
use super::spares::Spares;
use super::{Recovered, SEGMENT_BYTES_MIN, Wal, WalOptions, recovery, sector};
use crate::disk::{Disk, DiskFile};
use crate::error::Fault;
use crate::mutant;

impl Wal {
    /// Opens the log in `options.directory`, or creates one there if there is none and `create` is set.
    ///
    /// # Errors
    ///
    /// [`Fault::Unusable`] when there is no log and `create` is not set, when another process has it open, when it
    /// belongs to another member or cluster, or has a newer format; [`Fault::Damaged`] when bytes are not as written;
    /// [`Fault::Io`] when the disk fails.
    pub fn open(disk: Arc<dyn Disk>, options: WalOptions, create: bool) -> Result<(Self, Recovered), Fault> {
        let mut options = options;
        options.segment_bytes = options
            .segment_bytes
            .max(SEGMENT_BYTES_MIN)
            .next_multiple_of(sector::SECTOR_BYTES as u64);
        let directory = options.directory.clone();
        if !create && !Self::exists(&*disk, &directory) {
            return Err(Fault::Unusable {
                path: directory,
                what: "there is no log here".to_owned(),
            });
        }
        if !disk.exists(&directory) {
            disk.create_directory(&directory)
                .map_err(|error| Fault::io("create", &directory, error))?;
        }
        let lock = lock(&*disk, &directory)?;
        let names = disk
            .list(&directory)
            .map_err(|error| Fault::io("list", &directory, error))?;
        // What is read below may be known to the system only; nothing may be built on it before it is durable.
        disk.sync_directory(&directory)
            .map_err(|error| Fault::io("sync", &directory, error))?;
        let numbers = recovery::segment_numbers(&names);
        if numbers.is_empty() {
            Self::create(disk, options, lock, &names)
        } else {
            Self::recover(disk, options, lock, &names, &numbers)
        }
    }

    /// Whether there is a log in `directory`.
    pub fn exists(disk: &dyn Disk, directory: &Path) -> bool {
        disk.list(directory)
            .is_ok_and(|names| !recovery::segment_numbers(&names).is_empty())
    }

    fn create(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        lock: Arc<dyn DiskFile>,
        names: &[String],
    ) -> Result<(Self, Recovered), Fault> {
        let mut spares = Spares::open(Arc::clone(&disk), &options, names, 0)?;
        let spare = spares.take(0)?;
        let header = Header {
            cluster_id: options.cluster_id,
            member_id: options.member_id,
            number: 1,
            generation: spares.next_generation()?,
            sectors: spare.sectors(),
            previous_end: 0,
            previous_crc: 0,
            base: None,
        };
        let state = State::default();
        let active = Active::create(&*disk, &options, spare, &header, &state)?;
        let mut table = Table::default();
        table.segments.insert(1, Arc::clone(&active.segment));
        let wal = Self {
            disk,
            options,
            _lock: lock,
            table: Arc::new(Mutex::new(table)),
            closed: VecDeque::new(),
            active,
            spares,
            state,
            last_written: None,
            last: None,
            purged: None,
            purged_durably: None,
            pending: Vec::new(),
            pending_bytes: 0,
            failed: false,
        };
        Ok((wal, Recovered::default()))
    }

    fn recover(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        lock: Arc<dyn DiskFile>,
        names: &[String],
        numbers: &[u64],
    ) -> Result<(Self, Recovered), Fault> {
        let replay = recovery::replay(&*disk, &options, numbers)?;
        let spares = Spares::open(Arc::clone(&disk), &options, names, replay.generation)?;
        let last = replay.table.last();
        let recovered = Recovered {
            // M11: the member may vote twice in one term.
            vote: replay.state.vote.clone().filter(|_| !mutant!("M11")),
            committed: replay.state.committed,
            purged: replay.state.purged,
            last,
            incarnation: replay.state.incarnation,
            tail_cut: replay.tail_cut,
        };
        let mut wal = Self {
            disk,
            options,
            _lock: lock,
            table: Arc::new(Mutex::new(replay.table)),
            closed: replay.closed,
            active: Active::resume(replay.last),
            spares,
            last_written: last,
            last,
            purged: replay.state.purged,
            purged_durably: replay.state.purged,
            state: replay.state,
            pending: Vec::new(),
            pending_bytes: 0,
            failed: false,
        };
        if recovered.tail_cut.is_some() {
            crate::reached!("wal_torn_tail_cut");
            // The next segment's header says where this one ends: that cuts the tail without touching a byte of it.
            wal.roll(0)?;
        }
        Ok((wal, recovered))
    }
}

/// Takes the lock of a log's directory, held until the file closes.
fn lock(disk: &dyn Disk, directory: &Path) -> Result<Arc<dyn DiskFile>, Fault> {
    let path = directory.join(Name::LOCK);
    let file = disk
        .open(&path, true)
        .map_err(|error| Fault::io("create", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Fault::Unusable {
            path: directory.to_owned(),
            what: "another process has this log open".to_owned(),
        }),
        Err(error) => Err(Fault::io("lock", &path, error)),
    }
}
