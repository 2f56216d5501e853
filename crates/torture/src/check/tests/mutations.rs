//! Random true histories with one random lie: none may pass.

use proptest::prelude::*;

use super::check;
use super::simulated::simulate;
use crate::dice::Dice;
use crate::history::{
    Call, Compare, Event, History, Operation, Outcome, Record, Step, StepResult, WatchNote,
};

/// Tells a lie, or says that the history has no place for it.
type Lie = fn(&mut History, &mut Dice) -> Option<()>;

const LIES: [(&str, Lie); 22] = [
    ("a revision that nobody saw", forget_revision),
    ("a read of the past", stale_read),
    ("reads that are swapped", swap_reads),
    ("a revision that two writes were told", duplicate_revision),
    ("an event that a watcher was not told", lose_event),
    ("messages in the wrong order", reorder_messages),
    ("a message told twice", repeat_message),
    ("a revision in two messages", split_revision),
    ("progress that comes too early", early_progress),
    ("an event of another record", forge_event),
    ("money that is made", wrong_total),
    ("a lock with two holders", overlapping_lock),
    ("a fencing number that is too low", old_fencing),
    ("a node that differs", odd_node),
    ("nodes that all lost a key", lost_key),
    ("an acknowledged write told to have failed", failed_write),
    ("a write that wrote something else", other_value),
    ("a stale read of the seed's", stale_seed_read),
    ("a compare that can't have held", wrong_compare),
    ("a write that came after its effect", time_travel),
    ("a list without its last element", short_list),
    ("a deletion of what was not there", wrong_delete),
];

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
    super::super::answer::Answer::of(operation).is_some_and(|answer| answer.writes())
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
    let events = super::super::truth::events_of(&history.watches[0]);
    let last = events
        .filter(|event| event.key == key && event.mod_revision <= revision)
        .max_by_key(|event| event.mod_revision);
    last.and_then(|event| event.record.clone())
}

fn forget_revision(history: &mut History, dice: &mut Dice) -> Option<()> {
    let last = history.final_states[0].revision;
    let revision = 2 + dice.below(usize::try_from(last - 1).ok().filter(|count| *count > 0)?) as i64;
    for note in history.watches.iter_mut().flat_map(|watch| &mut watch.notes) {
        if let WatchNote::Events { events, .. } = note {
            events.retain(|event| event.mod_revision != revision);
        }
    }
    Some(())
}

fn stale_read(history: &mut History, dice: &mut Dice) -> Option<()> {
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
    let states = then
        .iter()
        .map(|step| StepResult::Got(state_at(history, super::super::answer::step_key(step), older)));
    let states: Vec<StepResult> = states.collect();
    let (revision, results) = results(&mut history.operations[index])?;
    (*revision, *results) = (older, states);
    Some(())
}

fn swap_reads(history: &mut History, dice: &mut Dice) -> Option<()> {
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

fn duplicate_revision(history: &mut History, dice: &mut Dice) -> Option<()> {
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

fn lose_event(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = pick(dice, followed(history))?;
    let events = events(history, place)?;
    let lost = dice.below(events.len());
    events.remove(lost);
    Some(())
}

fn reorder_messages(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (watch, place) = pick(dice, followed(history))?;
    history.watches[watch].notes.swap(place, place + 1);
    Some(())
}

fn repeat_message(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (watch, place) = pick(dice, followed(history))?;
    let note = history.watches[watch].notes[place].clone();
    history.watches[watch].notes.insert(place, note);
    Some(())
}

fn split_revision(history: &mut History, dice: &mut Dice) -> Option<()> {
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

fn early_progress(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (watch, place) = pick(dice, followed(history))?;
    let next = events(history, (watch, place + 1))?.first()?.mod_revision;
    let note = WatchNote::Progress { at: u64::MAX, revision: next };
    history.watches[watch].notes.insert(place + 1, note);
    Some(())
}

fn forge_event(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = pick(dice, followed(history))?;
    let event = events(history, place)?.first_mut()?;
    match &mut event.record {
        Some(record) => record.lease += 1,
        None => event.key.push('x'),
    }
    Some(())
}

fn wrong_total(history: &mut History, dice: &mut Dice) -> Option<()> {
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

fn overlapping_lock(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = dice.below(history.holdings.len().checked_sub(1).filter(|pairs| *pairs > 0)?);
    history.holdings.sort_by_key(|holding| holding.from);
    history.holdings[place].until = history.holdings[place + 1].from + 1;
    Some(())
}

fn old_fencing(history: &mut History, dice: &mut Dice) -> Option<()> {
    let place = dice.below(history.holdings.len().checked_sub(1).filter(|pairs| *pairs > 0)?);
    history.holdings.sort_by_key(|holding| holding.from);
    history.holdings[place + 1].fencing = history.holdings[place].fencing;
    Some(())
}

fn odd_node(history: &mut History, dice: &mut Dice) -> Option<()> {
    let state = &mut history.final_states[dice.below(3)];
    match dice.below(4) {
        0 => state.revision -= 1,
        1 => state.applied_index += 1,
        2 => state.state_hash.push('x'),
        _ => state.records.values_mut().next()?.version += 1,
    }
    Some(())
}

fn lost_key(history: &mut History, dice: &mut Dice) -> Option<()> {
    let key = pick(dice, history.final_states[0].records.keys().cloned().collect())?;
    for state in &mut history.final_states {
        state.records.remove(&key);
    }
    Some(())
}

fn failed_write(history: &mut History, dice: &mut Dice) -> Option<()> {
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
    history.operations[index].outcome = super::failed();
    Some(())
}

fn other_value(history: &mut History, dice: &mut Dice) -> Option<()> {
    let index = pick(dice, places(history, is_write))?;
    let Call::Txn { then, .. } = &mut history.operations[index].call else { return None };
    let value = then.iter_mut().find_map(|step| match step {
        Step::Put { value, .. } => Some(value),
        Step::Get { .. } | Step::Delete { .. } => None,
    })?;
    value.push('0');
    Some(())
}

fn stale_seed_read(history: &mut History, dice: &mut Dice) -> Option<()> {
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

fn wrong_compare(history: &mut History, dice: &mut Dice) -> Option<()> {
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

fn time_travel(history: &mut History, dice: &mut Dice) -> Option<()> {
    let index = pick(dice, places(history, is_write))?;
    let last = history.operations.iter().map(|operation| operation.ended).max()?;
    let others = places(history, |operation| is_write(operation) && operation.ended < last);
    let newest = others.into_iter().filter(|other| *other != index).filter_map(|other| {
        super::super::answer::Answer::of(&history.operations[other]).map(|answer| answer.revision)
    });
    let newest = newest.max()?;
    let operation = &mut history.operations[index];
    (operation.begun, operation.ended) = (last + 1, last + 2);
    let told = *results(operation)?.0;
    (told < newest).then_some(())
}

fn short_list(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = super::super::answer::Answer::of(operation) else { continue };
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

fn wrong_delete(history: &mut History, dice: &mut Dice) -> Option<()> {
    let mut choices = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = super::super::answer::Answer::of(operation) else { continue };
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

/// A history with a lie: its name, and nothing if there is no place for it.
fn lie(history: &History, place: usize, seed: u64) -> Option<(&'static str, History)> {
    let (name, lie) = LIES[place];
    let mut lied = history.clone();
    let told = lie(&mut lied, &mut Dice::new(seed));
    (told.is_some() && lied != *history).then_some((name, lied))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lie_is_believed(seed in any::<u64>(), calls in 60..300_usize, clients in 2..7_usize) {
        let history = simulate(seed, calls, clients, 3);
        for place in 0..LIES.len() {
            if let Some((name, lied)) = lie(&history, place, seed) {
                let verdict = check(&lied);
                prop_assert!(!verdict.passed(), "{name} was believed");
            }
        }
    }
}

#[test]
fn checkers_that_rest_on_different_things_find_the_same_lies() {
    let histories: Vec<History> = (0..8).map(|seed| simulate(seed, 400, 5, 3)).collect();
    for (name, checkers) in [
        ("a stale read of the seed's", ["revision", "wgl"]),
        ("a read of the past", ["revision", "wgl"]),
        ("a list without its last element", ["revision", "append"]),
        ("nodes that all lost a key", ["truth", "finals"]),
        ("a lock with two holders", ["lock", "lock"]),
        ("a revision that nobody saw", ["truth", "revision"]),
        ("an acknowledged write told to have failed", ["revision", "wgl"]),
        ("an acknowledged write told to have failed", ["revision", "append"]),
        ("money that is made", ["revision", "bank"]),
    ] {
        let place = LIES.iter().position(|(other, _)| *other == name).expect("it is one of the lies");
        for checker in checkers {
            let mut lied = histories.iter().zip(0..).filter_map(|(history, seed)| lie(history, place, seed));
            let found = |(_, lied): (_, History)| {
                check(&lied).problems.iter().any(|problem| problem.check == checker)
            };
            assert!(lied.any(found), "{checker} never found {name}");
        }
    }
}

#[test]
fn there_is_a_place_for_every_lie() {
    let histories: Vec<History> = (0..6).map(|seed| simulate(seed, 400, 5, 3)).collect();
    for (place, (name, _)) in LIES.iter().enumerate() {
        let told = histories.iter().filter_map(|history| lie(history, place, 3)).count();
        assert!(told >= 3, "{name} was told {told} times");
    }
}
