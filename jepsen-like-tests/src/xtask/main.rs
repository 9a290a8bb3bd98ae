//! `cargo xtask`: the command line of the long suites. One file per subcommand; each prints what it will do, its seed,
//! its progress, and how to run the same again.

mod bench_compare;
mod cluster;
mod fuzz;
mod ledger;
mod mutants;
mod power_cut;
mod recheck;
mod sim;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <command> [flags]

commands:";

/// A subcommand: its name, one line of help, and what runs it.
struct Subcommand {
    name: &'static str,
    help: &'static str,
    run: fn(Vec<String>) -> anyhow::Result<()>,
}

/// Every subcommand, in the order of the help text.
const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "bench-compare",
        help: "Kelson beside etcd on this machine: loads in interleaved pairs, then growth",
        run: bench_compare::run,
    },
    Subcommand {
        name: "cluster",
        help: "real members under kills, partitions and the rest",
        run: cluster::run,
    },
    Subcommand {
        name: "mutants",
        help: "switch on planted bugs, one at a time, and see whether the tests find them [--gate | --only M07,M12]",
        run: mutants::run,
    },
    Subcommand {
        name: "fuzz",
        help: "any bytes into logs, snapshots, messages and requests",
        run: fuzz::run,
    },
    Subcommand {
        name: "power-cut",
        help: "cut the power of members on loop-mounted file systems",
        run: power_cut::run,
    },
    Subcommand {
        name: "recheck",
        help: "the verdicts on episodes that were kept, once more",
        run: recheck::run,
    },
    Subcommand {
        name: "sim",
        help: sim::HELP,
        run: sim::run,
    },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(subcommand) = SUBCOMMANDS.iter().find(|subcommand| subcommand.name == name) else {
        eprintln!("{USAGE}");
        for subcommand in SUBCOMMANDS {
            eprintln!("  {:<14} {}", subcommand.name, subcommand.help);
        }
        return ExitCode::FAILURE;
    };
    ledger::remember_tree();
    match (subcommand.run)(arguments.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
