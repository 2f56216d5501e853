//! Snapshots of a store, read back.

use bytes::Bytes;
use kvorum_etcd_snapshot::{Event, Reader, Revision};

use super::*;
use crate::mvcc::{EngineOptions, Store};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 19 };
    let store = Store::open(dir.path(), &options).unwrap();
    (dir, store)
}

/// Writes keys (or deletes them) at one revision each.
fn write_keys(store: &Store, changes: &[(&'static str, Option<&'static str>, i64)]) {
    let mut session = store.begin();
    for (key, value, lease) in changes {
        let key = Bytes::from_static(key.as_bytes());
        match value {
            Some(value) => session.put(key, Bytes::from_static(value.as_bytes()), *lease).map(|_| ()),
            None => session.delete(key).map(|_| ()),
        }
        .unwrap();
    }
    session.commit().unwrap();
}

fn exported_of(store: &Store) -> Reader {
    let moment = store.moment().unwrap();
    let member = etcd::Member {
        id: 7,
        peer_urls: vec!["http://127.0.0.1:1".to_owned()],
        is_learner: false,
        name: "node-7".to_owned(),
        client_urls: Vec::new(),
    };
    let info = snapshot_info(&moment, None, vec![member]);
    let file = || tempfile::tempfile().unwrap();
    let sealed = write(&moment, info, file(), file(), || Ok(())).unwrap();
    assert_eq!(sealed.size % 512, 32);
    Reader::open(sealed.file).unwrap()
}

/// All events: revision, key, and the value of a put.
fn events(reader: &Reader) -> Vec<((i64, i64), String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let shown = reader.keys().map(|event| {
        let (Revision { main, sub }, event) = event.unwrap();
        let value = match &event {
            Event::Put(put) => Some(text(&put.value)),
            Event::Delete { .. } => None,
        };
        ((main, sub), text(event.key()), value)
    });
    shown.collect()
}

#[test]
fn all_that_can_be_read_is_in_a_snapshot_and_nothing_that_was_compacted() {
    let (_dir, store) = store();
    write_keys(
        &store,
        &[("b", Some("1"), 0), ("a", Some("2"), 0), ("gone", Some("3"), 0), ("b", Some("4"), 0)],
    );
    write_keys(&store, &[("gone", None, 0), ("c", Some("7"), 0), ("c", Some("8"), 0), ("a", None, 0)]);
    let reader = exported_of(&store);
    assert_eq!(reader.info().compact_revision, None);
    assert_eq!(events(&reader).len(), 8);

    let mut session = store.begin();
    session.compact(7).unwrap();
    session.commit().unwrap();
    let reader = exported_of(&store);
    assert_eq!(reader.revision().unwrap(), store.revision());
    assert_eq!(reader.info().compact_revision, Some(7));
    let put = |revision, key: &str, value: &str| ((revision, 0), key.to_owned(), Some(value.to_owned()));
    let expected = [
        put(3, "a", "2"),
        put(5, "b", "4"),
        put(7, "c", "7"),
        put(8, "c", "8"),
        ((9, 0), "a".to_owned(), None),
    ];
    assert_eq!(events(&reader), expected);
    assert_eq!(reader.members().map(|member| member.unwrap().id).collect::<Vec<_>>(), [7]);
}

#[test]
fn writes_of_one_revision_keep_it_when_they_are_compacted() {
    let (_dir, store) = store();
    let mut session = store.begin();
    let done: Result<(), StorageError> = session.at_one_revision(|session| {
        ["x", "y", "z"].into_iter().try_for_each(|key| session.put(key.into(), Bytes::new(), 0).map(|_| ()))
    });
    done.unwrap();
    session.commit().unwrap();
    write_keys(&store, &[("y", Some("later"), 0)]);
    let mut session = store.begin();
    session.compact(3).unwrap();
    session.commit().unwrap();
    let positions: Vec<_> = events(&exported_of(&store)).into_iter().map(|(at, key, _)| (at, key)).collect();
    let expected = [((2, 0), "x"), ((2, 1), "z"), ((3, 0), "y")];
    assert_eq!(positions, expected.map(|(at, key)| (at, key.to_owned())));
}

#[test]
fn leases_go_along_with_what_they_have_left() {
    let (_dir, store) = store();
    let lease = |id, expires_at, ending| Lease { id, ttl: 60, expires_at, ending };
    let mut session = store.begin();
    session.set_lease_clock(10_000);
    for lease in [lease(4, 40_500, false), lease(5, 5_000, true), lease(-6, 50_000, false)] {
        session.set_lease(lease);
    }
    session.commit().unwrap();
    write_keys(&store, &[("four", Some(""), 4), ("five", Some(""), 5), ("minus", Some(""), -6)]);
    let reader = exported_of(&store);
    let leases: Vec<_> =
        reader.leases().map(Result::unwrap).map(|it| (it.id, it.ttl, it.remaining_ttl)).collect();
    assert_eq!(leases, [(4, 60, 30), (5, 60, 1)]);
    let attached = reader.keys().map(|event| match event.unwrap().1 {
        Event::Put(put) => put.lease,
        Event::Delete { .. } => panic!("nothing was deleted"),
    });
    assert_eq!(attached.collect::<Vec<_>>(), [4, 5, 0]);
}

#[test]
fn nothing_more_is_written_once_nobody_waits_or_the_disk_is_full() {
    let (dir, store) = store();
    write_keys(&store, &[("a", Some("1"), 0)]);
    let moment = store.moment().unwrap();
    let write_with = |spared, abandoned| {
        let file = || tempfile::tempfile().unwrap();
        let info = snapshot_info(&moment, None, Vec::new());
        write(&moment, info, file(), file(), brakes(dir.path(), spared, &AtomicBool::new(abandoned)))
    };
    assert!(write_with(0, false).is_ok());
    let written = write_with(0, true);
    assert!(matches!(written, Err(ExportError::Abandoned)), "{written:?}");
    let written = write_with(u64::MAX, false);
    assert!(matches!(written, Err(ExportError::Full { wanted: u64::MAX, .. })), "{written:?}");
}
