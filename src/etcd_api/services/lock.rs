//! The lock service: a lock is held by the oldest key under its name.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_etcd_proto::v3lockpb as pb;
use kvorum_etcd_proto::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

use super::turn::{self, Contender};
use super::{Context, status};
use crate::command::{Command, Write};
use crate::etcd_api::gate::Waiting;

pub(super) struct LockService {
    context: Arc<Context>,
}

impl LockService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let waiting = request.extensions().get::<Waiting>().cloned();
        let pb::LockRequest { name, lease } = request.into_inner();
        let contender = Contender { name, lease, value: Bytes::new(), lost: "mutex: session is expired" };
        let turn = turn::take(&self.context, waiting, contender).await?;
        Ok(Response::new(pb::LockResponse {
            header: Some(self.context.header(turn.revision)),
            key: turn.key,
        }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(status::empty_key());
        }
        let deleted = self.context.service().write(Command::of(Write::Delete { key })).await;
        let revision = deleted.map_err(|error| status::of(&error))?.revision;
        Ok(Response::new(pb::UnlockResponse { header: Some(self.context.header(revision)) }))
    }
}
