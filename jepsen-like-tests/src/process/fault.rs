//! The faults that a nemesis can make: names only. What they do is in [`super::nemesis`].

use std::fmt;

/// Whom a fault is aimed at. Numbers come from the seed; who leads is seen when the fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The member that leads.
    Leader,
    /// A member that does not lead.
    Follower,
    /// This member.
    One(usize),
    /// As many as can fail without harm, counted from this one.
    Minority(usize),
    /// One more than that, counted from this one.
    Majority(usize),
    /// Everybody.
    All,
}

/// Between whom packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Between the target and everybody, clients too.
    Isolate(Target),
    /// Between a minority, counted from this member, and the rest. Clients reach both.
    Halves(usize),
    /// Between two halves that share this member.
    Bridge(usize),
    /// Between the target and the other members; clients reach it.
    PeersOnly(Target),
    /// Between the target and clients; members reach it.
    ClientsOnly(Target),
    /// To the target: it hears no member.
    Deaf(Target),
    /// From the target: no member hears it.
    Mute(Target),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a start when the fault ends.
    Kill(Target),
    /// SIGSTOP, and SIGCONT when the fault ends.
    Pause(Target),
    /// Packets dropped.
    Cut(Shape),
    /// A member isolated and not, in turns of `period_ms`.
    Flap {
        /// Whom.
        target: Target,
        /// Length of a turn.
        period_ms: u64,
    },
    /// Packets lost at random, both ways.
    Lose {
        /// Whom.
        target: Target,
        /// How many, in percent.
        percent: u32,
    },
    /// Every TCP packet answered by a reset.
    Reset(Target),
    /// A limit on what a member sends.
    Throttle {
        /// Whom.
        target: Target,
        /// The limit, per second.
        kilobytes: u32,
    },
    /// What a member sends, and what clients exchange with it, comes late.
    Delay {
        /// Whom.
        target: Target,
        /// Shortest delay.
        least_ms: u64,
        /// Longest delay.
        most_ms: u64,
    },
    /// The leader is asked to hand over to the target.
    Transfer(Target),
    /// Compactions one after the other.
    Compact {
        /// Pause between two.
        every_ms: u64,
    },
    /// The target is killed, one bit of its files is flipped, and it is started. The number says which bit.
    Flip(Target, u64),
    /// The target is killed, the end of its newest log segment is cut off, and it is started. The number says how much.
    Truncate(Target, u64),
    /// The target's disk fills up, and has room again when the fault ends.
    FillDisk(Target),
    /// All members' wall clock jumps, and comes back when the fault ends.
    Clock {
        /// How far.
        by_s: i64,
        /// To and fro, five times a second.
        strobe: bool,
    },
}

/// Names in histories of all faults that there are.
pub const KINDS: &[&str] = &[
    "kill",
    "pause",
    "isolate",
    "halves",
    "bridge",
    "cut-peers",
    "cut-clients",
    "one-way-in",
    "one-way-out",
    "flapping",
    "loss",
    "reset",
    "bandwidth",
    "latency",
    "transfer",
    "compact",
    "flip",
    "cut-tail",
    "disk-full",
    "clock",
];

impl Fault {
    /// Its name in a history, one of [`KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::Pause(_) => "pause",
            Fault::Cut(Shape::Isolate(_)) => "isolate",
            Fault::Cut(Shape::Halves(_)) => "halves",
            Fault::Cut(Shape::Bridge(_)) => "bridge",
            Fault::Cut(Shape::PeersOnly(_)) => "cut-peers",
            Fault::Cut(Shape::ClientsOnly(_)) => "cut-clients",
            Fault::Cut(Shape::Deaf(_)) => "one-way-in",
            Fault::Cut(Shape::Mute(_)) => "one-way-out",
            Fault::Flap { .. } => "flapping",
            Fault::Lose { .. } => "loss",
            Fault::Reset(_) => "reset",
            Fault::Throttle { .. } => "bandwidth",
            Fault::Delay { .. } => "latency",
            Fault::Transfer(_) => "transfer",
            Fault::Compact { .. } => "compact",
            Fault::Flip(..) => "flip",
            Fault::Truncate(..) => "cut-tail",
            Fault::FillDisk(_) => "disk-full",
            Fault::Clock { .. } => "clock",
        }
    }

    /// Whom it is aimed at; none if at the load.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match *self {
            Fault::Kill(target)
            | Fault::Pause(target)
            | Fault::Reset(target)
            | Fault::Transfer(target)
            | Fault::Flip(target, _)
            | Fault::Truncate(target, _)
            | Fault::FillDisk(target)
            | Fault::Flap { target, .. }
            | Fault::Lose { target, .. }
            | Fault::Throttle { target, .. }
            | Fault::Delay { target, .. } => Some(target),
            Fault::Cut(
                Shape::Isolate(target)
                | Shape::PeersOnly(target)
                | Shape::ClientsOnly(target)
                | Shape::Deaf(target)
                | Shape::Mute(target),
            ) => Some(target),
            Fault::Cut(Shape::Halves(member)) => Some(Target::Minority(member)),
            Fault::Cut(Shape::Bridge(member)) => Some(Target::One(member)),
            Fault::Compact { .. } => None,
            Fault::Clock { .. } => Some(Target::All),
        }
    }

    /// Whether it needs namespaces: of the network, or of mounts for a disk of the member's own.
    #[must_use]
    pub fn needs_namespaces(&self) -> bool {
        matches!(
            self,
            Fault::FillDisk(_)
                | Fault::Cut(_)
                | Fault::Flap { .. }
                | Fault::Lose { .. }
                | Fault::Reset(_)
                | Fault::Throttle { .. }
                | Fault::Delay { .. }
        )
    }

    /// Whether it changes what is in a member's files.
    #[must_use]
    pub fn damages(&self) -> bool {
        matches!(self, Fault::Flip(..) | Fault::Truncate(..))
    }

    /// Whether it makes the cluster slow, so that no bound on pauses holds while it lasts.
    #[must_use]
    pub fn slows(&self) -> bool {
        match self {
            Fault::Cut(shape) => matches!(shape, Shape::Bridge(_) | Shape::Deaf(_) | Shape::Mute(_)),
            Fault::Flap { .. }
            | Fault::Lose { .. }
            | Fault::Reset(_)
            | Fault::Throttle { .. }
            | Fault::Delay { .. }
            | Fault::Flip(..)
            | Fault::Truncate(..)
            | Fault::FillDisk(_) => true,
            Fault::Kill(_)
            | Fault::Pause(_)
            | Fault::Transfer(_)
            | Fault::Compact { .. }
            | Fault::Clock { .. } => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Leader => write!(f, "the leader"),
            Target::Follower => write!(f, "a follower"),
            Target::One(member) => write!(f, "member {member}"),
            Target::Minority(member) => write!(f, "a minority from member {member}"),
            Target::Majority(member) => write!(f, "a majority from member {member}"),
            Target::All => write!(f, "all members"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Isolate(target) => write!(f, "{target} cut off from everybody"),
            Shape::Halves(member) => write!(
                f,
                "a minority from member {member} cut off from the other members"
            ),
            Shape::Bridge(member) => write!(f, "two halves that only share member {member}"),
            Shape::PeersOnly(target) => write!(f, "{target} cut off from the other members"),
            Shape::ClientsOnly(target) => write!(f, "{target} cut off from clients"),
            Shape::Deaf(target) => write!(f, "{target} hears no other member"),
            Shape::Mute(target) => write!(f, "{target} is heard by no other member"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(target) => write!(f, "kill -9 of {target}"),
            Fault::Pause(target) => write!(f, "SIGSTOP of {target}"),
            Fault::Cut(shape) => write!(f, "{shape}"),
            Fault::Flap { target, period_ms } => {
                write!(f, "{target} cut off and not, in turns of {period_ms} ms")
            }
            Fault::Lose { target, percent } => write!(f, "{percent} % of packets of {target} lost"),
            Fault::Reset(target) => write!(f, "connections of {target} reset"),
            Fault::Throttle { target, kilobytes } => write!(f, "{kilobytes} kB/s from {target}"),
            Fault::Delay {
                target,
                least_ms,
                most_ms,
            } => {
                write!(f, "{least_ms}-{most_ms} ms of latency at {target}")
            }
            Fault::Transfer(target) => write!(f, "leadership offered to {target}"),
            Fault::Compact { every_ms } => write!(f, "compaction every {every_ms} ms"),
            Fault::Flip(target, _) => write!(f, "kill -9 of {target} and a bit flipped"),
            Fault::Truncate(target, _) => write!(f, "kill -9 of {target} and the log's tail cut off"),
            Fault::FillDisk(target) => write!(f, "the disk of {target} full"),
            Fault::Clock { by_s, strobe: false } => write!(f, "wall clocks jump by {by_s} s"),
            Fault::Clock { by_s, strobe: true } => write!(f, "wall clocks strobe by {by_s} s"),
        }
    }
}
