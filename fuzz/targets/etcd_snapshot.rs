//! Snapshot files of etcd that are damaged: whole ones with some bytes changed or cut off.
//!
//! They come from the outside, and a restore reads them before anything else is checked.

#![no_main]

use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::LazyLock;

use kvorum_etcd_snapshot::{Event, KeyValue, Lease, Member, Reader, Revision, SnapshotInfo, Writer};
use libfuzzer_sys::fuzz_target;

/// How many records are looked at: a damaged tree may lead in circles.
const MOST: usize = 100_000;

/// A whole file without its checksum, which would hide all else.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let info = SnapshotInfo {
        term: 3,
        applied_index: 700,
        compact_revision: Some(4),
        cluster_version: Some("3.5.0".to_owned()),
        members: vec![Member {
            id: 7,
            peer_urls: vec!["http://127.0.0.1:1".to_owned()],
            is_learner: false,
            name: "n".to_owned(),
            client_urls: vec!["http://127.0.0.1:2".to_owned()],
        }],
    };
    let mut writer = Writer::new(tempfile::tempfile().expect("a file"), info).expect("it can be written");
    for main in 5..300 {
        let key = format!("key{:03}", main % 200).into_bytes().into();
        let put = KeyValue {
            key,
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: vec![b'v'; (main % 50) as usize].into(),
            lease: 0,
        };
        writer.push(Revision { main, sub: 0 }, &Event::Put(put)).expect("it can be written");
    }
    for id in 1..100 {
        writer.lease(&Lease { id, ttl: 60, remaining_ttl: 0 }).expect("it can be written");
    }
    let sealed = writer.finish().expect("it can be written");
    let mut bytes = vec![0; sealed.size as usize - 32];
    std::os::unix::fs::FileExt::read_exact_at(&sealed.file, &mut bytes, 0).expect("it can be read");
    bytes
});

fuzz_target!(|data: &[u8]| {
    let mut bytes = WHOLE.clone();
    let (changes, rest) = data.as_chunks::<4>();
    if let [high, low, ..] = rest {
        bytes.truncate(bytes.len() * usize::from(u16::from_be_bytes([*high, *low])) / 65_536);
    }
    for [high, middle, low, byte] in changes {
        let at = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        let len = bytes.len().max(1);
        if let Some(place) = bytes.get_mut(at % len) {
            *place = *byte;
        }
    }
    let mut file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("a file");
    file.write_all(&bytes).and_then(|()| file.seek(SeekFrom::Start(0))).expect("a file can be written");
    let Ok(reader) = Reader::open(file) else { return };
    let _ = (reader.info(), reader.revision());
    let _ = reader.keys().take(MOST).take_while(Result::is_ok).count();
    let _ = reader.leases().take(MOST).take_while(Result::is_ok).count();
    let _ = reader.members().take(MOST).take_while(Result::is_ok).count();
});
