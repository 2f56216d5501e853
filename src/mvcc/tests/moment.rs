//! A moment of the store beside what reads of it answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{KeptChange, Lease, Moment, OLDEST_REVISION, Record, Store};
use super::{ANYTHING, RangeQuery, fresh, put};
use crate::error::StorageError;

type State = BTreeMap<Bytes, Record>;

fn state_at(store: &Store, at: i64) -> State {
    let page = store.range(&RangeQuery { at: Some(at), ..ANYTHING }).unwrap();
    page.items.into_iter().map(|item| (item.key, item.record)).collect()
}

/// The state at the compacted revision, and after each later one.
fn states(moment: &Moment<'_>) -> BTreeMap<i64, State> {
    let mut state = State::new();
    let visited: Result<(), StorageError> = moment.base(|item| {
        state.insert(item.key, item.record);
        Ok(())
    });
    visited.unwrap();
    let mut states = BTreeMap::from([(moment.compacted().max(OLDEST_REVISION), state.clone())]);
    let visited: Result<(), StorageError> = moment.changes(|change| {
        let KeptChange { main, key, record, .. } = change;
        match record {
            Some(record) => state.insert(key, record),
            None => state.remove(&key),
        };
        states.insert(main, state.clone());
        Ok(())
    });
    visited.unwrap();
    states
}

/// What a batch does: keys that are put (or deleted), several at one revision or not.
#[derive(Debug, Clone)]
enum Step {
    Commands(Vec<(u8, bool)>),
    AtOnce(Vec<(u8, bool)>),
    Compact(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = || vec((0..6_u8, any::<bool>()), 1..6);
    let step = prop_oneof![
        3 => changes().prop_map(Step::Commands),
        3 => changes().prop_map(Step::AtOnce),
        1 => (0..=100_u8).prop_map(Step::Compact),
    ];
    vec(step, 1..12)
}

fn run(store: &Store, step: &Step) {
    let mut session = store.begin();
    let change = |session: &mut super::super::WriteSession<'_>, key: u8, puts: bool| {
        let key = Bytes::copy_from_slice(&[b'k', key, 0, key]);
        if puts {
            session.put(key, Bytes::from_static(b"value"), 0).map(|_| ())
        } else {
            session.delete(key).map(|_| ())
        }
    };
    match step {
        Step::Commands(changes) => {
            for (key, puts) in changes {
                change(&mut session, *key, *puts).unwrap();
            }
        }
        Step::AtOnce(changes) => {
            let distinct: BTreeMap<_, _> = changes.iter().copied().collect();
            let done: Result<(), StorageError> = session.at_one_revision(|session| {
                distinct.iter().try_for_each(|(key, puts)| change(session, *key, *puts))
            });
            done.unwrap();
        }
        Step::Compact(percent) => {
            // What was compacted before is refused, and nothing is done.
            let _ = session.compact(session.revision() * i64::from(*percent) / 100);
        }
    }
    session.commit().unwrap();
}

proptest! {
    #[test]
    fn a_moment_gives_the_state_at_every_revision_that_can_be_read(steps in steps()) {
        let (_dir, store) = fresh();
        for step in &steps {
            run(&store, step);
        }
        let moment = store.moment().unwrap();
        let oldest = store.compacted_revision().max(OLDEST_REVISION);
        let states = states(&moment);
        prop_assert_eq!(states.keys().copied().collect::<Vec<_>>(), (oldest..=store.revision()).collect::<Vec<_>>());
        for (at, state) in states {
            prop_assert_eq!(state, state_at(&store, at), "at {}", at);
        }
    }
}

#[test]
fn a_moment_does_not_see_what_comes_after_it() {
    let (_dir, store) = fresh();
    put(&store, "a", "one");
    put(&store, "b", "one");
    let before =
        BTreeMap::from([(1, state_at(&store, 1)), (2, state_at(&store, 2)), (3, state_at(&store, 3))]);
    let moment = store.moment().unwrap();
    let latest = put(&store, "a", "two");
    let mut session = store.begin();
    session.set_lease(Lease { id: 1, ttl: 9, expires_at: 9_000, ending: false });
    session.compact(latest).unwrap();
    session.commit().unwrap();
    let reclaimed = store.wait_reclaimed(std::time::Instant::now() + std::time::Duration::from_secs(30));
    assert!(reclaimed.unwrap());
    assert_eq!(states(&moment), before);
    let visited: Result<(), StorageError> = moment.leases(|lease, _| panic!("{lease:?} came later"));
    visited.unwrap();
    assert_eq!((moment.revision(), moment.compacted()), (3, 0));
}

#[test]
fn leases_are_visited_with_the_time_that_they_have_left() {
    let (_dir, store) = fresh();
    let lease = |id, expires_at| Lease { id, ttl: 60, expires_at, ending: false };
    let mut session = store.begin();
    session.set_lease(lease(5, 70_000));
    session.set_lease(lease(-5, 9_000));
    session.set_lease_clock(10_000);
    session.commit().unwrap();
    let mut visited = Vec::new();
    let all: Result<(), StorageError> = store.moment().unwrap().leases(|lease, left| {
        visited.push((lease.id, left));
        Ok(())
    });
    all.unwrap();
    assert_eq!(visited, [(-5, 0), (5, 60_000)]);
}
