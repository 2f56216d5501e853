//! etcd's services: what each call means in terms of the service layer.
//!
//! A service here translates: a message into a request of ours, the outcome into a message,
//! and a failure into etcd's code and words. It decides nothing that another front would have
//! to decide again, and touches neither Raft nor the disk.

mod auth;
mod cluster;
mod condition;
mod context;
mod convert;
mod election;
mod kv;
mod leader;
mod lease;
mod lock;
mod maintenance;
mod range_stream;
mod snapshot;
mod status;
mod turn;
mod watch;

pub use context::Context;

use std::sync::Arc;

use kvorum_etcd_proto::etcdserverpb::auth_server::AuthServer;
use kvorum_etcd_proto::etcdserverpb::cluster_server::ClusterServer;
use kvorum_etcd_proto::etcdserverpb::kv_server::{Kv as _, KvServer};
use kvorum_etcd_proto::etcdserverpb::lease_server::LeaseServer;
use kvorum_etcd_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use kvorum_etcd_proto::etcdserverpb::watch_server::WatchServer;
use kvorum_etcd_proto::unary;
use kvorum_etcd_proto::v3electionpb::election_server::ElectionServer;
use kvorum_etcd_proto::v3lockpb::lock_server::LockServer;
use tonic::Response;
use tonic::codegen::Service as _;
use tonic::server::NamedService as _;
use tonic::service::Routes;

use super::{Direct, Dispatch, MAX_STREAMED_BYTES, max_message_bytes};
use crate::inflight::AnswerBytes;

/// The answer `message`, which goes on counting the `bytes` that it was made of: the gate takes
/// them over until it has left.
fn counted<T>(message: T, bytes: AnswerBytes) -> Response<T> {
    let mut response = Response::new(message);
    if bytes.count() > 0 {
        response.extensions_mut().insert(bytes);
    }
    response
}

/// All services over `context`.
pub fn all(context: &Arc<Context>) -> Dispatch {
    let limit = max_message_bytes(context.max_request_bytes());
    let kv = Arc::new(kv::KvService::new(Arc::clone(context)));
    let lease = lease::LeaseService::new(Arc::clone(context));
    let lease = LeaseServer::new(lease).max_decoding_message_size(MAX_STREAMED_BYTES);
    let watch = watch::WatchService::new(Arc::clone(context));
    let watch = WatchServer::new(watch).max_decoding_message_size(MAX_STREAMED_BYTES);
    let cluster = cluster::ClusterService::new(Arc::clone(context));
    let cluster = ClusterServer::new(cluster).max_decoding_message_size(limit);
    let maintenance = maintenance::MaintenanceService::new(Arc::clone(context));
    let maintenance = MaintenanceServer::new(maintenance).max_decoding_message_size(limit);
    let auth = AuthServer::new(auth::AuthService::new(Arc::clone(context))).max_decoding_message_size(limit);
    let lock = lock::LockService::new(Arc::clone(context));
    let lock = LockServer::new(lock).max_decoding_message_size(limit);
    let election = election::ElectionService::new(Arc::clone(context));
    let election = ElectionServer::new(election).max_decoding_message_size(limit);
    let routes = Routes::new(watch).add_service(lease).add_service(lock);
    let routes = routes.add_service(election).add_service(cluster);
    Dispatch::with(keys(kv, limit), routes.add_service(maintenance).add_service(auth))
}

/// The service of keys, whose short calls are carried out the short way.
fn keys(service: Arc<kv::KvService>, limit: usize) -> Direct {
    let general = KvServer::from_arc(Arc::clone(&service)).max_decoding_message_size(limit);
    Direct::new(KvServer::<kv::KvService>::NAME, move |call| {
        if !unary::is_plain(call.headers()) {
            return general.clone().call(call);
        }
        let service = Arc::clone(&service);
        match call.uri().path() {
            "/etcdserverpb.KV/Range" => Box::pin(async move {
                Ok(unary::answer(call, limit, async |request| service.range(request).await).await)
            }),
            "/etcdserverpb.KV/Put" => Box::pin(async move {
                Ok(unary::answer(call, limit, async |request| service.put(request).await).await)
            }),
            "/etcdserverpb.KV/Txn" => Box::pin(async move {
                Ok(unary::answer(call, limit, async |request| service.txn(request).await).await)
            }),
            "/etcdserverpb.KV/DeleteRange" => Box::pin(async move {
                Ok(unary::answer(call, limit, async |request| service.delete_range(request).await).await)
            }),
            _ => general.clone().call(call),
        }
    })
}
