//! One server process: its ports, its directory, its log, and its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where the server binary is.
pub fn target_binary() -> PathBuf {
    std::env::var_os("KELSON_API_TARGET_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kelson")), PathBuf::from)
}

/// A server process, killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the target binary with `flags`, its output appended to `log`.
    pub fn start(flags: &[String], log: &Path) -> Process {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the scratch directory is writable");
        let child = Command::new(target_binary())
            .args(flags)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file handle can be cloned"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", target_binary().display()));
        Process {
            child,
            log: log.to_path_buf(),
        }
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("own child can be waited for")
            .is_some()
    }

    /// Memory that the process holds, in bytes; none once it has ended. Source: `VmRSS` of proc(5).
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        // A process that has ended and was not waited for has no such line.
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes << 10)
    }

    /// All that the server logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of what the server logged, for the message of a failing test.
    pub fn log_tail(&self) -> String {
        const TAIL_LINES: usize = 15;
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: a server must survive it, and a failing test must leave nothing behind.
        let _already_ended = self.child.kill();
        let _status = self.child.wait();
    }
}
