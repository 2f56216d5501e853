//! `/v1/txn`: compares, then one of two lists of operations, all at one revision.
//!
//! A compare that does not hold is an answer and no error. Numbers of operations,
//! sizes and keys that are changed twice are looked at by the layer below, which
//! every front shares.

use actix_web::HttpResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};
use super::kv::Item;
use super::operations::{DeleteBody, Given, PutBody, object_with_keys};
use super::paced;
use super::place::Place;
use super::query::CONSISTENCY;
use crate::command::{Compare, MAX_TXN_DEPTH, Op, OpOutcome, Relation, Target, Txn, TxnOutcome};
use crate::error::Error;
use crate::keyspace::{RangeRequest, RevisionBounds, Sort, SortBy};
use crate::service::Consistency;

const EXPECTED: &str = r#"{"then":[{"put":{"key":"k","value":"v"}}]}"#;

/// A transaction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TxnBody {
    /// What must hold of the state before the transaction.
    #[serde(default)]
    compare: Vec<CompareBody>,
    /// What is done if all of that holds.
    #[serde(default)]
    then: Vec<OpBody>,
    /// What is done otherwise.
    #[serde(default, rename = "else")]
    otherwise: Vec<OpBody>,
}

object_with_keys! {
    /// A demand on a key, or on every key of a range. An absent key has zero for
    /// every number, and no value: a compare of its value never holds.
    CompareBody {
        /// What of the key is compared.
        target: TargetName,
        /// How the key's side must stand to the given one.
        relation: RelationSign,
        /// What a value is compared with, if it is UTF-8.
        value: Option<String>,
        /// What a value is compared with, in base64.
        value_base64: Option<String>,
        /// What anything but a value is compared with.
        number: Option<i64>,
    }
}

/// What of a key is compared.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum TargetName {
    /// Its value.
    Value,
    /// How often it was written since it was created.
    Version,
    /// The revision that created it.
    CreateRevision,
    /// The revision that last wrote it.
    ModRevision,
    /// The lease it is attached to.
    Lease,
}

/// How two sides stand to each other.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
pub(super) enum RelationSign {
    /// They are equal.
    #[serde(rename = "=")]
    Equal,
    /// They differ.
    #[serde(rename = "!=")]
    NotEqual,
    /// The key's side is greater.
    #[serde(rename = ">")]
    Greater,
    /// The key's side is less.
    #[serde(rename = "<")]
    Less,
}

/// One operation: exactly one of the fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpBody {
    /// Sets a key.
    put: Option<Box<PutBody>>,
    /// Removes keys.
    delete: Option<Box<DeleteBody>>,
    /// Reads keys.
    get: Option<Box<GetBody>>,
    /// Runs a transaction inside this one.
    #[schema(no_recursion)]
    txn: Option<Box<TxnBody>>,
}

object_with_keys! {
    /// Reads a range of keys.
    GetBody {
        /// The most keys to answer, at least 1; all if absent.
        #[schema(minimum = 1)]
        limit: Option<u64>,
        /// Read the store as it was at this revision.
        #[schema(minimum = 1)]
        revision: Option<i64>,
        /// Leave the values out.
        #[serde(default)]
        keys_only: bool,
        /// Count the keys and answer none.
        #[serde(default)]
        count_only: bool,
        /// What the keys are sorted by, before the limit cuts; the key if absent.
        sort_by: Option<SortName>,
        /// The greatest first.
        #[serde(default)]
        descending: bool,
    }
}

/// What keys are sorted by.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SortName {
    /// The key.
    Key,
    /// How often it was written since it was created.
    Version,
    /// The revision that created it.
    CreateRevision,
    /// The revision that last wrote it.
    ModRevision,
    /// The value.
    Value,
}

impl TxnBody {
    /// The transaction at `place`, which is the `depth`th of those inside one
    /// another.
    fn into_txn(self, place: &Place<'_>, depth: usize) -> Result<Txn, Failure> {
        if depth > MAX_TXN_DEPTH {
            return Err(place.refuse(format!("is nested more than {MAX_TXN_DEPTH} deep")));
        }
        Ok(Txn {
            compares: converted(self.compare, &place.field("compare"), CompareBody::into_compare)?,
            success: converted(self.then, &place.field("then"), |op, place| op.into_op(place, depth))?,
            failure: converted(self.otherwise, &place.field("else"), |op, place| op.into_op(place, depth))?,
        })
    }
}

/// Converts the items of the list at `place`.
pub(super) fn converted<T, U>(
    items: Vec<T>,
    place: &Place<'_>,
    mut convert: impl FnMut(T, &Place<'_>) -> Result<U, Failure>,
) -> Result<Vec<U>, Failure> {
    items.into_iter().enumerate().map(|(index, item)| convert(item, &place.item(index))).collect()
}

impl CompareBody {
    fn into_compare(mut self, place: &Place<'_>) -> Result<Compare, Failure> {
        let keys = self.take_keys().range(place)?;
        let value = Given { text: ("value", self.value), base64: ("value_base64", self.value_base64) };
        let target = match (self.target, value.bytes(place)?, self.number) {
            (TargetName::Value, Some(value), None) => Target::Value(value),
            (TargetName::Value, _, _) => {
                return Err(
                    place.refuse("compares a value, so it needs value or value_base64, and no number")
                );
            }
            (TargetName::Version, None, Some(number)) => Target::Version(number),
            (TargetName::CreateRevision, None, Some(number)) => Target::CreateRevision(number),
            (TargetName::ModRevision, None, Some(number)) => Target::ModRevision(number),
            (TargetName::Lease, None, Some(number)) => Target::Lease(number),
            (
                TargetName::Version
                | TargetName::CreateRevision
                | TargetName::ModRevision
                | TargetName::Lease,
                _,
                _,
            ) => return Err(place.refuse("compares a number, so it needs number, and no value")),
        };
        let relation = match self.relation {
            RelationSign::Equal => Relation::Equal,
            RelationSign::NotEqual => Relation::NotEqual,
            RelationSign::Greater => Relation::Greater,
            RelationSign::Less => Relation::Less,
        };
        Ok(Compare { keys, target, relation })
    }
}

impl OpBody {
    fn into_op(self, place: &Place<'_>, depth: usize) -> Result<Op, Failure> {
        match (self.put, self.delete, self.get, self.txn) {
            (Some(put), None, None, None) => put.into_op(&place.field("put")).map(Op::Put),
            (None, Some(delete), None, None) => delete.into_op(&place.field("delete")).map(Op::Delete),
            (None, None, Some(get), None) => get.into_request(&place.field("get")).map(Op::Range),
            (None, None, None, Some(txn)) => txn.into_txn(&place.field("txn"), depth + 1).map(Op::Txn),
            _ => Err(place.refuse("must be exactly one of put, delete, get and txn")),
        }
    }
}

impl GetBody {
    fn into_request(mut self, place: &Place<'_>) -> Result<RangeRequest, Failure> {
        let keys = self.take_keys().range(place)?;
        if self.limit == Some(0) {
            return Err(place.field("limit").refuse("must be at least 1; leave it out for no limit"));
        }
        if self.revision.is_some_and(|revision| revision < 1) {
            return Err(place.field("revision").refuse("must be at least 1"));
        }
        let by = match self.sort_by {
            None | Some(SortName::Key) => SortBy::Key,
            Some(SortName::Version) => SortBy::Version,
            Some(SortName::CreateRevision) => SortBy::CreateRevision,
            Some(SortName::ModRevision) => SortBy::ModRevision,
            Some(SortName::Value) => SortBy::Value,
        };
        // Ascending by key is how they are found.
        let sorted = by != SortBy::Key || self.descending;
        Ok(RangeRequest {
            keys,
            at: self.revision,
            limit: self.limit,
            sort: sorted.then_some(Sort { by, descending: self.descending, first_only: false }),
            keys_only: self.keys_only,
            count_only: self.count_only,
            revisions: RevisionBounds::default(),
        })
    }
}

/// What a transaction did.
#[derive(Serialize, ToSchema)]
pub(super) struct TxnAnswer<'a> {
    /// The store's revision after it; its own if it changed anything.
    revision: i64,
    /// Whether all compares held, so that `then` was done and not `else`.
    succeeded: bool,
    /// One result for each operation that was done, in order.
    results: Vec<ResultAnswer<'a>>,
}

/// What one operation did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResultAnswer<'a> {
    /// A key was set.
    Put(PutResult<'a>),
    /// Keys were removed.
    Delete(DeleteResult<'a>),
    /// Keys were read.
    Get(GetResult<'a>),
    /// A transaction inside this one was run.
    Txn(NestedResult<'a>),
}

/// What a put did.
#[derive(Serialize, ToSchema)]
pub(super) struct PutResult<'a> {
    /// The transaction's revision.
    revision: i64,
    /// What the key held, if that was asked for; null if it did not exist.
    #[expect(clippy::option_option, reason = "not asked for, nothing there, or an item")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Item>)]
    previous: Option<Option<Item<'a>>>,
}

/// What a delete did.
#[derive(Serialize, ToSchema)]
pub(super) struct DeleteResult<'a> {
    /// The store's revision after it.
    revision: i64,
    /// How many keys were removed.
    deleted: u64,
    /// What they held, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Vec<Item<'a>>>,
}

/// What a get found.
#[derive(Serialize, ToSchema)]
pub(super) struct GetResult<'a> {
    /// The store's revision as of the operation.
    revision: i64,
    /// The keys, in the order that was asked for.
    items: Vec<Item<'a>>,
    /// How many keys the range has, whatever the limit.
    count: u64,
    /// Whether the limit cut keys off.
    more: bool,
}

/// What a transaction inside another did.
#[derive(Serialize, ToSchema)]
pub(super) struct NestedResult<'a> {
    /// Whether all its compares held.
    succeeded: bool,
    /// One result for each operation that was done, in order.
    #[schema(no_recursion)]
    results: Vec<ResultAnswer<'a>>,
}

/// Run a transaction.
///
/// If all compares hold, `then` is done, else `else`: all of it at one revision or
/// nothing. A compare that does not hold is no error.
#[utoipa::path(
    post,
    path = "/v1/txn",
    tag = "txn",
    request_body(content = TxnBody, example = json!({
        "compare": [{"key": "lock", "target": "create_revision", "relation": "=", "number": 0}],
        "then": [{"put": {"key": "lock", "value": "me"}}],
        "else": [{"get": {"key": "lock"}}],
    })),
    params(
        ("consistency" = Option<String>, Query, description = "for a transaction that only reads: linearizable (the default), lease or local"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 256 bytes; makes retries apply at most once"),
    ),
    responses(
        (status = 200, description = "carried out", body = TxnAnswer, content_type = "application/json", example = json!(
            {"revision": 9, "succeeded": true, "results": [{"put": {"revision": 9}}]}
        )),
        (status = 409, description = "carried out before or just now, but the answer is not available", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn txn<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    let consistency = call.query(&[CONSISTENCY])?.consistency(Consistency::Linearizable)?;
    let idempotency = call.idempotency()?;
    let mut permit = call.admit()?;
    let body: TxnBody = call.json_of_objects(&mut permit, EXPECTED, size_of::<Op>()).await?;
    let txn = body.into_txn(&Place::Root, 1)?;
    let (revision, done) = call.backend().txn(txn.clone(), idempotency, consistency).await?;

    let Some(results) = results_of(&txn, &done) else {
        let reason = "a transaction was answered with another transaction's results".to_owned();
        return Err(Error::Internal { node: call.backend().node_id(), reason }.into());
    };
    // Once something was written, "overloaded" would say that nothing was.
    let unheld = |failure| {
        if txn.is_read_only() {
            return failure;
        }
        Error::AnswerLost { revision, reason: "too much is in flight to hold it" }.into()
    };
    let answer = TxnAnswer { revision, succeeded: done.succeeded, results };
    paced::json_answer(&call, permit, &mut HttpResponse::Ok(), &answer, 0).map_err(unheld)
}

/// The results as they are shown; `None` if they are not those of `txn`.
fn results_of<'a>(txn: &Txn, done: &'a TxnOutcome) -> Option<Vec<ResultAnswer<'a>>> {
    let ops = if done.succeeded { &txn.success } else { &txn.failure };
    if ops.len() != done.responses.len() {
        return None;
    }
    ops.iter().zip(&done.responses).map(|(op, response)| result_of(op, response)).collect()
}

fn result_of<'a>(op: &Op, response: &'a OpOutcome) -> Option<ResultAnswer<'a>> {
    Some(match (op, response) {
        (Op::Put(op), OpOutcome::Put { revision, previous }) => {
            let item = || previous.as_ref().map(|item| Item::of(item, false));
            ResultAnswer::Put(PutResult { revision: *revision, previous: op.want_previous.then(item) })
        }
        (Op::Delete(op), OpOutcome::Deleted { revision, count, previous }) => {
            let items = || previous.iter().map(|item| Item::of(item, false)).collect();
            let previous = op.want_previous.then(items);
            ResultAnswer::Delete(DeleteResult { revision: *revision, deleted: *count, previous })
        }
        (Op::Range(request), OpOutcome::Range { revision, found }) => {
            let items = found.items.iter().map(|item| Item::of(item, request.keys_only)).collect();
            let (count, more) = (found.count, found.more);
            ResultAnswer::Get(GetResult { revision: *revision, items, count, more })
        }
        (Op::Txn(txn), OpOutcome::Txn(done)) => {
            let results = results_of(txn, done)?;
            ResultAnswer::Txn(NestedResult { succeeded: done.succeeded, results })
        }
        (Op::Put(_) | Op::Delete(_) | Op::Range(_) | Op::Txn(_), _) => return None,
    })
}
