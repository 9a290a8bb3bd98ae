//! Real members under real faults: rung d of the test ladder.
//!
//! An [`episode`] starts a cluster ([`cluster`]) in network namespaces ([`network`]), puts recorded clients on it
//! ([`load`], [`leases`], [`watchers`], [`probe`]), lets a [`nemesis`] carry out a [`plan`], heals, reads everything once more, and
//! judges ([`judge`]) the history; a [`campaign`] is many of them, with one verdict. The same driver runs Kelson and etcd: members are whatever binary takes etcd's flags.
//!
//! The seed fixes the plan and what clients choose, not the timing of threads: a failed episode is repeated by its seed
//! some times over, and keeps its history for the checkers.

pub mod admin;
pub mod barrier;
pub mod campaign;
pub mod client;
pub mod cluster;
pub mod damage;
pub mod dump;
pub mod episode;
pub mod fault;
pub mod figures;
pub mod impact;
pub mod judge;
pub mod leases;
pub mod load;
pub mod logs;
pub mod nemesis;
pub mod network;
pub mod plan;
pub mod probe;
pub mod proxy;
pub mod recorder;
pub mod server;
pub mod shaping;
pub mod summary;
pub mod watchers;
