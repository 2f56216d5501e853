//! The key-value service.

use std::sync::Arc;

use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::etcdserverpb::kv_server::Kv;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::range_stream;
use super::{Context, convert, counted, status};
use crate::command::{Command, DeleteOp, Op, OpOutcome, OutcomeResult, PutOp, Txn, Write};
use crate::error::Error;
use crate::inflight::AnswerBytes;
use crate::keyspace::KeyRange;
use crate::service::Consistency;

pub(super) struct KvService {
    context: Arc<Context>,
}

impl KvService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The status of a put that failed. A put alone that names a lease and a key that both do
    /// not exist is told of the lease, unlike one in a transaction.
    async fn put_status(&self, error: Error, lease: i64) -> Status {
        if matches!(error, Error::KeyNotFound) && lease != 0 {
            let known = self.context.service().lease_time_to_live(lease, false).await;
            if known.is_ok_and(|lease| lease.ttl < 0) {
                return status::of(&Error::LeaseNotFound { id: lease });
            }
        }
        status::of(&error)
    }

    /// Carries `op` out alone; answers the revision and what happened, with what that counts.
    async fn alone(&self, op: Op) -> Result<(i64, Option<OpOutcome>, AnswerBytes), Error> {
        let txn = self.context.service().txn(Txn::of(op), None, Consistency::Linearizable);
        let (revision, done) = txn.await?;
        Ok((revision, done.responses.into_iter().next(), done.counted))
    }
}

/// What a read asks for, by its `serializable`.
pub(super) fn consistency(may_be_behind: bool) -> Consistency {
    if may_be_behind { Consistency::Local } else { Consistency::Linearizable }
}

fn mismatch() -> Status {
    Status::internal("etcdserver: the outcome is of another kind than the request")
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let consistency = consistency(request.serializable);
        let request = convert::range(request)?;
        let read = self.context.service().read(request, consistency).await;
        let (revision, mut found) = read.map_err(|error| status::of(&error))?;
        let bytes = std::mem::take(&mut found.counted);
        Ok(counted(convert::range_response(self.context.header(revision), found), bytes))
    }

    type RangeStreamStream = BoxStream<pb::RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let request = request.into_inner();
        let consistency = consistency(request.serializable);
        let request = convert::range(request)?;
        range_stream::start(Arc::clone(&self.context), request, consistency).await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let put = convert::put(request.into_inner())?;
        let (revision, prev_kv, bytes) = match (put.value, put.lease) {
            (Some(value), Some(lease)) if !put.want_previous => {
                // The shorter form of the same, which also carries the shorter answer.
                let command = Command::of(Write::Put { key: put.key, value, lease });
                let written = self.context.service().write(command).await;
                (written.map_err(|error| status::of(&error))?.revision, None, AnswerBytes::default())
            }
            (value, lease) => match self.alone(Op::Put(PutOp { value, lease, ..put })).await {
                Ok((revision, Some(OpOutcome::Put { revision: _, previous }), bytes)) => {
                    (revision, previous, bytes)
                }
                Ok(_) => return Err(mismatch()),
                Err(error) => return Err(self.put_status(error, lease.unwrap_or_default()).await),
            },
        };
        let header = Some(self.context.header(revision));
        Ok(counted(pb::PutResponse { header, prev_kv: prev_kv.map(convert::key_value) }, bytes))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let delete = convert::delete(request.into_inner())?;
        let (revision, count, previous, bytes) = match delete.keys {
            KeyRange::One(key) if !delete.want_previous => {
                let written = self.context.service().write(Command::of(Write::Delete { key })).await;
                let outcome = written.map_err(|error| status::of(&error))?;
                let OutcomeResult::Deleted { count } = outcome.result else { return Err(mismatch()) };
                (outcome.revision, count, Vec::new(), AnswerBytes::default())
            }
            keys @ (KeyRange::One(_) | KeyRange::From(_) | KeyRange::Between { .. }) => {
                let delete = DeleteOp { keys, want_previous: delete.want_previous };
                match self.alone(Op::Delete(delete)).await.map_err(|error| status::of(&error))? {
                    (revision, Some(OpOutcome::Deleted { revision: _, count, previous }), bytes) => {
                        (revision, count, previous, bytes)
                    }
                    _ => return Err(mismatch()),
                }
            }
        };
        Ok(counted(convert::delete_response(self.context.header(revision), count, previous), bytes))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let request = request.into_inner();
        let consistency = consistency(convert::may_be_behind(&request));
        let service = self.context.service();
        let txn = convert::txn(request, service.limits().max_txn_ops)?;
        let done = service.txn(txn, None, consistency).await;
        let (revision, mut done) = done.map_err(|error| status::of(&error))?;
        let bytes = std::mem::take(&mut done.counted);
        Ok(counted(convert::txn_response(self.context.header(revision), done), bytes))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let pb::CompactionRequest { revision, physical } = request.into_inner();
        let compacted = self.context.service().compact(revision, physical).await;
        let revision = compacted.map_err(|error| status::of(&error))?;
        Ok(Response::new(pb::CompactionResponse { header: Some(self.context.header(revision)) }))
    }
}
