//! True histories: clients that overlap on a store that does what is right, with calls
//! that fail, calls whose outcome nobody knows and that take effect late, leases, locks,
//! old local reads, and watchers that lose their connections.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use proptest::prelude::*;

use super::model::{
    Model, Scene, delete, failed, get, mod_revision, put, put_leased, seed_read, seed_write, steps, txn,
    unknown,
};
use super::{assert_sound, check};
use crate::dice::Dice;
use crate::history::{
    Call, Compare, Event, History, Holding, Nanos, Outcome, Record, StepResult, WatchLog, WatchNote, Way,
};

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Begin(usize),
    Effect(usize),
    End { client: usize, index: usize },
    LeaseEnd(i64),
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    UnansweredButDone,
    Unanswered,
    Failed,
}

struct Simulation {
    dice: Dice,
    scene: Scene,
    queue: BinaryHeap<Reverse<(Nanos, u64, Next)>>,
    scheduled: u64,
    left: usize,
    fates: HashMap<usize, Fate>,
    /// What each client was told last of a key.
    known: Vec<HashMap<String, Option<Record>>>,
    fresh: u64,
    registers: usize,
}

const ACCOUNTS: [&str; 3] = ["bank/a", "bank/b", "bank/c"];

/// A true history of that many calls.
pub(super) fn simulate(seed: u64, calls: usize, clients: usize, registers: usize) -> History {
    let mut simulation = Simulation {
        dice: Dice::new(seed),
        scene: Scene::new(),
        queue: BinaryHeap::new(),
        scheduled: 0,
        left: calls,
        fates: HashMap::new(),
        known: vec![HashMap::new(); clients],
        fresh: 0,
        registers,
    };
    let open: Vec<_> = ACCOUNTS.iter().map(|account| put(account, "30")).collect();
    simulation.scene.call((0, 5), steps(&open));
    simulation.scene.history.bank_total = Some(90);
    for client in 0..clients {
        simulation.schedule(10 + client as u64, Next::Begin(client));
    }
    while let Some(Reverse((now, _, next))) = simulation.queue.pop() {
        simulation.happen(now, next);
    }
    simulation.finish()
}

impl Simulation {
    fn schedule(&mut self, at: Nanos, next: Next) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, next)));
    }

    fn happen(&mut self, now: Nanos, next: Next) {
        match next {
            Next::Begin(client) => self.begin(now, client),
            Next::Effect(index) => self.effect(now, index),
            Next::End { client, index } => self.end(now, client, index),
            Next::LeaseEnd(lease) => self.scene.model.end_lease(lease, now),
        }
    }

    fn begin(&mut self, now: Nanos, client: usize) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let call = self.choose(client);
        let fate = match self.dice.below(100) {
            0..88 => Fate::Answered,
            88..93 => Fate::UnansweredButDone,
            93..96 => Fate::Unanswered,
            _ => Fate::Failed,
        };
        let effect = now + 1 + self.dice.below(40) as u64;
        let mut ended = effect + 1 + self.dice.below(40) as u64;
        let outcome = if fate == Fate::Failed { failed() } else { unknown() };
        if fate == Fate::UnansweredButDone {
            // It may take effect long after the client gave up.
            ended = now + 1 + self.dice.below(60) as u64;
        }
        let index = self.scene.record((now, ended), call, outcome);
        self.scene.history.operations[index].client = client as u32;
        self.fates.insert(index, fate);
        if matches!(fate, Fate::Answered | Fate::UnansweredButDone) {
            let late = if fate == Fate::UnansweredButDone { self.dice.below(200) as u64 } else { 0 };
            self.schedule(effect + late, Next::Effect(index));
        }
        self.schedule(ended, Next::End { client, index });
    }

    fn effect(&mut self, now: Nanos, index: usize) {
        let operation = &self.scene.history.operations[index];
        let (call, ended) = (operation.call.clone(), operation.ended);
        let model = &mut self.scene.model;
        let outcome = match &call {
            Call::Txn { then, local: true, .. } => {
                let revision = (model.revision - self.dice.below(6) as i64).max(1);
                let keys: Vec<&str> = then.iter().map(super::super::answer::step_key).collect();
                model.run_local(&keys, revision)
            }
            Call::Txn { .. } | Call::SeedWrite { .. } | Call::SeedRead { .. } => model.run(&call, now),
        };
        if let Call::Txn { then, .. } = &call
            && let Outcome::Done { succeeded: true, .. } = &outcome
        {
            for step in then {
                if let crate::history::Step::Put { lease: Some(lease), .. } = step {
                    let until = ended.max(now) + 50 + self.dice.below(100) as u64;
                    self.schedule(until, Next::LeaseEnd(*lease));
                }
            }
        }
        if self.fates[&index] == Fate::Answered {
            self.scene.history.operations[index].outcome = outcome;
        }
    }

    fn end(&mut self, now: Nanos, client: usize, index: usize) {
        let operation = self.scene.history.operations[index].clone();
        if let (Call::Txn { then, otherwise, .. }, Outcome::Done { succeeded, results, revision }) =
            (&operation.call, &operation.outcome)
        {
            for (step, result) in (if *succeeded { then } else { otherwise }).iter().zip(results) {
                if let StepResult::Got(record) = result {
                    let key = super::super::answer::step_key(step).to_owned();
                    self.known[client].insert(key, record.clone());
                }
                if let crate::history::Step::Put { key, lease: Some(lease), .. } = step
                    && key.starts_with("lock/")
                {
                    let until = now + self.dice.below(50) as u64;
                    self.scene.history.holdings.push(Holding {
                        client: client as u32,
                        lock: key.clone(),
                        lease: *lease,
                        fencing: *revision,
                        from: now,
                        until,
                    });
                }
            }
        }
        let pause = 1 + self.dice.below(10) as u64;
        self.schedule(now + pause, Next::Begin(client));
    }

    fn value(&mut self) -> String {
        self.fresh += 1;
        format!("v{}", self.fresh)
    }

    fn key(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.dice.below(self.registers))
    }

    fn known(&self, client: usize, key: &str) -> Option<&Option<Record>> {
        self.known[client].get(key)
    }

    fn choose(&mut self, client: usize) -> Call {
        match self.dice.below(100) {
            0..45 => self.choose_register(client),
            45..65 => {
                let key = self.key("seed/");
                match self.dice.below(10) {
                    0..5 => seed_read(&key),
                    5..8 => seed_write(&key, Some(&self.value())),
                    _ => seed_write(&key, None),
                }
            }
            65..78 => self.choose_list(client),
            78..84 => {
                let record = self.known(client, "ctr/0").cloned().flatten();
                let (revision, count) = record.map_or((0, 0), |record| {
                    (record.mod_revision, record.value.parse::<i64>().expect("a count"))
                });
                let next = (count + 1).to_string();
                txn(&[mod_revision("ctr/0", revision)], &[put("ctr/0", &next)], &[get("ctr/0")])
            }
            84..95 => self.choose_transfer(client),
            _ => {
                self.fresh += 1;
                let free = Compare::CreateRevision { key: "lock/l".to_owned(), revision: 0 };
                txn(&[free], &[put_leased("lock/l", "me", self.fresh as i64)], &[])
            }
        }
    }

    fn choose_register(&mut self, client: usize) -> Call {
        let (key, other) = (self.key("reg/"), self.key("reg/"));
        let value = self.value();
        match self.dice.below(20) {
            0..4 => steps(&[put(&key, &value)]),
            4..8 => steps(&[get(&key)]),
            8..9 => steps(&[delete(&key)]),
            9..14 => match self.known(client, &key).cloned() {
                Some(record) => {
                    let revision = record.map_or(0, |record| record.mod_revision);
                    txn(&[mod_revision(&key, revision)], &[put(&key, &value)], &[get(&key)])
                }
                None => steps(&[get(&key)]),
            },
            14 if key != other => steps(&[get(&key), put(&key, &value), delete(&other), get(&other)]),
            15 | 16 => {
                let then = vec![get(&key), get(&other)];
                Call::Txn { compares: Vec::new(), then, otherwise: Vec::new(), local: true }
            }
            17 => {
                self.fresh += 1;
                steps(&[put_leased(&format!("{key}-leased"), &value, self.fresh as i64)])
            }
            18 => steps(&[get(&format!("{key}-leased"))]),
            _ => {
                let compare = Compare::Value { key: key.clone(), value: "v1".to_owned() };
                txn(&[compare], &[get(&key), delete(&key)], &[get(&key)])
            }
        }
    }

    fn choose_list(&mut self, client: usize) -> Call {
        let list = |place: usize| format!("list/{place}");
        let place = self.scene.history.operations.len() / 300 * 2;
        let (one, other) = (list(place), list(place + 1));
        let (Some(first), Some(second)) =
            (self.known(client, &one).cloned(), self.known(client, &other).cloned())
        else {
            return steps(&[get(&one), get(&other)]);
        };
        self.known[client].remove(&one);
        self.fresh += 1;
        let grown = |record: &Option<Record>, element: u64| match record {
            Some(record) => format!("{},{element}", record.value),
            None => element.to_string(),
        };
        let revision = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.mod_revision);
        let compares = [mod_revision(&one, revision(&first)), mod_revision(&other, revision(&second))];
        let mut then = vec![put(&one, &grown(&first, self.fresh))];
        if self.dice.chance(50) {
            then.push(put(&other, &grown(&second, self.fresh)));
        }
        txn(&compares, &then, &[get(&one), get(&other)])
    }

    fn choose_transfer(&mut self, client: usize) -> Call {
        let all: Vec<_> = ACCOUNTS.iter().map(|account| get(account)).collect();
        let (from, to) = (*self.dice.pick(&ACCOUNTS), *self.dice.pick(&ACCOUNTS));
        let (Some(Some(source)), Some(Some(target))) =
            (self.known(client, from).cloned(), self.known(client, to).cloned())
        else {
            return steps(&all);
        };
        let balance = |record: &Record| record.value.parse::<i64>().expect("a balance");
        if from == to || balance(&source) == 0 || self.dice.chance(30) {
            return steps(&all);
        }
        let amount = 1 + self.dice.below(balance(&source) as usize) as i64;
        let same = [mod_revision(from, source.mod_revision), mod_revision(to, target.mod_revision)];
        let moved = [
            put(from, &(balance(&source) - amount).to_string()),
            put(to, &(balance(&target) + amount).to_string()),
        ];
        txn(&same, &moved, &all)
    }

    fn finish(mut self) -> History {
        for (watcher, prefix) in ["", "", "reg/", "list/", "lock/", "bank/"].into_iter().enumerate() {
            let notes = watch(&mut self.dice, &self.scene.model, prefix);
            let way = if watcher % 2 == 0 { Way::Grpc } else { Way::Http };
            let watcher = watcher as u32;
            self.scene.history.watches.push(WatchLog { watcher, way, prefix: prefix.to_owned(), notes });
        }
        self.scene.history.final_states = (1..=3).map(|node| self.scene.model.node_state(node)).collect();
        self.scene.history
    }
}

/// What a watcher is told whose connection breaks now and then.
fn watch(dice: &mut Dice, model: &Model, prefix: &str) -> Vec<WatchNote> {
    let mut notes = vec![WatchNote::Opened { at: 0, node: 1, from_revision: 2 }];
    let mut place = 0;
    let mut now = 0;
    while place < model.changes.len() {
        let until = (place + 1 + dice.below(4)).min(model.changes.len());
        let changes = &model.changes[place..until];
        // A lease's end may be told before its time in the model only if it happened.
        now = changes.iter().map(|(at, _)| *at).fold(now, Nanos::max) + 1 + dice.below(30) as u64;
        let events: Vec<Event> = changes
            .iter()
            .flat_map(|(_, events)| events)
            .filter(|event| event.key.starts_with(prefix))
            .cloned()
            .collect();
        place = until;
        let last = place as i64 + 1;
        if !events.is_empty() {
            notes.push(WatchNote::Events { at: now, events });
        }
        if dice.chance(10) {
            notes.push(WatchNote::Progress { at: now, revision: last });
        }
        if dice.chance(4) {
            notes.push(WatchNote::Lost { at: now, reason: "reset".to_owned() });
            // Some ask again for what they have seen.
            let from = (last + 1 - dice.below(4) as i64).max(2);
            place = from as usize - 2;
            notes.push(WatchNote::Opened { at: now, node: 2, from_revision: from });
            if dice.chance(20) && !prefix.is_empty() && from <= model.revision {
                notes.push(WatchNote::Compacted { at: now, compact_revision: from + 1 });
                let from_revision = from + 1;
                place += 1;
                notes.push(WatchNote::Opened { at: now, node: 3, from_revision });
            }
        }
    }
    notes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn true_histories_are_believed(seed in any::<u64>(), calls in 1..400_usize, clients in 1..9_usize) {
        let history = simulate(seed, calls, clients, 4);
        let verdict = check(&history);
        prop_assert!(verdict.passed(), "{verdict}");
    }
}

#[test]
fn a_long_history_is_judged_by_every_checker() {
    let verdict = assert_sound(&simulate(1, 200_000, 12, 40));
    for what in [
        "truth.revisions",
        "revision.writes",
        "revision.reads",
        "revision.local_reads",
        "revision.seed_reads",
        "revision.seed_writes",
        "revision.unknown_that_happened",
        "revision.lease_ends",
        "revision.compares_that_failed",
        "wgl.operations",
        "append.transactions",
        "append.elements",
        "bank.whole_reads",
        "bank.transfers",
        "lock.holdings",
        "watch.events",
        "watch.progress",
        "finals.registers",
    ] {
        assert!(verdict.counted(what) > 1000 || what == "finals.registers", "{what}\n{verdict}");
    }
    assert_eq!(verdict.counted("wgl.skipped_hard_keys"), 0, "{verdict}");
    assert_eq!(verdict.counted("history.operations"), 200_001);
}
