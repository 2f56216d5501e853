//! A running node: what it owns, and in which order it starts and stops.
//!
//! Wiring only. Starting goes from the disk outwards (folder, log, state, Raft,
//! service, listeners), stopping from the listeners inwards, so that nothing is
//! reachable before what it needs is there or after it is gone.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::runtime::Runtime;

use crate::Raft;
use crate::config::Config;
use crate::error::StorageError;
use crate::etcd_api::services::{self, Context};
use crate::etcd_api::{EtcdApi, EtcdOptions, GrpcServer, ServerOptions};
use crate::inflight::InflightBytes;
use crate::network::{self, HttpOptions, HttpServer};
use crate::openraft_network::Inbound;
pub use crate::replica::StartError;
use crate::replica::{Addrs, Replica, at_port, start_replica};
use crate::service::Service;
use crate::store::data_dir::DataDir;
use crate::store::{FatalHook, RocksLogStore, StateMachineStore};

/// How long a leader may take to find a successor before it stops.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long writes that are under way may take to end before a node stops.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is checked that Raft still runs.
const FAILURE_CHECK: Duration = Duration::from_millis(200);

/// A running node. Dropping it stops it without ceremony, as a crash would.
pub struct Node {
    service: Service,
    raft: Raft,
    log: RocksLogStore,
    store: StateMachineStore,
    inbound: Inbound,
    http: HttpServer,
    peer: Option<HttpServer>,
    etcd: EtcdApi,
    grpc: Option<GrpcServer>,
    /// Last, so that what runs on it goes first.
    runtime: OwnedRuntime,
}

/// Starts a node as `config` says; `fatal` is called when its log can't be
/// written any more, and must not return in production.
///
/// # Errors
/// See [`StartError`].
pub fn start_node(config: &Config, fatal: FatalHook) -> Result<Node, StartError> {
    let data = Arc::new(DataDir::open(&config.data_dir, config.id)?);
    let (http_listener, peer_listener) =
        (listen(&config.http_addr)?, config.peer_addr.as_deref().map(listen));
    let peer_listener = peer_listener.transpose()?;
    let grpc_listener = config.grpc_addr.as_deref().map(listen).transpose()?;
    let http_addr = http_listener.local_addr()?;
    let peer_addr = peer_listener.as_ref().map_or(Ok(http_addr), TcpListener::local_addr)?;
    let advertise_addr = advertised(&config.advertise_addr, peer_addr);
    let grpc_addr = grpc_listener.as_ref().map(TcpListener::local_addr).transpose()?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.raft_workers)
        .thread_name("kvorum-raft")
        .enable_all()
        .build()?;
    let inside = runtime.enter();

    let addrs = Addrs { advertise: advertise_addr, http: http_addr, grpc: grpc_addr };
    let replica = start_replica(config, data, addrs, fatal, runtime.handle().clone());
    let Replica { service, raft, log, store, inbound, inflight } = runtime.block_on(replica)?;

    let etcd = etcd_api(config, &service, Arc::clone(&inflight));
    let traffic = Arc::clone(etcd.traffic());
    service.show_figures(move |out| traffic.figures(out));
    let options = http_options(config, inflight);
    let raft_routes = network::raft::routes(&inbound, &service);
    let etcd_routes = network::etcd_gateway::routes(etcd.json_calls());
    let (http, peer) = match peer_listener {
        None => {
            let routes = move |config: &mut _| {
                raft_routes(config);
                etcd_routes(config);
            };
            (network::start(http_listener, service.clone(), &options, routes)?, None)
        }
        Some(listener) => {
            let peer = network::start_peer(listener, &options, raft_routes)?;
            (network::start(http_listener, service.clone(), &options, etcd_routes)?, Some(peer))
        }
    };
    let serve = |listener| GrpcServer::start(listener, etcd.clone(), grpc_options(config), runtime.handle());
    let grpc = grpc_listener.map(serve).transpose()?;
    let grpc_addr = grpc.as_ref().map(|grpc| tracing::field::display(grpc.addr()));
    tracing::info!(node = config.id, http = %http.addr(), peer = %peer_addr, grpc = grpc_addr, "the node is running");
    drop(inside);
    let runtime = OwnedRuntime(Some(runtime));
    Ok(Node { service, raft, log, store, inbound, http, peer, etcd, grpc, runtime })
}

impl Node {
    /// The door to everything that the node does.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The address on which clients are served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// The address on which peers are served.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer.as_ref().map_or_else(|| self.http.addr(), HttpServer::addr)
    }

    /// The address on which etcd's clients are served, if they are.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(GrpcServer::addr)
    }

    /// Waits until a part of the node has failed, which stops all of it being
    /// of use, and says which.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn failed(&mut self) -> String {
        let metrics = self.raft.metrics();
        let raft = async {
            // Looked at now and then: the metrics change with every entry, and
            // waking up for each of them would cost more than it tells.
            let mut look = tokio::time::interval(FAILURE_CHECK);
            loop {
                look.tick().await;
                if let Err(fatal) = &metrics.borrow_watched().running_state {
                    return format!("Raft stopped: {fatal}");
                }
            }
        };
        let ended = |what: &str, result: std::io::Result<()>| match result {
            Ok(()) => format!("the {what} server ended"),
            Err(error) => format!("the {what} server failed: {error}"),
        };
        let peer = async {
            match &mut self.peer {
                Some(peer) => ended("HTTP", peer.ended().await),
                None => std::future::pending().await,
            }
        };
        let grpc = async {
            match &mut self.grpc {
                Some(grpc) => ended("gRPC", grpc.ended().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = raft => reason,
            result = self.http.ended() => ended("HTTP", result),
            reason = peer => reason,
            reason = grpc => reason,
        }
    }

    /// Stops in order: leadership goes to another node, writes and requests in flight end,
    /// Raft stops, the state and the log are written and closed.
    ///
    /// # Errors
    /// When the disk refuses the last writes; nothing acknowledged is lost by it.
    pub async fn stop(self) -> Result<(), StorageError> {
        let Self { service, raft, log, store, inbound, http, peer, etcd, grpc, runtime } = self;
        // While this node still answers: the successor may need its vote.
        if tokio::time::timeout(RESIGN_TIMEOUT, service.resign()).await.is_err() {
            tracing::info!("stopping without having handed leadership over in time");
        }
        let stop_peer = async {
            match peer {
                Some(peer) => peer.stop(true).await,
                None => Ok(()),
            }
        };
        let stop_grpc = async {
            match grpc {
                Some(grpc) => grpc.stop(true).await,
                None => Ok(()),
            }
        };
        // While others' appends still come, without which nobody learns what became of them.
        service.finish_writes(FINISH_TIMEOUT).await;
        // Append streams last as long as a leader, and watches as long as their
        // clients like: they would hold the servers up.
        etcd.close();
        inbound.close();
        service.watch().stop().await;
        let (http, peer, grpc) = tokio::join!(http.stop(true), stop_peer, stop_grpc);
        if let Err(error) = http.and(peer).and(grpc) {
            tracing::warn!(%error, "a server did not end well");
        }
        if raft.shutdown().await.is_err() {
            tracing::warn!("Raft did not end well");
        }
        let flushed = tokio::task::spawn_blocking(move || store.flush()).await.unwrap_or_else(|error| {
            Err(StorageError::Database { action: "flushing the state", reason: error.to_string() })
        });
        let closed = log.close().await;
        drop(runtime);
        flushed.and(closed)
    }
}

/// A runtime that may be dropped anywhere, inside another one too.
struct OwnedRuntime(Option<Runtime>);

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(addr: &str) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen { addr: addr.to_owned(), error };
    let mut resolved = addr.to_socket_addrs().map_err(failed)?;
    let first = resolved.next().ok_or_else(|| failed(std::io::Error::other("the name has no address")))?;
    network::bind(first).map_err(failed)
}

/// The address that peers are told: as configured, with the port that the system
/// chose where port 0 was asked for.
fn advertised(configured: &str, bound: SocketAddr) -> String {
    match configured.rsplit_once(':') {
        Some((_, "0")) => at_port(configured, bound.port()),
        Some(_) | None => configured.to_owned(),
    }
}

/// What etcd's clients are served, on whichever port.
fn etcd_api(config: &Config, service: &Service, inflight_bytes: Arc<InflightBytes>) -> EtcdApi {
    let context = Arc::new(Context::new(service.clone()));
    let options = EtcdOptions {
        max_request_bytes: config.limits.max_request_bytes,
        max_inflight_requests: config.limits.max_inflight_requests,
        inflight_bytes,
        body_patience: config.limits.request_timeout,
    };
    EtcdApi::new(services::all(&context), Arc::new(service.clone()), options)
}

fn grpc_options(config: &Config) -> ServerOptions {
    ServerOptions {
        shutdown_timeout: config.shutdown_timeout.saturating_sub(RESIGN_TIMEOUT),
        ..ServerOptions::default()
    }
}

fn http_options(config: &Config, inflight_bytes: Arc<InflightBytes>) -> HttpOptions {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    HttpOptions {
        workers: if config.http_workers == 0 { cores() } else { config.http_workers },
        max_request_bytes: config.limits.max_request_bytes,
        max_inflight_requests: config.limits.max_inflight_requests,
        inflight_bytes,
        request_timeout: config.limits.request_timeout,
        shutdown_timeout: config.shutdown_timeout.saturating_sub(RESIGN_TIMEOUT),
    }
}
