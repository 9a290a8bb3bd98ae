//! [`Sessions`]: which commands have been applied, so that a second copy is dropped.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut};

use crate::command::CommandId;

/// Per origin, the applied commands of its newest session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    by_origin: BTreeMap<u64, Session>,
}

/// Everything below `next` is applied (or will never come); `next` is not; of what lies above, `above` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    session: u64,
    next: u64,
    above: BTreeSet<u64>,
}

impl Sessions {
    /// Notes that the command `id` is about to be applied; `false` if it is a second copy, or from a session that is
    /// over. `low` is its origin's lowest sequence number without an outcome.
    pub fn admit(&mut self, id: CommandId, low: u64) -> bool {
        let session = self.by_origin.entry(id.origin).or_default();
        if id.session < session.session {
            return false;
        }
        if id.session > session.session {
            *session = Session {
                session: id.session,
                ..Session::default()
            };
        }
        session.forget_below(low);
        session.admit(id.seq)
    }

    /// Appends the encoding: count u32, then per origin: origin, session, next u64, count u32, numbers above u64.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.by_origin.len() as u32);
        for (origin, session) in &self.by_origin {
            out.put_u64(*origin);
            out.put_u64(session.session);
            out.put_u64(session.next);
            out.put_u32(session.above.len() as u32);
            session.above.iter().for_each(|seq| out.put_u64(*seq));
        }
    }

    /// Reads what [`Sessions::encode`] wrote; `None` if it is not that.
    pub fn decode(input: &mut impl Buf) -> Option<Self> {
        let mut sessions = Self::default();
        for _ in 0..input.try_get_u32().ok()? {
            let origin = input.try_get_u64().ok()?;
            let mut session = Session {
                session: input.try_get_u64().ok()?,
                next: input.try_get_u64().ok()?,
                above: BTreeSet::new(),
            };
            for _ in 0..input.try_get_u32().ok()? {
                session.above.insert(input.try_get_u64().ok()?);
            }
            sessions.by_origin.insert(origin, session);
        }
        Some(sessions)
    }
}

impl Session {
    fn forget_below(&mut self, low: u64) {
        if low > self.next {
            self.next = low;
            self.above = self.above.split_off(&low);
            self.join();
        }
    }

    fn admit(&mut self, seq: u64) -> bool {
        if seq < self.next {
            return false;
        }
        if seq > self.next {
            return self.above.insert(seq);
        }
        self.next += 1;
        self.join();
        true
    }

    /// Moves `next` over what has been applied out of order.
    fn join(&mut self) {
        while !self.above.is_empty() && self.above.remove(&self.next) {
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id(session: u64, seq: u64) -> CommandId {
        CommandId {
            origin: 9,
            session,
            seq,
        }
    }

    #[test]
    fn second_copies_and_ended_sessions_are_dropped() {
        let mut sessions = Sessions::default();
        assert!(sessions.admit(id(2, 1), 1));
        assert!(sessions.admit(id(2, 3), 1));
        assert!(!sessions.admit(id(2, 1), 1));
        assert!(!sessions.admit(id(2, 3), 1));
        assert!(sessions.admit(id(2, 2), 1));
        assert!(sessions.admit(id(2, 9), 9));
        assert!(!sessions.admit(id(2, 8), 1), "below the low mark");
        assert!(!sessions.admit(id(1, 100), 100));
        assert!(sessions.admit(id(3, 1), 1));
        assert!(!sessions.admit(id(2, 10), 9));
    }

    proptest! {
        #[test]
        fn each_command_is_admitted_once(steps in prop::collection::vec((1..3u64, 1..12u64, 0..6u64), 0..60)) {
            let mut sessions = Sessions::default();
            let (mut newest, mut applied) = (0, HashSet::new());
            let mut low_mark = 0;
            for (session, seq, below) in steps {
                let low = seq.saturating_sub(below);
                if session > newest {
                    (newest, low_mark) = (session, 0);
                    applied.clear();
                }
                let current = session == newest;
                if current {
                    low_mark = low_mark.max(low);
                }
                let expected = current && seq >= low_mark && applied.insert(seq);
                prop_assert_eq!(sessions.admit(id(session, seq), low), expected);
                let mut bytes = Vec::new();
                sessions.encode(&mut bytes);
                prop_assert_eq!(Sessions::decode(&mut &bytes[..]), Some(sessions.clone()));
            }
        }
    }
}
