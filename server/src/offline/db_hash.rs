//! The state of a member that does not run, as hashes and counts.

use std::io::Write;

use kelson_storage::revision::LogPosition;
use kelson_storage::store::ReadError;
use serde_json::{Value, json};

use super::{Flags, Member, ToolError};

/// Prints the state at the newest committed entry, or at the one that the flags name, as one line of JSON. The tables
/// are counted as a checkpoint at that entry leaves them, whatever had been written of it.
pub(super) fn print(flags: &Flags, member: &Member, output: &mut dyn Write) -> Result<(), ToolError> {
    let to = flags.to_index.map_or(u64::MAX, |index| index.saturating_add(1));
    let (store, checkpoint) = member.log.replay(member.disk.clone(), &member.database, to)?;
    let reader = store.reader();
    let hash = reader.hash_kv(flags.revision).map_err(|error| match error {
        ReadError::Fault(fault) => ToolError::Fault(fault),
        ReadError::Rejected(rejected) => ToolError::Data(format!("revision {}: {rejected}", flags.revision)),
    })?;
    let (applied, rolling_hash) = reader.rolling_hash();
    let contents = reader.tables().contents();
    let leases = reader.leases().into_iter().map(|(id, ttl)| {
        let keys = reader.lease_keys(id).map_or(0, |keys| keys.len());
        json!({ "id": id, "ttl": ttl, "keys": keys })
    });
    let leases: Value = leases.collect();
    let alarms = reader.alarms().into_iter();
    let alarms: Value = alarms
        .map(|(member, kind)| json!({ "member": format!("{member:x}"), "alarm": format!("{kind:?}") }))
        .collect();
    let members = reader.members().into_iter();
    let members: Value = members.map(|member| format!("{:x}", member.id)).collect();
    let line = json!({
        "member_id": format!("{:x}", member.identity.member_id),
        "cluster_id": format!("{:x}", member.identity.cluster_id),
        "applied": position(applied),
        "checkpoint": position(checkpoint),
        "committed": position(member.log.committed()),
        "revision": hash.revision,
        "compact_revision": hash.compact_revision,
        "hash_revision": hash.hash_revision,
        "hash": hash.hash,
        "rolling_hash": format!("{rolling_hash:016x}"),
        "tables": {
            "rev": { "rows": contents.rows, "bytes": contents.row_bytes },
            "lease": { "rows": contents.leases },
        },
        "leases": leases,
        "alarms": alarms,
        "members": members,
    });
    writeln!(output, "{line}")?;
    Ok(())
}

fn position(at: Option<LogPosition>) -> Value {
    at.map_or(Value::Null, |at| json!({ "term": at.term, "index": at.index }))
}
