//! Transactions, range reads and compaction beside a model that keeps the whole
//! state of every revision and does everything the slow way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{KeyValue, OLDEST_REVISION, ReadError, Record, Removal, Room, Store};
use super::fresh;
use crate::command::{Compare, DeleteOp, Op, OpOutcome, PutOp, Rejection, Relation, Target, Txn, TxnOutcome};
use crate::inflight::InflightBytes;
use crate::keyspace::{KeyRange, RangeRequest, RangeResult, RevisionBounds, Sort, SortBy};

const PLENTY: usize = 1 << 20;
const ANY: Removal = Removal { keys: u64::MAX, bytes: u64::MAX };

type State = BTreeMap<Bytes, Record>;

/// The state after each revision.
#[derive(Debug)]
struct Model {
    states: BTreeMap<i64, State>,
    revision: i64,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        let states = BTreeMap::from([(OLDEST_REVISION, State::new())]);
        Self { states, revision: OLDEST_REVISION, compacted: 0 }
    }

    fn now(&self) -> &State {
        &self.states[&self.revision]
    }

    fn why_unreadable(&self, at: i64) -> Option<Rejection> {
        if at > self.revision {
            return Some(Rejection::FutureRevision { requested: at, current: self.revision });
        }
        let oldest = self.compacted.max(OLDEST_REVISION);
        (at < oldest).then_some(Rejection::Compacted { requested: at, oldest })
    }

    fn run(&mut self, txn: &Txn) -> Result<TxnOutcome, Rejection> {
        self.check(txn)?;
        let before = self.now().clone();
        let mut run = Run { model: self, before: &before, state: before.clone(), changed: false };
        let outcome = run.branch(txn);
        let Run { state, changed, .. } = run;
        if changed {
            self.revision += 1;
            self.states.insert(self.revision, state);
        }
        Ok(outcome)
    }

    /// The first operation of the branches that will be taken which can't be done.
    fn check(&self, txn: &Txn) -> Result<(), Rejection> {
        for op in taken(self.now(), txn).1 {
            match op {
                Op::Txn(nested) => self.check(nested)?,
                Op::Put(put) => {
                    let keeps = put.value.is_none() || put.lease.is_none();
                    if keeps && !self.now().contains_key(&put.key) {
                        return Err(Rejection::KeyNotFound);
                    }
                    // No lease is ever granted here.
                    if let Some(id) = put.lease.filter(|id| *id != 0) {
                        return Err(Rejection::LeaseNotFound { id });
                    }
                }
                Op::Range(RangeRequest { at: Some(at), .. }) => {
                    if let Some(rejection) = self.why_unreadable(*at) {
                        return Err(rejection);
                    }
                }
                Op::Range(_) | Op::Delete(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether the compares hold, and the operations that are then carried out.
fn taken<'t>(state: &State, txn: &'t Txn) -> (bool, &'t [Op]) {
    let holds = txn.compares.iter().all(|compare| {
        let within: Vec<_> = state.iter().filter(|(key, _)| compare.keys.contains(key)).collect();
        if within.is_empty() {
            let absent =
                Record { value: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0, lease: 0 };
            return !matches!(compare.target, Target::Value(_)) && stands(compare, &absent);
        }
        within.iter().all(|(_, record)| stands(compare, record))
    });
    (holds, if holds { &txn.success } else { &txn.failure })
}

fn stands(compare: &Compare, record: &Record) -> bool {
    let (equal, less) = match &compare.target {
        Target::Version(given) => (record.version == *given, record.version < *given),
        Target::CreateRevision(given) => (record.create_revision == *given, record.create_revision < *given),
        Target::ModRevision(given) => (record.mod_revision == *given, record.mod_revision < *given),
        Target::Lease(given) => (record.lease == *given, record.lease < *given),
        Target::Value(given) => (record.value == *given, record.value < *given),
    };
    match compare.relation {
        Relation::Equal => equal,
        Relation::NotEqual => !equal,
        Relation::Less => less,
        Relation::Greater => !less && !equal,
    }
}

/// A transaction that is under way.
struct Run<'m> {
    model: &'m Model,
    before: &'m State,
    state: State,
    changed: bool,
}

impl Run<'_> {
    fn revision(&self) -> i64 {
        self.model.revision + i64::from(self.changed)
    }

    fn branch(&mut self, txn: &Txn) -> TxnOutcome {
        let (succeeded, ops) = taken(self.before, txn);
        let responses = ops.iter().map(|op| self.op(op)).collect();
        TxnOutcome { succeeded, responses, ..TxnOutcome::default() }
    }

    fn op(&mut self, op: &Op) -> OpOutcome {
        match op {
            Op::Txn(nested) => OpOutcome::Txn(self.branch(nested)),
            Op::Range(request) => OpOutcome::Range {
                revision: self.revision(),
                found: find(request.at.map_or(&self.state, |at| &self.model.states[&at]), request),
            },
            Op::Put(put) => {
                let previous = self.state.get(&put.key).cloned();
                self.changed = true;
                let revision = self.revision();
                let kept = previous.as_ref();
                let record = Record {
                    // Nothing is left to keep of a key that the same transaction removed.
                    value: put.value.clone().or(kept.map(|kept| kept.value.clone())).unwrap_or_default(),
                    create_revision: kept.map_or(revision, |kept| kept.create_revision),
                    mod_revision: revision,
                    version: kept.map_or(1, |kept| kept.version + 1),
                    lease: put.lease.or(kept.map(|kept| kept.lease)).unwrap_or_default(),
                };
                self.state.insert(put.key.clone(), record);
                let previous = previous.filter(|_| put.want_previous);
                OpOutcome::Put {
                    revision,
                    previous: previous.map(|record| KeyValue { key: put.key.clone(), record }),
                }
            }
            Op::Delete(delete) => {
                let mut previous = Vec::new();
                self.state.retain(|key, record| {
                    let stays = !delete.keys.contains(key);
                    if !stays {
                        previous.push(KeyValue { key: key.clone(), record: record.clone() });
                    }
                    stays
                });
                self.changed |= !previous.is_empty();
                let count = previous.len() as u64;
                if !delete.want_previous {
                    previous.clear();
                }
                OpOutcome::Deleted { revision: self.revision(), count, previous }
            }
        }
    }
}

fn find(state: &State, request: &RangeRequest) -> RangeResult {
    let within: Vec<_> = state.iter().filter(|(key, _)| request.keys.contains(key)).collect();
    let mut result = RangeResult { count: within.len() as u64, ..RangeResult::default() };
    if request.count_only {
        return result;
    }
    let admitted = |record: &Record| request.revisions.admit(record.create_revision, record.mod_revision);
    let mut items: Vec<_> = within
        .into_iter()
        .filter(|(_, record)| admitted(record))
        .map(|(key, record)| KeyValue { key: key.clone(), record: record.clone() })
        .collect();
    let admitted = items.len() as u64;
    if let Some(Sort { by, descending, first_only }) = request.sort {
        if let Some(limit) = request.limit.filter(|_| first_only) {
            items.truncate(limit as usize + 1);
        }
        // Numbers sort as their big-endian bytes do, being positive here.
        let sort_key = |item: &KeyValue| match by {
            SortBy::Key => item.key.to_vec(),
            SortBy::Value => item.record.value.to_vec(),
            SortBy::Version => item.record.version.to_be_bytes().to_vec(),
            SortBy::CreateRevision => item.record.create_revision.to_be_bytes().to_vec(),
            SortBy::ModRevision => item.record.mod_revision.to_be_bytes().to_vec(),
        };
        items.sort_by(|a, b| {
            let order = sort_key(a).cmp(&sort_key(b));
            if descending { order.reverse() } else { order }
        });
    }
    if let Some(limit) = request.limit {
        result.more = admitted > limit;
        items.truncate(limit as usize);
    }
    if request.keys_only {
        for item in &mut items {
            item.record.value = Bytes::new();
        }
    }
    result.items = items;
    result
}

fn key() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(vec!["a", "a\0", "ab", "b", "c"]).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(vec!["", "1", "2", "10"]).prop_map(Bytes::from)
}

fn keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::One),
        1 => key().prop_map(KeyRange::From),
        1 => Just(KeyRange::all()),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

fn request() -> impl Strategy<Value = RangeRequest> {
    let by = prop_oneof![
        Just(SortBy::Key),
        Just(SortBy::Version),
        Just(SortBy::CreateRevision),
        Just(SortBy::ModRevision),
        Just(SortBy::Value),
    ];
    let sort = proptest::option::of(
        (by, any::<bool>(), any::<bool>()).prop_map(|(by, descending, first_only)| Sort {
            by,
            descending,
            first_only,
        }),
    );
    let bound = || prop_oneof![3 => Just(0_i64), 1 => 1_i64..12];
    let bounds =
        [bound(), bound(), bound(), bound()].prop_map(|[min_mod, max_mod, min_create, max_create]| {
            RevisionBounds { min_mod, max_mod, min_create, max_create }
        });
    let bounds = prop_oneof![3 => Just(RevisionBounds::default()), 1 => bounds];
    let at = prop_oneof![3 => Just(None), 1 => (0_i64..25).prop_map(Some)];
    (keys(), at, proptest::option::of(0_u64..4), sort, any::<bool>(), any::<bool>(), bounds).prop_map(
        |(keys, at, limit, sort, keys_only, count_only, revisions)| RangeRequest {
            keys,
            at,
            limit,
            sort,
            keys_only,
            count_only,
            revisions,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0_i64..4).prop_map(Target::Version),
        (0_i64..12).prop_map(Target::CreateRevision),
        (0_i64..12).prop_map(Target::ModRevision),
        (0_i64..2).prop_map(Target::Lease),
        value().prop_map(Target::Value),
    ];
    let relation = prop_oneof![
        Just(Relation::Equal),
        Just(Relation::NotEqual),
        Just(Relation::Greater),
        Just(Relation::Less)
    ];
    (keys(), target, relation).prop_map(|(keys, target, relation)| Compare { keys, target, relation })
}

fn txn() -> impl Strategy<Value = Txn> {
    let put = (
        key(),
        prop_oneof![5 => value().prop_map(Some), 1 => Just(None)],
        prop_oneof![6 => Just(Some(0)), 1 => Just(None), 1 => Just(Some(7))],
        any::<bool>(),
    )
        .prop_map(|(key, value, lease, want_previous)| Op::Put(PutOp { key, value, lease, want_previous }));
    let delete = (keys(), any::<bool>())
        .prop_map(|(keys, want_previous)| Op::Delete(DeleteOp { keys, want_previous }));
    let op = prop_oneof![5 => put, 2 => delete, 3 => request().prop_map(Op::Range)].boxed();
    let txn = |op: BoxedStrategy<Op>| {
        (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
    };
    txn(prop_oneof![5 => op.clone(), 1 => txn(op).prop_map(Op::Txn)].boxed())
}

#[derive(Debug, Clone)]
enum Step {
    /// Applied as one batch.
    Txns(Vec<Txn>),
    Compact(i64),
    Reclaim,
    Read(RangeRequest),
    ReadTxn(Txn),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => vec(txn(), 1..4).prop_map(Step::Txns),
        1 => (-1_i64..25).prop_map(Step::Compact),
        1 => Just(Step::Reclaim),
        4 => request().prop_map(Step::Read),
        1 => txn().prop_map(Step::ReadTxn),
    ];
    vec(step, 1..12)
}

fn reads_the_past(ops: &[Op]) -> bool {
    ops.iter().any(|op| match op {
        Op::Range(request) => request.at.is_some(),
        Op::Txn(txn) => reads_the_past(&txn.success) || reads_the_past(&txn.failure),
        Op::Put(_) | Op::Delete(_) => false,
    })
}

fn apply(store: &Store, model: &mut Model, txns: &[Txn]) {
    let mut session = store.begin();
    for txn in txns {
        if (reads_the_past(&txn.success) || reads_the_past(&txn.failure)) && !session.is_untouched() {
            session.commit().unwrap();
            session = store.begin();
        }
        let found = session.run(txn, true, &mut Room::of(PLENTY), ANY).unwrap();
        assert_eq!(found, model.run(txn), "{txn:?}");
        assert_eq!(session.revision(), model.revision);
    }
    session.commit().unwrap();
}

fn rejection(error: ReadError) -> Rejection {
    match error {
        ReadError::Compacted { requested, oldest } => Rejection::Compacted { requested, oldest },
        ReadError::FutureRevision { requested, current } => Rejection::FutureRevision { requested, current },
        ReadError::Storage(error) => panic!("{error}"),
    }
}

fn reclaim(store: &Store) {
    assert!(store.wait_reclaimed(Instant::now() + Duration::from_secs(60)).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn transactions_reads_and_compactions_do_what_the_model_does(steps in steps()) {
        let (_dir, store) = fresh();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Txns(txns) => apply(&store, &mut model, &txns),
                Step::Compact(revision) => {
                    let mut session = store.begin();
                    let compacted = session.compact(revision);
                    session.commit().unwrap();
                    if revision > model.revision {
                        assert!(matches!(compacted, Err(ReadError::FutureRevision { .. })));
                    } else if revision < 0 || (revision <= model.compacted && model.compacted > 0) {
                        assert!(matches!(compacted, Err(ReadError::Compacted { .. })));
                    } else {
                        prop_assert!(compacted.is_ok());
                        model.compacted = revision;
                    }
                }
                Step::Reclaim => reclaim(&store),
                Step::Read(request) => {
                    let expected = match request.at.and_then(|at| model.why_unreadable(at)) {
                        Some(rejection) => Err(rejection),
                        None => Ok((
                            model.revision,
                            find(request.at.map_or(model.now(), |at| &model.states[&at]), &request),
                        )),
                    };
                    prop_assert_eq!(store.read(&request, &mut Room::of(PLENTY)).map_err(rejection), expected, "{:?}", request);
                }
                Step::ReadTxn(txn) if txn.is_read_only() => {
                    let found = store.read_txn(&txn, &mut Room::of(PLENTY)).map_err(rejection);
                    let expected = model.run(&txn).map(|outcome| (model.revision, outcome));
                    prop_assert_eq!(found, expected, "{:?}", txn);
                }
                Step::ReadTxn(_) => {}
            }
        }
        // All that was not compacted can still be read, and nothing else.
        reclaim(&store);
        for at in 0..=model.revision + 1 {
            let request = RangeRequest { at: Some(at), ..RangeRequest::of(KeyRange::all()) };
            let expected = match model.why_unreadable(at) {
                Some(rejection) => Err(rejection),
                None => Ok((model.revision, find(&model.states[&at], &request))),
            };
            prop_assert_eq!(store.read(&request, &mut Room::of(PLENTY)).map_err(rejection), expected);
        }
    }
}

fn range_of(items: usize) -> (tempfile::TempDir, Store) {
    let (dir, store) = fresh();
    let mut session = store.begin();
    for number in 0..items {
        session.put(format!("key {number:04}").into(), vec![7; 100].into(), 0).unwrap();
    }
    session.commit().unwrap();
    (dir, store)
}

#[test]
fn an_answer_that_grows_too_large_is_cut_and_says_so() {
    let (_dir, store) = range_of(200);
    let all = RangeRequest::of(KeyRange::all());
    let (_, found) = store.read(&all, &mut Room::of(10_000)).unwrap();
    assert!(found.truncated && found.items.len() < 200);
    let few = RangeRequest { limit: Some(3), ..all.clone() };
    let (_, found) = store.read(&few, &mut Room::of(10_000)).unwrap();
    assert_eq!((found.items.len(), found.more, found.count, found.truncated), (3, true, 200, false));
    // To sort for a few takes the room of a few, however many there are.
    let sort = Some(Sort::descending(SortBy::ModRevision));
    let (_, found) = store.read(&RangeRequest { sort, ..few }, &mut Room::of(10_000)).unwrap();
    assert_eq!((found.items[0].key.as_ref(), found.truncated), (b"key 0199".as_slice(), false));
}

#[test]
fn what_is_read_counts_as_in_flight_and_is_cut_if_it_does_not_fit() {
    let (_dir, store) = range_of(2_000);
    let all = RangeRequest::of(KeyRange::all());
    let inflight = InflightBytes::new(room_of(2_100));
    let read = |request: &RangeRequest| {
        let mut room = Room::counted(PLENTY, &inflight);
        let (_, found) = store.read(request, &mut room).unwrap();
        assert_eq!(found.truncated, room.is_refused());
        (found, room)
    };
    let (found, room) = read(&all);
    let counted = room.into_counted();
    assert_eq!(
        (found.items.len(), counted.count(), inflight.held()),
        (2_000, room_of(2_000), room_of(2_000))
    );
    let (found, room) = read(&all);
    assert!(found.truncated && found.items.len() < 2_000);
    drop(room);
    // Short answers are not counted, nor what was only read to be sorted for one.
    let sort = Some(Sort::descending(SortBy::Value));
    for few in [RangeRequest { limit: Some(9), ..all.clone() }, RangeRequest { limit: Some(9), sort, ..all }]
    {
        let (found, room) = read(&few);
        assert_eq!((found.items.len(), room.into_counted().count()), (9, 0));
    }
    drop(counted);
    assert_eq!(inflight.held(), 0);
}

fn one(key: &'static str) -> KeyRange {
    KeyRange::One(key.into())
}

fn between(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange::Between { start: start.into(), end: end.into() }
}

fn all_of(ops: Vec<Op>) -> Txn {
    Txn { success: ops, ..Txn::default() }
}

/// The room that items of [`range_of`] take.
fn room_of(items: usize) -> usize {
    items * ("key 0000".len() + 100 + size_of::<KeyValue>())
}

/// How many items each range found, and whether it was cut.
fn found_by_ranges(done: &TxnOutcome) -> Vec<(usize, bool)> {
    let of = |response: &OpOutcome| match response {
        OpOutcome::Range { revision: _, found } => vec![(found.items.len(), found.truncated)],
        OpOutcome::Txn(nested) => found_by_ranges(nested),
        OpOutcome::Put { .. } | OpOutcome::Deleted { .. } => Vec::new(),
    };
    done.responses.iter().flat_map(of).collect()
}

#[test]
fn all_ranges_of_a_transaction_share_one_room() {
    let (_dir, store) = range_of(20);
    let range = |keys| Op::Range(RangeRequest::of(keys));
    let txn = all_of(vec![
        range(KeyRange::all()),
        Op::Txn(all_of(vec![range(one("key 0007")), Op::Txn(Txn::of(range(KeyRange::all())))])),
        range(one("key 0008")),
    ]);
    let read = |max_bytes| found_by_ranges(&store.read_txn(&txn, &mut Room::of(max_bytes)).unwrap().1);
    assert_eq!(read(room_of(42)), [(20, false), (1, false), (20, false), (1, false)]);
    assert_eq!(read(room_of(42) - 1), [(20, false), (1, false), (20, false), (0, true)]);
    assert_eq!(read(room_of(41) - 1), [(20, false), (1, false), (20, true), (0, true)]);
    assert_eq!(read(room_of(21) - 1), [(20, false), (0, true), (0, true), (0, true)]);

    let mut session = store.begin();
    let whole = session.run(&txn, true, &mut Room::of(room_of(42)), ANY).unwrap().unwrap();
    assert_eq!(found_by_ranges(&whole), read(PLENTY));
    let cut = session.run(&txn, true, &mut Room::of(room_of(42) - 1), ANY).unwrap();
    assert_eq!(cut, Err(Rejection::AnswerForgotten { revision: 21 }));
}

#[test]
fn what_a_range_does_not_keep_gives_its_room_back() {
    let (_dir, store) = range_of(20);
    let sort = Some(Sort::descending(SortBy::Key));
    let last = RangeRequest { sort, limit: Some(2), ..RangeRequest::of(KeyRange::all()) };
    let txn = all_of(vec![Op::Range(last); 8]);
    let mut session = store.begin();
    let mut room = Room::of(room_of(20));
    session.run(&txn, true, &mut room, ANY).unwrap().unwrap();
    // The last one holds five for a moment, beside the fourteen of the others.
    assert!(room.used_more_than(room_of(19) - 1) && !room.used_more_than(room_of(19)));
}

#[test]
fn what_is_replaced_and_removed_shares_the_room_and_the_change_happens_all_the_same() {
    let (_dir, store) = range_of(20);
    let key = Bytes::from("key 0000");
    let put = PutOp { key, value: Some("new".into()), lease: Some(0), want_previous: true };
    let delete = DeleteOp { keys: between("key 0001", "l"), want_previous: true };
    let txn = all_of(vec![Op::Put(put), Op::Txn(Txn::of(Op::Delete(delete)))]);

    // A session that is dropped changes nothing.
    let whole = store.begin().run(&txn, true, &mut Room::of(room_of(20)), ANY).unwrap();
    assert_eq!(whole.map(|done| done.responses.len()), Ok(2));
    let mut room = Room::of(0);
    let unasked = store.begin().run(&txn, false, &mut room, ANY).unwrap();
    assert_eq!(unasked, Ok(TxnOutcome { succeeded: true, ..TxnOutcome::default() }));
    assert!(!room.used_more_than(0), "nobody hears of it");

    let mut session = store.begin();
    let cut = session.run(&txn, true, &mut Room::of(room_of(20) - 1), ANY).unwrap();
    assert_eq!(cut, Err(Rejection::AnswerForgotten { revision: 22 }));
    session.commit().unwrap();
    let (_, left) = store.read(&RangeRequest::of(KeyRange::all()), &mut Room::of(PLENTY)).unwrap();
    let left: Vec<_> = left.items.into_iter().map(|item| (item.key, item.record.value)).collect();
    assert_eq!(left, [(Bytes::from("key 0000"), Bytes::from("new"))]);
}

#[test]
fn of_several_impossible_operations_the_first_is_named() {
    let (_dir, store) = range_of(1);
    let future = Op::Range(RangeRequest { at: Some(99), ..RangeRequest::of(KeyRange::all()) });
    let keeps_nothing =
        Op::Put(PutOp { key: "absent".into(), value: Some("v".into()), lease: None, want_previous: false });
    let within = |op: &Op| Op::Txn(all_of(vec![op.clone()]));
    let run = |ops: Vec<Op>| {
        let mut room = Room::of(PLENTY);
        store.begin().run(&all_of(ops), true, &mut room, ANY).unwrap().unwrap_err()
    };
    let is_future = |rejection| matches!(rejection, Rejection::FutureRevision { requested: 99, .. });
    assert!(is_future(run(vec![future.clone(), keeps_nothing.clone()])));
    assert!(is_future(run(vec![within(&future), keeps_nothing.clone()])));
    assert_eq!(run(vec![keeps_nothing.clone(), future.clone()]), Rejection::KeyNotFound);
    assert_eq!(run(vec![within(&keeps_nothing), future]), Rejection::KeyNotFound);
}

#[test]
fn a_transaction_that_would_remove_too_much_is_refused_before_it_changes_anything() {
    let (_dir, store) = range_of(10);
    let delete = |keys| Op::Delete(DeleteOp { keys, want_previous: false });
    let put = PutOp { key: "a".into(), value: Some("v".into()), lease: Some(0), want_previous: false };
    let txn = all_of(vec![
        Op::Put(put),
        delete(between("key 0000", "key 0004")),
        Op::Txn(all_of(vec![delete(between("key 0004", "key 0008")), delete(one("absent"))])),
        delete(one("key 0008")),
    ]);
    let bytes = 9 * 108;
    let run = |txn: &Txn, most| {
        let mut session = store.begin();
        let done = session.run(txn, true, &mut Room::of(PLENTY), most).unwrap();
        assert_eq!(done.is_err(), session.is_untouched() && session.revision() == 11, "{done:?}");
        done.map(|_| ())
    };
    assert_eq!(run(&txn, Removal { keys: 9, bytes }), Ok(()));
    for most in [Removal { keys: 8, bytes }, Removal { keys: 9, bytes: bytes - 1 }] {
        let refused = Rejection::DeletionTooLarge { max_keys: most.keys, max_bytes: most.bytes };
        assert_eq!(run(&txn, most), Err(refused));
    }
}

#[test]
fn a_deletion_in_a_branch_that_is_not_taken_may_be_of_any_size() {
    let (_dir, store) = range_of(10);
    let delete = Op::Delete(DeleteOp { keys: KeyRange::all(), want_previous: false });
    let never = Compare { keys: one("key 0000"), target: Target::Version(7), relation: Relation::Equal };
    let txn = Txn { compares: vec![never], success: vec![delete], failure: Vec::new() };
    let nothing = Removal { keys: 0, bytes: 0 };
    let done = store.begin().run(&txn, true, &mut Room::of(PLENTY), nothing).unwrap();
    assert_eq!(done, Ok(TxnOutcome::default()));
}

#[test]
fn history_is_read_in_pieces_that_a_few_large_values_fill() {
    let (_dir, store) = range_of(50);
    let revisions = |from, limit, max_bytes| {
        let events = store.events(from, limit, max_bytes).unwrap();
        events.into_iter().map(|of| of.revision).collect::<Vec<_>>()
    };
    assert_eq!(revisions(2, 3, PLENTY), [2, 3, 4]);
    // Each is 108 bytes, and the piece ends with the one that fills it.
    assert_eq!(revisions(2, 50, 109), [2, 3]);
    assert_eq!(revisions(2, 50, 108), [2]);
    assert_eq!(revisions(40, 50, 0), [40], "at least one");
    assert_eq!(revisions(60, 50, 0), [0_i64; 0]);
}

#[test]
fn compaction_takes_the_past_from_the_disk_and_leaves_what_can_be_read() {
    use super::super::schema;
    use crate::engine::Scan;

    let (_dir, store) = fresh();
    for number in 0..10_000 {
        let mut session = store.begin();
        session.put(format!("key {}", number % 10).into(), vec![7; 50].into(), 0).unwrap();
        session.commit().unwrap();
    }
    let entries = |family| {
        let mut cursor = store.shared.db.cursor(store.shared.family(family), Scan::default());
        cursor.first().unwrap();
        let mut count = 0;
        while cursor.key().is_some() {
            count += 1;
            cursor.step().unwrap();
        }
        count
    };
    assert_eq!((entries(schema::HISTORY), entries(schema::CHANGES)), (9_990, 10_000));
    let mut session = store.begin();
    session.compact(10_000).unwrap();
    session.commit().unwrap();
    reclaim(&store);
    // The changes at 10,000 and 10,001, and what the latter replaced.
    assert_eq!((entries(schema::HISTORY), entries(schema::CHANGES)), (1, 2));
    assert_eq!(store.hash_at(10_000).unwrap(), store.changes(10_000, 1).unwrap()[0].hash);
}
