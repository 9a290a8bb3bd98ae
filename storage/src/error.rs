//! The two kinds of "no" that this crate can say: [`Rejected`] is an answer all replicas agree on,
//! [`Fault`] is this member's own and must stop it. Refusals (no leader, too busy) are not made here.

use std::io;
use std::path::{Path, PathBuf};

/// Why a command did nothing. Every replica computes the same value, and the client sees it.
///
/// The texts that clients recognise live in the server's `status.rs`; these are for logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// A revision below the compact revision, or a compaction at or below it.
    #[error("required revision has been compacted")]
    Compacted,
    /// A revision above the current one.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// The lease named does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A grant with an id in use.
    #[error("lease already exists")]
    LeaseExists,
    /// A grant with a TTL above 9,000,000,000 s.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// An expiry that was proposed by the leader of another term, or for a lease that was renewed since.
    #[error("expiry proposed by a leader that has been replaced")]
    ExpiryStale,
    /// A NOSPACE alarm is active.
    #[error("database space exceeded")]
    NoSpace,
    /// A CORRUPT alarm is active.
    #[error("corrupt cluster")]
    Corrupt,
    /// The member named is not in the cluster.
    #[error("member not found")]
    MemberNotFound,
    /// The command is an older copy of one that has been applied, or its session is over.
    #[error("duplicate of a command that has been applied")]
    Duplicate,
}

/// This member's own failure. It must stop: an answer it made up would drift from its peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A system call failed. A failed write or sync is never retried on the same file.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: "write", "sync", "open".
        operation: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes on disk are not what was written there.
    #[error("{path} is damaged at byte {offset}: {what}", path = path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file; 0 when the engine below cannot say.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The storage engine below failed.
    #[error("{path}: {what}", path = path.display())]
    Engine {
        /// The database file.
        path: PathBuf,
        /// What the engine said.
        what: String,
    },
    /// The data on disk cannot belong to this member or this version.
    #[error("{path}: {what}", path = path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// Why it cannot be used, and what to do.
        what: String,
    },
}

impl Fault {
    /// A failed system call.
    pub fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// Damaged bytes at `offset` of `path`.
    pub fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        crate::reached!("damage_refused");
        Self::Damaged {
            path: path.to_owned(),
            offset,
            what: what.into(),
        }
    }
}
