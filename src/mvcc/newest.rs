//! The newest records of keys that were written lately: what the writer is about to replace,
//! and what readers of the present ask for, mostly are among them. Found here, a record costs a
//! fraction of a search in the database.
//!
//! A record found here must never be older than one that a published revision has made
//! readable. So only the writer fills it, and takes note of a batch before the batch becomes
//! visible: what is found here may be newer than what a reader may see, which shows in its
//! revision, but never older. Readers add nothing, for what they read may be replaced before
//! they have added it.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Record;

/// What an entry takes besides key and value, roughly.
const ENTRY_BYTES: usize = 224;
/// Of values that are larger, few would fit, and a search costs little beside a copy.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// See the file's comment.
pub(super) struct Newest {
    records: Cache<Bytes, Record, Size>,
}

#[derive(Clone)]
struct Size;

impl Weighter<Bytes, Record> for Size {
    fn weight(&self, key: &Bytes, record: &Record) -> u64 {
        (key.len() + record.value.len() + ENTRY_BYTES) as u64
    }
}

impl Newest {
    /// Holds `bytes` at most.
    pub(super) fn new(bytes: usize) -> Self {
        // Of small entries; it only decides how the room is parted.
        let entries = bytes / (2 * ENTRY_BYTES);
        Self { records: Cache::with_weighter(entries, bytes as u64, Size) }
    }

    /// What `key` holds, if that is known here. None says nothing.
    pub(super) fn get(&self, key: &[u8]) -> Option<Record> {
        self.records.get(key)
    }

    /// Takes note of what keys hold, before anybody can see it.
    pub(super) fn note(&self, records: BTreeMap<Bytes, Option<Record>>) {
        for (key, record) in records {
            match record {
                Some(record) if record.value.len() <= MAX_VALUE_BYTES => {
                    let (key, record) = compact(&key, &record);
                    self.records.insert(key, record);
                }
                Some(_) | None => {
                    self.records.remove(&key);
                }
            }
        }
    }

    /// Bytes of what is held, roughly.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.records.weight()
    }
}

/// The same in one piece of memory of their own: as they come, they are parts of a message,
/// and would keep all of it.
fn compact(key: &Bytes, record: &Record) -> (Bytes, Record) {
    let mut copy = BytesMut::with_capacity(key.len() + record.value.len());
    copy.put_slice(key);
    copy.put_slice(&record.value);
    let mut key_copy = copy.freeze();
    let value = key_copy.split_off(key.len());
    (key_copy, Record { value, ..*record })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: Bytes, revision: i64) -> Record {
        Record { value, create_revision: 2, mod_revision: revision, version: 1, lease: 0 }
    }

    fn note(newest: &Newest, key: &'static str, record: Option<Record>) {
        newest.note(BTreeMap::from([(Bytes::from(key), record)]));
    }

    #[test]
    fn what_was_noted_last_is_found_and_what_is_gone_or_too_large_is_not() {
        let newest = Newest::new(1 << 20);
        let (old, new) = (record("old".into(), 2), record("new".into(), 3));
        let large = record(vec![0; MAX_VALUE_BYTES + 1].into(), 4);
        assert_eq!(newest.get(b"k"), None);
        note(&newest, "k", Some(old));
        note(&newest, "k", Some(new.clone()));
        assert_eq!(newest.get(b"k"), Some(new.clone()));
        note(&newest, "k", None);
        assert_eq!(newest.get(b"k"), None);
        note(&newest, "k", Some(new));
        note(&newest, "k", Some(large));
        assert_eq!(newest.get(b"k"), None);
    }

    #[test]
    fn it_keeps_its_bound_and_never_an_older_record_instead() {
        let newest = Newest::new(64 << 10);
        let key = |n: usize| Bytes::from(format!("key-{n:04}"));
        for round in 0..3 {
            for n in 0..1_000 {
                let value = Bytes::from(vec![b'v'; 100 + 20 * round]);
                newest.note(BTreeMap::from([(key(n), Some(record(value, round as i64 + 2)))]));
                assert!(newest.bytes() <= 64 << 10);
                let found = newest.get(&key(n));
                assert!(found.is_none_or(|found| found.mod_revision == round as i64 + 2));
            }
        }
        assert!(newest.bytes() > 32 << 10);
    }
}
