//! The verdict over a run's history: the checkers that every rung shares.

use crate::check::coverage::Tally;
use crate::check::{Evidence, Limits, Verdict, cycle, durability, lease, order, watch, wgl};
use crate::history::History;

/// Asks the checkers about a run: what was found, by the first of them that found something (undecided counts), and
/// what the run tried.
pub fn judge(history: &History) -> (Result<(), String>, Tally) {
    let evidence = Evidence::new(history, &[]);
    let limits = Limits::default();
    let (verdict, timeline) = order::check(&evidence);
    let known = timeline.as_ref();
    let verdict = accept("order", &verdict)
        .and_then(|()| accept("watch", &watch::check(&evidence, known, &limits)))
        .and_then(|()| accept("lease", &lease::check(&evidence, known, &limits)))
        .and_then(|()| accept("wgl", &wgl::check(&evidence, known, &limits)))
        .and_then(|()| accept("cycle", &cycle::check(&evidence)))
        .and_then(|()| accept("durability", &durability::check(&evidence)));
    (verdict, Tally::of(&evidence, known))
}

fn accept(checker: &str, verdict: &Verdict) -> Result<(), String> {
    if verdict.is_pass() {
        Ok(())
    } else {
        Err(format!("{checker}: {verdict}"))
    }
}
