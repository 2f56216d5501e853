//! What etcd promises of watches, for every watcher against the order of all changes:
//! ordered, unique, reliable, atomic, resumable, bookmarkable; and that each event is what
//! happened to a key that was watched.

use std::collections::{BTreeMap, HashSet};

use super::Verdict;
use super::truth::{Fact, Truth};
use crate::history::{Event, History, WatchLog, WatchNote};

const CHECK: &str = "watch";

/// Judges all watchers.
pub(super) fn check(history: &History, truth: &Truth<'_>, verdict: &mut Verdict) {
    let mut by_prefix: BTreeMap<&str, Vec<&WatchLog>> = BTreeMap::new();
    for watch in &history.watches {
        by_prefix.entry(&watch.prefix).or_default().push(watch);
    }
    for (prefix, watches) in by_prefix {
        let facts: Vec<&Fact<'_>> =
            truth.facts().iter().filter(|fact| fact.event.key.starts_with(prefix)).collect();
        for watch in watches {
            verdict.count("watch.watchers", 1);
            let mut judge = Judge { watch, facts: &facts, truth, verdict, segment: Segment::default() };
            for note in &watch.notes {
                judge.hear(note);
            }
            let reached = judge.segment.cursor.is_some_and(|cursor| cursor > truth.last_revision());
            verdict.count("watch.reached_the_end", u64::from(reached));
        }
    }
}

/// What is known since the watcher asked last.
#[derive(Debug, Default)]
struct Segment {
    /// What it asked for; `None` before it asked anything.
    from: Option<i64>,
    /// The first revision that is not known to be told; `None` if it asked for what comes
    /// and nothing came yet.
    cursor: Option<i64>,
    /// The greatest revision that was told.
    last: i64,
    /// The greatest revision that progress named.
    bookmark: i64,
    /// Whether anything was told.
    told_any: bool,
}

struct Judge<'a, 'h> {
    watch: &'a WatchLog,
    /// What the watcher should be told, in order.
    facts: &'a [&'a Fact<'h>],
    truth: &'a Truth<'h>,
    verdict: &'a mut Verdict,
    segment: Segment,
}

impl Judge<'_, '_> {
    fn broken(&mut self, kind: &str, key: Option<&str>, text: impl FnOnce() -> String) {
        let watcher = self.watch.watcher;
        self.verdict.problem((CHECK, kind), key, &[], || format!("watcher {watcher} {}", text()));
    }

    fn hear(&mut self, note: &WatchNote) {
        if self.segment.from.is_none() && !matches!(note, WatchNote::Opened { .. } | WatchNote::Lost { .. }) {
            self.broken("malformed", None, || "was told something before it asked".to_owned());
            self.segment.from = Some(0);
        }
        match note {
            WatchNote::Opened { from_revision, .. } => {
                self.verdict.count("watch.opened", 1);
                let from = *from_revision;
                self.segment =
                    Segment { from: Some(from), cursor: (from > 0).then_some(from), ..Segment::default() };
            }
            WatchNote::Events { events, .. } => self.events(events),
            WatchNote::Progress { revision, .. } => self.progress(*revision),
            WatchNote::Compacted { compact_revision, .. } => self.compacted(*compact_revision),
            WatchNote::Lost { .. } => {}
        }
    }

    fn events(&mut self, events: &[Event]) {
        self.verdict.count("watch.messages", 1);
        self.verdict.count("watch.events", events.len() as u64);
        for group in events.chunk_by(|one, other| one.mod_revision == other.mod_revision) {
            let Some(revision) = group.first().map(|event| event.mod_revision) else { continue };
            self.in_order(revision, group);
            let mut keys: HashSet<&str> = HashSet::new();
            for event in group {
                self.faithful(event);
                if !keys.insert(&event.key) {
                    self.broken("unique", Some(&event.key), || {
                        format!("was told {} at revision {revision} twice in one message", event.key)
                    });
                }
            }
            let whole = self.between(revision, revision);
            if let Some(missing) = whole.iter().find(|fact| !keys.contains(fact.event.key.as_str())) {
                let key = missing.event.key.clone();
                self.broken("atomic", Some(&key), || {
                    format!("was told revision {revision} without {key} in one message")
                });
            }
            let segment = &mut self.segment;
            segment.last = segment.last.max(revision);
            segment.cursor = Some(segment.cursor.map_or(revision + 1, |cursor| cursor.max(revision + 1)));
            segment.told_any = true;
        }
    }

    /// Whether a revision may be told now.
    fn in_order(&mut self, revision: i64, group: &[Event]) {
        let Segment { from, cursor, last, bookmark, told_any } = self.segment;
        let key = group.first().map(|event| event.key.as_str());
        if told_any && revision < last {
            self.broken("ordered", key, || format!("was told revision {revision} after {last}"));
        } else if told_any && revision == last {
            self.broken("unique", key, || format!("was told revision {revision} in two messages"));
        } else if from.is_some_and(|from| revision < from) {
            let from = from.unwrap_or_default();
            self.broken("resumable", key, || {
                format!("was told revision {revision} and had asked from {from} on")
            });
        } else if let Some(cursor) = cursor {
            let skipped = self.between(cursor, revision - 1);
            if let Some(first) = skipped.first() {
                let (missing, count) = (first.event.mod_revision, skipped.len());
                let kind = if told_any { "reliable" } else { "resumable" };
                let key = first.event.key.clone();
                self.broken(kind, Some(&key), || {
                    format!("was told revision {revision} and not {missing}, with {count} changes left out")
                });
            }
        }
        if revision <= bookmark {
            self.broken("bookmarkable", key, || {
                format!("was told revision {revision} after it was told to have seen all to {bookmark}")
            });
        }
    }

    /// What it should be told of a range of revisions.
    fn between(&self, from: i64, to: i64) -> &[&Fact<'_>] {
        let place = |revision: i64| self.facts.partition_point(|fact| fact.event.mod_revision < revision);
        self.facts.get(place(from)..place(to.saturating_add(1))).unwrap_or_default()
    }

    fn faithful(&mut self, event: &Event) {
        let revision = event.mod_revision;
        if !event.key.starts_with(&self.watch.prefix) {
            let prefix = self.watch.prefix.clone();
            self.broken("filter", Some(&event.key), || {
                format!("was told {} at revision {revision}, and watches {prefix:?}", event.key)
            });
            return;
        }
        let happened = self.truth.at(revision).into_iter().flatten().find(|fact| fact.event.key == event.key);
        match happened.map(|fact| &fact.event.record) {
            Some(record) if *record == event.record => {}
            Some(record) => {
                let record = record.clone();
                self.broken("faithful", Some(&event.key), || {
                    format!(
                        "was told {} = {:?} at revision {revision}, which was {record:?}",
                        event.key, event.record
                    )
                });
            }
            None => self.broken("faithful", Some(&event.key), || {
                format!("was told that {} changed at revision {revision}, which it did not", event.key)
            }),
        }
    }

    fn progress(&mut self, revision: i64) {
        self.verdict.count("watch.progress", 1);
        let last = self.truth.last_revision();
        if revision > last {
            self.broken("bookmarkable", None, || {
                format!("was told to have seen all to revision {revision}, and the last one is {last}")
            });
        }
        if let Some(cursor) = self.segment.cursor
            && let Some(missing) = self.between(cursor, revision).first()
        {
            let (missing, key) = (missing.event.mod_revision, missing.event.key.clone());
            self.broken("bookmarkable", Some(&key), || {
                format!("was told to have seen all to revision {revision}, and not told of {missing}")
            });
        }
        let segment = &mut self.segment;
        segment.bookmark = segment.bookmark.max(revision);
        segment.cursor = Some(segment.cursor.map_or(revision + 1, |cursor| cursor.max(revision + 1)));
    }

    fn compacted(&mut self, compact_revision: i64) {
        self.verdict.count("watch.compacted", 1);
        let last = self.truth.last_revision();
        // All that there is may be compacted.
        if compact_revision > last + 1 {
            self.broken("compacted", None, || {
                format!("was told that all before {compact_revision} is compacted, and the last revision is {last}")
            });
        }
        if let Some(next) = self.segment.cursor.filter(|next| *next >= compact_revision) {
            self.broken("compacted", None, || {
                format!("needed revision {next} and was told it is compacted, before {compact_revision}")
            });
        }
    }
}
