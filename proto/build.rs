//! Compiles the .proto files. protox is a protobuf compiler in Rust, so nobody has to install one.

use std::io;

const ETCD: &[&str] = &[
    "kv.proto",
    "auth.proto",
    "rpc.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
];
const PEER: &[&str] = &["raft.proto"];

fn main() -> io::Result<()> {
    compile("etcd", ETCD)?;
    compile("peer", PEER)
}

/// Generates messages, clients and servers for `files` of one directory.
///
/// Every `bytes` field becomes `bytes::Bytes`: keys and values are slices of the message they came in.
fn compile(directory: &str, files: &[&str]) -> io::Result<()> {
    println!("cargo:rerun-if-changed={directory}");
    let descriptors = protox::compile(files, [directory]).map_err(io::Error::other)?;
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
}
