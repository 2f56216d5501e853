//! A node without its listeners: the log, the state, Raft and the service over them,
//! started in the order in which they depend on each other.
//!
//! Wiring only. It knows no protocol: a node puts its servers around it, a simulation
//! its network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config as RaftConfig, SnapshotPolicy};

use crate::Raft;
use crate::config::{Config, PeerEncoding};
use crate::engine::EngineOptions;
use crate::error::StorageError;
use crate::inflight::InflightBytes;
use crate::mutants::Mutant;
use crate::openraft_network::snapshot_sender::Pace;
use crate::openraft_network::wire::Encoding;
use crate::openraft_network::{Inbound, Network, Transport};
use crate::service::{Service, ServiceOptions, ServiceParts};
use crate::store::data_dir::{DataDir, DataDirError};
use crate::store::{FatalHook, LogOptions, RocksLogStore, StateMachineStore};
use crate::tasks::Handle;

/// Entries in one append; the log store's byte limit cuts earlier.
const MAX_PAYLOAD_ENTRIES: u64 = 2_048;
/// Most entries that are purged at once.
const MAX_PURGE_BATCH: u64 = 1_024;
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

/// Where a node can be reached.
#[derive(Debug, Clone)]
pub struct Addrs {
    /// Where peers are told to call.
    pub advertise: String,
    /// Where clients are served.
    pub http: SocketAddr,
    /// Where etcd's clients are served, if they are.
    pub grpc: Option<SocketAddr>,
}

/// A running replica.
pub struct Replica {
    /// The door to everything that the node does.
    pub service: Service,
    /// The Raft instance.
    pub raft: Raft,
    /// The log.
    pub log: RocksLogStore,
    /// The state.
    pub store: StateMachineStore,
    /// The receiving end of messages from peers.
    pub inbound: Inbound,
    /// What requests and answers in flight hold, of all fronts together.
    pub inflight: Arc<InflightBytes>,
}

/// Starts a replica; its tasks run on `runtime`.
///
/// # Errors
/// See [`StartError`].
pub async fn start_replica(
    config: &Config,
    data: Arc<DataDir>,
    addrs: Addrs,
    fatal: FatalHook,
    runtime: Handle,
) -> Result<Replica, StartError> {
    let log_options = LogOptions { cache_bytes: config.log_cache_bytes, ..LogOptions::default() };
    let log = RocksLogStore::open(&data.log(), log_options, fatal)?;
    let engine = EngineOptions {
        block_cache_bytes: config.block_cache_bytes,
        write_buffer_bytes: config.write_buffer_bytes,
    };
    let inflight = InflightBytes::new(config.limits.max_inflight_bytes);
    let store = StateMachineStore::open(&data, &engine, log.durable(), Arc::clone(&inflight))?;
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
    let raft = Raft::new(config.id, raft_config, network, log.clone(), store.clone())
        .await
        .map_err(|fatal| StartError::Raft(fatal.to_string()))?;

    let parts = ServiceParts {
        raft: raft.clone(),
        log: log.clone(),
        store: store.clone(),
        data: Arc::clone(&data),
        transport,
        runtime: runtime.clone(),
        inflight: Arc::clone(&inflight),
    };
    let service = Service::start(parts, service_options(config, addrs, secret.clone()));
    let inbound = Inbound::new(raft.clone(), data, store.clone(), secret, runtime);
    Ok(Replica { service, raft, log, store, inbound, inflight })
}

fn raft_config(config: &Config) -> Result<RaftConfig, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    #[cfg_attr(not(feature = "simulation"), expect(unused_mut, reason = "only a simulation spoils it"))]
    let mut raft = RaftConfig {
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
    #[cfg(feature = "simulation")]
    crate::simulation::world().spoil(&mut raft);
    raft.validate().map_err(|error| StartError::Config(error.to_string()))
}

fn service_options(config: &Config, addrs: Addrs, cluster_secret: Option<String>) -> ServiceOptions {
    let Addrs { advertise, http, grpc } = addrs;
    ServiceOptions {
        limits: config.limits.clone(),
        request_timeout: config.limits.request_timeout,
        catch_up_timeout: config.learner_catch_up_timeout,
        max_waiting_writes: config.limits.max_inflight_requests,
        idempotency_ttl: config.idempotency_ttl,
        cluster_secret,
        grpc_addr: grpc.map(|bound| at_port(&advertise, bound.port())),
        advertise_addr: advertise,
        http_addr: http,
    }
}

/// The host of `addr` with another port.
pub(crate) fn at_port(addr: &str, port: u16) -> String {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests;
