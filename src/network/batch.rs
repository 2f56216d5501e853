//! `/v1/batch`: many writes in one call, in order, in as few transactions as the
//! limits permit.
//!
//! A batch is not atomic: it is a way to save round trips. All of it is checked
//! before any of it is carried out, so that a mistake in it changes nothing; what
//! fails later (the leader, a lease) is answered with how far it came.

use std::collections::BTreeSet;
use std::iter::Peekable;

use actix_web::HttpResponse;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};
use super::operations::{DeleteBody, PutBody};
use super::place::Place;
use super::txn::converted;
use crate::command::{Op, Txn};
use crate::config::Limits;
use crate::error::Error;
use crate::keyspace::KeyRange;
use crate::service::Consistency;

const EXPECTED: &str = r#"{"operations":[{"put":{"key":"k","value":"v"}}]}"#;

/// Bytes of keys and values after which a transaction takes no further operation:
/// a log entry of many megabytes would hold up the writes of others.
const FULL_BYTES: usize = 1 << 20;

/// Ranges that one transaction deletes at most, because every put after them is
/// compared with each.
const MAX_RANGES: usize = 64;

/// Writes to carry out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchBody {
    /// The writes, in order.
    operations: Vec<BatchOp>,
}

/// One write: exactly one of the fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchOp {
    /// Sets a key.
    put: Option<Box<PutBody>>,
    /// Removes keys.
    delete: Option<Box<DeleteBody>>,
}

/// What a batch did.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    /// The store's revision after it.
    revision: i64,
    /// How many operations it had, all carried out.
    operations: usize,
    /// How many transactions they took.
    transactions: usize,
}

impl BatchOp {
    fn into_op(self, place: &Place<'_>, limits: &Limits) -> Result<Op, Failure> {
        match (self.put, self.delete) {
            (Some(put), None) => {
                let place = place.field("put");
                let op = put.into_op(&place)?;
                let value = op.value.as_ref().map_or(0, Bytes::len);
                check_size(&place, "the key", op.key.len(), limits.max_key_bytes, "max_key_bytes")?;
                check_size(&place, "the value", value, limits.max_value_bytes, "max_value_bytes")?;
                refuse_previous(op.want_previous, &place)?;
                Ok(Op::Put(op))
            }
            (None, Some(delete)) => {
                let place = place.field("delete");
                let op = delete.into_op(&place)?;
                let key = longest_key(&op.keys);
                check_size(&place, "the key", key, limits.max_key_bytes, "max_key_bytes")?;
                refuse_previous(op.want_previous, &place)?;
                Ok(Op::Delete(op))
            }
            (None, None) | (Some(_), Some(_)) => Err(place.refuse("must be exactly one of put and delete")),
        }
    }
}

fn check_size(
    place: &Place<'_>,
    what: &'static str,
    size: usize,
    limit: usize,
    option: &'static str,
) -> Result<(), Failure> {
    if size <= limit {
        return Ok(());
    }
    Err(Failure::Part { place: place.to_string(), error: Error::TooLarge { what, size, limit, option } })
}

fn refuse_previous(wanted: bool, place: &Place<'_>) -> Result<(), Failure> {
    if wanted {
        Err(place.field("previous").refuse("is not answered by a batch; use /v1/txn"))
    } else {
        Ok(())
    }
}

fn longest_key(keys: &KeyRange) -> usize {
    match keys {
        KeyRange::One(key) | KeyRange::From(key) => key.len(),
        KeyRange::Between { start, end } => start.len().max(end.len()),
    }
}

/// Write in bulk.
///
/// The operations are carried out in order, in transactions of at most
/// `max_txn_ops`. The whole is **not** atomic: an error midway says in its details
/// how many operations were `completed`.
#[utoipa::path(
    post,
    path = "/v1/batch",
    tag = "txn",
    request_body(content = BatchBody, example = json!(
        {"operations": [{"put": {"key": "a", "value": "1"}}, {"delete": {"prefix": "old/"}}]}
    )),
    responses(
        (status = 200, description = "all carried out", body = BatchAnswer),
        (status = "default", description = "refused or failed; `completed` in the details says how many operations were carried out", body = ErrorAnswer),
    )
)]
pub(super) async fn batch<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    if call.request.headers().contains_key("idempotency-key") {
        return Err(Failure::invalid(
            "a batch takes no Idempotency-Key, because it is no single write; use /v1/txn",
        ));
    }
    let mut permit = call.admit()?;
    let body: BatchBody = call.json_of_objects(&mut permit, EXPECTED, size_of::<Op>()).await?;
    let limits = call.backend().limits();
    let place = Place::Root;
    let operations =
        converted(body.operations, &place.field("operations"), |op, place| op.into_op(place, limits))?;

    let total = operations.len();
    let mut rest = operations.into_iter().peekable();
    let (mut completed, mut transactions) = (0, 0);
    loop {
        let part = next_part(&mut rest, limits.max_txn_ops);
        let count = part.len();
        let txn = Txn { success: part, ..Txn::default() };
        let done = call.backend().txn(txn, None, Consistency::Linearizable).await;
        let (revision, _) = done.map_err(|error| Failure::Batch { completed, total, error })?;
        completed += count;
        // The one of an empty batch only reads the revision.
        transactions += usize::from(count > 0);
        if rest.peek().is_none() {
            return Ok(HttpResponse::Ok().json(BatchAnswer { revision, operations: total, transactions }));
        }
    }
}

/// The operations of the next transaction: at least one, if there is any.
fn next_part(rest: &mut Peekable<impl Iterator<Item = Op>>, max_ops: usize) -> Vec<Op> {
    let mut part = Part::default();
    while let Some(op) =
        rest.next_if(|op| part.ops.is_empty() || (part.ops.len() < max_ops && part.takes(op)))
    {
        part.push(op);
    }
    part.ops
}

/// A transaction in the making. It changes no key twice, so that the last write of
/// a key wins, as it would if each were sent alone.
#[derive(Debug, Default)]
struct Part {
    ops: Vec<Op>,
    puts: BTreeSet<Bytes>,
    deletes: BTreeSet<Bytes>,
    ranges: Vec<KeyRange>,
    bytes: usize,
}

impl Part {
    fn takes(&self, op: &Op) -> bool {
        let changes_no_key_twice = match op {
            Op::Put(put) => {
                !self.puts.contains(&put.key)
                    && !self.deletes.contains(&put.key)
                    && !self.ranges.iter().any(|range| range.contains(&put.key))
            }
            // To delete twice is to change once.
            Op::Delete(delete) => match &delete.keys {
                KeyRange::One(key) => !self.puts.contains(key),
                range @ (KeyRange::From(start) | KeyRange::Between { start, .. }) => {
                    let next = self.puts.range::<Bytes, _>(start..).next();
                    self.ranges.len() < MAX_RANGES && !next.is_some_and(|key| range.contains(key))
                }
            },
            Op::Range(_) | Op::Txn(_) => true,
        };
        changes_no_key_twice && self.bytes + bytes_of(op) <= FULL_BYTES
    }

    fn push(&mut self, op: Op) {
        self.bytes += bytes_of(&op);
        match &op {
            Op::Put(put) => {
                self.puts.insert(put.key.clone());
            }
            Op::Delete(delete) => match &delete.keys {
                KeyRange::One(key) => {
                    self.deletes.insert(key.clone());
                }
                range @ (KeyRange::From(_) | KeyRange::Between { .. }) => self.ranges.push(range.clone()),
            },
            Op::Range(_) | Op::Txn(_) => {}
        }
        self.ops.push(op);
    }
}

/// How many bytes of keys and values an operation writes into the log.
fn bytes_of(op: &Op) -> usize {
    match op {
        Op::Put(put) => put.key.len() + put.value.as_ref().map_or(0, Bytes::len),
        Op::Delete(delete) => 2 * longest_key(&delete.keys),
        Op::Range(_) | Op::Txn(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{DeleteOp, PutOp};

    fn put(key: &str, size: usize) -> Op {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Some(vec![0; size].into()));
        Op::Put(PutOp { key, value, lease: Some(0), want_previous: false })
    }

    fn delete(keys: KeyRange) -> Op {
        Op::Delete(DeleteOp { keys, want_previous: false })
    }

    fn one(key: &'static str) -> KeyRange {
        KeyRange::One(key.into())
    }

    fn parts(ops: &[Op], max_ops: usize) -> Vec<usize> {
        let mut rest = ops.iter().cloned().peekable();
        let mut sizes = Vec::new();
        let mut done = Vec::new();
        while rest.peek().is_some() {
            let part = next_part(&mut rest, max_ops);
            sizes.push(part.len());
            done.extend(part);
        }
        assert_eq!(done, ops, "nothing is lost and the order stays");
        sizes
    }

    #[test]
    fn a_transaction_ends_where_a_key_would_be_changed_twice() {
        let (a, b) = (|| put("a", 1), || put("b", 1));
        let prefix = || delete(KeyRange::prefix("a"));
        for (ops, expected) in [
            (vec![a(), b()], &[2][..]),
            (vec![a(), b(), a(), b()], &[2, 2]),
            (vec![a(), a(), a()], &[1, 1, 1]),
            (vec![a(), delete(one("a"))], &[1, 1]),
            (vec![delete(one("a")), a()], &[1, 1]),
            (vec![delete(one("a")), delete(one("a")), prefix(), b()], &[4]),
            (vec![a(), b(), prefix()], &[2, 1]),
            (vec![prefix(), b(), a()], &[2, 1]),
            (vec![b(), prefix()], &[2]),
            (vec![b(), delete(KeyRange::From("aa".into()))], &[1, 1]),
            (vec![delete(KeyRange::all()), b()], &[1, 1]),
            (vec![a(), delete(KeyRange::From("aa".into()))], &[2]),
        ] {
            assert_eq!(parts(&ops, 128), expected, "{ops:?}");
        }
    }

    #[test]
    fn a_transaction_ends_when_it_is_full() {
        let many: Vec<_> = (0..300).map(|n| put(&n.to_string(), 1)).collect();
        assert_eq!(parts(&many, 128), [128, 128, 44]);
        assert_eq!(parts(&many, 1).len(), 300);
        let large: Vec<_> = (0..5).map(|n| put(&n.to_string(), 400_000)).collect();
        assert_eq!(parts(&large, 128), [2, 2, 1]);
        let larger: Vec<_> = (0..2).map(|n| put(&n.to_string(), 3 << 20)).collect();
        assert_eq!(parts(&larger, 128), [1, 1], "one that is too large alone is still carried out");
        let ranges = vec![delete(KeyRange::prefix("x")); MAX_RANGES + 1];
        assert_eq!(parts(&ranges, 128), [MAX_RANGES, 1]);
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let key = || "[a-c]{1,2}".prop_map(Bytes::from);
        prop_oneof![
            4 => "[a-c]{1,2}".prop_map(|key| put(&key, 1)),
            2 => key().prop_map(|key| delete(KeyRange::One(key))),
            1 => key().prop_map(|key| delete(KeyRange::prefix(key))),
            1 => key().prop_map(|key| delete(KeyRange::From(key))),
            1 => (key(), key()).prop_map(|(start, end)| delete(KeyRange::Between { start, end })),
        ]
    }

    proptest! {
        #[test]
        fn no_transaction_changes_a_key_twice(ops in proptest::collection::vec(any_op(), 0..24)) {
            let mut rest = ops.into_iter().peekable();
            while rest.peek().is_some() {
                let part = next_part(&mut rest, 8);
                prop_assert!((1..=8).contains(&part.len()));
                for (index, op) in part.iter().enumerate() {
                    let Op::Put(put) = op else { continue };
                    let others = part.iter().enumerate().filter(|(other, _)| *other != index);
                    for (_, other) in others {
                        let again = match other {
                            Op::Put(other) => other.key == put.key,
                            Op::Delete(delete) => delete.keys.contains(&put.key),
                            Op::Range(_) | Op::Txn(_) => false,
                        };
                        prop_assert!(!again, "{part:?}");
                    }
                }
            }
        }
    }
}
