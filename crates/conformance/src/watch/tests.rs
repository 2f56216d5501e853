//! Histories that keep every promise but one, and one that keeps them all.

use bytes::Bytes;

use super::history::{Event, Message, Truth, Version, Watcher, Write};
use super::promises::{Promise, check, check_writes};
use crate::step::Keys;

fn put(key: &'static str, revision: i64) -> Event {
    let version = Version {
        value: Bytes::from(format!("{key}{revision}")),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
    };
    Event { key: Bytes::from_static(key.as_bytes()), revision, put: Some(version), previous: None }
}

/// Revisions 2 to 9: `a`, `b` in turn, and both of them at 6.
fn truth() -> Truth {
    Truth::of([
        put("a", 2),
        put("b", 3),
        put("a", 4),
        put("b", 5),
        put("a", 6),
        put("b", 6),
        put("a", 7),
        put("b", 8),
        put("z", 9),
    ])
}

fn events(events: &[Event]) -> Message {
    Message::Events { events: events.to_vec(), fragment: false }
}

fn fragment(events: &[Event]) -> Message {
    Message::Events { events: events.to_vec(), fragment: true }
}

fn watcher(from: Option<i64>, messages: Vec<Message>) -> Watcher {
    let keys = Keys { key: Bytes::from_static(b"a"), end: Bytes::from_static(b"c") };
    Watcher { name: "w".into(), keys, from, with_previous: false, messages, until: None }
}

fn broken(watcher: &Watcher) -> Vec<Promise> {
    let mut promises: Vec<_> =
        check(&truth(), watcher).into_iter().map(|violation| violation.promise).collect();
    promises.dedup();
    promises
}

fn created() -> Message {
    Message::Created { revision: 1 }
}

#[test]
fn a_history_that_keeps_every_promise_has_no_violation() {
    let history = watcher(
        None,
        vec![
            created(),
            events(&[put("a", 2), put("b", 3)]),
            Message::Progress { revision: 3 },
            events(&[put("a", 4)]),
            Message::Resumed { from: 5 },
            Message::Created { revision: 7 },
            events(&[put("b", 5), put("a", 6), put("b", 6)]),
            Message::Progress { revision: 6 },
            events(&[put("a", 7)]),
            events(&[put("b", 8)]),
            Message::Progress { revision: 9 },
        ],
    );
    assert_eq!(check(&truth(), &Watcher { until: Some(9), ..history }), []);
}

#[test]
fn an_older_event_after_a_newer_is_not_ordered() {
    let history = watcher(Some(2), vec![created(), events(&[put("b", 3)]), events(&[put("a", 2)])]);
    assert!(broken(&history).contains(&Promise::Ordered));
    let within = watcher(Some(2), vec![created(), events(&[put("b", 3), put("a", 2), put("a", 4)])]);
    assert_eq!(broken(&within), [Promise::Ordered]);
}

#[test]
fn an_event_told_twice_is_not_unique() {
    let history =
        watcher(Some(2), vec![created(), events(&[put("a", 2)]), events(&[put("a", 2), put("b", 3)])]);
    assert_eq!(broken(&history), [Promise::Unique]);
}

#[test]
fn an_event_told_again_after_a_resumption_beyond_it_is_not_unique() {
    let history = watcher(
        Some(2),
        vec![
            created(),
            events(&[put("a", 2), put("b", 3)]),
            Message::Resumed { from: 4 },
            created(),
            events(&[put("b", 3), put("a", 4)]),
        ],
    );
    assert_eq!(broken(&history), [Promise::Unique]);
}

#[test]
fn an_event_left_out_between_two_is_not_reliable() {
    let history = watcher(Some(2), vec![created(), events(&[put("a", 2), put("a", 4)])]);
    assert_eq!(broken(&history), [Promise::Reliable]);
    let first = watcher(None, vec![created(), events(&[put("b", 3)])]);
    assert_eq!(broken(&first), [Promise::Reliable]);
}

#[test]
fn an_event_that_never_comes_is_not_reliable() {
    let history = watcher(Some(2), vec![created(), events(&[put("a", 2)])]);
    assert_eq!(broken(&history), []);
    assert_eq!(broken(&Watcher { until: Some(3), ..history }), [Promise::Reliable]);
}

#[test]
fn a_revision_in_two_messages_is_not_atomic() {
    let until_five = [put("a", 2), put("b", 3), put("a", 4), put("b", 5)];
    let split = watcher(
        Some(2),
        vec![created(), events(&until_five), events(&[put("a", 6)]), events(&[put("b", 6), put("a", 7)])],
    );
    assert_eq!(broken(&split), [Promise::Atomic]);
    let half = watcher(Some(6), vec![created(), events(&[put("a", 6)]), events(&[put("a", 7)])]);
    assert_eq!(broken(&half), [Promise::Atomic]);
}

#[test]
fn a_revision_in_two_fragments_of_one_message_is_atomic() {
    let history =
        watcher(Some(6), vec![created(), fragment(&[put("a", 6)]), events(&[put("b", 6), put("a", 7)])]);
    assert_eq!(broken(&history), []);
    let unfinished = watcher(Some(6), vec![created(), fragment(&[put("a", 6)]), events(&[put("a", 7)])]);
    assert_eq!(broken(&unfinished), [Promise::Atomic]);
}

#[test]
fn a_resumption_that_leaves_something_out_or_begins_too_early_is_not_resumable() {
    let begin = [created(), events(&[put("a", 2), put("b", 3)]), Message::Resumed { from: 4 }, created()];
    let gap = watcher(Some(2), [&begin[..], &[events(&[put("b", 5)])]].concat());
    assert_eq!(broken(&gap), [Promise::Resumable]);
    let early = [created(), Message::Resumed { from: 4 }, created(), events(&[put("b", 3), put("a", 4)])];
    assert_eq!(broken(&watcher(Some(4), early.to_vec())), [Promise::Resumable]);
}

#[test]
fn progress_before_or_after_its_events_is_not_bookmarkable() {
    let early = watcher(Some(2), vec![created(), events(&[put("a", 2)]), Message::Progress { revision: 3 }]);
    assert_eq!(broken(&early), [Promise::Bookmarkable]);
    let late = watcher(
        Some(2),
        vec![created(), Message::Progress { revision: 2 }, events(&[put("a", 2), put("b", 3)])],
    );
    assert_eq!(broken(&late), [Promise::Bookmarkable]);
}

#[test]
fn an_event_that_did_not_happen_so_is_not_faithful() {
    let mut other = put("a", 2);
    other.put.as_mut().unwrap().version = 2;
    assert_eq!(broken(&watcher(Some(2), vec![created(), events(&[other])])), [Promise::Faithful]);
    let invented = put("a", 3);
    assert!(broken(&watcher(Some(3), vec![created(), events(&[invented])])).contains(&Promise::Faithful));
    let foreign = watcher(Some(9), vec![created(), events(&[put("z", 9)])]);
    assert_eq!(broken(&foreign), [Promise::Faithful]);
    let mut unasked = put("a", 2);
    unasked.previous = unasked.put.clone();
    assert_eq!(broken(&watcher(Some(2), vec![created(), events(&[unasked])])), [Promise::Faithful]);
}

#[test]
fn previous_values_are_those_that_were_there() {
    let mut happened = put("a", 7);
    happened.previous = put("a", 6).put;
    let truth = Truth::of([put("a", 6), happened.clone()]);
    let with_previous =
        |event: Event| Watcher { with_previous: true, ..watcher(Some(7), vec![created(), events(&[event])]) };
    assert_eq!(check(&truth, &with_previous(happened.clone())), []);
    happened.previous = put("a", 5).put;
    assert_eq!(check(&truth, &with_previous(happened))[0].promise, Promise::Faithful);
    assert_eq!(check(&truth, &with_previous(put("a", 7)))[0].promise, Promise::Faithful);
}

#[test]
fn writes_that_were_answered_happened_and_nothing_else_did() {
    let keys = Keys { key: Bytes::from_static(b"a"), end: Bytes::from_static(b"c") };
    let write = |revision, changes: &[(&'static str, &'static str)]| Write {
        revision,
        changes: changes.iter().map(|(key, value)| (Bytes::from(*key), Some(Bytes::from(*value)))).collect(),
    };
    let truth = Truth::of([put("a", 2), put("b", 3), put("a", 4), put("b", 4)]);
    let all = [
        write(Some(2), &[("a", "a2")]),
        // Its answer was lost, but it happened.
        write(None, &[("b", "b3")]),
        // Its answer was lost, and it did not.
        write(None, &[("b", "b99")]),
        write(Some(4), &[("a", "a4"), ("b", "b4")]),
    ];
    assert_eq!(check_writes(&truth, &all, &keys), []);
    let lost = [&all[..], &[write(Some(5), &[("a", "a5")])]].concat();
    assert_eq!(check_writes(&truth, &lost, &keys).len(), 1);
    let unexplained = &all[2..];
    assert_eq!(check_writes(&truth, unexplained, &keys).len(), 2);
    let half = [&all[..3], &[write(Some(4), &[("a", "a4"), ("b", "other")])]].concat();
    assert_eq!(check_writes(&truth, &half, &keys).len(), 1);
}
