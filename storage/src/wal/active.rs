//! The segment being written: records gather into a group, a group is one write, and no sector is written twice.

use std::sync::Arc;

use super::WalOptions;
use super::reader::Location;
use super::record::{self, GROUP_BYTES, HEADER_BYTES, Kind, Operation, State};
use super::sector::{SECTOR_BYTES, SectorWriter, next_sector, sector_start};
use super::segment::{Header, Name, Segment};
use super::spares::Spare;
use crate::disk::Disk;
use crate::error::Fault;
use crate::limits::WAL_GROUP_BYTES_MAX;
use crate::mutant;

/// The last segment of the log. Everything below `synced_sector` is durable.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    writer: SectorWriter,
    group_open: bool,
    /// Sectors of the file.
    sectors: u64,
    next_sector: u64,
    synced_sector: u64,
    /// Checksum of the last record written or gathered.
    crc: u32,
    /// Data offset after the last record written or gathered.
    end: u64,
}

/// What a segment found at start-up must be continued from.
pub(super) struct Resume {
    pub(super) segment: Arc<Segment>,
    pub(super) sectors: u64,
    pub(super) end: u64,
    pub(super) crc: u32,
}

impl Active {
    /// Sectors that a segment needs so that one record of `record_bytes` fits in it after its own beginning.
    pub(super) fn sectors_needed(state: &State, record_bytes: usize) -> u64 {
        let beginning = GROUP_BYTES + (HEADER_BYTES + state.encode().len()) as u64;
        1 + next_sector(beginning) + next_sector(GROUP_BYTES + record_bytes as u64)
    }

    /// Makes a spare the segment that `header` describes, beginning with `state`, durably: first its content under
    /// the spare's name, then the segment's name. So a file with a segment's name has a whole beginning, and no
    /// record of a life is written before the header of that life is durable.
    pub(super) fn create(
        disk: &dyn Disk,
        options: &WalOptions,
        spare: Spare,
        header: &Header,
        state: &State,
    ) -> Result<Self, Fault> {
        let mut writer = SectorWriter::new(header.generation);
        let identity = header.push(&mut writer);
        let group = (Kind::Group, &1u64.to_le_bytes()[..], &[][..]);
        let crc = record::push(&mut writer, identity, identity.header_crc, group);
        let crc = record::push(&mut writer, identity, crc, (Kind::State, &state.encode(), &[]));
        let end = writer.offset();
        let (bytes, _) = writer.finish();
        spare
            .file
            .write_all_at(bytes, 0)
            .map_err(|error| Fault::io("write", &spare.path, error))?;
        spare
            .file
            .sync()
            .map_err(|error| Fault::io("sync", &spare.path, error))?;
        let path = Name::segment(&options.directory, header.number);
        disk.rename(&spare.path, &path)
            .map_err(|error| Fault::io("rename", &spare.path, error))?;
        // M09: the name of a new segment may be lost.
        if !mutant!("M09") {
            disk.sync_directory(&options.directory)
                .map_err(|error| Fault::io("sync", &options.directory, error))?;
        }
        let segment = Segment {
            number: header.number,
            identity,
            path,
            file: spare.file,
        };
        Ok(Self::resume(Resume {
            segment: Arc::new(segment),
            sectors: header.sectors,
            end,
            crc,
        }))
    }

    /// Continues a segment of which everything up to `end` is durable.
    pub(super) fn resume(resume: Resume) -> Self {
        let next = next_sector(resume.end);
        Self {
            writer: SectorWriter::new(resume.segment.identity.generation),
            segment: resume.segment,
            group_open: false,
            sectors: resume.sectors,
            next_sector: next,
            synced_sector: next,
            crc: resume.crc,
            end: resume.end,
        }
    }

    /// Whether a record of `record_bytes`, header included, still fits.
    pub(super) fn fits(&self, record_bytes: usize) -> bool {
        let at = if self.group_open {
            self.end
        } else {
            sector_start(self.next_sector) + GROUP_BYTES
        };
        at + record_bytes as u64 <= sector_start(self.sectors)
    }

    /// Gathers one operation, which must fit; says where it will be if it is an entry.
    pub(super) fn push(&mut self, operation: &Operation) -> Option<Location> {
        debug_assert!(self.fits(operation.record_bytes()));
        self.open_group();
        let offset = self.end;
        let (kind, head, tail) = operation.encode();
        let head = head.as_slice();
        self.push_record((kind, head, tail));
        match operation {
            Operation::Entry(entry) => Some(Location {
                term: entry.position.term,
                segment: self.segment.number,
                offset,
                payload_bytes: u32::try_from(head.len() + tail.len()).expect("bounded by append"),
            }),
            _ => None,
        }
    }

    /// Begins a group if none is open. Its first record says how far the segment was synced: damage below that
    /// place can then never pass for a write that did not reach the disk.
    pub(super) fn open_group(&mut self) {
        if self.group_open {
            return;
        }
        self.group_open = true;
        self.writer.restart(self.next_sector, 2 * WAL_GROUP_BYTES_MAX);
        let synced = self.synced_sector.to_le_bytes();
        self.push_record((Kind::Group, &synced, &[]));
    }

    fn push_record(&mut self, parts: (Kind, &[u8], &[u8])) {
        self.crc = record::push(&mut self.writer, self.segment.identity, self.crc, parts);
        self.end = self.writer.offset();
    }

    /// Writes what was gathered, in one call, and returns how many bytes that were.
    pub(super) fn write(&mut self) -> Result<u64, Fault> {
        if !self.group_open {
            return Ok(0);
        }
        self.group_open = false;
        let (bytes, at) = self.writer.finish();
        self.segment
            .file
            .write_all_at(bytes, at)
            .map_err(|error| Fault::io("write", &self.segment.path, error))?;
        self.next_sector += (bytes.len() / SECTOR_BYTES) as u64;
        Ok(bytes.len() as u64)
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> Result<(), Fault> {
        if self.synced_sector < self.next_sector {
            crate::fail_point!("walBeforeSync");
            let mut synced = self.segment.file.sync();
            // M10: the second try succeeds although the first one has lost what it should write.
            if mutant!("M10") && synced.is_err() {
                synced = self.segment.file.sync();
            }
            synced.map_err(|error| Fault::io("sync", &self.segment.path, error))?;
            self.synced_sector = self.next_sector;
            crate::fail_point!("walAfterSync");
        }
        Ok(())
    }

    /// Where the segment ends and the checksum of its last record, for the header of the next one.
    pub(super) fn end(&self) -> (u64, u32) {
        (self.end, self.crc)
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES as u64
    }
}
