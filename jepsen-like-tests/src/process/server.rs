//! Which server a binary is, and how it wants the flags said that not all versions share.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::fault::Fault;
use super::network::output;
use super::plan::Plan;

/// A server binary.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it is.
    pub binary: PathBuf,
    /// What it says of its version, on one line.
    pub version: String,
}

impl Server {
    /// Asks a binary for its version.
    ///
    /// # Errors
    ///
    /// If it cannot be run or does not say.
    pub fn of(binary: &Path) -> Result<Server> {
        let binary = binary
            .canonicalize()
            .with_context(|| format!("no server at {}", binary.display()))?;
        let said = output(Command::new(&binary).arg("--version"))?;
        // The release of etcd, then the commit, by which Kelson tells itself from etcd.
        let version = said.lines().take(2).collect::<Vec<_>>().join(", ");
        Ok(Server { binary, version })
    }

    /// Whether it is Kelson.
    #[must_use]
    pub fn is_kelson(&self) -> bool {
        self.version.contains("kelson")
    }

    /// Name and version, short enough for a table.
    #[must_use]
    pub fn short_version(&self) -> String {
        if self.is_kelson() {
            return "kelson".to_owned();
        }
        let number = self.version.split([' ', ',']).find(|word| word.contains('.'));
        format!("etcd-{}", number.unwrap_or("?"))
    }

    /// Whether it promises to stand what a plan does, and can be made to meet it: etcd does not promise to find damage or
    /// to come back from a full disk, and reads the clock past the library that fakes it.
    #[must_use]
    pub fn stands(&self, plan: &Plan) -> bool {
        let beyond =
            |fault: &Fault| fault.damages() || matches!(fault, Fault::FillDisk(_) | Fault::Clock { .. });
        self.is_kelson() || !plan.any(beyond)
    }

    /// Whether it is known to fail for this reason under this plan, so that it says nothing about the instruments: an etcd
    /// leader that was stopped answers keepalives when it goes on, and then has the same leases ended for being late
    /// (seen with 3.7.1).
    #[must_use]
    pub fn is_known_to_fail(&self, plan: &Plan, reason: &str) -> bool {
        let pauses = plan.any(|fault| matches!(fault, Fault::Pause(_)));
        !self.is_kelson() && pauses && reason.starts_with("lease: FAIL")
    }

    /// The flags that a plan asks for.
    #[must_use]
    pub fn flags(&self, plan: &Plan) -> Vec<String> {
        let mut flags = vec![format!("--snapshot-count={}", plan.snapshot_count)];
        // Until 3.6 this was an experiment by name, and entries kept for the slow were a constant.
        let old = !self.is_kelson() && ["3.4.", "3.5."].iter().any(|old| self.version.contains(old));
        if old {
            flags.push("--experimental-watch-progress-notify-interval=1s".to_owned());
        } else {
            flags.push("--watch-progress-notify-interval=1s".to_owned());
            flags.push(format!("--snapshot-catchup-entries={}", plan.snapshot_count));
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(version: &str) -> String {
        let server = Server {
            binary: PathBuf::from("server"),
            version: version.to_owned(),
        };
        server
            .flags(&Plan::new("kill", 1, 3).expect("the plan exists"))
            .join(" ")
    }

    #[test]
    fn etcd_is_spared_what_it_does_not_promise() {
        let stands = |version: &str, name| {
            let server = Server {
                binary: PathBuf::new(),
                version: version.to_owned(),
            };
            server.stands(&Plan::new(name, 1, 3).expect("the plan exists"))
        };
        assert!(stands("etcd Version: 3.7.1, Git SHA: kelson-0.1.0", "damage"));
        assert!(!stands("etcd Version: 3.7.1", "damage"));
        assert!(stands("etcd Version: 3.7.1", "kill"));
    }

    #[test]
    fn only_etcd_may_end_leases_early_and_only_after_a_pause() {
        let fails = |version: &str, name, reason| {
            let server = Server {
                binary: PathBuf::new(),
                version: version.to_owned(),
            };
            server.is_known_to_fail(&Plan::new(name, 1, 3).expect("the plan exists"), reason)
        };
        assert!(fails(
            "etcd Version: 3.7.1",
            "pause-leader",
            "lease: FAIL\nlease 5 ended early"
        ));
        assert!(!fails(
            "etcd Version: 3.7.1",
            "kill",
            "lease: FAIL\nlease 5 ended early"
        ));
        assert!(!fails("etcd Version: 3.7.1", "pause-leader", "order: FAIL"));
        assert!(!fails("Git SHA: kelson-0.1.0", "pause-leader", "lease: FAIL"));
    }

    #[test]
    fn flags_are_said_as_each_version_wants_them() {
        assert!(flags("etcd Version: 3.5.1").contains("--experimental-watch-progress-notify-interval=1s"));
        assert!(flags("etcd Version: 3.7.1").contains(" --snapshot-catchup-entries="));
        assert!(
            flags("etcd Version: 3.7.1, Git SHA: kelson-0.1.0")
                .contains(" --watch-progress-notify-interval=1s")
        );
    }
}
