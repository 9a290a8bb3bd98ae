//! `meta`: the one record that says which state the other tables hold.
//!
//! ```text
//! Key:   "state"
//! Value: crc32 u32 | format version u32 | counts | fields of Meta in the order of the struct
//! ```
//!
//! Integers are big-endian; an optional field is a byte 0, or 1 and the field; bytes and lists have a u32 length in
//! front. The crc covers everything behind it. The record is rewritten in every transaction, so each commit is the
//! state at exactly one log position. Its counts of rows and leases tell a scan whether it has seen all of them.

use bytes::Bytes;

use super::counts::Counts;
use super::fields::{Fields, PutFields};
use crate::command::AlarmKind;
use crate::revision::LogPosition;
use crate::store::MemberRecord;

/// Version of the rows' and records' layout. A database with a higher one is refused. Format 1 had no pieces; what it
/// wrote is read as it is.
pub(super) const FORMAT_VERSION: u32 = 2;

/// Everything but rows and leases that a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The last applied log entry.
    pub applied: Option<LogPosition>,
    /// The newest membership entry applied, as the raft crate encoded it, and its position.
    pub membership: Option<(Option<LogPosition>, Bytes)>,
    /// Current main revision; 1 for an empty store. Never derived from the rows.
    pub revision: u64,
    /// The compact revision.
    pub compact_scheduled: Option<u64>,
    /// The compact revision whose dead rows are all deleted.
    pub compact_finished: Option<u64>,
    /// The table of applied command ids, as the store encoded it.
    pub sessions: Bytes,
    /// Rolling hash of the live state.
    pub hash: u64,
    /// Members by id.
    pub members: Vec<MemberRecord>,
    /// Ids that may never come back.
    pub removed_members: Vec<u64>,
    /// Active alarms: member and kind.
    pub alarms: Vec<(u64, AlarmKind)>,
    /// `major.minor.0` that all members agreed to speak.
    pub cluster_version: Option<String>,
    /// Up to this index the member's own log was on disk when the record was written. What a quorum of others has
    /// committed may be applied before: a log that ends below `applied` has lost nothing, one that ends below this has.
    pub log_end: u64,
}

impl Default for Meta {
    /// The state before the first entry.
    fn default() -> Self {
        Self {
            applied: None,
            membership: None,
            revision: 1,
            compact_scheduled: None,
            compact_finished: None,
            sessions: Bytes::new(),
            hash: 0,
            members: Vec::new(),
            removed_members: Vec::new(),
            alarms: Vec::new(),
            cluster_version: None,
            log_end: 0,
        }
    }
}

/// Why a record is not one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadMeta {
    /// Checksum or structure is wrong.
    Damaged,
    /// A later version wrote it.
    Newer(u32),
}

/// The record for `meta` and `counts`.
pub(crate) fn encode(meta: &Meta, counts: Counts) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_u32(FORMAT_VERSION);
    counts.encode(&mut body);
    body.put_optional(meta.applied, put_position);
    body.put_optional(meta.membership.as_ref(), |body, (at, encoded)| {
        body.put_optional(*at, put_position);
        body.put_bytes(encoded);
    });
    body.put_u64(meta.revision);
    body.put_optional(meta.compact_scheduled, Vec::put_u64);
    body.put_optional(meta.compact_finished, Vec::put_u64);
    body.put_bytes(&meta.sessions);
    body.put_u64(meta.hash);
    body.put_list(&meta.members, put_member);
    body.put_list(&meta.removed_members, |body, id| body.put_u64(*id));
    body.put_list(&meta.alarms, |body, (member, kind)| {
        body.put_u64(*member);
        body.push(alarm_number(*kind));
    });
    body.put_optional(meta.cluster_version.as_deref(), |body, version| {
        body.put_bytes(version.as_bytes());
    });
    body.put_u64(meta.log_end);
    let mut record = Vec::with_capacity(4 + body.len());
    record.put_u32(crc32fast::hash(&body));
    record.append(&mut body);
    record
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(record: &[u8]) -> Result<(Meta, Counts), BadMeta> {
    let mut fields = Fields(record);
    let crc = fields.u32().ok_or(BadMeta::Damaged)?;
    if crc != crc32fast::hash(fields.0) {
        return Err(BadMeta::Damaged);
    }
    match fields.u32().ok_or(BadMeta::Damaged)? {
        1..=FORMAT_VERSION => decode_body(fields).ok_or(BadMeta::Damaged),
        version if version > FORMAT_VERSION => Err(BadMeta::Newer(version)),
        _ => Err(BadMeta::Damaged),
    }
}

fn decode_body(mut fields: Fields<'_>) -> Option<(Meta, Counts)> {
    let counts = Counts::decode(&mut fields)?;
    let meta = Meta {
        applied: fields.optional(position)?,
        membership: fields.optional(|fields| {
            let at = fields.optional(position)?;
            Some((at, Bytes::copy_from_slice(fields.bytes()?)))
        })?,
        revision: fields.u64()?,
        compact_scheduled: fields.optional(Fields::u64)?,
        compact_finished: fields.optional(Fields::u64)?,
        sessions: Bytes::copy_from_slice(fields.bytes()?),
        hash: fields.u64()?,
        members: fields.list(member)?,
        removed_members: fields.list(Fields::u64)?,
        alarms: fields.list(|fields| Some((fields.u64()?, alarm_kind(fields.byte()?)?)))?,
        cluster_version: fields.optional(Fields::string)?,
        // The first databases did not have it.
        log_end: if fields.0.is_empty() { 0 } else { fields.u64()? },
    };
    fields.end()?;
    Some((meta, counts))
}

fn put_position(body: &mut Vec<u8>, position: LogPosition) {
    body.put_u64(position.term);
    body.put_u64(position.index);
}

fn position(fields: &mut Fields<'_>) -> Option<LogPosition> {
    Some(LogPosition {
        term: fields.u64()?,
        index: fields.u64()?,
    })
}

fn put_member(body: &mut Vec<u8>, member: &MemberRecord) {
    body.put_u64(member.id);
    body.put_bytes(member.name.as_bytes());
    for urls in [&member.peer_urls, &member.client_urls] {
        body.put_list(urls, |body, url| body.put_bytes(url.as_bytes()));
    }
    body.push(u8::from(member.is_learner));
}

fn member(fields: &mut Fields<'_>) -> Option<MemberRecord> {
    Some(MemberRecord {
        id: fields.u64()?,
        name: fields.string()?,
        peer_urls: fields.list(Fields::string)?,
        client_urls: fields.list(Fields::string)?,
        is_learner: fields.flag()?,
    })
}

fn alarm_number(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::None => 0,
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}

fn alarm_kind(number: u8) -> Option<AlarmKind> {
    match number {
        0 => Some(AlarmKind::None),
        1 => Some(AlarmKind::NoSpace),
        2 => Some(AlarmKind::Corrupt),
        _ => None,
    }
}
