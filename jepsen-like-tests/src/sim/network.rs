//! The network of the simulation: connections between members, as TCP makes them over bad links.
//!
//! A connection keeps order and loses nothing while it lives. A link (one direction between two members) can be slow,
//! lose packets (which on a connection is a delay of some retransmissions, and holds up all that follows), or be cut
//! (what was sent waits for the end of the cut). Connections end in resets, sometimes in the middle of a frame. What an
//! abandoned connection still carries arrives late, beside its successor's: so messages do come twice and out of
//! order. See `docs/decisions/0004-simulation-on-a-paused-clock.md`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use kelson_storage::testing::Random;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::stream::{self, Half};
use super::trace::Trace;

/// Bytes on the way in one direction of one connection, at most. Source: a usual TCP window.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;
/// First pause before something lost is sent again; doubles each time. Source: Linux' lowest.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Retransmissions of one segment, at most: more would be a cut.
const LOSSES_MAX: u64 = 5;

/// How a link is when nothing is wrong, and how bad it may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkQuality {
    /// Least delay.
    pub delay: Duration,
    /// Added to the delay, evenly from zero to this.
    pub jitter: Duration,
    /// Segments lost, per thousand.
    pub loss: u64,
}

/// All links and connections. Clones are the same network.
#[derive(Clone)]
pub struct SimNetwork {
    pub(super) net: Arc<Mutex<Net>>,
    pub(super) trace: Trace,
}

pub(super) type Accepted = (Half, Half);

pub(super) struct Net {
    random: Random,
    quality: LinkQuality,
    slow: BTreeMap<(u64, u64), LinkQuality>,
    cut: BTreeMap<(u64, u64), u64>,
    pub(super) hosts: BTreeMap<u64, Host>,
    pipes: Vec<Weak<Mutex<Pipe>>>,
    next_connection: u64,
}

/// One member's machine.
#[derive(Default)]
pub(super) struct Host {
    /// Counts the lives of the member; connections of earlier ones are gone.
    pub(super) life: u64,
    /// Whether the machine answers at all: after a power cut it does not, a killed process is told for.
    pub(super) powered: bool,
    pub(super) listener: Option<mpsc::UnboundedSender<Accepted>>,
}

/// One end of a pipe: a member in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) member: u64,
    pub(super) life: u64,
}

/// What travels.
#[derive(Debug)]
pub(super) enum Segment {
    Data(bytes::Bytes),
    /// The sender is done.
    End,
}

/// One direction of a connection.
pub(super) struct Pipe {
    pub(super) connection: u64,
    pub(super) from: End,
    pub(super) to: End,
    /// When each segment arrives; none while a cut holds it.
    pub(super) segments: VecDeque<(Option<Instant>, Segment)>,
    pub(super) bytes: usize,
    last_arrival: Option<Instant>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Nobody reads any more.
    pub(super) abandoned: bool,
    pub(super) broken: bool,
}

impl SimNetwork {
    /// A network among members with these links.
    pub fn new(seed: u64, quality: LinkQuality, trace: Trace) -> Self {
        Self {
            net: Arc::new(Mutex::new(Net {
                random: Random::new(seed),
                quality,
                slow: BTreeMap::new(),
                cut: BTreeMap::new(),
                hosts: BTreeMap::new(),
                pipes: Vec::new(),
                next_connection: 0,
            })),
            trace,
        }
    }

    /// A new life of `member` begins. Returns its number.
    pub fn power_on(&self, member: u64) -> u64 {
        let mut net = self.net.lock();
        let host = net.hosts.entry(member).or_default();
        host.life += 1;
        host.powered = true;
        host.listener = None;
        host.life
    }

    /// The machine is gone without a word: nothing it has not sent is sent, nobody is told.
    pub fn power_off(&self, member: u64) {
        let mut net = self.net.lock();
        let host = net.hosts.entry(member).or_default();
        host.powered = false;
        host.listener = None;
        // A later life's number, so that all connections of this one are strangers.
        host.life += 1;
    }

    /// Cuts `from -> to`. Cuts add up; each needs its own [`SimNetwork::mend`].
    pub fn cut(&self, from: u64, to: u64) {
        *self.net.lock().cut.entry((from, to)).or_default() += 1;
    }

    /// Takes back one cut.
    pub fn mend(&self, from: u64, to: u64) {
        let mut net = self.net.lock();
        let Some(cuts) = net.cut.get_mut(&(from, to)) else {
            return;
        };
        *cuts -= 1;
        if *cuts == 0 {
            net.cut.remove(&(from, to));
            net.release(from, to);
        }
    }

    /// Takes back everything that was done to the links.
    pub fn mend_all(&self) {
        let mut net = self.net.lock();
        net.slow.clear();
        let cut = std::mem::take(&mut net.cut);
        for (from, to) in cut.into_keys() {
            net.release(from, to);
        }
        net.quality.loss = 0;
    }

    /// Makes `from -> to` as bad as that; none: as good as the others.
    pub fn set_quality(&self, from: u64, to: u64, quality: Option<LinkQuality>) {
        let mut net = self.net.lock();
        match quality {
            Some(quality) => net.slow.insert((from, to), quality),
            None => net.slow.remove(&(from, to)),
        };
    }

    /// Breaks every connection between the two, at both ends.
    pub fn reset(&self, one: u64, other: u64) {
        let mut net = self.net.lock();
        for pipe in net.live_pipes() {
            let mut pipe = pipe.lock();
            let (from, to) = (pipe.from.member, pipe.to.member);
            if (from, to) == (one, other) || (from, to) == (other, one) {
                // What is on the way is lost with it, maybe in the middle of a frame.
                pipe.break_now();
            }
        }
    }

    pub(super) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.net.lock().cut.contains_key(&(from, to))
    }

    pub(super) fn delay(&self, from: u64, to: u64) -> Duration {
        self.net.lock().delay(from, to)
    }

    /// Makes a connection between two lives. Returns the halves of the one who asked for it and those of the other.
    pub(super) fn connection(&self, one: End, other: End) -> (Accepted, Accepted) {
        let mut net = self.net.lock();
        net.next_connection += 1;
        let number = net.next_connection;
        let there = Arc::new(Mutex::new(Pipe::new(number, one, other)));
        let back = Arc::new(Mutex::new(Pipe::new(number, other, one)));
        net.pipes.push(Arc::downgrade(&there));
        net.pipes.push(Arc::downgrade(&back));
        drop(net);
        self.trace.event("connect", &[number, one.member, other.member]);
        stream::halves(self, &there, &back)
    }

    /// Puts a segment on its way.
    pub(super) fn send(&self, pipe: &mut Pipe, segment: Segment) {
        let mut net = self.net.lock();
        let (from, to) = (pipe.from.member, pipe.to.member);
        let held = net.cut.contains_key(&(from, to))
            || pipe.segments.back().is_some_and(|(arrival, _)| arrival.is_none());
        let arrival = if held { None } else { Some(net.arrival(pipe)) };
        drop(net);
        let (length, crc) = match &segment {
            Segment::Data(data) => (data.len() as u64, u64::from(crc32fast::hash(data))),
            Segment::End => (0, 1),
        };
        self.trace
            .event("send", &[pipe.connection, from, to, length, crc]);
        pipe.bytes += length as usize;
        pipe.segments.push_back((arrival, segment));
        pipe.wake_reader();
    }

    /// A piece of `available` bytes such as one read finds; mostly all of it.
    pub(super) fn piece(&self, available: usize) -> usize {
        let mut net = self.net.lock();
        if available > 1 && net.random.chance(1, 16) {
            1 + net.random.place(available - 1)
        } else {
            available
        }
    }

    /// Whether that life of the member is the present one.
    pub(super) fn lives(&self, end: End) -> bool {
        let net = self.net.lock();
        net.hosts
            .get(&end.member)
            .is_some_and(|host| host.life == end.life)
    }

    /// Whether the member's machine answers to packets.
    pub(super) fn is_powered(&self, member: u64) -> bool {
        let net = self.net.lock();
        net.hosts.get(&member).is_some_and(|host| host.powered)
    }
}

impl Net {
    fn delay(&mut self, from: u64, to: u64) -> Duration {
        let quality = self.slow.get(&(from, to)).copied().unwrap_or(self.quality);
        let jitter = self.random.below(quality.jitter.as_micros() as u64 + 1);
        let mut delay = quality.delay + Duration::from_micros(jitter);
        let mut pause = RETRANSMIT;
        for _ in 0..LOSSES_MAX {
            if !self.random.chance(quality.loss, 1000) {
                break;
            }
            delay += pause;
            pause *= 2;
        }
        delay
    }

    /// When what is sent now arrives: never before what was sent before.
    fn arrival(&mut self, pipe: &mut Pipe) -> Instant {
        let at = Instant::now() + self.delay(pipe.from.member, pipe.to.member);
        let at = pipe.last_arrival.map_or(at, |last| last.max(at));
        pipe.last_arrival = Some(at);
        at
    }

    /// A cut has ended: what it held is sent again at some moment of the sender's pauses.
    fn release(&mut self, from: u64, to: u64) {
        let again = Duration::from_millis(self.random.below(800));
        for pipe in self.live_pipes() {
            let mut pipe = pipe.lock();
            if (pipe.from.member, pipe.to.member) != (from, to) {
                continue;
            }
            let at = self.arrival(&mut pipe) + again;
            pipe.last_arrival = Some(at);
            for (arrival, _) in &mut pipe.segments {
                arrival.get_or_insert(at);
            }
            pipe.wake_reader();
        }
    }

    fn live_pipes(&mut self) -> Vec<Arc<Mutex<Pipe>>> {
        self.pipes.retain(|pipe| pipe.strong_count() > 0);
        self.pipes.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Pipe {
    fn new(connection: u64, from: End, to: End) -> Self {
        Self {
            connection,
            from,
            to,
            segments: VecDeque::new(),
            bytes: 0,
            last_arrival: None,
            reader: None,
            writer: None,
            abandoned: false,
            broken: false,
        }
    }

    pub(super) fn break_now(&mut self) {
        self.broken = true;
        self.segments.clear();
        self.bytes = 0;
        self.wake_reader();
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

pub(super) fn reset_error() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
