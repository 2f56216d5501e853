//! Registers as [`wgl`](super::wgl) sees them: what each operation says of one key.
//!
//! Whatever a transaction over several keys says is true of each of its keys by itself.
//! What can't be said without revisions is left out: that never makes a sound history
//! unsound. A compare of a revision is one of the value that some client was told it
//! stands for. Local reads, which may be old, say nothing here.

use std::collections::HashMap;

use super::Verdict;
use super::answer::{Answer, compared, step_key};
use super::shrink;
use super::wgl::{ABSENT, Found, Item, MAX_STATES, NEVER, State, search};
use crate::history::{Call, Compare, History, Operation, Outcome, Record, Step, StepResult, keys};

const CHECK: &str = "wgl";

/// Keys for which a long search may be given up, before searches become short.
const MAX_HARD: usize = 10;

/// Contradictions whose smallest part is looked for.
const MAX_SHRUNK: u64 = 10;

/// Searches that this takes at most for each.
const SEARCHES: usize = 300;

/// Judges all registers, those too that are written by the seed's calls.
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let registers = Registers::gather(history);
    let mut names: Vec<&&str> = registers.by_key.keys().collect();
    names.sort_unstable();
    let mut hard = 0;
    for key in names {
        let Some(register) = registers.by_key.get(*key) else { continue };
        if register.leased {
            verdict.count("wgl.skipped_leased_keys", 1);
            continue;
        }
        verdict.count("wgl.keys", 1);
        verdict.count("wgl.operations", register.items.len() as u64);
        let states = if hard < MAX_HARD { MAX_STATES } else { MAX_STATES / 100 };
        match search(&register.items, states) {
            Found::Order => {}
            Found::TooMany => {
                hard += 1;
                verdict.count("wgl.skipped_hard_keys", 1);
            }
            Found::Contradiction { stuck, pending } => {
                let items = &register.items;
                let searches = if verdict.counted("wgl.problems") < MAX_SHRUNK { SEARCHES } else { 0 };
                let smallest = shrink::shrink(items, stuck, &pending, searches);
                verdict.problem((CHECK, "not-linearizable"), Some(key), &smallest, || {
                    format!(
                        "no order of the operations on {key} gives these answers; the {} operations named here \
                         contradict each other even if all others are allowed to take effect late or never",
                        smallest.len()
                    )
                });
            }
        }
    }
}

/// What all operations say of a key.
#[derive(Debug, Default)]
struct Register<'h> {
    items: Vec<Item>,
    /// Numbers of values.
    states: HashMap<&'h str, State>,
    /// Values by the revision at which clients were told they were set.
    values: HashMap<i64, &'h str>,
    /// It may end without anybody's doing.
    leased: bool,
}

#[derive(Debug, Default)]
struct Registers<'h> {
    by_key: HashMap<&'h str, Register<'h>>,
}

impl<'h> Registers<'h> {
    fn gather(history: &'h History) -> Self {
        let mut registers = Self::default();
        for operation in &history.operations {
            registers.learn(operation);
        }
        for (index, operation) in history.operations.iter().enumerate() {
            match &operation.call {
                Call::Txn { .. } => registers.add_transaction(index, operation),
                Call::SeedWrite { key, value } => {
                    registers.add_seed_write(index, operation, key, value.as_deref());
                }
                Call::SeedRead { key } => registers.add_seed_read(index, operation, key),
            }
        }
        registers
    }

    fn register(&mut self, key: &'h str) -> Option<&mut Register<'h>> {
        let is_register = key.starts_with(keys::REGISTER) || key.starts_with(keys::SEED);
        is_register.then(|| self.by_key.entry(key).or_default())
    }

    /// Remembers which value clients were told a revision of a key stands for.
    fn learn(&mut self, operation: &'h Operation) {
        if let Call::Txn { then, otherwise, .. } = &operation.call {
            for step in then.iter().chain(otherwise) {
                if let Step::Put { key, lease: Some(_), .. } = step
                    && let Some(register) = self.register(key)
                {
                    register.leased = true;
                }
            }
        }
        let Some(answer) = Answer::of(operation) else { return };
        for (step, result) in answer.pairs() {
            let Some(register) = self.register(step_key(step)) else { continue };
            match (step, result) {
                (Step::Get { .. }, StepResult::Got(Some(Record { value, mod_revision, .. }))) => {
                    register.values.insert(*mod_revision, value);
                }
                (Step::Put { value, .. }, StepResult::Put) => {
                    register.values.insert(answer.revision, value);
                }
                (Step::Get { .. } | Step::Put { .. } | Step::Delete { .. }, _) => {}
            }
        }
    }

    fn add_transaction(&mut self, index: usize, operation: &'h Operation) {
        let Call::Txn { compares, then, otherwise, local: false } = &operation.call else { return };
        let mut touched: Vec<&str> = compares.iter().map(compared).collect();
        touched.extend(then.iter().chain(otherwise).map(step_key));
        touched.sort_unstable();
        touched.dedup();
        for key in touched {
            let Some(register) = self.register(key) else { continue };
            let blank = Item {
                begun: operation.begun,
                ended: None,
                operation: index,
                is: None,
                not: None,
                becomes: None,
            };
            if let Some(answer) = Answer::of(operation) {
                let item = register.answered(key, &answer, Item { ended: Some(operation.ended), ..blank });
                register.items.push(item);
            } else if matches!(operation.outcome, Outcome::Unknown { .. }) {
                if let Some(becomes) = register.outcome_of(key, then) {
                    let is = register.guard(key, compares);
                    register.items.push(Item { is, becomes: Some(becomes), ..blank.clone() });
                }
                if let Some(becomes) = register.outcome_of(key, otherwise).filter(|_| !compares.is_empty()) {
                    register.items.push(Item { becomes: Some(becomes), ..blank });
                }
            }
        }
    }

    fn add_seed_write(
        &mut self,
        index: usize,
        operation: &'h Operation,
        key: &'h str,
        value: Option<&'h str>,
    ) {
        let Some(register) = self.register(key) else { return };
        let ended = match operation.outcome {
            Outcome::SeedWritten => Some(operation.ended),
            Outcome::Unknown { .. } => None,
            Outcome::Failed { .. } | Outcome::Done { .. } | Outcome::SeedFound { .. } => return,
        };
        let becomes = Some(value.map_or(ABSENT, |value| register.state(value)));
        register.items.push(Item {
            begun: operation.begun,
            ended,
            operation: index,
            is: None,
            not: None,
            becomes,
        });
    }

    fn add_seed_read(&mut self, index: usize, operation: &'h Operation, key: &'h str) {
        let Some(register) = self.register(key) else { return };
        let Outcome::SeedFound { value } = &operation.outcome else { return };
        let is = Some(if value.is_empty() { ABSENT } else { register.state(value) });
        register.items.push(Item {
            begun: operation.begun,
            ended: Some(operation.ended),
            operation: index,
            is,
            not: None,
            becomes: None,
        });
    }
}

impl<'h> Register<'h> {
    fn state(&mut self, value: &'h str) -> State {
        let fresh = u32::try_from(self.states.len()).expect("a run has fewer than 2^32 values") + 1;
        *self.states.entry(value).or_insert(fresh)
    }

    /// What an answered transaction says of the key.
    fn answered(&mut self, key: &str, answer: &Answer<'h>, mut item: Item) -> Item {
        if answer.succeeded {
            item.is = self.guard(key, answer.compares);
        } else if let [compare] = answer.compares
            && compared(compare) == key
        {
            item.not = self.meaning(compare);
        }
        for (step, result) in answer.pairs().filter(|(step, _)| step_key(step) == key) {
            match (step, result) {
                (Step::Get { .. }, StepResult::Got(record)) => {
                    let got = record.as_ref().map_or(ABSENT, |record| self.state(&record.value));
                    demand(&mut item, got);
                }
                (Step::Put { value, .. }, _) => item.becomes = Some(self.state(value)),
                (Step::Delete { .. }, StepResult::Deleted(0)) => demand(&mut item, ABSENT),
                (Step::Delete { .. }, _) => {
                    // That it was there says something only if nothing else does.
                    if item.is.is_none() && item.becomes.is_none() && item.not.is_none() {
                        item.not = Some(ABSENT);
                    } else if item.is == Some(ABSENT) && item.becomes.is_none() {
                        item.is = Some(NEVER);
                    }
                    item.becomes = Some(ABSENT);
                }
                (Step::Get { .. }, _) => {}
            }
        }
        item
    }

    /// The state that the compares of a key ask for, so far as it is known.
    fn guard(&mut self, key: &str, compares: &'h [Compare]) -> Option<State> {
        compares.iter().filter(|compare| compared(compare) == key).find_map(|compare| self.meaning(compare))
    }

    /// The state that a compare asks for, if clients were told what it is.
    fn meaning(&mut self, compare: &'h Compare) -> Option<State> {
        match compare {
            Compare::ModRevision { revision: 0, .. } | Compare::CreateRevision { revision: 0, .. } => {
                Some(ABSENT)
            }
            Compare::ModRevision { revision, .. } => {
                let value = *self.values.get(revision)?;
                Some(self.state(value))
            }
            // Many values have one create revision.
            Compare::CreateRevision { .. } => None,
            Compare::Value { value, .. } => Some(self.state(value)),
        }
    }

    /// What steps of unknown outcome would make of the key, if anything.
    fn outcome_of(&mut self, key: &str, steps: &'h [Step]) -> Option<State> {
        let mut becomes = None;
        for step in steps.iter().filter(|step| step_key(step) == key) {
            match step {
                Step::Get { .. } => {}
                Step::Put { value, .. } => becomes = Some(self.state(value)),
                Step::Delete { .. } => becomes = Some(ABSENT),
            }
        }
        becomes
    }
}

/// Adds what a step found to what an item says.
fn demand(item: &mut Item, state: State) {
    match (item.becomes, item.is) {
        (Some(becomes), _) if becomes == state => {}
        (None, None) => item.is = Some(state),
        (None, Some(is)) if is == state => {}
        (Some(_), _) | (None, Some(_)) => item.is = Some(NEVER),
    }
}

#[cfg(test)]
pub(super) fn items_of(history: &History, key: &str) -> Vec<Item> {
    Registers::gather(history).by_key.remove(key).map(|register| register.items).unwrap_or_default()
}
