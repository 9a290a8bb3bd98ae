//! [`mutant!`](crate::mutant!): planted bugs, to see whether the tests would find them.
//!
//! Each is one `if mutant!("M07")` at the place where the mistake could have been made; `jepsen-like-tests/src/mutants.rs`
//! lists them all, with the checker that must find each, and `cargo xtask mutants` sends the checkers out. In an
//! ordinary build the macro is the constant `false` and leaves nothing behind; only the feature `mutants` makes it ask
//! which bug the environment wants.

/// Whether the planted bug of this number is switched on; `false` without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($number:literal) => {
        false
    };
}

/// Whether the planted bug of this number is switched on; `false` without the feature `mutants`.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutant {
    ($number:literal) => {
        $crate::mutant::is_on($number)
    };
}

/// An ordinary build has no planted bugs, and this is known while it is compiled.
#[cfg(not(feature = "mutants"))]
const _: () = assert!(!crate::mutant!("M01"));

#[cfg(feature = "mutants")]
pub use switch::is_on;

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::OnceLock;

    /// Names the bug that this process has.
    const MUTANT: &str = "KELSON_MUTANT";
    /// Names a file that is made when the bug is met, so that a failure for another reason is not taken for its capture.
    const REACHED: &str = "KELSON_MUTANT_REACHED";

    /// Whether the environment wants this bug. It is read once.
    pub fn is_on(number: &str) -> bool {
        static WANTED: OnceLock<Option<String>> = OnceLock::new();
        let wanted = WANTED.get_or_init(|| std::env::var(MUTANT).ok());
        let on = wanted.as_deref() == Some(number);
        if on {
            tell_that_it_was_reached();
        }
        on
    }

    fn tell_that_it_was_reached() {
        static TOLD: OnceLock<()> = OnceLock::new();
        TOLD.get_or_init(|| {
            if let Some(path) = std::env::var_os(REACHED) {
                // Whoever asked for the file finds out that it is not there.
                let _ = std::fs::write(path, "");
            }
        });
    }
}
