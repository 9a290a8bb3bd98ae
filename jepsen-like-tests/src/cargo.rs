//! Cargo within `cargo xtask` and within tests.

use std::process::Command;

/// A cargo that builds what cargo on the command line would build. What `cargo run` and `cargo test` say of a package is
/// taken out of its environment: build scripts of dependencies (ring's) ask for these names, and would be run, and all that
/// depends on them compiled, anew each time that one cargo follows the other.
pub fn command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_this_package
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            command.env_remove(name);
        }
    }
    command
}
