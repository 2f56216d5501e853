//! What Kvorum's seams ask: who goes first, how long things take, where requests go.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::{Request, Response};
use kvorum::NodeId;
use kvorum::openraft_network::carrier::Lost;
use kvorum::openraft_network::transport::{AnswerBody, PeerBody, Purpose};
use kvorum::simulation::World;
use kvorum_torture::dice::Dice;
use tokio::time::Instant;

use crate::plan::{Canary, Plan};
use crate::{net, system, trace};

/// What is special about a node's machine.
#[derive(Debug, Clone, Copy, Default)]
struct Machine {
    /// Added to every sync.
    sync: Duration,
    /// How far its wall clock is off, in nanoseconds.
    skew: i64,
}

thread_local! {
    static MACHINES: RefCell<BTreeMap<NodeId, Machine>> = const { RefCell::new(BTreeMap::new()) };
}

/// Makes the syncs of a node take so much longer.
pub(crate) fn slow_disk(node: NodeId, sync: Duration) {
    MACHINES.with_borrow_mut(|machines| machines.entry(node).or_default().sync = sync);
}

/// Sets a node's wall clock wrong.
pub(crate) fn skew_clock(node: NodeId, skew: i64) {
    MACHINES.with_borrow_mut(|machines| machines.entry(node).or_default().skew = skew);
}

fn machine(node: NodeId) -> Machine {
    MACHINES.with_borrow(|machines| machines.get(&node).copied().unwrap_or_default())
}

/// The world of a run.
pub(crate) struct Chance {
    began: Instant,
    jitter: usize,
    sync_ms: usize,
    restores: bool,
    steps: RefCell<Dice>,
    times: RefCell<Dice>,
    /// Guards against tasks that wake each other for ever.
    stuck: Cell<(u64, u64)>,
}

impl Chance {
    pub(crate) fn new(plan: &mut Plan) -> Self {
        Self {
            began: Instant::now(),
            jitter: plan.jitter,
            sync_ms: plan.sync_ms,
            restores: plan.canary == Some(Canary::LeaderRestore),
            steps: RefCell::new(plan.dice.fork()),
            times: RefCell::new(plan.dice.fork()),
            stuck: Cell::new((0, 0)),
        }
    }
}

/// More steps than any node takes at one moment.
const LIVELOCK: u64 = 2_000_000;

impl World for Chance {
    fn step(&self, node: NodeId, task: u64) -> bool {
        let now = self.began.elapsed().as_nanos() as u64;
        system::set_clock(now, machine(node).skew);
        trace::step(node, task);
        let (moment, steps) = self.stuck.get();
        self.stuck.set(if moment == now { (moment, steps + 1) } else { (now, 0) });
        if steps >= LIVELOCK {
            eprintln!("tasks of node {node} wake each other for ever at {now} ns");
            std::process::exit(70);
        }
        self.jitter > 0 && self.steps.borrow_mut().chance(self.jitter)
    }

    fn sync_time(&self, node: NodeId) -> Duration {
        let mut dice = self.times.borrow_mut();
        machine(node).sync + Duration::from_micros(100 + dice.below(self.sync_ms * 1_000) as u64)
    }

    fn job_time(&self, _node: NodeId) -> Duration {
        let mut dice = self.times.borrow_mut();
        if dice.chance(50) { Duration::ZERO } else { dice.millis(1, 30) }
    }

    fn carry(
        &self,
        purpose: Purpose,
        request: Request<PeerBody>,
    ) -> BoxFuture<'static, Result<Response<AnswerBody>, Lost>> {
        net::carry(purpose, request)
    }

    fn spoil(&self, raft: &mut openraft::Config) {
        if self.restores {
            raft.enable_leader_restore = Some(true);
        }
    }
}

/// What the simulated disks draw.
pub(crate) struct DiskFate {
    pub(crate) dice: Dice,
    pub(crate) flushes: usize,
}

impl rocksdb::disk::Fate for DiskFate {
    fn draw(&mut self, bound: usize) -> usize {
        self.dice.below(bound)
    }

    fn flush_percent(&self) -> usize {
        self.flushes
    }
}
