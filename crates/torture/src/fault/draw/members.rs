//! Members that change, lost and damaged disks, and what operators ask for.

use std::time::Duration;

use super::{Draft, links, millis};
use crate::cluster::Effect;
use crate::fault::plan::{Act, Place};

pub(super) fn membership(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(30);
    let at_once = draft.dice.chance(50);
    let linger = draft.dice.millis(0, 3_000);
    draft.at(Duration::ZERO, Act::Replace { rank: 0, at_once, linger });
    let way = if at_once { "in one step" } else { "one by one" };
    draft.plan.detail = format!("{way}; it runs on for {linger:?}");
}

pub(super) fn wipe(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(40);
    let at_once = draft.dice.chance(50);
    let pause = draft.dice.millis(0, 2_500);
    draft.at(Duration::ZERO, Act::Wipe(0));
    draft.at(pause, Act::Replace { rank: 0, at_once, linger: Duration::ZERO });
    draft.plan.detail = format!("replaced from {pause:?} on");
}

pub(super) fn bit_flip(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(40);
    let place = *draft.dice.pick(&[Place::LogTable, Place::LogAhead, Place::StateTable, Place::StateTable]);
    let bits = 1 + draft.dice.below(8);
    let seed = draft.dice.next();
    let is_killed = draft.dice.chance(50);
    let at_once = draft.dice.chance(50);
    draft.at(Duration::ZERO, Act::NoteLog(0));
    // By then, what it had applied is on its disk.
    draft.at(millis(400), if is_killed { Act::Kill(0) } else { Act::Terminate(0) });
    draft.at(millis(450), Act::Flip { rank: 0, place, seed, bits });
    draft.at(millis(450), Act::Lay { links: links::around_first(draft.nodes), effect: Effect::cut() });
    draft.at(millis(500), Act::LetRun(0));
    draft.at(millis(1_500), Act::CompareLog(0));
    draft.at(millis(1_500), Act::LiftAll);
    // Whether it refused or not: damage that nobody has met yet must not stay.
    let watched = draft.dice.millis(2_500, 6_000);
    draft.at(watched, Act::Replace { rank: 0, at_once, linger: Duration::ZERO });
    draft.plan.detail = format!("{bits} bits in {place:?}");
}

pub(super) fn transfer(draft: &mut Draft<'_>) {
    let times = 1 + draft.dice.below(3);
    let mut time = Duration::ZERO;
    for _ in 0..times {
        let (through, to) = (draft.dice.below(draft.nodes), draft.dice.below(draft.nodes));
        draft.at(time, Act::Transfer { through, to });
        time += draft.dice.millis(100, 1_500);
    }
    draft.plan.struck = draft.nodes;
    draft.plan.count = times as u64;
    draft.plan.detail = format!("{times} times");
}

pub(super) fn snapshot(draft: &mut Draft<'_>) {
    let nodes = if draft.dice.chance(40) { draft.nodes } else { 1 };
    draft.strike(nodes);
    for rank in 0..nodes {
        let time = draft.dice.millis(0, 500);
        draft.at(time, Act::Snapshot(rank));
    }
    draft.plan.detail = format!("on {nodes} nodes");
}

pub(super) fn compact(draft: &mut Draft<'_>) {
    draft.at(Duration::ZERO, Act::Compact(0));
    "up to what nobody needs".clone_into(&mut draft.plan.detail);
}
