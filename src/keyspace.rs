//! Words for what is stored: keys, ranges of them, and what a range read asks
//! for and finds.
//!
//! Plain data without behaviour of its own, so that the fronts, consensus and the
//! engine can speak of the same things and none of them needs another for it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::json_bytes;
use crate::inflight::AnswerBytes;

/// A key's value with its history in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The value, possibly empty.
    #[serde(with = "json_bytes")]
    pub value: Bytes,
    /// The revision that created the key, after its last deletion if any.
    pub create_revision: i64,
    /// The revision that set this value.
    pub mod_revision: i64,
    /// How many times the key was set since it was created; starts at one.
    pub version: i64,
    /// The lease the key is attached to; zero is none.
    pub lease: i64,
}

/// A key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    #[serde(with = "json_bytes")]
    pub key: Bytes,
    /// What it holds; without its value if only keys were asked for.
    pub record: Record,
}

/// Keys that lie side by side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRange {
    /// One key.
    One(#[serde(with = "json_bytes")] Bytes),
    /// All keys from this one on.
    From(#[serde(with = "json_bytes")] Bytes),
    /// All keys from `start` up to, and without, `end`; none if `end` is not
    /// greater.
    Between {
        /// The first key.
        #[serde(with = "json_bytes")]
        start: Bytes,
        /// The key before which the range ends.
        #[serde(with = "json_bytes")]
        end: Bytes,
    },
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::From(Bytes::new())
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        // The least key past the prefix: what can't be counted up is dropped.
        let Some(last) = start.iter().rposition(|byte| *byte != u8::MAX) else {
            return Self::From(start);
        };
        let mut end = start.slice(..=last).to_vec();
        if let Some(byte) = end.last_mut() {
            *byte += 1;
        }
        Self::Between { start, end: end.into() }
    }

    /// The first key that may be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::One(key) | Self::From(key) | Self::Between { start: key, .. } => key,
        }
    }

    /// The key before which the range ends; `None` is the end of the keyspace.
    pub fn end(&self) -> Option<Bytes> {
        match self {
            Self::One(key) => {
                let mut end = Vec::with_capacity(key.len() + 1);
                end.extend_from_slice(key);
                end.push(0);
                Some(end.into())
            }
            Self::From(_) => None,
            Self::Between { end, .. } => Some(end.clone()),
        }
    }

    /// What of the range lies behind `key`, which is in it.
    #[must_use]
    pub fn after(&self, key: &[u8]) -> Self {
        let mut start = Vec::with_capacity(key.len() + 1);
        start.extend_from_slice(key);
        start.push(0);
        let start = Bytes::from(start);
        match self {
            Self::One(_) => Self::Between { start: start.clone(), end: start },
            Self::From(_) => Self::From(start),
            Self::Between { start: _, end } => Self::Between { start, end: end.clone() },
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(only) => only == key,
            Self::From(start) => start.as_ref() <= key,
            Self::Between { start, end } => start.as_ref() <= key && key < end.as_ref(),
        }
    }
}

/// What a sorted range is sorted by. Equal items stay in key order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortBy {
    /// The key.
    Key,
    /// How often the key was set since it was created.
    Version,
    /// The revision that created it.
    CreateRevision,
    /// The revision that set it last.
    ModRevision,
    /// The value.
    Value,
}

/// An order of items other than ascending by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sort {
    /// What counts.
    pub by: SortBy,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// Whether only the first keys are sorted, one more than the limit, and not all
    /// that the range holds: what etcd makes of an order without a direction.
    pub first_only: bool,
}

impl Sort {
    /// All items, the least first.
    pub fn ascending(by: SortBy) -> Self {
        Self { by, descending: false, first_only: false }
    }

    /// All items, the greatest first.
    pub fn descending(by: SortBy) -> Self {
        Self { by, descending: true, first_only: false }
    }
}

/// Bounds on the revisions of the items that a range read returns, each inclusive;
/// zero is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionBounds {
    /// Least modification revision.
    pub min_mod: i64,
    /// Greatest modification revision.
    pub max_mod: i64,
    /// Least creation revision.
    pub min_create: i64,
    /// Greatest creation revision.
    pub max_create: i64,
}

impl RevisionBounds {
    /// Whether there is any bound.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether a key with these revisions is within the bounds.
    pub fn admit(&self, create_revision: i64, mod_revision: i64) -> bool {
        let below = |bound: i64, revision: i64| bound == 0 || revision <= bound;
        mod_revision >= self.min_mod
            && create_revision >= self.min_create
            && below(self.max_mod, mod_revision)
            && below(self.max_create, create_revision)
    }
}

/// A read of a range, as etcd's `Range` means it: bounds on revisions filter, then
/// the order is made, then the limit cuts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRequest {
    /// Which keys.
    pub keys: KeyRange,
    /// The revision to read at; `None` is the present.
    pub at: Option<i64>,
    /// At most so many items; `None` is all.
    pub limit: Option<u64>,
    /// The order, if not by key.
    pub sort: Option<Sort>,
    /// Leave the values out.
    pub keys_only: bool,
    /// Count the range's keys and return none.
    pub count_only: bool,
    /// Which items to return; the count is of all.
    pub revisions: RevisionBounds,
}

impl RangeRequest {
    /// Everything about `keys` now.
    pub fn of(keys: KeyRange) -> Self {
        Self {
            keys,
            at: None,
            limit: None,
            sort: None,
            keys_only: false,
            count_only: false,
            revisions: RevisionBounds::default(),
        }
    }
}

/// What a [`RangeRequest`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResult {
    /// The items, in the order that was asked for.
    pub items: Vec<KeyValue>,
    /// Whether the limit cut items off.
    pub more: bool,
    /// How many keys the range holds, whatever the limit and the bounds.
    pub count: u64,
    /// Whether the answer grew too large to be kept, so that `items` is not whole.
    pub truncated: bool,
    /// What a read alone counts among all that is in flight.
    #[serde(skip)]
    pub counted: AnswerBytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_ends_where_its_last_byte_is_counted_up() {
        let range = KeyRange::prefix(b"a\xff\xff".as_slice());
        assert_eq!(
            range,
            KeyRange::Between { start: Bytes::from_static(b"a\xff\xff"), end: Bytes::from_static(b"b") }
        );
        assert_eq!(KeyRange::prefix(b"\xff".as_slice()), KeyRange::From(Bytes::from_static(b"\xff")));
        assert_eq!(KeyRange::prefix(Bytes::new()), KeyRange::all());
    }

    proptest! {
        #[test]
        fn a_prefix_contains_just_what_begins_with_it(
            prefix in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xfe), Just(0xff)], 0..4),
            key in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xfe), Just(0xff)], 0..6),
        ) {
            prop_assert_eq!(KeyRange::prefix(prefix.clone()).contains(&key), key.starts_with(&prefix));
        }

        #[test]
        fn start_and_end_bound_what_the_range_contains(
            a in proptest::collection::vec(0_u8..3, 0..3),
            b in proptest::collection::vec(0_u8..3, 0..3),
            key in proptest::collection::vec(0_u8..3, 0..4),
        ) {
            let (a, b) = (Bytes::from(a), Bytes::from(b));
            for range in [
                KeyRange::One(a.clone()),
                KeyRange::From(a.clone()),
                KeyRange::Between { start: a.clone(), end: b.clone() },
            ] {
                let within = range.start().as_ref() <= key.as_slice()
                    && range.end().is_none_or(|end| key.as_slice() < end.as_ref());
                prop_assert_eq!(range.contains(&key), within);
            }
        }
    }
}
