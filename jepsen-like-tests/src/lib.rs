//! Histories, models, checkers and nemeses: the machines that try to break Kelson's promises.
//!
//! Nothing here is linked into the server. `cargo xtask` (see `src/xtask`) is the command line of it.

pub mod cargo;
pub mod check;
pub mod fuzz;
pub mod history;
pub mod model;
pub mod mutants;
pub mod power_cut;
pub mod process;
pub mod sim;
