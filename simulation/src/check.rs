//! Is what clients were told true?
//!
//! The store says in which order everything took place: by its revisions, which a watcher
//! of all keys was told. That order is right if it holds every acknowledged change where
//! its client was told, nothing that was refused, nothing twice, and nothing before what
//! had ended when it began; if every answer is what the state at its revision gives; if a
//! linearizable read is at least as new as all that had ended when it began; and if all
//! nodes end with the state that the order leads to.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_torture::history::{
    Call, Compare, Event, History, Nanos, Operation, Outcome, Record, Step, StepResult, WatchNote,
};

/// Broken promises, each in words.
pub(crate) fn check(history: &History) -> Vec<String> {
    let mut problems = Vec::new();
    let story = Story::gather(history, &mut problems);
    for operation in &history.operations {
        check_operation(&story, operation, &mut problems);
    }
    check_order(history, &story, &mut problems);
    check_ends(history, &story, &mut problems);
    problems
}

/// All that took place.
#[derive(Default)]
struct Story {
    /// The versions of each key by revision.
    keys: BTreeMap<String, BTreeMap<i64, Option<Record>>>,
    /// Where each value was written.
    values: BTreeMap<String, (String, i64)>,
    revisions: BTreeSet<i64>,
}

impl Story {
    fn gather(history: &History, problems: &mut Vec<String>) -> Self {
        let mut story = Self::default();
        let mut last = 1;
        let notes = history.watches.iter().flat_map(|watch| &watch.notes);
        for note in notes {
            let WatchNote::Events { events, .. } = note else { continue };
            for event in events {
                if event.mod_revision < last {
                    problems.push(format!("{} was told after revision {last}", event.mod_revision));
                }
                if event.mod_revision > last + 1 {
                    problems.push(format!(
                        "nothing was told of revisions {} to {}",
                        last + 1,
                        event.mod_revision - 1
                    ));
                }
                last = event.mod_revision;
                story.add(event, problems);
            }
        }
        story
    }

    fn add(&mut self, event: &Event, problems: &mut Vec<String>) {
        self.revisions.insert(event.mod_revision);
        let before = self.at(&event.key, event.mod_revision).cloned();
        if let Some(record) = &event.record {
            let (created, version) =
                before.map_or((event.mod_revision, 1), |it| (it.create_revision, it.version + 1));
            if (record.create_revision, record.version, record.mod_revision)
                != (created, version, event.mod_revision)
            {
                problems.push(format!("{event:?} does not follow from what was before"));
            }
            let place = (event.key.clone(), event.mod_revision);
            if let Some(other) = self.values.insert(record.value.clone(), place) {
                problems.push(format!("{} was written twice: {other:?} and {event:?}", record.value));
            }
        } else if before.is_none() {
            problems.push(format!("{event:?} deletes what was not there"));
        }
        let versions = self.keys.entry(event.key.clone()).or_default();
        if versions.insert(event.mod_revision, event.record.clone()).is_some() {
            problems.push(format!("{event:?} was told twice"));
        }
    }

    /// A key's record as of a revision.
    fn at(&self, key: &str, revision: i64) -> Option<&Record> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.as_ref()
    }

    fn changes(&self, key: &str, revision: i64) -> Option<&Option<Record>> {
        self.keys.get(key)?.get(&revision)
    }
}

fn holds(story: &Story, compare: &Compare, revision: i64) -> bool {
    match compare {
        Compare::ModRevision { key, revision: wanted } => {
            story.at(key, revision).map_or(0, |record| record.mod_revision) == *wanted
        }
        Compare::CreateRevision { key, revision: wanted } => {
            story.at(key, revision).map_or(0, |record| record.create_revision) == *wanted
        }
        Compare::Value { key, value } => story.at(key, revision).is_some_and(|record| record.value == *value),
    }
}

fn changes(steps: &[Step]) -> bool {
    steps.iter().any(|step| !matches!(step, Step::Get { .. }))
}

fn check_operation(story: &Story, operation: &Operation, problems: &mut Vec<String>) {
    let Call::Txn { compares, then, otherwise, .. } = &operation.call else { return };
    let mut complain = |what: String| problems.push(format!("{what}: {operation:?}"));
    match &operation.outcome {
        Outcome::Done { revision, succeeded, results } => {
            let steps = if *succeeded { then } else { otherwise };
            // A deletion of nothing leaves the revision as it was.
            let changed = steps.iter().zip(results).any(|(step, result)| match (step, result) {
                (Step::Put { .. }, _) => true,
                (Step::Delete { .. }, StepResult::Deleted(count)) => *count > 0,
                _ => false,
            });
            let before = if changed { revision - 1 } else { *revision };
            if compares.iter().all(|compare| holds(story, compare, before)) != *succeeded {
                complain("its compares were judged wrongly".to_owned());
            }
            if steps.len() != results.len() {
                complain("it has another number of results than of steps".to_owned());
            }
            let mut touched: BTreeMap<&str, Option<&str>> = BTreeMap::new();
            for (step, result) in steps.iter().zip(results) {
                if let Some(what) = check_step(story, step, result, *revision, before, &mut touched) {
                    complain(what);
                }
            }
        }
        Outcome::Failed { .. } => {
            for step in then.iter().chain(otherwise) {
                if let Step::Put { value, .. } = step
                    && story.values.contains_key(value)
                {
                    complain("it failed and took place".to_owned());
                }
            }
        }
        Outcome::Unknown { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. } => {}
    }
}

fn check_step<'a>(
    story: &Story,
    step: &'a Step,
    result: &StepResult,
    revision: i64,
    before: i64,
    touched: &mut BTreeMap<&'a str, Option<&'a str>>,
) -> Option<String> {
    match (step, result) {
        (Step::Put { key, value, .. }, StepResult::Put) => {
            touched.insert(key, Some(value));
            let told = story.changes(key, revision).and_then(Option::as_ref);
            (told.is_none_or(|record| record.value != *value))
                .then(|| format!("{value} was acknowledged at {revision}, where there is {told:?}"))
        }
        (Step::Delete { key }, StepResult::Deleted(count)) => {
            touched.insert(key, None);
            let was_there = i64::from(story.at(key, before).is_some());
            (*count != was_there || (*count > 0 && story.changes(key, revision) != Some(&None)))
                .then(|| format!("{count} were deleted at {revision}, where {was_there} were"))
        }
        (Step::Get { key }, StepResult::Got(found)) => {
            let expected = if touched.contains_key(key.as_str()) {
                story.at(key, revision)
            } else {
                story.at(key, before)
            };
            (found.as_ref() != expected)
                .then(|| format!("at {revision} there is {expected:?}, not {found:?}"))
        }
        _ => Some(format!("{step:?} was answered by {result:?}")),
    }
}

/// What had ended before something began comes before it, and is seen by it.
fn check_order(history: &History, story: &Story, problems: &mut Vec<String>) {
    let is_local = |operation: &Operation| matches!(operation.call, Call::Txn { local: true, .. });
    let mut reached: Vec<(Nanos, i64)> = history
        .operations
        .iter()
        .filter(|operation| !is_local(operation))
        .filter_map(|operation| match &operation.outcome {
            Outcome::Done { revision, .. } => Some((operation.ended, *revision)),
            Outcome::Failed { .. }
            | Outcome::Unknown { .. }
            | Outcome::SeedWritten
            | Outcome::SeedFound { .. } => None,
        })
        .collect();
    reached.sort_unstable();
    let mut newest = 0;
    for (_, revision) in &mut reached {
        newest = newest.max(*revision);
        *revision = newest;
    }
    let floor = |moment: Nanos| {
        let count = reached.partition_point(|(ended, _)| *ended < moment);
        count.checked_sub(1).and_then(|last| reached.get(last)).map_or(0, |(_, revision)| *revision)
    };
    for operation in history.operations.iter().filter(|operation| !is_local(operation)) {
        let Call::Txn { then, otherwise, .. } = &operation.call else { continue };
        let floor = floor(operation.begun);
        for step in then.iter().chain(otherwise) {
            if let Step::Put { value, .. } = step
                && let Some((_, revision)) = story.values.get(value)
                && *revision <= floor
            {
                problems
                    .push(format!("{value} has {revision}, but {floor} was reached before: {operation:?}"));
            }
        }
        if let Outcome::Done { revision, succeeded, .. } = &operation.outcome
            && !changes(if *succeeded { then } else { otherwise })
            && *revision < floor
        {
            problems.push(format!("it saw {revision}, but {floor} was reached before: {operation:?}"));
        }
    }
}

/// All nodes end with what took place.
fn check_ends(history: &History, story: &Story, problems: &mut Vec<String>) {
    let last = story.revisions.last().copied().unwrap_or(1);
    let records: BTreeMap<_, _> =
        story.keys.keys().filter_map(|key| Some((key.clone(), story.at(key, last)?.clone()))).collect();
    for state in &history.final_states {
        if state.revision != last {
            problems.push(format!("node {} ends at {}, what was told at {last}", state.node, state.revision));
        }
        if state.records != records {
            problems.push(format!("node {} ends with {:?}, not {records:?}", state.node, state.records));
        }
    }
    let hashes: BTreeSet<_> =
        history.final_states.iter().map(|state| (&state.state_hash, state.revision)).collect();
    if hashes.len() > 1 {
        problems.push(format!("the nodes have diverged: {hashes:?}"));
    }
    if history.final_states.is_empty() {
        problems.push("no node is left".to_owned());
    }
}
