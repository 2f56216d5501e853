//! One run: from a seed to a verdict.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvorum::NodeId;
use kvorum::error::Error;
use kvorum::keyspace::{KeyRange, RangeRequest};
use kvorum::mvcc::Room;
use kvorum::simulation::Scope;
use kvorum_torture::check::check;
use kvorum_torture::history::{History, NodeState, Outcome};
use kvorum_torture::record::Clock;
use kvorum_torture::workload::{Crew, Endpoint, Phase, Recorded, Shared};
use openraft::async_runtime::watch::WatchReceiver as _;
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::clients::{Direct, record};
use crate::cluster::Cluster;
use crate::nemesis::Nemesis;
use crate::plan::{Canary, Plan};
use crate::watcher::Watcher;
use crate::world::{Chance, DiskFate};
use crate::{net, system, trace, world};

/// How long a cluster without faults may take to come to rest.
const REST: Duration = Duration::from_secs(120);
/// How long clients go on once all faults have ended.
const CALM: Duration = Duration::from_secs(2);

/// As much as a main thread has.
const STACK_BYTES: usize = 8 << 20;
/// How long a run may take, in real time.
const PATIENCE: Duration = Duration::from_secs(300);

static PANICS: AtomicU64 = AtomicU64::new(0);

/// What came out of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Of all that happened.
    pub(crate) hash: String,
    pub(crate) steps: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) operations: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) failed: u64,
    pub(crate) revision: i64,
    pub(crate) problems: Vec<String>,
}

/// A folder in memory, gone with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("kvorum-simulation-{}", std::process::id()));
        // What an earlier process of this number left.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a seed. One run in a process: it takes the process's clock and random numbers.
///
/// On a thread of its own, which has drawn nothing yet: what the process did before does
/// not matter.
pub(crate) fn run(seed: u64, canary: Option<Canary>) -> std::io::Result<Report> {
    let thread = std::thread::Builder::new().name("run".to_owned()).stack_size(STACK_BYTES);
    let run = thread.spawn(move || run_here(seed, canary))?;
    run.join().map_err(|_| std::io::Error::other("it panicked"))?
}

fn run_here(seed: u64, canary: Option<Canary>) -> std::io::Result<Report> {
    let folder = Folder::new()?;
    watch_over()?;
    system::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let mut plan = Plan::draw(seed, canary);
    let local = LocalSet::new();
    let report = local.block_on(&runtime, simulate(&mut plan, &folder.0));
    Ok(report)
}

/// Ends the process if the run does not end, and counts panics.
fn watch_over() -> std::io::Result<()> {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        print(panic);
    }));
    std::thread::Builder::new().name("patience".to_owned()).spawn(|| {
        std::thread::sleep(PATIENCE);
        eprintln!("the run does not end");
        std::process::exit(71);
    })?;
    Ok(())
}

async fn simulate(plan: &mut Plan, root: &Path) -> Report {
    trace::note(|| format!("{plan:?}"));
    rocksdb::disk::begin(DiskFate { dice: plan.dice.fork(), flushes: plan.flushes });
    if plan.canary == Some(Canary::LyingDisk) {
        rocksdb::disk::lie();
    }
    net::begin(plan.dice.fork(), plan.latency_us, plan.breaks);
    kvorum::simulation::install(Rc::new(Chance::new(plan)));
    let cluster = Cluster::new(plan, root);
    let watcher = Watcher::new(Rc::clone(&cluster), plan.dice.fork());
    // The clock is moved by steps of tasks, and there may be no node left that takes any.
    let outside = Scope::new(0);
    outside.handle().spawn(async {
        loop {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let (mut recorded, mut final_states) = (Recorded::default(), Vec::new());
    if found(plan, &cluster).await {
        let supervisor = cluster.supervise();
        let watching = tokio::task::spawn_local(Rc::clone(&watcher).run());
        recorded = trouble(plan, &cluster, &watcher).await;
        match rest(&cluster).await {
            Some(members) => final_states = states(&cluster, &members),
            None => cluster.problem(format!("the cluster does not come to rest: {}", describe(&cluster))),
        }
        let last = final_states.first().map_or(0, |state| state.revision);
        if !watcher.reaches(last).await {
            cluster.problem(format!("the watcher saw {} and not {last}", watcher.seen()));
        }
        supervisor.abort();
        watching.abort();
    } else {
        cluster.problem("the cluster was not founded".to_owned());
    }
    outside.end();
    recorded.watches.push(watcher.log());
    let mut problems = cluster.take_problems();
    problems.append(&mut recorded.broken);
    let history = recorded.into_history(final_states);
    if !history.final_states.is_empty() {
        problems.extend(check(&history).problems.iter().map(ToString::to_string));
    }
    let panics = PANICS.load(Ordering::Relaxed);
    if panics > 0 {
        problems.push(format!("there were {panics} panics"));
    }
    let report = sum_up(plan.seed, &history, problems);
    for node in cluster.all() {
        cluster.crash(node, rocksdb::disk::Crash::Process).await;
    }
    net::end();
    report
}

fn sum_up(seed: u64, history: &History, problems: Vec<String>) -> Report {
    let (hash, steps) = trace::sum();
    let count = |wanted: fn(&Outcome) -> bool| {
        history.operations.iter().filter(|operation| wanted(&operation.outcome)).count() as u64
    };
    Report {
        seed,
        hash: format!("{hash:016x}"),
        steps,
        simulated_ms: system::now() / 1_000_000,
        operations: history.operations.len() as u64,
        acknowledged: count(|outcome| !matches!(outcome, Outcome::Unknown { .. } | Outcome::Failed { .. })),
        unknown: count(|outcome| matches!(outcome, Outcome::Unknown { .. })),
        failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
        revision: history.final_states.first().map_or(0, |state| state.revision),
        problems,
    }
}

/// Starts all nodes and makes the voters a cluster.
async fn found(plan: &Plan, cluster: &Rc<Cluster>) -> bool {
    for node in cluster.all() {
        cluster.start(node).await;
    }
    let members: Vec<_> = (1..=plan.voters).map(|node| (node, net::addr(node))).collect();
    for _ in 0..20 {
        let Some((scope, service)) = cluster.service(1) else { return false };
        let members = members.clone();
        let founding = scope.handle().spawn(async move { service.init(members).await });
        match timeout(Duration::from_secs(10), founding).await {
            Ok(Ok(Ok(()) | Err(Error::Conflict { .. }))) => return true,
            told => trace::note(|| format!("founding: {told:?}")),
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

/// Clients work while faults happen, and for a while longer.
async fn trouble(plan: &mut Plan, cluster: &Rc<Cluster>, watcher: &Rc<Watcher>) -> Recorded {
    let endpoints =
        cluster.all().into_iter().map(|node| Endpoint { node, http: String::new(), grpc: String::new() });
    let (_endpoints, known) = tokio::sync::watch::channel(endpoints.collect::<Arc<[_]>>());
    let (phase, told) = tokio::sync::watch::channel(Phase::Work);
    let shared = Arc::new(Shared::new(Clock::new(), plan.request_timeout, known, told));
    let pause = Duration::from_millis(plan.think_ms);
    let crew = Rc::new(Crew::new(shared, plan.registers, plan.weights.clone(), pause));
    let mut recorded = Recorded { bank_total: crew.bank_total(), ..Recorded::default() };

    let mut clients = Vec::new();
    for number in 0..plan.clients + plan.lockers {
        let (crew, dice) = (Rc::clone(&crew), plan.dice.fork());
        let wire = Direct { cluster: Rc::clone(cluster) };
        let takes_locks = number >= plan.clients;
        clients.push(tokio::task::spawn_local(async move {
            if takes_locks { crew.lock(dice, wire).await } else { crew.work(dice, wire).await }
        }));
    }
    let until = Duration::from_nanos(system::now()) + plan.length;
    let mut troubles = Vec::new();
    for _ in 0..plan.nemeses {
        let nemesis = Nemesis {
            cluster: Rc::clone(cluster),
            watcher: Rc::clone(watcher),
            dice: plan.dice.fork(),
            plan: plan.clone(),
        };
        troubles.push(tokio::task::spawn_local(nemesis.run(until)));
    }
    for trouble in troubles {
        if let Err(error) = trouble.await {
            cluster.problem(format!("a part of the simulation ended: {error}"));
        }
    }
    // There is none if the seed drew no faults.
    sleep(until.saturating_sub(Duration::from_nanos(system::now()))).await;
    heal(cluster).await;
    sleep(CALM).await;
    phase.send_replace(Phase::Halt);
    for client in clients {
        match client.await {
            Ok(done) => recorded.take_in(done),
            Err(error) => cluster.problem(format!("a client ended: {error}")),
        }
    }
    recorded
}

/// Ends all faults.
async fn heal(cluster: &Rc<Cluster>) {
    trace::note(|| "all faults end".to_owned());
    net::heal();
    for node in cluster.all() {
        world::slow_disk(node, Duration::ZERO);
        if let Some((scope, _)) = cluster.service(node) {
            scope.resume();
        }
    }
    sleep(Duration::from_secs(1)).await;
}

/// How far the nodes are, for people.
fn describe(cluster: &Cluster) -> String {
    let nodes = cluster.all().into_iter().map(|node| match cluster.core(node) {
        None => format!("{node} is down"),
        Some(core) => {
            let metrics = core.raft.metrics().borrow_watched().clone();
            format!("{node}: {metrics}")
        }
    });
    nodes.collect::<Vec<_>>().join("; ")
}

/// Waits until there is a leader and all members have applied the same; answers who they
/// are.
async fn rest(cluster: &Rc<Cluster>) -> Option<BTreeSet<NodeId>> {
    let begun = system::now();
    while u128::from(system::now() - begun) < REST.as_nanos() {
        sleep(Duration::from_millis(100)).await;
        let Some(leader) = cluster.leader().and_then(|leader| cluster.core(leader)) else { continue };
        // Without leases nothing more is written, so this comes first.
        if leader.service.leases().await.map_or(true, |(_, leases)| !leases.is_empty()) {
            continue;
        }
        let (members, last) = {
            let metrics = leader.raft.metrics();
            let metrics = metrics.borrow_watched();
            let members: BTreeSet<NodeId> =
                metrics.membership_config.membership().nodes().map(|(id, _)| *id).collect();
            (members, metrics.last_log_index)
        };
        let is_there = |node: &NodeId| {
            cluster.core(*node).is_some_and(|core| core.store.applied_log_id().map(|id| id.index) == last)
        };
        if members.iter().all(is_there) {
            return Some(members);
        }
    }
    None
}

/// The states of nodes that are at rest.
fn states(cluster: &Rc<Cluster>, members: &BTreeSet<NodeId>) -> Vec<NodeState> {
    let mut states = Vec::new();
    for node in members {
        let Some(core) = cluster.core(*node) else { continue };
        let read = core.store.store().read(&RangeRequest::of(KeyRange::all()), &mut Room::of(usize::MAX));
        let Ok((_, found)) = read else {
            cluster.problem(format!("node {node} can't be read"));
            continue;
        };
        let (revision, hash) = core.store.store().state_hash();
        states.push(NodeState {
            node: *node,
            revision,
            applied_index: core.store.applied_log_id().map_or(0, |id| id.index),
            state_hash: format!("{hash:016x}"),
            records: found
                .items
                .iter()
                .map(|item| (String::from_utf8_lossy(&item.key).into_owned(), record(&item.record)))
                .collect(),
        });
    }
    states
}
