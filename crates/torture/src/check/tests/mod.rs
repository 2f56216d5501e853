//! Histories that are true, and the same with a lie of each kind.

mod appends;
mod labelled;
mod lies;
mod model;
mod mutations;
mod mutators;
mod orders;
mod simulated;
mod watches;

use super::{Verdict, check};
use crate::history::{Compare, History, Outcome, StepResult, WatchLog, WatchNote, Way};
use model::{
    Scene, delete, failed, get, mod_revision, put, put_leased, seed_read, seed_write, steps, txn, unknown,
    watch_notes,
};

/// The names of all that was found.
fn kinds(verdict: &Verdict) -> Vec<String> {
    let mut kinds: Vec<String> =
        verdict.problems.iter().map(|problem| format!("{}/{}", problem.check, problem.kind)).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[track_caller]
fn assert_sound(history: &History) -> Verdict {
    let verdict = check(history);
    assert!(verdict.passed(), "{verdict}");
    verdict
}

/// One of everything, and all of it true. The comments are places of operations and
/// revisions.
fn sound() -> History {
    let mut scene = Scene::new();
    scene.call((0, 10), steps(&[put("bank/a", "60"), put("bank/b", "40")])); // 0, revision 2
    scene.call((20, 30), steps(&[put("reg/a", "v1")])); // 1, 3
    scene.call((40, 50), steps(&[get("reg/a")])); // 2
    scene.call((60, 70), txn(&[mod_revision("reg/a", 3)], &[put("reg/a", "v2")], &[get("reg/a")])); // 3, 4
    scene.call((80, 90), txn(&[mod_revision("reg/a", 3)], &[put("reg/a", "v3")], &[get("reg/a")])); // 4
    scene.unanswered((100, 110), steps(&[put("reg/b", "v4")])); // 5, 5
    scene.record((120, 130), steps(&[put("reg/b", "v5")]), unknown()); // 6
    scene.record((140, 150), steps(&[put("reg/b", "v6")]), failed()); // 7
    scene.call((160, 170), seed_write("seed/s", Some("v7"))); // 8, 6
    scene.call((180, 190), seed_read("seed/s")); // 9
    scene.call((200, 210), seed_write("seed/s", None)); // 10, 7
    scene.call((220, 230), seed_read("seed/s")); // 11
    scene.call((240, 250), txn(&[mod_revision("list/x", 0)], &[put("list/x", "1")], &[])); // 12, 8
    scene.call((260, 270), txn(&[mod_revision("list/x", 8)], &[put("list/x", "1,2")], &[])); // 13, 9
    scene.call((280, 290), steps(&[get("list/x"), get("list/y")])); // 14
    scene.local((300, 310), &["reg/a", "reg/b"], 3); // 15
    let create = |lease| {
        let free = Compare::CreateRevision { key: "lock/l".to_owned(), revision: 0 };
        txn(&[free], &[put_leased("lock/l", "me", lease)], &[])
    };
    scene.call((320, 330), create(5)); // 16, 10
    scene.hold(1, (331, 390), 5, 10);
    scene.model.end_lease(5, 400); // 11
    scene.call((410, 420), create(6)); // 17, 12
    scene.hold(2, (421, 480), 6, 12);
    scene.call((430, 440), steps(&[get("bank/a"), get("bank/b")])); // 18
    let same = [mod_revision("bank/a", 2), mod_revision("bank/b", 2)];
    scene.call((450, 460), txn(&same, &[put("bank/a", "50"), put("bank/b", "50")], &[])); // 19, 13
    scene.call((470, 480), steps(&[get("bank/a"), get("bank/b")])); // 20
    scene.call((490, 500), steps(&[delete("reg/b")])); // 21, 14
    scene.call((510, 520), steps(&[delete("reg/b")])); // 22
    scene.call((530, 540), steps(&[get("reg/c"), put("reg/c", "v8"), get("reg/c")])); // 23, 15
    scene.history.bank_total = Some(100);
    let mut registers = watch_notes(&scene.model, "reg/", 2, 1);
    registers.truncate(3);
    registers.push(WatchNote::Progress { at: 2_000_000_000, revision: 4 });
    registers.push(WatchNote::Lost { at: 2_000_000_001, reason: "reset".to_owned() });
    registers.extend(watch_notes(&scene.model, "reg/", 5, 2));
    registers.push(WatchNote::Progress { at: 3_000_000_000, revision: 15 });
    let watch = WatchLog { watcher: 2, way: Way::Grpc, prefix: "reg/".to_owned(), notes: registers };
    scene.history.watches.push(watch);
    scene.finish()
}

#[test]
fn what_the_lock_service_does_needs_no_call_and_what_rests_on_it_is_judged() {
    let of_service = |second_from| {
        let mut scene = Scene::new();
        scene.model.run(&steps(&[put_leased("mutex/a/5", "", 5)]), 10); // revision 2
        scene.model.run(&steps(&[put_leased("mutex/a/6", "", 6)]), 20); // 3
        scene.hold(1, (30, 90), 5, 2);
        scene.model.run(&steps(&[delete("mutex/a/5")]), 100); // 4
        scene.hold(2, (second_from, 190), 6, 3);
        scene.model.end_lease(6, 200); // 5
        scene.finish()
    };
    let verdict = assert_sound(&of_service(110));
    assert_eq!(verdict.counted("revision.changes_by_the_lock_service"), 2);
    assert_eq!(verdict.counted("lock.holdings"), 2);
    assert_eq!(kinds(&check(&of_service(80))), ["lock/overlap"]);
}

#[test]
fn a_true_history_is_believed_and_all_of_it_was_looked_at() {
    let verdict = assert_sound(&sound());
    for (what, expected) in [
        ("truth.revisions", 14),
        ("truth.changes", 16),
        ("revision.writes", 10),
        ("revision.reads", 6),
        ("revision.local_reads", 1),
        ("revision.seed_reads", 2),
        ("revision.seed_writes", 2),
        ("revision.failed", 1),
        ("revision.unknown", 2),
        ("revision.unknown_that_happened", 1),
        ("revision.lease_ends", 1),
        ("revision.compares_that_failed", 1),
        ("wgl.keys", 4),
        ("append.transactions", 3),
        ("append.elements", 2),
        ("bank.whole_reads", 2),
        ("bank.transfers", 2),
        ("lock.holdings", 2),
        ("watch.watchers", 3),
        ("watch.progress", 2),
        ("watch.opened", 4),
        ("watch.reached_the_end", 3),
        ("finals.nodes", 3),
        ("finals.registers", 3),
        ("finals.seed_keys", 1),
    ] {
        assert_eq!(verdict.counted(what), expected, "{what}\n{verdict}");
    }
}

#[test]
fn a_bank_that_nobody_opened_has_no_money() {
    let mut scene = Scene::new();
    scene.call((0, 1), steps(&[get("bank/a"), get("bank/b")]));
    scene.history.bank_total = Some(100);
    assert_sound(&scene.finish());
}

#[test]
fn an_empty_history_is_not_believed() {
    assert_eq!(kinds(&check(&History::default())), ["finals/no-nodes"]);
}

#[test]
fn a_verdict_survives_json_and_reads_well() {
    let mut history = sound();
    got(&mut history, 2).as_mut().expect("it found the key").value = "v0".to_owned();
    let verdict = check(&history);
    let text = serde_json::to_string(&verdict).expect("a verdict is JSON");
    assert_eq!(serde_json::from_str::<Verdict>(&text).expect("a verdict is read back"), verdict);
    assert!(
        verdict.to_string().contains("revision/wrong-read: a read at revision 3 found reg/a"),
        "{verdict}"
    );
}

#[test]
fn problems_beyond_many_are_counted_and_not_kept() {
    let mut history = sound();
    for _ in 0..200 {
        let operation = history.operations[6].clone();
        history.operations.push(crate::history::Operation { outcome: done(99), ..operation });
    }
    let verdict = check(&history);
    assert_eq!(verdict.counted("revision.problems"), 200);
    assert_eq!(verdict.problems.iter().filter(|problem| problem.check == "revision").count(), 50);
}

/// The answer to a put.
fn done(revision: i64) -> Outcome {
    Outcome::Done { revision, succeeded: true, results: vec![StepResult::Put] }
}

/// What the first get of an operation found.
fn got(history: &mut History, index: usize) -> &mut Option<crate::history::Record> {
    let Outcome::Done { results, .. } = &mut history.operations[index].outcome else {
        panic!("it was not answered")
    };
    let found = results.iter_mut().find_map(|result| match result {
        StepResult::Got(record) => Some(record),
        StepResult::Put | StepResult::Deleted(_) => None,
    });
    found.expect("it has a get")
}

/// The revision that an operation was told.
fn told(history: &mut History, index: usize) -> &mut i64 {
    let Outcome::Done { revision, .. } = &mut history.operations[index].outcome else {
        panic!("it was not answered")
    };
    revision
}
