//! Disks that are full, fail or are slow.

use std::time::Duration;

use super::Draft;
use crate::cluster::{DiskFaults, Folders, Journal};
use crate::dice::Dice;
use crate::fault::plan::Act;

fn folders(dice: &mut Dice) -> Folders {
    let choices = [
        Folders::all(),
        Folders { log: true, ..Folders::default() },
        Folders { state: true, ..Folders::default() },
        Folders { state: true, other: true, log: false },
    ];
    *dice.pick(&choices)
}

fn name(folders: Folders) -> &'static str {
    match (folders.log, folders.state) {
        (true, true) => "of all files",
        (true, false) => "of the log",
        (false, _) => "of the state",
    }
}

fn break_and_mend(draft: &mut Draft<'_>, faults: DiskFaults) -> Duration {
    let time = draft.dice.millis(1_000, 7_000);
    draft.at(Duration::ZERO, Act::BreakDisk(0, faults));
    draft.at(time, Act::MendDisks);
    time
}

pub(super) fn full(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(40);
    let most = *draft.dice.pick(&[1, 20_000, 3_000_000]);
    let left = draft.dice.below(most) as u64;
    // Both are drawn in any case, so that a machine without such disks draws the same.
    let is_real = draft.dice.chance(60);
    let folders = folders(draft.dice);
    let time = if is_real {
        let time = draft.dice.millis(1_000, 7_000);
        draft.at(Duration::ZERO, Act::FillDisk(0, left));
        draft.at(time, Act::MendDisks);
        draft.plan.detail = format!("{left} bytes left on the disk");
        time
    } else {
        draft.plan.detail = format!("room for {left} bytes {}", name(folders));
        break_and_mend(draft, DiskFaults { folders, room_bytes: Some(left), ..DiskFaults::default() })
    };
    draft.plan.detail = format!("{} for {time:?}", draft.plan.detail);
}

pub(super) fn write_error(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(40);
    let folders = folders(draft.dice);
    let torn = draft.dice.chance(50);
    let (write_errors, write_error_per_mille) = how_often(draft.dice);
    let faults = DiskFaults { folders, write_error_per_mille, write_errors, torn, ..DiskFaults::default() };
    let time = break_and_mend(draft, faults);
    let often = describe(write_errors, write_error_per_mille);
    let torn = if torn { ", half done," } else { "" };
    draft.plan.detail = format!("{often} writes {}{torn} for {time:?}", name(folders));
}

pub(super) fn sync_error(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(40);
    let folders = folders(draft.dice);
    let (sync_errors, sync_error_per_mille) = how_often(draft.dice);
    let faults = DiskFaults { folders, sync_error_per_mille, sync_errors, ..DiskFaults::default() };
    let mut time = break_and_mend(draft, faults);
    let often = describe(sync_errors, sync_error_per_mille);
    draft.plan.detail = format!("{often} syncs {} for {time:?}", name(folders));
    // What a failed sync was asked to save is often gone.
    if draft.dice.chance(50) {
        draft.at(time, Act::LosePower(0, Journal::Lost));
        time += draft.dice.millis(50, 1_000);
        draft.at(time, Act::LetRun(0));
        draft.plan.detail += ", then the power is lost";
    }
}

/// A few of the next ones, or some in a thousand.
fn how_often(dice: &mut Dice) -> (u64, u64) {
    let (few, often) = (1 + dice.below(3) as u64, 5 + dice.below(500) as u64);
    if dice.chance(50) { (few, 0) } else { (0, often) }
}

fn describe(next: u64, per_mille: u64) -> String {
    if next > 0 { format!("the next {next}") } else { format!("{per_mille} in 1000") }
}

pub(super) fn slow(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(40);
    let nodes = *draft.dice.pick(&[1, 1, draft.majority(), draft.nodes]);
    draft.strike(nodes);
    let longest = if draft.dice.chance(60) { 80 } else { 600 };
    let sync_delay = draft.dice.millis(5, longest);
    let write_delay = draft.dice.millis(0, 4);
    let time = draft.dice.millis(1_500, 8_000);
    let folders = folders(draft.dice);
    for rank in 0..nodes {
        let faults = DiskFaults { folders, sync_delay, write_delay, ..DiskFaults::default() };
        draft.at(Duration::ZERO, Act::BreakDisk(rank, faults));
    }
    draft.at(time, Act::MendDisks);
    draft.plan.detail = format!(
        "{nodes} nodes: syncs {} take {sync_delay:?} more, writes {write_delay:?}, for {time:?}",
        name(folders)
    );
}
