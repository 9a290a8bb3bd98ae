//! Leases end in time, never early, and all their keys with them (P11): intervals on the clients' clock.
//!
//! A good answer (a grant, a keepalive with a TTL) that was asked for at `call` and came at `ret` proves that the lease
//! lives at least until `call` + TTL and, without others, ends at most some seconds after `ret` + TTL. The end of a
//! lease is a revision in the timeline, which happened between two moments that `order` knows. That all keys go in one
//! revision is also `order`'s to see: it takes nothing less for the end of a lease.
//!
//! A change of leader gives leases their full time again; so does, here, anything else that may have kept the leader
//! from counting: a fault in the meantime. Leases that only unknown calls granted are not judged.

mod bounds;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::check::order::{Maker, Timeline, leases_of};
use crate::check::{Evidence, Limits, Verdict, describe, seconds};
use crate::history::{EventKind, Operation, Outcome, Request, Response};
use crate::model::Rejected;

use bounds::Unrest;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// How long a keepalive whose answer was lost may still be under way.
const LOST_CALL: u64 = 7 * SECOND;

/// One life of a lease: from a grant to its end.
#[derive(Debug)]
struct Life<'a> {
    id: i64,
    grant: &'a Operation,
    /// Store revision in the grant's header: the lease's keys come after it.
    revision: i64,
    /// Granted time to live in nanoseconds.
    ttl: u64,
    /// Good answers: when they were asked for and when they came. The grant is the first.
    good: Vec<(u64, u64)>,
    /// Keepalives that may have renewed it: when the last of them can have done so.
    maybe_renewed: u64,
    /// The first call that may have revoked it.
    revoked: Option<&'a Operation>,
    /// Whether the revoke is known to have happened, and when it returned.
    surely_revoked: Option<u64>,
    /// The revision at which it ended by itself, with keys.
    expired: Option<i64>,
}

impl Life<'_> {
    /// Alive at least until here.
    fn alive_until(&self) -> u64 {
        self.good
            .iter()
            .map(|(call, _)| call + self.ttl)
            .max()
            .unwrap_or(0)
    }

    /// The last moment at which its time may have begun again.
    fn last_renewed(&self) -> u64 {
        self.good
            .iter()
            .map(|(_, ret)| *ret)
            .max()
            .unwrap_or(0)
            .max(self.maybe_renewed)
    }
}

/// Checks all leases.
pub fn check(evidence: &Evidence<'_>, timeline: Option<&Timeline>, limits: &Limits) -> Verdict {
    let Some(timeline) = timeline else {
        return Verdict::Invalid("order found no history to judge leases by".to_owned());
    };
    let lives = lives(evidence, timeline);
    let unrest = Unrest::find(evidence);
    let mut findings = Vec::new();
    for life in lives.values().flatten() {
        findings.extend(check_end(life, timeline, &unrest, limits));
        findings.extend(check_never_ends(life, evidence, timeline, &unrest, limits));
    }
    for operation in &evidence.operations {
        findings.extend(
            check_answer(operation, &lives, timeline)
                .map(|found| format!("{}: {found}", describe(operation))),
        );
    }
    Verdict::from_findings(&findings)
}

fn lives<'a>(evidence: &'a Evidence<'_>, timeline: &Timeline) -> BTreeMap<i64, Vec<Life<'a>>> {
    let mut lives: BTreeMap<i64, Vec<Life<'a>>> = BTreeMap::new();
    for operation in &evidence.operations {
        if let (Request::LeaseGrant(_), Some(Response::LeaseGrant(response))) =
            (&operation.request, operation.response())
        {
            lives.entry(response.id).or_default().push(Life {
                id: response.id,
                grant: operation,
                revision: response.header.revision,
                ttl: response.ttl.unsigned_abs() * SECOND,
                good: vec![(operation.call, operation.ret)],
                maybe_renewed: 0,
                revoked: None,
                surely_revoked: None,
                expired: None,
            });
        }
    }
    for operation in &evidence.operations {
        match (&operation.request, &operation.outcome) {
            (Request::LeaseKeepAlive(lease), Outcome::Ok(Response::LeaseKeepAlive(response))) => {
                if let (Some(life), 1..) = (life_of(&mut lives, lease.id, operation), response.ttl) {
                    life.good.push((operation.call, operation.ret));
                }
            }
            (Request::LeaseKeepAlive(lease), Outcome::Unknown { .. }) => {
                if let Some(life) = life_of(&mut lives, lease.id, operation) {
                    life.maybe_renewed = life.maybe_renewed.max(operation.call + LOST_CALL);
                }
            }
            (Request::LeaseRevoke(lease), Outcome::Ok(_) | Outcome::Unknown { .. }) => {
                if let Some(life) = life_of(&mut lives, lease.id, operation) {
                    life.revoked = life.revoked.or(Some(operation));
                    if operation.response().is_some() {
                        life.surely_revoked = Some(operation.ret);
                    }
                }
            }
            _ => {}
        }
    }
    for change in &timeline.changes {
        if let Maker::Expiry(id) = change.maker {
            let born = |life: &&mut Life<'_>| life.revision < change.revision;
            let life = lives
                .get_mut(&id)
                .and_then(|lives| lives.iter_mut().rev().find(born));
            if let Some(life) = life {
                life.expired = life.expired.or(Some(change.revision));
            }
        }
    }
    lives
}

/// The life of a lease that a call meets: that of the last grant before it, if no other grant overlaps it.
fn life_of<'l, 'a>(
    lives: &'l mut BTreeMap<i64, Vec<Life<'a>>>,
    id: i64,
    operation: &Operation,
) -> Option<&'l mut Life<'a>> {
    lives
        .get_mut(&id)?
        .iter_mut()
        .rev()
        .find(|life| life.grant.call < operation.ret)
}

/// Neither early nor late.
fn check_end(life: &Life<'_>, timeline: &Timeline, unrest: &Unrest, limits: &Limits) -> Vec<String> {
    let mut findings = Vec::new();
    let Some(change) = life.expired.and_then(|revision| timeline.change(revision)) else {
        return findings;
    };
    if change.guessed {
        return findings;
    }
    for (call, ret) in &life.good {
        if *call > change.not_after {
            findings.push(format!(
                "lease {} was kept alive at {} after its end at revision {}, which was seen at {}",
                life.id,
                seconds(*ret),
                change.revision,
                seconds(change.not_after)
            ));
        } else if change.not_after < call + life.ttl {
            findings.push(format!(
                "lease {} ended early: revision {} was seen at {}, but it was renewed at {} for {}",
                life.id,
                change.revision,
                seconds(change.not_after),
                seconds(*call),
                seconds(life.ttl)
            ));
        }
    }
    let latest = unrest.latest_end(life.last_renewed(), change.not_before, life.ttl, limits);
    if change.not_before > latest {
        findings.push(format!(
            "lease {} ended late: revision {} came after {}, but it had to end by {}",
            life.id,
            change.revision,
            seconds(change.not_before),
            seconds(latest)
        ));
    }
    findings
}

/// A lease whose keys are still there when its time has long passed.
fn check_never_ends(
    life: &Life<'_>,
    evidence: &Evidence<'_>,
    timeline: &Timeline,
    unrest: &Unrest,
    limits: &Limits,
) -> Option<String> {
    if life.expired.is_some() || life.surely_revoked.is_some() {
        return None;
    }
    let mut attached = BTreeMap::new();
    for event in timeline
        .between(life.revision + 1, timeline.revision())
        .iter()
        .flat_map(|change| &change.events)
    {
        let holds = event.kind == EventKind::Put && event.kv.lease == life.id;
        attached.insert(&event.kv.key, holds);
    }
    let key = attached.into_iter().find(|(_, holds)| *holds)?.0;
    let newest = timeline.revision();
    let sees_the_end = |operation: &&Operation| match (&operation.request, operation.response()) {
        (Request::Range(range), Some(response)) => {
            !range.serializable && response.header().revision == newest
        }
        _ => false,
    };
    let last = evidence
        .operations
        .iter()
        .filter(sees_the_end)
        .map(|operation| operation.call)
        .max()?;
    let latest = unrest.latest_end(life.last_renewed(), last, life.ttl, limits);
    (last > latest).then(|| {
        format!(
            "lease {} never ended: key {key} was still there after {}, but it had to end by {}",
            life.id,
            seconds(last),
            seconds(latest)
        )
    })
}

/// What a call says about a lease must be so at some moment of the call.
fn check_answer(
    operation: &Operation,
    lives: &BTreeMap<i64, Vec<Life<'_>>>,
    timeline: &Timeline,
) -> Option<String> {
    let life_of = |id: i64| {
        let before = |life: &&Life<'_>| life.grant.ret < operation.call;
        lives.get(&id).and_then(|lives| lives.iter().rev().find(before))
    };
    match (&operation.request, &operation.outcome) {
        (Request::LeaseKeepAlive(lease), Outcome::Ok(Response::LeaseKeepAlive(response))) => {
            if response.id != lease.id {
                return Some(format!("the answer is about lease {}", response.id));
            }
            match life_of(lease.id) {
                Some(life) if response.ttl <= 0 => gone_while_alive(life, operation),
                Some(life) => alive_when_gone(life, operation, response.ttl, timeline),
                None => None,
            }
        }
        (Request::LeaseTimeToLive(lease), Outcome::Ok(Response::LeaseTimeToLive(response))) => {
            let life = life_of(lease.id)?;
            if response.ttl == -1 && response.granted_ttl == 0 {
                return gone_while_alive(life, operation);
            }
            if response.granted_ttl.unsigned_abs() * SECOND != life.ttl {
                return Some(format!(
                    "granted TTL is {}, must be {}",
                    response.granted_ttl,
                    seconds(life.ttl)
                ));
            }
            // Whole seconds, cut off: the true rest is below the answer plus one.
            let above = u64::try_from(response.ttl + 1).unwrap_or(0) * SECOND;
            let renewed = life.good.iter().filter(|(_, ret)| *ret < operation.call);
            let until = renewed.map(|(call, _)| call + life.ttl).max().unwrap_or(0);
            let short = life.revoked.is_none() && until > operation.ret + above;
            short.then(|| {
                format!(
                    "{} s left, but it lives until {} at least",
                    response.ttl,
                    seconds(until)
                )
            })
        }
        (request, Outcome::Failed { text, .. }) if text == Rejected::LeaseNotFound.status().1 => {
            let mut named = Vec::new();
            leases_of(request, &mut named);
            let reasons: Vec<_> = named
                .into_iter()
                .map(|id| gone_while_alive(life_of(id)?, operation))
                .collect();
            // One of them must have been missing.
            reasons
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .and_then(|reasons| reasons.into_iter().next())
        }
        _ => None,
    }
}

/// "No such lease", although it cannot have ended yet.
fn gone_while_alive(life: &Life<'_>, operation: &Operation) -> Option<String> {
    let may_be_revoked = life.revoked.is_some_and(|revoke| revoke.call < operation.ret);
    let alive = operation.ret < life.alive_until() && !may_be_revoked;
    alive.then(|| {
        format!(
            "lease {} is gone, although it lives until {} at least",
            life.id,
            seconds(life.alive_until())
        )
    })
}

/// "Renewed", although it had ended for sure.
fn alive_when_gone(life: &Life<'_>, operation: &Operation, ttl: i64, timeline: &Timeline) -> Option<String> {
    if ttl.unsigned_abs() * SECOND != life.ttl {
        return Some(format!("TTL is {ttl}, must be {}", seconds(life.ttl)));
    }
    let expired = life
        .expired
        .and_then(|revision| timeline.change(revision))
        .map(|change| change.not_after);
    let ended = life.surely_revoked.into_iter().chain(expired).min()?;
    (operation.call > ended).then(|| format!("lease {} had ended at {} already", life.id, seconds(ended)))
}
