//! One lie of each kind in a history that is true otherwise.

use super::model::{Scene, failed, put, seed_read, seed_write, steps};
use super::{check, done, got, kinds, sound, told};
use crate::history::{Call, Event, History, Holding, Outcome, Record, StepResult, WatchNote};

type Lie = (&'static str, fn(&mut History));

#[track_caller]
fn assert_refused(lies: &[Lie]) {
    for (expected, lie) in lies {
        let mut history = sound();
        lie(&mut history);
        assert_ne!(history, sound(), "{expected} is no lie");
        let verdict = check(&history);
        assert!(kinds(&verdict).iter().any(|kind| kind == expected), "{expected} was not found:\n{verdict}");
    }
}

fn events(history: &mut History, watcher: usize) -> impl Iterator<Item = &mut Vec<Event>> {
    history.watches[watcher].notes.iter_mut().filter_map(|note| match note {
        WatchNote::Events { events, .. } => Some(events),
        WatchNote::Opened { .. }
        | WatchNote::Progress { .. }
        | WatchNote::Compacted { .. }
        | WatchNote::Lost { .. } => None,
    })
}

/// Changes what all watchers of all keys say of a key at a revision.
fn rewrite(history: &mut History, revision: i64, key: &str, change: impl Fn(&mut Event)) {
    for watcher in 0..history.watches.len() {
        for event in events(history, watcher).flatten() {
            if event.mod_revision == revision && event.key == key {
                change(event);
            }
        }
    }
}

/// Nobody saw a revision.
fn forget(history: &mut History, revision: i64) {
    for watcher in 0..history.watches.len() {
        for events in events(history, watcher) {
            events.retain(|event| event.mod_revision != revision);
        }
    }
}

fn record_of(event: &mut Event) -> &mut Record {
    event.record.as_mut().expect("it is a put")
}

#[test]
fn lies_about_the_order_of_changes() {
    assert_refused(&[
        ("truth/disagreement", |history| {
            let event = events(history, 1).flatten().find(|event| event.key == "reg/c").expect("it was put");
            record_of(event).value = "v9".to_owned();
        }),
        ("truth/disagreement", |history| {
            for events in events(history, 1) {
                events.retain(|event| event.key != "bank/b");
            }
        }),
        ("truth/hole", |history| forget(history, 9)),
        ("truth/hole", |history| history.final_states.iter_mut().for_each(|state| state.revision = 16)),
        ("truth/record", |history| rewrite(history, 4, "reg/a", |event| record_of(event).version = 3)),
        ("truth/record", |history| {
            rewrite(history, 4, "reg/a", |event| record_of(event).create_revision = 4);
        }),
        ("truth/record", |history| rewrite(history, 4, "reg/a", |event| record_of(event).mod_revision = 3)),
        ("truth/record", |history| rewrite(history, 3, "reg/a", |event| event.record = None)),
        ("truth/final-state", |history| {
            let records = &mut history.final_states[2].records;
            records.get_mut("reg/c").expect("it is there").lease = 4;
        }),
        ("truth/final-state", |history| drop(history.final_states[1].records.remove("reg/c"))),
        ("truth/final-state", |history| {
            let records = &mut history.final_states[1].records;
            let record = records["reg/c"].clone();
            records.insert("reg/d".to_owned(), record);
        }),
    ]);
}

#[test]
fn lies_about_writes() {
    assert_refused(&[
        ("revision/lost-write", |history| forget(history, 15)),
        ("revision/lost-write", |history| {
            rewrite(history, 3, "reg/a", |event| record_of(event).value = "v9".into());
        }),
        ("revision/lost-write", |history| rewrite(history, 10, "lock/l", |event| record_of(event).lease = 9)),
        ("revision/lost-write", |history| {
            rewrite(history, 6, "seed/s", |event| record_of(event).value = "v9".into());
        }),
        ("revision/duplicate-revision", |history| *told(history, 3) = 3),
        ("revision/lost-write", |history| *told(history, 23) = 16),
        ("revision/failed-write", |history| history.operations[1].outcome = failed()),
        ("revision/failed-write", |history| history.operations[5].outcome = failed()),
        ("revision/failed-write", |history| history.operations[8].outcome = failed()),
        ("revision/failed-write", |history| history.operations[10].outcome = failed()),
        ("revision/unexplained-change", |history| {
            history.operations[5].call = steps(&[put("reg/b", "v44")]);
        }),
        ("revision/unexplained-change", |history| {
            // It began after its change had been told of.
            history.operations[5].begun = 9_000_000_000;
            history.operations[5].ended = 9_000_000_001;
        }),
        ("revision/unexplained-change", |history| {
            // The key that went had no lease.
            rewrite(history, 10, "lock/l", |event| record_of(event).lease = 0);
        }),
        ("revision/real-time", |history| history.operations[23].begun = 9_000_000_000),
        ("revision/real-time", |history| {
            let operation = &mut history.operations[3];
            (operation.begun, operation.ended) = (95, 96);
        }),
        ("revision/unexplained-change", |history| {
            let operation = &mut history.operations[8];
            (operation.begun, operation.ended) = (600, 610);
        }),
        ("revision/malformed", |history| history.operations[2].outcome = done(3)),
        ("revision/malformed", |history| history.operations[2].outcome = Outcome::SeedWritten),
        ("revision/malformed", |history| history.operations[2].ended = 39),
        ("revision/malformed", |history| {
            let Call::Txn { local, .. } = &mut history.operations[1].call else {
                panic!("it is a transaction")
            };
            *local = true;
        }),
    ]);
}

#[test]
fn writes_by_the_seed_in_an_order_that_is_not_that_of_time() {
    let mut scene = Scene::new();
    scene.call((20, 30), seed_write("seed/s", Some("v1")));
    scene.call((0, 10), seed_write("seed/t", Some("v2")));
    let verdict = check(&scene.finish());
    assert_eq!(kinds(&verdict), ["revision/real-time"], "{verdict}");
    assert_eq!(verdict.problems[0].operations, [1, 0], "{verdict}");
}

#[test]
fn a_deletion_by_the_seed_that_did_nothing_to_a_key_that_was_there() {
    let mut scene = Scene::new();
    scene.call((0, 1), seed_write("seed/s", Some("v1")));
    scene.record((2, 3), seed_write("seed/s", None), Outcome::SeedWritten);
    let verdict = check(&scene.finish());
    assert_eq!(kinds(&verdict), ["finals/lost-write", "revision/lost-write"], "{verdict}");
}

#[test]
fn lies_about_reads() {
    assert_refused(&[
        ("revision/wrong-read", |history| *got(history, 2) = None),
        ("revision/wrong-read", |history| got(history, 2).as_mut().expect("found").version = 2),
        ("revision/wrong-read", |history| {
            *got(history, 23) = Some(sound().final_states[0].records["reg/c"].clone());
        }),
        ("revision/local-read", |history| *got(history, 15) = None),
        ("revision/stale-read", |history| {
            history.operations[2].begun = 75;
            history.operations[2].ended = 76;
        }),
        ("revision/stale-read", |history| {
            // A watcher had seen it before.
            let WatchNote::Events { at, .. } = &mut history.watches[0].notes[3] else { panic!("events") };
            *at = 35;
        }),
        ("revision/stale-read", |history| {
            let state = history.operations[9].outcome.clone();
            history.operations[11].outcome = state;
        }),
        ("revision/stale-read", |history| {
            history.operations[9].outcome = Outcome::SeedFound { value: "v99".to_owned() };
        }),
        ("revision/stale-read", |history| {
            // A read of the seed's told of the newer state, and a later one of the older.
            history.operations[8].ended = 600;
            history.operations[9].begun = 165;
            history.operations[9].ended = 168;
            let mut later = history.operations[9].clone();
            (later.begun, later.ended) = (169, 171);
            later.call = seed_read("seed/s");
            later.outcome = Outcome::SeedFound { value: String::new() };
            history.operations.push(later);
        }),
        ("revision/future-revision", |history| *told(history, 20) = 16),
        ("revision/compare", |history| {
            let Outcome::Done { succeeded, results, .. } = &mut history.operations[4].outcome else {
                panic!("done")
            };
            *succeeded = false;
            results.clear();
            let Call::Txn { compares, otherwise, .. } = &mut history.operations[4].call else {
                panic!("txn")
            };
            otherwise.clear();
            compares[0] = super::mod_revision("reg/a", 4);
        }),
        ("revision/compare", |history| {
            let Call::Txn { compares, .. } = &mut history.operations[3].call else { panic!("txn") };
            compares[0] = super::mod_revision("reg/a", 2);
        }),
        ("revision/wrong-delete", |history| {
            let Outcome::Done { results, .. } = &mut history.operations[23].outcome else { panic!("done") };
            results.insert(0, StepResult::Deleted(0));
            let Call::Txn { then, .. } = &mut history.operations[23].call else { panic!("txn") };
            then.insert(0, super::delete("reg/a"));
        }),
    ]);
}

#[test]
fn lies_about_the_bank() {
    assert_refused(&[
        ("bank/wrong-total", |history| history.bank_total = Some(101)),
        ("bank/wrong-total", |history| got(history, 18).as_mut().expect("found").value = "61".to_owned()),
        ("bank/wrong-total", |history| *got(history, 18) = None),
        ("bank/wrong-total", |history| {
            rewrite(history, 13, "bank/a", |event| record_of(event).value = "51".into());
        }),
        ("bank/wrong-total", |history| {
            history.final_states[1].records.get_mut("bank/a").expect("it is there").value = "49".to_owned();
        }),
        ("bank/wrong-total", |history| {
            history.final_states[1].records.retain(|key, _| !key.starts_with("bank/"));
        }),
        ("bank/negative", |history| got(history, 18).as_mut().expect("found").value = "-60".to_owned()),
        ("bank/no-balance", |history| got(history, 18).as_mut().expect("found").value = "much".to_owned()),
    ]);
}

#[test]
fn lies_about_locks() {
    assert_refused(&[
        ("lock/overlap", |history| history.holdings[0].until = 422),
        ("lock/overlap", |history| {
            // The longest one counts, not the last one.
            history.holdings[0].until = 1000;
            let Holding { from, until, .. } = &mut history.holdings[1];
            (*from, *until) = (500, 501);
            let third = Holding { from: 600, until: 601, fencing: 13, ..history.holdings[1].clone() };
            history.holdings.push(third);
        }),
        ("lock/fencing", |history| history.holdings[1].fencing = 9),
        ("lock/fencing", |history| history.holdings[1].fencing = 10),
        ("lock/no-key", |history| history.holdings[1].fencing = 13),
        ("lock/no-key", |history| history.holdings[1].lease = 7),
        ("lock/malformed", |history| history.holdings[1].until = 400),
        ("lock/ended-early", |history| {
            for note in &mut history.watches[1].notes {
                if let WatchNote::Events { at, events } = note
                    && events.iter().any(|event| event.mod_revision == 11)
                {
                    *at = 380;
                }
            }
        }),
    ]);
}

#[test]
fn lies_about_the_end() {
    assert_refused(&[
        ("finals/revision", |history| history.final_states[1].revision = 14),
        ("finals/applied-index", |history| history.final_states[1].applied_index += 1),
        ("finals/state-hash", |history| history.final_states[1].state_hash.push('x')),
        ("finals/records", |history| drop(history.final_states[1].records.remove("reg/a"))),
        ("finals/no-nodes", |history| history.final_states.clear()),
        ("finals/lost-write", |history| {
            for state in &mut history.final_states {
                state.records.remove("reg/a");
            }
        }),
        ("finals/lost-write", |history| {
            for state in &mut history.final_states {
                let record = sound().final_states[0].records["reg/c"].clone();
                state.records.insert("seed/s".to_owned(), Record { value: "v7".to_owned(), ..record });
            }
        }),
        ("finals/lost-write", |history| {
            for state in &mut history.final_states {
                state.records.get_mut("reg/c").expect("it is there").value = "v9".to_owned();
            }
        }),
    ]);
}
