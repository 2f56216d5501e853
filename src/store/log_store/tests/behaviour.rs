//! One promise per test, with the writer stopped where it matters.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn appended_entries_are_readable_but_not_confirmed_before_their_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (probe, syncs) = stepper();
    let store = open_with(dir.path(), probe, panicking());
    let mut early = store.clone().get_log_reader().await;
    let durable = store.durable();

    let mut first = append(&store, entries(1, 0..3)).await;
    let mut second = append(&store, entries(1, 3..5)).await;
    assert_eq!(early.try_get_log_entries(..).await.unwrap(), entries(1, 0..5));
    assert_eq!(store.clone().get_log_state().await.unwrap().last_log_id, Some(log_id(1, 4)));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    assert_eq!(*durable.borrow(), None);

    syncs.send(Ok(())).unwrap();
    first.await.unwrap().unwrap();
    assert!(durable.borrow().is_some_and(|id| id >= log_id(1, 2)));
    drop(syncs);
    second.await.unwrap().unwrap();
    assert_eq!(*durable.borrow(), Some(log_id(1, 4)));
}

#[tokio::test]
async fn requests_that_wait_share_one_sync_and_are_confirmed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (probe, syncs) = stepper();
    let store = open_with(dir.path(), probe, panicking());
    let first = append(&store, entries(1, 0..1)).await;
    // The writer is busy with the first; the others wait meanwhile.
    wait_until(|| store.metrics().queue_length == 0).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for index in 1..=100 {
        let flushed = append(&store, entries(1, index..index + 1)).await;
        let order = Arc::clone(&order);
        waiting.push(tokio::spawn(async move {
            flushed.await.unwrap().unwrap();
            order.lock().push(index);
        }));
    }
    assert_eq!(store.metrics().queue_length, 100);
    drop(syncs);
    first.await.unwrap().unwrap();
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), (1..=100).collect::<Vec<_>>());
    let metrics = store.metrics();
    assert_eq!((metrics.syncs, metrics.batches, metrics.appended_entries), (2, 2, 101));
    assert_eq!((metrics.batch_counts[1], metrics.batch_counts[5], metrics.queue_length), (1, 1, 0));
}

#[tokio::test]
async fn every_batch_is_synced_also_one_that_nobody_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let syncs = |store: &RocksLogStore| store.shared.with_db(|db| Ok(db.syncs())).unwrap();
    append_and_wait(&store, entries(1, 0..9)).await;
    assert_eq!(syncs(&store), 1);
    store.save_vote(&Vote::new(2, 1)).await.unwrap();
    assert_eq!(syncs(&store), 2);
    store.truncate_after(Some(log_id(1, 7))).await.unwrap();
    assert_eq!(syncs(&store), 3);
    store.purge(log_id(1, 2)).await.unwrap();
    store.save_committed(Some(log_id(1, 4))).await.unwrap();
    wait_until(|| store.metrics().batches == 4).await;
    assert_eq!(syncs(&store), 4);
    store.purge(log_id(1, 20)).await.unwrap();
    wait_until(|| store.metrics().batches == 5).await;
    assert_eq!((syncs(&store), store.metrics().syncs), (5, 5));
}

#[tokio::test]
async fn a_failed_sync_confirms_nothing_and_ends_all_work() {
    let dir = tempfile::tempdir().unwrap();
    let (probe, syncs) = stepper();
    let (hook, failures) = recording();
    let mut store = open_with(dir.path(), probe, hook);
    let mut reader = store.get_log_reader().await;
    let failing = append(&store, entries(1, 0..1)).await;
    wait_until(|| store.metrics().queue_length == 0).await;
    let waiting = append(&store, entries(1, 1..2)).await;
    let voting = {
        let mut store = store.clone();
        tokio::spawn(async move { store.save_vote(&Vote::new(7, 1)).await })
    };
    wait_until(|| store.metrics().queue_length == 2).await;

    let reason = "the disk is gone".to_owned();
    syncs.send(Err(StorageError::Database { action: "syncing", reason })).unwrap();
    assert!(failing.await.unwrap().is_err());
    assert!(waiting.await.unwrap().is_err());
    assert!(voting.await.unwrap().is_err());
    // One sync was asked for and none after it.
    assert_eq!(store.metrics().syncs, 0);
    assert_eq!(*store.durable().borrow(), None);
    wait_until(|| !failures.lock().is_empty()).await;
    assert_eq!(*failures.lock(), ["syncing failed: the disk is gone"]);

    let (tx, rx) = TypeConfig::oneshot();
    assert!(store.append(entries(1, 2..3), IOFlushed::signal(tx)).await.is_err());
    assert!(rx.await.is_err(), "the callback was dropped, not called");
    assert!(store.save_vote(&Vote::new(9, 1)).await.is_err());
    assert!(store.truncate_after(None).await.is_err());
    assert!(store.purge(log_id(1, 0)).await.is_err());
    assert!(store.save_committed(None).await.is_err());
    assert!(store.get_log_state().await.is_err());
    assert!(reader.try_get_log_entries(..).await.is_err());
    assert!(reader.read_vote().await.is_err());
    assert!(store.close().await.is_err());
    assert_eq!(failures.lock().len(), 1, "the hook is called once");
}

/// A probe that fails before the first write, as a full disk does.
struct Full;

impl Probe for Full {
    fn before_write(&mut self) -> Result<(), StorageError> {
        Err(StorageError::Database { action: "writing", reason: "no space".to_owned() })
    }
}

#[tokio::test]
async fn a_failed_write_that_nobody_waits_for_is_fatal_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append_and_wait(&store, entries(1, 0..4)).await;
    store.close().await.unwrap();
    let (hook, failures) = recording();
    let mut store = open_with(dir.path(), Full, hook);
    store.purge(log_id(1, 2)).await.unwrap();
    wait_until(|| !failures.lock().is_empty()).await;
    assert!(store.get_log_state().await.is_err());
}

#[tokio::test]
async fn a_vote_is_told_to_readers_once_it_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (probe, syncs) = stepper();
    let mut store = open_with(dir.path(), probe, panicking());
    let mut reader = store.get_log_reader().await;
    let vote = Vote::new_committed(3, 2);
    let saving = {
        let mut store = store.clone();
        tokio::spawn(async move { store.save_vote(&vote).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!saving.is_finished());
    assert_eq!(reader.read_vote().await.unwrap(), None);
    drop(syncs);
    saving.await.unwrap().unwrap();
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
    store.close().await.unwrap();
    assert_eq!(open(dir.path()).get_log_reader().await.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn a_restart_finds_everything_that_was_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    append_and_wait(&store, entries(1, 0..20)).await;
    store.save_vote(&Vote::new(2, 1)).await.unwrap();
    store.truncate_after(Some(log_id(1, 14))).await.unwrap();
    append_and_wait(&store, entries(2, 15..18)).await;
    store.purge(log_id(1, 4)).await.unwrap();
    store.save_committed(Some(log_id(1, 9))).await.unwrap();
    let before = Model::of(&store).await;
    store.close().await.unwrap();

    let mut store = open(dir.path());
    let after = Model::of(&store).await;
    assert_eq!(after, before);
    assert_eq!(indexes(&read(&store, ..).await), (5..18).collect::<Vec<_>>());
    assert_eq!(*store.durable().borrow(), Some(log_id(2, 17)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 9)));
}

#[tokio::test]
async fn truncated_entries_never_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    append_and_wait(&store, entries(1, 0..50)).await;
    store.truncate_after(Some(log_id(1, 9))).await.unwrap();
    assert_eq!(*store.durable().borrow(), Some(log_id(1, 9)));
    append_and_wait(&store, entries(2, 10..12)).await;
    for _ in 0..2 {
        assert_eq!(indexes(&read(&store, ..).await), (0..12).collect::<Vec<_>>());
        assert_eq!(read(&store, 10..).await, entries(2, 10..12));
        store.close().await.unwrap();
        store = open(dir.path());
    }
    store.truncate_after(None).await.unwrap();
    store.close().await.unwrap();
    store = open(dir.path());
    assert_eq!(store.get_log_state().await.unwrap(), LogState::default());
    assert_eq!(*store.durable().borrow(), None);
}

#[tokio::test]
async fn a_purge_past_the_end_becomes_the_end_and_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    append_and_wait(&store, entries(1, 0..5)).await;
    store.purge(log_id(3, 40)).await.unwrap();
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(3, 40)), Some(log_id(3, 40))));
    let mut durable = store.durable();
    durable.wait_for(|durable| *durable == Some(log_id(3, 40))).await.unwrap();
    append_and_wait(&store, entries(3, 41..43)).await;
    store.purge(log_id(1, 2)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(indexes(&read(&store, ..).await), [41, 42]);
        assert_eq!(store.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(3, 40)));
        assert_eq!(*store.durable().borrow(), Some(log_id(3, 42)));
        store.close().await.unwrap();
        store = open(dir.path());
    }
}

#[tokio::test]
async fn a_purge_of_the_whole_log_leaves_its_last_log_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    append_and_wait(&store, entries(1, 0..5)).await;
    store.purge(log_id(1, 4)).await.unwrap();
    store.close().await.unwrap();
    store = open(dir.path());
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 4)), Some(log_id(1, 4))));
    assert_eq!(*store.durable().borrow(), Some(log_id(1, 4)));
    assert!(read(&store, ..).await.is_empty());
}

#[tokio::test]
async fn holes_and_truncated_commits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    append_and_wait(&store, entries(1, 0..5)).await;
    for wrong in [6..7, 4..5] {
        let refused = store.append(entries(1, wrong), IOFlushed::noop()).await.unwrap_err();
        assert!(refused.to_string().contains("would follow"), "{refused}");
    }
    let gap = vec![entry(1, 5, 1), entry(1, 7, 1)];
    assert!(store.append(gap, IOFlushed::noop()).await.is_err());
    store.save_committed(Some(log_id(1, 3))).await.unwrap();
    assert!(store.truncate_after(Some(log_id(1, 2))).await.is_err());
    store.truncate_after(Some(log_id(1, 3))).await.unwrap();
    assert_eq!(indexes(&read(&store, ..).await), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_committed_log_id_is_never_on_disk_before_its_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (probe, syncs) = stepper();
    let mut store = open_with(dir.path(), probe, panicking());
    let first = append(&store, entries(1, 0..1)).await;
    wait_until(|| store.metrics().queue_length == 0).await;
    // As on a leader whose followers were faster than its own disk.
    let second = append(&store, entries(1, 1..3)).await;
    store.save_committed(Some(log_id(1, 2))).await.unwrap();
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 2)));
    drop(syncs);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    // Dropping the last handle waits for the writer.
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 2)));
}

#[tokio::test]
async fn a_limited_read_stops_at_its_budget_but_never_gives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for cache_bytes in [0, 1 << 20] {
        let options = LogOptions { cache_bytes, read_bytes: 10_000, ..LogOptions::default() };
        let dir = dir.path().join(cache_bytes.to_string());
        let mut store = RocksLogStore::open(&dir, options, panicking()).unwrap();
        append_and_wait(&store, (0..40).map(|index| entry(1, index, 3000)).collect()).await;
        append_and_wait(&store, vec![entry(1, 40, 50_000)]).await;
        let mut reader = store.get_log_reader().await;
        assert_eq!(indexes(&reader.limited_get_log_entries(5, 40).await.unwrap()), [5, 6, 7]);
        assert_eq!(indexes(&reader.limited_get_log_entries(40, 41).await.unwrap()), [40]);
        assert_eq!(indexes(&reader.limited_get_log_entries(39, 41).await.unwrap()), [39]);
        assert!(reader.limited_get_log_entries(5, 5).await.unwrap().is_empty());
        assert_eq!(read(&store, 3..=39).await.len(), 37);
        let streamed = reader.entries_stream(2..41).await.map(Result::unwrap).collect::<Vec<_>>().await;
        assert_eq!(indexes(&streamed), (2..41).collect::<Vec<_>>());
        assert_eq!(store.metrics().cache_bytes == 0, cache_bytes == 0);
    }
}

#[tokio::test]
async fn appends_wait_when_too_many_bytes_wait_to_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (probe, syncs) = stepper();
    let options = LogOptions { queue_bytes: 8192, ..LogOptions::default() };
    let store = RocksLogStore::open_with(dir.path(), options, panicking(), probe).unwrap();
    let first = append(&store, vec![entry(1, 0, 100_000)]).await;
    let blocked = {
        let store = store.clone();
        tokio::spawn(async move { append_and_wait(&store, entries(1, 1..2)).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!blocked.is_finished());
    drop(syncs);
    first.await.unwrap().unwrap();
    blocked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_see_the_log_of_one_moment_while_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { cache_bytes: 20_000, write_buffer_bytes: 64 * 1024, ..LogOptions::default() };
    let mut store = RocksLogStore::open(dir.path(), options, panicking()).unwrap();
    append_and_wait(&store, entries(1, 0..10)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [7_u64, 23].map(|step| {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut reads, mut start) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let found = read(&store, start..).await;
                let terms = found.iter().map(|entry| entry.log_id.committed_leader_id().term);
                assert!(terms.is_sorted(), "entries of different moments were mixed");
                for pair in found.windows(2) {
                    assert_eq!(pair[0].log_id.index() + 1, pair[1].log_id.index());
                }
                reads += 1;
                start = (start + step) % 200;
            }
            reads
        })
    });
    let (mut term, mut next) = (1, 10);
    for round in 0..150_u64 {
        for _ in 0..5 {
            let batch = (next..next + 10).map(|index| entry(term, index, 200)).collect();
            drop(append(&store, batch).await);
            next += 10;
        }
        let last = read(&store, next - 8..next - 7).await[0].log_id;
        store.truncate_after(Some(last)).await.unwrap();
        (term, next) = (term + 1, last.index() + 1);
        if round % 10 == 9 {
            let upto = read(&store, next - 100..next - 99).await[0].log_id;
            store.purge(upto).await.unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 10);
    }
}

#[tokio::test]
async fn purged_files_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { write_buffer_bytes: 256 * 1024, ..LogOptions::default() };
    let mut store = RocksLogStore::open(dir.path(), options, panicking()).unwrap();
    let tables = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
        let tables = files.filter(|file| file.path().extension().is_some_and(|end| end == "sst"));
        tables.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum::<u64>()
    };
    let mut noise = Dice(1);
    let mut written = 0;
    for first in (0..4_000).step_by(20) {
        let entry = |index| {
            // Incompressible, so that files have the size that was written.
            let bytes = (0..4096).map(|_| noise.roll(256) as u8).collect::<Vec<_>>();
            written += bytes.len() as u64;
            let payload = Payload::Normal(Proposal::from_bytes(bytes.into()));
            Entry { log_id: log_id(1, index), payload }
        };
        append_and_wait(&store, (first..first + 20).map(entry).collect()).await;
    }
    assert!(tables() > written / 2);
    // Flushes and moves happen in the background, and files go after a sync.
    for round in 0..400 {
        store.purge(log_id(1, 5_000 + 300 * round)).await.unwrap();
        store.save_vote(&Vote::new(5_000 + round, 1)).await.unwrap();
        if tables() < written / 8 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{} of {written} bytes are still there", tables());
}

#[tokio::test]
async fn a_closed_store_refuses_everything_and_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut reader = store.get_log_reader().await;
    append_and_wait(&store, entries(1, 0..3)).await;
    store.save_committed(Some(log_id(1, 1))).await.unwrap();
    let other = store.clone();
    let (one, two) = tokio::join!(store.close(), other.close());
    one.unwrap();
    two.unwrap();
    store.close().await.unwrap();
    assert!(reader.try_get_log_entries(..).await.is_err());
    assert!(store.append(entries(1, 3..4), IOFlushed::noop()).await.is_err());

    let mut again = open(dir.path());
    assert_eq!(again.read_committed().await.unwrap(), Some(log_id(1, 1)));
    assert_eq!(read(&again, ..).await, entries(1, 0..3));
}

#[tokio::test]
async fn a_log_that_lacks_entries_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let db = LogDb::open(dir.path(), 1 << 20).unwrap();
    let mut batch = super::super::super::log_db::LogBatch::default();
    batch.append(&db, &entry(1, 7, 10));
    batch.purged(&db, &log_id(1, 3));
    db.write(batch).unwrap();
    drop(db);
    let refused = RocksLogStore::open(dir.path(), LogOptions::default(), panicking()).err().unwrap();
    assert!(refused.to_string().contains("entries are missing"), "{refused}");

    let db = LogDb::open(dir.path(), 1 << 20).unwrap();
    let mut batch = super::super::super::log_db::LogBatch::default();
    batch.purged(&db, &log_id(1, 6));
    batch.committed(&db, &log_id(1, 9));
    db.write(batch).unwrap();
    drop(db);
    let refused = RocksLogStore::open(dir.path(), LogOptions::default(), panicking()).err().unwrap();
    assert!(refused.to_string().contains("is committed"), "{refused}");
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the condition did not come true within five seconds")
}
