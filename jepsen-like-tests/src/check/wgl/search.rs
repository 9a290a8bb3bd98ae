//! The search for a linearization: Wing and Gong's, with Lowe's memory of what was tried.
//!
//! Calls and returns stand in one list by time. The search takes a call whose effect is possible, lifts it with its
//! return out of the list, and starts again from the front; at a return it has to go back, since that call had to take
//! effect before. A state reached with the same calls taken is not tried twice. Calls that never returned may be taken
//! at any later point, or never; they are tried only after all others, since few of them are ever needed.

use std::collections::HashSet;
use std::hash::Hash;

/// What calls do to a state, one at a time.
pub(super) trait Sequential {
    /// The state.
    type State: Clone + Eq + Hash;
    /// The state before the first call.
    fn initial(&self) -> Self::State;
    /// In how many ways a call may take effect; at least one.
    fn ways(&self, call: usize) -> usize;
    /// The state after a call took effect in one way, if it can have done so with the answer it gave.
    fn step(&self, state: &Self::State, call: usize, way: usize) -> Option<Self::State>;
}

/// From when to when a call ran; `ret` is `u64::MAX` if it never returned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) call: u64,
    pub(super) ret: u64,
}

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order.
    Linearizable,
    /// There is none; at best `taken` calls could be put in order before `stuck` could not take effect in time.
    Illegal { taken: usize, stuck: usize },
    /// Too many steps.
    Undecided,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    call: usize,
    is_return: bool,
    previous: usize,
    next: usize,
}

/// A call that was taken, and how to go back.
struct Taken<S> {
    entry: usize,
    open: bool,
    way: usize,
    before: S,
}

/// The list of calls and returns; place 0 is its head.
struct List {
    entries: Vec<Entry>,
    /// Place of each call's return, 0 for none.
    returns: Vec<usize>,
}

impl List {
    fn new(spans: &[Span]) -> Self {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (call, span) in spans.iter().enumerate() {
            moments.push((span.call, false, call));
            if span.ret != u64::MAX {
                moments.push((span.ret, true, call));
            }
        }
        moments.sort_unstable();
        let head = Entry {
            call: usize::MAX,
            is_return: true,
            previous: 0,
            next: 1,
        };
        let mut entries = vec![head];
        let mut returns = vec![0; spans.len()];
        for (_, is_return, call) in moments {
            let place = entries.len();
            if is_return {
                returns[call] = place;
            }
            entries.push(Entry {
                call,
                is_return,
                previous: place - 1,
                next: place + 1,
            });
        }
        let last = entries.len() - 1;
        entries[last].next = 0;
        Self { entries, returns }
    }

    fn unlink(&mut self, place: usize) {
        let Entry { previous, next, .. } = self.entries[place];
        self.entries[previous].next = next;
        self.entries[next].previous = previous;
    }

    fn relink(&mut self, place: usize) {
        let Entry { previous, next, .. } = self.entries[place];
        self.entries[previous].next = place;
        self.entries[next].previous = place;
    }

    /// Takes a call and its return out.
    fn lift(&mut self, place: usize) {
        self.unlink(place);
        match self.returns[self.entries[place].call] {
            0 => {}
            at => self.unlink(at),
        }
    }

    /// Puts the call taken last back.
    fn unlift(&mut self, place: usize) {
        match self.returns[self.entries[place].call] {
            0 => {}
            at => self.relink(at),
        }
        self.relink(place);
    }
}

/// Names a set of calls by the xor of a random word for each: as good as the set itself for 128 bits.
fn word(call: usize) -> u128 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let seed = (call as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u128::from(mix(seed)) << 64 | u128::from(mix(seed ^ 0x5851_f42d_4c95_7f2d))
}

/// Looks for an order of the calls that respects time, in at most so many steps.
pub(super) fn search<M: Sequential>(model: &M, spans: &[Span], most_steps: u64) -> Found {
    let mut list = List::new(spans);
    let mut left = spans.iter().filter(|span| span.ret != u64::MAX).count();
    let mut tried: HashSet<(u128, M::State)> = HashSet::new();
    let mut taken: Vec<Taken<M::State>> = Vec::new();
    let mut state = model.initial();
    let mut set = 0u128;
    let mut deepest = Found::Illegal {
        taken: 0,
        stuck: usize::MAX,
    };
    // Where the search stands: an entry, whether open calls are being tried, and the next way of that call.
    let (mut place, mut open, mut way) = (list.entries[0].next, false, 0);
    let mut steps = 0;
    while left > 0 {
        steps += 1;
        if steps > most_steps {
            return Found::Undecided;
        }
        let entry = list.entries[place];
        if !entry.is_return {
            let is_open = list.returns[entry.call] == 0;
            if is_open == open && way < model.ways(entry.call) {
                let next = model.step(&state, entry.call, way);
                let next = next.filter(|next| tried.insert((set ^ word(entry.call), next.clone())));
                let Some(next) = next else {
                    way += 1;
                    continue;
                };
                let before = std::mem::replace(&mut state, next);
                taken.push(Taken {
                    entry: place,
                    open,
                    way,
                    before,
                });
                set ^= word(entry.call);
                left -= usize::from(!is_open);
                list.lift(place);
                (place, open, way) = (list.entries[0].next, false, 0);
            } else {
                (place, way) = (entry.next, 0);
            }
            continue;
        }
        if !open {
            (place, open, way) = (list.entries[0].next, true, 0);
            continue;
        }
        if let Found::Illegal { taken: most, stuck } = &mut deepest
            && (taken.len() > *most || *stuck == usize::MAX)
        {
            (*most, *stuck) = (taken.len(), entry.call);
        }
        let Some(last) = taken.pop() else { return deepest };
        let call = list.entries[last.entry].call;
        list.unlift(last.entry);
        set ^= word(call);
        left += usize::from(!last.open);
        state = last.before;
        (place, open, way) = (last.entry, last.open, last.way + 1);
    }
    Found::Linearizable
}
