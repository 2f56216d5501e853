//! One call, as it is generated: every field of a request, with revisions that are
//! counted from where the sequence began.
//!
//! A step says the same to every server, whatever that server's revisions are. Nothing
//! here knows how a step is sent or what the right answer to it is.

use std::fmt;

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

/// A revision that does not depend on the server's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// As it is: zero and negative numbers mean something of their own.
    Exactly(i64),
    /// That much after the revision at which the sequence began.
    Since(i64),
}

impl Revision {
    /// The revision as a server with that base knows it.
    pub fn on(self, base: i64) -> i64 {
        match self {
            Self::Exactly(revision) => revision,
            Self::Since(steps) => base + steps,
        }
    }
}

/// The keys of a call, and the field `range_end` with its special values.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The first key, or the only one.
    pub key: Bytes,
    /// Empty for a single key, one zero byte for all that follow, else the end.
    pub end: Bytes,
}

impl Keys {
    /// Whether the key is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            b"" => key == self.key,
            b"\0" => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        }
    }
}

/// Every field of a range.
#[derive(Clone, PartialEq, Eq)]
pub struct Range {
    /// What is read.
    pub keys: Keys,
    /// At most so many; none when not positive.
    pub limit: i64,
    /// When it is read.
    pub revision: Revision,
    /// None, ascending, descending, or a number that is no order.
    pub order: i32,
    /// Key, version, creation, modification, or value.
    pub target: i32,
    /// Whether any node may answer from what it has.
    pub serializable: bool,
    /// Whether values are left out.
    pub keys_only: bool,
    /// Whether everything but the count is left out.
    pub count_only: bool,
    /// Bounds of the revision of modification, then of creation.
    pub bounds: [Revision; 4],
}

/// Every field of a put.
#[derive(Clone, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease, zero for none.
    pub lease: i64,
    /// Whether the answer shows what was there.
    pub previous: bool,
    /// Whether the value stays as it is.
    pub ignore_value: bool,
    /// Whether the lease stays as it is.
    pub ignore_lease: bool,
}

/// Every field of a deletion.
#[derive(Clone, PartialEq, Eq)]
pub struct Delete {
    /// What is deleted.
    pub keys: Keys,
    /// Whether the answer shows what was there.
    pub previous: bool,
}

/// What a comparison holds its target against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A version, which may stand beside another target than it should.
    Version(i64),
    /// A revision of creation.
    Create(Revision),
    /// A revision of modification.
    Mod(Revision),
    /// A value.
    Value(Bytes),
    /// A lease.
    Lease(i64),
    /// Nothing, which etcd reads as zero or empty.
    Absent,
}

/// One comparison of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub struct Compare {
    /// The keys, all of which must compare so.
    pub keys: Keys,
    /// How the two are related.
    pub result: CompareResult,
    /// What of the key is compared.
    pub target: CompareTarget,
    /// With what.
    pub operand: Operand,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// A read.
    Range(Range),
    /// A write.
    Put(Put),
    /// A deletion.
    Delete(Delete),
    /// A transaction within.
    Txn(Txn),
    /// An operation without a request.
    Nothing,
}

/// A transaction.
#[derive(Clone, PartialEq, Eq)]
pub struct Txn {
    /// All of these must hold.
    pub compares: Vec<Compare>,
    /// What is done then.
    pub success: Vec<Op>,
    /// What is done otherwise.
    pub failure: Vec<Op>,
}

/// One call of a sequence.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// A read.
    Range(Range),
    /// A write.
    Put(Put),
    /// A deletion.
    Delete(Delete),
    /// A transaction.
    Txn(Txn),
    /// A compaction.
    Compact {
        /// What is older is forgotten.
        revision: Revision,
        /// Whether the answer waits until it is gone from the disk.
        physical: bool,
    },
    /// A new lease.
    Grant {
        /// Its id, never zero: an id that the server chooses cannot be compared.
        id: i64,
        /// Seconds; long enough not to run out meanwhile.
        ttl: i64,
    },
    /// The end of a lease.
    Revoke {
        /// Which.
        id: i64,
    },
    /// A renewal.
    KeepAlive {
        /// Which.
        id: i64,
    },
    /// A look at a lease.
    TimeToLive {
        /// Which.
        id: i64,
        /// Whether its keys are shown.
        keys: bool,
    },
    /// A look at all leases.
    Leases,
}

impl Range {
    /// The request for a server with that base.
    pub fn request(&self, base: i64) -> pb::RangeRequest {
        let [min_mod, max_mod, min_create, max_create] = self.bounds.map(|bound| bound.on(base));
        pb::RangeRequest {
            key: self.keys.key.clone(),
            range_end: self.keys.end.clone(),
            limit: self.limit,
            revision: self.revision.on(base),
            sort_order: self.order,
            sort_target: self.target,
            serializable: self.serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: min_mod,
            max_mod_revision: max_mod,
            min_create_revision: min_create,
            max_create_revision: max_create,
        }
    }

    /// Whether its order is none.
    pub fn has_unknown_order(&self) -> bool {
        !(0..=2).contains(&self.order)
    }

    /// Whether it asks for a state that may not be there.
    pub fn has_revision(&self) -> bool {
        self.revision != Revision::Exactly(0)
    }
}

impl Put {
    /// Whether it asks for something that may not be there: the key, or a lease.
    pub fn may_be_impossible(&self) -> bool {
        self.ignore_value || self.ignore_lease || self.lease != 0
    }

    /// The request, which is the same for every server.
    pub fn request(&self) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key.clone(),
            value: self.value.clone(),
            lease: self.lease,
            prev_kv: self.previous,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        }
    }
}

impl Delete {
    /// The request, which is the same for every server.
    pub fn request(&self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest {
            key: self.keys.key.clone(),
            range_end: self.keys.end.clone(),
            prev_kv: self.previous,
        }
    }
}

impl Compare {
    fn request(&self, base: i64) -> pb::Compare {
        let operand = match &self.operand {
            Operand::Version(version) => Some(TargetUnion::Version(*version)),
            Operand::Create(revision) => Some(TargetUnion::CreateRevision(revision.on(base))),
            Operand::Mod(revision) => Some(TargetUnion::ModRevision(revision.on(base))),
            Operand::Value(value) => Some(TargetUnion::Value(value.clone())),
            Operand::Lease(lease) => Some(TargetUnion::Lease(*lease)),
            Operand::Absent => None,
        };
        pb::Compare {
            result: self.result.into(),
            target: self.target.into(),
            key: self.keys.key.clone(),
            range_end: self.keys.end.clone(),
            target_union: operand,
        }
    }
}

impl Op {
    fn request(&self, base: i64) -> pb::RequestOp {
        pb::RequestOp {
            request: match self {
                Self::Range(range) => Some(Request::RequestRange(range.request(base))),
                Self::Put(put) => Some(Request::RequestPut(put.request())),
                Self::Delete(delete) => Some(Request::RequestDeleteRange(delete.request())),
                Self::Txn(txn) => Some(Request::RequestTxn(txn.request(base))),
                Self::Nothing => None,
            },
        }
    }
}

impl Txn {
    /// The request for a server with that base.
    pub fn request(&self, base: i64) -> pb::TxnRequest {
        let ops = |ops: &[Op]| ops.iter().map(|op| op.request(base)).collect();
        pb::TxnRequest {
            compare: self.compares.iter().map(|compare| compare.request(base)).collect(),
            success: ops(&self.success),
            failure: ops(&self.failure),
        }
    }

    /// Whether a key that it sets is among those that it deletes, in whichever branches, and
    /// the deletion is open to the end of the keyspace or one of the two is in a transaction within.
    pub fn may_change_twice_unseen(&self) -> bool {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        self.changes(false, &mut puts, &mut deletes);
        puts.iter().any(|(key, key_within)| {
            deletes.iter().any(|(keys, keys_within)| {
                let unseen = *key_within || *keys_within || &keys.end[..] == b"\0";
                unseen && keys.contains(key)
            })
        })
    }

    /// The keys that it sets and those that it deletes, and whether that is done within.
    fn changes<'t>(
        &'t self,
        within: bool,
        puts: &mut Vec<(&'t Bytes, bool)>,
        deletes: &mut Vec<(&'t Keys, bool)>,
    ) {
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Put(put) => puts.push((&put.key, within)),
                Op::Delete(delete) => deletes.push((&delete.keys, within)),
                Op::Txn(txn) => txn.changes(true, puts, deletes),
                Op::Range(_) | Op::Nothing => {}
            }
        }
    }

    /// Whether any range of it, however deep, is one that the test picks.
    pub fn has_range(&self, test: impl Fn(&Range) -> bool) -> bool {
        self.has_op(&|op| matches!(op, Op::Range(range) if test(range)))
    }

    /// Whether any put of it, however deep, is one that the test picks.
    pub fn has_put(&self, test: impl Fn(&Put) -> bool) -> bool {
        self.has_op(&|op| matches!(op, Op::Put(put) if test(put)))
    }

    fn has_op(&self, test: &impl Fn(&Op) -> bool) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Txn(txn) => txn.has_op(test),
            Op::Range(_) | Op::Put(_) | Op::Delete(_) | Op::Nothing => test(op),
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.end.is_empty() {
            write!(out, "{:?}", self.key)
        } else {
            write!(out, "{:?}..{:?}", self.key, self.end)
        }
    }
}

/// Writes a name and those of the parts that are not as usual.
fn brief(out: &mut fmt::Formatter<'_>, name: &str, parts: &[(&str, bool, &dyn fmt::Debug)]) -> fmt::Result {
    write!(out, "{name}(")?;
    let mut first = true;
    for (name, shown, part) in parts {
        if *shown {
            let separator = if first { "" } else { ", " };
            let equals = if name.is_empty() { "" } else { " " };
            write!(out, "{separator}{name}{equals}{part:?}")?;
            first = false;
        }
    }
    out.write_str(")")
}

impl fmt::Debug for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = Revision::Exactly(0);
        let [min_mod, max_mod, min_create, max_create] = self.bounds;
        brief(
            out,
            "range",
            &[
                ("", true, &self.keys),
                ("limit", self.limit != 0, &self.limit),
                ("at", self.revision != none, &self.revision),
                ("order", self.order != 0, &self.order),
                ("by", self.target != 0, &self.target),
                ("serializable", self.serializable, &self.serializable),
                ("keys_only", self.keys_only, &self.keys_only),
                ("count_only", self.count_only, &self.count_only),
                ("min_mod", min_mod != none, &min_mod),
                ("max_mod", max_mod != none, &max_mod),
                ("min_create", min_create != none, &min_create),
                ("max_create", max_create != none, &max_create),
            ],
        )
    }
}

impl fmt::Debug for Put {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        brief(
            out,
            "put",
            &[
                ("", true, &self.key),
                ("", true, &self.value),
                ("lease", self.lease != 0, &self.lease),
                ("prev_kv", self.previous, &self.previous),
                ("ignore_value", self.ignore_value, &self.ignore_value),
                ("ignore_lease", self.ignore_lease, &self.ignore_lease),
            ],
        )
    }
}

impl fmt::Debug for Delete {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        brief(out, "delete", &[("", true, &self.keys), ("prev_kv", self.previous, &self.previous)])
    }
}

impl fmt::Debug for Compare {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} of {:?} {:?} {:?}", self.target, self.keys, self.result, self.operand)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(out),
            Self::Put(put) => put.fmt(out),
            Self::Delete(delete) => delete.fmt(out),
            Self::Txn(txn) => txn.fmt(out),
            Self::Nothing => out.write_str("nothing"),
        }
    }
}

impl fmt::Debug for Txn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "txn(if {:?} then {:?} else {:?})", self.compares, self.success, self.failure)
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(out),
            Self::Put(put) => put.fmt(out),
            Self::Delete(delete) => delete.fmt(out),
            Self::Txn(txn) => txn.fmt(out),
            Self::Compact { revision, physical } => write!(out, "compact({revision:?}, physical {physical})"),
            Self::Grant { id, ttl } => write!(out, "grant({id}, ttl {ttl})"),
            Self::Revoke { id } => write!(out, "revoke({id})"),
            Self::KeepAlive { id } => write!(out, "keep_alive({id})"),
            Self::TimeToLive { id, keys } => write!(out, "time_to_live({id}, keys {keys})"),
            Self::Leases => out.write_str("leases"),
        }
    }
}
