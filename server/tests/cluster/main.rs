//! Three real members on loopback with their data on a real disk: killed, stopped, left behind, cut off, damaged.
//!
//! The promises checked are those of a store one may rely on: what was acknowledged is there afterwards, exactly once
//! and on every member alike; a change of leader is no error; a member with damaged data says so and stays away.
//!
//! A plain run is short. Environment makes it long, or points it elsewhere:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `KELSON_BIN` | server binary | the `kelson` of this build |
//! | `KELSON_TEST_DIR` | where data directories are made | cargo's scratch space |
//! | `KELSON_KEEP_DATA` | set: data and logs stay after the test | unset |
//! | `KELSON_KILL_ROUNDS` | rounds of each kind of kill -9 | 2 |
//! | `KELSON_MOVE_SECONDS` | length of the run with moved leaders, in s | 8 |
//! | `KELSON_LEADER_KILLS` | leaders killed under pinned clients | 2 |
//! | `KELSON_MEMBER_FLIPS` | bits flipped in each kind of file | 12 |
//! | `KELSON_SEED` | where the bits are flipped | 1 |
//! | `ETCD` | an etcd binary, measured with the same driver | none |

mod cut_off;
mod damage;
mod divergence;
mod fail_points;
#[path = "../api/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the API use the rest")]
mod harness;
mod kills;
mod leader_changes;
mod left_behind;
mod load;
mod members;
mod netns;
mod offline;
mod partition;
mod pulse;
mod settings;
mod verdict;
mod writer;
