//! Does everything again on the model, in the order of revisions, and finds makers for revisions that nobody owns.
//!
//! A revision without an acknowledged maker is given to an unknown call, or to the end of a lease, whose effect on the
//! model is what was seen there. Where several fit, the first is taken; if that leads to a difference later on, the
//! next is tried, up to [`ATTEMPTS`] replays. A difference that remains is a failure; attempts that run out are not.

use std::collections::HashMap;

use super::places::{Place, Places};
use super::requests::{leases_of, may_change, may_touch, shows, writes};
use super::{Change, Maker, Timeline, compare};
use crate::check::{Evidence, Verdict, describe};
use crate::history::{
    Event, EventKind, KeyValue, LeaseGrant, LeaseId, Operation, Outcome, Request, Response,
};
use crate::model::Model;

/// Most replays before the checker gives up.
const ATTEMPTS: usize = 64;

/// A replay that went through.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) timeline: Timeline,
    /// Responses that differ from the model's.
    pub(super) differences: Vec<String>,
}

/// Replays, with other choices as long as there are differences and choices left.
pub(super) fn replay(evidence: &Evidence<'_>, places: &Places) -> Result<Replayed, Verdict> {
    let mut choices: Vec<usize> = Vec::new();
    let mut best: Option<Attempt<'_>> = None;
    let mut decided = false;
    for _ in 0..ATTEMPTS {
        let mut attempt = Attempt::new(evidence, places, choices.clone());
        attempt.run();
        if attempt.differences.is_empty() {
            return Ok(attempt.finish());
        }
        let options = attempt.options.clone();
        if best.as_ref().is_none_or(|best| attempt.reached > best.reached) {
            best = Some(attempt);
        }
        let taken = |place: usize| choices.get(place).copied().unwrap_or(0);
        let Some(place) = (0..options.len())
            .rev()
            .find(|place| taken(*place) + 1 < options[*place])
        else {
            decided = true;
            break;
        };
        let next = taken(place) + 1;
        choices.resize(place, 0);
        choices.push(next);
    }
    let best = best.expect("at least one attempt was made");
    if !decided {
        let text = best.differences.first().cloned().unwrap_or_default();
        return Err(Verdict::Invalid(format!(
            "undecided after {ATTEMPTS} ways to place unknown calls; the best one still differs: {text}"
        )));
    }
    if best.stuck {
        return Err(Verdict::from_findings(&best.differences));
    }
    Ok(best.finish())
}

/// What may have made a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Candidate {
    /// The call at this index.
    Call(usize),
    /// The end of this lease.
    Expiry(i64),
}

struct Attempt<'a> {
    operations: &'a [Operation],
    places: &'a Places,
    /// Commands that a log dump shows, by the revision they made.
    logged: HashMap<i64, &'a Request>,
    choices: Vec<usize>,
    /// Number of options at each choice so far.
    options: Vec<usize>,
    model: Model,
    /// Unknown calls not placed yet, by time of call.
    open: Vec<usize>,
    changes: Vec<Change>,
    differences: Vec<String>,
    /// Revision of the first difference.
    reached: i64,
    /// The replay could not go on.
    stuck: bool,
}

impl<'a> Attempt<'a> {
    fn new(evidence: &'a Evidence<'_>, places: &'a Places, choices: Vec<usize>) -> Self {
        let operations = &evidence.operations;
        let mut logged = HashMap::new();
        for entry in evidence
            .members
            .iter()
            .filter_map(|member| member.wal.as_ref())
            .flatten()
        {
            if let (Some(request), 2..) = (&entry.request, entry.revision) {
                logged.entry(entry.revision).or_insert(request);
            }
        }
        let open = (0..operations.len())
            .filter(|index| operations[*index].is_unknown())
            .collect();
        Self {
            operations,
            places,
            logged,
            choices,
            options: Vec::new(),
            model: Model::default(),
            open,
            changes: Vec::new(),
            differences: Vec::new(),
            reached: i64::MAX,
            stuck: false,
        }
    }

    fn finish(self) -> Replayed {
        let timeline = Timeline {
            changes: self.changes,
            compactions: Vec::new(),
        };
        Replayed {
            timeline,
            differences: self.differences,
        }
    }

    fn differs(&mut self, revision: i64, text: String) {
        self.reached = self.reached.min(revision);
        self.differences.push(text);
    }

    fn run(&mut self) {
        self.settle(1);
        for revision in 2..=self.places.newest {
            match self.places.makers.get(&revision) {
                Some(maker) => self.make(revision, *maker),
                None => self.find_maker(revision),
            }
            if self.stuck {
                return;
            }
            self.settle(revision);
        }
    }

    /// Applies the acknowledged change of a revision.
    fn make(&mut self, revision: i64, maker: usize) {
        let operation = &self.operations[maker];
        self.grant_what_it_needs(&operation.request, self.places.known_by[revision as usize]);
        match self.model.apply(&operation.request) {
            Err(rejected) => {
                let why = rejected.status().1;
                self.differs(
                    revision,
                    format!("{} must have failed: {why}", describe(operation)),
                );
                self.stuck = true;
            }
            Ok(applied) if applied.events.is_empty() => {
                self.differs(
                    revision,
                    format!("{} must have changed nothing", describe(operation)),
                );
                self.stuck = true;
            }
            Ok(applied) => {
                self.compare(revision, maker, &applied.response);
                self.record(revision, Maker::Call(operation.id), applied.events, false);
            }
        }
    }

    fn compare(&mut self, revision: i64, index: usize, expected: &Response) {
        let operation = &self.operations[index];
        let actual = operation
            .response()
            .expect("only acknowledged calls have a place");
        if let Some(found) = compare::difference(&self.model, &operation.request, expected, actual) {
            self.differs(revision, format!("{}: {found}", describe(operation)));
        }
    }

    fn record(&mut self, revision: i64, maker: Maker, events: Vec<Event>, guessed: bool) {
        let not_after = self.places.known_by[revision as usize];
        self.changes.push(Change {
            revision,
            maker,
            events,
            not_before: 0,
            not_after,
            guessed,
        });
    }

    /// A put on a lease that only an unknown grant can have made proves that grant.
    fn grant_what_it_needs(&mut self, request: &Request, known_by: u64) {
        let mut wanted = Vec::new();
        leases_of(request, &mut wanted);
        for lease in wanted {
            if self.model.leases.contains_key(&lease) {
                continue;
            }
            let granted = |index: &usize| {
                let operation = &self.operations[*index];
                let grants = matches!(&operation.request, Request::LeaseGrant(grant) if grant.id == lease);
                grants && operation.call < known_by
            };
            if let Some(place) = self.open.iter().position(granted) {
                let index = self.open.remove(place);
                // A grant that cannot be is shown by the put that follows.
                let _ = self.model.apply(&self.operations[index].request);
            }
        }
    }

    /// Finds who made a revision that no acknowledged change claims.
    fn find_maker(&mut self, revision: i64) {
        let seen = self.places.seen.get(&revision).map_or(&[][..], Vec::as_slice);
        let mut fitting: Vec<(Candidate, Vec<Event>)> = Vec::new();
        for candidate in self.candidates(revision) {
            let request = self.request_of(candidate);
            if fitting
                .iter()
                .any(|(other, _)| self.request_of(*other) == request)
            {
                continue;
            }
            let Some(events) = self.try_out(candidate, revision) else {
                continue;
            };
            if seen.iter().all(|(kind, pair)| shows(&events, *kind, pair)) {
                fitting.push((candidate, events));
            }
        }
        if fitting.is_empty() {
            let text = self.explain_orphan(revision);
            self.differs(revision, text);
            self.stuck = true;
            return;
        }
        // The fewest events beyond what was seen is the likeliest.
        fitting.sort_by_key(|(_, events)| events.len());
        let choice = if fitting.len() > 1 {
            self.options.push(fitting.len());
            self.choices.get(self.options.len() - 1).copied().unwrap_or(0)
        } else {
            0
        };
        let guessed = fitting.len() > 1 && seen.is_empty();
        let (candidate, events) = fitting.swap_remove(choice);
        self.commit(candidate, revision);
        let maker = match candidate {
            Candidate::Call(index) => {
                self.open.retain(|open| *open != index);
                Maker::Call(self.operations[index].id)
            }
            Candidate::Expiry(lease) => Maker::Expiry(lease),
        };
        self.record(revision, maker, events, guessed);
    }

    /// Everything that may have made `revision`: what a log dump names, else an acknowledged revoke, else any unknown
    /// call made before someone saw the revision, else the end of any lease that holds keys.
    fn candidates(&self, revision: i64) -> Vec<Candidate> {
        let known_by = self.places.known_by[revision as usize];
        let early = |index: &&usize| self.operations[**index].call < known_by;
        let revokes = self.places.after.get(&revision).into_iter().flatten();
        let revokes =
            revokes.filter(|index| matches!(self.operations[**index].request, Request::LeaseRevoke(_)));
        let open = self
            .open
            .iter()
            .filter(early)
            .filter(|index| may_change(&self.operations[**index].request));
        let mut candidates: Vec<_> = revokes.chain(open).map(|index| Candidate::Call(*index)).collect();
        let mut holding: Vec<i64> = self.holding();
        holding.sort_unstable();
        candidates.extend(holding.into_iter().map(Candidate::Expiry));
        if let Some(request) = self.logged.get(&revision) {
            candidates.retain(|candidate| self.request_of(*candidate) == **request);
        } else if let Some((kind, pair)) = self.places.seen.get(&revision).and_then(|seen| seen.first()) {
            candidates.retain(|candidate| match candidate {
                Candidate::Call(index) => may_touch(&self.operations[*index].request, *kind, &pair.key),
                Candidate::Expiry(_) => *kind == EventKind::Delete,
            });
        }
        candidates
    }

    /// Leases that keys are attached to.
    fn holding(&self) -> Vec<i64> {
        let leases = self.model.leases.keys();
        leases
            .copied()
            .filter(|lease| !self.model.attached(*lease).is_empty())
            .collect()
    }

    fn request_of(&self, candidate: Candidate) -> Request {
        match candidate {
            Candidate::Call(index) => self.operations[index].request.clone(),
            Candidate::Expiry(id) => Request::LeaseRevoke(LeaseId { id, keys: false }),
        }
    }

    /// What a candidate would do now; nothing if it would not change anything.
    fn try_out(&mut self, candidate: Candidate, revision: i64) -> Option<Vec<Event>> {
        let leases = self.model.leases.clone();
        let open = self.open.clone();
        let events = self.commit(candidate, revision);
        for event in &events {
            if let Some(versions) = self.model.keys.get_mut(&event.kv.key) {
                versions.retain(|version| version.main < revision);
            }
        }
        self.model.revision = revision - 1;
        self.model.leases = leases;
        // With them the grants that the candidate needed are unknown again.
        self.open = open;
        Some(events).filter(|events| !events.is_empty())
    }

    fn commit(&mut self, candidate: Candidate, revision: i64) -> Vec<Event> {
        let request = self.request_of(candidate);
        if let Candidate::Call(_) = candidate {
            let mut wanted = Vec::new();
            leases_of(&request, &mut wanted);
            if wanted.iter().any(|lease| !self.model.leases.contains_key(lease)) {
                self.grant_what_it_needs(&request, self.places.known_by[revision as usize]);
            }
        }
        self.model
            .apply(&request)
            .map_or_else(|_| Vec::new(), |applied| applied.events)
    }

    /// Why nobody can have made a revision, with the likeliest culprit.
    fn explain_orphan(&mut self, revision: i64) -> String {
        let seen = self.places.seen.get(&revision).cloned().unwrap_or_default();
        let shown: Vec<String> = seen
            .iter()
            .map(|(kind, pair)| format!("{kind:?} {}={}", pair.key, pair.value))
            .collect();
        let mut text = format!(
            "revision {revision} [{}] was made by no call that may have made it",
            shown.join(", ")
        );
        let known_by = self.places.known_by[revision as usize];
        for (index, operation) in self.operations.iter().enumerate() {
            let fits = |(kind, pair): &(EventKind, _)| -> bool {
                let pair: &KeyValue = pair;
                may_touch(&operation.request, *kind, &pair.key)
                    && writes(&operation.request, *kind, &pair.value)
            };
            if seen.is_empty() || !seen.iter().all(fits) {
                continue;
            }
            let why = match (&operation.outcome, self.places.of[index]) {
                (Outcome::Failed { .. }, _) => "but it was rejected",
                (Outcome::Ok(_), Place::Made(_)) => "but it was done already: twice?",
                (Outcome::Unknown { .. }, _) if operation.call >= known_by => "but it was called only later",
                (Outcome::Unknown { .. }, _) if !self.open.contains(&index) => {
                    "but it was done already: twice?"
                }
                _ => "but it would have done something else",
            };
            text.push_str(&format!("; {} fits, {why}", describe(operation)));
            break;
        }
        text
    }

    /// Does what stands between `revision` and the next: leases in whatever order is possible, then reads.
    fn settle(&mut self, revision: i64) {
        let Some(after) = self.places.after.get(&revision) else {
            return;
        };
        let made = self.changes.last().map(|change| change.maker);
        let (mut leases, reads): (Vec<usize>, Vec<usize>) = after.iter().partition(|index| {
            matches!(
                self.operations[**index].request,
                Request::LeaseGrant(_) | Request::LeaseRevoke(_)
            )
        });
        leases.retain(|index| made != Some(Maker::Call(self.operations[*index].id)));
        while !leases.is_empty() {
            let before = leases.len();
            leases.retain(|index| !self.settle_lease(*index));
            if leases.len() == before {
                for index in leases {
                    let call = describe(&self.operations[index]);
                    self.differs(
                        revision,
                        format!("{call}: its lease cannot have been in the state for it"),
                    );
                }
                break;
            }
        }
        for index in reads {
            self.settle_read(revision, index);
        }
    }

    fn settle_read(&mut self, revision: i64, index: usize) {
        let operation = &self.operations[index];
        if let Request::Compact(compact) = &operation.request {
            if compact.revision > revision {
                self.differs(revision, format!("{} compacted the future", describe(operation)));
            }
            return;
        }
        match self.model.apply(&operation.request) {
            Err(rejected) => {
                let why = rejected.status().1;
                self.differs(
                    revision,
                    format!("{} must have failed: {why}", describe(operation)),
                );
            }
            Ok(applied) if !applied.events.is_empty() => {
                self.differs(
                    revision,
                    format!("{} must have changed something", describe(operation)),
                );
                self.stuck = true;
            }
            Ok(applied) => self.compare(revision, index, &applied.response),
        }
    }

    /// Grants or revokes a lease without keys; false if that is not possible in the present state.
    fn settle_lease(&mut self, index: usize) -> bool {
        let operation = &self.operations[index];
        let response = operation
            .response()
            .expect("only acknowledged calls have a place");
        match (&operation.request, response) {
            (Request::LeaseGrant(grant), Response::LeaseGrant(response)) => {
                let chosen = if grant.id == 0 { response.id } else { grant.id };
                if self.model.leases.contains_key(&chosen) {
                    // Only an end that nobody could see makes room for it.
                    if !self.model.attached(chosen).is_empty() {
                        return false;
                    }
                    self.model.leases.remove(&chosen);
                }
                let request = Request::LeaseGrant(LeaseGrant {
                    id: chosen,
                    ttl: grant.ttl,
                });
                let Ok(applied) = self.model.apply(&request) else {
                    return false;
                };
                self.compare(self.model.revision, index, &applied.response);
                true
            }
            (Request::LeaseRevoke(lease), _) => {
                self.grant_what_it_needs(&operation.request, operation.ret);
                let keyless = self.model.attached(lease.id).is_empty();
                keyless && self.model.leases.remove(&lease.id).is_some()
            }
            _ => false,
        }
    }
}
