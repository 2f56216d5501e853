//! Registers: put, get, compare-and-set and delete, over etcd's and Kvorum's own calls, and
//! set, delete and get over the seed's.

use std::collections::BTreeMap;

use super::session::Session;
use super::slots::Slots;
use super::wire::Wire;
use crate::history::{Call, Compare, Outcome, Record, Step, StepResult, keys};

/// Calls to a key.
const SHARE: u64 = 150;
/// Keys of which a client remembers what it was told last.
const REMEMBERED: usize = 64;

/// The registers that all clients share.
#[derive(Debug)]
pub(super) struct Registers {
    slots: Slots,
    seeds: Slots,
}

impl Registers {
    /// `count` keys at a time; few, so that clients get into each other's way.
    pub(super) fn new(count: usize) -> Self {
        Self {
            slots: Slots::new(keys::REGISTER, count, SHARE),
            seeds: Slots::new(keys::SEED, count.div_ceil(2), SHARE),
        }
    }

    /// One call to a register.
    pub(super) async fn step(&self, session: &mut Session<impl Wire>, memory: &mut Memory) {
        let slot = self.slots.any(&mut session.dice);
        let key = self.slots.take(slot);
        let call = choose(session, memory, &key);
        let outcome = session.call(call.clone()).await;
        memory.learn(&key, &call, &outcome);
    }

    /// One of the seed's calls.
    pub(super) async fn seed_step(&self, session: &mut Session<impl Wire>) {
        let slot = self.seeds.any(&mut session.dice);
        let key = self.seeds.take(slot);
        let call = match session.dice.below(10) {
            0..5 => Call::SeedRead { key },
            5 => Call::SeedWrite { key, value: None },
            _ => Call::SeedWrite { key, value: Some(new_value(session)) },
        };
        session.call(call).await;
    }
}

/// What a client was told last about keys: the revision, and the value.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<String, (i64, String)>);

impl Memory {
    fn learn(&mut self, key: &str, call: &Call, outcome: &Outcome) {
        let Outcome::Done { revision, succeeded, results } = outcome else { return };
        let Call::Txn { then, otherwise, .. } = call else { return };
        let steps = if *succeeded { then } else { otherwise };
        for (step, result) in steps.iter().zip(results) {
            match (step, result) {
                (_, StepResult::Got(Some(Record { value, mod_revision, .. }))) => {
                    self.0.insert(key.to_owned(), (*mod_revision, value.clone()));
                }
                (Step::Put { value, .. }, StepResult::Put) => {
                    self.0.insert(key.to_owned(), (*revision, value.clone()));
                }
                (_, StepResult::Got(None) | StepResult::Put | StepResult::Deleted(_)) => {
                    self.0.remove(key);
                }
            }
        }
        if self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
    }

    fn revision(&self, key: &str) -> i64 {
        self.0.get(key).map_or(0, |(revision, _)| *revision)
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(_, value)| value.as_str())
    }
}

pub(super) fn new_value(session: &Session<impl Wire>) -> String {
    format!("v{}", session.shared.new_value())
}

fn choose<W: Wire>(session: &mut Session<W>, memory: &Memory, key: &str) -> Call {
    let own = || key.to_owned();
    let put = |session: &Session<W>| Step::Put { key: own(), value: new_value(session), lease: None };
    // Half of the compares read if they do not hold; the others can go by a call of their own.
    let otherwise = |session: &mut Session<W>| {
        if session.dice.chance(50) { vec![Step::Get { key: own() }] } else { Vec::new() }
    };
    let plain =
        |step: Step, local: bool| Call::Txn { compares: vec![], then: vec![step], otherwise: vec![], local };
    let conditional = |session: &mut Session<W>, compare: Compare, then: Step| Call::Txn {
        compares: vec![compare],
        then: vec![then],
        otherwise: otherwise(session),
        local: false,
    };
    match session.dice.below(100) {
        0..24 => plain(put(session), false),
        24..52 => plain(Step::Get { key: own() }, false),
        52..60 => plain(Step::Get { key: own() }, true),
        60..78 => {
            let compare = Compare::ModRevision { key: own(), revision: memory.revision(key) };
            let then = put(session);
            conditional(session, compare, then)
        }
        78..90 => {
            let compare = match memory.value(key) {
                Some(value) => Compare::Value { key: own(), value: value.to_owned() },
                None => Compare::CreateRevision { key: own(), revision: 0 },
            };
            let then = put(session);
            conditional(session, compare, then)
        }
        90..94 => {
            let compare = Compare::ModRevision { key: own(), revision: memory.revision(key) };
            conditional(session, compare, Step::Delete { key: own() })
        }
        _ => plain(Step::Delete { key: own() }, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_remembers_what_it_was_told_last() {
        let mut memory = Memory::default();
        let set = Step::Put { key: "k".to_owned(), value: "v1".to_owned(), lease: None };
        let get = Step::Get { key: "k".to_owned() };
        let call = Call::Txn { compares: Vec::new(), then: vec![set], otherwise: vec![get], local: false };
        let done = |succeeded, result| Outcome::Done { revision: 8, succeeded, results: vec![result] };
        memory.learn("k", &call, &done(true, StepResult::Put));
        assert_eq!((memory.revision("k"), memory.value("k")), (8, Some("v1")));
        let record =
            Record { value: "v2".to_owned(), create_revision: 3, mod_revision: 6, version: 2, lease: 0 };
        memory.learn("k", &call, &done(false, StepResult::Got(Some(record))));
        assert_eq!((memory.revision("k"), memory.value("k")), (6, Some("v2")));
        memory.learn("k", &call, &Outcome::Unknown { reason: String::new() });
        assert_eq!(memory.revision("k"), 6);
        memory.learn("k", &call, &done(false, StepResult::Got(None)));
        assert_eq!((memory.revision("k"), memory.value("k")), (0, None));
    }
}
