//! Where Kelson answers differently from etcd on purpose, as far as these tests meet it. A test may expect
//! two answers only by naming an entry here; `docs/etcd-compat.md` tells users the same.

use std::process::Command;
use std::sync::OnceLock;

use crate::harness::process::target_binary;

/// One answer that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Changes of membership, Snapshot, Downgrade and Auth are Unimplemented in Kelson.
    NotServed,
    /// MemberUpdate with a malformed peer URL. etcd commits it, and every member that applies it ends;
    /// Kelson refuses with "given member URLs are invalid". The test does not ask etcd.
    MalformedUrlInMemberUpdate,
    /// Alarm with an action that does not exist. etcd's handler ends the call without a usable answer;
    /// Kelson refuses with InvalidArgument. The test does not ask etcd.
    UnknownAlarm,
    /// "not enough started members" has the code Unknown in etcd, because its error table lacks the entry;
    /// Kelson sends the intended FailedPrecondition.
    CodeOfNotEnoughStarted,
    /// A put that crosses the quota while it is applied. etcd stores it and answers with an error; Kelson
    /// answers with the error and stores nothing.
    PutOverQuotaIsNotStored,
    /// An alarm of the quota goes by itself once there is room; etcd's stays until it is disarmed.
    RoomClearsTheAlarm,
    /// What bad input may cost: Kelson's bound on memory, and what it logs of it, are promises of its own.
    BoundedMemory,
    /// The port and the protocol of members among themselves.
    PeerProtocol,
}

impl Difference {
    /// Whether the server under test answers Kelson's way.
    pub fn applies(self) -> bool {
        is_kelson()
    }
}

/// Whether the server under test is Kelson: with `KELSON_API_ENDPOINTS` what `KELSON_API_TARGET` says
/// (default `kelson`), otherwise what the binary's `--version` says.
pub(crate) fn is_kelson() -> bool {
    static KELSON: OnceLock<bool> = OnceLock::new();
    *KELSON.get_or_init(|| {
        if std::env::var_os("KELSON_API_ENDPOINTS").is_some() {
            return std::env::var("KELSON_API_TARGET").as_deref() != Ok("etcd");
        }
        let output = Command::new(target_binary())
            .arg("--version")
            .output()
            .expect("the target binary runs");
        String::from_utf8_lossy(&output.stdout)
            .to_lowercase()
            .contains("kelson")
    })
}
