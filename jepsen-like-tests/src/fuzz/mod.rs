//! Fuzz targets: functions that take any bytes and panic when a promise is broken.
//!
//! The fuzzer is `fuzz/`, a package of its own, started with `cargo xtask fuzz TARGET`. What it found worth keeping lies in
//! `fuzz/corpus/TARGET` and runs as an ordinary test here, so that a target cannot rot and a bug that was found once is
//! looked for forever.

mod commands;
mod input;
mod peers;
mod requests;
mod snapshots;
mod store;
mod wal;
mod watch;

pub use input::Input;

/// A target.
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// What must hold for all bytes, in one line.
    pub promise: &'static str,
    /// Panics when it does not hold.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "wal_open",
        promise: "a log segment of any bytes is read, cut or refused, and a second start says the same",
        run: wal::open,
    },
    Target {
        name: "wal_mutate",
        promise: "of a damaged log a prefix is recovered, or none of it",
        run: wal::mutate,
    },
    Target {
        name: "snapshot_load",
        promise: "an image of any content is refused, or becomes a database that opens and closes",
        run: snapshots::load,
    },
    Target {
        name: "command_codec",
        promise: "what decodes as commands encodes to the same commands",
        run: commands::round_trip,
    },
    Target {
        name: "peer_rpc",
        promise: "any bytes from a peer are messages or an error",
        run: peers::read,
    },
    Target {
        name: "txn_validate",
        promise: "a transaction is refused exactly when the model refuses it, for the same reason",
        run: store::validate,
    },
    Target {
        name: "kv_differential",
        promise: "the store answers any requests as the model does, also after a restart",
        run: store::differential,
    },
    Target {
        name: "watch_hub",
        promise: "whatever happens to a watch hub in whatever order, every watcher gets all it asked for, once, in order",
        run: watch::play,
    },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::TARGETS;

    #[test]
    fn the_corpus_holds_nothing_that_breaks_a_promise() {
        for target in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../fuzz/corpus")
                .join(target.name);
            let mut files: Vec<_> = std::fs::read_dir(&corpus)
                .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort_unstable();
            assert!(!files.is_empty(), "{} has no corpus", target.name);
            for file in files {
                // Shown only when the test fails: the last line names the file.
                println!("{}", file.display());
                (target.run)(&std::fs::read(&file).unwrap());
            }
        }
    }
}
