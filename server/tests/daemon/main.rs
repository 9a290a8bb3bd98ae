//! The `kelson` process as service managers, scripts and clients see it: flags, exit codes, ports, signals, data.

mod command_line;
mod kubeadm;
mod life;
mod process;
mod refusals;
mod secure;
