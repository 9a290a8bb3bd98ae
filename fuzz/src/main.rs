//! The fuzzer's process: one target, named by `KELSON_FUZZ_TARGET`. The targets are in `kelson_jepsen::fuzz`.
#![no_main]

use std::sync::OnceLock;

use kelson_jepsen::fuzz::{self, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("KELSON_FUZZ_TARGET").expect("KELSON_FUZZ_TARGET names a target");
        fuzz::target(&name).expect("KELSON_FUZZ_TARGET names a target")
    });
    (target.run)(bytes);
});
