//! Writes: one session collects the changes of one apply batch.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::{BufMut, Bytes};
use twox_hash::XxHash3_64;

use super::alarm::Alarms;
use super::range::{Found, Source, Visit};
use super::schema::{self, ChangeKind, HEAD_CELL, Head};
use super::store::{Shared, Turn};
use super::view::{Bounds, View, check_readable, corrupt_record};
use super::{Event, Lease, LeaseChange, ReadError, Record, RevisionEvents};
use crate::engine::{Batch, Cursor, Family, Scan};
use crate::error::StorageError;
use crate::keyspace::KeyRange;

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

/// What a batch changed, for those who follow along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Its revisions, in order, if they were [asked for](WriteSession::collect_events).
    pub revisions: Option<Vec<RevisionEvents>>,
    /// Its changes of leases, in order.
    pub leases: Vec<LeaseChange>,
}

/// A batch in the making. Its calls see what earlier ones did; nobody else sees
/// anything before [`Self::commit`], which makes all of it visible at once.
/// Dropping the session instead changes nothing.
pub struct WriteSession<'a> {
    pub(super) shared: &'a Shared,
    pub(super) families: Families<'a>,
    pub(super) batch: Batch,
    head: Head,
    /// Keys that were touched, with what they hold now.
    records: BTreeMap<Bytes, Option<Record>>,
    dedup: BTreeMap<Bytes, Option<Bytes>>,
    /// By prefix, a key before which there is no dedup entry of the prefix.
    dedup_fronts: BTreeMap<Bytes, Bytes>,
    /// Bytes of stored values that are held in `records`.
    read_bytes: usize,
    /// Leases that were touched, as they are now.
    pub(super) leases: BTreeMap<i64, Option<Lease>>,
    /// Attachments of keys to leases that were made or undone.
    pub(super) attachments: BTreeMap<(i64, Bytes), bool>,
    /// Up to which key leases have none any more; `None` once the lease is gone.
    pub(super) swept: BTreeMap<i64, Option<Bytes>>,
    /// Where the lease clock stands, if it was moved.
    pub(super) lease_clock: Option<u64>,
    /// The raised alarms, if a command set any.
    pub(super) alarms: Option<Alarms>,
    /// The changes of one command share a revision while this is set.
    joined: Option<Joined>,
    pub(super) committed: Committed,
    scratch: Vec<u8>,
    _turn: Turn<'a>,
}

/// Changes that share one revision.
#[derive(Debug, Clone, Copy)]
struct Joined {
    /// How many there are.
    changes: u32,
}

pub(super) struct Families<'a> {
    current: Family<'a>,
    history: Family<'a>,
    changes: Family<'a>,
    dedup: Family<'a>,
    pub(super) leases: Family<'a>,
    pub(super) lease_keys: Family<'a>,
    pub(super) meta: Family<'a>,
}

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
                leases: shared.family(schema::LEASES),
                lease_keys: shared.family(schema::LEASE_KEYS),
                meta: shared.family(schema::META),
            },
            batch: Batch::new(),
            head: shared.head(),
            records: BTreeMap::new(),
            dedup: BTreeMap::new(),
            dedup_fronts: shared.dedup_fronts.lock().clone(),
            read_bytes: 0,
            leases: BTreeMap::new(),
            attachments: BTreeMap::new(),
            swept: BTreeMap::new(),
            lease_clock: None,
            alarms: None,
            joined: None,
            committed: Committed::default(),
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
        self.read_bytes += record.as_ref().map_or(0, |record| record.value.len());
        // A condition is mostly followed by the write that it guards.
        self.records.insert(Bytes::copy_from_slice(key), record.clone());
        Ok(record)
    }

    /// Whether nothing was changed yet.
    pub fn is_untouched(&self) -> bool {
        self.batch.is_empty()
    }

    /// Roughly the bytes that it holds: its changes with what they replaced, and values
    /// that it read.
    pub fn size_in_bytes(&self) -> usize {
        self.batch.size_in_bytes().saturating_add(self.read_bytes)
    }

    /// Lets all changes that `work` makes share one revision, as one command's do.
    pub fn at_one_revision<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let outermost = self.joined.is_none();
        if outermost {
            self.joined = Some(Joined { changes: 0 });
        }
        let result = work(self);
        if outermost {
            self.joined = None;
        }
        result
    }

    /// The revision of the next change, and its place among those that share it.
    fn next_position(&self) -> (i64, u32) {
        match self.joined {
            Some(Joined { changes }) if changes > 0 => (self.head.revision, changes),
            Some(_) | None => (self.head.revision + 1, 0),
        }
    }

    /// Sets `key` to `value` and attaches it to `lease`, or to none if that is
    /// zero.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<PutDone, StorageError> {
        let previous = self.touched(&key)?;
        let (revision, _) = self.next_position();
        let (create_revision, version) = match &previous {
            Some(record) => (record.create_revision, record.version + 1),
            None => (revision, 1),
        };
        let record = Record { value, create_revision, mod_revision: revision, version, lease };
        self.change(ChangeKind::Put, &key, previous.as_ref(), Some(&record));
        self.records.insert(key, Some(record));
        Ok(PutDone { revision, previous, version })
    }

    /// Removes `key`. Answers the revision and what the key held; takes no
    /// revision and answers `None` if the key is absent.
    pub fn delete(&mut self, key: Bytes) -> Result<Option<(i64, Record)>, StorageError> {
        let Some(previous) = self.touched(&key)? else { return Ok(None) };
        self.change(ChangeKind::Delete, &key, Some(&previous), None);
        self.records.insert(key, None);
        Ok(Some((self.head.revision, previous)))
    }

    /// Makes revisions below `revision` unreadable. What only they need is given
    /// back once the batch is committed.
    ///
    /// # Errors
    /// `Compacted` if they are already, `FutureRevision` if it is not written yet.
    pub fn compact(&mut self, revision: i64) -> Result<(), ReadError> {
        let Head { revision: current, compacted, .. } = self.head;
        if revision > current {
            return Err(ReadError::FutureRevision { requested: revision, current });
        }
        if revision < 0 || (revision <= compacted && compacted > 0) {
            return Err(ReadError::Compacted { requested: revision, oldest: self.head.oldest() });
        }
        self.head.compacted = revision;
        // The head goes with every batch that is not empty.
        self.batch.put(self.families.meta, HEAD_CELL, &self.head.encode());
        Ok(())
    }

    /// # Errors
    /// `Compacted` or `FutureRevision` if `at` can't be read.
    pub(super) fn check_readable(&self, at: i64) -> Result<(), ReadError> {
        check_readable(&self.head, at)
    }

    /// Keeps what is changed from now on for [`Committed::revisions`], with what was
    /// there before: memory for each change until the batch is committed.
    pub fn collect_events(&mut self) {
        self.committed.revisions.get_or_insert_default();
    }

    /// Adds one change to the batch and to the hash chain.
    fn change(&mut self, kind: ChangeKind, key: &Bytes, previous: Option<&Record>, record: Option<&Record>) {
        let (revision, sub) = self.next_position();
        let scratch = &mut self.scratch;
        // What the same command wrote was never anybody's to read.
        if let Some(previous) = previous.filter(|previous| previous.mod_revision < revision) {
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
        scratch.put_u32_le(sub);
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
        self.batch.put(self.families.changes, &schema::change_key(revision, sub), scratch);
        self.head = Head { revision, hash, ..self.head };
        if let Some(joined) = &mut self.joined {
            joined.changes += 1;
        }
        let lease_of = |record: Option<&Record>| record.map_or(0, |record| record.lease);
        self.move_attachment(key, lease_of(previous), lease_of(record));
        if let Some(revisions) = &mut self.committed.revisions {
            let event =
                Event { kind, key: key.clone(), record: record.cloned(), previous: previous.cloned() };
            RevisionEvents::append(revisions, revision, event);
        }
    }

    fn touched(&self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        match self.records.get(key) {
            Some(record) => Ok(record.clone()),
            None => self.stored(key),
        }
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        // Nobody else writes, so what is known is what is stored.
        if let Some(record) = self.shared.newest.get(key) {
            return Ok(Some(record));
        }
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
        for (prefix, front) in &mut self.dedup_fronts {
            if key < *front && key.starts_with(prefix) {
                *front = key.clone();
            }
        }
        self.batch.put(self.families.dedup, &key, &value);
        self.dedup.insert(key, Some(value));
    }

    /// Removes a dedup entry, if it is there.
    pub fn dedup_delete(&mut self, key: Bytes) {
        self.batch.delete(self.families.dedup, &key);
        self.dedup.insert(key, None);
    }

    /// The first dedup entry whose key begins with `prefix`.
    ///
    /// Its place is remembered, also for later sessions once this one is committed: whoever
    /// removes entries from the front does not step over them again.
    pub fn dedup_first(&mut self, prefix: &[u8]) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let front = self.dedup_fronts.get(prefix).cloned();
        let first = self.dedup_from(prefix, front.as_deref().unwrap_or(prefix))?;
        if let Some((key, _)) = &first {
            self.dedup_fronts.insert(Bytes::copy_from_slice(prefix), key.clone());
        }
        Ok(first)
    }

    /// The first dedup entry at or after `from` whose key begins with `prefix`.
    pub fn dedup_from(&self, prefix: &[u8], from: &[u8]) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let from = from.max(prefix);
        let in_batch = self
            .dedup
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .find_map(|(key, value)| value.as_ref().map(|value| (key, value)));
        // Bounded, so that no removed entry of another prefix is stepped over.
        let end = KeyRange::prefix(Bytes::copy_from_slice(prefix)).end().map(Vec::from);
        let mut cursor = self.shared.db.cursor(self.families.dedup, Scan { end, ..Scan::default() });
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
    pub fn commit(mut self) -> Result<Committed, StorageError> {
        if self.batch.is_empty() {
            return Ok(Committed::default());
        }
        self.batch.put(self.families.meta, HEAD_CELL, &self.head.encode());
        self.shared.newest.note(self.records);
        self.shared.commit(self.batch, self.head, self.alarms)?;
        self.shared.note_swept(self.swept);
        *self.shared.dedup_fronts.lock() = self.dedup_fronts;
        Ok(self.committed)
    }
}

impl Source for WriteSession<'_> {
    fn point(&mut self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        self.get(key)
    }

    /// Of the past it sees what was committed before the session, so whoever reads
    /// the past begins with an untouched session.
    fn walk(
        &self,
        keys: &KeyRange,
        at: Option<i64>,
        count_only: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        if at.is_some() {
            return Source::walk(&View::new(self.shared)?, keys, at, count_only, visit);
        }
        let bounds = Bounds::of(keys, count_only);
        if bounds.is_empty() { Ok(()) } else { self.walk_now(&bounds, visit) }
    }
}

impl WriteSession<'_> {
    /// The keys of a range, in order, as they are now.
    pub(super) fn keys_in(&mut self, range: &KeyRange) -> Result<Vec<Bytes>, StorageError> {
        if let KeyRange::One(key) = range {
            return Ok(self.get(key)?.map(|_| key.clone()).into_iter().collect());
        }
        let mut keys = Vec::new();
        self.walk(range, None, false, &mut |found| {
            keys.push(Bytes::copy_from_slice(found.key));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(keys)
    }

    /// Merges what is stored with what the session changed.
    fn walk_now(&self, bounds: &Bounds, visit: Visit<'_>) -> Result<(), StorageError> {
        let upper = bounds.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut changed = self.records.range((Bound::Included(bounds.start.clone()), upper)).peekable();
        let mut stored: Cursor<'_> = self.shared.db.cursor(self.families.current, bounds.scan());
        stored.first()?;
        loop {
            // What the session holds of a key comes before what is stored of it.
            let changed_first = match (changed.peek(), stored.key()) {
                (None, None) => return Ok(()),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some(stored)) => key.as_ref() <= stored,
            };
            let flow = if changed_first {
                let Some((key, record)) = changed.next() else { return Ok(()) };
                if stored.key() == Some(key.as_ref()) {
                    stored.step()?;
                }
                match record {
                    Some(record) => {
                        let header = Record { value: Bytes::new(), ..record.clone() };
                        visit(&Found { key, header, value: &record.value })?
                    }
                    None => ControlFlow::Continue(()),
                }
            } else {
                let Some((key, bytes)) = stored.entry() else { return Ok(()) };
                let (header, value) = Record::decode_header(bytes).map_err(corrupt_record)?;
                let flow = visit(&Found { key, header, value })?;
                stored.step()?;
                flow
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
}
