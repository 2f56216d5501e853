//! The cheap clone that the fronts hold, and the view of the cluster behind it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::ServerState;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use subtle::ConstantTimeEq as _;
use tokio::sync::{Semaphore, watch};

use super::joint;
use super::lease::RenewByConsensus;
use super::lessor;
use super::member_list::ClientAddrs;
use super::read_index::ReadIndex;
use super::renewals::Renewals;
use super::token_clock::TokenClock;
use super::write_queue::WriteQueue;
use super::{etcd_export, forwarder, proposer};
use crate::command::Idempotency;
use crate::config::Limits;
use crate::error::Error;
use crate::inflight::InflightBytes;
use crate::metrics::Figures;
use crate::openraft_network::Transport;
use crate::store::data_dir::DataDir;
use crate::store::{RocksLogStore, StateMachineStore};
use crate::tasks::Handle;
use crate::watch::{WatchHub, WatchOptions};
use crate::{NodeId, Raft, StoredMembership, TypeConfig, Vote};

/// Longest idempotency token in bytes.
const MAX_TOKEN_BYTES: usize = 256;

/// Reads at once that may scan; more would wait for the same disk and hold memory
/// meanwhile.
const SCANS_AT_ONCE: usize = 16;

/// What the service is told at start.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Sizes that requests must keep.
    pub limits: Limits,
    /// How long a read or write may take.
    pub request_timeout: Duration,
    /// How long adding a learner waits for it to catch up.
    pub catch_up_timeout: Duration,
    /// How many writes may wait at once.
    pub max_waiting_writes: usize,
    /// How long the outcome of a write with an idempotency token is remembered.
    pub idempotency_ttl: Duration,
    /// The secret that management calls must carry, if any.
    pub cluster_secret: Option<String>,
    /// Where peers reach this node.
    pub advertise_addr: String,
    /// Where clients reach this node.
    pub http_addr: SocketAddr,
    /// Where clients of etcd reach this node over gRPC, if it serves them.
    pub grpc_addr: Option<String>,
}

/// The parts that the service drives.
pub struct ServiceParts {
    /// The Raft instance.
    pub raft: Raft,
    /// The log, for its figures.
    pub log: RocksLogStore,
    /// The state.
    pub store: StateMachineStore,
    /// Who this node is.
    pub data: Arc<DataDir>,
    /// The way to peers.
    pub transport: Transport,
    /// The runtime on which Raft runs.
    pub runtime: Handle,
    /// All that is in flight on this node, which long answers count among.
    pub inflight: Arc<InflightBytes>,
}

/// The cluster as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) state: ServerState,
    pub(super) vote: Vote,
    pub(super) leader: Option<NodeId>,
    pub(super) membership: Arc<StoredMembership>,
}

impl View {
    /// The leader's id and peer address, when both are known.
    pub(super) fn leader_addr(&self) -> Option<(NodeId, String)> {
        let leader = self.leader?;
        let node = self.membership.get_node(&leader)?;
        Some((leader, node.addr.clone()))
    }
}

/// Counts of what was asked for; they only go up.
#[derive(Debug, Default)]
pub(super) struct RequestCounters {
    pub(super) writes: AtomicU64,
    pub(super) writes_forwarded: AtomicU64,
    pub(super) writes_failed: AtomicU64,
    pub(super) reads_linearizable: AtomicU64,
    pub(super) reads_local: AtomicU64,
    pub(super) read_index_rounds: AtomicU64,
    pub(super) txns: AtomicU64,
    pub(super) lease_renewals: AtomicU64,
    pub(super) leases_expired: AtomicU64,
}

impl RequestCounters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_many(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The node's service; clones share it.
#[derive(Clone)]
pub struct Service {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) raft: Raft,
    pub(super) log: RocksLogStore,
    pub(super) store: StateMachineStore,
    pub(super) data: Arc<DataDir>,
    pub(super) transport: Transport,
    pub(super) runtime: Handle,
    pub(super) inflight: Arc<InflightBytes>,
    pub(super) options: ServiceOptions,
    pub(super) view: watch::Receiver<View>,
    /// The way of writes into the log while this node leads.
    pub(super) proposer: WriteQueue,
    /// Their way to the leader while it does not.
    pub(super) forwarder: WriteQueue,
    pub(super) read_index: ReadIndex,
    pub(super) renewals: Renewals,
    pub(super) watch: WatchHub,
    pub(super) waiting_writes: Semaphore,
    pub(super) scans: Arc<Semaphore>,
    pub(super) exports: Arc<Semaphore>,
    /// One change of the membership at a time on the leader.
    pub(super) management: tokio::sync::Mutex<()>,
    pub(super) client_addrs: ClientAddrs,
    pub(super) counters: Arc<RequestCounters>,
    pub(super) started: Instant,
    /// Figures of what lies above the service.
    pub(super) more_figures: OnceLock<MoreFigures>,
}

/// Adds figures to those of the service.
pub(super) type MoreFigures = Box<dyn Fn(&mut Figures) + Send + Sync>;

impl Service {
    /// A service over `parts`; its background tasks run on their runtime and end
    /// with Raft.
    pub fn start(parts: ServiceParts, options: ServiceOptions) -> Self {
        let ServiceParts { raft, log, store, data, transport, runtime, inflight } = parts;
        let view = follow_view(&raft, &runtime);
        let counters = Arc::new(RequestCounters::default());
        let clock = TokenClock::new(store.clone(), view.clone());
        let proposer = proposer::start(raft.clone(), clock, &runtime, options.request_timeout);
        let forwarder = forwarder::start(
            transport.clone(),
            view.clone(),
            store.watch_applied(),
            &runtime,
            options.request_timeout,
            Arc::clone(&inflight),
        );
        let read_index = ReadIndex::new(
            raft.clone(),
            transport.clone(),
            view.clone(),
            runtime.clone(),
            options.request_timeout,
            Arc::clone(&counters),
        );
        let watch = WatchHub::start(store.clone(), WatchOptions::default(), &runtime);
        let waiting_writes = Semaphore::new(options.max_waiting_writes);
        let (renewals, renewal_queue) = Renewals::new(data.node_id());
        let inner = Arc::new(Inner {
            raft,
            log,
            store,
            data,
            transport,
            runtime,
            inflight,
            options,
            view,
            proposer,
            forwarder,
            read_index,
            renewals,
            watch,
            waiting_writes,
            scans: Arc::new(Semaphore::new(SCANS_AT_ONCE)),
            exports: etcd_export::places(),
            management: tokio::sync::Mutex::new(()),
            client_addrs: ClientAddrs::default(),
            counters,
            started: Instant::now(),
            more_figures: OnceLock::new(),
        });
        // They must not keep alive what they serve.
        renewal_queue.start(RenewByConsensus(Arc::downgrade(&inner)), &inner.runtime);
        let work = inner.store.leases().work();
        let weak = Arc::downgrade(&inner);
        let service = move || weak.upgrade().map(|inner| Self { inner });
        inner.runtime.spawn(lessor::run(service, inner.view.clone(), work));
        inner.runtime.spawn(joint::run(inner.raft.clone(), inner.view.clone()));
        Self { inner }
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.inner.data.node_id()
    }

    /// The runtime that lives as long as the node, for tasks that no server may end.
    pub fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    /// Shows what `figures` adds among this node's metrics; the first call counts.
    pub fn show_figures(&self, figures: impl Fn(&mut Figures) + Send + Sync + 'static) {
        // Once for a node, at its start.
        let _ = self.inner.more_figures.set(Box::new(figures));
    }

    /// What tells clients of changes as this node applies them.
    pub fn watch(&self) -> &WatchHub {
        &self.inner.watch
    }

    /// Sizes that requests must keep.
    pub fn limits(&self) -> &Limits {
        &self.inner.options.limits
    }

    /// Checks the secret of a management call, in constant time.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when a secret is configured and this is not it.
    pub fn authorize(&self, bearer: Option<&str>) -> Result<(), Error> {
        let Some(secret) = &self.inner.options.cluster_secret else { return Ok(()) };
        let given = bearer.unwrap_or_default();
        if bool::from(secret.as_bytes().ct_eq(given.as_bytes())) {
            return Ok(());
        }
        Err(Error::Unauthorized(
            "this call needs the cluster secret as `Authorization: Bearer SECRET`".to_owned(),
        ))
    }

    /// Makes a client's token part of a command.
    ///
    /// It gets its time from the leader that proposes the command.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the token is empty or too long.
    pub fn idempotency(&self, token: Bytes) -> Result<Idempotency, Error> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(Error::Invalid(format!(
                "the Idempotency-Key is {} bytes long; it must have 1 to {MAX_TOKEN_BYTES}",
                token.len()
            )));
        }
        let ttl = u64::try_from(self.inner.options.idempotency_ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(Idempotency { token, proposed_at_ms: 0, expires_at_ms: ttl })
    }

    pub(super) fn view(&self) -> View {
        self.inner.view.borrow().clone()
    }

    /// Whether this node leads, as far as it knows without asking anyone.
    pub fn is_leader(&self) -> bool {
        self.inner.view.borrow().state == ServerState::Leader
    }
}

/// Follows Openraft's metrics, so that a request looks at one small value.
fn follow_view(raft: &Raft, runtime: &Handle) -> watch::Receiver<View> {
    let mut metrics = raft.server_metrics();
    let read = |metrics: &WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>| {
        let metrics = metrics.borrow_watched();
        View {
            state: metrics.state,
            vote: metrics.vote,
            leader: metrics.current_leader,
            membership: Arc::clone(&metrics.membership_config),
        }
    };
    let (sender, receiver) = watch::channel(read(&metrics));
    runtime.spawn(async move {
        while metrics.changed().await.is_ok() {
            let now = read(&metrics);
            sender.send_if_modified(|view| {
                let changed = *view != now;
                *view = now;
                changed
            });
        }
    });
    receiver
}
