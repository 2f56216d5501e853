//! Random writes, compactions, snapshots, watchers and slow readers against what
//! each watcher should have been told: exactly the changes of its range, once, in
//! order, and those of one revision together.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::watch::{ALL_WATCHERS, WatchRefusal};

const SESSIONS: usize = 3;
const KEYS: [&str; 6] = ["a", "a1", "a2", "b", "b1", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// One revision that puts or removes these keys.
    Write(BTreeMap<usize, bool>),
    /// Compacts up to so many revisions before the last one.
    Compact(i64),
    /// Revisions that come with a snapshot; then compacts as above, if at all.
    Install(Vec<usize>, Option<i64>),
    /// A session asks for a watcher, whose start is relative to the revision after
    /// the last one.
    Create(usize, WatchRequest),
    Cancel(usize, i64),
    RequestProgress(usize),
    /// The interval of progress messages passes.
    Wait,
    /// Reads so many messages.
    Read(usize, usize),
    Dispatch(usize),
    BeginTurn,
    EndTurn,
    /// The client goes away and comes back without watchers.
    Reconnect(usize),
}

fn keys() -> impl Strategy<Value = KeyRange> {
    let key = || proptest::sample::select(KEYS.as_slice()).prop_map(|key| Bytes::from_static(key.as_bytes()));
    prop_oneof![
        3 => key().prop_map(KeyRange::One),
        2 => key().prop_map(KeyRange::prefix),
        1 => key().prop_map(KeyRange::From),
        1 => (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
        1 => Just(KeyRange::all()),
    ]
}

fn create() -> impl Strategy<Value = Step> {
    let from = prop_oneof![2 => Just(None), 4 => (-12_i64..1).prop_map(Some), 1 => (0_i64..5).prop_map(Some)];
    let flags = [any::<bool>(), any::<bool>(), any::<bool>()];
    let filters = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let id = prop::option::weighted(0.2, 0_i64..6);
    (0..SESSIONS, keys(), from, filters, flags, id).prop_map(
        |(session, keys, from, (no_put, no_delete), [with_previous, fragment, progress], id)| {
            let request =
                WatchRequest { keys, from, with_previous, no_put, no_delete, progress, fragment, id };
            Step::Create(session, request)
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let write = proptest::collection::btree_map(0..KEYS.len(), prop::bool::weighted(0.7), 1..5);
    let installed = proptest::collection::vec(0..KEYS.len(), 0..4);
    prop_oneof![
        10 => write.prop_map(Step::Write),
        1 => (0_i64..6).prop_map(Step::Compact),
        1 => (installed, prop::option::weighted(0.3, 0_i64..6)).prop_map(|(keys, compact)| Step::Install(keys, compact)),
        4 => create(),
        1 => (0..SESSIONS, 0_i64..6).prop_map(|(session, id)| Step::Cancel(session, id)),
        1 => (0..SESSIONS).prop_map(Step::RequestProgress),
        1 => Just(Step::Wait),
        4 => (0..SESSIONS, 1_usize..6).prop_map(|(session, count)| Step::Read(session, count)),
        5 => (1_usize..5).prop_map(Step::Dispatch),
        4 => Just(Step::BeginTurn),
        4 => Just(Step::EndTurn),
        1 => (0..SESSIONS).prop_map(Step::Reconnect),
    ]
}

/// What a watcher should be told, and what it was.
struct Expected {
    request: WatchRequest,
    start: i64,
    is_created: bool,
    told: Vec<(i64, Event)>,
    /// Whether the last message's revision goes on.
    is_open: bool,
    is_ended: bool,
}

impl Expected {
    fn wants(&self, revision: i64, event: &Event) -> bool {
        let is_left_out = match event.kind {
            ChangeKind::Put => self.request.no_put,
            ChangeKind::Delete => self.request.no_delete,
        };
        revision >= self.start && !is_left_out && self.request.keys.contains(&event.key)
    }

    /// All that it should be told up to `revision`.
    fn up_to(&self, state: &MemoryState, revision: i64) -> Vec<(i64, Event)> {
        let all = state.revisions.iter().filter(|events| events.revision <= revision);
        let all = all.flat_map(|events| events.events.iter().map(|event| (events.revision, event.clone())));
        let wanted = all.filter(|(revision, event)| self.wants(*revision, event));
        let shown = |(revision, mut event): (i64, Event)| {
            event.previous = event.previous.filter(|_| self.request.with_previous);
            (revision, event)
        };
        wanted.map(shown).collect()
    }
}

struct Client {
    session: WatchSession,
    watchers: Vec<(i64, Expected)>,
    /// The store's revision at each request for progress that is not answered.
    asked: Vec<i64>,
    questions: usize,
    answers: usize,
}

impl Client {
    fn new(fixture: &Fixture) -> Self {
        Self { session: fixture.session(), watchers: Vec::new(), asked: Vec::new(), questions: 0, answers: 0 }
    }

    /// The watcher that has the id now, or had it last.
    fn watcher(&mut self, wanted: i64) -> &mut Expected {
        let found = self.watchers.iter_mut().find(|(id, watcher)| *id == wanted && !watcher.is_ended);
        &mut found.expect("messages are for watchers that live").1
    }

    /// Reads one message and holds it against what was written.
    fn read(&mut self, state: &MemoryState) -> bool {
        let Some(message) = self.session.try_next() else { return false };
        match message {
            WatchMessage::Created { id, revision } => {
                let watcher = self.watcher(id);
                assert!(!watcher.is_created);
                assert!(watcher.request.from.is_some() || revision + 1 == watcher.start);
                watcher.is_created = true;
            }
            WatchMessage::Events { id, revision, events, more } => {
                let watcher = self.watcher(id);
                assert!(watcher.is_created && !events.is_empty());
                assert!(!more || watcher.request.fragment);
                for event in &events {
                    let told = Event {
                        kind: event.kind(),
                        key: event.key().clone(),
                        record: event.record().cloned(),
                        previous: event.previous().cloned(),
                    };
                    watcher.told.push((event.revision(), told));
                }
                let last = watcher.told.last().expect("there are changes").0;
                assert!(revision >= last && revision <= state.revision());
                watcher.is_open = more;
                let expected = watcher.up_to(state, last);
                if more {
                    assert!(watcher.told.len() < expected.len(), "more is to come");
                    assert_eq!(watcher.told, expected[..watcher.told.len()]);
                } else {
                    assert_eq!(watcher.told, expected);
                }
            }
            WatchMessage::Progress { id: ALL_WATCHERS, revision } => {
                self.answers += 1;
                assert!(self.answers <= self.questions, "nobody asked");
                self.asked.retain(|asked| *asked > revision);
                for (_, watcher) in
                    self.watchers.iter().filter(|(_, watcher)| watcher.is_created && !watcher.is_ended)
                {
                    assert!(!watcher.is_open);
                    let known = watcher.told.iter().filter(|(told, _)| *told <= revision).cloned();
                    assert_eq!(known.collect::<Vec<_>>(), watcher.up_to(state, revision));
                }
            }
            WatchMessage::Progress { id, revision } => {
                let watcher = self.watcher(id);
                assert!(watcher.is_created && watcher.request.progress && !watcher.is_open);
                assert!(revision + 1 >= watcher.start);
                assert_eq!(watcher.told, watcher.up_to(state, revision));
            }
            WatchMessage::Canceled { id, reason, .. } => {
                let watcher = self.watcher(id);
                assert!(watcher.is_created && !watcher.is_open);
                if let CancelReason::Compacted { compacted } = reason {
                    assert!(compacted <= state.compacted && watcher.start < compacted);
                }
                watcher.is_ended = true;
            }
            WatchMessage::Closed => panic!("the hub is open"),
        }
        true
    }
}

struct World {
    fixture: Fixture,
    clients: Vec<Client>,
    /// A turn of catch-up whose read is done and that is to be ended.
    turn: Option<(Turn, Read)>,
    now_ms: u64,
}

impl World {
    fn new(options: WatchOptions, ring_bytes: usize) -> Self {
        let fixture = Fixture::with_ring(options, ring_bytes);
        let clients = (0..SESSIONS).map(|_| Client::new(&fixture)).collect();
        let now_ms = fixture.hub.now_ms();
        Self { fixture, clients, turn: None, now_ms }
    }

    fn read(&mut self, client: usize, count: usize) -> usize {
        let state = self.fixture.memory.state.lock();
        let revision = state.revision();
        let copy = MemoryState {
            current: BTreeMap::new(),
            revisions: state.revisions.clone(),
            compacted: state.compacted,
        };
        drop(state);
        assert_eq!(copy.revision(), revision);
        (0..count).take_while(|_| self.clients[client].read(&copy)).count()
    }

    fn compact(&self, before_last: i64) {
        let mut state = self.fixture.memory.state.lock();
        state.compacted = state.compacted.max(state.revision() - before_last);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(keys) => {
                let changes: Vec<_> = keys
                    .iter()
                    .map(|(key, put)| (KEYS[*key].as_bytes(), put.then_some(b"value".as_slice())))
                    .collect();
                self.fixture.write(&changes);
            }
            Step::Compact(before_last) => self.compact(before_last),
            Step::Install(keys, compact) => {
                let keys: Vec<_> = keys.into_iter().map(|key| KEYS[key]).collect();
                self.fixture.install(&keys);
                if let Some(before_last) = compact {
                    self.compact(before_last);
                }
            }
            Step::Create(session, asked) => {
                let next = self.fixture.memory.state.lock().revision() + 1;
                let from = asked.from.map(|from| next + from);
                let request = WatchRequest { from, ..asked };
                let client = &mut self.clients[session];
                let is_used = |id| client.watchers.iter().any(|(other, it)| *other == id && !it.is_ended);
                match client.session.create(request.clone()) {
                    Ok(given) => {
                        assert!(request.id.is_none_or(|id| id == given));
                        let start = from.unwrap_or(next).max(OLDEST_REVISION);
                        let (told, is_created) = (Vec::new(), false);
                        let expected =
                            Expected { request, start, is_created, told, is_open: false, is_ended: false };
                        client.watchers.push((given, expected));
                    }
                    Err(refusal) => {
                        assert_eq!(refusal, WatchRefusal::DuplicateId);
                        assert!(is_used(request.id.expect("only chosen ids can be in use")));
                    }
                }
            }
            Step::Cancel(session, id) => {
                self.clients[session].session.cancel(id);
            }
            Step::RequestProgress(session) => {
                let revision = self.fixture.memory.state.lock().revision();
                let client = &mut self.clients[session];
                client.session.request_progress();
                client.questions += 1;
                client.asked.push(revision);
            }
            Step::Wait => {
                self.now_ms += 600_000;
                self.fixture.hub.tell_progress(self.now_ms);
            }
            Step::Read(session, count) => {
                self.read(session, count);
            }
            Step::Dispatch(revisions) => {
                self.fixture.dispatch(revisions);
            }
            Step::BeginTurn => {
                if self.turn.is_none()
                    && let Some(turn) = self.fixture.hub.begin_turn()
                {
                    let read = self.fixture.read(&turn);
                    self.turn = Some((turn, read));
                }
            }
            Step::EndTurn => {
                if let Some((turn, read)) = self.turn.take() {
                    self.fixture.end_turn(&turn, read);
                }
            }
            Step::Reconnect(session) => self.clients[session] = Client::new(&self.fixture),
        }
    }

    /// Lets everything come to rest, and asks whether anybody misses anything.
    fn finish(mut self) {
        self.take(Step::EndTurn);
        loop {
            self.fixture.settle();
            if (0..SESSIONS).map(|client| self.read(client, usize::MAX)).sum::<usize>() == 0 {
                break;
            }
        }
        assert_eq!(self.fixture.unsynced(), 0);
        let state = self.fixture.memory.state.lock();
        for client in &self.clients {
            assert!(client.asked.is_empty(), "each question is answered");
            for (_, watcher) in &client.watchers {
                assert!(watcher.is_created && !watcher.is_open);
                if !watcher.is_ended {
                    assert_eq!(watcher.told, watcher.up_to(&state, state.revision()));
                }
            }
        }
        drop(state);
        assert_eq!(self.fixture.hub.counters.queue_bytes.load(Ordering::Relaxed), 0);
        self.clients.clear();
        assert_eq!(self.fixture.hub.registry.lock().sizes(), [0; 6]);
    }
}

proptest! {
    #[test]
    fn every_watcher_is_told_exactly_the_changes_of_its_range(
        steps in proptest::collection::vec(step(), 1..120),
        queue_messages in 1_usize..8,
        queue_bytes in prop_oneof![Just(400_usize), Just(2_000), Just(usize::MAX)],
        total_queue_bytes in prop_oneof![Just(1_000_usize), Just(usize::MAX)],
        message_bytes in prop_oneof![Just(90_usize), Just(300), Just(usize::MAX)],
        ring_bytes in prop_oneof![Just(0_usize), Just(1_500), Just(usize::MAX)],
    ) {
        let options = WatchOptions {
            queue_messages,
            queue_bytes,
            total_queue_bytes,
            message_bytes,
            ..WatchOptions::default()
        };
        let mut world = World::new(options, ring_bytes);
        for step in steps {
            world.take(step);
        }
        world.finish();
    }
}
