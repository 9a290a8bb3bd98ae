//! Requests that no honest client sends, and what each must be answered. The rows are data, in the order and under the
//! numbers of the table that they come from; `KELSON_BAD_INPUT_ROW=17` runs one row alone.
//!
//! Every row is sent to a lone member, to the leader of three, and to a follower of three. A refused one leaves every
//! member's revision and hash as they were, after all of those no process holds much more memory, and after the legal
//! ones none has ended.

mod call;
mod conditions;
mod connections;
mod member_changes;
mod peers;
mod raw_http2;
mod rows;
mod state;
mod streams;

use tonic::Status;

use crate::harness::Cluster;
use rows::{Answer, Given, Row, rows};
use state::Footprint;

/// Through which member a row is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Lone,
    Leader,
    Follower,
}

impl Door {
    const ALL: [Door; 3] = [Door::Lone, Door::Leader, Door::Follower];

    /// A cluster, and the member of it to send to.
    async fn open(self) -> (Cluster, usize) {
        let cluster = match self {
            Door::Lone => Cluster::single().await,
            Door::Leader | Door::Follower => Cluster::three().await,
        };
        let member = self.member(&cluster).await;
        (cluster, member)
    }

    /// The member to send to now: on a busy machine the lead moves without anybody's help.
    async fn member(self, cluster: &Cluster) -> usize {
        match self {
            Door::Lone => 0,
            Door::Leader => cluster.leader(0).await,
            Door::Follower => cluster.follower().await,
        }
    }
}

/// Whether `KELSON_BAD_INPUT_ROW` wants this row; says how to run it again.
fn wanted(number: u32) -> bool {
    let only = std::env::var("KELSON_BAD_INPUT_ROW").ok();
    let wanted = only.is_none_or(|only| only == number.to_string());
    if wanted {
        println!("row {number}; again: KELSON_BAD_INPUT_ROW={number}");
    }
    wanted
}

/// Whether the answer is the one in the table.
fn verdict(answer: &Answer, result: Result<(), Status>) -> Result<(), String> {
    match (answer, result) {
        (Answer::Accepted | Answer::Done, Ok(())) | (Answer::RefusedSomehow, Err(_)) => Ok(()),
        (Answer::Refused(code, text), Err(status)) if (status.code(), status.message()) == (*code, *text) => {
            Ok(())
        }
        (Answer::RefusedAs(code), Err(status)) if status.code() == *code => Ok(()),
        (answer, Ok(())) => Err(format!("expected {answer:?}, was accepted")),
        (answer, Err(status)) => Err(format!(
            "expected {answer:?}, was refused with {:?} {:?}",
            status.code(),
            status.message()
        )),
    }
}

/// Sends the whole table through one door.
async fn run_table(door: Door) {
    let (cluster, member) = door.open().await;
    let client = cluster.client(member);
    let given = Given::prepare(&client).await;
    let footprint = Footprint::of(&cluster);
    let mut before = state::of(&cluster).await;
    let mut failures = Vec::new();
    let mut legal = false;
    for row in rows(&given, door) {
        // What is done may be kept, and a key of a mebibyte is: in the log's cache, the index and pages.
        if matches!(row.answer, Answer::Done) && !std::mem::replace(&mut legal, true) {
            footprint.check(&cluster);
        }
        if std::env::var("KELSON_BAD_INPUT_ROW").is_ok_and(|only| only != row.number.to_string()) {
            continue;
        }
        let Row {
            number,
            case,
            call,
            answer,
        } = row;
        let name = format!("row {number}.{case} {door:?} {}", call.name());
        let client = cluster.client(door.member(&cluster).await);
        let outcome = verdict(&answer, call.send(&client).await);
        println!(
            "{name}: {}",
            outcome.as_ref().map_or_else(String::as_str, |()| "ok")
        );
        if let Err(why) = outcome {
            failures.push(format!("{name}: {why}; again: KELSON_BAD_INPUT_ROW={number}"));
        }
        let after = state::of(&cluster).await;
        if !matches!(answer, Answer::Done) && after != before {
            failures.push(format!("{name}: changed {before:?} to {after:?}"));
        }
        before = after;
    }
    footprint.check_alive(&cluster);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn the_table_holds_on_a_lone_member() {
    run_table(Door::Lone).await;
}

#[tokio::test]
async fn the_table_holds_through_the_leader_of_three() {
    run_table(Door::Leader).await;
}

#[tokio::test]
async fn the_table_holds_through_a_follower_of_three() {
    run_table(Door::Follower).await;
}
