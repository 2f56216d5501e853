//! Who watches a key: single keys by hash, ranges by an interval tree.
//!
//! Watchers of the same key or range form a group, so that a lookup costs what
//! distinct ranges it meets, not how many watch them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::intervals::{Bounds, Intervals};
use super::watcher::{Kinds, Watcher};
use crate::keyspace::KeyRange;
use crate::mvcc::RevisionEvents;

/// A set of watchers.
#[derive(Default)]
pub(super) struct Index {
    keys: HashMap<Bytes, Group>,
    ranges: Intervals<Group>,
    len: usize,
    /// Counts lookups, so that a lookup knows which groups it has met.
    lookups: Cell<u64>,
}

/// The watchers of one range.
struct Group {
    watchers: Vec<Arc<Watcher>>,
    met_in: Cell<u64>,
    kinds: Cell<Kinds>,
}

impl Group {
    fn of(watcher: Arc<Watcher>) -> Self {
        watcher.set_position(0);
        Self { watchers: vec![watcher], met_in: Cell::new(0), kinds: Cell::new(Kinds::default()) }
    }

    fn add(&mut self, watcher: Arc<Watcher>) {
        watcher.set_position(self.watchers.len());
        self.watchers.push(watcher);
    }

    /// Whether it was there, and the group is empty without it.
    fn remove(&mut self, watcher: &Arc<Watcher>) -> Option<bool> {
        let position = watcher.position();
        let is_there = self.watchers.get(position).is_some_and(|there| Arc::ptr_eq(there, watcher));
        if !is_there {
            return None;
        }
        self.watchers.swap_remove(position);
        if let Some(moved) = self.watchers.get(position) {
            moved.set_position(position);
        }
        if self.watchers.len() < self.watchers.capacity() / 4 {
            self.watchers.shrink_to(self.watchers.len() * 2);
        }
        Some(self.watchers.is_empty())
    }
}

fn bounds(keys: &KeyRange) -> Bounds {
    match keys {
        KeyRange::Between { start, end } => (start.clone(), Some(end.clone())),
        KeyRange::One(start) | KeyRange::From(start) => (start.clone(), None),
    }
}

impl Index {
    /// How many watchers there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a watcher that is in no index.
    pub(super) fn insert(&mut self, watcher: Arc<Watcher>) {
        self.len += 1;
        if let KeyRange::One(key) = &watcher.keys {
            if let Some(group) = self.keys.get_mut(key) {
                group.add(watcher);
            } else {
                self.keys.insert(key.clone(), Group::of(watcher));
            }
            return;
        }
        let bounds = bounds(&watcher.keys);
        if let Some(group) = self.ranges.get_mut(&bounds) {
            group.add(watcher);
        } else {
            self.ranges.insert(bounds, Group::of(watcher));
        }
    }

    /// Takes a watcher out if it is here.
    pub(super) fn remove(&mut self, watcher: &Arc<Watcher>) {
        let is_empty;
        if let KeyRange::One(key) = &watcher.keys {
            is_empty = self.keys.get_mut(key).and_then(|group| group.remove(watcher));
            if is_empty == Some(true) {
                self.keys.remove(key);
                if self.keys.len() < self.keys.capacity() / 4 {
                    self.keys.shrink_to(self.keys.len() * 2);
                }
            }
        } else {
            let bounds = bounds(&watcher.keys);
            is_empty = self.ranges.get_mut(&bounds).and_then(|group| group.remove(watcher));
            if is_empty == Some(true) {
                self.ranges.remove(&bounds);
            }
        }
        self.len -= usize::from(is_empty.is_some());
    }

    /// Gives each watcher whose range has a change in `events` once, if it wants a
    /// change of that kind.
    pub(super) fn matching<'a>(&'a self, events: &RevisionEvents, mut found: impl FnMut(&'a Arc<Watcher>)) {
        let lookup = self.lookups.get().wrapping_add(1);
        self.lookups.set(lookup);
        let mut met = Vec::new();
        for event in &events.events {
            let kind = Kinds::of(event.kind);
            let mut note = |group: &'a Group| {
                if group.met_in.replace(lookup) == lookup {
                    group.kinds.set(group.kinds.get().with(kind));
                } else {
                    group.kinds.set(kind);
                    met.push(group);
                }
            };
            if let Some(group) = self.keys.get(&event.key) {
                note(group);
            }
            self.ranges.containing(&event.key, note);
        }
        for group in met {
            let kinds = group.kinds.get();
            group.watchers.iter().filter(|watcher| watcher.wants(kinds)).for_each(&mut found);
        }
    }

    /// All watchers, in no particular order.
    pub(super) fn all(&self) -> Vec<&Arc<Watcher>> {
        let mut all: Vec<_> = self.keys.values().flat_map(|group| &group.watchers).collect();
        self.ranges.all(|group| all.extend(&group.watchers));
        all
    }
}
