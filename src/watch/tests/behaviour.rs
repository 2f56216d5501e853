//! One promise a test.

use super::*;
use crate::watch::{ALL_WATCHERS, WatchRefusal};

fn fixture() -> Fixture {
    Fixture::new(WatchOptions::default())
}

#[test]
fn a_watcher_is_created_first_and_then_told_what_comes_after() {
    let fixture = fixture();
    fixture.put("a");
    let mut session = fixture.session();
    assert_eq!(session.create(one("a")), Ok(0));
    fixture.put("a");
    fixture.put("b");
    fixture.put("a");
    fixture.settle();
    let messages = drain(&mut session);
    assert_eq!(kinds(&messages), ["created 0 at 2", "2 events for 0"]);
    assert_eq!(told(&messages), [(3, "a".to_owned()), (5, "a".to_owned())]);
    assert!(matches!(messages[1], WatchMessage::Events { revision: 5, .. }));
}

#[test]
fn what_was_committed_before_a_watcher_is_not_told_even_if_dispatch_is_late() {
    let fixture = fixture();
    let mut early = fixture.session();
    early.create(one("a")).unwrap();
    fixture.put("a");
    let mut late = fixture.session();
    late.create(one("a")).unwrap();
    fixture.put("a");
    fixture.settle();
    assert_eq!(told(&drain(&mut early)).len(), 2);
    assert_eq!(told(&drain(&mut late)), [(3, "a".to_owned())]);
}

#[test]
fn a_watcher_from_the_past_is_told_all_from_its_revision_on() {
    let fixture = Fixture::with_ring(WatchOptions::default(), 0);
    for _ in 0..50 {
        fixture.put("a");
        fixture.put("b");
    }
    let mut session = fixture.session();
    session.create(WatchRequest { from: Some(31), ..one("a") }).unwrap();
    assert_eq!(fixture.unsynced(), 1);
    fixture.settle();
    fixture.put("a");
    fixture.settle();
    assert_eq!(fixture.unsynced(), 0);
    let revisions: Vec<_> = told(&drain(&mut session)).into_iter().map(|(revision, _)| revision).collect();
    assert_eq!(revisions, (32..=102).filter(|revision| revision % 2 == 0).collect::<Vec<_>>());
}

#[test]
fn a_start_below_the_compacted_revision_is_canceled_and_one_at_it_works() {
    let fixture = fixture();
    for _ in 0..5 {
        fixture.put("a");
    }
    fixture.compact(4);
    let mut session = fixture.session();
    session.create(WatchRequest { from: Some(3), ..one("a") }).unwrap();
    session.create(WatchRequest { from: Some(4), ..one("a") }).unwrap();
    fixture.settle();
    let messages = drain(&mut session);
    assert_eq!(
        kinds(&messages),
        ["created 0 at 6", "canceled 0, compacted 4", "created 1 at 6", "3 events for 1"]
    );
    assert_eq!(session.len(), 1);
    assert!(!session.cancel(0));
}

#[test]
fn a_start_before_everything_is_a_start_at_the_first_change() {
    let fixture = Fixture::with_ring(WatchOptions::default(), 0);
    let mut session = fixture.session();
    for from in [0, 1, 2] {
        session.create(WatchRequest { from: Some(from), ..one("a") }).unwrap();
    }
    assert_eq!(fixture.unsynced(), 0, "there is nothing to catch up with");
    drain(&mut session);
    fixture.put("a");
    fixture.settle();
    session.create(WatchRequest { from: Some(1), ..one("a") }).unwrap();
    fixture.settle();
    assert_eq!(kinds(&drain(&mut session)).len(), 5);
}

#[test]
fn compaction_that_overtakes_a_watcher_cancels_it() {
    let fixture = Fixture::with_ring(WatchOptions::default(), 0);
    for _ in 0..5 {
        fixture.put("a");
    }
    let mut session = fixture.session();
    session.create(WatchRequest { from: Some(2), ..one("a") }).unwrap();
    fixture.compact(5);
    fixture.settle();
    assert_eq!(kinds(&drain(&mut session)), ["created 0 at 6", "canceled 0, compacted 5"]);
    assert!(session.is_empty());
    assert_eq!(fixture.hub.registry.lock().unsynced.len(), 0);
}

#[test]
fn a_future_start_is_silent_until_it_is_reached() {
    let fixture = fixture();
    let mut session = fixture.session();
    session.create(WatchRequest { from: Some(4), ..one("a") }).unwrap();
    fixture.put("a");
    fixture.put("a");
    fixture.settle();
    assert_eq!(kinds(&drain(&mut session)), ["created 0 at 1"]);
    fixture.put("a");
    fixture.settle();
    assert_eq!(told(&drain(&mut session)), [(4, "a".to_owned())]);
}

#[test]
fn ranges_and_single_keys_get_what_they_contain() {
    let fixture = fixture();
    let mut session = fixture.session();
    let between = KeyRange::Between { start: Bytes::from_static(b"b"), end: Bytes::from_static(b"c") };
    let empty = KeyRange::Between { start: Bytes::from_static(b"c"), end: Bytes::from_static(b"b") };
    for keys in [KeyRange::all(), KeyRange::prefix("b"), between, empty, KeyRange::From("b1".into())] {
        session.create(WatchRequest::of(keys)).unwrap();
    }
    drain(&mut session);
    for key in ["a", "b", "b2", "c"] {
        fixture.put(key);
    }
    fixture.settle();
    let mut counts = BTreeMap::new();
    for message in drain(&mut session) {
        if let WatchMessage::Events { id, events, .. } = message {
            *counts.entry(id).or_insert(0) += events.len();
        }
    }
    assert_eq!(counts, BTreeMap::from([(0, 4), (1, 2), (2, 2), (4, 2)]));
}

#[test]
fn filters_leave_out_one_kind_of_change() {
    let fixture = fixture();
    let mut session = fixture.session();
    session.create(WatchRequest { no_put: true, ..prefix("") }).unwrap();
    session.create(WatchRequest { no_delete: true, ..prefix("") }).unwrap();
    session.create(WatchRequest { no_put: true, no_delete: true, ..prefix("") }).unwrap();
    fixture.write(&[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    fixture.write(&[(b"a", None), (b"b", Some(b"2"))]);
    fixture.settle();
    let messages = drain(&mut session);
    let of = |wanted| -> Vec<_> {
        let of_it =
            |message: &&WatchMessage| matches!(message, WatchMessage::Events { id, .. } if *id == wanted);
        told(&messages.iter().filter(of_it).cloned().collect::<Vec<_>>())
    };
    assert_eq!(of(0), [(3, "a".to_owned())]);
    assert_eq!(of(1), [(2, "a".to_owned()), (2, "b".to_owned()), (3, "b".to_owned())]);
    assert_eq!(of(2), []);
}

#[test]
fn the_previous_record_is_told_to_those_who_asked_for_it() {
    let fixture = fixture();
    let mut session = fixture.session();
    session.create(WatchRequest { with_previous: true, ..one("a") }).unwrap();
    session.create(one("a")).unwrap();
    fixture.write(&[(b"a", Some(b"1"))]);
    fixture.write(&[(b"a", None)]);
    fixture.settle();
    let mut previous = BTreeMap::<i64, Vec<_>>::new();
    for message in drain(&mut session) {
        if let WatchMessage::Events { id, events, .. } = message {
            let values = events.iter().map(|event| event.previous().map(|record| record.value.clone()));
            previous.entry(id).or_default().extend(values);
        }
    }
    assert_eq!(previous[&0], [None, Some(Bytes::from_static(b"1"))]);
    assert_eq!(previous[&1], [None, None]);
}

#[test]
fn a_client_that_does_not_read_falls_behind_and_misses_nothing() {
    for ring_bytes in [0, 1_000, usize::MAX] {
        let options = WatchOptions { queue_messages: 3, ..WatchOptions::default() };
        let fixture = Fixture::with_ring(options, ring_bytes);
        let (mut slow, mut quick) = (fixture.session(), fixture.session());
        slow.create(prefix("")).unwrap();
        quick.create(prefix("")).unwrap();
        let mut quick_told = Vec::new();
        for _ in 0..40 {
            fixture.put("a");
            fixture.settle();
            quick_told.extend(told(&drain(&mut quick)));
        }
        assert_eq!((fixture.unsynced(), quick_told.len()), (1, 40));
        let mut slow_told = Vec::new();
        loop {
            let messages = drain(&mut slow);
            if messages.is_empty() {
                break;
            }
            slow_told.extend(told(&messages));
            fixture.settle();
        }
        assert_eq!(slow_told, quick_told);
        assert_eq!(fixture.unsynced(), 0);
        assert_eq!(fixture.hub.counters.queue_bytes.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_full_session_keeps_what_it_holds_and_no_more() {
    let options = WatchOptions { queue_bytes: 10_000, ..WatchOptions::default() };
    let fixture = Fixture::new(options);
    let mut session = fixture.session();
    for _ in 0..10 {
        session.create(prefix("")).unwrap();
    }
    for _ in 0..100 {
        fixture.write(&[(b"k", Some(&[b'v'; 1_000]))]);
        fixture.settle();
    }
    let held = fixture.hub.counters.queue_bytes.load(Ordering::Relaxed);
    assert!((8_000..=10_000).contains(&held), "{held}");
    drop(session);
    assert_eq!(fixture.hub.counters.queue_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(fixture.memory.recent.bytes(), 0, "nobody watches");
}

#[test]
fn a_revision_that_does_not_fit_is_not_tried_again_before_the_client_has_read() {
    let options = WatchOptions { queue_bytes: 10_000, ..WatchOptions::default() };
    let fixture = Fixture::new(options);
    let mut session = fixture.session();
    session.create(prefix("")).unwrap();
    fixture.put("small");
    fixture.write(&[(b"large", Some(&[b'v'; 9_900]))]);
    fixture.settle();
    assert_eq!((fixture.unsynced(), fixture.catch_up()), (1, false));
    assert_eq!(told(&drain(&mut session)).len(), 1);
    assert!(fixture.catch_up());
    assert_eq!(told(&drain(&mut session)).len(), 1);
}

#[test]
fn all_sessions_together_hold_no_more_than_they_may_and_still_get_on() {
    let options = WatchOptions { total_queue_bytes: 5_000, ..WatchOptions::default() };
    let fixture = Fixture::new(options);
    let mut sessions: Vec<_> = (0..4).map(|_| fixture.session()).collect();
    for session in &mut sessions {
        session.create(prefix("")).unwrap();
    }
    for _ in 0..50 {
        fixture.write(&[(b"k", Some(&[b'v'; 1_000]))]);
        fixture.settle();
    }
    let held = fixture.hub.counters.queue_bytes.load(Ordering::Relaxed);
    assert!((4_000..=2 * 5_000).contains(&held), "{held}");
    // One who reads is served although the others hold all there is.
    let mut late = fixture.session();
    late.create(prefix("")).unwrap();
    for _ in 0..20 {
        fixture.put("a");
    }
    fixture.settle();
    assert!(told(&drain(&mut late)).len() >= 3);
    let mut counts = [0; 4];
    for _ in 0..100 {
        for (session, count) in sessions.iter_mut().zip(&mut counts) {
            *count += told(&drain(session)).len();
        }
        fixture.settle();
    }
    assert_eq!(counts, [70; 4]);
}

#[test]
fn progress_is_told_after_everything_up_to_it() {
    let options = WatchOptions { queue_messages: 2, ..WatchOptions::default() };
    let fixture = Fixture::new(options);
    let mut session = fixture.session();
    session.create(prefix("")).unwrap();
    for _ in 0..10 {
        fixture.put("a");
    }
    session.request_progress();
    session.request_progress();
    let mut messages = Vec::new();
    for _ in 0..20 {
        fixture.settle();
        messages.extend(drain(&mut session));
    }
    assert_eq!(told(&messages).len(), 10);
    let progress: Vec<_> =
        messages.iter().enumerate().filter(|(_, it)| matches!(it, WatchMessage::Progress { .. })).collect();
    assert_eq!(progress.len(), 1, "one answer is enough");
    assert_eq!((progress[0].0, kind(progress[0].1)), (messages.len() - 1, "progress of -1: 11".to_owned()));
}

#[test]
fn progress_waits_for_dispatch_to_reach_what_was_committed() {
    let fixture = fixture();
    let mut session = fixture.session();
    session.create(one("a")).unwrap();
    fixture.put("b");
    session.request_progress();
    assert_eq!(kinds(&drain(&mut session)), ["created 0 at 1"]);
    fixture.settle();
    assert_eq!(kinds(&drain(&mut session)), ["progress of -1: 2"]);
}

#[test]
fn progress_is_answered_without_watchers_and_takes_no_memory_however_often_asked() {
    let fixture = fixture();
    let mut session = fixture.session();
    for _ in 0..1_000 {
        session.request_progress();
        fixture.put("a");
        fixture.settle();
    }
    assert_eq!(kinds(&drain(&mut session)), ["progress of -1: 1000"]);
}

#[test]
fn canceling_the_watcher_that_is_behind_answers_progress() {
    let fixture = fixture();
    fixture.put("a");
    let mut session = fixture.session();
    session.create(WatchRequest { from: Some(1), ..one("a") }).unwrap();
    session.request_progress();
    assert!(session.cancel(0));
    assert_eq!(kinds(&drain(&mut session)), ["created 0 at 2", "canceled 0", "progress of -1: 2"]);
}

#[test]
fn idle_watchers_that_asked_are_told_how_far_they_are() {
    let fixture = fixture();
    let mut session = fixture.session();
    let asking = |request| WatchRequest { progress: true, ..request };
    session.create(asking(one("a"))).unwrap();
    session.create(asking(one("b"))).unwrap();
    session.create(one("c")).unwrap();
    session.create(WatchRequest { from: Some(1_000), ..asking(one("d")) }).unwrap();
    drain(&mut session);
    fixture.put("a");
    fixture.settle();
    let interval = fixture.hub.now_ms() + 600_000;
    fixture.hub.tell_progress(interval);
    assert_eq!(kinds(&drain(&mut session)), ["1 events for 0"], "something waited");
    fixture.hub.tell_progress(interval + 599_999);
    assert!(drain(&mut session).is_empty(), "not yet");
    fixture.hub.tell_progress(interval + 600_000);
    assert_eq!(kinds(&drain(&mut session)), ["progress of 1: 2"], "0 was told changes since");
    fixture.hub.tell_progress(interval + 1_200_000);
    assert_eq!(kinds(&drain(&mut session)), ["progress of 0: 2", "progress of 1: 2"]);
    session.cancel(0);
    session.cancel(1);
    session.cancel(3);
    assert_eq!(fixture.hub.registry.lock().due_len(), 0);
}

#[test]
fn a_client_that_does_not_read_is_not_told_of_progress_again_and_again() {
    let fixture = fixture();
    let mut session = fixture.session();
    for _ in 0..3 {
        session.create(WatchRequest { progress: true, ..one("a") }).unwrap();
    }
    drain(&mut session);
    for intervals in 1..10 {
        fixture.hub.tell_progress(fixture.hub.now_ms() + intervals * 601_000);
    }
    assert_eq!(kinds(&drain(&mut session)), ["progress of 0: 1", "progress of 1: 1", "progress of 2: 1"]);
    fixture.hub.tell_progress(fixture.hub.now_ms() + 10 * 601_000);
    assert_eq!(drain(&mut session).len(), 3);
}

#[test]
fn a_large_revision_is_split_for_those_who_asked_and_whole_for_others() {
    let options = WatchOptions { message_bytes: 250, ..WatchOptions::default() };
    let fixture = Fixture::new(options);
    let mut session = fixture.session();
    session.create(one("k1")).unwrap();
    session.create(prefix("k")).unwrap();
    session.create(WatchRequest { fragment: true, ..prefix("k") }).unwrap();
    drain(&mut session);
    let value = [b'v'; 60];
    let changes: Vec<(&[u8], Option<&[u8]>)> = [b"k1", b"k2", b"x1", b"k3", b"k4", b"k5"]
        .iter()
        .map(|key| (key.as_slice(), Some(value.as_slice())))
        .collect();
    fixture.write(&changes);
    fixture.put("k6");
    fixture.settle();
    let messages = drain(&mut session);
    let of = |wanted| -> Vec<_> {
        let of_it =
            |message: &&WatchMessage| matches!(message, WatchMessage::Events { id, .. } if *id == wanted);
        messages.iter().filter(of_it).map(kind).collect()
    };
    assert_eq!(of(0), ["1 events for 0"]);
    assert_eq!(of(1), ["5 events for 1", "1 events for 1"]);
    assert_eq!(of(2), ["2 events for 2, more", "2 events for 2, more", "1 events for 2", "1 events for 2"]);
    assert_eq!(fixture.hub.counters.queue_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_change_larger_than_a_message_is_a_message() {
    let options = WatchOptions { message_bytes: 50, ..WatchOptions::default() };
    let fixture = Fixture::new(options);
    let mut session = fixture.session();
    session.create(WatchRequest { fragment: true, ..prefix("") }).unwrap();
    fixture.write(&[(b"a", Some(&[b'v'; 100]))]);
    fixture.write(&[(b"b", Some(&[b'v'; 100])), (b"c", Some(&[b'v'; 100]))]);
    fixture.settle();
    let messages = drain(&mut session);
    assert_eq!(
        kinds(&messages)[1..],
        ["1 events for 0", "1 events for 0, more", "1 events for 0"].map(str::to_owned)
    );
}

#[test]
fn chosen_ids_are_unique_and_left_out_when_ids_are_given() {
    let fixture = fixture();
    let mut session = fixture.session();
    let chosen = |id| WatchRequest { id: Some(id), ..one("a") };
    assert_eq!(session.create(chosen(1)), Ok(1));
    assert_eq!(session.create(chosen(1)), Err(WatchRefusal::DuplicateId));
    assert_eq!(session.create(chosen(ALL_WATCHERS)), Err(WatchRefusal::DuplicateId));
    assert_eq!(session.create(one("a")), Ok(0));
    assert_eq!(session.create(one("a")), Ok(2));
    assert!(session.cancel(1));
    assert!(!session.cancel(1));
    assert_eq!(session.create(chosen(1)), Ok(1));
    let mut other = fixture.session();
    assert_eq!(other.create(chosen(1)), Ok(1), "ids are the session's own");
}

#[test]
fn a_canceled_watcher_is_told_what_waited_and_then_nothing() {
    let fixture = fixture();
    let mut session = fixture.session();
    session.create(one("a")).unwrap();
    fixture.put("a");
    fixture.settle();
    session.cancel(0);
    fixture.put("a");
    fixture.settle();
    assert_eq!(kinds(&drain(&mut session)), ["created 0 at 1", "1 events for 0", "canceled 0"]);
}

#[test]
fn watchers_and_unread_answers_are_limited() {
    let options = WatchOptions {
        max_watchers: 5,
        max_session_watchers: 3,
        max_unread_answers: 10,
        ..WatchOptions::default()
    };
    let fixture = Fixture::new(options);
    let mut session = fixture.session();
    for _ in 0..3 {
        session.create(one("a")).unwrap();
    }
    assert_eq!(session.create(one("a")), Err(WatchRefusal::TooMany { limit: 3 }));
    let mut other = fixture.session();
    for _ in 0..2 {
        other.create(one("a")).unwrap();
    }
    assert_eq!(other.create(one("a")), Err(WatchRefusal::TooMany { limit: 5 }));
    drop(session);
    let unread = std::iter::repeat_with(|| {
        let created = other.create(one("a"));
        created.map(|id| other.cancel(id))
    });
    assert!(unread.take(100).flatten().count() <= 5);
    drain(&mut other);
    assert!(other.create(one("a")).is_ok());
}

#[test]
fn a_snapshot_is_read_from_the_new_state() {
    let fixture = fixture();
    let (mut live, mut behind) = (fixture.session(), fixture.session());
    live.create(prefix("")).unwrap();
    fixture.put("a");
    behind.create(WatchRequest { from: Some(2), ..prefix("") }).unwrap();
    fixture.install(&["b", "c", "d"]);
    fixture.put("e");
    fixture.settle();
    let expected: Vec<_> = (2..).zip(["a", "b", "c", "d", "e"].map(str::to_owned)).collect();
    assert_eq!(told(&drain(&mut live)), expected);
    assert_eq!(told(&drain(&mut behind)), expected);
}

#[test]
fn a_snapshot_that_has_lost_what_watchers_need_cancels_them() {
    let fixture = fixture();
    let mut session = fixture.session();
    session.create(prefix("")).unwrap();
    session.create(WatchRequest { from: Some(5), ..prefix("") }).unwrap();
    fixture.install(&["b", "c", "d", "e"]);
    fixture.compact(4);
    fixture.settle();
    let messages = drain(&mut session);
    assert_eq!(
        kinds(&messages),
        ["created 0 at 1", "created 1 at 1", "canceled 0, compacted 4", "1 events for 1"]
    );
    assert_eq!(told(&messages), [(5, "e".to_owned())]);
}

#[test]
fn old_history_does_not_hold_up_others_that_catch_up() {
    let fixture = Fixture::with_ring(WatchOptions::default(), 0);
    let mut keep = fixture.session();
    keep.create(one("none")).unwrap();
    for _ in 0..5_000 {
        fixture.put("a");
    }
    while fixture.dispatch(100) {}
    let (mut old, mut recent) = (fixture.session(), fixture.session());
    old.create(WatchRequest { from: Some(2), ..one("a") }).unwrap();
    old.create(WatchRequest { from: Some(4_999), ..one("a") }).unwrap();
    recent.create(WatchRequest { from: Some(4_999), ..one("a") }).unwrap();
    for _ in 0..3 {
        fixture.catch_up();
    }
    assert_eq!(told(&drain(&mut recent)).len(), 3);
    let of_second: Vec<_> = drain(&mut old)
        .into_iter()
        .filter(|message| matches!(message, WatchMessage::Events { id: 1, .. }))
        .collect();
    assert_eq!(told(&of_second).len(), 3, "nor others of the same session");
    assert_eq!(fixture.unsynced(), 1);
}

#[test]
fn clients_that_come_back_together_read_history_once() {
    let fixture = Fixture::with_ring(WatchOptions::default(), 0);
    for _ in 0..200 {
        fixture.put("a");
    }
    let mut sessions: Vec<_> = (0..100).map(|_| fixture.session()).collect();
    for session in &mut sessions {
        session.create(WatchRequest { from: Some(2), ..one("a") }).unwrap();
    }
    fixture.settle();
    for session in &mut sessions {
        assert_eq!(told(&drain(session)).len(), 200);
    }
    let reads = fixture.memory.reads.load(Ordering::Relaxed);
    assert!(reads <= 200 / 16 + 1, "{reads} reads");
}

#[test]
fn a_dropped_session_leaves_nothing_behind() {
    let fixture = fixture();
    fixture.put("a");
    let mut session = fixture.session();
    for from in [None, Some(1), Some(100)] {
        session.create(WatchRequest { from, progress: true, ..one("a") }).unwrap();
        session.create(WatchRequest { from, progress: true, ..prefix("a") }).unwrap();
    }
    session.request_progress();
    let queue = Arc::downgrade(&fixture.hub.registry.lock().any_session());
    drop(session);
    fixture.settle();
    assert!(queue.upgrade().is_none());
    assert_eq!(fixture.hub.registry.lock().sizes(), [0; 6]);
}
