//! The `kelson` binary.

fn main() {}
