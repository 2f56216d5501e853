//! The services behind the front: what they do depends on the names that they are called with.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kvorum_etcd_proto::etcdserverpb::watch_server::Watch;
use kvorum_etcd_proto::etcdserverpb::{WatchRequest, WatchResponse};
use kvorum_etcd_proto::v3lockpb::lock_server::Lock;
use kvorum_etcd_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// Gives each name as its key; `hang` never, `slow` after a moment, and `who` the address of
/// the caller.
pub(super) struct Locks;

#[tonic::async_trait]
impl Lock for Locks {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let remote = request.remote_addr();
        let name = request.into_inner().name;
        let key = match &*name {
            b"hang" => std::future::pending().await,
            b"slow" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                name
            }
            b"who" => remote.map(|remote| remote.ip().to_string()).unwrap_or_default().into(),
            _ => name,
        };
        Ok(Response::new(LockResponse { header: None, key }))
    }

    async fn unlock(&self, _: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        Err(Status::invalid_argument("etcdserver: key is not provided"))
    }
}

/// Answers each request with its number, and stays open when there are no more, as etcd does.
pub(super) struct Watches;

#[tonic::async_trait]
impl Watch for Watches {
    type WatchStream = BoxStream<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let numbered = request.into_inner().enumerate().map(|(number, request)| {
            request.map(|_| WatchResponse { watch_id: number as i64, created: true, ..Default::default() })
        });
        Ok(Response::new(Box::pin(numbered.chain(stream::pending()))))
    }
}
