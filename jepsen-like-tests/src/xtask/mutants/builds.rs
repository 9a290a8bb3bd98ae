//! Building the tests with planted bugs, and finding the executables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;

/// Switches the bugs of all of them on.
const FEATURE: &str = "kelson-server/mutants";

/// What to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tests of parts. They share the ordinary build's directory and, as they are asked for with the whole workspace,
    /// the features of its dependencies: only our own crates are compiled.
    Parts,
    /// All tests and the daemon, in a directory of their own: a daemon with planted bugs must never stand where somebody
    /// expects an ordinary one.
    Everything,
}

/// Builds the tests; test executables by the name of their cargo target.
pub fn test_binaries(scope: Scope) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut command = kelson_jepsen::cargo::command();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    command.args(["--workspace", "--features", FEATURE]);
    match scope {
        Scope::Parts => command.args(["--lib", "--test", "model", "--test", "crash"]),
        Scope::Everything => command.arg("--target-dir").arg(own_directory()?),
    };
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8(output.stdout).context("cargo writes JSON")?;
    Ok(text.lines().filter_map(executable).collect())
}

/// `mutants` in the target directory that this very program was built in.
fn own_directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    Ok(target
        .context("this program is not in a target directory")?
        .join("mutants"))
}

/// The name and the executable of a test target in one line of cargo's output.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let path = message["executable"].as_str()?;
    let name = message["target"]["name"].as_str()?;
    is_test.then(|| (name.to_owned(), PathBuf::from(path)))
}
