//! The nodes: their folders, their lives, their ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kvorum::NodeId;
use kvorum::config::{Config, PeerEncoding};
use kvorum::replica::{Addrs, Replica, start_replica};
use kvorum::service::Service;
use kvorum::simulation::Scope;
use kvorum::store::FatalHook;
use kvorum::store::data_dir::DataDir;
use openraft::async_runtime::watch::WatchReceiver as _;
use rocksdb::disk::Crash;
use tokio::task::{JoinHandle, yield_now};

use crate::peer::Doors;
use crate::plan::Plan;
use crate::{net, trace};

/// Steps that a node's remains get to be dropped in.
const DROPPING: usize = 50;

/// One life of a node.
struct Life {
    scope: Scope,
    core: Arc<Replica>,
}

/// A node, running or not.
#[derive(Default)]
struct Slot {
    life: Option<Life>,
    /// Whether somebody is about to start or to end it.
    is_held: bool,
    /// Whether its disk was made to fail in this life.
    may_fail: bool,
}

/// All nodes of a run.
pub(crate) struct Cluster {
    root: PathBuf,
    configs: BTreeMap<NodeId, Config>,
    slots: RefCell<BTreeMap<NodeId, Slot>>,
    /// What must not happen and did.
    problems: RefCell<Vec<String>>,
}

impl Cluster {
    pub(crate) fn new(plan: &Plan, root: &Path) -> Rc<Self> {
        let configs = (1..=plan.nodes()).map(|id| (id, config(plan, root, id))).collect::<BTreeMap<_, _>>();
        let slots = configs.keys().map(|id| (*id, Slot::default())).collect();
        Rc::new(Self {
            root: root.to_owned(),
            configs,
            slots: RefCell::new(slots),
            problems: RefCell::default(),
        })
    }

    pub(crate) fn problem(&self, what: String) {
        trace::note(|| format!("PROBLEM: {what}"));
        self.problems.borrow_mut().push(what);
    }

    pub(crate) fn take_problems(&self) -> Vec<String> {
        self.problems.take()
    }

    pub(crate) fn all(&self) -> Vec<NodeId> {
        self.configs.keys().copied().collect()
    }

    fn dir(&self, id: NodeId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// The nodes that run.
    pub(crate) fn running(&self) -> Vec<NodeId> {
        let slots = self.slots.borrow();
        slots.iter().filter(|(_, slot)| slot.life.is_some() && !slot.is_held).map(|(id, _)| *id).collect()
    }

    /// A node's service and the life it belongs to.
    pub(crate) fn service(&self, id: NodeId) -> Option<(Scope, Service)> {
        let slots = self.slots.borrow();
        let life = slots.get(&id)?.life.as_ref()?;
        Some((life.scope.clone(), life.core.service.clone()))
    }

    pub(crate) fn core(&self, id: NodeId) -> Option<Arc<Replica>> {
        let slots = self.slots.borrow();
        Some(Arc::clone(&slots.get(&id)?.life.as_ref()?.core))
    }

    /// The node that leads, as it says itself.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.running()
            .into_iter()
            .find(|id| self.service(*id).is_some_and(|(_, service)| service.is_leader()))
    }

    /// The running nodes that are members, if there is a leader who knows; else all that run.
    pub(crate) fn serving(&self) -> Vec<NodeId> {
        let mut nodes = self.running();
        if let Some(leader) = self.leader().and_then(|leader| self.core(leader)) {
            let metrics = leader.raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership();
            nodes.retain(|node| members.get_node(node).is_some());
        }
        nodes
    }

    /// Takes a node for oneself, running or not; false if somebody else has it.
    pub(crate) fn hold(&self, id: NodeId) -> bool {
        let mut slots = self.slots.borrow_mut();
        slots.get_mut(&id).is_some_and(|slot| !std::mem::replace(&mut slot.is_held, true))
    }

    pub(crate) fn let_go(&self, id: NodeId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&id) {
            slot.is_held = false;
        }
    }

    /// Starts a node that is not running.
    pub(crate) async fn start(&self, id: NodeId) {
        let Some(config) = self.configs.get(&id).cloned() else { return };
        trace::note(|| format!("{id} starts"));
        let scope = Scope::new(id);
        let addrs = Addrs {
            advertise: net::addr(id),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            grpc: None,
        };
        let (hook, handle) = (fatal(&scope), scope.handle());
        let starting = scope.handle().spawn(async move {
            let data = DataDir::open(&config.data_dir, config.id).map_err(|error| error.to_string())?;
            start_replica(&config, Arc::new(data), addrs, hook, handle)
                .await
                .map_err(|error| error.to_string())
        });
        match starting.await {
            Ok(Ok(core)) => {
                let doors = Doors { inbound: core.inbound.clone(), service: core.service.clone() };
                net::join(id, scope.handle(), doors);
                let life = Life { scope, core: Arc::new(core) };
                if let Some(slot) = self.slots.borrow_mut().get_mut(&id) {
                    slot.life = Some(life);
                    slot.may_fail = false;
                }
            }
            Ok(Err(error)) => {
                scope.end();
                self.problem(format!("node {id} does not start: {error}"));
            }
            Err(error) => {
                scope.end();
                self.problem(format!("node {id} does not start: {error}"));
            }
        }
    }

    /// Ends a node at once; what it leaves on disk is what `crash` leaves.
    pub(crate) async fn crash(&self, id: NodeId, crash: Crash) {
        let life = self.slots.borrow_mut().get_mut(&id).and_then(|slot| slot.life.take());
        let Some(Life { scope, core }) = life else { return };
        trace::note(|| format!("{id} crashes: {crash:?}"));
        scope.end();
        rocksdb::disk::crash(&self.dir(id), crash);
        net::leave(id);
        drop(core);
        for _ in 0..DROPPING {
            yield_now().await;
        }
    }

    /// Stops a node as an operator would.
    pub(crate) async fn stop(&self, id: NodeId) {
        let Some(core) = self.core(id) else { return };
        let Some((scope, _)) = self.service(id) else { return };
        trace::note(|| format!("{id} stops"));
        let stopping = scope.handle().spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(3), core.service.resign()).await;
            core.inbound.close();
            core.service.watch().stop().await;
            let _ = core.raft.shutdown().await;
            core.store.flush().and(core.log.close().await).map_err(|error| error.to_string())
        });
        let problem = match tokio::time::timeout(Duration::from_secs(30), stopping).await {
            Ok(Ok(stopped)) => stopped.err().filter(|_| !self.may_fail(id)),
            Ok(Err(error)) => Some(error.to_string()).filter(|_| !scope.is_over()),
            Err(_) => Some("it takes too long".to_owned()),
        };
        if let Some(problem) = problem {
            self.problem(format!("node {id} does not stop well: {problem}"));
        }
        self.crash(id, Crash::Process).await;
    }

    /// Lets the next sync of a node's disk fail.
    pub(crate) fn fail_next_sync(&self, id: NodeId) {
        if rocksdb::disk::fail_next_sync(&self.dir(id))
            && let Some(slot) = self.slots.borrow_mut().get_mut(&id)
        {
            trace::note(|| format!("{id} has a disk that fails"));
            slot.may_fail = true;
        }
    }

    fn may_fail(&self, id: NodeId) -> bool {
        self.slots.borrow().get(&id).is_some_and(|slot| slot.may_fail)
    }

    /// Watches over the nodes, as their process's main function does: one whose log or
    /// Raft has failed ends, and is started again after a while.
    pub(crate) fn supervise(self: &Rc<Self>) -> JoinHandle<()> {
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                for id in this.running() {
                    // Somebody may have taken it while another one was started.
                    if !this.running().contains(&id) {
                        continue;
                    }
                    let Some((core, (scope, _))) = this.core(id).zip(this.service(id)) else { continue };
                    let stopped = core.raft.metrics().borrow_watched().running_state.clone().err();
                    drop(core);
                    if !scope.is_over() && stopped.is_none() {
                        continue;
                    }
                    if !this.may_fail(id) {
                        let why =
                            stopped.map_or_else(|| "its log failed".to_owned(), |fatal| fatal.to_string());
                        this.problem(format!("node {id} stopped by itself: {why}"));
                    }
                    if this.hold(id) {
                        this.crash(id, Crash::Machine).await;
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        this.start(id).await;
                        this.let_go(id);
                    }
                }
            }
        })
    }
}

/// What production does by ending the process: nothing of the node runs on.
fn fatal(scope: &Scope) -> FatalHook {
    let scope = scope.clone();
    Arc::new(move |error| {
        trace::note(|| format!("the log failed: {error}"));
        scope.end();
    })
}

fn config(plan: &Plan, root: &Path, id: NodeId) -> Config {
    let mut config = Config::with_defaults(id, root.join(id.to_string()));
    config.heartbeat_interval = plan.heartbeat;
    config.election_timeout_min = plan.heartbeat * 4;
    config.election_timeout_max = plan.heartbeat * 6;
    config.snapshot_log_entries = plan.snapshot_entries;
    config.log_entries_to_keep = plan.keep_entries;
    config.log_cache_bytes = plan.log_cache;
    config.limits.request_timeout = plan.request_timeout;
    config.learner_catch_up_timeout = Duration::from_secs(10);
    config.snapshot_rate_bytes_per_second = std::num::NonZero::new(plan.snapshot_rate);
    if plan.is_json {
        config.peer_encoding = PeerEncoding::Json;
    }
    config
}
