//! The bytes of a batch of proposals: what a Raft entry holds and what a follower forwards to the leader.
//!
//! ```text
//! batch:    frame*                         (batches can be joined by appending one to the other)
//! frame:    length u32 | proposal          (length of the proposal, without itself)
//! proposal: origin u64 | session u64 | seq u64 | low u64 | command
//! command:  kind u8 | fields in the order of their declaration
//! ```
//!
//! Integers are little-endian; byte strings and lists start with a u32 length or count; a `bool` group is one byte of
//! flags. Decoding copies nothing: keys and values are slices of the batch. Every encoding of a command is canonical,
//! so equal commands have equal bytes. A kind or flag that this version does not know is an error, never skipped:
//! a member that cannot read a committed command must not pretend to have applied it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{
    AlarmAction, AlarmKind, Command, CommandId, CommandKind, Compare, CompareOperand, CompareResult,
    DeleteRange, Proposal, Put, Range, SortOrder, SortTarget, Txn, TxnOp,
};

/// Bytes of a frame besides its command: length, id and low mark.
pub const FRAME_OVERHEAD_BYTES: usize = 4 + 4 * 8;

/// Deepest nesting of transactions that is decoded. Source: above what a protobuf decoder with the usual recursion
/// limit of 100 messages lets through (two messages per level).
pub const TXN_DEPTH_MAX: usize = 64;

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a batch of commands: {0}")]
pub struct DecodeError(&'static str);

type Decoded<T> = Result<T, DecodeError>;

/// Encodes proposals as one batch.
pub fn encode_batch<'a>(proposals: impl IntoIterator<Item = &'a Proposal>) -> Bytes {
    let mut batch = BytesMut::new();
    for proposal in proposals {
        append_proposal(&mut batch, proposal);
    }
    batch.freeze()
}

/// Appends one proposal to a batch and returns how many bytes that took.
pub fn append_proposal(batch: &mut BytesMut, proposal: &Proposal) -> usize {
    let start = batch.len();
    batch.put_u32_le(0);
    batch.put_u64_le(proposal.id.origin);
    batch.put_u64_le(proposal.id.session);
    batch.put_u64_le(proposal.id.seq);
    batch.put_u64_le(proposal.low);
    put_command(batch, &proposal.command);
    let length = batch.len() - start;
    let payload = u32::try_from(length - 4).expect("requests are limited far below 4 GiB");
    batch[start..start + 4].copy_from_slice(&payload.to_le_bytes());
    length
}

/// Appends a command alone, for measuring its size or for a transport that adds the id itself.
pub fn append_command(bytes: &mut BytesMut, command: &Command) {
    put_command(bytes, command);
}

/// Reads the proposals of a batch one by one. Stops after the first error.
pub fn decode_batch(batch: &Bytes) -> Proposals {
    Proposals {
        rest: Input::new(batch.clone()),
        failed: false,
    }
}

/// See [`decode_batch`].
pub struct Proposals {
    rest: Input,
    failed: bool,
}

impl Iterator for Proposals {
    type Item = Decoded<Proposal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let proposal = self.rest.frame();
        self.failed = proposal.is_err();
        Some(proposal)
    }
}

/// Reads whose commands a batch holds and of which kind, without decoding them. Ends before anything that is no batch.
pub fn kinds(batch: &[u8]) -> Kinds<'_> {
    Kinds { rest: batch }
}

/// See [`kinds`].
pub struct Kinds<'a> {
    rest: &'a [u8],
}

impl Iterator for Kinds<'_> {
    type Item = (CommandId, CommandKind);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let (frame, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (origin, frame) = frame.split_first_chunk()?;
        let (session, frame) = frame.split_first_chunk()?;
        let (seq, frame) = frame.split_first_chunk()?;
        let (_low, command) = frame.split_first_chunk::<8>()?;
        let kind = kind::of(*command.first()?)?;
        self.rest = rest;
        let id = CommandId {
            origin: u64::from_le_bytes(*origin),
            session: u64::from_le_bytes(*session),
            seq: u64::from_le_bytes(*seq),
        };
        Some((id, kind))
    }
}

mod kind {
    use crate::command::CommandKind;

    pub const PUT: u8 = 1;
    pub const DELETE_RANGE: u8 = 2;
    pub const TXN: u8 = 3;
    pub const COMPACT: u8 = 4;
    pub const LEASE_GRANT: u8 = 5;
    pub const LEASE_REVOKE: u8 = 6;
    pub const ALARM: u8 = 7;
    pub const PUBLISH_MEMBER: u8 = 8;
    pub const CLUSTER_VERSION: u8 = 9;
    /// Only as an operation of a transaction.
    pub const RANGE: u8 = 10;

    pub fn of(byte: u8) -> Option<CommandKind> {
        Some(match byte {
            PUT => CommandKind::Put,
            DELETE_RANGE => CommandKind::DeleteRange,
            TXN => CommandKind::Txn,
            COMPACT => CommandKind::Compact,
            LEASE_GRANT => CommandKind::LeaseGrant,
            LEASE_REVOKE => CommandKind::LeaseRevoke,
            ALARM => CommandKind::Alarm,
            PUBLISH_MEMBER => CommandKind::PublishMember,
            CLUSTER_VERSION => CommandKind::ClusterVersion,
            _ => return None,
        })
    }
}

fn put_command(out: &mut BytesMut, command: &Command) {
    match command {
        Command::Put(put) => put_put(out, put),
        Command::DeleteRange(delete) => put_delete(out, delete),
        Command::Txn(txn) => put_txn(out, txn),
        Command::Compact { revision } => {
            out.put_u8(kind::COMPACT);
            out.put_i64_le(*revision);
        }
        Command::LeaseGrant { id, ttl } => {
            out.put_u8(kind::LEASE_GRANT);
            out.put_i64_le(*id);
            out.put_i64_le(*ttl);
        }
        Command::LeaseRevoke { id, expiry_term } => {
            out.put_u8(kind::LEASE_REVOKE);
            out.put_i64_le(*id);
            out.put_u8(u8::from(expiry_term.is_some()));
            if let Some(term) = expiry_term {
                out.put_u64_le(*term);
            }
        }
        Command::Alarm {
            action,
            member,
            alarm,
        } => {
            out.put_u8(kind::ALARM);
            out.put_u8(match action {
                AlarmAction::Get => 0,
                AlarmAction::Activate => 1,
                AlarmAction::Deactivate => 2,
            });
            out.put_u64_le(*member);
            out.put_u8(match alarm {
                AlarmKind::None => 0,
                AlarmKind::NoSpace => 1,
                AlarmKind::Corrupt => 2,
            });
        }
        Command::PublishMember {
            id,
            name,
            client_urls,
        } => {
            out.put_u8(kind::PUBLISH_MEMBER);
            out.put_u64_le(*id);
            put_bytes(out, name.as_bytes());
            put_count(out, client_urls.len());
            for url in client_urls {
                put_bytes(out, url.as_bytes());
            }
        }
        Command::ClusterVersion { version } => {
            out.put_u8(kind::CLUSTER_VERSION);
            put_bytes(out, version.as_bytes());
        }
    }
}

fn put_put(out: &mut BytesMut, put: &Put) {
    out.reserve(put.key.len() + put.value.len() + 32);
    out.put_u8(kind::PUT);
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
    out.put_i64_le(put.lease);
    put_flags(out, [put.prev_kv, put.ignore_value, put.ignore_lease]);
}

fn put_delete(out: &mut BytesMut, delete: &DeleteRange) {
    out.put_u8(kind::DELETE_RANGE);
    put_bytes(out, &delete.key);
    put_bytes(out, &delete.range_end);
    put_flags(out, [delete.prev_kv, false, false]);
}

fn put_range(out: &mut BytesMut, range: &Range) {
    out.put_u8(kind::RANGE);
    put_bytes(out, &range.key);
    put_bytes(out, &range.range_end);
    out.put_i64_le(range.limit);
    out.put_i64_le(range.revision);
    out.put_u8(match range.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.put_u8(match range.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    put_flags(out, [range.keys_only, range.count_only, false]);
    out.put_i64_le(range.min_mod_revision);
    out.put_i64_le(range.max_mod_revision);
    out.put_i64_le(range.min_create_revision);
    out.put_i64_le(range.max_create_revision);
}

fn put_txn(out: &mut BytesMut, txn: &Txn) {
    out.put_u8(kind::TXN);
    put_count(out, txn.compares.len());
    for compare in &txn.compares {
        put_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        put_count(out, branch.len());
        for op in branch {
            match op {
                TxnOp::Range(range) => put_range(out, range),
                TxnOp::Put(put) => put_put(out, put),
                TxnOp::DeleteRange(delete) => put_delete(out, delete),
                TxnOp::Txn(txn) => put_txn(out, txn),
            }
        }
    }
}

fn put_compare(out: &mut BytesMut, compare: &Compare) {
    put_bytes(out, &compare.key);
    put_bytes(out, &compare.range_end);
    out.put_u8(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
        CompareResult::Always => 4,
    });
    let mut number = |target: u8, operand: i64| {
        out.put_u8(target);
        out.put_i64_le(operand);
    };
    match &compare.operand {
        CompareOperand::Version(operand) => number(0, *operand),
        CompareOperand::Create(operand) => number(1, *operand),
        CompareOperand::Mod(operand) => number(2, *operand),
        CompareOperand::Value(operand) => {
            out.put_u8(3);
            put_bytes(out, operand);
        }
        CompareOperand::Lease(operand) => number(4, *operand),
        CompareOperand::Unknown => out.put_u8(5),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("requests are limited far below 4 GiB"));
}

fn put_flags(out: &mut BytesMut, flags: [bool; 3]) {
    out.put_u8(u8::from(flags[0]) | u8::from(flags[1]) << 1 | u8::from(flags[2]) << 2);
}

/// What is left to decode.
struct Input {
    bytes: Bytes,
    at: usize,
}

impl Input {
    fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Decoded<std::ops::Range<usize>> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(DecodeError("cut off"))?;
        let taken = self.at..end;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let taken = self.take(N)?;
        Ok(self.bytes[taken].try_into().expect("N bytes were taken"))
    }

    fn u8(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Decoded<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn slice(&mut self) -> Decoded<Bytes> {
        let length = self.u32()? as usize;
        let taken = self.take(length)?;
        Ok(self.bytes.slice(taken))
    }

    fn text(&mut self) -> Decoded<String> {
        let bytes = self.slice()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError("text that is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn flags(&mut self) -> Decoded<[bool; 3]> {
        let flags = self.u8()?;
        if flags > 7 {
            return Err(DecodeError("unknown flag"));
        }
        Ok([flags & 1 != 0, flags & 2 != 0, flags & 4 != 0])
    }

    /// Reads a list. The count is not trusted for allocation.
    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let count = self.u32()? as usize;
        let mut list = Vec::with_capacity(count.min(128));
        for _ in 0..count {
            list.push(element(self)?);
        }
        Ok(list)
    }

    fn frame(&mut self) -> Decoded<Proposal> {
        let length = self.u32()? as usize;
        let end = self.at.checked_add(length).ok_or(DecodeError("cut off"))?;
        let proposal = Proposal {
            id: CommandId {
                origin: self.u64()?,
                session: self.u64()?,
                seq: self.u64()?,
            },
            low: self.u64()?,
            command: self.command()?,
        };
        if self.at != end {
            return Err(DecodeError("length of a frame is wrong"));
        }
        Ok(proposal)
    }

    fn command(&mut self) -> Decoded<Command> {
        Ok(match self.u8()? {
            kind::PUT => Command::Put(self.put()?),
            kind::DELETE_RANGE => Command::DeleteRange(self.delete()?),
            kind::TXN => Command::Txn(self.txn(1)?),
            kind::COMPACT => Command::Compact {
                revision: self.i64()?,
            },
            kind::LEASE_GRANT => Command::LeaseGrant {
                id: self.i64()?,
                ttl: self.i64()?,
            },
            kind::LEASE_REVOKE => Command::LeaseRevoke {
                id: self.i64()?,
                expiry_term: match self.u8()? {
                    0 => None,
                    1 => Some(self.u64()?),
                    _ => return Err(DecodeError("unknown flag")),
                },
            },
            kind::ALARM => self.alarm()?,
            kind::PUBLISH_MEMBER => Command::PublishMember {
                id: self.u64()?,
                name: self.text()?,
                client_urls: self.list(Self::text)?,
            },
            kind::CLUSTER_VERSION => Command::ClusterVersion {
                version: self.text()?,
            },
            _ => return Err(DecodeError("unknown kind of command")),
        })
    }

    fn alarm(&mut self) -> Decoded<Command> {
        Ok(Command::Alarm {
            action: match self.u8()? {
                0 => AlarmAction::Get,
                1 => AlarmAction::Activate,
                2 => AlarmAction::Deactivate,
                _ => return Err(DecodeError("unknown alarm action")),
            },
            member: self.u64()?,
            alarm: match self.u8()? {
                0 => AlarmKind::None,
                1 => AlarmKind::NoSpace,
                2 => AlarmKind::Corrupt,
                _ => return Err(DecodeError("unknown alarm")),
            },
        })
    }

    fn put(&mut self) -> Decoded<Put> {
        let (key, value, lease) = (self.slice()?, self.slice()?, self.i64()?);
        let [prev_kv, ignore_value, ignore_lease] = self.flags()?;
        Ok(Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        })
    }

    fn delete(&mut self) -> Decoded<DeleteRange> {
        let (key, range_end) = (self.slice()?, self.slice()?);
        let [prev_kv, ..] = self.flags()?;
        Ok(DeleteRange {
            key,
            range_end,
            prev_kv,
        })
    }

    fn range(&mut self) -> Decoded<Range> {
        let mut range = Range {
            key: self.slice()?,
            range_end: self.slice()?,
            limit: self.i64()?,
            revision: self.i64()?,
            sort_order: match self.u8()? {
                0 => SortOrder::None,
                1 => SortOrder::Ascend,
                2 => SortOrder::Descend,
                _ => return Err(DecodeError("unknown sort order")),
            },
            sort_target: match self.u8()? {
                0 => SortTarget::Key,
                1 => SortTarget::Version,
                2 => SortTarget::Create,
                3 => SortTarget::Mod,
                4 => SortTarget::Value,
                _ => return Err(DecodeError("unknown sort target")),
            },
            ..Range::default()
        };
        [range.keys_only, range.count_only, _] = self.flags()?;
        range.min_mod_revision = self.i64()?;
        range.max_mod_revision = self.i64()?;
        range.min_create_revision = self.i64()?;
        range.max_create_revision = self.i64()?;
        Ok(range)
    }

    fn txn(&mut self, depth: usize) -> Decoded<Txn> {
        if depth > TXN_DEPTH_MAX {
            return Err(DecodeError("transactions nested too deeply"));
        }
        Ok(Txn {
            compares: self.list(Self::compare)?,
            success: self.list(|input| input.op(depth))?,
            failure: self.list(|input| input.op(depth))?,
        })
    }

    fn op(&mut self, depth: usize) -> Decoded<TxnOp> {
        Ok(match self.u8()? {
            kind::RANGE => TxnOp::Range(self.range()?),
            kind::PUT => TxnOp::Put(self.put()?),
            kind::DELETE_RANGE => TxnOp::DeleteRange(self.delete()?),
            kind::TXN => TxnOp::Txn(self.txn(depth + 1)?),
            _ => return Err(DecodeError("unknown kind of operation")),
        })
    }

    fn compare(&mut self) -> Decoded<Compare> {
        Ok(Compare {
            key: self.slice()?,
            range_end: self.slice()?,
            result: match self.u8()? {
                0 => CompareResult::Equal,
                1 => CompareResult::Greater,
                2 => CompareResult::Less,
                3 => CompareResult::NotEqual,
                4 => CompareResult::Always,
                _ => return Err(DecodeError("unknown compare result")),
            },
            operand: match self.u8()? {
                0 => CompareOperand::Version(self.i64()?),
                1 => CompareOperand::Create(self.i64()?),
                2 => CompareOperand::Mod(self.i64()?),
                3 => CompareOperand::Value(self.slice()?),
                4 => CompareOperand::Lease(self.i64()?),
                5 => CompareOperand::Unknown,
                _ => return Err(DecodeError("unknown compare target")),
            },
        })
    }
}

#[cfg(test)]
mod tests;
