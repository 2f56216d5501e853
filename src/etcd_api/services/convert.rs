//! Messages of the key-value service to requests of ours, and outcomes back.
//!
//! The checks are etcd's own, in etcd's order, so that of two mistakes in a request the same
//! one is told. What else must hold of a request is checked where it is carried out.

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_etcd_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvorum_etcd_proto::etcdserverpb::request_op::Request;
use kvorum_etcd_proto::etcdserverpb::response_op::Response;
use kvorum_etcd_proto::{etcdserverpb as pb, mvccpb};
use tonic::Status;

use super::status;
use crate::command::{Compare, DeleteOp, Op, OpOutcome, PutOp, Relation, Target, Txn, TxnOutcome};
use crate::keyspace::{KeyRange, KeyValue, RangeRequest, RangeResult, RevisionBounds, Sort, SortBy};

/// The keys that `key` and `range_end` name: without an end one key, and up to the end of the
/// keyspace if the end is a single zero byte.
///
/// # Errors
/// When the key is empty.
pub(super) fn keys(key: Bytes, range_end: Bytes) -> Result<KeyRange, Status> {
    if key.is_empty() {
        return Err(status::empty_key());
    }
    Ok(match range_end.as_ref() {
        b"" => KeyRange::One(key),
        b"\0" => KeyRange::From(key),
        _ => KeyRange::Between { start: key, end: range_end },
    })
}

pub(super) fn range(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    let keys = keys(request.key, request.range_end)?;
    let order = SortOrder::try_from(request.sort_order).map_err(|_| status::invalid_sort_option())?;
    let target = SortTarget::try_from(request.sort_target).map_err(|_| status::invalid_sort_option())?;
    let by = match target {
        SortTarget::Key => SortBy::Key,
        SortTarget::Version => SortBy::Version,
        SortTarget::Create => SortBy::CreateRevision,
        SortTarget::Mod => SortBy::ModRevision,
        SortTarget::Value => SortBy::Value,
    };
    let sort = match (order, by) {
        // That is the order of keys anyway.
        (SortOrder::None | SortOrder::Ascend, SortBy::Key) => None,
        (SortOrder::None | SortOrder::Ascend, by) => Some(Sort { by, descending: false }),
        (SortOrder::Descend, by) => Some(Sort { by, descending: true }),
    };
    Ok(RangeRequest {
        keys,
        at: Some(request.revision).filter(|revision| *revision > 0),
        limit: u64::try_from(request.limit).ok().filter(|limit| *limit > 0),
        sort,
        keys_only: request.keys_only,
        count_only: request.count_only,
        revisions: RevisionBounds {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        },
    })
}

pub(super) fn put(request: pb::PutRequest) -> Result<PutOp, Status> {
    if request.key.is_empty() {
        return Err(status::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(status::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status::lease_provided());
    }
    Ok(PutOp {
        key: request.key,
        value: Some(request.value).filter(|_| !request.ignore_value),
        lease: Some(request.lease).filter(|_| !request.ignore_lease),
        want_previous: request.prev_kv,
    })
}

pub(super) fn delete(request: pb::DeleteRangeRequest) -> Result<DeleteOp, Status> {
    Ok(DeleteOp { keys: keys(request.key, request.range_end)?, want_previous: request.prev_kv })
}

/// A transaction of at most `max_operations`, each list of it counted alone; what is nested in
/// it gets what is left.
pub(super) fn txn(request: pb::TxnRequest, max_operations: usize) -> Result<Txn, Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_operations.checked_sub(longest) else {
        return Err(status::too_many_operations());
    };
    let operations = |list: Vec<pb::RequestOp>| -> Result<Vec<Op>, Status> {
        list.into_iter().map(|op| operation(op, left)).collect()
    };
    Ok(Txn {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: operations(request.success)?,
        failure: operations(request.failure)?,
    })
}

fn operation(op: pb::RequestOp, max_operations: usize) -> Result<Op, Status> {
    Ok(match op.request {
        Some(Request::RequestRange(request)) => {
            // Only here a revision below zero is one, and long compacted.
            let at = Some(request.revision).filter(|revision| *revision != 0);
            Op::Range(RangeRequest { at, ..range(request)? })
        }
        Some(Request::RequestPut(request)) => Op::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => Op::Delete(delete(request)?),
        Some(Request::RequestTxn(request)) => Op::Txn(txn(request, max_operations)?),
        // etcd says so of an operation that is none.
        None => return Err(Status::invalid_argument("etcdserver: key not found")),
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    let keys = keys(compare.key, compare.range_end)?;
    let unknown = |what: &str, number: i32| {
        Status::invalid_argument(format!("etcdserver: the {what} {number} of a compare is not known"))
    };
    let relation = match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => return Err(unknown("result", compare.result)),
    };
    let target = CompareTarget::try_from(compare.target).map_err(|_| unknown("target", compare.target))?;
    // What the target does not ask for counts as not given: a number is zero then, and a value
    // is empty.
    let target = match (target, compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(version))) => Target::Version(version),
        (CompareTarget::Version, _) => Target::Version(0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(revision))) => {
            Target::CreateRevision(revision)
        }
        (CompareTarget::Create, _) => Target::CreateRevision(0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(revision))) => Target::ModRevision(revision),
        (CompareTarget::Mod, _) => Target::ModRevision(0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(lease))) => Target::Lease(lease),
        (CompareTarget::Lease, _) => Target::Lease(0),
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => Target::Value(value),
        (CompareTarget::Value, _) => Target::Value(Bytes::new()),
    };
    Ok(Compare { keys, target, relation })
}

pub(super) fn key_value(item: KeyValue) -> mvccpb::KeyValue {
    let KeyValue { key, record } = item;
    mvccpb::KeyValue {
        key,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        value: record.value,
        lease: record.lease,
    }
}

pub(super) fn range_response(header: pb::ResponseHeader, found: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: found.items.into_iter().map(key_value).collect(),
        more: found.more,
        count: i64::try_from(found.count).unwrap_or(i64::MAX),
    }
}

pub(super) fn txn_response(header: pb::ResponseHeader, done: TxnOutcome) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: done.succeeded,
        responses: done.responses.into_iter().map(response_op).collect(),
    }
}

/// Headers inside carry the revision alone, and those of nested transactions nothing.
fn response_op(outcome: OpOutcome) -> pb::ResponseOp {
    let header = |revision| pb::ResponseHeader { revision, ..pb::ResponseHeader::default() };
    let response = match outcome {
        OpOutcome::Put { revision, previous } => Response::ResponsePut(pb::PutResponse {
            header: Some(header(revision)),
            prev_kv: previous.map(key_value),
        }),
        OpOutcome::Deleted { revision, count, previous } => {
            Response::ResponseDeleteRange(delete_response(header(revision), count, previous))
        }
        OpOutcome::Range { revision, found } => {
            Response::ResponseRange(range_response(header(revision), found))
        }
        OpOutcome::Txn(nested) => Response::ResponseTxn(txn_response(pb::ResponseHeader::default(), nested)),
    };
    pb::ResponseOp { response: Some(response) }
}

pub(super) fn delete_response(
    header: pb::ResponseHeader,
    count: u64,
    previous: Vec<KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: i64::try_from(count).unwrap_or(i64::MAX),
        prev_kvs: previous.into_iter().map(key_value).collect(),
    }
}

/// Whether a transaction only reads, and says of each read that it may be behind.
pub(super) fn may_be_behind(request: &pb::TxnRequest) -> bool {
    let mut reads = request.success.iter().chain(&request.failure).peekable();
    reads.peek().is_some()
        && reads.all(|op| matches!(&op.request, Some(Request::RequestRange(read)) if read.serializable))
}

#[cfg(test)]
mod tests;
