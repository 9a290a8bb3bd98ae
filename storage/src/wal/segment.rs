//! Segments: the files of the log, their names, and the header that says what a file is and where it continues.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalOptions;
use super::record::Identity;
use super::sector::{Generation, SECTOR_BYTES, SECTOR_DATA_BYTES, SectorWriter, Sectors};
use crate::disk::DiskFile;
use crate::error::Fault;
use crate::revision::LogPosition;

const MAGIC: [u8; 8] = *b"KELSNWAL";
/// Version of everything under the log's directory. Magic, version and checksum keep their places in all versions.
const FORMAT_VERSION: u32 = 1;
/// The header fills the data of sector 0; its last four bytes are the checksum of the rest.
const CRC_AT: usize = SECTOR_DATA_BYTES - 4;

/// What the file of a name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Part of the log; numbers have no gaps.
    Segment(u64),
    /// Zero-filled or used before, waiting to become a segment.
    Spare(u64),
    /// Being zero-filled; removed at the next start.
    Unfinished,
}

impl Name {
    /// The file whose lock says that the log is open.
    pub(super) const LOCK: &'static str = "lock";

    pub(super) fn parse(name: &str) -> Option<Self> {
        let number = |digits: &str| {
            (digits.len() == 16)
                .then(|| u64::from_str_radix(digits, 16).ok())
                .flatten()
        };
        if name.ends_with(".tmp") {
            return Some(Self::Unfinished);
        }
        let stem = name.strip_suffix(".wal")?;
        match stem.strip_prefix("spare-") {
            Some(digits) => number(digits).map(Self::Spare),
            None => number(stem).map(Self::Segment),
        }
    }

    pub(super) fn segment(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("{number:016x}.wal"))
    }

    pub(super) fn spare(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("spare-{number:016x}.wal"))
    }

    pub(super) fn unfinished(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("spare-{number:016x}.wal.tmp"))
    }
}

/// An open segment, shared between the owner of the log and its readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) identity: Identity,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
}

/// Sector 0 of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) number: u64,
    pub(super) generation: Generation,
    /// Length of the file, the header included. A shorter file has been cut.
    pub(super) sectors: u64,
    /// Where the segment before this one ends; all of it had been synced before this header was written.
    pub(super) previous_end: u64,
    /// Checksum of the last record of the segment before this one.
    pub(super) previous_crc: u32,
    /// The newest position of the log when this segment was begun.
    pub(super) base: Option<LogPosition>,
}

impl Header {
    /// Puts the header into `writer`, which stands at sector 0, and returns what its records are bound to.
    pub(super) fn push(&self, writer: &mut SectorWriter) -> Identity {
        let mut data = Vec::with_capacity(SECTOR_DATA_BYTES);
        data.extend_from_slice(&MAGIC);
        data.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        data.extend_from_slice(&self.generation.number().to_le_bytes());
        for field in [
            self.cluster_id,
            self.member_id,
            self.number,
            self.sectors,
            self.previous_end,
        ] {
            data.extend_from_slice(&field.to_le_bytes());
        }
        data.extend_from_slice(&self.previous_crc.to_le_bytes());
        data.extend_from_slice(&u32::from(self.base.is_some()).to_le_bytes());
        let base = self.base.unwrap_or_default();
        data.extend_from_slice(&base.term.to_le_bytes());
        data.extend_from_slice(&base.index.to_le_bytes());
        data.resize(CRC_AT, 0);
        let header_crc = crc32fast::hash(&data);
        data.extend_from_slice(&header_crc.to_le_bytes());
        writer.push(&data);
        Identity {
            generation: self.generation,
            header_crc,
        }
    }

    /// Reads sector 0. The inner error says what is wrong with bytes that could be read.
    fn load(file: &dyn DiskFile) -> std::io::Result<Result<(Self, Identity), HeaderError>> {
        let sectors = Sectors::load(file, 0, 1)?;
        let data = sectors.data(0, SECTOR_DATA_BYTES).unwrap_or_default();
        if data.iter().all(|byte| *byte == 0) {
            return Ok(Err(HeaderError::Empty));
        }
        let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("8 bytes"));
        let header_crc = word(CRC_AT);
        if data[..8] != MAGIC || crc32fast::hash(&data[..CRC_AT]) != header_crc {
            return Ok(Err(HeaderError::Damaged(
                "the checksum of the segment's header does not match",
            )));
        }
        if word(8) != FORMAT_VERSION {
            return Ok(Err(HeaderError::Version(word(8))));
        }
        let Some(generation) = Generation::new(word(12)) else {
            return Ok(Err(HeaderError::Damaged(
                "the segment's generation is out of range",
            )));
        };
        if sectors.age(0, generation) != super::sector::Age::Current {
            return Ok(Err(HeaderError::Damaged(
                "the stamp of the segment's header is damaged",
            )));
        }
        let header = Self {
            cluster_id: long(16),
            member_id: long(24),
            number: long(32),
            generation,
            sectors: long(40),
            previous_end: long(48),
            previous_crc: word(56),
            base: (word(60) != 0).then(|| LogPosition {
                term: long(64),
                index: long(72),
            }),
        };
        Ok(Ok((
            header,
            Identity {
                generation,
                header_crc,
            },
        )))
    }
}

enum HeaderError {
    Empty,
    Damaged(&'static str),
    Version(u32),
}

/// Opens the segment that `path` names and checks that it is what its name says and belongs to this member.
pub(super) fn open(
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    number: u64,
    options: &WalOptions,
) -> Result<(Arc<Segment>, Header), Fault> {
    let unusable = |what: String| Fault::Unusable {
        path: path.clone(),
        what,
    };
    let length = file
        .length()
        .map_err(|error| Fault::io("measure", &path, error))?;
    if length < SECTOR_BYTES as u64 {
        return Err(Fault::damaged(
            &path,
            length,
            "the segment is shorter than its header",
        ));
    }
    let loaded = Header::load(&*file).map_err(|error| Fault::io("read", &path, error))?;
    let (header, identity) = match loaded {
        Ok(loaded) => loaded,
        // The header was synced before the file got its name.
        Err(HeaderError::Empty) => return Err(Fault::damaged(&path, 0, "the segment's header is gone")),
        Err(HeaderError::Damaged(what)) => return Err(Fault::damaged(&path, 0, what)),
        Err(HeaderError::Version(version)) => {
            return Err(unusable(format!(
                "the log has format {version}, this version of kelson knows {FORMAT_VERSION}"
            )));
        }
    };
    if header.cluster_id != options.cluster_id || header.member_id != options.member_id {
        return Err(unusable(format!(
            "the log belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}",
            header.member_id, header.cluster_id, options.member_id, options.cluster_id
        )));
    }
    if header.number != number {
        return Err(Fault::damaged(
            &path,
            0,
            format!(
                "the file holds segment {:x}, its name says {number:x}",
                header.number
            ),
        ));
    }
    if length / (SECTOR_BYTES as u64) < header.sectors {
        let what = format!(
            "the segment was {} bytes long",
            header.sectors * SECTOR_BYTES as u64
        );
        return Err(Fault::damaged(&path, length, what));
    }
    let segment = Segment {
        number,
        identity,
        path,
        file,
    };
    Ok((Arc::new(segment), header))
}

/// The last life of a spare: 0 if it has had none, `None` if its header cannot be read and the file is of no use.
pub(super) fn spare_generation(file: &dyn DiskFile) -> std::io::Result<Option<u32>> {
    if file.length()? < SECTOR_BYTES as u64 {
        return Ok(None);
    }
    Ok(match Header::load(file)? {
        Ok((header, _)) => Some(header.generation.number()),
        Err(HeaderError::Empty) => Some(0),
        Err(HeaderError::Damaged(_) | HeaderError::Version(_)) => None,
    })
}
