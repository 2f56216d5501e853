//! Registers that have an order, and registers that have none; and the smallest parts of
//! what contradicts itself.

use super::super::register::items_of;
use super::super::wgl::{Found, MAX_STATES, search};
use super::super::{Verdict, register};
use super::model::{
    Scene, delete, failed, get, mod_revision, put, put_leased, seed_read, seed_write, steps, txn, unknown,
};
use crate::history::{History, Outcome, Record, StepResult};

fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    register::check(history, &mut verdict);
    verdict
}

fn found(value: &str) -> Outcome {
    Outcome::SeedFound { value: value.to_owned() }
}

fn got(value: &str, revision: i64) -> Outcome {
    let record =
        Record { value: value.to_owned(), create_revision: 2, mod_revision: revision, version: 1, lease: 0 };
    Outcome::Done { revision, succeeded: true, results: vec![StepResult::Got(Some(record))] }
}

fn done(revision: i64, succeeded: bool, results: Vec<StepResult>) -> Outcome {
    Outcome::Done { revision, succeeded, results }
}

const K: &str = "seed/k";
const R: &str = "reg/k";

#[test]
fn an_unknown_write_may_take_effect_long_after_it_was_given_up() {
    let mut scene = Scene::new();
    scene.record((0, 1), seed_write(K, Some("a")), Outcome::SeedWritten);
    scene.record((2, 3), seed_write(K, Some("b")), unknown());
    scene.record((4, 5), seed_read(K), found("a"));
    scene.record((6, 7), seed_read(K), found("b"));
    assert!(judge(&scene.history).passed());
    // But only once, and nothing brings back what was before.
    scene.record((8, 9), seed_read(K), found("a"));
    let verdict = judge(&scene.history);
    assert_eq!(verdict.counted("wgl.problems"), 1, "{verdict}");
    let named = &verdict.problems[0].operations;
    assert!(named.len() == 3 && named.ends_with(&[3, 4]), "{verdict}");
}

#[test]
fn a_failed_write_has_no_effect() {
    let mut scene = Scene::new();
    scene.record((0, 1), seed_write(K, Some("a")), failed());
    scene.record((2, 3), seed_read(K), found(""));
    assert!(judge(&scene.history).passed());
    scene.record((4, 5), seed_read(K), found("a"));
    assert!(!judge(&scene.history).passed());
}

#[test]
fn a_chain_of_unknown_writes_is_found() {
    let mut scene = Scene::new();
    scene.record((0, 1), steps(&[put(R, "a")]), done(2, true, vec![StepResult::Put]));
    scene.record((2, 3), txn(&[mod_revision(R, 2)], &[put(R, "b")], &[]), unknown());
    // That "b" has revision 3 somebody was told much later.
    scene.record((4, 5), txn(&[mod_revision(R, 3)], &[put(R, "c")], &[]), unknown());
    scene.record((6, 7), steps(&[get(R)]), got("c", 4));
    assert!(judge(&scene.history).passed(), "{}", judge(&scene.history));
    scene.record((8, 9), steps(&[get(R)]), got("b", 3));
    assert!(!judge(&scene.history).passed());
}

#[test]
fn a_compare_that_failed_may_be_the_work_of_an_unknown_write() {
    let mut scene = Scene::new();
    scene.record((0, 1), steps(&[put(R, "a")]), done(2, true, vec![StepResult::Put]));
    let refused =
        scene.record((4, 5), txn(&[mod_revision(R, 2)], &[put(R, "c")], &[]), done(3, false, Vec::new()));
    assert!(!judge(&scene.history).passed());
    let other = scene.record((2, 3), steps(&[put(R, "b")]), unknown());
    assert!(judge(&scene.history).passed());
    // Then it can't be as it was.
    let read = scene.record((6, 7), steps(&[get(R)]), got("a", 2));
    let verdict = judge(&scene.history);
    assert!(!verdict.passed());
    assert_eq!(verdict.problems[0].operations, [0, refused, read], "{verdict}");
    scene.history.operations[other].call = steps(&[delete(R)]);
    assert!(!judge(&scene.history).passed());
}

#[test]
fn deletions_say_whether_the_key_was_there() {
    for (first, second, sound) in [(1, 0, true), (1, 1, false), (0, 1, false)] {
        let mut scene = Scene::new();
        scene.record((0, 1), steps(&[put(R, "a")]), done(2, true, vec![StepResult::Put]));
        scene.record((2, 3), steps(&[delete(R)]), done(3, true, vec![StepResult::Deleted(first)]));
        scene.record((4, 5), steps(&[delete(R)]), done(3, true, vec![StepResult::Deleted(second)]));
        assert_eq!(judge(&scene.history).passed(), sound, "{first} {second}");
        scene.record((0, 1), steps(&[delete(R)]), unknown());
        assert!(judge(&scene.history).passed() || second == 1, "{first} {second}");
    }
}

#[test]
fn what_a_transaction_reads_after_its_own_put_is_its_own() {
    for (value, sound) in [("b", true), ("a", false)] {
        let mut scene = Scene::new();
        scene.record((0, 1), steps(&[put(R, "a")]), done(2, true, vec![StepResult::Put]));
        let Outcome::Done { results, .. } = got(value, 3) else { panic!("it is answered") };
        let results = vec![StepResult::Put, results[0].clone()];
        scene.record((2, 3), steps(&[put(R, "b"), get(R)]), done(3, true, results));
        assert_eq!(judge(&scene.history).passed(), sound, "{value}");
    }
}

#[test]
fn local_reads_and_keys_with_a_lease_are_left_to_others() {
    let mut scene = Scene::new();
    scene.call((0, 1), steps(&[put(R, "a")]));
    scene.call((2, 3), steps(&[put(R, "b")]));
    scene.local((4, 5), &[R], 2);
    scene.call((6, 7), steps(&[put_leased("reg/l", "c", 7)]));
    scene.model.end_lease(7, 8);
    scene.call((9, 10), steps(&[get("reg/l")]));
    let verdict = judge(&scene.history);
    assert!(verdict.passed(), "{verdict}");
    assert_eq!((verdict.counted("wgl.keys"), verdict.counted("wgl.skipped_leased_keys")), (1, 1));
}

#[test]
fn a_search_that_is_too_long_is_given_up() {
    let mut scene = Scene::new();
    for value in 0..12 {
        scene.record((0, 100), seed_write(K, Some(&format!("v{value}"))), Outcome::SeedWritten);
    }
    scene.record((200, 201), seed_read(K), found("w"));
    let items = items_of(&scene.history, K);
    assert_eq!(search(&items, 100), Found::TooMany);
    assert!(matches!(search(&items, MAX_STATES), Found::Contradiction { .. }));
}

#[test]
fn the_smallest_part_of_a_long_contradiction_is_named() {
    let mut scene = Scene::new();
    for step in 0..2000 {
        let value = format!("v{step}");
        let (begun, ended) = (step * 10, step * 10 + 5);
        scene.record((begun, ended), seed_write(K, Some(&value)), Outcome::SeedWritten);
        scene.record((begun + 6, begun + 7), seed_read(K), found(&value));
    }
    assert!(judge(&scene.history).passed());
    let Outcome::SeedFound { value } = &mut scene.history.operations[2001].outcome else { panic!("a read") };
    "v990".clone_into(value);
    let verdict = judge(&scene.history);
    assert_eq!(verdict.counted("wgl.problems"), 1, "{verdict}");
    let named = &verdict.problems[0].operations;
    assert!(named.len() <= 4 && named.contains(&2001), "{verdict}");
}
