//! Watchers that were lied to, in one way each.

use super::{assert_sound, check, kinds, sound};
use crate::history::{Event, History, WatchLog, WatchNote, Way};

fn opened(from_revision: i64) -> WatchNote {
    WatchNote::Opened { at: 0, node: 1, from_revision }
}

fn progress(revision: i64) -> WatchNote {
    WatchNote::Progress { at: 9_000_000_000, revision }
}

fn compacted(compact_revision: i64) -> WatchNote {
    WatchNote::Compacted { at: 9_000_000_000, compact_revision }
}

fn lost() -> WatchNote {
    WatchNote::Lost { at: 9_000_000_000, reason: "reset".to_owned() }
}

/// What happened at these revisions, in one message.
fn message(revisions: &[i64], only: &str) -> WatchNote {
    let history = sound();
    let all: Vec<Event> = super::super::truth::events_of(&history.watches[1]).cloned().collect();
    let mut events = Vec::new();
    for revision in revisions {
        let of_revision = all.iter().filter(|event| event.mod_revision == *revision);
        events.extend(of_revision.filter(|event| event.key.starts_with(only)).cloned());
    }
    assert!(!events.is_empty(), "nothing of {only:?} happened at {revisions:?}");
    WatchNote::Events { at: 9_000_000_000, events }
}

fn with_watcher(prefix: &str, notes: Vec<WatchNote>) -> History {
    let mut history = sound();
    history.watches.push(WatchLog { watcher: 9, way: Way::Grpc, prefix: prefix.to_owned(), notes });
    history
}

#[test]
fn promises_that_are_kept() {
    for (prefix, notes) in [
        ("", vec![opened(2), message(&[2], ""), message(&[3, 4], ""), progress(4), lost()]),
        ("", vec![opened(2), message(&[2, 3], ""), lost(), opened(3), message(&[3], "")]),
        ("", vec![lost(), opened(4), progress(3), message(&[4], "")]),
        ("reg/", vec![opened(0), message(&[4], "reg/"), message(&[5], "reg/"), progress(13)]),
        ("reg/", vec![opened(6), progress(13), message(&[14], "reg/"), progress(15 - 1)]),
        ("bank/", vec![opened(2), message(&[2, 13], "bank/"), progress(15)]),
        ("", vec![opened(2), compacted(3), opened(3), message(&[3], "")]),
        ("", vec![opened(2), message(&[2], ""), compacted(5), opened(5), message(&[5], "")]),
        ("nothing/", vec![opened(2), progress(15)]),
    ] {
        assert_sound(&with_watcher(prefix, notes));
    }
}

#[test]
fn promises_that_are_broken() {
    let mut forged = message(&[3], "");
    if let WatchNote::Events { events, .. } = &mut forged {
        events[0].record.as_mut().expect("it is a put").version = 2;
    }
    let mut invented = message(&[3], "reg/");
    if let WatchNote::Events { events, .. } = &mut invented {
        events[0].key = "reg/z".to_owned();
    }
    let mut twice = message(&[3], "reg/");
    if let WatchNote::Events { events, .. } = &mut twice {
        let event = events[0].clone();
        events.push(event);
    }
    for (expected, prefix, notes) in [
        ("watch/ordered", "reg/", vec![opened(3), message(&[4], "reg/"), message(&[3], "reg/")]),
        ("watch/ordered", "", vec![opened(2), message(&[3, 2], "")]),
        ("watch/unique", "", vec![opened(2), message(&[2], ""), message(&[2], "")]),
        ("watch/unique", "reg/", vec![opened(2), twice]),
        ("watch/reliable", "", vec![opened(2), message(&[2], ""), message(&[4], "")]),
        ("watch/reliable", "", vec![opened(0), message(&[2], ""), message(&[4], "")]),
        ("watch/reliable", "reg/", vec![opened(2), message(&[3], "reg/"), message(&[5], "reg/")]),
        ("watch/resumable", "", vec![opened(2), message(&[3], "")]),
        ("watch/resumable", "", vec![opened(2), message(&[2, 3], ""), lost(), opened(4), message(&[5], "")]),
        ("watch/resumable", "", vec![opened(2), message(&[2, 3], ""), lost(), opened(4), message(&[3], "")]),
        ("watch/atomic", "", vec![opened(2), message(&[2], "bank/a"), message(&[2], "bank/b")]),
        ("watch/atomic", "bank/", vec![opened(2), message(&[2], "bank/"), message(&[13], "bank/a")]),
        ("watch/bookmarkable", "", vec![opened(2), message(&[2], ""), progress(3)]),
        ("watch/bookmarkable", "", vec![opened(2), message(&[2], ""), progress(3), message(&[3], "")]),
        ("watch/bookmarkable", "reg/", vec![opened(0), progress(4), message(&[4], "reg/")]),
        ("watch/bookmarkable", "nothing/", vec![opened(2), progress(16)]),
        ("watch/filter", "seed/", vec![opened(2), message(&[3], "reg/")]),
        ("watch/faithful", "reg/", vec![opened(2), forged]),
        ("watch/faithful", "reg/", vec![opened(2), invented]),
        ("watch/compacted", "", vec![opened(5), compacted(5)]),
        ("watch/compacted", "", vec![opened(2), message(&[2], ""), compacted(3)]),
        ("watch/compacted", "", vec![opened(2), compacted(17)]),
        ("watch/malformed", "", vec![message(&[2], "")]),
    ] {
        let verdict = check(&with_watcher(prefix, notes.clone()));
        assert!(kinds(&verdict).iter().any(|kind| kind == expected), "{expected} {notes:?}:\n{verdict}");
    }
}
