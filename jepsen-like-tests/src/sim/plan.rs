//! [`Plan`]: what one seed simulates. Each seed draws which faults and features there are at all, and how much of
//! each, so that rare mixes occur and no run has everything at once.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kelson_raft::environment::IndexFilePolicy;
use kelson_storage::testing::Random;

use super::network::LinkQuality;

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A machine loses power between two calls: unsynced sectors and names may be lost.
    PowerCut,
    /// The same in the midst of a write, a sync, a rename.
    PowerCutInCall,
    /// All machines lose power at once.
    PowerCutAll,
    /// A process is killed: nothing written is lost.
    Kill,
    /// A process does not run for a while, as with SIGSTOP.
    Stop,
    /// Two groups of members do not hear each other.
    Partition,
    /// Nothing goes one way between two members.
    OneWayCut,
    /// A link delays and reorders between connections.
    SlowLink,
    /// Connections break.
    Reset,
    /// Packets are lost everywhere.
    Loss,
    /// A disk takes long.
    SlowDisk,
    /// A call to the disk fails with EIO or ENOSPC.
    DiskError,
    /// Leadership is handed over.
    Transfer,
    /// A process is stopped in order and started again.
    Restart,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::PowerCut,
        Self::PowerCutInCall,
        Self::PowerCutAll,
        Self::Kill,
        Self::Stop,
        Self::Partition,
        Self::OneWayCut,
        Self::SlowLink,
        Self::Reset,
        Self::Loss,
        Self::SlowDisk,
        Self::DiskError,
        Self::Transfer,
        Self::Restart,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or_else(|| format!("{name} is no kind of fault"))
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// How long clients run and faults happen, in virtual time.
    pub duration: Duration,
    /// Number of voters.
    pub members: u64,
    /// What can happen.
    pub faults: BTreeSet<FaultKind>,
    /// Mean time between two faults.
    pub fault_every: Duration,
    /// Links when nothing is wrong.
    pub links: LinkQuality,
    /// Longest time a disk takes when nothing is wrong.
    pub disk_latency: Duration,
    /// Shortest election timeout; the heartbeat is a tenth.
    pub election_timeout: Duration,
    /// Whether elections begin with a pre-vote.
    pub pre_vote: bool,
    /// Entries between two purges of the log.
    pub snapshot_count: u64,
    /// Entries kept for slow followers.
    pub catchup_entries: u64,
    /// Bytes of a segment of the log.
    pub wal_segment_bytes: u64,
    /// When the index is written to a file.
    pub index_files: IndexFilePolicy,
    /// Files of the log before it is purged by size; 0: it is not.
    pub max_wals: u64,
    /// Clients at once.
    pub clients: u64,
    /// Mean pause of a client between two operations.
    pub client_pause: Duration,
    /// Keys that clients use.
    pub keys: u64,
    /// Longest value, in bytes.
    pub value_bytes: u64,
    /// Whether clients compact history.
    pub compaction: bool,
    /// Whether clients use leases.
    pub leases: bool,
    /// Clients that watch.
    pub watchers: u64,
    /// Speed of each member's timers in percent of the others'.
    pub clock_rates: Vec<u64>,
}

/// A stream of chance of its own for each use, so that leaving one out changes no other.
pub fn chance(seed: u64, use_: &str) -> Random {
    let mut number = Random::new(seed);
    let mut mixed = number.number();
    for byte in use_.bytes() {
        mixed = Random::new(mixed ^ u64::from(byte)).number();
    }
    Random::new(mixed)
}

impl Plan {
    /// What `seed` draws for a run of `duration`.
    pub fn of(seed: u64, duration: Duration) -> Self {
        let mut random = chance(seed, "plan");
        let millis = |random: &mut Random, choices: &[u64]| {
            Duration::from_millis(choices[random.place(choices.len())])
        };
        let number = |random: &mut Random, choices: &[u64]| choices[random.place(choices.len())];
        let members = number(&mut random, &[1, 3, 3, 3, 3, 3, 5, 5]);
        let share = number(&mut random, &[2, 3, 5, 8]);
        let faults = FaultKind::ALL.into_iter();
        let faults = faults.filter(|_| random.chance(share, 10)).collect();
        let election_timeout = millis(&mut random, &[300, 1000, 1000, 2000]);
        // etcd's rule: an election timeout is ten round trips. A vote is saved before it counts, and without a
        // connection it takes three of them.
        let longest = |wanted: Duration| wanted.min(election_timeout / 40);
        let pre_vote = random.chance(3, 4);
        Self {
            seed,
            duration,
            members,
            faults,
            fault_every: millis(&mut random, &[300, 1000, 3000, 8000]),
            links: LinkQuality {
                delay: longest(millis(&mut random, &[0, 1, 1, 5, 20])),
                jitter: longest(millis(&mut random, &[1, 2, 10, 50])),
                loss: number(&mut random, &[0, 0, 1, 10, 50]),
            },
            disk_latency: longest(millis(&mut random, &[1, 1, 5, 20, 50])),
            election_timeout,
            pre_vote,
            snapshot_count: number(&mut random, &[10, 50, 200, 5000]),
            catchup_entries: number(&mut random, &[1, 10, 100, 5000]),
            wal_segment_bytes: number(&mut random, &[4, 16, 64, 256]) * 1024,
            index_files: IndexFilePolicy {
                from_rows: number(&mut chance(seed, "index-file-rows"), &[0, 20, 100, 20_000]),
                every: millis(&mut chance(seed, "index-file-every"), &[0, 300, 1000, 10_000]),
            },
            max_wals: number(&mut chance(seed, "max-wals"), &[0, 1, 2, 5]),
            clients: number(&mut random, &[1, 3, 5, 8]),
            client_pause: millis(&mut random, &[5, 20, 50, 200]),
            keys: number(&mut random, &[1, 3, 6, 20]),
            value_bytes: number(&mut random, &[8, 8, 200, 5000]),
            compaction: random.chance(1, 2),
            leases: random.chance(1, 2),
            watchers: number(&mut random, &[0, 1, 2, 4]),
            clock_rates: {
                // Without pre-votes hasty members that cannot win keep a slow one that can from standing, as in any Raft.
                let apart = random.chance(1, 4) && pre_vote;
                let rates = (0..members).map(|_| if apart { 50 + random.below(151) } else { 100 });
                rates.collect()
            },
        }
    }

    /// The plan without some of its faults.
    #[must_use]
    pub fn without(mut self, kinds: &BTreeSet<FaultKind>) -> Self {
        self.faults.retain(|kind| !kinds.contains(kind));
        if kinds.contains(&FaultKind::Loss) {
            self.links.loss = 0;
        }
        self
    }
}
