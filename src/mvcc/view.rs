//! Reads: of the present, of the past, of ranges and of changes.
//!
//! A read of the past at revision R takes a key's newest record if that is not
//! newer than R. Otherwise it takes the first undo image of the key that was
//! made after R, if what it holds is not newer than R. Else the key was absent:
//! so a creation needs no undo image, and a deletion no tombstone.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::schema::{self, CHANGES, CURRENT, HEAD_CELL, HISTORY, Head, META};
use super::store::Shared;
use super::{
    Change, ChangeKind, Event, KeyValue, Lookup, Page, RangeQuery, ReadError, Record, RevisionEvents, Store,
};
use crate::codec::DecodeError;
use crate::engine::{Cursor, DbView, Scan};
use crate::error::StorageError;
use crate::keyspace::KeyRange;

/// Entries that a cursor steps over before it seeks: a step is many times
/// cheaper, but a key may have any number of versions.
const STEPS_BEFORE_SEEK: usize = 4;

impl Store {
    /// The record of `key` at revision `at`, or now.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if `at` can't be read.
    pub fn get(&self, key: &[u8], at: Option<i64>) -> Result<Lookup, ReadError> {
        match at {
            None => Ok(self.get_now(key)?),
            Some(at) => self.get_at(key, at),
        }
    }

    fn get_now(&self, key: &[u8]) -> Result<Lookup, StorageError> {
        let shared = &*self.shared;
        let revision = shared.head().revision;
        let mut record = shared.newest.get(key);
        if record.is_none() {
            let found = shared.db.get(shared.family(CURRENT), key)?;
            record = found.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)?;
        }
        // What is not newer than a revision that was known before the read is
        // the state at that revision.
        let is_exact = match &record {
            Some(record) => record.mod_revision <= revision,
            None => shared.is_settled_at(revision),
        };
        if is_exact {
            return Ok(Lookup { revision, record });
        }
        let view = View::new(shared)?;
        let found = view.db.get(shared.family(CURRENT), key)?;
        let record = found.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)?;
        Ok(Lookup { revision: view.head.revision, record })
    }

    // This needs no view. The newest record is read first: a batch between the
    // two reads only adds an undo image of what the first one saw.
    fn get_at(&self, key: &[u8], at: i64) -> Result<Lookup, ReadError> {
        let shared = &*self.shared;
        let head = shared.head();
        check_readable(&head, at)?;
        let newest = shared.db.get(shared.family(CURRENT), key)?;
        let record = match newest.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)? {
            Some(record) if record.mod_revision <= at => Some(record),
            _ => self.undo_image(key, at)?,
        };
        // A compaction meanwhile may have taken the undo image away.
        check_readable(&shared.head(), at)?;
        Ok(Lookup { revision: head.revision, record })
    }

    fn undo_image(&self, key: &[u8], at: i64) -> Result<Option<Record>, StorageError> {
        let shared = &*self.shared;
        let mut end = Vec::new();
        schema::escape_key_end(&mut end, key);
        let mut wanted = Vec::new();
        schema::history_key(&mut wanted, key, at + 1);
        let mut history =
            shared.db.cursor(shared.family(HISTORY), Scan { end: Some(end), ..Scan::default() });
        history.seek(&wanted)?;
        let Some((_, bytes)) = history.entry() else { return Ok(None) };
        let record = Record::decode(bytes).map_err(corrupt_record)?;
        Ok((record.mod_revision <= at).then_some(record))
    }

    /// The keys of a range with their records, all at one revision.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if the query's revision can't be read.
    pub fn range(&self, query: &RangeQuery) -> Result<Page, ReadError> {
        let view = View::new(&self.shared)?;
        let at = query.at.unwrap_or(view.head.revision);
        check_readable(&view.head, at)?;
        let mut page = Page { revision: view.head.revision, at, items: Vec::new(), more: false, count: None };
        if query.count_only {
            let mut count = 0;
            view.walk(&Bounds::of_query(query), at, |_, _| {
                count += 1;
                Ok(ControlFlow::Continue(()))
            })?;
            page.count = Some(count);
            return Ok(page);
        }
        let mut room = query.max_bytes;
        view.walk(&Bounds::of_query(query), at, |key, stored| {
            let (header, value) = Record::decode_header(stored).map_err(corrupt_record)?;
            let value = if query.keys_only { &[] } else { value };
            let size = key.len() + value.len();
            if page.items.len() >= query.limit || (size > room && !page.items.is_empty()) {
                page.more = true;
                return Ok(ControlFlow::Break(()));
            }
            room = room.saturating_sub(size);
            let record = Record { value: Bytes::copy_from_slice(value), ..header };
            page.items.push(KeyValue { key: Bytes::copy_from_slice(key), record });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(page)
    }

    /// The changes from revision `from` on, in order: at least `limit` of them,
    /// if there are so many, with the last revision whole. None if `from` is not
    /// written yet.
    ///
    /// # Errors
    /// `Compacted` if the changes at `from` are no longer there.
    pub fn changes(&self, from: i64, limit: usize) -> Result<Vec<Change>, ReadError> {
        let shared = &*self.shared;
        let head = shared.head();
        let mut changes: Vec<Change> = Vec::new();
        let mut cursor = shared.db.cursor(shared.family(CHANGES), Scan::default());
        cursor.seek(&schema::change_key(from, 0))?;
        while let Some((key, value)) = cursor.entry() {
            let change = Change::decode(key, value).map_err(corrupt_change)?;
            let begins_revision = changes.last().is_none_or(|last| last.main != change.main);
            if change.main > head.revision || (begins_revision && changes.len() >= limit) {
                break;
            }
            changes.push(change);
            cursor.step()?;
        }
        let oldest = shared.head().oldest();
        if from < oldest {
            return Err(ReadError::Compacted { requested: from, oldest });
        }
        Ok(changes)
    }

    /// What happened from revision `from` on, whole revisions in order: until there
    /// are `limit` changes or `max_bytes` bytes of keys and values or more, and at
    /// least one revision. None if `from` is not written yet.
    ///
    /// # Errors
    /// `Compacted` if the changes at `from` are no longer there.
    pub fn events(
        &self,
        from: i64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<RevisionEvents>, ReadError> {
        let mut revisions: Vec<RevisionEvents> = Vec::new();
        let mut bytes = 0;
        for change in self.changes(from, limit)? {
            let Change { main, kind, key, .. } = change;
            let goes_on = revisions.last().is_some_and(|last| last.revision == main);
            if !goes_on && !revisions.is_empty() && bytes >= max_bytes {
                break;
            }
            let event = self.event(main, kind, key)?;
            bytes += event.bytes();
            RevisionEvents::append(&mut revisions, main, event);
        }
        // A compaction meanwhile may have taken undo images away.
        let oldest = self.shared.head().oldest();
        if from < oldest {
            return Err(ReadError::Compacted { requested: from, oldest });
        }
        Ok(revisions)
    }

    /// Puts together what the change of `key` at `revision` replaced, and what by.
    fn event(&self, revision: i64, kind: ChangeKind, key: Bytes) -> Result<Event, StorageError> {
        let shared = &*self.shared;
        // The newest record first, as for a read of the past.
        let newest = shared.db.get(shared.family(CURRENT), &key)?;
        let newest = newest.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)?;
        let record = match (kind, newest) {
            (ChangeKind::Delete, _) => None,
            (ChangeKind::Put, Some(record)) if record.mod_revision <= revision => Some(record),
            (ChangeKind::Put, _) => self.undo_image(&key, revision)?,
        };
        let mut replaced = Vec::new();
        schema::history_key(&mut replaced, &key, revision);
        let previous = shared.db.get(shared.family(HISTORY), &replaced)?;
        let previous = previous.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)?;
        Ok(Event { kind, key, record, previous })
    }

    /// The state hash after `revision`.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if the revision can't be read.
    pub fn hash_at(&self, revision: i64) -> Result<u64, ReadError> {
        let shared = &*self.shared;
        let head = shared.head();
        check_readable(&head, revision)?;
        if revision == head.revision {
            return Ok(head.hash);
        }
        if revision == Head::EMPTY.revision {
            return Ok(Head::EMPTY.hash);
        }
        let mut cursor = shared.db.cursor(shared.family(CHANGES), Scan::default());
        cursor.seek_for_prev(&schema::change_key(revision, u32::MAX))?;
        let last = cursor
            .entry()
            .map(|(key, value)| Change::decode(key, value))
            .transpose()
            .map_err(corrupt_change)?
            .filter(|change| change.main == revision);
        check_readable(&shared.head(), revision)?;
        last.map(|change| change.hash).ok_or_else(|| {
            ReadError::Storage(StorageError::Database {
                action: "reading a state hash",
                reason: format!("no change is stored for revision {revision}"),
            })
        })
    }
}

/// The whole store right after one of its batches.
pub(super) struct View<'a> {
    pub(super) shared: &'a Shared,
    pub(super) db: DbView<'a>,
    pub(super) head: Head,
}

/// The part of the keyspace that a walk visits.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) start: Bytes,
    /// The key before which it ends; `None` is the end of the keyspace.
    pub(super) end: Option<Bytes>,
    /// Keeps what is read out of the cache.
    pub(super) bypass_cache: bool,
}

impl Bounds {
    /// Those of `keys`. Counting is kept out of the cache.
    pub(super) fn of(keys: &KeyRange, count_only: bool) -> Self {
        Self { start: keys.start().clone(), end: keys.end(), bypass_cache: count_only }
    }

    fn of_query(query: &RangeQuery) -> Self {
        Self { start: query.start.clone(), end: query.end.clone(), bypass_cache: query.count_only }
    }

    /// Whether no key can be within.
    pub(super) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The scan of a family whose keys are plain.
    pub(super) fn scan(&self) -> Scan {
        Scan {
            start: Some(self.start.to_vec()),
            end: self.end.as_ref().map(|end| end.to_vec()),
            bypass_cache: self.bypass_cache,
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(shared: &'a Shared) -> Result<Self, StorageError> {
        let db = shared.db.view();
        let head = match db.get(shared.family(META), HEAD_CELL)? {
            Some(bytes) => Head::decode(&bytes),
            None => Err(DecodeError::Truncated { field: "revision", need: 8, have: 0 }),
        }
        .map_err(|source| StorageError::Corrupt { what: "the state's head", source })?;
        // The view may be ahead of what the writer has made known. Nobody may be
        // told a revision that the next read calls the future.
        shared.publish(head);
        Ok(Self { shared, db, head })
    }

    /// The record of `key` in this view.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        let found = self.db.get(self.shared.family(CURRENT), key)?;
        found.map(|bytes| Record::decode(&bytes)).transpose().map_err(corrupt_record)
    }

    /// Visits the keys within `bounds` at revision `at`, with their stored
    /// records, in order.
    pub(super) fn walk(
        &self,
        bounds: &Bounds,
        at: i64,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError>,
    ) -> Result<(), StorageError> {
        if bounds.is_empty() {
            return Ok(());
        }
        if at == self.head.revision { self.walk_now(bounds, visit) } else { self.walk_at(bounds, at, visit) }
    }

    fn walk_now(
        &self,
        bounds: &Bounds,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError>,
    ) -> Result<(), StorageError> {
        let mut current = self.current(bounds)?;
        while let Some((key, stored)) = current.entry() {
            if visit(key, stored)?.is_break() {
                break;
            }
            current.step()?;
        }
        Ok(())
    }

    /// Merges newest records and undo images.
    fn walk_at(
        &self,
        bounds: &Bounds,
        at: i64,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError>,
    ) -> Result<(), StorageError> {
        let mut current = self.current(bounds)?;
        let mut history = self.history(bounds)?;
        let mut superseded = Vec::new();
        let mut bound = Vec::new();
        loop {
            let order = match (history.key(), current.key()) {
                (None, None) => return Ok(()),
                (None, Some(_)) => Ordering::Greater,
                (Some(stored), newest) => {
                    schema::split_history_key(stored, &mut superseded).map_err(corrupt_history_key)?;
                    newest.map_or(Ordering::Less, |newest| superseded.as_slice().cmp(newest))
                }
            };
            let newest = if order.is_ge() { current.entry() } else { None };
            let mut found = not_newer(newest, at)?;
            if found.is_none() && order.is_le() {
                bound.clear();
                schema::history_key(&mut bound, &superseded, at + 1);
                advance_to(&mut history, &bound)?;
                bound.clear();
                schema::escape_key_end(&mut bound, &superseded);
                let image = history.entry().filter(|(key, _)| *key < bound.as_slice());
                found = not_newer(image, at)?.map(|(_, stored)| (superseded.as_slice(), stored));
            }
            if let Some((key, stored)) = found
                && visit(key, stored)?.is_break()
            {
                return Ok(());
            }
            if order.is_le() {
                bound.clear();
                schema::escape_key_end(&mut bound, &superseded);
                advance_to(&mut history, &bound)?;
            }
            if order.is_ge() {
                current.step()?;
            }
        }
    }

    fn current(&self, bounds: &Bounds) -> Result<Cursor<'_>, StorageError> {
        let mut cursor = self.db.cursor(self.shared.family(CURRENT), bounds.scan());
        cursor.first()?;
        Ok(cursor)
    }

    fn history(&self, bounds: &Bounds) -> Result<Cursor<'_>, StorageError> {
        let bound = |key: &Bytes| {
            let mut out = Vec::new();
            schema::escape_key(&mut out, key);
            out
        };
        let scan = Scan {
            start: Some(bound(&bounds.start)),
            end: bounds.end.as_ref().map(bound),
            bypass_cache: bounds.bypass_cache,
        };
        let mut cursor = self.db.cursor(self.shared.family(HISTORY), scan);
        cursor.first()?;
        Ok(cursor)
    }
}

pub(super) fn check_readable(head: &Head, at: i64) -> Result<(), ReadError> {
    if at > head.revision {
        return Err(ReadError::FutureRevision { requested: at, current: head.revision });
    }
    let oldest = head.oldest();
    if at < oldest {
        return Err(ReadError::Compacted { requested: at, oldest });
    }
    Ok(())
}

type Entry<'a> = (&'a [u8], &'a [u8]);

/// The entry, if its record was written at `at` or before.
fn not_newer(entry: Option<Entry<'_>>, at: i64) -> Result<Option<Entry<'_>>, StorageError> {
    let Some((_, stored)) = entry else { return Ok(None) };
    let (header, _) = Record::decode_header(stored).map_err(corrupt_record)?;
    Ok(entry.filter(|_| header.mod_revision <= at))
}

/// Goes forward to the first entry at or after `key`.
fn advance_to(cursor: &mut Cursor<'_>, key: &[u8]) -> Result<(), StorageError> {
    for _ in 0..STEPS_BEFORE_SEEK {
        if cursor.key().is_none_or(|here| here >= key) {
            return Ok(());
        }
        cursor.step()?;
    }
    if cursor.key().is_some_and(|here| here < key) { cursor.seek(key) } else { Ok(()) }
}

pub(super) fn corrupt_record(source: DecodeError) -> StorageError {
    StorageError::Corrupt { what: "a key's record", source }
}

pub(super) fn corrupt_change(source: DecodeError) -> StorageError {
    StorageError::Corrupt { what: "a change", source }
}

fn corrupt_history_key(source: DecodeError) -> StorageError {
    StorageError::Corrupt { what: "a superseded record's key", source }
}
