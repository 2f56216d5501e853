//! Writes: one session collects the changes of one apply batch.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::{BufMut, Bytes};
use twox_hash::XxHash3_64;

use super::Record;
use super::schema::{self, ChangeKind, HEAD_CELL, Head};
use super::store::{Shared, Turn};
use crate::codec::DecodeError;
use crate::engine::{Batch, Family, Scan};
use crate::error::StorageError;

/// What setting a key did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutDone {
    /// The revision the change took.
    pub revision: i64,
    /// What the key held before; `None` if it was absent.
    pub previous: Option<Record>,
    /// How many times the key was set since it was created.
    pub version: i64,
}

/// A batch in the making. Its calls see what earlier ones did; nobody else sees
/// anything before [`Self::commit`], which makes all of it visible at once.
/// Dropping the session instead changes nothing.
pub struct WriteSession<'a> {
    shared: &'a Shared,
    families: Families<'a>,
    batch: Batch,
    head: Head,
    /// Keys that were touched, with what they hold now. Never iterated: its
    /// order differs between replicas.
    records: HashMap<Bytes, Option<Record>>,
    dedup: BTreeMap<Bytes, Option<Bytes>>,
    scratch: Vec<u8>,
    _turn: Turn<'a>,
}

struct Families<'a> {
    current: Family<'a>,
    history: Family<'a>,
    changes: Family<'a>,
    dedup: Family<'a>,
    meta: Family<'a>,
}

/// A change is a command's only one until commands can have several.
const ONLY_SUB: u32 = 0;

impl<'a> WriteSession<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let turn = shared.take_turn();
        Self {
            shared,
            families: Families {
                current: shared.family(schema::CURRENT),
                history: shared.family(schema::HISTORY),
                changes: shared.family(schema::CHANGES),
                dedup: shared.family(schema::DEDUP),
                meta: shared.family(schema::META),
            },
            batch: Batch::new(),
            head: shared.head(),
            records: HashMap::new(),
            dedup: BTreeMap::new(),
            scratch: Vec::new(),
            _turn: turn,
        }
    }

    /// The revision of the last change, in this session or before it.
    pub fn revision(&self) -> i64 {
        self.head.revision
    }

    /// What `key` holds now; `None` if absent.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        if let Some(record) = self.records.get(key) {
            return Ok(record.clone());
        }
        let record = self.stored(key)?;
        // A condition is mostly followed by the write that it guards.
        self.records.insert(Bytes::copy_from_slice(key), record.clone());
        Ok(record)
    }

    /// Sets `key` to `value` and attaches it to `lease`, or to none if that is
    /// zero. Takes one revision.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<PutDone, StorageError> {
        let previous = self.touched(&key)?;
        let revision = self.head.revision + 1;
        let (create_revision, version) = match &previous {
            Some(record) => (record.create_revision, record.version + 1),
            None => (revision, 1),
        };
        let record = Record { value, create_revision, mod_revision: revision, version, lease };
        self.change(ChangeKind::Put, &key, previous.as_ref(), Some(&record));
        self.records.insert(key, Some(record));
        Ok(PutDone { revision, previous, version })
    }

    /// Removes `key`. Takes one revision and answers it with what the key held;
    /// takes none and answers `None` if the key is absent.
    pub fn delete(&mut self, key: Bytes) -> Result<Option<(i64, Record)>, StorageError> {
        let Some(previous) = self.touched(&key)? else { return Ok(None) };
        self.change(ChangeKind::Delete, &key, Some(&previous), None);
        self.records.insert(key, None);
        Ok(Some((self.head.revision, previous)))
    }

    /// Adds one change at the next revision to the batch and to the hash chain.
    fn change(&mut self, kind: ChangeKind, key: &[u8], previous: Option<&Record>, record: Option<&Record>) {
        let revision = self.head.revision + 1;
        let scratch = &mut self.scratch;
        if let Some(previous) = previous {
            scratch.clear();
            schema::history_key(scratch, key, revision);
            let key_bytes = scratch.len();
            previous.encode_to(scratch);
            let (key, stored) = scratch.split_at(key_bytes);
            self.batch.put(self.families.history, key, stored);
        }
        scratch.clear();
        scratch.put_u64_le(self.head.hash);
        scratch.put_i64_le(revision);
        scratch.put_u32_le(ONLY_SUB);
        scratch.push(kind.tag());
        crate::codec::put_bytes(scratch, key);
        let prefix_bytes = scratch.len();
        if let Some(record) = record {
            record.encode_to(scratch);
        }
        let hash = XxHash3_64::oneshot(scratch);
        match record {
            Some(_) => {
                let (_, stored) = scratch.split_at(prefix_bytes);
                self.batch.put(self.families.current, key, stored);
            }
            None => self.batch.delete(self.families.current, key),
        }
        scratch.clear();
        schema::encode_change(scratch, kind, hash, key);
        self.batch.put(self.families.changes, &schema::change_key(revision, ONLY_SUB), scratch);
        self.head = Head { revision, hash, ..self.head };
    }

    fn touched(&self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        match self.records.get(key) {
            Some(record) => Ok(record.clone()),
            None => self.stored(key),
        }
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        let found = self.shared.db.get(self.families.current, key)?;
        found.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)
    }

    /// The dedup entry under `key`.
    pub fn dedup_get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if let Some(entry) = self.dedup.get(key) {
            return Ok(entry.clone());
        }
        let found = self.shared.db.get(self.families.dedup, key)?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// Sets a dedup entry. What it means is the caller's; it takes no revision.
    pub fn dedup_put(&mut self, key: Bytes, value: Bytes) {
        self.batch.put(self.families.dedup, &key, &value);
        self.dedup.insert(key, Some(value));
    }

    /// Removes a dedup entry, if it is there.
    pub fn dedup_delete(&mut self, key: Bytes) {
        self.batch.delete(self.families.dedup, &key);
        self.dedup.insert(key, None);
    }

    /// The first dedup entry whose key begins with `prefix`.
    pub fn dedup_first(&self, prefix: &[u8]) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        self.dedup_from(prefix, prefix)
    }

    /// The first dedup entry at or after `from` whose key begins with `prefix`.
    pub fn dedup_from(&self, prefix: &[u8], from: &[u8]) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let from = from.max(prefix);
        let in_batch = self
            .dedup
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .find_map(|(key, value)| value.as_ref().map(|value| (key, value)));
        let mut cursor = self.shared.db.cursor(self.families.dedup, Scan::default());
        cursor.seek(from)?;
        while let Some((key, value)) = cursor.entry().filter(|(key, _)| key.starts_with(prefix)) {
            if in_batch.is_some_and(|(first, _)| first.as_ref() <= key) {
                break;
            }
            if !self.dedup.contains_key(key) {
                return Ok(Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))));
            }
            cursor.step()?;
        }
        Ok(in_batch.map(|(key, value)| (key.clone(), value.clone())))
    }

    /// Stores a blob that belongs to this batch, under a name of the caller's.
    #[expect(clippy::needless_pass_by_value, reason = "callers encode the blob for this and drop it")]
    pub fn set_meta(&mut self, name: &'static str, value: Vec<u8>) {
        self.batch.put(self.families.meta, &schema::blob_cell(name), &value);
    }

    /// Makes the batch visible: all of it, and then its revision and hash. It
    /// survives a crash after the next flush, together with all before it.
    ///
    /// # Errors
    /// Whatever failed, nothing of the batch is promised, and nothing more is
    /// written: every later commit answers [`StorageError::Poisoned`].
    pub fn commit(mut self) -> Result<(), StorageError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch.put(self.families.meta, HEAD_CELL, &self.head.encode());
        self.shared.commit(self.batch, self.head)
    }
}

fn corrupt_record(source: DecodeError) -> StorageError {
    StorageError::Corrupt { what: "a key's record", source }
}
