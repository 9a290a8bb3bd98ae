//! The logs of stopped members, as `kelson wal-dump` prints them: what log matching is checked on.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::network::output;
use crate::history::WalEntry;

/// What is read of a line; the rest follows from the bytes that `crc` is of.
#[derive(Debug, Deserialize)]
struct Line {
    term: u64,
    index: u64,
    crc: u32,
    kind: String,
}

/// Committed entries of the stopped member whose data directory this is. Instead of their bytes they hold a checksum.
///
/// # Errors
///
/// If the log cannot be read.
pub fn committed(kelson: &Path, data: &Path) -> Result<Vec<WalEntry>> {
    let text = output(Command::new(kelson).args(["wal-dump", "--data-dir"]).arg(data))?;
    text.lines().map(entry).collect()
}

fn entry(line: &str) -> Result<WalEntry> {
    let parsed: Line = serde_json::from_str(line).with_context(|| line.to_owned())?;
    Ok(WalEntry {
        index: parsed.index,
        term: parsed.term,
        kind: parsed.kind,
        payload: format!("{:08x}", parsed.crc).into(),
        ..WalEntry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_dump_is_an_entry() {
        let line = r#"{"commands":[{"kind":"put"}],"crc":3735928559,"index":7,"kind":"commands","term":2}"#;
        let expected = WalEntry {
            index: 7,
            term: 2,
            kind: "commands".to_owned(),
            payload: "deadbeef".into(),
            ..WalEntry::default()
        };
        assert_eq!(entry(line).expect("it is one"), expected);
        assert!(entry("member 1 of cluster 2").is_err());
    }
}
