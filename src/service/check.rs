//! What a request must keep to before it is carried out: etcd's rules for
//! transactions, and the configured limits.
//!
//! The rules look at the request alone, so that every node answers the same
//! whatever the state. The one that matters most is that no key is changed twice:
//! a revision holds one change of a key, and readers of the past rely on it.
//! Where etcd looks at the order of nested transactions and lets some pairs of a
//! put and a deletion of one key pass, this refuses them in any order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::{MAX_TXN_DEPTH, Op, Txn};
use crate::config::Limits;
use crate::error::Error;
use crate::keyspace::{KeyRange, RangeRequest};

/// Checks a key that is to be set or removed.
pub(super) fn check_key(key: &[u8], limits: &Limits) -> Result<(), Error> {
    if key.is_empty() {
        return Err(empty_key());
    }
    if key.len() > limits.max_key_bytes {
        return Err(Error::TooLarge {
            what: "the key",
            size: key.len(),
            limit: limits.max_key_bytes,
            option: "max_key_bytes",
        });
    }
    Ok(())
}

/// Checks the length of a value that is to be set.
pub(super) fn check_value(size: usize, limits: &Limits) -> Result<(), Error> {
    if size <= limits.max_value_bytes {
        return Ok(());
    }
    Err(Error::TooLarge { what: "the value", size, limit: limits.max_value_bytes, option: "max_value_bytes" })
}

/// Checks what a range read asks for.
pub(super) fn check_range(request: &RangeRequest) -> Result<(), Error> {
    check_named(&request.keys)
}

/// Checks a transaction, whether it writes or not.
///
/// # Errors
/// The first rule that is broken, in etcd's order: the number of operations and
/// the keys and values one by one, and only then keys that are changed twice.
pub(super) fn check_txn(txn: &Txn, limits: &Limits) -> Result<(), Error> {
    check_operations(txn, limits, 0, 1)?;
    changes_of(&txn.success)?;
    changes_of(&txn.failure)?;
    Ok(())
}

/// A range may begin at the empty key, which is before all keys; a single key
/// can't be empty.
fn check_named(keys: &KeyRange) -> Result<(), Error> {
    match keys {
        KeyRange::One(key) if key.is_empty() => Err(empty_key()),
        KeyRange::One(_) | KeyRange::From(_) | KeyRange::Between { .. } => Ok(()),
    }
}

fn empty_key() -> Error {
    Error::Invalid("the key is empty; it must have at least one byte".to_owned())
}

/// `above` is what the transactions around this one have used of the limit: each
/// counts as its longest list, and what is nested gets what is left.
fn check_operations(txn: &Txn, limits: &Limits, above: usize, depth: usize) -> Result<(), Error> {
    let count = above + txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    let limit = limits.max_txn_ops;
    if count > limit {
        return Err(Error::TooManyOperations { count, limit });
    }
    if depth > MAX_TXN_DEPTH {
        return Err(Error::Invalid(format!(
            "transactions are nested more than {MAX_TXN_DEPTH} deep in one another"
        )));
    }
    for compare in &txn.compares {
        check_named(&compare.keys)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put(put) => {
                check_key(&put.key, limits)?;
                check_value(put.value.as_ref().map_or(0, Bytes::len), limits)?;
            }
            Op::Delete(delete) => match &delete.keys {
                KeyRange::One(key) => check_key(key, limits)?,
                KeyRange::From(_) | KeyRange::Between { .. } => {}
            },
            Op::Range(request) => check_range(request)?,
            Op::Txn(nested) => check_operations(nested, limits, count, depth + 1)?,
        }
    }
    Ok(())
}

/// All that `ops` may change, whichever branches are taken inside.
///
/// # Errors
/// [`Error::DuplicateKey`] if some key may be changed twice.
fn changes_of(ops: &[Op]) -> Result<Changes, Error> {
    let mut all = Changes::default();
    for op in ops {
        let mut next = Changes::default();
        match op {
            Op::Range(_) => continue,
            Op::Put(put) => {
                next.puts.insert(put.key.clone());
            }
            Op::Delete(delete) => next.deletes.insert(delete.keys.start().clone(), delete.keys.end()),
            // Only one of the two branches is taken, so they may name the same keys.
            Op::Txn(txn) => next = changes_of(&txn.success)?.union(changes_of(&txn.failure)?),
        }
        if all.overlaps(&next) {
            return Err(Error::DuplicateKey);
        }
        all = all.union(next);
    }
    Ok(all)
}

#[derive(Debug, Default)]
struct Changes {
    puts: BTreeSet<Bytes>,
    deletes: Intervals,
}

impl Changes {
    fn len(&self) -> usize {
        self.puts.len() + self.deletes.0.len()
    }

    /// Whether a key would be changed twice if both happened. To delete twice is
    /// to change once: the second deletion finds nothing.
    fn overlaps(&self, other: &Self) -> bool {
        let (small, large) = if self.len() < other.len() { (self, other) } else { (other, self) };
        small.puts.iter().any(|key| large.puts.contains(key) || large.deletes.contains(key))
            || small.deletes.any_of(&large.puts)
    }

    /// Moves the smaller one into the larger, so that deep nesting costs no more
    /// than many operations do.
    fn union(self, other: Self) -> Self {
        let (small, mut large) = if self.len() < other.len() { (self, other) } else { (other, self) };
        large.puts.extend(small.puts);
        for (start, end) in small.deletes.0 {
            large.deletes.insert(start, end);
        }
        large
    }
}

/// Ranges of keys by their first key, none touching another; an end of `None` is
/// the end of the keyspace.
#[derive(Debug, Default)]
struct Intervals(BTreeMap<Bytes, Option<Bytes>>);

impl Intervals {
    fn insert(&mut self, mut start: Bytes, mut end: Option<Bytes>) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        let before = self.0.range::<Bytes, _>(..&start).next_back();
        if let Some((earlier, reach)) = before
            && reach.as_ref().is_none_or(|reach| *reach >= start)
        {
            start = earlier.clone();
        }
        while let Some((later, reach)) = self.0.range::<Bytes, _>(&start..).next()
            && end.as_ref().is_none_or(|end| later <= end)
        {
            end = end.zip(reach.clone()).map(|(one, other)| one.max(other));
            let later = later.clone();
            self.0.remove(&later);
        }
        self.0.insert(start, end);
    }

    fn contains(&self, key: &Bytes) -> bool {
        let before = self.0.range::<Bytes, _>(..=key).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end))
    }

    fn any_of(&self, keys: &BTreeSet<Bytes>) -> bool {
        self.0.iter().any(|(start, end)| {
            let first = keys.range::<Bytes, _>(start..).next();
            first.is_some_and(|key| end.as_ref().is_none_or(|end| key < end))
        })
    }
}

#[cfg(test)]
mod tests;
