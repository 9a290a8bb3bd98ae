//! Where Kelson answers differently from etcd on purpose. This list is the whole of it: a test may expect
//! two answers only by naming an entry here.

use std::process::Command;
use std::sync::OnceLock;

use crate::harness::process::target_binary;

/// One answer that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// MemberUpdate with a malformed peer URL. etcd commits it, and every member that applies it ends;
    /// Kelson refuses with "given member URLs are invalid". The test does not ask etcd.
    MalformedUrlInMemberUpdate,
    /// Alarm with an action number that does not exist. etcd ends the call without an answer a client could
    /// use; Kelson refuses with InvalidArgument. The test does not ask etcd.
    UnknownAlarmAction,
    /// "not enough started members" has the code Unknown in etcd, because its error table lacks the entry;
    /// Kelson sends the intended FailedPrecondition.
    CodeOfNotEnoughStarted,
    /// A put that crosses the quota while it is applied. etcd stores it and answers with an error; Kelson
    /// answers with the error and stores nothing.
    PutOverQuotaIsNotStored,
}

impl Difference {
    /// Whether the server under test answers Kelson's way.
    pub fn applies(self) -> bool {
        is_kelson()
    }
}

/// Whether the server under test is Kelson, by what its `--version` says.
fn is_kelson() -> bool {
    static KELSON: OnceLock<bool> = OnceLock::new();
    *KELSON.get_or_init(|| {
        let output = Command::new(target_binary())
            .arg("--version")
            .output()
            .expect("the target binary runs");
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        text.contains("kelson")
    })
}
