//! The store beside a plain model that keeps every version of every key in
//! memory: whatever the commands, restarts and crashes, both answer the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::tests::{copy_folder, removed_on_the_way};
use crate::engine::{Batch, Db, Journal};

mod model;
mod moment;
mod rates;
mod txn;

use model::{Model, Op, Step, query, steps};

const ANYTHING: RangeQuery = RangeQuery {
    start: Bytes::new(),
    end: None,
    at: None,
    limit: usize::MAX,
    max_bytes: usize::MAX,
    keys_only: false,
    count_only: false,
};

fn small() -> EngineOptions {
    EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 19 }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, &small()).unwrap()
}

fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (dir, store)
}

fn put(store: &Store, key: &'static str, value: &'static str) -> i64 {
    let mut session = store.begin();
    let done = session.put(key.into(), value.into(), 0).unwrap();
    session.commit().unwrap();
    done.revision
}

fn delete(store: &Store, key: &'static str) -> Option<i64> {
    let mut session = store.begin();
    let deleted = session.delete(key.into()).unwrap();
    session.commit().unwrap();
    deleted.map(|(revision, _)| revision)
}

fn value(store: &Store, key: &str, at: Option<i64>) -> Option<Bytes> {
    store.get(key.as_bytes(), at).unwrap().record.map(|record| record.value)
}

/// Applies one batch to both and compares every answer.
fn apply(store: &Store, model: &mut Model, ops: &[Op], applied: u64) {
    let mut session = store.begin();
    for op in ops {
        match op {
            Op::Get(key) => assert_eq!(session.get(key).unwrap(), model.get(key, model.revision)),
            Op::Put { key, value, lease } => {
                let previous = model.get(key, model.revision);
                let record = model.put(key, value, *lease);
                let done = session.put(key.clone(), value.clone(), *lease).unwrap();
                assert_eq!(
                    done,
                    PutDone { revision: record.mod_revision, previous, version: record.version }
                );
            }
            Op::Delete(key) => {
                let expected = model.delete(key).map(|previous| (model.revision, previous));
                assert_eq!(session.delete(key.clone()).unwrap(), expected);
            }
        }
        assert_eq!(session.revision(), model.revision);
    }
    session.set_meta("applied", applied.to_be_bytes().to_vec());
    session.commit().unwrap();
}

fn applied(store: &Store) -> u64 {
    store.meta("applied").unwrap().map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))
}

fn assert_equal(store: &Store, model: &Model, queries: &[RangeQuery]) {
    assert_eq!(store.revision(), model.revision);
    assert_eq!(store.changes(OLDEST_REVISION, usize::MAX).unwrap().len(), model.changes.len());
    for at in OLDEST_REVISION..=model.revision {
        for key in model.keys() {
            let lookup = store.get(key, Some(at)).unwrap();
            assert_eq!(lookup.record, model.get(key, at), "{key:?} at {at}");
        }
        let everything = store.range(&RangeQuery { at: Some(at), ..ANYTHING }).unwrap();
        assert_eq!(everything.items, model.range(&ANYTHING, at), "all keys at {at}");
    }
    for key in model.keys() {
        let lookup = store.get(key, None).unwrap();
        assert_eq!(lookup, Lookup { revision: model.revision, record: model.get(key, model.revision) });
    }
    for query in queries {
        // The strategy knows no revisions: fold what it chose into the range.
        let at = query.at.map(|at| OLDEST_REVISION + at.rem_euclid(model.revision));
        let query = RangeQuery { at, ..query.clone() };
        assert_eq!(store.range(&query).unwrap(), model.page(&query), "{query:?}");
    }
    for (change, expected) in store.changes(OLDEST_REVISION, usize::MAX).unwrap().iter().zip(&model.changes) {
        assert_eq!(
            (change.main, change.sub, change.kind, &change.key),
            (expected.0, 0, expected.1, &expected.2)
        );
        assert_eq!(store.hash_at(change.main).unwrap(), change.hash);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_answers_as_the_model_across_restarts_and_crashes(
        steps in steps(),
        queries in vec(query(), 1..12),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut dir = root.path().join("0");
        let mut store = open(&dir);
        let mut models = vec![Model::default()];
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Batch(ops) => {
                    let mut model = models.last().unwrap().clone();
                    apply(&store, &mut model, ops, models.len() as u64);
                    models.push(model);
                }
                Step::Flush => {
                    store.flush().unwrap();
                    models = vec![models.pop().unwrap()];
                    let mut session = store.begin();
                    session.set_meta("applied", 0_u64.to_be_bytes().to_vec());
                    session.commit().unwrap();
                    store.flush().unwrap();
                }
                Step::Restart => {
                    drop(store);
                    store = open(&dir);
                    prop_assert_eq!(applied(&store) as usize, models.len() - 1);
                }
                Step::Crash => {
                    let copy = root.path().join((number + 1).to_string());
                    store.shared.db.keep_obsolete_files();
                    copy_folder(&dir, &copy);
                    drop(store);
                    dir = copy;
                    store = open(&dir);
                    // Some batches may be lost, but those that are kept are the
                    // first ones, whole, and the blob tells how many.
                    models.truncate(applied(&store) as usize + 1);
                }
            }
            prop_assert_eq!(store.revision(), models.last().unwrap().revision);
        }
        assert_equal(&store, models.last().unwrap(), &queries);
    }

    #[test]
    fn equal_commands_give_equal_hashes_whatever_the_batches_and_restarts(
        ops in vec(model::op(), 1..40),
        split in 1_usize..40,
    ) {
        let (_one, one) = fresh();
        let (dir, mut two) = fresh();
        apply(&one, &mut Model::default(), &ops, 0);
        let mut model = Model::default();
        for ops in ops.chunks(split) {
            apply(&two, &mut model, ops, 1);
            drop(two);
            two = open(dir.path());
        }
        prop_assert_eq!(one.state_hash(), two.state_hash());
        prop_assert_eq!(
            one.changes(OLDEST_REVISION, usize::MAX).unwrap(),
            two.changes(OLDEST_REVISION, usize::MAX).unwrap()
        );
    }

    #[test]
    fn dedup_entries_read_back_in_order_from_batch_and_store(
        batches in vec(vec((vec(0_u8..3, 0..4), any::<Option<u8>>()), 1..10), 1..5),
        prefix in vec(0_u8..3, 0..2),
    ) {
        let (_dir, store) = fresh();
        let mut expected = BTreeMap::new();
        for batch in batches {
            let mut session = store.begin();
            for (key, value) in batch {
                if let Some(value) = value {
                    session.dedup_put(key.clone().into(), vec![value].into());
                    expected.insert(key.clone(), vec![value]);
                } else {
                    session.dedup_delete(key.clone().into());
                    expected.remove(&key);
                }
                let found = session.dedup_get(&key).unwrap();
                prop_assert_eq!(found.as_deref(), expected.get(&key).map(Vec::as_slice));
            }
            let mut walked = Vec::new();
            let mut from = prefix.clone();
            while let Some((key, value)) = session.dedup_from(&prefix, &from).unwrap() {
                from = [&key[..], &[0]].concat();
                walked.push((key.to_vec(), value.to_vec()));
            }
            let of_prefix: Vec<_> =
                expected.clone().into_iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
            let first = session.dedup_first(&prefix).unwrap().map(|(key, value)| (key.to_vec(), value.to_vec()));
            prop_assert_eq!(first.as_ref(), of_prefix.first());
            prop_assert_eq!(walked, of_prefix);
            session.commit().unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_first_dedup_entry_is_the_same_whether_or_not_its_place_is_remembered(
        sessions in vec((vec((vec(0_u8..3, 0..4), 0_u8..4), 0..8), 0_u8..8), 1..20),
        prefixes in vec(vec(0_u8..3, 0..2), 1..3),
    ) {
        let (dir, mut store) = fresh();
        let mut expected = BTreeSet::new();
        for (ops, end) in sessions {
            let before = expected.clone();
            let mut session = store.begin();
            for (key, op) in ops {
                match op {
                    0 => {
                        session.dedup_put(key.clone().into(), Bytes::new());
                        expected.insert(key);
                    }
                    1 => {
                        session.dedup_delete(key.clone().into());
                        expected.remove(&key);
                    }
                    // From the front, as those who remove what is due.
                    _ => {
                        let Some((first, _)) = session.dedup_first(&prefixes[0]).unwrap() else { continue };
                        expected.remove(&first[..]);
                        session.dedup_delete(first);
                    }
                }
                for prefix in &prefixes {
                    let first = session.dedup_first(prefix).unwrap().map(|(key, _)| key.to_vec());
                    let sought = session.dedup_from(prefix, prefix).unwrap().map(|(key, _)| key.to_vec());
                    prop_assert_eq!(&first, &sought);
                    prop_assert_eq!(first.as_ref(), expected.iter().find(|key| key.starts_with(prefix)));
                }
            }
            if end == 0 {
                drop(session);
                expected = before;
            } else {
                session.commit().unwrap();
            }
            if end == 1 {
                drop(store);
                store = open(dir.path());
            }
        }
    }
}

#[test]
fn dedup_entries_that_were_removed_from_the_front_are_not_stepped_over() {
    const COUNT: u32 = 300;
    let (_dir, store) = fresh();
    let key = |number: u32| Bytes::from([b"e".as_slice(), &number.to_be_bytes()].concat());
    let mut session = store.begin();
    for number in 0..=COUNT {
        session.dedup_put(key(number), Bytes::new());
        session.dedup_put([b"t".as_slice(), &number.to_be_bytes()].concat().into(), Bytes::new());
    }
    session.commit().unwrap();
    for number in 0..COUNT {
        let mut session = store.begin();
        let (first, removed) = removed_on_the_way(|| session.dedup_first(b"e").unwrap());
        assert_eq!(first.unwrap().0, key(number));
        assert!(removed <= 1, "{removed} removed entries before {number}");
        session.dedup_delete(key(number));
        session.dedup_delete([b"t".as_slice(), &number.to_be_bytes()].concat().into());
        session.commit().unwrap();
    }
    let mut session = store.begin();
    let (_, removed) = removed_on_the_way(|| session.dedup_from(b"e", b"e").unwrap());
    assert!(removed >= u64::from(COUNT), "{removed}");
    // The last one goes, and nothing of another prefix is met behind it.
    session.dedup_delete(key(COUNT));
    let (first, removed) = removed_on_the_way(|| session.dedup_first(b"e").unwrap());
    assert!(first.is_none() && removed <= 2, "{removed}");
}

#[test]
fn an_empty_store_is_at_revision_one_and_reads_as_empty() {
    let (dir, store) = fresh();
    let hash = store.state_hash();
    assert_eq!((hash.0, store.compacted_revision(), store.hash_at(1).unwrap()), (1, 0, hash.1));
    assert_eq!(store.get(b"k", None).unwrap(), Lookup { revision: 1, record: None });
    assert_eq!(store.get(b"k", Some(1)).unwrap(), Lookup { revision: 1, record: None });
    assert_eq!(store.range(&ANYTHING).unwrap().items, []);
    assert_eq!(store.changes(1, 10).unwrap(), []);
    drop(store);
    assert_eq!(open(dir.path()).state_hash(), hash);
}

#[test]
fn deleting_an_absent_key_takes_no_revision() {
    let (_dir, store) = fresh();
    assert_eq!(delete(&store, "k"), None);
    assert_eq!(put(&store, "k", "v"), 2);
    assert_eq!(delete(&store, "k"), Some(3));
    assert_eq!(delete(&store, "k"), None);
    assert_eq!(store.revision(), 3);
}

#[test]
fn a_key_starts_anew_after_its_deletion() {
    let (_dir, store) = fresh();
    put(&store, "k", "a");
    put(&store, "k", "b");
    delete(&store, "k");
    put(&store, "k", "c");
    let record = store.get(b"k", None).unwrap().record.unwrap();
    assert_eq!((record.create_revision, record.mod_revision, record.version), (5, 5, 1));
    let old = store.get(b"k", Some(3)).unwrap().record.unwrap();
    assert_eq!((old.create_revision, old.mod_revision, old.version), (2, 3, 2));
    assert_eq!(value(&store, "k", Some(4)), None);
}

#[test]
fn a_put_without_a_lease_detaches() {
    let (_dir, store) = fresh();
    let mut session = store.begin();
    session.put("k".into(), "v".into(), 7).unwrap();
    assert_eq!(session.get(b"k").unwrap().unwrap().lease, 7);
    session.put("k".into(), "v".into(), 0).unwrap();
    session.commit().unwrap();
    assert_eq!(store.get(b"k", None).unwrap().record.unwrap().lease, 0);
    assert_eq!(store.get(b"k", Some(2)).unwrap().record.unwrap().lease, 7);
}

#[test]
fn revisions_that_are_not_there_are_refused_by_name() {
    let (_dir, store) = fresh();
    put(&store, "k", "v");
    let range = |at| store.range(&RangeQuery { at: Some(at), ..ANYTHING }).map(|_| ());
    let get = |at| store.get(b"k", Some(at)).map(|_| ());
    let hash = |at| store.hash_at(at).map(|_| ());
    for read in [&range as &dyn Fn(i64) -> Result<(), ReadError>, &get, &hash] {
        assert!(matches!(read(3), Err(ReadError::FutureRevision { requested: 3, current: 2 })));
        assert!(matches!(read(i64::MAX), Err(ReadError::FutureRevision { .. })));
        assert!(matches!(read(0), Err(ReadError::Compacted { requested: 0, oldest: 1 })));
        assert!(matches!(read(i64::MIN), Err(ReadError::Compacted { .. })));
        assert!(read(1).is_ok());
    }
    assert!(matches!(store.changes(0, 1), Err(ReadError::Compacted { .. })));
    assert_eq!(store.changes(3, 1).unwrap(), []);
}

#[test]
fn a_different_command_gives_a_different_hash_for_good() {
    let hashes = |commands: &[(&'static str, &'static str, i64)]| {
        let (_dir, store) = fresh();
        let mut session = store.begin();
        for (key, value, lease) in commands {
            session.put((*key).into(), (*value).into(), *lease).unwrap();
        }
        session.put("last".into(), "same".into(), 0).unwrap();
        session.commit().unwrap();
        store.state_hash().1
    };
    let base = hashes(&[("ab", "c", 0)]);
    assert_eq!(base, hashes(&[("ab", "c", 0)]));
    for other in [("a", "bc", 0), ("ab", "d", 0), ("ab", "c", 1), ("ac", "c", 0)] {
        assert_ne!(base, hashes(&[other]), "{other:?}");
    }
}

#[test]
fn the_hash_chain_is_fixed_for_good() {
    // Nodes of different releases compare hashes: this value may never change.
    let (_dir, store) = fresh();
    put(&store, "k", "v");
    delete(&store, "k");
    assert_eq!(store.state_hash(), (3, 0x8b24_0350_b56f_697a));
}

#[test]
fn changes_from_a_revision_stop_at_the_limit() {
    let (_dir, store) = fresh();
    for _ in 0..3 {
        put(&store, "k", "v");
        delete(&store, "k");
    }
    let read = |from, limit| -> Vec<i64> {
        store.changes(from, limit).unwrap().iter().map(|change| change.main).collect()
    };
    assert_eq!(read(1, 2), [2, 3]);
    assert_eq!(read(4, 3), [4, 5, 6]);
    assert_eq!(read(7, 100), [7]);
    assert!(read(1, 0).is_empty());
}

#[test]
fn a_dropped_session_changes_nothing() {
    let (_dir, store) = fresh();
    put(&store, "k", "v");
    let before = store.state_hash();
    let mut session = store.begin();
    session.put("k".into(), "lost".into(), 0).unwrap();
    session.delete("k".into()).unwrap();
    session.dedup_put("d".into(), "lost".into());
    session.set_meta("applied", b"lost".to_vec());
    assert_eq!(session.revision(), 4);
    drop(session);
    assert_eq!(store.state_hash(), before);
    assert_eq!(value(&store, "k", None).unwrap(), "v");
    assert_eq!(store.meta("applied").unwrap(), None);
    assert_eq!(store.begin().dedup_get(b"d").unwrap(), None);
    assert_eq!(put(&store, "k", "w"), 3);
}

#[test]
fn nothing_of_a_batch_is_visible_before_its_commit() {
    let (_dir, store) = fresh();
    let mut session = store.begin();
    session.put("k".into(), "v".into(), 0).unwrap();
    session.set_meta("applied", b"1".to_vec());
    assert_eq!(store.revision(), 1);
    assert_eq!(value(&store, "k", None), None);
    assert_eq!(store.meta("applied").unwrap(), None);
    session.commit().unwrap();
    assert_eq!(store.revision(), 2);
    assert_eq!(value(&store, "k", None).unwrap(), "v");
    assert_eq!(store.meta("applied").unwrap().unwrap(), "1");
}

#[test]
fn a_durable_blob_is_the_one_that_a_crash_would_leave() {
    let (_dir, store) = fresh();
    let set = |applied: &'static [u8]| {
        let mut session = store.begin();
        session.put("k".into(), "v".into(), 0).unwrap();
        session.set_meta("applied", applied.to_vec());
        session.commit().unwrap();
    };
    set(b"1");
    assert_eq!(store.durable_meta("applied").unwrap(), None);
    store.flush().unwrap();
    set(b"2");
    assert_eq!(store.durable_meta("applied").unwrap().unwrap(), "1");
    assert_eq!(store.meta("applied").unwrap().unwrap(), "2");
}

#[test]
fn blobs_cannot_overwrite_the_engines_own_cells() {
    let (dir, store) = fresh();
    let mut session = store.begin();
    session.set_meta("head", b"x".to_vec());
    session.set_meta("format", b"y".to_vec());
    session.commit().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.revision(), 1);
    assert_eq!(store.meta("head").unwrap().unwrap(), "x");
}

#[test]
fn one_session_waits_for_the_other_to_end() {
    let (_dir, store) = fresh();
    let ended = AtomicBool::new(false);
    let session = store.begin();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut second = store.begin();
            assert!(ended.load(Ordering::SeqCst));
            second.put("k".into(), "second".into(), 0).unwrap();
            second.commit().unwrap();
        });
        let mut session = session;
        session.put("k".into(), "first".into(), 0).unwrap();
        ended.store(true, Ordering::SeqCst);
        session.commit().unwrap();
    });
    assert_eq!(value(&store, "k", Some(2)).unwrap(), "first");
    assert_eq!(value(&store, "k", Some(3)).unwrap(), "second");
}

#[test]
fn after_a_failed_write_nothing_more_is_written_and_nothing_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "k", "v");
    store.close().unwrap();
    let store = Store::open_read_only(dir.path(), &small()).unwrap();
    let write = || {
        let mut session = store.begin();
        session.put("k".into(), "w".into(), 0).unwrap();
        session.commit()
    };
    assert!(matches!(write(), Err(StorageError::Database { .. })));
    assert!(matches!(write(), Err(StorageError::Poisoned(_))));
    assert!(matches!(store.flush(), Err(StorageError::Poisoned(_))));
    assert!(store.poison().is_some());
    assert_eq!(store.revision(), 2);
    assert_eq!(value(&store, "k", None).unwrap(), "v");
    assert_eq!(value(&store, "absent", None), None);
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let db = Db::open(dir.path(), &schema::FAMILIES, Journal::External, &small()).unwrap();
    let mut batch = Batch::new();
    batch.put(db.family(schema::META), schema::FORMAT_CELL, &3_u32.to_le_bytes());
    db.write_synced(batch).unwrap();
    drop(db);
    let refused = Store::open(dir.path(), &small()).err().unwrap().to_string();
    assert!(refused.contains("format version 3, but this release reads 2"), "{refused}");
}

#[test]
fn a_store_of_the_first_release_is_read_and_marked_as_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "k", "v");
    store.close().unwrap();
    let format = || {
        let db = Db::open(dir.path(), &schema::FAMILIES, Journal::External, &small()).unwrap();
        db.get(db.family(schema::META), schema::FORMAT_CELL).unwrap().unwrap().to_vec()
    };
    {
        let db = Db::open(dir.path(), &schema::FAMILIES, Journal::External, &small()).unwrap();
        let mut batch = Batch::new();
        batch.put(db.family(schema::META), schema::FORMAT_CELL, &1_u32.to_le_bytes());
        db.write_synced(batch).unwrap();
    }
    assert_eq!(format(), 1_u32.to_le_bytes());
    let store = open(dir.path());
    assert_eq!(value(&store, "k", None).unwrap(), "v");
    drop(store);
    assert_eq!(format(), 2_u32.to_le_bytes());
}

#[test]
fn reading_a_folder_without_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Store::open_read_only(dir.path(), &small()).is_err());
    assert!(Store::open_read_only(&dir.path().join("missing"), &small()).is_err());
}

#[test]
fn a_checkpoint_holds_one_revision_while_writes_go_on() {
    let (dir, store) = fresh();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                let mut session = store.begin();
                for key in 0..4 {
                    let key = (number * key) % 97;
                    session.put(key.to_string().into(), number.to_string().into(), 0).unwrap();
                }
                session.set_meta("applied", number.to_be_bytes().to_vec());
                session.commit().unwrap();
            }
        });
        for number in 0..4 {
            let seen = store.revision();
            while store.revision() < seen + 400 {
                std::thread::yield_now();
            }
            let path = dir.path().join(format!("checkpoint {number}"));
            store.checkpoint(&path).unwrap();
            let copy = Store::open_read_only(&path, &small()).unwrap();
            let (revision, hash) = copy.state_hash();
            assert!(revision >= seen + 400);
            assert_eq!(revision, i64::try_from(1 + 4 * applied(&copy)).unwrap());
            assert_eq!(store.hash_at(revision).unwrap(), hash);
            let at = Some(revision);
            let there = store.range(&RangeQuery { at, ..ANYTHING }).unwrap();
            assert_eq!(copy.range(&ANYTHING).unwrap().items, there.items);
            let middle = RangeQuery { at: Some(revision / 2), ..ANYTHING };
            assert_eq!(copy.range(&middle).unwrap().items, store.range(&middle).unwrap().items);
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_read_of_the_present_is_exactly_the_state_at_its_revision() {
    let (_dir, store) = fresh();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                put(&store, "k", "v");
                put(&store, "twin", "v");
                delete(&store, "k");
            }
        });
        let mut last = 0;
        let (mut present, mut absent) = (0, 0);
        while present < 300 || absent < 300 {
            let now = store.get(b"k", None).unwrap();
            assert!(now.revision >= last, "revisions go back");
            last = now.revision;
            assert_eq!(store.get(b"k", Some(now.revision)).unwrap().record, now.record);
            match now.record {
                Some(_) => present += 1,
                None => absent += 1,
            }
            let page = store.range(&ANYTHING).unwrap();
            assert!(page.at >= last);
            last = page.at;
            let again = store.range(&RangeQuery { at: Some(page.at), ..ANYTHING }).unwrap();
            assert_eq!(again.items, page.items);
            assert!(store.state_hash().0 >= last);
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_page_holds_one_item_however_large_and_says_that_there_are_more() {
    let (_dir, store) = fresh();
    put(&store, "a", "a value beyond the limit");
    put(&store, "b", "v");
    let page = store.range(&RangeQuery { max_bytes: 3, ..ANYTHING }).unwrap();
    assert_eq!((page.items.len(), page.more), (1, true));
    let page = store.range(&RangeQuery { limit: 0, ..ANYTHING }).unwrap();
    assert_eq!((page.items.len(), page.more), (0, true));
    let page = store.range(&RangeQuery { start: "b".into(), max_bytes: 0, ..ANYTHING }).unwrap();
    assert_eq!((page.items.len(), page.more), (1, false));
}

#[test]
fn stores_and_sessions_may_move_between_threads() {
    fn moves<T: Send>(_: &T) {}
    fn is_shared<T: Send + Sync>(_: &T) {}
    let (_dir, store) = fresh();
    is_shared(&store);
    moves(&store.begin());
}

#[test]
fn the_upkeep_figures_follow_the_data() {
    let (_dir, store) = fresh();
    put(&store, "a", "v");
    put(&store, "b", "v");
    assert!(store.memory_bytes().write_buffers > 0);
    store.flush().unwrap();
    assert_eq!(store.approximate_keys(), 2);
    assert!(store.disk_bytes() > 0);
    assert!(store.memory_bytes().total() > 0);
}
