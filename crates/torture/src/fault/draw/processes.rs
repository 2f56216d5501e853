//! Kills, losses of power, standstills, restarts, and clocks.

use std::time::Duration;

use super::{Draft, millis};
use crate::cluster::Journal;
use crate::fault::Fault;
use crate::fault::plan::Act;

pub(super) fn kill(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.plan.fault == Fault::KillLeader;
    let nodes = how_many(draft);
    let mut kills = 0;
    for rank in 0..nodes {
        let mut time = draft.dice.millis(0, 60);
        // One that has just begun to recover is sometimes killed again.
        let times = if draft.dice.chance(25) { 1 + draft.dice.below(3) } else { 1 };
        for _ in 0..times {
            draft.at(time, Act::Kill(rank));
            time += draft.dice.millis(1, 3_000);
            draft.at(time, Act::LetRun(rank));
            time += draft.dice.millis(20, 900);
            kills += 1;
        }
    }
    draft.plan.count = kills;
    draft.plan.detail = format!("{kills} kills of {nodes} nodes");
}

pub(super) fn lose_power(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.plan.fault == Fault::PowerLossOne && draft.dice.chance(40);
    let nodes = how_many(draft);
    let mut lost = 0;
    for rank in 0..nodes {
        // With one cause, all lose it at once; or one after the other.
        let time = draft.dice.millis(0, 40);
        let journal = if draft.dice.chance(75) { Journal::Lost } else { Journal::Written };
        lost += u32::from(journal == Journal::Lost);
        draft.at(time, Act::LosePower(rank, journal));
        let down = draft.dice.millis(50, 3_000);
        draft.at(time + down, Act::LetRun(rank));
    }
    draft.plan.detail = format!("{nodes} nodes lose power, {lost} of them with their journal");
}

fn how_many(draft: &mut Draft<'_>) -> usize {
    let fault = draft.plan.fault;
    let nodes = if matches!(fault, Fault::KillMajority | Fault::PowerLossMajority) {
        draft.majority()
    } else if matches!(fault, Fault::KillAll | Fault::PowerLossAll) {
        draft.nodes
    } else {
        1
    };
    draft.strike(nodes);
    nodes
}

pub(super) fn pause(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.plan.fault == Fault::PauseLeader;
    let time = draft.dice.millis(700, 6_000);
    draft.at(Duration::ZERO, Act::Pause(0));
    draft.at(time, Act::Resume(0));
    draft.plan.detail = format!("for {time:?}");
}

pub(super) fn restart(draft: &mut Draft<'_>) {
    let nodes = draft.nodes;
    draft.strike(nodes);
    let mut time = Duration::ZERO;
    for rank in 0..nodes {
        draft.at(time, Act::Terminate(rank));
        let down = draft.dice.millis(50, 1_500);
        draft.at(time + down, Act::LetRun(rank));
        time += down + draft.dice.millis(1_000, 3_500);
    }
    draft.plan.detail = format!("{nodes} nodes, one after the other");
}

pub(super) fn clock_jump(draft: &mut Draft<'_>) {
    let nodes = if draft.dice.chance(30) { draft.nodes } else { 1 };
    draft.strike(nodes);
    let same_for_all = draft.dice.chance(50).then(|| shift(draft));
    let mut jumps = Vec::new();
    for rank in 0..nodes {
        let seconds = match same_for_all {
            Some(seconds) => seconds,
            None => shift(draft),
        };
        draft.at(draft.plan.steps.len() as u32 * millis(10), Act::ShiftClock(rank, seconds));
        jumps.push(format!("{seconds} s"));
    }
    // Else it stays until the end of the run.
    if draft.dice.chance(70) {
        let back = draft.dice.millis(1_000, 8_000);
        draft.at(back, Act::ShiftClocksBack);
        jumps.push(format!("and back after {back:?}"));
    }
    draft.plan.detail = jumps.join(", ");
}

/// From a minute to six hours, either way.
fn shift(draft: &mut Draft<'_>) -> i64 {
    let longest = if draft.dice.chance(50) { 600 } else { 6 * 3_600 };
    let seconds = 60 + draft.dice.below(longest) as i64;
    if draft.dice.chance(50) { seconds } else { -seconds }
}
