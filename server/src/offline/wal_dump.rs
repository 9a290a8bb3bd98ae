//! The log as JSON lines, one per entry. What a line says is the same on every member that has the entry.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kelson_raft::offline::{Content, Entry};
use kelson_storage::command::{Command, Proposal};
use prost::Message;
use serde_json::{Value, json};

use super::raft_request::{kind, raft_request};
use super::{Flags, Member, ToolError, say};

/// Prints the entries that the flags ask for, and on the side which ones there are.
pub(super) fn print(flags: &Flags, member: &Member, output: &mut dyn Write) -> Result<(), ToolError> {
    let log = &member.log;
    say(&format!(
        "member {:x} of cluster {:x}: entries from {}, last {}, committed {}, vote {}\n",
        member.identity.member_id,
        member.identity.cluster_id,
        log.first(),
        text(log.last()),
        text(log.committed()),
        text(
            log.vote()?
                .map(|(term, candidate)| format!("{term} for {candidate:x}"))
        ),
    ));
    let end = if flags.all { log.last() } else { log.committed() };
    let end = end.map_or(0, |at| at.index + 1);
    let asked = flags.to_index.map_or(u64::MAX, |index| index.saturating_add(1));
    let mut written = Ok(());
    log.for_each(flags.from_index.max(log.first()), end.min(asked), |entry| {
        written = writeln!(output, "{}", line(&entry));
        Ok(written.is_ok())
    })?;
    Ok(written?)
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn line(entry: &Entry) -> Value {
    let mut line = json!({
        "term": entry.position.term,
        "index": entry.position.index,
        "crc": entry.crc,
    });
    match &entry.content {
        Content::Blank => line["kind"] = "blank".into(),
        Content::Commands(proposals) => {
            line["kind"] = "commands".into();
            line["commands"] = proposals.iter().map(command).collect();
        }
        Content::Membership { voters, peers } => {
            let ids = |ids: &Vec<u64>| -> Value { ids.iter().map(|id| format!("{id:x}")).collect() };
            let peer =
                |(id, urls): &(u64, Vec<String>)| json!({ "id": format!("{id:x}"), "peer_urls": urls });
            line["kind"] = "membership".into();
            line["voters"] = voters.iter().map(ids).collect();
            line["members"] = peers.iter().map(peer).collect();
        }
    }
    line
}

fn command(proposal: &Proposal) -> Value {
    let mut value = json!({
        "kind": kind(&proposal.command),
        "origin": format!("{:x}", proposal.id.origin),
        "session": proposal.id.session,
        "seq": proposal.id.seq,
        "low": proposal.low,
        "request": STANDARD.encode(raft_request(&proposal.command).encode_to_vec()),
    });
    // etcd's message has no place for it.
    if let Command::LeaseRevoke {
        expiry_term: Some(term),
        ..
    } = &proposal.command
    {
        value["expiry_term"] = (*term).into();
    }
    value
}
