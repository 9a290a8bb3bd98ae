//! Whether this member's state is the one that the others hold.
//!
//! Apply is a pure function, so members that have applied the same log position have the same rolling hash. Each
//! member keeps the hashes of its newest positions and asks the others, round by round, for theirs. Who finds that a
//! quorum agrees on something else stops: going on would serve answers that nobody else would give. Where a
//! difference stands and no quorum agrees on anything, nobody can tell who is right, and this member stops too.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use kelson_proto::peer;
use kelson_storage::error::Fault;
use kelson_storage::revision::LogPosition;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::fault::FaultSignal;
use crate::network::frame::{Kind, Purpose};
use crate::network::link::{Identity, Link};
use crate::node::Raft;
use crate::type_config::PeerNode;

/// Time between two rounds. A difference is found in the second round after it arose. Source: reliability R14 wants
/// five seconds or less.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Positions whose hash is kept: several seconds of entries under the highest load, so that a member that is asked
/// still knows what another one noted a round ago.
const POSITIONS_KEPT: usize = 8192;

/// Names the way the hash is made. Members that make it in another way do not compare.
const FORMULA: u32 = 1;

/// Hashes of the newest applied positions, oldest first.
#[derive(Default)]
pub(crate) struct StateHashes {
    kept: Mutex<VecDeque<(LogPosition, u64)>>,
}

impl StateHashes {
    /// The state at `at` has this hash. Positions come in order.
    pub(crate) fn note(&self, at: LogPosition, hash: u64) {
        let mut kept = self.kept.lock();
        if kept.len() == POSITIONS_KEPT {
            kept.pop_front();
        }
        kept.push_back((at, hash));
    }

    /// The state has been replaced: nothing is known of what was before.
    pub(crate) fn forget(&self) {
        self.kept.lock().clear();
    }

    fn newest(&self) -> Option<(LogPosition, u64)> {
        self.kept.lock().back().copied()
    }

    /// The hash at a position; none if it is not known here, not yet or not any more.
    fn at(&self, index: u64) -> Option<(LogPosition, u64)> {
        let kept = self.kept.lock();
        let first = kept.front()?.0.index;
        let place = usize::try_from(index.checked_sub(first)?).ok()?;
        kept.get(place).copied()
    }

    /// Answers another member.
    pub(crate) fn answer(&self, question: &peer::StateHashRequest) -> peer::StateHashReply {
        let known = (question.formula == FORMULA)
            .then(|| self.at(question.index))
            .flatten();
        match known {
            Some((at, hash)) => peer::StateHashReply {
                known: true,
                term: at.term,
                hash,
            },
            None => peer::StateHashReply::default(),
        }
    }
}

/// What a round came to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody who answered differs, or a quorum holds what this member holds and these do not.
    Sound(Vec<u64>),
    /// These members hold something else, and this one must not go on.
    Differs(Vec<u64>),
}

/// Term and hash at one index, as one member holds them.
type Held = (u64, u64);

fn judge(own: Held, others: &[(u64, Held)], quorum: usize) -> Verdict {
    let mut holders = BTreeMap::<Held, Vec<u64>>::new();
    for &(member, held) in others {
        holders.entry(held).or_default().push(member);
    }
    let alike = 1 + holders.remove(&own).map_or(0, |members| members.len());
    let mut differing: Vec<u64> = holders.into_values().flatten().collect();
    differing.sort_unstable();
    if !differing.is_empty() {
        kelson_storage::reached!("member_differs");
    }
    if differing.is_empty() || alike >= quorum {
        Verdict::Sound(differing)
    } else {
        Verdict::Differs(differing)
    }
}

/// What a round needs.
pub(crate) struct Agreement {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) hashes: Arc<StateHashes>,
    pub(crate) fault: FaultSignal,
    pub(crate) data_dir: PathBuf,
}

impl Agreement {
    /// Compares, round by round, until the node stops or has found that it must.
    pub(crate) async fn run(self) {
        let mut links = BTreeMap::<u64, Link>::new();
        let mut noted = None;
        let mut known_to_differ = Vec::new();
        let mut rounds = tokio::time::interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            // What was newest a round ago: by now the others have applied it, too.
            let Some((at, hash)) = std::mem::replace(&mut noted, self.hashes.newest()) else {
                continue;
            };
            let (peers, voters) = self.peers();
            links.retain(|id, _| peers.iter().any(|(peer, _)| peer == id));
            let others = self.ask(&peers, &mut links, at.index).await;
            match judge((at.term, hash), &others, voters / 2 + 1) {
                Verdict::Sound(differing) => {
                    if differing != known_to_differ && !differing.is_empty() {
                        tracing::error!(
                            index = at.index,
                            members = hexadecimal(&differing),
                            "members hold another state than the quorum and will stop"
                        );
                    }
                    known_to_differ = differing;
                }
                Verdict::Differs(members) => {
                    self.fault.raise(Fault::Unusable {
                        path: self.data_dir,
                        what: format!(
                            "the state at log index {} is not the one of member {}: this member may be wrong and \
                             stops; compare `etcdctl endpoint hashkv --cluster`, and replace the member that differs",
                            at.index,
                            hexadecimal(&members)
                        ),
                    });
                    return;
                }
            }
        }
    }

    /// The other voters, and how many voters there are.
    fn peers(&self) -> (Vec<(u64, PeerNode)>, usize) {
        let metrics = self.raft.server_metrics();
        let server = metrics.borrow_watched();
        let membership = server.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let peers = membership
            .nodes()
            .filter(|(id, _)| voters.contains(id) && **id != self.identity.id)
            .map(|(id, node)| (*id, node.clone()))
            .collect();
        (peers, voters.len())
    }

    /// What the others hold at `index`. Who cannot be reached, or does not know, is left out.
    async fn ask(
        &self,
        peers: &[(u64, PeerNode)],
        links: &mut BTreeMap<u64, Link>,
        index: u64,
    ) -> Vec<(u64, Held)> {
        let mut questions: FuturesUnordered<_> = peers
            .iter()
            .map(|(id, node)| {
                let link = links.remove(id);
                async move { (*id, self.ask_one(*id, node, link, index).await) }
            })
            .collect();
        let mut others = Vec::new();
        while let Some((id, answer)) = questions.next().await {
            match answer {
                Ok((link, reply)) => {
                    links.insert(id, link);
                    if reply.known {
                        others.push((id, (reply.term, reply.hash)));
                    }
                }
                Err(error) => {
                    tracing::debug!(member = format!("{id:x}"), %error, "no state hash from a member")
                }
            }
        }
        others
    }

    async fn ask_one(
        &self,
        id: u64,
        node: &PeerNode,
        link: Option<Link>,
        index: u64,
    ) -> std::io::Result<(Link, peer::StateHashReply)> {
        let mut link = match link {
            Some(link) => link,
            None => Link::connect(&self.identity, id, &node.urls, Purpose::Agreement).await?,
        };
        let question = peer::StateHashRequest {
            index,
            formula: FORMULA,
        };
        let asked = Instant::now();
        let reply = link
            .call(
                Kind::StateHash,
                &question,
                Kind::StateHashReply,
                self.identity.reply_timeout,
            )
            .await?;
        self.identity.meters.peer(id).round_trip.observe(asked.elapsed());
        Ok((link, reply))
    }
}

fn hexadecimal(members: &[u64]) -> String {
    let names: Vec<String> = members.iter().map(|id| format!("{id:x}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Held = (3, 7);
    const OTHER: Held = (3, 8);

    fn at(index: u64) -> LogPosition {
        LogPosition { term: 3, index }
    }

    #[test]
    fn who_differs_from_a_quorum_stops_and_who_has_one_goes_on() {
        for (others, verdict) in [
            (vec![], Verdict::Sound(vec![])),
            (vec![(2, OWN)], Verdict::Sound(vec![])),
            (vec![(2, OWN), (3, OTHER)], Verdict::Sound(vec![3])),
            (vec![(2, OTHER), (3, OTHER)], Verdict::Differs(vec![2, 3])),
            // Nobody can tell who is right.
            (vec![(2, OTHER)], Verdict::Differs(vec![2])),
            (vec![(2, OTHER), (3, (3, 9))], Verdict::Differs(vec![2, 3])),
            // The same hash of another term's entry is another state.
            (vec![(2, (4, 7)), (3, (4, 7))], Verdict::Differs(vec![2, 3])),
        ] {
            assert_eq!(judge(OWN, &others, 2), verdict, "{others:?}");
        }
    }

    #[test]
    fn only_positions_that_are_kept_are_answered() {
        let hashes = StateHashes::default();
        let ask = |index, formula| hashes.answer(&peer::StateHashRequest { index, formula });
        assert!(!ask(1, FORMULA).known);
        let last = 10 + POSITIONS_KEPT as u64;
        for index in 10..=last {
            hashes.note(at(index), index * 2);
        }
        assert!(!ask(10, FORMULA).known, "forgotten");
        assert_eq!(ask(11, FORMULA).hash, 22);
        assert_eq!(ask(last, FORMULA).hash, last * 2);
        assert!(!ask(last + 1, FORMULA).known, "not applied yet");
        assert!(!ask(last, FORMULA + 1).known, "made in another way");
        hashes.forget();
        assert!(!ask(last, FORMULA).known);
    }
}
