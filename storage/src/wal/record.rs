//! Records: what the log is made of, byte by byte, and what reading one can tell.
//!
//! A record is a 20-byte header and a payload. The header's checksum covers its place, the life of its segment, the
//! checksum of the record before it and, through `payload_crc`, the payload; so a record passes in one place only.

use bytes::Bytes;
use crc32fast::Hasher;

use super::WalEntry;
use super::sector::{Age, Generation, SectorWriter, Sectors, next_sector, sector_of, sector_start};
use crate::revision::LogPosition;

/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 20;
/// Bytes of an entry's payload before the caller's own: term and index.
pub(super) const ENTRY_HEAD_BYTES: usize = 16;
/// Bytes of the record that opens a group.
pub(super) const GROUP_BYTES: u64 = (HEADER_BYTES + 8) as u64;

/// What a record is. Never zero: a zero byte where a record could start means that the rest of the sector is unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Group = 1,
    Entry = 2,
    Vote = 3,
    Committed = 4,
    Truncate = 5,
    Purge = 6,
    Incarnation = 7,
    State = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 8] = [
            Kind::Group,
            Kind::Entry,
            Kind::Vote,
            Kind::Committed,
            Kind::Truncate,
            Kind::Purge,
            Kind::Incarnation,
            Kind::State,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One change to the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operation {
    Entry(WalEntry),
    Vote(Bytes),
    Committed(LogPosition),
    /// Entries after this position are void; `None` voids all.
    Truncate(Option<LogPosition>),
    /// Entries up to this position are forgotten.
    Purge(LogPosition),
    Incarnation(u64),
}

impl Operation {
    /// The kind and the payload, which is the concatenation of the two parts.
    pub(super) fn encode(&self) -> (Kind, Head, &[u8]) {
        match self {
            Self::Entry(entry) => (Kind::Entry, Head::position(entry.position), &entry.payload),
            Self::Vote(vote) => (Kind::Vote, Head::empty(), vote),
            Self::Committed(position) => (Kind::Committed, Head::position(*position), &[]),
            Self::Truncate(None) => (Kind::Truncate, Head::empty(), &[]),
            Self::Truncate(Some(kept)) => (Kind::Truncate, Head::position(*kept), &[]),
            Self::Purge(position) => (Kind::Purge, Head::position(*position), &[]),
            Self::Incarnation(number) => (Kind::Incarnation, Head::number(*number), &[]),
        }
    }

    /// Bytes of the record of this operation, header included.
    pub(super) fn record_bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Self::Entry(entry) => ENTRY_HEAD_BYTES + entry.payload.len(),
                Self::Vote(vote) => vote.len(),
                Self::Truncate(None) => 0,
                Self::Committed(_) | Self::Truncate(Some(_)) | Self::Purge(_) => 16,
                Self::Incarnation(_) => 8,
            }
    }
}

/// What the log knows beside its entries. Each segment starts with it, so that older segments can be reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<LogPosition>,
    pub(super) purged: Option<LogPosition>,
    pub(super) incarnation: u64,
}

impl State {
    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Entry(_) | Operation::Truncate(_) => {}
            Operation::Vote(vote) => self.vote = Some(vote.clone()),
            Operation::Committed(position) => self.committed = Some(*position),
            Operation::Purge(position) => self.purged = Some(*position),
            Operation::Incarnation(number) => self.incarnation = self.incarnation.max(*number),
        }
    }

    /// Flags (1 vote, 2 committed, 4 purged), incarnation, committed, purged, vote.
    pub(super) fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.vote.is_some())
            | u8::from(self.committed.is_some()) << 1
            | u8::from(self.purged.is_some()) << 2;
        let mut bytes = vec![flags];
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&encode_position(self.committed.unwrap_or_default()));
        bytes.extend_from_slice(&encode_position(self.purged.unwrap_or_default()));
        bytes.extend_from_slice(self.vote.as_deref().unwrap_or_default());
        bytes
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (flags, rest) = payload.split_first()?;
        let (incarnation, rest) = rest.split_first_chunk::<8>()?;
        let (committed, rest) = rest.split_first_chunk::<16>()?;
        let (purged, vote) = rest.split_first_chunk::<16>()?;
        let on = |bit: u8| flags & bit != 0;
        Some(Self {
            vote: on(1).then(|| Bytes::copy_from_slice(vote)),
            committed: on(2).then(|| decode_position(committed)),
            purged: on(4).then(|| decode_position(purged)),
            incarnation: u64::from_le_bytes(*incarnation),
        })
    }
}

/// What a record's payload says. Entries are not copied out: only where they are is kept.
#[derive(Debug)]
pub(super) enum Content {
    /// Opens the records of one write; all sectors below this one had been synced before it.
    Group {
        synced_sector: u64,
    },
    Entry(LogPosition),
    Operation(Operation),
    State(State),
}

impl Content {
    fn decode(kind: Kind, payload: &[u8]) -> Option<Self> {
        let position = || payload.try_into().ok().map(decode_position);
        let number = || payload.try_into().ok().map(u64::from_le_bytes);
        Some(match kind {
            Kind::Group => Self::Group {
                synced_sector: number()?,
            },
            Kind::Entry => Self::Entry(decode_position(payload.first_chunk()?)),
            Kind::Vote => Self::Operation(Operation::Vote(Bytes::copy_from_slice(payload))),
            Kind::Committed => Self::Operation(Operation::Committed(position()?)),
            Kind::Truncate if payload.is_empty() => Self::Operation(Operation::Truncate(None)),
            Kind::Truncate => Self::Operation(Operation::Truncate(Some(position()?))),
            Kind::Purge => Self::Operation(Operation::Purge(position()?)),
            Kind::Incarnation => Self::Operation(Operation::Incarnation(number()?)),
            Kind::State => Self::State(State::decode(payload)?),
        })
    }
}

/// The fixed part of a payload, at most a position.
#[derive(Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; ENTRY_HEAD_BYTES],
    length: usize,
}

impl Head {
    fn empty() -> Self {
        Self {
            bytes: [0; ENTRY_HEAD_BYTES],
            length: 0,
        }
    }

    pub(super) fn number(number: u64) -> Self {
        let mut head = Self::empty();
        head.bytes[..8].copy_from_slice(&number.to_le_bytes());
        head.length = 8;
        head
    }

    fn position(position: LogPosition) -> Self {
        Self {
            bytes: encode_position(position),
            length: ENTRY_HEAD_BYTES,
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn encode_position(position: LogPosition) -> [u8; ENTRY_HEAD_BYTES] {
    let mut bytes = [0; ENTRY_HEAD_BYTES];
    bytes[..8].copy_from_slice(&position.term.to_le_bytes());
    bytes[8..].copy_from_slice(&position.index.to_le_bytes());
    bytes
}

fn decode_position(bytes: &[u8; 16]) -> LogPosition {
    let (term, index) = bytes.split_at(8);
    LogPosition {
        term: u64::from_le_bytes(term.try_into().expect("split at 8")),
        index: u64::from_le_bytes(index.try_into().expect("16 - 8 = 8")),
    }
}

/// What makes a record pass in one life of one segment only: the life, and the checksum of the segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) generation: Generation,
    pub(super) header_crc: u32,
}

/// Appends one record and returns its checksum, which the next one carries as `previous`.
pub(super) fn push(
    writer: &mut SectorWriter,
    identity: Identity,
    previous: u32,
    (kind, head, tail): (Kind, &[u8], &[u8]),
) -> u32 {
    let bytes = u32::try_from(head.len() + tail.len()).expect("callers bound a record to 4 GiB");
    let mut payload_crc = Hasher::new();
    payload_crc.update(head);
    payload_crc.update(tail);
    let mut header = [0; HEADER_BYTES];
    header[0] = kind as u8;
    header[4..8].copy_from_slice(&bytes.to_le_bytes());
    header[8..12].copy_from_slice(&previous.to_le_bytes());
    header[12..16].copy_from_slice(&payload_crc.finalize().to_le_bytes());
    let crc = header_crc(identity, writer.offset(), &header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    writer.push(&header);
    writer.push(head);
    writer.push(tail);
    crc
}

fn header_crc(identity: Identity, offset: u64, fields: &[u8]) -> u32 {
    let mut crc = Hasher::new_with_initial(identity.header_crc);
    crc.update(&offset.to_le_bytes());
    crc.update(fields);
    crc.finalize()
}

/// What stands at one place of a segment.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole record; `crc` is its checksum.
    Record {
        content: Content,
        payload_bytes: usize,
        crc: u32,
        end: u64,
    },
    /// The group ends here; the next can start at this offset.
    EndOfGroup(u64),
    /// A sector that should hold this record has not been written in this life of the file.
    Lost,
    /// The sectors were written, and hold something else now.
    Wrong(&'static str),
}

/// Reads the record at the data offset `at`. With `previous`, it must follow the record of that checksum.
pub(super) fn read(sectors: &Sectors, identity: Identity, at: u64, previous: Option<u32>) -> Found {
    let end_of_segment = sector_start(sectors.end());
    if let Some(found) = unwritten(sectors, identity, at, at + 1) {
        return found;
    }
    let Some(&[first]) = sectors.data(at, 1) else {
        return Found::Wrong("a record starts past the end of the segment");
    };
    if first == 0 {
        let next = sector_start(next_sector(at + 1));
        let unused = usize::try_from(next - at).expect("less than a sector");
        return match sectors.data(at, unused) {
            Some(zeros) if zeros.iter().all(|byte| *byte == 0) => Found::EndOfGroup(next),
            _ => Found::Wrong("the unused end of a sector is not zero"),
        };
    }
    let body = at + HEADER_BYTES as u64;
    if body > end_of_segment {
        return Found::Wrong("a record starts too close to the end of the segment");
    }
    if let Some(found) = unwritten(sectors, identity, at, body) {
        return found;
    }
    let Some(header) = sectors.data(at, HEADER_BYTES) else {
        return Found::Wrong("a record starts past the end of the segment");
    };
    let field = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("4 bytes"));
    let crc = field(16);
    if header_crc(identity, at, &header[..16]) != crc {
        return Found::Wrong("the checksum of a record's header does not match");
    }
    if previous.is_some_and(|previous| previous != field(8)) {
        return Found::Wrong("a record does not follow the one before it");
    }
    let payload_bytes = field(4) as usize;
    let end = body + u64::from(field(4));
    if end > end_of_segment {
        return Found::Wrong("a record is longer than its segment");
    }
    if let Some(found) = unwritten(sectors, identity, at, end) {
        return found;
    }
    let payload = sectors.data(body, payload_bytes).unwrap_or_default();
    if crc32fast::hash(payload) != field(12) {
        return Found::Wrong("the checksum of a record's payload does not match");
    }
    match Kind::from_byte(first).and_then(|kind| Content::decode(kind, payload)) {
        Some(content) => Found::Record {
            content,
            payload_bytes,
            crc,
            end,
        },
        None => Found::Wrong("a record of unknown kind or shape"),
    }
}

/// What to say of the data from `from` to `to` if some sector under it was not written in this life.
fn unwritten(sectors: &Sectors, identity: Identity, from: u64, to: u64) -> Option<Found> {
    let mut lost = None;
    for sector in sector_of(from)..next_sector(to) {
        if sector >= sectors.end() {
            return Some(Found::Wrong("a record reaches past the end of the segment"));
        }
        match sectors.age(sector, identity.generation) {
            Age::Current => {}
            Age::Older => lost = Some(Found::Lost),
            Age::Impossible => return Some(Found::Wrong("the stamp of a sector is damaged")),
        }
    }
    lost
}
