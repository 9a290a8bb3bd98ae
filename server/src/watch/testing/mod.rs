//! A hub without tasks, sockets and clocks, in a world that checks what comes out of it.
#![cfg_attr(not(test), allow(dead_code, reason = "the hub's own tests use the rest"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "it is a test")]

pub mod fan_out;
pub(crate) mod steps;
pub(crate) mod world;

use self::steps::{CLIENTS, KEYS, Play, RANGES, Start, Step, Write};
use self::world::Chronicle;

/// Plays what `choose` chooses, and panics when one of P9's nine words is broken. `choose(n)` is a number below `n`; none
/// ends the play.
pub fn play(mut choose: impl FnMut(usize) -> Option<usize>) {
    let mut number = |end: usize| choose(end).unwrap_or(0);
    let store = Chronicle::new(1 + number(5), 100 + 16 * number(120));
    let mut play = Play::new(store, 1 + number(4));
    while let Some(step) = step(&mut choose) {
        play.step(step);
    }
    play.end();
}

/// As many steps of a kind as the property test's weights say, so that neither of them plays what the other does not.
fn step(choose: &mut impl FnMut(usize) -> Option<usize>) -> Option<Step> {
    let kind = choose(34)?;
    let mut number = |end: usize| choose(end).unwrap_or(0);
    Some(match kind {
        0..8 => Step::Apply(writes(&mut number)),
        8..12 => Step::Create {
            client: number(CLIENTS),
            range: number(RANGES.len()),
            start: start(&mut number),
            filters: (0..number(2)).map(|_| small(number(3))).collect(),
            prev_kv: number(2) == 1,
            progress_notify: number(2) == 1,
            watch_id: match number(5) {
                4 => i64::from(small(number(6))) - 2,
                _ => 0,
            },
        },
        12 => Step::Cancel {
            client: number(CLIENTS),
            nth: number(8),
        },
        13..18 => Step::Take {
            client: number(CLIENTS),
            count: 1 + number(4),
        },
        18 => Step::Compact(number(8) as u64),
        19..21 => Step::Progress(number(CLIENTS)),
        21 => Step::Tick(number(CLIENTS)),
        22..27 => Step::ReadRing(1 + number(4)),
        27..32 => Step::ReadHistory,
        32 => Step::InstallSnapshot((0..number(3)).map(|_| writes(&mut number)).collect()),
        _ => Step::Reopen(number(CLIENTS)),
    })
}

fn writes(number: &mut impl FnMut(usize) -> usize) -> Vec<Write> {
    (0..=number(3))
        .map(|_| Write {
            key: number(KEYS.len()),
            put: number(10) < 7,
        })
        .collect()
}

fn start(number: &mut impl FnMut(usize) -> usize) -> Start {
    match number(9) {
        0..3 => Start::Now,
        3..6 => Start::Back(small(number(30)).into()),
        6 => Start::Ahead(i64::from(small(number(5))) + 1),
        _ => Start::FromCompacted(i64::from(small(number(4))) - 2),
    }
}

fn small(number: usize) -> i32 {
    i32::try_from(number).expect("chosen below a small number")
}
