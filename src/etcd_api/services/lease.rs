//! The lease service.
//!
//! Keep-alives of one stream are answered in the order of their requests, but the next ones do
//! not wait for the first: they become one command together, so that a stream may keep many
//! leases alive. A client that reads no answers is asked for no further requests.

use std::sync::Arc;

use futures_util::StreamExt as _;
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::etcdserverpb::lease_server::Lease;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, counted, leader, status};
use crate::service::LeaseRenewed;

/// Keep-alives of one stream that may be under way.
const RENEWALS_AT_ONCE: usize = 128;

pub(super) struct LeaseService {
    context: Arc<Context>,
}

impl LeaseService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { id, ttl } = request.into_inner();
        let granted = self.context.service().lease_grant(id, ttl).await;
        let granted = granted.map_err(|error| status::of(&error))?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: Some(self.context.header(granted.revision)),
            id: granted.id,
            ttl: granted.ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let revoked = self.context.service().lease_revoke(request.into_inner().id).await;
        let revision = revoked.map_err(|error| status::of(&error))?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.context.header(revision)) }))
    }

    type LeaseKeepAliveStream = BoxStream<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let needs_leader = leader::is_demanded(request.metadata());
        let context = Arc::clone(&self.context);
        let renewals = request.into_inner().map(move |request| renewal(&context, request));
        // Its first failure is the last that a client hears of a stream.
        let responses = renewals.buffered(RENEWALS_AT_ONCE);
        if !needs_leader {
            return Ok(Response::new(Box::pin(responses)));
        }
        let lost = self.context.leader_lost();
        Ok(Response::new(Box::pin(leader::until_lost(responses, lost))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let known = self.context.service().lease_time_to_live(id, keys).await;
        let known = known.map_err(|error| status::of(&error))?;
        let answer = pb::LeaseTimeToLiveResponse {
            header: Some(self.context.header(known.revision)),
            id,
            ttl: known.ttl,
            granted_ttl: known.granted_ttl,
            keys: known.keys,
        };
        Ok(counted(answer, known.counted))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let found = self.context.service().leases().await;
        let (revision, ids) = found.map_err(|error| status::of(&error))?;
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: Some(self.context.header(revision)),
            leases: ids.into_iter().map(|id| pb::LeaseStatus { id }).collect(),
        }))
    }
}

/// Renews the lease of one request, as soon as this is polled; the header is made at once.
///
/// A header made after the renewal could name the revision at which the lease has ended since,
/// and a client would take it for alive then.
fn renewal(
    context: &Arc<Context>,
    request: Result<pb::LeaseKeepAliveRequest, Status>,
) -> impl Future<Output = Result<pb::LeaseKeepAliveResponse, Status>> + Send + use<> {
    let header = context.header_now();
    let context = Arc::clone(context);
    async move {
        let id = request?.id;
        let renewed = context.service().lease_keep_alive(id).await;
        let LeaseRenewed { revision: _, ttl } = renewed.map_err(|error| status::of(&error))?;
        Ok(pb::LeaseKeepAliveResponse { header: Some(header), id, ttl })
    }
}
