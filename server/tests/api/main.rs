//! Black-box tests of the client API over gRPC.
//!
//! They know nothing of the server but its flags and its wire, so the same tests run against a real etcd:
//!
//! * `KELSON_API_TARGET_BIN` names the server binary to start (default: the `kelson` of this build);
//! * `KELSON_API_ENDPOINTS` (`host:port,...`) names a running cluster instead; tests that must restart a
//!   member or need an empty store still start their own.
//!
//! Where Kelson answers differently from etcd on purpose, the test asks [`differences`] and nothing else.

mod bad_input;
mod differences;
mod election;
mod failover;
mod harness;
mod headers;
mod health;
mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod members;
mod metrics;
mod range;
mod range_stream;
mod txn;
mod txn_checks;
mod watch;
mod watch_history;
