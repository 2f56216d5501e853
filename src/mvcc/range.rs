//! Range reads and compares as etcd means them, over whatever holds records: a
//! view of the store, or a batch in the making.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::view::{Bounds, View, check_readable, corrupt_record};
use super::{KeyValue, ReadError, Record, Store};
use crate::command::{Compare, Op, OpOutcome, Relation, Target, Txn, TxnOutcome};
use crate::error::StorageError;
use crate::inflight::{AnswerBytes, Held, InflightBytes, UNCOUNTED_ANSWER_BYTES};
use crate::keyspace::{KeyRange, RangeRequest, RangeResult, Sort, SortBy};

/// What a walk meets: a key and its record, the value beside it.
pub(super) struct Found<'a> {
    pub(super) key: &'a [u8],
    /// All of the record but its value.
    pub(super) header: Record,
    pub(super) value: &'a [u8],
}

impl Found<'_> {
    fn to_item(&self, keys_only: bool) -> KeyValue {
        let value = if keys_only { Bytes::new() } else { Bytes::copy_from_slice(self.value) };
        KeyValue { key: Bytes::copy_from_slice(self.key), record: Record { value, ..self.header.clone() } }
    }
}

pub(super) type Visit<'v> = &'v mut dyn FnMut(&Found<'_>) -> Result<ControlFlow<()>, StorageError>;

/// Something that holds records.
pub(super) trait Source {
    /// The record of `key` now.
    fn point(&mut self, key: &[u8]) -> Result<Option<Record>, StorageError>;

    /// Visits the records of `keys` in key order, as of revision `at` or now.
    fn walk(
        &self,
        keys: &KeyRange,
        at: Option<i64>,
        count_only: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError>;
}

impl Source for View<'_> {
    fn point(&mut self, key: &[u8]) -> Result<Option<Record>, StorageError> {
        self.get(key)
    }

    fn walk(
        &self,
        keys: &KeyRange,
        at: Option<i64>,
        count_only: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        View::walk(self, &Bounds::of(keys, count_only), at.unwrap_or(self.head.revision), |key, stored| {
            let (header, value) = Record::decode_header(stored).map_err(corrupt_record)?;
            visit(&Found { key, header, value })
        })
    }
}

/// How much is counted at once while an answer grows.
const COUNTED_AT_ONCE: usize = 256 << 10;

/// The room that the items of one answer have together, however many parts it has.
#[derive(Debug)]
pub struct Room {
    max: usize,
    used: usize,
    /// The most that was ever used, also by what the answer did not keep.
    most: usize,
    /// What is counted of it among all that is in flight, if it is.
    held: Option<Held>,
    is_refused: bool,
}

impl Room {
    /// Room for `max` bytes.
    pub fn of(max: usize) -> Self {
        Self { max, used: 0, most: 0, held: None, is_refused: false }
    }

    /// The same, of which what is used counts as `inflight`. Not for what replicas must
    /// agree on: how much is in flight differs from one to the next.
    pub fn counted(max: usize, inflight: &Arc<InflightBytes>) -> Self {
        Self { held: Some(inflight.hold()), ..Self::of(max) }
    }

    /// What the answer that was made in it counts.
    pub fn into_counted(self) -> AnswerBytes {
        let Some(mut held) = self.held else { return AnswerBytes::default() };
        held.shrink_to(if self.used > UNCOUNTED_ANSWER_BYTES { self.used } else { 0 });
        held.into()
    }

    /// Whether it is short because too much is in flight.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether there was not enough, so that the answer is not whole.
    pub fn is_short(&self) -> bool {
        self.is_refused || self.used_more_than(self.max)
    }

    /// Whether more than `bytes` was in use at some time. How much room there is
    /// makes no difference to that, if it is room for `bytes`.
    pub fn used_more_than(&self, bytes: usize) -> bool {
        self.most > bytes
    }

    /// Takes the room of `item`; answers whether there was enough. Once there was
    /// not, there is none for anything.
    pub(super) fn take(&mut self, item: &KeyValue) -> bool {
        self.take_bytes(size(item))
    }

    /// The same for what is no item.
    pub fn take_bytes(&mut self, bytes: usize) -> bool {
        if !self.is_short() {
            self.use_in_all(self.used + bytes);
        }
        !self.is_short()
    }

    fn use_in_all(&mut self, bytes: usize) {
        self.used = bytes;
        self.most = self.most.max(bytes);
        if let Some(held) = &mut self.held
            && bytes > UNCOUNTED_ANSWER_BYTES.max(held.bytes())
        {
            let more = bytes - held.bytes();
            self.is_refused |= !held.grow(more.max(COUNTED_AT_ONCE)) && !held.grow(more);
        }
    }
}

/// Reads a range. What there is no room for is left out, and the result says so.
pub(super) fn read_range(
    source: &mut impl Source,
    request: &RangeRequest,
    room: &mut Room,
) -> Result<RangeResult, StorageError> {
    if room.is_short() {
        return Ok(RangeResult { truncated: true, ..RangeResult::default() });
    }
    if let (KeyRange::One(key), None) = (&request.keys, request.at) {
        return Ok(read_one(source.point(key)?, key, request, room));
    }
    let mut result = RangeResult::default();
    if request.count_only {
        source.walk(&request.keys, request.at, true, &mut |_| {
            result.count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        return Ok(result);
    }
    let mut collected = Collected::new(request, room);
    source.walk(&request.keys, request.at, false, &mut |found| {
        result.count += 1;
        if request.revisions.admit(found.header.create_revision, found.header.mod_revision) {
            collected.take(found);
        }
        Ok(if collected.room.is_short() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    (result.items, result.more, result.truncated) = collected.finish();
    Ok(result)
}

fn read_one(record: Option<Record>, key: &Bytes, request: &RangeRequest, room: &mut Room) -> RangeResult {
    let Some(record) = record else { return RangeResult::default() };
    let mut result = RangeResult { count: 1, ..RangeResult::default() };
    if request.count_only || !request.revisions.admit(record.create_revision, record.mod_revision) {
        return result;
    }
    if request.limit == Some(0) {
        result.more = true;
        return result;
    }
    let value = if request.keys_only { Bytes::new() } else { record.value.clone() };
    let item = KeyValue { key: key.clone(), record: Record { value, ..record } };
    result.items.extend(room.take(&item).then_some(item));
    result.truncated = room.is_short();
    result
}

/// The items of a range so far. With a limit it holds no more than twice as many,
/// however long the range is.
struct Collected<'r> {
    request: &'r RangeRequest,
    items: Vec<KeyValue>,
    admitted: usize,
    bytes: usize,
    room: &'r mut Room,
    /// What of the room other parts of the answer use.
    used_before: usize,
}

impl<'r> Collected<'r> {
    fn new(request: &'r RangeRequest, room: &'r mut Room) -> Self {
        let used_before = room.used;
        Self { request, items: Vec::new(), admitted: 0, bytes: 0, room, used_before }
    }

    fn limit(&self) -> usize {
        self.request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn take(&mut self, found: &Found<'_>) {
        self.admitted += 1;
        let limit = self.limit();
        let enough = match self.request.sort {
            None => limit,
            Some(sort) if sort.first_only => limit.saturating_add(1),
            Some(_) => usize::MAX,
        };
        if self.items.len() >= enough {
            return;
        }
        // Sorting by value needs the values even where only keys are asked for.
        let by_value = self.request.sort.is_some_and(|sort| sort.by == SortBy::Value);
        let item = found.to_item(self.request.keys_only && !by_value);
        self.bytes += size(&item);
        self.items.push(item);
        if self.items.len() / 2 > limit {
            self.cut(limit);
        }
        self.room.use_in_all(self.used_before + self.bytes);
    }

    fn cut(&mut self, limit: usize) {
        if let Some(sort) = self.request.sort {
            // Stable, so that equal items stay in key order.
            self.items.sort_by(|a, b| order(sort, a, b));
        }
        self.items.truncate(limit);
        self.weigh();
    }

    fn weigh(&mut self) {
        self.bytes = self.items.iter().map(size).sum();
    }

    fn finish(mut self) -> (Vec<KeyValue>, bool, bool) {
        let limit = self.limit();
        self.cut(limit);
        if self.request.keys_only {
            for item in &mut self.items {
                item.record.value = Bytes::new();
            }
            self.weigh();
        }
        self.room.use_in_all(self.used_before + self.bytes);
        (self.items, self.admitted > limit, self.room.is_short())
    }
}

fn size(item: &KeyValue) -> usize {
    item.key.len() + item.record.value.len() + size_of::<KeyValue>()
}

fn order(sort: Sort, a: &KeyValue, b: &KeyValue) -> Ordering {
    let ascending = match sort.by {
        SortBy::Key => a.key.cmp(&b.key),
        SortBy::Version => a.record.version.cmp(&b.record.version),
        SortBy::CreateRevision => a.record.create_revision.cmp(&b.record.create_revision),
        SortBy::ModRevision => a.record.mod_revision.cmp(&b.record.mod_revision),
        SortBy::Value => a.record.value.cmp(&b.record.value),
    };
    if sort.descending { ascending.reverse() } else { ascending }
}

/// Whether every key of the compare's range stands as it demands. A range without
/// keys is compared as one absent key, which has no value to compare.
pub(super) fn holds(source: &mut impl Source, compare: &Compare) -> Result<bool, StorageError> {
    if let KeyRange::One(key) = &compare.keys {
        return Ok(match source.point(key)? {
            Some(record) => stands(compare, &record, &record.value),
            None => stands_absent(compare),
        });
    }
    let mut is_empty = true;
    let mut all_stand = true;
    source.walk(&compare.keys, None, false, &mut |found| {
        is_empty = false;
        all_stand = stands(compare, &found.header, found.value);
        Ok(if all_stand { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(if is_empty { stands_absent(compare) } else { all_stand })
}

fn stands_absent(compare: &Compare) -> bool {
    let absent = Record { value: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0, lease: 0 };
    !matches!(compare.target, Target::Value(_)) && stands(compare, &absent, &[])
}

fn stands(compare: &Compare, record: &Record, value: &[u8]) -> bool {
    let order = match &compare.target {
        Target::Version(given) => record.version.cmp(given),
        Target::CreateRevision(given) => record.create_revision.cmp(given),
        Target::ModRevision(given) => record.mod_revision.cmp(given),
        Target::Lease(given) => record.lease.cmp(given),
        Target::Value(given) => value.cmp(given),
    };
    match compare.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

impl Store {
    /// Reads a range; answers the store's revision with it. Items that find no `room`
    /// are left out, and the result says so.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if the request's revision can't be read.
    pub fn read(&self, request: &RangeRequest, room: &mut Room) -> Result<(i64, RangeResult), ReadError> {
        if let KeyRange::One(key) = &request.keys {
            let lookup = self.get(key, request.at)?;
            return Ok((lookup.revision, read_one(lookup.record, key, request, room)));
        }
        let mut view = View::new(&self.shared)?;
        if let Some(at) = request.at {
            check_readable(&view.head, at)?;
        }
        let result = read_range(&mut view, request, room)?;
        Ok((view.head.revision, result))
    }

    /// Runs a transaction that changes nothing, all of it at one revision. Items of its
    /// ranges that find no `room` are left out, and the results of those ranges say so.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if a range's revision can't be read.
    ///
    /// # Panics
    /// If the transaction may change something.
    pub fn read_txn(&self, txn: &Txn, room: &mut Room) -> Result<(i64, TxnOutcome), ReadError> {
        assert!(txn.is_read_only(), "only read-only transactions are run without consensus");
        let mut view = View::new(&self.shared)?;
        let outcome = read_txn(&mut view, txn, room)?;
        Ok((view.head.revision, outcome))
    }
}

fn read_txn(view: &mut View<'_>, txn: &Txn, room: &mut Room) -> Result<TxnOutcome, ReadError> {
    let mut succeeded = true;
    for compare in &txn.compares {
        succeeded = succeeded && holds(view, compare)?;
    }
    let ops = if succeeded { &txn.success } else { &txn.failure };
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        responses.push(match op {
            Op::Range(request) => {
                if let Some(at) = request.at {
                    check_readable(&view.head, at)?;
                }
                let found = read_range(view, request, room)?;
                OpOutcome::Range { revision: view.head.revision, found }
            }
            Op::Txn(txn) => OpOutcome::Txn(read_txn(view, txn, room)?),
            Op::Put(_) | Op::Delete(_) => unreachable!("a read-only transaction has no such operation"),
        });
    }
    Ok(TxnOutcome { succeeded, responses, ..TxnOutcome::default() })
}
