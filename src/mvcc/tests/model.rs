//! What the store should answer, in the plainest form: all versions of all keys
//! in memory. And the strategies that drive both.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{ChangeKind, KeyValue, OLDEST_REVISION, Page, RangeQuery, Record};

/// One command of a batch.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Get(Bytes),
    Put { key: Bytes, value: Bytes, lease: i64 },
    Delete(Bytes),
}

/// One step in a store's life.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Batch(Vec<Op>),
    Flush,
    Restart,
    Crash,
}

/// Few keys, so that they meet often; prefixes of one another and bytes that the
/// stored form escapes.
fn key() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(vec![
        Bytes::from_static(b"a"),
        Bytes::from_static(b"a\0"),
        Bytes::from_static(b"a\0\x01"),
        Bytes::from_static(b"a\0\xff"),
        Bytes::from_static(b"ab"),
        Bytes::from_static(b"b"),
        Bytes::from_static(b"\0"),
        Bytes::from_static(b"\xff\xff"),
    ])
}

/// Mostly small; sometimes large enough to make the store flush by itself.
fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        9 => vec(any::<u8>(), 0..6).prop_map(Bytes::from),
        1 => any::<u8>().prop_map(|byte| Bytes::from(vec![byte; 50_000])),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => key().prop_map(Op::Get),
        5 => (key(), value(), 0_i64..3).prop_map(|(key, value, lease)| Op::Put { key, value, lease }),
        3 => key().prop_map(Op::Delete),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => vec(op(), 0..6).prop_map(Step::Batch),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    vec(step, 1..25)
}

pub(super) fn query() -> impl Strategy<Value = RangeQuery> {
    (
        prop_oneof![Just(Bytes::new()), key()],
        proptest::option::of(key()),
        proptest::option::of(0_i64..200),
        prop_oneof![0_usize..5, Just(usize::MAX)],
        prop_oneof![0_usize..20, Just(usize::MAX)],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(start, end, at, limit, max_bytes, keys_only, count_only)| RangeQuery {
            start,
            end,
            at,
            limit,
            max_bytes,
            keys_only,
            count_only,
        })
}

/// All that was ever written.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) revision: i64,
    pub(super) changes: Vec<(i64, ChangeKind, Bytes)>,
    versions: BTreeMap<Bytes, BTreeMap<i64, Option<Record>>>,
}

impl Default for Model {
    fn default() -> Self {
        Self { revision: OLDEST_REVISION, changes: Vec::new(), versions: BTreeMap::new() }
    }
}

impl Model {
    pub(super) fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64) -> Record {
        let previous = self.get(key, self.revision);
        self.revision += 1;
        let record = Record {
            value: value.clone(),
            create_revision: previous.as_ref().map_or(self.revision, |record| record.create_revision),
            mod_revision: self.revision,
            version: previous.map_or(1, |record| record.version + 1),
            lease,
        };
        self.changes.push((self.revision, ChangeKind::Put, key.clone()));
        self.versions.entry(key.clone()).or_default().insert(self.revision, Some(record.clone()));
        record
    }

    pub(super) fn delete(&mut self, key: &Bytes) -> Option<Record> {
        let previous = self.get(key, self.revision)?;
        self.revision += 1;
        self.changes.push((self.revision, ChangeKind::Delete, key.clone()));
        self.versions.entry(key.clone()).or_default().insert(self.revision, None);
        Some(previous)
    }

    /// Every key that ever was.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.versions.keys()
    }

    pub(super) fn get(&self, key: &[u8], at: i64) -> Option<Record> {
        self.versions.get(key)?.range(..=at).next_back()?.1.clone()
    }

    pub(super) fn range(&self, query: &RangeQuery, at: i64) -> Vec<KeyValue> {
        self.keys()
            .filter(|key| **key >= query.start && query.end.as_ref().is_none_or(|end| *key < end))
            .filter_map(|key| Some(KeyValue { key: key.clone(), record: self.get(key, at)? }))
            .collect()
    }

    pub(super) fn page(&self, query: &RangeQuery) -> Page {
        let at = query.at.unwrap_or(self.revision);
        let mut page = Page { revision: self.revision, at, items: Vec::new(), more: false, count: None };
        let all = self.range(query, at);
        if query.count_only {
            page.count = Some(all.len() as u64);
            return page;
        }
        let mut bytes = 0;
        for mut item in all {
            if query.keys_only {
                item.record.value = Bytes::new();
            }
            bytes += item.key.len() + item.record.value.len();
            if page.items.len() >= query.limit || (bytes > query.max_bytes && !page.items.is_empty()) {
                page.more = true;
                break;
            }
            page.items.push(item);
        }
        page
    }
}
