//! What watchers are told, over a history in memory. Most tests take the hub's
//! steps themselves, and but for the measurements none depends on how long
//! anything takes.

mod behaviour;
mod model;
mod rates;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::catch_up::Turn;
use super::hub::Hub;
use super::{CancelReason, History, WatchEvent, WatchMessage, WatchOptions, WatchRequest, WatchSession};
use crate::keyspace::{KeyRange, Record};
use crate::mvcc::{ChangeKind, Event, OLDEST_REVISION, ReadError, RevisionEvents};
use crate::store::RecentEvents;

/// A store that keeps its changes in memory, and nothing else.
struct Memory {
    state: Mutex<MemoryState>,
    recent: RecentEvents,
    reads: AtomicUsize,
}

#[derive(Default)]
struct MemoryState {
    current: BTreeMap<Bytes, Record>,
    /// In order, the first one being that of revision 2.
    revisions: Vec<RevisionEvents>,
    compacted: i64,
}

impl MemoryState {
    fn revision(&self) -> i64 {
        OLDEST_REVISION + self.revisions.len() as i64
    }

    fn change(&mut self, changes: &[(&[u8], Option<&[u8]>)]) -> RevisionEvents {
        let revision = self.revision() + 1;
        let mut events = Vec::new();
        for (key, value) in changes {
            let key = Bytes::copy_from_slice(key);
            let previous = self.current.remove(&key);
            let record = value.map(|value| Record {
                value: Bytes::copy_from_slice(value),
                create_revision: previous.as_ref().map_or(revision, |record| record.create_revision),
                mod_revision: revision,
                version: previous.as_ref().map_or(1, |record| record.version + 1),
                lease: 0,
            });
            let kind = if record.is_some() { ChangeKind::Put } else { ChangeKind::Delete };
            self.current.extend(record.clone().map(|record| (key.clone(), record)));
            events.push(Event { kind, key, record, previous });
        }
        let events = RevisionEvents { revision, events };
        self.revisions.push(events.clone());
        events
    }
}

impl Memory {
    fn new(ring_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            recent: RecentEvents::new(OLDEST_REVISION, ring_bytes),
            reads: AtomicUsize::new(0),
        }
    }
}

impl History for Arc<Memory> {
    fn revision(&self) -> i64 {
        self.state.lock().revision()
    }

    fn compacted(&self) -> i64 {
        self.state.lock().compacted
    }

    fn recent(&self) -> &RecentEvents {
        &self.recent
    }

    fn events(&self, from: i64, limit: usize, _: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        let oldest = state.compacted.max(OLDEST_REVISION);
        if from < oldest {
            return Err(ReadError::Compacted { requested: from, oldest });
        }
        let mut found = Vec::new();
        let mut changes = 0;
        for events in state.revisions.iter().skip((from - OLDEST_REVISION - 1).max(0) as usize) {
            if changes >= limit {
                break;
            }
            changes += events.events.len();
            found.push(events.clone());
        }
        Ok(found)
    }
}

/// What reading a piece of history gave.
type Read = Result<Vec<Arc<RevisionEvents>>, ReadError>;

/// A hub whose steps the test takes.
struct Fixture {
    memory: Arc<Memory>,
    hub: Arc<Hub>,
}

impl Fixture {
    fn new(options: WatchOptions) -> Self {
        Self::with_ring(options, usize::MAX)
    }

    fn with_ring(options: WatchOptions, ring_bytes: usize) -> Self {
        let memory = Arc::new(Memory::new(ring_bytes));
        let hub = Arc::new(Hub::new(Arc::new(Arc::clone(&memory)), options));
        Self { memory, hub }
    }

    fn session(&self) -> WatchSession {
        WatchSession::new(Arc::clone(&self.hub))
    }

    /// Commits one revision.
    fn write(&self, changes: &[(&[u8], Option<&[u8]>)]) -> i64 {
        let events = self.memory.state.lock().change(changes);
        let revision = events.revision;
        self.memory.recent.push(vec![events]);
        revision
    }

    fn put(&self, key: &str) -> i64 {
        self.write(&[(key.as_bytes(), Some(b"v"))])
    }

    /// Commits revisions as a snapshot from a peer does: without batches.
    fn install(&self, keys: &[&str]) -> i64 {
        let mut state = self.memory.state.lock();
        for key in keys {
            state.change(&[(key.as_bytes(), Some(b"installed"))]);
        }
        let revision = state.revision();
        drop(state);
        self.memory.recent.reset(revision);
        revision
    }

    fn compact(&self, revision: i64) {
        self.memory.state.lock().compacted = revision;
    }

    /// Hands out one piece of what is committed; false if nothing is left.
    fn dispatch(&self, revisions: usize) -> bool {
        let Some(from) = self.hub.upcoming() else { return false };
        match self.hub.recent(from, revisions).map_or_else(|| self.hub.past(from, revisions), Ok) {
            Ok(events) => {
                assert!(!events.is_empty());
                for events in &events {
                    self.hub.dispatch(events);
                }
            }
            Err(ReadError::Compacted { oldest, .. }) => self.hub.skip_compacted(oldest),
            Err(error) => panic!("{error}"),
        }
        true
    }

    /// Reads what a turn needs.
    fn read(&self, turn: &Turn) -> Read {
        self.hub.recent(turn.from, 4).map_or_else(|| self.hub.past(turn.from, turn.changes), Ok)
    }

    fn end_turn(&self, turn: &Turn, read: Read) {
        match read {
            Ok(events) => {
                assert!(!events.is_empty(), "history has what was committed");
                self.hub.end_turn(turn, events);
            }
            Err(ReadError::Compacted { oldest, .. }) => self.hub.end_turn_compacted(turn, oldest),
            Err(error) => panic!("{error}"),
        }
    }

    /// Serves the session at the head of the line; false if nobody stands in it.
    fn catch_up(&self) -> bool {
        let Some(turn) = self.hub.begin_turn() else { return false };
        let read = self.read(&turn);
        self.end_turn(&turn, read);
        true
    }

    /// Takes steps until none is left.
    fn settle(&self) {
        let steps = (0..1_000_000).take_while(|_| self.dispatch(3) || self.catch_up());
        assert!(steps.count() < 1_000_000, "steps that change nothing");
    }

    fn unsynced(&self) -> usize {
        self.hub.registry.lock().unsynced.len()
    }
}

fn one(key: &str) -> WatchRequest {
    WatchRequest::of(KeyRange::One(Bytes::copy_from_slice(key.as_bytes())))
}

fn prefix(prefix: &str) -> WatchRequest {
    WatchRequest::of(KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes())))
}

fn drain(session: &mut WatchSession) -> Vec<WatchMessage> {
    std::iter::from_fn(|| session.try_next()).collect()
}

/// Revision and key of each change, whoever it is for.
fn told(messages: &[WatchMessage]) -> Vec<(i64, String)> {
    let changes = |message: &WatchMessage| {
        if let WatchMessage::Events { events, .. } = message { events.clone() } else { Vec::new() }
    };
    let name = |event: WatchEvent| {
        (event.revision(), String::from_utf8(event.key().to_vec()).expect("the tests' keys are text"))
    };
    messages.iter().flat_map(changes).map(name).collect()
}

/// A message in short, without its changes.
fn kind(message: &WatchMessage) -> String {
    match message {
        WatchMessage::Created { id, revision } => format!("created {id} at {revision}"),
        WatchMessage::Events { id, events, more, .. } => {
            format!("{} events for {id}{}", events.len(), if *more { ", more" } else { "" })
        }
        WatchMessage::Progress { id, revision } => format!("progress of {id}: {revision}"),
        WatchMessage::Canceled { id, reason: CancelReason::ByClient, .. } => format!("canceled {id}"),
        WatchMessage::Canceled { id, reason: CancelReason::Compacted { compacted }, .. } => {
            format!("canceled {id}, compacted {compacted}")
        }
        WatchMessage::Closed => "closed".to_owned(),
    }
}

fn kinds(messages: &[WatchMessage]) -> Vec<String> {
    messages.iter().map(kind).collect()
}
