//! What a server answered, without what may differ between two equal servers.
//!
//! Revisions become relative to where the sequence began. Of ids and terms only it is
//! kept whether they were given, which nested answers of etcd do not do. Of the
//! seconds that a lease has left it is kept whether there are any.

use kvorum_etcd_proto::{etcdserverpb as pb, mvccpb};
use pb::response_op::Response;

/// One answer, or the refusal.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a read.
    Range(pb::RangeResponse),
    /// To a write.
    Put(pb::PutResponse),
    /// To a deletion.
    Delete(pb::DeleteRangeResponse),
    /// To a transaction.
    Txn(pb::TxnResponse),
    /// To a compaction.
    Compact(pb::CompactionResponse),
    /// To a new lease.
    Grant(pb::LeaseGrantResponse),
    /// To the end of a lease.
    Revoke(pb::LeaseRevokeResponse),
    /// To a renewal.
    KeepAlive(pb::LeaseKeepAliveResponse),
    /// To a look at a lease.
    TimeToLive(pb::LeaseTimeToLiveResponse),
    /// To a look at all leases.
    Leases(pb::LeaseLeasesResponse),
    /// The status instead of an answer.
    Refused {
        /// The name of the status code.
        code: tonic::Code,
        /// The text, which clients of etcd match by the letter.
        message: String,
    },
}

impl Answer {
    /// The same answer with what may differ taken out.
    #[must_use]
    pub fn normalised(mut self, base: i64) -> Self {
        match &mut self {
            Self::Range(answer) => range(answer, base),
            Self::Put(answer) => put(answer, base),
            Self::Delete(answer) => delete(answer, base),
            Self::Txn(answer) => txn(answer, base),
            Self::Compact(answer) => header(&mut answer.header, base),
            Self::Grant(answer) => header(&mut answer.header, base),
            Self::Revoke(answer) => header(&mut answer.header, base),
            Self::KeepAlive(answer) => header(&mut answer.header, base),
            Self::TimeToLive(answer) => {
                header(&mut answer.header, base);
                answer.ttl = answer.ttl.min(1);
                answer.keys.sort();
            }
            Self::Leases(answer) => {
                header(&mut answer.header, base);
                answer.leases.sort_by_key(|lease| lease.id);
            }
            Self::Refused { .. } => {}
        }
        self
    }
}

fn header(header: &mut Option<pb::ResponseHeader>, base: i64) {
    if let Some(header) = header {
        header.cluster_id = header.cluster_id.min(1);
        header.member_id = header.member_id.min(1);
        header.raft_term = header.raft_term.min(1);
        // Those of nested transactions tell none.
        if header.revision != 0 {
            header.revision -= base;
        }
    }
}

fn key_value(kv: &mut mvccpb::KeyValue, base: i64) {
    kv.create_revision -= base;
    kv.mod_revision -= base;
}

fn range(answer: &mut pb::RangeResponse, base: i64) {
    header(&mut answer.header, base);
    answer.kvs.iter_mut().for_each(|kv| key_value(kv, base));
}

fn put(answer: &mut pb::PutResponse, base: i64) {
    header(&mut answer.header, base);
    answer.prev_kv.iter_mut().for_each(|kv| key_value(kv, base));
}

fn delete(answer: &mut pb::DeleteRangeResponse, base: i64) {
    header(&mut answer.header, base);
    answer.prev_kvs.iter_mut().for_each(|kv| key_value(kv, base));
}

fn txn(answer: &mut pb::TxnResponse, base: i64) {
    header(&mut answer.header, base);
    for op in &mut answer.responses {
        match &mut op.response {
            Some(Response::ResponseRange(answer)) => range(answer, base),
            Some(Response::ResponsePut(answer)) => put(answer, base),
            Some(Response::ResponseDeleteRange(answer)) => delete(answer, base),
            Some(Response::ResponseTxn(answer)) => txn(answer, base),
            None => {}
        }
    }
}
