//! Transactions: compares, then one of two lists of operations, all at one
//! revision (etcd's `Txn`).

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::json_bytes;
use crate::codec::{DecodeError, Reader, put_bytes, put_option};
use crate::keyspace::{KeyRange, RangeRequest, RevisionBounds, Sort, SortBy};

/// How deep transactions may be nested in one another.
pub const MAX_TXN_DEPTH: usize = 32;

/// Carries out `success` if all compares hold, else `failure`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// What must hold of the state before the transaction.
    pub compares: Vec<Compare>,
    /// What is done then. A later operation sees what earlier ones did.
    pub success: Vec<Op>,
    /// What is done otherwise.
    pub failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Sets a key.
    Put(PutOp),
    /// Removes a range of keys.
    Delete(DeleteOp),
    /// Reads a range of keys.
    Range(RangeRequest),
    /// Runs another transaction inside this one, at the same revision. Its
    /// compares too look at the state before the whole transaction.
    Txn(Txn),
}

/// Sets a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOp {
    /// The key.
    #[serde(with = "json_bytes")]
    pub key: Bytes,
    /// The value; `None` keeps the one that the key holds, which must be there.
    #[serde(with = "json_bytes::option")]
    pub value: Option<Bytes>,
    /// The lease the key is attached to, zero for none; `None` keeps the one that
    /// the key has, which must be there.
    pub lease: Option<i64>,
    /// Whether to answer what the key held.
    pub want_previous: bool,
}

/// Removes a range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOp {
    /// Which keys.
    pub keys: KeyRange,
    /// Whether to answer what they held.
    pub want_previous: bool,
}

/// How a compare's two sides must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The key's side equals the given one.
    Equal,
    /// It is greater.
    Greater,
    /// It is less.
    Less,
    /// It differs.
    NotEqual,
}

/// What of a key is compared, and with what. An absent key has zero for every
/// number, and no value: a compare of its value never holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// How often it was set since it was created.
    Version(i64),
    /// The revision that created it.
    CreateRevision(i64),
    /// The revision that set it last.
    ModRevision(i64),
    /// Its value.
    Value(#[serde(with = "json_bytes")] Bytes),
    /// The lease it is attached to.
    Lease(i64),
}

/// A demand on every key of a range. A range without keys is compared as one
/// absent key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// What of them, and with what.
    pub target: Target,
    /// How the key's side must stand to the given one.
    pub relation: Relation,
}

impl Txn {
    /// A transaction that does `op` without asking anything.
    pub fn of(op: Op) -> Self {
        Self { compares: Vec::new(), success: vec![op], failure: Vec::new() }
    }

    /// Whether no branch of it changes anything, whatever the compares say.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Put(_) | Op::Delete(_) => false,
            Op::Range(_) => true,
            Op::Txn(txn) => txn.is_read_only(),
        })
    }

    /// Whether a branch of it sets a key, whichever the compares choose.
    pub fn may_put(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put(_) => true,
            Op::Delete(_) | Op::Range(_) => false,
            Op::Txn(txn) => txn.may_put(),
        })
    }

    pub(super) fn encode_to(&self, out: &mut Vec<u8>) {
        put_list(out, &self.compares, |out, compare| {
            put_range(out, &compare.keys);
            out.push(match compare.relation {
                Relation::Equal => 1,
                Relation::Greater => 2,
                Relation::Less => 3,
                Relation::NotEqual => 4,
            });
            let (tag, number) = match &compare.target {
                Target::Version(number) => (1, number),
                Target::CreateRevision(number) => (2, number),
                Target::ModRevision(number) => (3, number),
                Target::Lease(number) => (4, number),
                Target::Value(value) => {
                    out.push(5);
                    put_bytes(out, value);
                    return;
                }
            };
            out.push(tag);
            out.put_i64_le(*number);
        });
        put_list(out, &self.success, put_op);
        put_list(out, &self.failure, put_op);
    }

    pub(super) fn decode_from(r: &mut Reader) -> Result<Self, DecodeError> {
        read_txn(r, MAX_TXN_DEPTH)
    }
}

pub(super) fn put_list<T>(out: &mut Vec<u8>, items: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    out.put_u32_le(u32::try_from(items.len()).expect("lists are limited far below 2^32 items"));
    for item in items {
        put(out, item);
    }
}

pub(super) fn read_list<T>(
    r: &mut Reader,
    field: &'static str,
    mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = r.u32(field)? as usize;
    // Every item takes a byte at least, so a forged count allocates no more than
    // the input that it came with.
    let mut items = Vec::with_capacity(count.min(r.remaining()).min(1024));
    for _ in 0..count {
        items.push(read(r)?);
    }
    Ok(items)
}

fn put_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Put(put) => {
            out.push(1);
            put_bytes(out, &put.key);
            put_option(out, put.value.as_ref(), |out, value| put_bytes(out, value));
            put_option(out, put.lease.as_ref(), |out, lease| out.put_i64_le(*lease));
            out.push(u8::from(put.want_previous));
        }
        Op::Delete(delete) => {
            out.push(2);
            put_range(out, &delete.keys);
            out.push(u8::from(delete.want_previous));
        }
        Op::Range(request) => {
            out.push(3);
            put_range_request(out, request);
        }
        Op::Txn(txn) => {
            out.push(4);
            txn.encode_to(out);
        }
    }
}

fn read_txn(r: &mut Reader, depth: usize) -> Result<Txn, DecodeError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(DecodeError::TooDeep { field: "nested transaction", limit: MAX_TXN_DEPTH });
    };
    Ok(Txn {
        compares: read_list(r, "compares", read_compare)?,
        success: read_list(r, "operations", |r| read_op(r, depth))?,
        failure: read_list(r, "operations", |r| read_op(r, depth))?,
    })
}

fn read_op(r: &mut Reader, depth: usize) -> Result<Op, DecodeError> {
    match r.u8("operation")? {
        1 => Ok(Op::Put(PutOp {
            key: r.bytes("key")?,
            value: r.option("value", |r| r.bytes("value"))?,
            lease: r.option("lease", |r| r.i64("lease"))?,
            want_previous: r.bool("want previous")?,
        })),
        2 => Ok(Op::Delete(DeleteOp { keys: read_range(r)?, want_previous: r.bool("want previous")? })),
        3 => Ok(Op::Range(read_range_request(r)?)),
        4 => Ok(Op::Txn(read_txn(r, depth)?)),
        tag => Err(DecodeError::UnknownTag { field: "operation", tag }),
    }
}

fn read_compare(r: &mut Reader) -> Result<Compare, DecodeError> {
    let keys = read_range(r)?;
    let relation = match r.u8("relation")? {
        1 => Relation::Equal,
        2 => Relation::Greater,
        3 => Relation::Less,
        4 => Relation::NotEqual,
        tag => return Err(DecodeError::UnknownTag { field: "relation", tag }),
    };
    let target = match r.u8("compare target")? {
        1 => Target::Version(r.i64("version")?),
        2 => Target::CreateRevision(r.i64("create revision")?),
        3 => Target::ModRevision(r.i64("mod revision")?),
        4 => Target::Lease(r.i64("lease")?),
        5 => Target::Value(r.bytes("value")?),
        tag => return Err(DecodeError::UnknownTag { field: "compare target", tag }),
    };
    Ok(Compare { keys, target, relation })
}

fn put_range(out: &mut Vec<u8>, range: &KeyRange) {
    match range {
        KeyRange::One(key) => {
            out.push(1);
            put_bytes(out, key);
        }
        KeyRange::From(start) => {
            out.push(2);
            put_bytes(out, start);
        }
        KeyRange::Between { start, end } => {
            out.push(3);
            put_bytes(out, start);
            put_bytes(out, end);
        }
    }
}

fn read_range(r: &mut Reader) -> Result<KeyRange, DecodeError> {
    match r.u8("key range")? {
        1 => Ok(KeyRange::One(r.bytes("key")?)),
        2 => Ok(KeyRange::From(r.bytes("range start")?)),
        3 => Ok(KeyRange::Between { start: r.bytes("range start")?, end: r.bytes("range end")? }),
        tag => Err(DecodeError::UnknownTag { field: "key range", tag }),
    }
}

const KEYS_ONLY: u8 = 1;
const COUNT_ONLY: u8 = 2;
const DESCENDING: u8 = 1;
const FIRST_ONLY: u8 = 2;

fn put_range_request(out: &mut Vec<u8>, request: &RangeRequest) {
    put_range(out, &request.keys);
    put_option(out, request.at.as_ref(), |out, at| out.put_i64_le(*at));
    put_option(out, request.limit.as_ref(), |out, limit| out.put_u64_le(*limit));
    put_option(out, request.sort.as_ref(), |out, sort| {
        out.push(match sort.by {
            SortBy::Key => 1,
            SortBy::Version => 2,
            SortBy::CreateRevision => 3,
            SortBy::ModRevision => 4,
            SortBy::Value => 5,
        });
        out.push(u8::from(sort.descending) * DESCENDING + u8::from(sort.first_only) * FIRST_ONLY);
    });
    out.push(u8::from(request.keys_only) * KEYS_ONLY + u8::from(request.count_only) * COUNT_ONLY);
    let bounds = request.revisions.any().then_some(&request.revisions);
    put_option(out, bounds, |out, bounds| {
        for bound in [bounds.min_mod, bounds.max_mod, bounds.min_create, bounds.max_create] {
            out.put_i64_le(bound);
        }
    });
}

fn read_range_request(r: &mut Reader) -> Result<RangeRequest, DecodeError> {
    let keys = read_range(r)?;
    let at = r.option("revision", |r| r.i64("revision"))?;
    let limit = r.option("limit", |r| r.u64("limit"))?;
    let sort = r.option("sort", |r| {
        let by = match r.u8("sort target")? {
            1 => SortBy::Key,
            2 => SortBy::Version,
            3 => SortBy::CreateRevision,
            4 => SortBy::ModRevision,
            5 => SortBy::Value,
            tag => return Err(DecodeError::UnknownTag { field: "sort target", tag }),
        };
        let flags = r.u8("sort flags")?;
        if flags & !(DESCENDING | FIRST_ONLY) != 0 {
            return Err(DecodeError::UnknownTag { field: "sort flags", tag: flags });
        }
        Ok(Sort { by, descending: flags & DESCENDING != 0, first_only: flags & FIRST_ONLY != 0 })
    })?;
    let flags = r.u8("range flags")?;
    if flags & !(KEYS_ONLY | COUNT_ONLY) != 0 {
        return Err(DecodeError::UnknownTag { field: "range flags", tag: flags });
    }
    let revisions = r.option("revision bounds", |r| {
        Ok(RevisionBounds {
            min_mod: r.i64("least mod revision")?,
            max_mod: r.i64("greatest mod revision")?,
            min_create: r.i64("least create revision")?,
            max_create: r.i64("greatest create revision")?,
        })
    })?;
    Ok(RangeRequest {
        keys,
        at,
        limit,
        sort,
        keys_only: flags & KEYS_ONLY != 0,
        count_only: flags & COUNT_ONLY != 0,
        revisions: revisions.unwrap_or_default(),
    })
}
