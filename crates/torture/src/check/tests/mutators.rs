//! Ways to lie in a true history, each at a random place; nothing if there is no place for
//! it. Whatever they leave behind can't be true.

use super::super::answer::{Answer, step_key};
use super::super::truth::events_of;
use crate::dice::Dice;
use crate::history::{
    Call, Compare, Event, History, Operation, Outcome, Record, Step, StepResult, WatchNote,
};

fn pick<T>(dice: &mut Dice, items: Vec<T>) -> Option<T> {
    if items.is_empty() {
        return None;
    }
    let place = dice.below(items.len());
    items.into_iter().nth(place)
}

fn places(history: &History, which: impl Fn(&Operation) -> bool) -> Vec<usize> {
    (0..history.operations.len()).filter(|index| which(&history.operations[*index])).collect()
}

fn is_write(operation: &Operation) -> bool {
    Answer::of(operation).is_some_and(|answer| answer.writes())
}

fn is_pure_read(operation: &Operation) -> bool {
    let Call::Txn { compares, then, local: false, .. } = &operation.call else { return false };
    compares.is_empty()
        && matches!(operation.outcome, Outcome::Done { .. })
        && then.iter().all(|step| matches!(step, Step::Get { .. }))
}

fn results(operation: &mut Operation) -> Option<(&mut i64, &mut Vec<StepResult>)> {
    match &mut operation.outcome {
        Outcome::Done { revision, results, .. } => Some((revision, results)),
        Outcome::SeedWritten
        | Outcome::SeedFound { .. }
        | Outcome::Failed { .. }
        | Outcome::Unknown { .. } => None,
    }
}

/// All records that a key ever had, by all watchers.
fn state_at(history: &History, key: &str, revision: i64) -> Option<Record> {
    let events = events_of(&history.watches[0]);
    let last = events
        .filter(|event| event.key == key && event.mod_revision <= revision)
        .max_by_key(|event| event.mod_revision);
    last.and_then(|event| event.record.clone())
}

pub(super) fn forget_revision(history: &mut History, dice: &mut Dice) -> Option<()> {
    let last = history.final_states[0].revision;
    let revision = 2 + dice.below(usize::try_from(last - 1).ok().filter(|count| *count > 0)?) as i64;
    for note in history.watches.iter_mut().flat_map(|watch| &mut watch.notes) {
        if let WatchNote::Events { events, .. } = note {
            events.retain(|event| event.mod_revision != revision);
        }
    }
    Some(())
}

pub(super) fn stale_read(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    for index in places(history, is_pure_read) {
        let begun = history.operations[index].begun;
        let earlier = history.operations.iter().filter(|other| other.ended < begun && is_write(other));
        let floor = earlier.filter_map(|other| match &other.outcome {
            Outcome::Done { revision, .. } => Some(*revision),
            Outcome::SeedWritten
            | Outcome::SeedFound { .. }
            | Outcome::Failed { .. }
            | Outcome::Unknown { .. } => None,
        });
        choices.extend(floor.max().map(|floor| (index, floor)));
    }
    let (index, floor) = pick(dice, choices)?;
    let older = 1 + dice.below((floor - 1) as usize) as i64;
    let Call::Txn { then, .. } = history.operations[index].call.clone() else { return None };
    let states = then.iter().map(|step| StepResult::Got(state_at(history, step_key(step), older)));
    let states: Vec<StepResult> = states.collect();
    let (revision, results) = results(&mut history.operations[index])?;
    (*revision, *results) = (older, states);
    Some(())
}

pub(super) fn swap_reads(history: &mut History, dice: &mut Dice) -> Option<()> {
    let reads = places(history, is_pure_read);
    let one = pick(dice, reads.clone())?;
    let same_call = |other: &usize| {
        history.operations[*other].call == history.operations[one].call
            && history.operations[*other].outcome != history.operations[one].outcome
    };
    let mut others: Vec<usize> = reads.into_iter().filter(same_call).collect();
    let mut swapped = history.clone();
    let mine = results(&mut swapped.operations[one])?.1.clone();
    others
        .retain(|other| results(&mut swapped.operations[*other]).is_some_and(|(_, theirs)| *theirs != mine));
    let other = pick(dice, others)?;
    let theirs = std::mem::replace(results(&mut history.operations[other])?.1, mine);
    *results(&mut history.operations[one])?.1 = theirs;
    Some(())
}

pub(super) fn duplicate_revision(history: &mut History, dice: &mut Dice) -> Option<()> {
    let writes = places(history, is_write);
    let (one, other) = (pick(dice, writes.clone())?, pick(dice, writes)?);
    let told = *results(&mut history.operations[other])?.0;
    *results(&mut history.operations[one])?.0 = told;
    (one != other).then_some(())
}

/// Places of messages whose next note is a message too.
fn followed(history: &History) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (watch, log) in history.watches.iter().enumerate() {
        for (place, pair) in log.notes.windows(2).enumerate() {
            if matches!(pair, [WatchNote::Events { .. }, WatchNote::Events { .. }]) {
                found.push((watch, place));
            }
        }
    }
    found
}

fn events(history: &mut History, (watch, place): (usize, usize)) -> Option<&mut Vec<Event>> {
    match history.watches.get_mut(watch)?.notes.get_mut(place)? {
        WatchNote::Events { events, .. } => Some(events),
        WatchNote::Opened { .. }
        | WatchNote::Progress { .. }
        | WatchNote::Compacted { .. }
        | WatchNote::Lost { .. } => None,
    }
}

pub(super) fn lose_event(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = pick(dice, followed(history))?;
    let events = events(history, place)?;
    let lost = dice.below(events.len());
    events.remove(lost);
    Some(())
}

pub(super) fn reorder_messages(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (watch, place) = pick(dice, followed(history))?;
    history.watches[watch].notes.swap(place, place + 1);
    Some(())
}

pub(super) fn repeat_message(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (watch, place) = pick(dice, followed(history))?;
    let note = history.watches[watch].notes[place].clone();
    history.watches[watch].notes.insert(place, note);
    Some(())
}

pub(super) fn split_revision(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    for (watch, log) in history.watches.iter().enumerate() {
        for (place, note) in log.notes.iter().enumerate() {
            let WatchNote::Events { events, .. } = note else { continue };
            let inside = events.windows(2).position(|pair| pair[0].mod_revision == pair[1].mod_revision);
            choices.extend(inside.map(|inside| (watch, place, inside + 1)));
        }
    }
    let (watch, place, inside) = pick(dice, choices)?;
    let rest = events(history, (watch, place))?.split_off(inside);
    history.watches[watch].notes.insert(place + 1, WatchNote::Events { at: u64::MAX, events: rest });
    Some(())
}

pub(super) fn early_progress(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (watch, place) = pick(dice, followed(history))?;
    let next = events(history, (watch, place + 1))?.first()?.mod_revision;
    let note = WatchNote::Progress { at: u64::MAX, revision: next };
    history.watches[watch].notes.insert(place + 1, note);
    Some(())
}

pub(super) fn forge_event(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = pick(dice, followed(history))?;
    let event = events(history, place)?.first_mut()?;
    match &mut event.record {
        Some(record) => record.lease += 1,
        None => event.key.push('x'),
    }
    Some(())
}

pub(super) fn wrong_total(history: &mut History, dice: &mut Dice) -> Option<()> {
    let reads = places(history, |operation| {
        is_pure_read(operation) && matches!(&operation.call, Call::Txn { then, .. } if then.len() == 3)
    });
    let index = pick(dice, reads)?;
    let StepResult::Got(Some(record)) = results(&mut history.operations[index])?.1.first_mut()? else {
        return None;
    };
    record.value = (record.value.parse::<i64>().ok()? + 1).to_string();
    Some(())
}

pub(super) fn overlapping_lock(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = dice.below(history.holdings.len().checked_sub(1).filter(|pairs| *pairs > 0)?);
    history.holdings.sort_by_key(|holding| holding.from);
    history.holdings[place].until = history.holdings[place + 1].from + 1;
    Some(())
}

pub(super) fn old_fencing(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = dice.below(history.holdings.len().checked_sub(1).filter(|pairs| *pairs > 0)?);
    history.holdings.sort_by_key(|holding| holding.from);
    history.holdings[place + 1].fencing = history.holdings[place].fencing;
    Some(())
}

pub(super) fn odd_node(history: &mut History, dice: &mut Dice) -> Option<()> {
    let state = &mut history.final_states[dice.below(3)];
    match dice.below(4) {
        0 => state.revision -= 1,
        1 => state.applied_index += 1,
        2 => state.state_hash.push('x'),
        _ => state.records.values_mut().next()?.version += 1,
    }
    Some(())
}

pub(super) fn lost_key(history: &mut History, dice: &mut Dice) -> Option<()> {
    let key = pick(dice, history.final_states[0].records.keys().cloned().collect())?;
    for state in &mut history.final_states {
        state.records.remove(&key);
    }
    Some(())
}

pub(super) fn failed_write(history: &mut History, dice: &mut Dice) -> Option<()> {
    let choices = places(history, |operation| {
        is_write(operation)
            || matches!(
                (&operation.call, &operation.outcome),
                (Call::SeedWrite { value: Some(_), .. }, Outcome::SeedWritten)
            )
    });
    // What only deletes may be explained by another one.
    let sets = |index: &usize| {
        match &history.operations[*index].call {
        Call::Txn { then, .. } => {
            then.iter().any(|step| matches!(step, Step::Put { key, .. } if key.starts_with("reg/") || key.starts_with("list/")))
        }
        Call::SeedWrite { .. } | Call::SeedRead { .. } => true,
    }
    };
    let index = pick(dice, choices.into_iter().filter(sets).collect())?;
    history.operations[index].outcome = super::model::failed();
    Some(())
}

pub(super) fn other_value(history: &mut History, dice: &mut Dice) -> Option<()> {
    let index = pick(dice, places(history, is_write))?;
    let Call::Txn { then, .. } = &mut history.operations[index].call else { return None };
    let value = then.iter_mut().find_map(|step| match step {
        Step::Put { value, .. } => Some(value),
        Step::Get { .. } | Step::Delete { .. } => None,
    })?;
    value.push('0');
    Some(())
}

pub(super) fn stale_seed_read(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    let written = |operation: &Operation| operation.outcome == Outcome::SeedWritten;
    for (index, read) in history.operations.iter().enumerate() {
        let (Call::SeedRead { key }, Outcome::SeedFound { .. }) = (&read.call, &read.outcome) else {
            continue;
        };
        for old in history.operations.iter().filter(|old| written(old)) {
            let Call::SeedWrite { key: old_key, value: Some(value) } = &old.call else { continue };
            let replaced = |new: &Operation| {
                matches!(&new.call, Call::SeedWrite { key: new_key, .. } if new_key == key)
                    && written(new)
                    && new.begun > old.ended
                    && new.ended < read.begun
            };
            if old_key == key && history.operations.iter().any(replaced) {
                choices.push((index, value.clone()));
            }
        }
    }
    let (index, value) = pick(dice, choices)?;
    history.operations[index].outcome = Outcome::SeedFound { value };
    Some(())
}

pub(super) fn wrong_compare(history: &mut History, dice: &mut Dice) -> Option<()> {
    let choices = places(history, |operation| {
        matches!(
            (&operation.call, &operation.outcome),
            (Call::Txn { compares, .. }, Outcome::Done { succeeded: true, .. })
                if matches!(compares.first(), Some(Compare::ModRevision { .. }))
        )
    });
    let index = pick(dice, choices)?;
    let Call::Txn { compares, .. } = &mut history.operations[index].call else { return None };
    let Some(Compare::ModRevision { revision, .. }) = compares.first_mut() else { return None };
    *revision += 1;
    Some(())
}

pub(super) fn time_travel(history: &mut History, dice: &mut Dice) -> Option<()> {
    let index = pick(dice, places(history, is_write))?;
    let last = history.operations.iter().map(|operation| operation.ended).max()?;
    let others = places(history, |operation| is_write(operation) && operation.ended < last);
    let newest = others
        .into_iter()
        .filter(|other| *other != index)
        .filter_map(|other| Answer::of(&history.operations[other]).map(|answer| answer.revision));
    let newest = newest.max()?;
    let operation = &mut history.operations[index];
    (operation.begun, operation.ended) = (last + 1, last + 2);
    let told = *results(operation)?.0;
    (told < newest).then_some(())
}

pub(super) fn short_list(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = Answer::of(operation) else { continue };
        for (place, result) in answer.results.iter().enumerate() {
            if matches!(result, StepResult::Got(Some(record)) if record.value.contains(',')) {
                choices.push((index, place));
            }
        }
    }
    let (index, place) = pick(dice, choices)?;
    let StepResult::Got(Some(record)) = &mut results(&mut history.operations[index])?.1[place] else {
        return None;
    };
    let end = record.value.rfind(',')?;
    record.value.truncate(end);
    Some(())
}

pub(super) fn wrong_delete(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = Answer::of(operation) else { continue };
        // A deletion alone could be the work of somebody of unknown outcome.
        let puts = answer.results.contains(&StepResult::Put);
        for (place, result) in answer.results.iter().enumerate().filter(|_| puts) {
            if matches!(result, StepResult::Deleted(_)) {
                choices.push((index, place));
            }
        }
    }
    let (index, place) = pick(dice, choices)?;
    let StepResult::Deleted(count) = &mut results(&mut history.operations[index])?.1[place] else {
        return None;
    };
    *count = 1 - *count;
    Some(())
}
