//! Snapshot files as a whole: what goes in comes out, the bytes stay what they are,
//! and damage is an error, whatever it hits.
//!
//! Real etcds are asked by `tests/etcd/snapshot_file.sh`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use crate::{
    Event, Info, KeyValue, Lease, Member, ReadError, Reader, Revision, SnapshotInfo, WriteError, Writer,
};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

type Events = Vec<(Revision, Event)>;

fn info() -> SnapshotInfo {
    SnapshotInfo {
        term: 1,
        applied_index: 2,
        compact_revision: None,
        cluster_version: None,
        members: Vec::new(),
    }
}

fn writer(info: SnapshotInfo) -> Writer {
    Writer::new(tempfile::tempfile().unwrap(), info).unwrap()
}

fn put(main: i64, key: &[u8], value: &[u8]) -> Event {
    Event::Put(KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision: main,
        mod_revision: main,
        version: 1,
        value: Bytes::copy_from_slice(value),
        lease: 0,
    })
}

fn at(main: i64, sub: i64) -> Revision {
    Revision { main, sub }
}

fn written(info: SnapshotInfo, events: &Events, leases: &[Lease]) -> File {
    let mut writer = writer(info);
    for (revision, event) in events {
        writer.push(*revision, event).unwrap();
    }
    for lease in leases {
        writer.lease(lease).unwrap();
    }
    let sealed = writer.finish().unwrap();
    assert_eq!(sealed.file.metadata().unwrap().len(), sealed.size);
    assert_eq!(sealed.size % 512, 32);
    sealed.file
}

fn bytes_of(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(reader: &Reader) -> Result<(Events, Vec<Lease>, Vec<Member>), ReadError> {
    let events = reader.keys().collect::<Result<_, _>>()?;
    let leases = reader.leases().collect::<Result<_, _>>()?;
    Ok((events, leases, reader.members().collect::<Result<_, _>>()?))
}

/// One of everything, in a file of a few pages.
fn small() -> (SnapshotInfo, Events, Vec<Lease>) {
    let member = Member {
        id: 0x8e9e_05c5_2164_694d,
        peer_urls: vec!["http://localhost:2380".into()],
        is_learner: false,
        name: "default".into(),
        client_urls: vec!["http://localhost:2379".into()],
    };
    let info = SnapshotInfo {
        term: 3,
        applied_index: 17,
        compact_revision: Some(4),
        cluster_version: Some("3.5.0".into()),
        members: vec![member],
    };
    let events = vec![
        (at(4, 0), put(4, b"a", b"1")),
        (at(5, 0), put(5, b"b", &[7; 9000])),
        (at(5, 1), Event::Delete { key: Bytes::from_static(b"a") }),
        (at(6, 0), put(6, b"c", b"")),
    ];
    (
        info,
        events,
        vec![Lease { id: 5, ttl: 60, remaining_ttl: 0 }, Lease { id: 6, ttl: 60, remaining_ttl: 7 }],
    )
}

fn small_file() -> File {
    let (info, events, leases) = small();
    written(info, &events, &leases)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

#[test]
fn the_bytes_of_a_small_file_stay_what_they_are() {
    let bytes = bytes_of(&small_file());
    let (database, sha256) = bytes.split_at(bytes.len() - 32);
    assert_eq!(database.len(), 10 * 4096);
    // This file, etcd 3.4 and 3.5 were seen to restore; the checksum is of every byte.
    assert_eq!(hex(sha256), "2485ef1662a7c48e3780dab989365151bf5cae93e066cbb0aaeb91819e54cbd3");
    // Page 0: header; magic, version, page size, flags; root, sequence; list of unused
    // pages, high-water mark; transaction, checksum.
    assert_eq!(hex(&database[..16]), "00000000000000000400000000000000");
    assert_eq!(hex(&database[16..32]), "edda0ced02000000".to_owned() + "0010000000000000");
    assert_eq!(hex(&database[32..48]), "0900000000000000".to_owned() + "0000000000000000");
    assert_eq!(hex(&database[48..64]), "0200000000000000".to_owned() + "0a00000000000000");
    assert_eq!(hex(&database[64..72]), "0200000000000000");
    // Page 3, the first leaf of the keys: header, one record 16 bytes behind its own
    // start, 17 bytes of key, 12 of value.
    let leaf = &database[3 * 4096..];
    assert_eq!(hex(&leaf[..16]), "03000000000000000200010000000000");
    assert_eq!(hex(&leaf[16..32]), "00000000".to_owned() + "10000000" + "11000000" + "0c000000");
    assert_eq!(hex(&leaf[32..49]), "0000000000000004".to_owned() + "5f" + "0000000000000000");
    assert_eq!(hex(&leaf[49..61]), "0a0161".to_owned() + "1004" + "1804" + "2001" + "2a0131");
}

#[test]
fn a_small_file_is_read_as_it_was_written() {
    let (info, events, leases) = small();
    let reader = Reader::open(small_file()).unwrap();
    assert!(reader.has_checksum());
    assert_eq!(reader.revision().unwrap(), 6);
    let told = Info {
        applied_index: info.applied_index,
        term: info.term,
        compact_revision: info.compact_revision,
        cluster_version: info.cluster_version,
        storage_version: None,
        auth_enabled: false,
    };
    assert_eq!(*reader.info(), told);
    assert_eq!(read(&reader).unwrap(), (events, leases, info.members));
}

#[test]
fn an_empty_store_is_at_revision_1_and_a_compacted_one_at_its_compaction() {
    let empty = Reader::open(written(info(), &Vec::new(), &[])).unwrap();
    assert_eq!(empty.revision().unwrap(), 1);
    assert_eq!(read(&empty).unwrap(), (Vec::new(), Vec::new(), Vec::new()));
    let compacted = SnapshotInfo { compact_revision: Some(9), ..info() };
    assert_eq!(Reader::open(written(compacted, &Vec::new(), &[])).unwrap().revision().unwrap(), 9);
}

#[test]
fn a_file_of_three_levels_is_read_as_it_was_written() {
    let events: Events = (1..40_000).map(|main| (at(main, 0), put(main, b"key", &[1; 60]))).collect();
    let file = written(info(), &events, &[]);
    let reader = Reader::open(file).unwrap();
    assert_eq!(reader.revision().unwrap(), 39_999);
    assert!(read(&reader).unwrap().0 == events);
}

#[test]
fn a_database_without_a_checksum_is_read() {
    let mut bytes = bytes_of(&small_file());
    bytes.truncate(bytes.len() - 32);
    let reader = Reader::open(file_of(&bytes)).unwrap();
    assert!(!reader.has_checksum());
    assert_eq!(read(&reader).unwrap().1, small().2);
}

#[test]
fn either_meta_page_is_enough() {
    for page in [0, 4096] {
        let mut bytes = bytes_of(&small_file());
        bytes.truncate(bytes.len() - 32);
        bytes[page + 40] ^= 1;
        assert_eq!(read(&Reader::open(file_of(&bytes)).unwrap()).unwrap().0, small().1);
        bytes[4096 - page + 40] ^= 1;
        assert!(matches!(Reader::open(file_of(&bytes)), Err(ReadError::NotEtcd(_))));
    }
}

#[test]
fn files_of_others_are_refused() {
    assert!(matches!(Reader::open(file_of(b"")), Err(ReadError::NotEtcd(_))));
    assert!(matches!(Reader::open(file_of(&[0; 8192])), Err(ReadError::NotEtcd(_))));
    assert!(matches!(Reader::open(file_of(&[0; 32])), Err(ReadError::Checksum)));
}

#[test]
fn a_changed_byte_fails_the_checksum() {
    let bytes = bytes_of(&small_file());
    for place in (0..bytes.len()).step_by(997) {
        let mut changed = bytes.clone();
        changed[place] ^= 0x40;
        assert!(matches!(Reader::open(file_of(&changed)), Err(ReadError::Checksum)), "byte {place}");
    }
}

#[test]
fn a_file_that_grew_shorter_while_open_is_an_error() {
    let file = small_file();
    let reader = Reader::open(file.try_clone().unwrap()).unwrap();
    file.set_len(4096).unwrap();
    assert!(matches!(read(&reader), Err(ReadError::Io(_))));
}

#[test]
fn an_iterator_ends_after_its_error() {
    let file = small_file();
    let reader = Reader::open(file.try_clone().unwrap()).unwrap();
    file.write_all_at(&[0xff; 16], 3 * 4096 + 32).unwrap();
    let mut keys = reader.keys();
    assert!(matches!(keys.next(), Some(Err(ReadError::Undecodable { .. }))));
    assert!(keys.next().is_none());
}

#[test]
fn the_mark_that_a_raised_revision_leaves_is_no_event_but_counts_as_revision() {
    // Such a mark cannot be written, so one is made of an event with an empty value.
    let events = [(at(4, 0), put(4, b"a", b"1")), (at(500, 0), put(500, b"", b""))];
    let mut writer = writer(info());
    assert!(matches!(writer.push(events[1].0, &events[1].1), Err(WriteError::Invalid { .. })));
    writer.push(events[0].0, &events[0].1).unwrap();
    writer.push(at(500, 0), &put(500, b"b", b"")).unwrap();
    let mut bytes = bytes_of(&writer.finish().unwrap().file);
    bytes.truncate(bytes.len() - 32);
    let record = bytes.windows(3).position(|bytes| bytes == b"\x0a\x01b").unwrap();
    // An unknown field of one byte takes the place of the key.
    bytes[record..record + 3].copy_from_slice(b"\x7a\x01b");
    let reader = Reader::open(file_of(&bytes)).unwrap();
    assert_eq!(reader.revision().unwrap(), 500);
    assert_eq!(read(&reader).unwrap().0, events[..1]);
}

#[test]
fn what_etcd_could_not_have_is_refused() {
    let new = |info: SnapshotInfo| Writer::new(tempfile::tempfile().unwrap(), info).is_ok();
    let member = |id| Member {
        id,
        peer_urls: Vec::new(),
        is_learner: false,
        name: String::new(),
        client_urls: Vec::new(),
    };
    assert!(new(info()));
    assert!(!new(SnapshotInfo { term: 0, ..info() }));
    assert!(!new(SnapshotInfo { applied_index: 0, ..info() }));
    assert!(!new(SnapshotInfo { compact_revision: Some(0), ..info() }));
    assert!(!new(SnapshotInfo { members: vec![member(1), member(1)], ..info() }));
    assert!(!new(SnapshotInfo { members: vec![member(0)], ..info() }));

    let change = |change: &dyn Fn(&mut KeyValue)| {
        let mut event = put(5, b"k", b"v");
        if let Event::Put(put) = &mut event {
            change(put);
        }
        writer(info()).push(at(5, 0), &event).is_ok()
    };
    assert!(change(&|_| ()));
    assert!(!change(&|put| put.mod_revision = 4));
    assert!(!change(&|put| put.create_revision = 6));
    assert!(!change(&|put| put.create_revision = 0));
    assert!(!change(&|put| put.version = 0));
    assert!(!change(&|put| put.lease = -1));
    assert!(!change(&|put| put.key = Bytes::new()));

    let lease = |id, ttl, remaining_ttl| writer(info()).lease(&Lease { id, ttl, remaining_ttl }).is_ok();
    assert!(lease(1, 1, 0));
    assert!(!lease(0, 1, 0) && !lease(-1, 1, 0) && !lease(1, 0, 0) && !lease(1, 1, -1));
}

#[test]
fn what_comes_out_of_order_is_refused() {
    let delete = Event::Delete { key: Bytes::from_static(b"k") };
    for earlier in [at(5, 1), at(5, 0), at(4, 9)] {
        let mut writer = writer(info());
        writer.push(at(5, 1), &delete).unwrap();
        assert!(matches!(writer.push(earlier, &delete), Err(WriteError::OutOfOrder { .. })));
        writer.push(at(5, 2), &delete).unwrap();
    }
    for earlier in [5, 4] {
        let mut writer = writer(info());
        writer.lease(&Lease { id: 5, ttl: 1, remaining_ttl: 0 }).unwrap();
        let lease = Lease { id: earlier, ttl: 1, remaining_ttl: 0 };
        assert!(matches!(writer.lease(&lease), Err(WriteError::OutOfOrder { .. })));
    }
}

// ---- by property ----

/// Lengths at which pages fill up, run over and split.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..200),
        2 => (0_usize..20_000).prop_map(|length| vec![3; length]),
        1 => (3900_usize..4100).prop_map(|length| vec![4; length]),
    ]
}

fn events() -> impl Strategy<Value = Events> {
    let event = (1..3_i64, 0..3_i64, vec(any::<u8>(), 1..40), proptest::option::of(value()));
    vec(event, 0..400).prop_map(|steps| {
        let mut revision = at(1, 0);
        let mut events = Events::new();
        for (main, sub, key, value) in steps {
            let step = at(main, sub);
            revision = if step.sub == 0 {
                at(revision.main + step.main, 0)
            } else {
                at(revision.main, revision.sub + step.sub)
            };
            let event = match value {
                Some(value) => put(revision.main, &key, &value),
                None => Event::Delete { key: key.into() },
            };
            events.push((revision, event));
        }
        events
    })
}

fn leases() -> impl Strategy<Value = Vec<Lease>> {
    proptest::collection::btree_map(1..i64::MAX, (1..i64::MAX, 0..i64::MAX), 0..300).prop_map(|leases| {
        leases.into_iter().map(|(id, (ttl, remaining_ttl))| Lease { id, ttl, remaining_ttl }).collect()
    })
}

/// Reads all that can be read; errors are as good as answers.
fn look_at_everything(file: File) {
    if let Ok(reader) = Reader::open(file) {
        let _ = reader.revision();
        let (keys, leases, members) = (reader.keys(), reader.leases(), reader.members());
        let _ = (keys.count(), leases.count(), members.count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_goes_in_comes_out(events in events(), leases in leases()) {
        let reader = Reader::open(written(info(), &events, &leases)).unwrap();
        let last = events.last().map_or(1, |(revision, _)| revision.main);
        prop_assert_eq!(reader.revision().unwrap(), last);
        let (events_out, leases_out, _) = read(&reader).unwrap();
        prop_assert_eq!(events_out, events);
        prop_assert_eq!(leases_out, leases);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Without the checksum, which would notice all of it. Half of the places are in
    /// the parts of pages that say where things are.
    #[test]
    fn damage_never_panics_and_every_walk_ends(
        damage in vec((any::<prop::sample::Index>(), 0_usize..64, any::<bool>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local!(static INTACT: Vec<u8> = {
            let (info, mut events, leases) = small();
            events.extend((10..400).map(|main| (at(main, 0), put(main, b"key", &[5; 100]))));
            let mut bytes = bytes_of(&written(info, &events, &leases));
            bytes.truncate(bytes.len() - 32);
            bytes
        });
        let mut bytes = INTACT.with(Clone::clone);
        for (place, offset, at_a_page, byte) in damage {
            let place = if at_a_page {
                place.index(bytes.len() / 4096) * 4096 + offset
            } else {
                place.index(bytes.len())
            };
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        look_at_everything(file_of(&bytes));
    }
}

#[test]
fn a_branch_that_is_its_own_child_ends_in_an_error() {
    let events: Events = (1..400).map(|main| (at(main, 0), put(main, b"key", &[5; 100]))).collect();
    let mut bytes = bytes_of(&written(info(), &events, &[]));
    bytes.truncate(bytes.len() - 32);
    let branches: Vec<usize> =
        (2..bytes.len() / 4096).filter(|page| bytes[page * 4096 + 8..][..2] == [1, 0]).collect();
    let [branch] = branches[..] else { panic!("one branch, not {branches:?}") };
    for child in [branch as u64, 3] {
        let mut bytes = bytes.clone();
        // The second child of the branch.
        bytes[branch * 4096 + 40..][..8].copy_from_slice(&child.to_le_bytes());
        let reader = Reader::open(file_of(&bytes)).unwrap();
        assert!(matches!(read(&reader), Err(ReadError::Damaged { .. })));
    }
}
