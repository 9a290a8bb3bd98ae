//! `kelson wal-dump` and `kelson db-hash`: what a member that does not run has in its log and in its state.
//!
//! They are subcommands of the server, so that the tool in a container is always the one of the version that wrote the
//! data. Both read through a [`ReadOnlyDisk`]: they run the very recovery that a start would run, refuse what it would
//! refuse, and leave every byte as it was. A member that runs holds its locks, and is refused.

mod db_hash;
mod raft_request;
mod wal_dump;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use kelson_raft::offline::Log;
use kelson_storage::disk::Disk;
use kelson_storage::error::Fault;
use kelson_storage::read_only_disk::ReadOnlyDisk;

use crate::config::grammar::{self, Arity, GrammarError};
use crate::data_dir::{self, Identity};

/// Exit code of a command line that cannot be read, as the server's.
const EXIT_SYNTAX: u8 = 2;

const WAL_DUMP_USAGE: &str = "Usage: kelson wal-dump --data-dir D [flags]
  Print the committed entries of a stopped member's log as JSON lines, oldest first.

  --data-dir ''     Data directory of the member.
  --wal-dir ''      Its log, if that is not in the data directory.
  --from-index '0'  First index to print.
  --to-index ''     Last index to print.
  --all 'false'     Also entries behind the newest one that the member knew to be committed.
";

const DB_HASH_USAGE: &str = "Usage: kelson db-hash --data-dir D [flags]
  Print the hashes of a stopped member's state as one line of JSON: its database, and on top of it the committed
  entries of its log.

  --data-dir ''     Data directory of the member.
  --wal-dir ''      Its log, if that is not in the data directory.
  --to-index ''     Apply no entry behind this index.
  --rev '0'         Revision that \"hash\" is about, as in HashKV; 0: the newest.
";

/// Why a tool printed nothing more.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// The command line cannot be read; the text says why.
    #[error("{0}")]
    Syntax(String),
    /// The data cannot be used; the text says which file and why.
    #[error("{0}")]
    Data(String),
    /// Damaged or foreign files.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// What the flags of a tool say.
#[derive(Debug, Default)]
struct Flags {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    from_index: u64,
    to_index: Option<u64>,
    revision: i64,
    all: bool,
}

/// The data of one member, opened for looking.
struct Member {
    identity: Identity,
    disk: Arc<dyn Disk>,
    log: Log,
    database: PathBuf,
}

/// Runs the tool that the first argument names; none if it names no tool.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let (usage, names, tool): (_, &[&str], Tool) = match arguments.first().map(String::as_str)? {
        "wal-dump" => (
            WAL_DUMP_USAGE,
            &["data-dir", "wal-dir", "from-index", "to-index", "all"],
            wal_dump::print,
        ),
        "db-hash" => (
            DB_HASH_USAGE,
            &["data-dir", "wal-dir", "to-index", "rev"],
            db_hash::print,
        ),
        _ => return None,
    };
    Some(match run_tool(&arguments[1..], names, tool) {
        Ok(Ran::Done) => ExitCode::SUCCESS,
        Ok(Ran::HelpWanted) => {
            // A reader that has gone away has read enough.
            let _ = io::stdout().write_all(usage.as_bytes());
            ExitCode::SUCCESS
        }
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(ToolError::Syntax(cause)) => {
            say(&format!("{cause}\n{usage}"));
            ExitCode::from(EXIT_SYNTAX)
        }
        Err(cause) => {
            say(&format!("kelson {}: {cause}\n", arguments[0]));
            ExitCode::FAILURE
        }
    })
}

type Tool = fn(&Flags, &Member, &mut dyn Write) -> Result<(), ToolError>;

enum Ran {
    Done,
    HelpWanted,
}

fn run_tool(arguments: &[String], names: &[&str], tool: Tool) -> Result<Ran, ToolError> {
    let flags = match read_flags(arguments, names) {
        Err(GrammarError::Help) => return Ok(Ran::HelpWanted),
        Err(error) => return Err(ToolError::Syntax(error.to_string())),
        Ok(flags) => flags?,
    };
    let member = Member::open(&flags)?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    tool(&flags, &member, &mut output)?;
    output.flush()?;
    Ok(Ran::Done)
}

fn read_flags(arguments: &[String], names: &[&str]) -> Result<Result<Flags, ToolError>, GrammarError> {
    let arity = |name: &str| {
        let known = names.contains(&name);
        known.then_some(if name == "all" {
            Arity::Boolean
        } else {
            Arity::Valued
        })
    };
    let check = |name: &str, value: &str| match name {
        "from-index" | "to-index" => value.parse::<u64>().map(drop).map_err(|error| error.to_string()),
        "rev" => value.parse::<i64>().map(drop).map_err(|error| error.to_string()),
        "all" => value.parse::<bool>().map(drop).map_err(|error| error.to_string()),
        _ => Ok(()),
    };
    let line = grammar::parse(arguments, arity, check)?;
    if let Some(stray) = line.stray {
        return Ok(Err(ToolError::Syntax(format!("'{stray}' is not a valid flag"))));
    }
    let mut flags = Flags::default();
    for given in line.flags {
        let value = given.value;
        match given.name.as_str() {
            "data-dir" => flags.data_dir = value.into(),
            "wal-dir" => flags.wal_dir = Some(value.into()),
            "from-index" => flags.from_index = value.parse().unwrap_or_default(),
            "to-index" => flags.to_index = value.parse().ok(),
            "rev" => flags.revision = value.parse().unwrap_or_default(),
            _ => flags.all = value == "true",
        }
    }
    if flags.data_dir.as_os_str().is_empty() {
        return Ok(Err(ToolError::Syntax("--data-dir is required".to_owned())));
    }
    Ok(Ok(flags))
}

impl Member {
    fn open(flags: &Flags) -> Result<Self, ToolError> {
        let member = flags.data_dir.join("member");
        let identity = data_dir::identity_in(&flags.data_dir).map_err(ToolError::Data)?;
        let identity = identity
            .ok_or_else(|| ToolError::Data(format!("{} is no member's data", flags.data_dir.display())))?;
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new());
        let wal = flags.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        let log = Log::open(disk.clone(), &wal, identity.cluster_id, identity.member_id)?;
        if let Some((path, offset, bytes)) = log.torn_tail() {
            say(&format!(
                "{}: {bytes} bytes from offset {offset} on are a write that was never acknowledged\n",
                path.display()
            ));
        }
        Ok(Self {
            identity,
            disk,
            log,
            database: member.join("snap").join("db"),
        })
    }
}

/// Tells the user what is no part of the output.
fn say(text: &str) {
    // Nobody is left to be told that this failed.
    let _ = io::stderr().write_all(text.as_bytes());
}
