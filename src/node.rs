//! A running node: what it owns, and in which order it starts and stops.
//!
//! Wiring only. Starting goes from the disk outwards (folder, log, state, Raft,
//! service, listeners), stopping from the listeners inwards, so that nothing is
//! reachable before what it needs is there or after it is gone.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config as RaftConfig, SnapshotPolicy};
use tokio::runtime::Runtime;

use crate::Raft;
use crate::config::{Config, PeerEncoding};
use crate::engine::EngineOptions;
use crate::error::StorageError;
use crate::etcd_api::services::{self, Context};
use crate::etcd_api::{EtcdApi, EtcdOptions, GrpcServer, ServerOptions};
use crate::mutants::Mutant;
use crate::network::{self, HttpOptions, HttpServer};
use crate::openraft_network::snapshot_sender::Pace;
use crate::openraft_network::wire::Encoding;
use crate::openraft_network::{Inbound, Network, Transport};
use crate::service::{Service, ServiceOptions, ServiceParts};
use crate::store::data_dir::{DataDir, DataDirError};
use crate::store::{FatalHook, LogOptions, RocksLogStore, StateMachineStore};

/// How long a leader may take to find a successor before it stops.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries in one append; the log store's byte limit cuts earlier.
const MAX_PAYLOAD_ENTRIES: u64 = 2_048;
/// Most entries that are purged at once.
const MAX_PURGE_BATCH: u64 = 1_024;
/// How often it is checked that Raft still runs.
const FAILURE_CHECK: Duration = Duration::from_millis(200);
/// How often a leader that lost its majority looks for it again.
const QUORUM_LOSS_PROBE: Duration = Duration::from_millis(1_200);

/// Why a node did not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log or the state can't be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An address can't be listened on.
    #[error("can't listen on {addr}: {error}; is another process using it?")]
    Listen {
        /// The address.
        addr: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The configuration makes no sense to a lower layer.
    #[error("the configuration can't be used: {0}")]
    Config(String),
    /// Raft did not start.
    #[error("Raft did not start: {0}")]
    Raft(String),
    /// The system refused threads or the like.
    #[error("the system refused to start a part of the node: {0}")]
    System(#[from] std::io::Error),
}

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

    let log_options = LogOptions { cache_bytes: config.log_cache_bytes, ..LogOptions::default() };
    let log = RocksLogStore::open(&data.log(), log_options, fatal)?;
    let engine = EngineOptions {
        block_cache_bytes: config.block_cache_bytes,
        write_buffer_bytes: config.write_buffer_bytes,
    };
    let store = StateMachineStore::open(&data, &engine, log.durable())?;
    store.check_log()?;

    let secret = config.cluster_secret.as_ref().map(|secret| secret.expose().to_owned());
    let encoding = match config.peer_encoding {
        PeerEncoding::Binary => Encoding::Binary,
        PeerEncoding::Json => Encoding::Json,
    };
    let transport =
        Transport::new(Arc::clone(&data), secret.as_deref(), encoding).map_err(StartError::Config)?;
    let pace =
        Pace { bytes_per_second: config.snapshot_rate_bytes_per_second.map_or(0, std::num::NonZero::get) };
    let network = Network::new(transport.clone(), pace);
    let raft_config = Arc::new(raft_config(config)?);
    let raft = runtime
        .block_on(Raft::new(config.id, raft_config, network, log.clone(), store.clone()))
        .map_err(|fatal| StartError::Raft(fatal.to_string()))?;

    let parts = ServiceParts {
        raft: raft.clone(),
        log: log.clone(),
        store: store.clone(),
        data: Arc::clone(&data),
        transport,
        runtime: runtime.handle().clone(),
    };
    let options = service_options(config, advertise_addr, http_addr, grpc_addr, secret.clone());
    let service = Service::start(parts, options);
    let inbound = Inbound::new(raft.clone(), data, store.clone(), secret, runtime.handle().clone());

    let etcd = etcd_api(config, &service);
    let traffic = Arc::clone(etcd.traffic());
    service.show_figures(move |out| traffic.figures(out));
    let options = http_options(config);
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

    /// Stops in order: leadership goes to another node, requests in flight end,
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

/// The host of `addr` with another port.
fn at_port(addr: &str, port: u16) -> String {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    format!("{host}:{port}")
}

/// The address that peers are told: as configured, with the port that the system
/// chose where port 0 was asked for.
fn advertised(configured: &str, bound: SocketAddr) -> String {
    match configured.rsplit_once(':') {
        Some((_, "0")) => at_port(configured, bound.port()),
        Some(_) | None => configured.to_owned(),
    }
}

fn raft_config(config: &Config) -> Result<RaftConfig, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let raft = RaftConfig {
        cluster_name: "kvorum".to_owned(),
        heartbeat_interval: millis(config.heartbeat_interval),
        election_timeout_min: millis(config.election_timeout_min),
        election_timeout_max: millis(config.election_timeout_max),
        max_payload_entries: MAX_PAYLOAD_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_log_entries),
        max_in_snapshot_log_to_keep: config.log_entries_to_keep,
        // A larger batch would keep more than was asked for.
        purge_batch_size: config.log_entries_to_keep.clamp(1, MAX_PURGE_BATCH),
        enable_pre_vote: Some(true),
        // A restarted leader that resumed its term could give a log id that it
        // lost with an unsynced tail to another entry.
        enable_leader_restore: Some(Mutant::LeaderRestore.is_awake()),
        quorum_loss_probe_interval: Some(millis(QUORUM_LOSS_PROBE)),
        ..RaftConfig::default()
    };
    raft.validate().map_err(|error| StartError::Config(error.to_string()))
}

fn service_options(
    config: &Config,
    advertise_addr: String,
    http_addr: SocketAddr,
    grpc_addr: Option<SocketAddr>,
    cluster_secret: Option<String>,
) -> ServiceOptions {
    ServiceOptions {
        limits: config.limits.clone(),
        request_timeout: config.limits.request_timeout,
        catch_up_timeout: config.learner_catch_up_timeout,
        max_waiting_writes: config.limits.max_inflight_requests,
        idempotency_ttl: config.idempotency_ttl,
        cluster_secret,
        grpc_addr: grpc_addr.map(|bound| at_port(&advertise_addr, bound.port())),
        advertise_addr,
        http_addr,
    }
}

/// What etcd's clients are served, on whichever port.
fn etcd_api(config: &Config, service: &Service) -> EtcdApi {
    let context = Arc::new(Context::new(service.clone()));
    let options = EtcdOptions {
        max_request_bytes: config.limits.max_request_bytes,
        max_inflight_requests: config.limits.max_inflight_requests,
        body_patience: config.limits.request_timeout,
    };
    let ready = service.clone();
    EtcdApi::new(services::routes(&context), Arc::new(move || ready.serving()), options)
}

fn grpc_options(config: &Config) -> ServerOptions {
    ServerOptions {
        shutdown_timeout: config.shutdown_timeout.saturating_sub(RESIGN_TIMEOUT),
        ..ServerOptions::default()
    }
}

fn http_options(config: &Config) -> HttpOptions {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    HttpOptions {
        workers: if config.http_workers == 0 { cores() } else { config.http_workers },
        max_request_bytes: config.limits.max_request_bytes,
        max_inflight_requests: config.limits.max_inflight_requests,
        max_inflight_bytes: config.limits.max_inflight_bytes,
        request_timeout: config.limits.request_timeout,
        shutdown_timeout: config.shutdown_timeout.saturating_sub(RESIGN_TIMEOUT),
    }
}
