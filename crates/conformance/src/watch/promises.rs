//! The six promises, and that an event says what happened.
//!
//! A history is judged against the truth: everything that happened, by revision. One
//! pass over the messages of a watcher keeps what has been told and what has been
//! promised, and every contradiction becomes a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::history::{Event, Message, Truth, Watcher, Write};
use crate::step::Keys;

/// What etcd promises about a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Events are told in the order of their revisions.
    Ordered,
    /// No event is told twice.
    Unique,
    /// No event is left out between two that are told.
    Reliable,
    /// A revision is told as a whole, in one message.
    Atomic,
    /// A new watch from where the last one ended leaves nothing out.
    Resumable,
    /// Progress comes only after everything up to its revision.
    Bookmarkable,
    /// An event says what happened. No promise of its own in etcd's words, but what all
    /// the others are worth.
    Faithful,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// The name of the watcher; empty for what concerns the store.
    pub watcher: String,
    /// What happened instead.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "not {:?}: {}: {}", self.promise, self.watcher, self.text)
    }
}

/// Judges what one watcher was told.
pub fn check(truth: &Truth, watcher: &Watcher) -> Vec<Violation> {
    let mut judge = Judge {
        truth,
        watcher,
        violations: Vec::new(),
        told: BTreeSet::new(),
        // Without a first revision it begins with what comes after the watch was created.
        from: watcher.from,
        asked: watcher.from,
        resumed: false,
        last: i64::MIN,
        bookmark: i64::MIN,
        whole: i64::MIN,
        fragment: false,
    };
    for message in &watcher.messages {
        judge.hear(message);
    }
    judge.finish();
    judge.violations
}

struct Judge<'a> {
    truth: &'a Truth,
    watcher: &'a Watcher,
    violations: Vec<Violation>,
    /// The events told so far.
    told: BTreeSet<(i64, Bytes)>,
    /// The first revision of the present connection that is not yet known to be told.
    from: Option<i64>,
    /// The first revision that was asked for by the present connection.
    asked: Option<i64>,
    /// Whether nothing has been told since the connection was made anew.
    resumed: bool,
    /// The newest revision told.
    last: i64,
    /// The newest revision named by progress.
    bookmark: i64,
    /// The newest revision that ended a message, and so must not go on.
    whole: i64,
    /// Whether the message before was a part of one.
    fragment: bool,
}

impl Judge<'_> {
    fn violated(&mut self, promise: Promise, text: String) {
        self.violations.push(Violation { promise, watcher: self.watcher.name.clone(), text });
    }

    fn hear(&mut self, message: &Message) {
        match message {
            Message::Created { revision } => {
                self.from.get_or_insert(revision + 1);
                self.asked.get_or_insert(revision + 1);
            }
            Message::Events { events, fragment } => {
                for event in events {
                    self.event(event);
                }
                if let Some(last) = events.last() {
                    self.told_through(last.revision, *fragment);
                }
                self.fragment = *fragment;
            }
            Message::Progress { revision } => {
                self.nothing_missing(*revision, Promise::Bookmarkable);
                self.bookmark = self.bookmark.max(*revision);
            }
            Message::Resumed { from } => {
                self.from = Some(*from);
                self.asked = Some(*from);
                self.resumed = true;
                self.fragment = false;
                // What a lost connection was in the midst of may be told again from there on.
                self.told.retain(|(revision, _)| revision < from);
                self.last = self.last.min(from - 1);
                self.whole = self.whole.min(from - 1);
                self.bookmark = self.bookmark.min(from - 1);
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let at = event.revision;
        let place = (at, event.key.clone());
        if self.told.contains(&place) {
            self.violated(Promise::Unique, format!("{:?} at {at} is told again", event.key));
            return;
        }
        if at < self.last {
            self.violated(Promise::Ordered, format!("{:?} at {at} is told after {}", event.key, self.last));
        } else if at <= self.whole && !self.fragment {
            self.violated(Promise::Atomic, format!("revision {at} goes on in another message"));
        }
        if at <= self.bookmark {
            let text = format!("{:?} at {at} is told after progress to {}", event.key, self.bookmark);
            self.violated(Promise::Bookmarkable, text);
        }
        if self.asked.is_some_and(|asked| at < asked) && at > self.last {
            let promise = if self.resumed { Promise::Resumable } else { Promise::Faithful };
            self.violated(promise, format!("{:?} at {at} is older than what was asked for", event.key));
        }
        self.faithful(event);
        self.told.insert(place);
        self.last = self.last.max(at);
    }

    fn faithful(&mut self, event: &Event) {
        if !self.watcher.keys.contains(&event.key) {
            let text = format!("{:?} at {} is none of the keys", event.key, event.revision);
            return self.violated(Promise::Faithful, text);
        }
        let happened = self.truth.revisions.get(&event.revision).into_iter().flatten();
        let happened = happened.filter(|other| other.key == event.key).find(|other| {
            other.put == event.put && (event.previous == other.previous || !self.watcher.with_previous)
        });
        if happened.is_none() {
            self.violated(Promise::Faithful, format!("{event:?} did not happen so"));
        }
        if event.previous.is_some() && !self.watcher.with_previous {
            let text = format!("{:?} at {} shows what nobody asked for", event.key, event.revision);
            self.violated(Promise::Faithful, text);
        }
    }

    /// A message ended with that revision: everything up to it must have been told.
    fn told_through(&mut self, revision: i64, fragment: bool) {
        if fragment {
            self.nothing_missing(revision - 1, Promise::Reliable);
        } else {
            self.nothing_missing(revision, Promise::Reliable);
            self.whole = self.whole.max(revision);
        }
        self.resumed = false;
    }

    /// Finds what happened from the last known place to that revision and was not told.
    fn nothing_missing(&mut self, revision: i64, otherwise: Promise) {
        let Some(from) = self.from else { return };
        let missing: Vec<_> = self
            .truth
            .between(&self.watcher.keys, from, revision)
            .filter(|event| !self.told.contains(&(event.revision, event.key.clone())))
            .map(|event| (event.revision, event.key.clone()))
            .collect();
        for (at, key) in missing {
            let begun = self.told.range((at, Bytes::new())..).next().is_some_and(|(told, _)| *told == at);
            let promise = match (otherwise == Promise::Reliable, begun, self.resumed) {
                (true, true, _) => Promise::Atomic,
                (true, false, true) => Promise::Resumable,
                (true, false, false) | (false, ..) => otherwise,
            };
            self.violated(promise, format!("{key:?} at {at} is left out, and {revision} is told"));
        }
        self.from = Some(from.max(revision + 1));
    }

    fn finish(&mut self) {
        if let Some(until) = self.watcher.until {
            self.nothing_missing(until, Promise::Reliable);
        }
    }
}

/// Judges the truth itself: each write that was answered happened at its revision, as
/// it was made, and nothing else did.
pub fn check_writes(truth: &Truth, writes: &[Write], keys: &Keys) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violated = |text: String| {
        violations.push(Violation { promise: Promise::Reliable, watcher: String::new(), text });
    };
    let changes_of = |events: &[Event]| -> BTreeMap<Bytes, Option<Bytes>> {
        events
            .iter()
            .map(|event| (event.key.clone(), event.put.as_ref().map(|put| put.value.clone())))
            .collect()
    };
    // Writes are told apart by their values, of which no two are alike.
    let mut unanswered: Vec<BTreeMap<Bytes, Option<Bytes>>> = Vec::new();
    let mut answered: BTreeMap<i64, &Write> = BTreeMap::new();
    for write in writes {
        match write.revision {
            Some(revision) => {
                if answered.insert(revision, write).is_some() {
                    violated(format!("two writes were answered with revision {revision}"));
                }
            }
            None => unanswered.push(write.changes.iter().cloned().collect()),
        }
    }
    for (revision, write) in &answered {
        let made: BTreeMap<_, _> = write.changes.iter().cloned().collect();
        match truth.revisions.get(revision) {
            None => violated(format!("the write answered with revision {revision} is lost: {made:?}")),
            Some(events) if !subset_with_deletions(&changes_of(events), &made) => {
                violated(format!("revision {revision} is {events:?} and not {made:?}"));
            }
            Some(_) => {}
        }
    }
    for (revision, events) in &truth.revisions {
        if answered.contains_key(revision) || !events.iter().any(|event| keys.contains(&event.key)) {
            continue;
        }
        // Each write explains one revision at most: none happens twice.
        let changes = changes_of(events);
        match unanswered.iter().position(|made| subset_with_deletions(&changes, made)) {
            Some(at) => drop(unanswered.swap_remove(at)),
            None => violated(format!("nobody wrote revision {revision}, or somebody did twice: {events:?}")),
        }
    }
    violations
}

/// Whether these changes are those that were made; a deletion of an absent key is none.
fn subset_with_deletions(
    changes: &BTreeMap<Bytes, Option<Bytes>>,
    made: &BTreeMap<Bytes, Option<Bytes>>,
) -> bool {
    changes.iter().all(|(key, change)| made.get(key) == Some(change))
        && made.iter().all(|(key, change)| change.is_none() || changes.contains_key(key))
}
