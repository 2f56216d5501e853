//! The engine against what its users rely on: order, atomic batches, crash
//! states, and refusal after a failure.

use std::path::Path;

use super::*;

const LOG: FamilySpec = FamilySpec { name: "log", workload: Workload::Queue };
const CELLS: FamilySpec = FamilySpec { name: "cells", workload: Workload::Cells };

fn small() -> EngineOptions {
    EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 18 }
}

fn open(dir: &Path, journal: Journal) -> Db {
    Db::open(dir, &[LOG, CELLS], journal, &small()).unwrap()
}

fn append(db: &Db, indexes: std::ops::Range<u64>) -> Batch {
    let mut batch = Batch::new();
    for index in indexes {
        batch.put(db.family("log"), &index.to_be_bytes(), format!("entry {index}").as_bytes());
    }
    batch
}

fn indexes(db: &Db, scan: Scan) -> Vec<u64> {
    let mut cursor = db.cursor(db.family("log"), scan);
    let mut found = Vec::new();
    cursor.first().unwrap();
    while let Some(key) = cursor.key() {
        found.push(u64::from_be_bytes(key.try_into().unwrap()));
        cursor.step().unwrap();
    }
    found
}

/// Copies a live database as a crash of its process would leave it: without
/// what is only in memory.
fn crash(db: &Db, from: &Path, to: &Path) {
    db.keep_obsolete_files();
    copy_folder(from, to);
}

/// Copies files, the list of tables first, so that every table it names is
/// there. (Files of a live database are only ever added, once it keeps them.)
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by_key(|name| !name.to_string_lossy().starts_with("MANIFEST"));
    for name in names {
        match std::fs::copy(from.join(&name), to.join(&name)) {
            Ok(_) => {}
            // Its deletion was already under way: nothing names it any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("copying {name:?}: {error}"),
        }
    }
}

/// How many removed entries `work` steps over.
pub(crate) fn removed_on_the_way<T>(work: impl FnOnce() -> T) -> (T, u64) {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut figures = PerfContext::default();
    figures.reset();
    let done = work();
    let removed = figures.metric(PerfMetric::InternalDeleteSkippedCount);
    set_perf_stats(PerfStatsLevel::Disable);
    (done, removed)
}

#[test]
fn a_synced_append_survives_a_crash_and_reads_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::Own);
    db.write(append(&db, 250..300)).unwrap();
    db.write_synced(append(&db, 300..310)).unwrap();
    crash(&db, dir.path(), copy.path());
    let db = open(copy.path(), Journal::Own);
    assert_eq!(indexes(&db, Scan::default()), (250..310).collect::<Vec<_>>());
    assert_eq!(db.last_key(db.family("log")).unwrap().unwrap(), 309_u64.to_be_bytes());
    let middle = Scan {
        start: Some(255_u64.to_be_bytes().to_vec()),
        end: Some(258_u64.to_be_bytes().to_vec()),
        bypass_cache: true,
    };
    assert_eq!(indexes(&db, middle), [255, 256, 257]);
    let entry = db.get(db.family("log"), &256_u64.to_be_bytes()).unwrap().unwrap();
    assert_eq!(&*entry, b"entry 256");
}

#[test]
fn a_cursor_seeks_to_both_sides_of_a_missing_key() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::Own);
    db.write(append(&db, 0..2)).unwrap();
    db.write(append(&db, 7..9)).unwrap();
    let mut cursor = db.cursor(db.family("log"), Scan::default());
    cursor.seek(&5_u64.to_be_bytes()).unwrap();
    assert_eq!(cursor.entry().unwrap(), (7_u64.to_be_bytes().as_slice(), b"entry 7".as_slice()));
    cursor.seek_for_prev(&5_u64.to_be_bytes()).unwrap();
    assert_eq!(cursor.key().unwrap(), 1_u64.to_be_bytes());
    cursor.seek(&9_u64.to_be_bytes()).unwrap();
    assert_eq!(cursor.key(), None);
    cursor.step().unwrap();
    assert_eq!(cursor.key(), None);
}

#[test]
fn a_purged_prefix_is_gone_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::Own);
    db.write(append(&db, 0..1000)).unwrap();
    db.flush().unwrap();
    let (start, end) = (0_u64.to_be_bytes(), 900_u64.to_be_bytes());
    let mut batch = Batch::new();
    batch.delete_range(db.family("log"), &start, &end);
    db.write_synced(batch).unwrap();
    db.delete_files_in_range(db.family("log"), &start, &end).unwrap();
    assert_eq!(indexes(&db, Scan::default()), (900..1000).collect::<Vec<_>>());
}

#[test]
fn a_crash_without_a_journal_leaves_a_whole_earlier_batch() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::External);
    db.write_synced(append(&db, 0..3)).unwrap();
    db.write(append(&db, 3..6)).unwrap();
    crash(&db, dir.path(), copy.path());
    assert_eq!(indexes(&open(copy.path(), Journal::External), Scan::default()), [0, 1, 2]);
}

#[test]
fn a_clean_stop_without_a_journal_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::External);
    db.write(append(&db, 0..3)).unwrap();
    drop(db);
    assert_eq!(indexes(&open(dir.path(), Journal::External), Scan::default()), [0, 1, 2]);
}

#[test]
fn a_view_does_not_see_later_batches() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::External);
    db.write(append(&db, 0..1)).unwrap();
    let view = db.view();
    db.write(append(&db, 1..2)).unwrap();
    assert!(view.get(db.family("log"), &1_u64.to_be_bytes()).unwrap().is_none());
    let mut cursor = view.cursor(db.family("log"), Scan::default());
    cursor.last().unwrap();
    assert_eq!(cursor.key().unwrap(), 0_u64.to_be_bytes());
}

#[test]
fn after_a_failed_write_every_later_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), Journal::External));
    let db = Db::open_read_only(dir.path(), &[LOG, CELLS], Journal::External, &small()).unwrap();
    assert_eq!(db.poison(), None);
    assert!(matches!(db.write(append(&db, 0..1)), Err(StorageError::Database { .. })));
    assert!(matches!(db.write(append(&db, 0..1)), Err(StorageError::Poisoned(_))));
    assert!(matches!(db.flush(), Err(StorageError::Poisoned(_))));
    assert!(matches!(db.checkpoint(&dir.path().join("copy")), Err(StorageError::Poisoned(_))));
    assert!(db.poison().unwrap().contains("writing a batch"));
}

#[test]
fn what_is_abandoned_is_not_flushed() {
    let noise: Vec<u8> = (0..10_000_u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let bytes_of_tables = |abandon: bool| {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), Journal::External);
        let mut batch = Batch::new();
        for index in 0..5_u64 {
            batch.put(db.family("log"), &index.to_be_bytes(), &noise);
        }
        db.write(batch).unwrap();
        if abandon {
            db.abandon();
        }
        drop(db);
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        let tables = files.filter(|file| file.file_name().to_string_lossy().ends_with(".sst"));
        tables.map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    assert!(bytes_of_tables(false) > 5_000);
    assert!(bytes_of_tables(true) < 5_000);
}

#[test]
fn families_of_a_newer_release_are_named_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), Journal::External));
    let refused = Db::open(dir.path(), &[LOG], Journal::External, &small()).err().unwrap().to_string();
    assert!(refused.contains("does not know (cells)"), "{refused}");
    assert!(refused.contains("newer release"), "{refused}");
}

#[test]
fn an_open_database_cannot_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let _db = open(dir.path(), Journal::External);
    assert!(Db::open(dir.path(), &[LOG, CELLS], Journal::External, &small()).is_err());
}

#[test]
fn reading_a_checkpoint_changes_no_file_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint");
    let db = open(&dir.path().join("db"), Journal::External);
    db.write(append(&db, 0..3)).unwrap();
    db.checkpoint(&checkpoint).unwrap();
    db.write(append(&db, 3..6)).unwrap();
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(&checkpoint)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let copy = Db::open_read_only(&checkpoint, &[LOG, CELLS], Journal::External, &small()).unwrap();
    assert_eq!(indexes(&copy, Scan::default()), [0, 1, 2]);
    drop(copy);
    assert_eq!(files(), before);
}

/// A regression test for what made [`Db::flush`] check its result.
#[test]
fn a_flush_keeps_what_was_written_while_another_flush_ran() {
    for round in 0..15_u64 {
        let root = tempfile::tempdir().unwrap();
        let [live, crashed, checkpoint] =
            ["live", "crashed", "checkpoint"].map(|name| root.path().join(name));
        let db = open(&live, Journal::External);
        let mark = |number: u64| {
            let mut batch = Batch::new();
            batch.put(db.family("cells"), b"mark", &number.to_be_bytes());
            db.write(batch).unwrap();
        };
        let fill_buffers = || {
            for index in 0..5 + round % 5 {
                let mut batch = Batch::new();
                batch.put(db.family("log"), &index.to_be_bytes(), &vec![0; 50_000]);
                db.write(batch).unwrap();
                mark(index);
            }
        };
        let marked = |dir: &Path| {
            let db = open(dir, Journal::External);
            let mark = db.get(db.family("cells"), b"mark").unwrap().unwrap();
            u64::from_be_bytes((*mark).try_into().unwrap())
        };
        fill_buffers();
        mark(100);
        db.flush().unwrap();
        crash(&db, &live, &crashed);
        assert_eq!(marked(&crashed), 100, "after a crash, round {round}");
        fill_buffers();
        mark(101);
        db.checkpoint(&checkpoint).unwrap();
        assert_eq!(marked(&checkpoint), 101, "in a checkpoint, round {round}");
        fill_buffers();
        mark(102);
        drop(db);
        assert_eq!(marked(&live), 102, "after a clean stop, round {round}");
    }
}

#[test]
fn a_durable_read_sees_what_a_crash_would_leave() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path(), Journal::External);
    let key = 0_u64.to_be_bytes();
    let durable = || db.get_durable(db.family("log"), &key).unwrap().map(|value| value.to_vec());
    db.write(append(&db, 0..1)).unwrap();
    assert_eq!(durable(), None);
    db.flush().unwrap();
    assert_eq!(durable().unwrap(), b"entry 0");
    let mut batch = Batch::new();
    batch.delete(db.family("log"), &key);
    db.write(batch).unwrap();
    assert_eq!(durable().unwrap(), b"entry 0");
    db.flush().unwrap();
    assert_eq!(durable(), None);
}
