//! The text of `--help`, and the version block of `--version`.

use std::fmt::Write;

use super::flags::{self, Standing};
use crate::version::{KELSON_VERSION, SERVER_VERSION};

/// What `--help` prints: the served flags. Tolerated ones are in the compatibility notes.
pub fn usage() -> String {
    let mut text = String::from(
        "Usage:\n\n  kelson [flags]\n    Start a member.\n\n  kelson --version\n    Show the version.\n\n  \
         kelson -h | --help\n    Show this help.\n\n  kelson wal-dump | db-hash --help\n    Look at \
         the data of a member that does not run.\n\nEvery flag can be given as a variable: ETCD_ and its name in \
         upper case, with _ for -.\n",
    );
    for (group, flags) in flags::TABLE {
        let mut heading = Some(group);
        for flag in flags.iter().filter(|flag| !flag.usage.is_empty()) {
            if let Some(group) = heading.take() {
                write!(text, "\n{group}:\n").expect("a String takes everything");
            }
            write!(text, "  --{} '{}'\n    {}", flag.name, flag.default, flag.usage)
                .expect("a String takes everything");
            if let Standing::WithoutEffect(reason) = flag.standing {
                write!(text, " Without effect: {reason}.").expect("a String takes everything");
            }
            text.push('\n');
        }
    }
    text
}

/// What `--version` prints. Scripts read the third word of the first line.
pub fn version() -> String {
    let os = std::env::consts::OS;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {SERVER_VERSION}\nGit SHA: kelson-{KELSON_VERSION}\nGo Version: none (Rust)\n\
         Go OS/Arch: {os}/{architecture}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_third_word_of_four_lines() {
        let version = version();
        assert_eq!(version.lines().count(), 4);
        assert_eq!(version.split_whitespace().nth(2), Some(SERVER_VERSION));
    }

    #[test]
    fn usage_names_the_flags_everybody_sets() {
        let usage = usage();
        for flag in [
            "--name 'default'",
            "--listen-client-urls",
            "--initial-cluster-token",
            "--log-level",
        ] {
            assert!(usage.contains(flag), "{flag}");
        }
    }
}
