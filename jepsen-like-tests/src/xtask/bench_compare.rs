//! `cargo xtask bench-compare`: builds what is measured as users run it, finds etcd, and has `kelson-bench` compare them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

const USAGE: &str = "usage: cargo xtask bench-compare [--etcd PATH] [--tool PATH] [--dir PATH] [--no-growth] [flags of kelson-bench compare]

  --etcd       server to hold Kelson against  [etcd on PATH]
  --tool       etcd's own `benchmark`         [benchmark on PATH; its rows are left out without it]
  --dir        data and report                [target/bench]
  --no-growth  leave out latency against load, and what changes with keys and history";

struct Flags {
    etcd: PathBuf,
    tool: Option<PathBuf>,
    directory: PathBuf,
    growth: bool,
    /// For `kelson-bench compare`.
    others: Vec<String>,
}

/// Runs the command.
pub fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let flags = Flags::parse(arguments)?;
    let release = build()?;
    let (kelson, bench) = (release.join("kelson"), release.join("kelson-bench"));
    match &flags.tool {
        Some(tool) => println!("etcd's tool: {}", tool.display()),
        None => println!("etcd's tool is not on PATH: its rows are left out"),
    }
    let mut compare = Command::new(&bench);
    compare.arg("compare").args(&flags.others);
    compare.arg("--a").arg(&kelson).arg("--b").arg(&flags.etcd);
    compare.arg("--dir").arg(&flags.directory);
    if let Some(tool) = &flags.tool {
        compare.arg("--tool").arg(tool);
    }
    succeed(&mut compare)?;
    if flags.growth {
        let growths: [&[&str]; 3] = [
            &["sweep", "--seconds", "5"],
            &["growth", "--of", "keys"],
            &["growth", "--of", "revisions"],
        ];
        for words in growths {
            let mut both = Command::new(&bench);
            both.args(words)
                .arg("--server")
                .arg(&kelson)
                .arg("--server")
                .arg(&flags.etcd);
            succeed(both.arg("--dir").arg(&flags.directory))?;
        }
    }
    Ok(())
}

impl Flags {
    fn parse(arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut flags = Self {
            etcd: PathBuf::new(),
            tool: on_path("benchmark"),
            directory: "target/bench".into(),
            growth: true,
            others: Vec::new(),
        };
        let mut rest = arguments.into_iter();
        while let Some(word) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{word} needs a value\n{USAGE}"))
            };
            match word.as_str() {
                "--etcd" => flags.etcd = value()?.into(),
                "--tool" => flags.tool = Some(value()?.into()),
                "--dir" => flags.directory = value()?.into(),
                "--no-growth" => flags.growth = false,
                _ => {
                    let value = value()?;
                    flags.others.extend([word, value]);
                }
            }
        }
        if flags.etcd.as_os_str().is_empty() {
            flags.etcd = on_path("etcd").with_context(|| format!("no etcd on PATH\n{USAGE}"))?;
        }
        Ok(flags)
    }
}

/// Builds the server and the generator as releases are built; returns the directory of the executables.
fn build() -> anyhow::Result<PathBuf> {
    println!("building the server and the generator ...");
    let mut build = kelson_jepsen::cargo::command();
    build.args(["build", "--release", "--locked"]);
    succeed(build.args([
        "-p",
        "kelson-server",
        "--bin",
        "kelson",
        "-p",
        "kelson-bench",
        "--bin",
        "kelson-bench",
    ]))?;
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    Ok(target
        .context("this program is not in a target directory")?
        .join("release"))
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| program.display().to_string())?;
    ensure!(status.success(), "{} ended with {status}", program.display());
    Ok(())
}

fn on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name.as_ref()))
        .find(|candidate| candidate.is_file())
}
