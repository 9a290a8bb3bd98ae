//! What kube-apiserver requires of its store, row by row, sent exactly as it sends it.
//!
//! `cargo test -p kelson-server --test kubernetes` runs against the `kelson` of this build; with
//! `KELSON_API_TARGET_BIN=etcd` the same tests run against a real etcd, which must pass them too. The real apiserver is
//! driven by the scripts beside this file.
//!
//! | what | where |
//! |---|---|
//! | get, create, update, delete, their failure branches, revisions | `objects` |
//! | probe of the revision, paged, pinned, compacted and streamed lists, counts | `lists` |
//! | watches, their previous pairs, compaction under them, progress | `watches` |
//! | leases of events | `leases` |
//! | `compact_rev_key` | `compactor` |
//! | version gate, health, many connections, all members in turn, error texts | `clients` |

#[path = "../api/differences.rs"]
#[allow(dead_code, reason = "the tests of the API use the rest")]
mod differences;
#[path = "../api/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the API use the rest")]
mod harness;

mod clients;
mod compactor;
mod leases;
mod lists;
mod objects;
mod registry;
mod watches;
